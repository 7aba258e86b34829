# SPDX-License-Identifier: Apache-2.0
"""List every public loss once.

A contract that all losses keep is tested over `EVERY_LOSS`; a public loss that is not listed fails test_one_call.py.
"""

from __future__ import annotations

from contrastive_losses import CONTRASTIVE
from feature_losses import FEATURES
from listed_loss import Inputs, Loss, copied, gradients
from target_losses import TARGETED

__all__ = ["EVERY_LOSS", "Inputs", "Loss", "copied", "gradients"]

EVERY_LOSS: dict[str, Loss] = {**CONTRASTIVE, **TARGETED, **FEATURES}
