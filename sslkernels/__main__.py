# SPDX-License-Identifier: Apache-2.0
"""``python -m sslkernels`` is the command ``sslkernels``."""

from __future__ import annotations

import sys

from sslkernels.cli import main

if __name__ == "__main__":
    sys.exit(main())
