# SPDX-License-Identifier: Apache-2.0
"""An old name gives the new thing, and one warning that the caller's line is blamed for."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from types import ModuleType

import pytest

MODULE = """
from sslkernels.renamed import renamed

class NewLoss: ...
def new_loss(): return 1
LARGE = 2

__getattr__ = renamed(__name__, removal="0.3", OldLoss="NewLoss", old_loss="new_loss", BIG="LARGE")
"""


@pytest.fixture
def losses(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    module = ModuleType("losses")
    monkeypatch.setitem(sys.modules, "losses", module)
    exec(MODULE, module.__dict__)
    yield module


@pytest.mark.parametrize(("old", "new"), [("OldLoss", "NewLoss"), ("old_loss", "new_loss"), ("BIG", "LARGE")])
def test_an_old_name_gives_the_new_thing_and_warns_once(losses, old, new):
    with pytest.warns(DeprecationWarning) as caught:
        assert getattr(losses, old) is getattr(losses, new)
        assert getattr(losses, old) is getattr(losses, new)
    (warning,) = caught
    assert str(warning.message) == f"losses.{old} is now called losses.{new}; the old name is gone in version 0.3."
    assert warning.filename == __file__


def test_an_import_of_an_old_name_warns_too(losses):
    with pytest.warns(DeprecationWarning, match="losses.old_loss is now called losses.new_loss"):
        from losses import old_loss
    assert old_loss is losses.new_loss


def test_new_and_unknown_names_stay_as_they_are(losses):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert losses.new_loss() == 1
        assert not hasattr(losses, "older_loss")
        with pytest.raises(AttributeError, match="module 'losses' has no attribute 'older_loss'"):
            losses.older_loss  # noqa: B018
        with pytest.raises(ImportError):
            from losses import older_loss  # noqa: F401
