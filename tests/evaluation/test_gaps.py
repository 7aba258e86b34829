# SPDX-License-Identifier: Apache-2.0
"""Where errors come from: the gaps of probes that are known to learn by heart, to generalise, or to do neither."""

from __future__ import annotations

import pytest
import torch

from sslkernels.data import load
from sslkernels.evaluation import risk_decomposition, rrm


def by_heart(rows, labels):
    """The label of the equal training row, and 0 for every other row."""
    return lambda others: torch.where(
        (found := (others[:, None] == rows).all(2)).any(1), labels[found.float().argmax(1)], 0
    )


def rule(rows, labels):
    """The right label of every row, whatever was taught."""
    return lambda others: (others[:, 0] > 0).long()


ROWS, OTHERS = torch.randn(200, 3), torch.randn(80, 3)
LABELS, TESTED = (rule(None, None)(each) for each in (ROWS, OTHERS))


def test_a_probe_that_learns_by_heart_memorizes_and_a_rule_does_not():
    noisy = rrm(ROWS, LABELS, OTHERS, TESTED, 0.1, fit=by_heart)
    assert (noisy.train, noisy.wrong_train) == (1.0, 0.0)
    assert noisy.noisy_train == pytest.approx(0.9) and noisy.memorization == pytest.approx(0.9)
    assert noisy.robustness == pytest.approx(0.1) and noisy.rationality == 0
    assert noisy.test == (TESTED == 0).double().mean()
    assert rrm(ROWS, LABELS, OTHERS, TESTED, 0.1, fit=rule) == (0, 0, 0, 1, 1, 1, 1)


def test_a_probe_that_is_better_on_wrong_labels_than_on_tests_is_not_rational():
    def seen(rows, labels):
        return by_heart(rows, rule(None, None)(rows))

    gaps = rrm(ROWS, LABELS, OTHERS, TESTED, 0.1, fit=seen)
    assert gaps.wrong_train == 1 and gaps.rationality == 1 - gaps.test > 0 and gaps.robustness == 0


def test_the_gaps_bound_that_of_generalisation():
    rows, others = torch.randn(120, 60), torch.randn(80, 60)
    labels, tested = torch.randint(3, (120,)), torch.randint(3, (80,))
    gaps = rrm(rows, labels, others, tested, 0.2)
    assert gaps.train - gaps.test > 0.2 and sum(gaps[:3]) >= gaps.train - gaps.test - 1e-9
    assert gaps == rrm(rows, labels, others, tested, 0.2)


def test_ten_wrong_labels_of_the_digits_are_partly_learned_by_heart():
    digits = load("digits")
    rows, others = digits.inputs[:400].flatten(1), digits.test_inputs.flatten(1)
    gaps = rrm(rows, digits.labels[:400], others, digits.test_labels, 10 / 400, draws=1)
    assert gaps.memorization > 0 and gaps.train > gaps.noisy_train > gaps.wrong_train


def test_one_wrong_label_is_the_least():
    assert rrm(ROWS, LABELS, OTHERS, TESTED, 1e-9, draws=1, fit=by_heart).noisy_train == pytest.approx(199 / 200)


def test_error_is_divided_as_the_formula_says():
    risk = risk_decomposition(ROWS, LABELS, OTHERS, TESTED, 0.02, fit=by_heart)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    missed = (LABELS[order[:80]] == 1).double().mean()  # `sub` is as large as the test set
    assert risk.approximation == 0.02 and risk.usability == -0.02
    assert risk.probe_generalization == pytest.approx(missed)
    assert risk.encoder_generalization == pytest.approx((TESTED == 1).double().mean() - missed)
    assert risk.total == pytest.approx(sum(risk[:4]))
    assert risk_decomposition(ROWS, LABELS, OTHERS, TESTED, fit=rule) == (0, 0, 0, 0, 0)


def test_an_encoder_that_knows_its_training_rows_alone_does_not_generalise():
    """Features of training rows hold the label, those of test rows are noise."""
    features = torch.nn.functional.one_hot(LABELS, 2).float()
    risk = risk_decomposition(features, LABELS, torch.randn(80, 2), TESTED)
    assert risk.usability == risk.probe_generalization == 0 and 0.3 < risk.encoder_generalization < 0.7


@pytest.mark.parametrize("measure", [rrm, risk_decomposition])
def test_what_cannot_be_measured_is_refused(measure):
    with pytest.raises(ValueError, match=f"^{measure.__name__}: labels holds one class"):
        measure(ROWS, LABELS * 0, OTHERS, TESTED)
    with pytest.raises(ValueError, match=f"^{measure.__name__}: .* from 0 to 1|above 0, up to 1"):
        measure(ROWS, LABELS, OTHERS, TESTED, 1.5)
    with pytest.raises(TypeError, match=f"^{measure.__name__}: fit is 3"):
        measure(ROWS, LABELS, OTHERS, TESTED, fit=3)
