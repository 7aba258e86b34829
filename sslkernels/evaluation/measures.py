# SPDX-License-Identifier: Apache-2.0
"""The table of measures: what each needs, what it gives, which way is good, and what it means."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sslkernels.data import Graphs
from sslkernels.evaluation.clusters import clustering
from sslkernels.evaluation.collapse import feature_spread
from sslkernels.evaluation.dependence import cca, conditional_independence
from sslkernels.evaluation.directions import directions
from sslkernels.evaluation.energy import hyperspherical_energy, layer_energies
from sslkernels.evaluation.given import ENCODER, FEATURES, IMAGES, LABELS, VIEWS, Given, Unfit
from sslkernels.evaluation.information import coding_rate, matrix_entropy, mutual_information_bound
from sslkernels.evaluation.invariance import invariance_scores
from sslkernels.evaluation.layers import per_layer
from sslkernels.evaluation.linear import linear_svm
from sslkernels.evaluation.neighbours import weighted_knn
from sslkernels.evaluation.probes import few_shot, knn, linear_probe
from sslkernels.evaluation.rationality import rrm
from sslkernels.evaluation.risk import risk_decomposition
from sslkernels.evaluation.rotation import rotation_probe
from sslkernels.evaluation.spectrum import alpha_req, rank_me, spectrum
from sslkernels.evaluation.tuning import fine_tune
from sslkernels.evaluation.views import augmentation_covariance, lidar
from sslkernels.functional import alignment, uniformity

# The questions that measures answer, in the order of the page.
DIRECTIONS = "How many directions do the features fill?"
AGREEMENT = "Do views of a sample stay together, and samples apart?"
PROBES = "How well can labels be read off?"
GAPS = "Where does a probe's error come from?"
INSIDE = "What is inside the encoder?"
QUESTIONS = (DIRECTIONS, AGREEMENT, PROBES, GAPS, INSIDE)
HIGHER, LOWER, NEITHER = "higher", "lower", "neither"
# Rows of which all pairs are compared in float64.
PAIRED = 2048


@dataclass(frozen=True)
class Measure:
    """A measure of an encoder.

    Args:
        name: its name on the command line and in evaluation.json.
        of: takes it of what is `Given`: a number, or named values of which the first is the number to compare.
        needs: what it cannot do without: "features", "labels", "views", "encoder", "images".
        better: "higher", "lower", or "neither" where both ends are bad.
        meaning: one sentence for people.
        question: which of `QUESTIONS` it helps to answer.
        slow: whether it trains networks, and so runs only where it is named.
    """

    name: str
    of: Callable[[Given], float | Mapping[str, Any] | None]
    needs: tuple[str, ...]
    better: str
    meaning: str
    question: str
    slow: bool = False


def _correlation(given: Given) -> dict[str, Any]:
    found = spectrum(given.features)
    return {"correlation": found.correlation, "singular_values": found.singular_values}


def _energy(given: Given) -> float:
    return hyperspherical_energy(given.features[:: -(-len(given.features) // PAIRED)])


def _canonical(given: Given) -> dict[str, Any]:
    found = cca(*_enough(given))
    return {"mean": found.mean, "correlations": found.correlations}


def _left_given_labels(given: Given) -> dict[str, Any]:
    return conditional_independence(*_enough(given), given.labels[given.paired])._asdict()


def _enough(given: Given) -> tuple[Tensor, Tensor]:
    """Two views, of more samples than both have features: fewer correlate whatever the views."""
    views = given.pair
    least = 2 * views[0].shape[1]
    if len(views[0]) <= least:
        raise Unfit(f"it needs more samples than both views have features, {least}, and there are {len(views[0])}")
    return views


def _covariance(given: Given) -> dict[str, Any]:
    found = augmentation_covariance(given.views)
    return {"ratio": found.ratio, "between": found.between, "within": found.within}


def _gaps(given: Given) -> dict[str, Any]:
    found = rrm(*given.labelled)._asdict()
    return {"memorization": found.pop("memorization"), **found}


def _risk(given: Given) -> dict[str, Any]:
    found = risk_decomposition(*given.labelled)._asdict()
    return {"total": found.pop("total"), **found}


def _layers(given: Given) -> dict[str, Any]:
    assert given.encoder is not None
    data = given.dataset
    if isinstance(data.inputs, Graphs):
        raise Unfit("it needs layers that give a row for each sample, and those of graphs give one for each node")
    options: dict[str, Any] = {"pool": _mean_over_time} if data.modality == "series" else {}
    found = per_layer(given.encoder, data.inputs, given.labels, data.test_inputs, given.test_labels, **options)
    names, accuracies = list(found.accuracy), list(found.accuracy.values())
    return {"best": max(accuracies), "layers": names, "accuracies": accuracies, "mixed": found.mixed,
            "weights": None if found.weights is None else list(found.weights.values())}  # fmt: skip


def _mean_over_time(output: Tensor) -> Tensor:
    return output.mean(2) if output.dim() == 3 else output


def _filters(given: Given) -> dict[str, Any]:
    assert given.encoder is not None
    found = layer_energies(given.encoder)
    if not found:
        raise Unfit("it needs a linear or convolutional layer of several filters, and the encoder has none")
    return {"mean": sum(found.values()) / len(found), "layers": found}


def _invariance(given: Given) -> dict[str, Any]:
    found = invariance_scores(given.views.transpose(0, 1))
    return {"top": found.top, "units": found.units}


def _turns(given: Given) -> float:
    assert given.encoder is not None
    return rotation_probe(given.encoder, given.dataset.inputs, given.dataset.test_inputs)


def _tuned(given: Given) -> float | None:
    assert given.encoder is not None
    data = given.dataset
    return fine_tune(given.encoder, data.inputs, given.labels, data.test_inputs, given.test_labels)


ROWS, PROBED, DRAWN = (FEATURES,), (FEATURES, LABELS), (VIEWS,)
_TABLE = (
    Measure("rank_me", lambda given: rank_me(given.features), ROWS, HIGHER,
            "The exponential of the entropy of the singular values: directions in use, at most the number of features.",
            DIRECTIONS),
    Measure("alpha_req", lambda given: alpha_req(given.features)._asdict(), ROWS, NEITHER,
            "How fast the eigenvalues of the covariance fall: about 1 is healthy, more is a collapse onto few "
            "directions, and 0 is noise.", DIRECTIONS),
    Measure("spectrum", _correlation, ROWS, LOWER,
            "The mean absolute correlation of two features: 0 where none repeats another.", DIRECTIONS),
    Measure("matrix_entropy", lambda given: matrix_entropy(given.features), ROWS, HIGHER,
            "The entropy of the Gram matrix, in nats: the logarithm of a number of directions that wide ones dominate.",
            DIRECTIONS),
    Measure("coding_rate", lambda given: coding_rate(directions(given.features)), ROWS, HIGHER,
            "Nats that code a row of norm 1 up to an error of a half: volume that the features fill.", DIRECTIONS),
    Measure("feature_std", lambda given: feature_spread(given.features)._asdict(), ROWS, HIGHER,
            "The spread over the sphere: 1 where even, 0 where all are alike, whatever the directions.", DIRECTIONS),
    Measure("hyperspherical_energy", _energy, ROWS, LOWER,
            "The mean of minus the logarithm of the distance of two samples: low where features spread evenly.",
            DIRECTIONS),
    Measure("alignment", lambda given: float(alignment(*map(directions, given.pair))), DRAWN, LOWER,
            "The mean squared distance of two views of a sample, of norm 1; a collapse has 0 too.", AGREEMENT),
    Measure("uniformity", lambda given: float(uniformity(directions(given.features))), ROWS, LOWER,
            "How near samples lie to each other on the sphere, on a logarithmic scale; a collapse has 0.", AGREEMENT),
    Measure("lidar", lambda given: lidar(given.views), DRAWN, HIGHER,
            "The directions that tell samples apart once those along which views differ are scaled down.", AGREEMENT),
    Measure("augmentation_covariance", _covariance, DRAWN, HIGHER,
            "The variance between samples over that between views of one.", AGREEMENT),
    Measure("mutual_information_bound", lambda given: mutual_information_bound(*given.pair), DRAWN, HIGHER,
            "Nats that a view tells of the other at least; never above the logarithm of the number of samples.",
            AGREEMENT),
    Measure("cca", _canonical, DRAWN, HIGHER,
            "The mean canonical correlation of two views: how well linear maps of them agree.", AGREEMENT),
    Measure("conditional_independence", _left_given_labels, (VIEWS, LABELS), LOWER,
            "What two views have in common that the label does not explain; few labels suffice where it is small.",
            AGREEMENT),
    Measure("few_shot", lambda given: few_shot(*given.labelled), PROBED, HIGHER,
            "Accuracy of the nearest of five labelled samples of each class.", PROBES),
    Measure("linear_10", lambda given: linear_probe(*given.labelled, shots=10), PROBED, HIGHER,
            "Accuracy of a linear probe on ten labelled samples of each class.", PROBES),
    Measure("linear_probe", lambda given: linear_probe(*given.labelled, shots=None), PROBED, HIGHER,
            "Accuracy of a linear probe on all labels.", PROBES),
    Measure("linear_svm", lambda given: linear_svm(*given.labelled), PROBED, HIGHER,
            "Accuracy of linear support vector machines on all labels.", PROBES),
    Measure("knn", lambda given: knn(*given.labelled), PROBED, HIGHER,
            "Accuracy of a vote of the 20 nearest training samples.", PROBES),
    Measure("weighted_knn", lambda given: weighted_knn(*given.labelled), PROBED, HIGHER,
            "The same vote, in which near samples count more.", PROBES),
    Measure("clustering", lambda given: clustering(given.features, given.labels)._asdict(), PROBED, HIGHER,
            "Mutual information of k-means clusters and labels, 1 where they are the same.", PROBES),
    Measure("fine_tune", _tuned, (ENCODER, LABELS), HIGHER,
            "Accuracy when all weights are trained on ten labelled samples of each class.", PROBES, slow=True),
    Measure("rrm", _gaps, PROBED, LOWER,
            "Memorisation: how much better a probe knows its right labels than those that were made wrong.", GAPS),
    Measure("risk_decomposition", _risk, PROBED, LOWER,
            "The error of a linear probe, whose parts are usability, and generalisation of probe and encoder.", GAPS),
    Measure("per_layer", _layers, (ENCODER, LABELS), HIGHER,
            "Accuracy of a linear probe on the best layer.", INSIDE),
    Measure("layer_energies", _filters, (ENCODER,), LOWER,
            "The mean over layers of the hyperspherical energy of their filters: low where filters differ.", INSIDE),
    Measure("invariance_scores", _invariance, DRAWN, HIGHER,
            "How much more often the best units fire for other views of what they fire for than for any sample.",
            INSIDE),
    Measure("rotation_probe", _turns, (ENCODER, IMAGES), HIGHER,
            "Accuracy of a linear probe of quarter turns, which needs no labels; chance is a quarter.", INSIDE),
)  # fmt: skip
MEASURES: dict[str, Measure] = {each.name: each for each in _TABLE}
