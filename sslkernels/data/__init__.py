# SPDX-License-Identifier: Apache-2.0
"""Images to train and evaluate on, and the views of each that a method sees."""

from __future__ import annotations

from sslkernels.data.dataset import Dataset
from sslkernels.data.load import load
from sslkernels.data.views import OneView, TwoViews

__all__ = ["Dataset", "OneView", "TwoViews", "load"]
