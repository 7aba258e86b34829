# SPDX-License-Identifier: Apache-2.0
"""Images to train and evaluate on, and the two views of each that a method compares."""

from __future__ import annotations

from sslkernels.data.dataset import Dataset, load
from sslkernels.data.views import TwoViews

__all__ = ["Dataset", "TwoViews", "load"]
