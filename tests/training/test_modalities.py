# SPDX-License-Identifier: Apache-2.0
"""SimCLR learns from the default data of every modality; floors are printed beside.

Bars are the worst of seeds 0 to 2 less 0.02, as an AMD EPYC trained; sounds and graphs on an Intel Xeon too, where they
end up elsewhere: processors round differently, and a run grows such differences.

Series and graphs gain clearly over the untrained encoder, sounds most of all. Tables, logs and text gain hardly
anything in runs this short, on encoders this small, and raw statistics are as good or better there and on sounds: no
bar asks for more than was seen.
"""

from __future__ import annotations

import json

import pytest

pytest.importorskip("lightning")

from sslkernels.cli import main  # noqa: E402
from sslkernels.recipes import MODALITIES  # noqa: E402

# Beside each, the worst untrained encoder of three seeds, and raw features.
BARS: dict[str, dict[str, float]] = {
    "series": {"few_shot": 0.658, "linear": 0.722},  # 0.612 and 0.661; raw 0.651 and 0.733
    "tables": {"few_shot": 0.761, "linear": 0.849},  # 0.741 and 0.861; raw 0.752 and 0.848
    # A third of the test molecules has ties at its 20th neighbour: raw knn is 0.642 to 0.665, as they are broken.
    "graphs": {"linear": 0.599, "knn": 0.661},  # 0.563 and 0.716; raw 0.615 and 0.650
    "audio": {"few_shot": 0.318, "linear": 0.549, "knn": 0.557},  # 0.175, 0.357, 0.322; raw 0.426, 0.686, 0.623
    "interactions": {"linear": 0.285},  # 0.285; raw 0.328: the four ages are hard to tell
    "text": {"linear": 0.552, "knn": 0.775},  # 0.542 and 0.782; raw 0.610 and 0.796
}
# Gains over the untrained encoder of the same seed; the worst of three gained a little more. Sounds gained 0.164, 0.212
# and 0.228 on an Intel Xeon.
GAINS = {
    "series": ("linear", 0.04),
    "tables": ("few_shot", 0.0),
    "graphs": ("linear", 0.03),
    "audio": ("linear", 0.144),
    "interactions": ("linear", 0.0),
    "text": ("knn", 0.0),
}


def test_every_modality_but_images_has_a_bar():
    assert {*BARS, "images"} == {*GAINS, "images"} == set(MODALITIES)  # images have those of test_learning.py


@pytest.mark.slow
@pytest.mark.share(3)
@pytest.mark.parametrize("modality", BARS)
def test_simclr_learns_from_its_default_data(modality, tmp_path, capsys):
    out = tmp_path / "run"
    code = main(["train", "simclr", "--data", MODALITIES[modality].data, "--threads", "1", "--out", str(out)])
    said = capsys.readouterr().err
    if code == 2 and "is missing; " in said:
        pytest.skip(said.strip())
    assert code == 0, said
    metrics = json.loads((out / "metrics.json").read_text())
    for probe in ("few_shot", "linear", "knn"):
        found = [metrics[probe + of] for of in ("", "_untrained", "_raw")]
        print(f"{modality}, {probe}: {found[0]:.3f}; untrained {found[1]:.3f}, raw {found[2]:.3f}")
    for probe, bar in BARS[modality].items():
        assert metrics[probe] >= bar
    probe, gain = GAINS[modality]
    assert metrics[probe] >= metrics[f"{probe}_untrained"] + gain
    assert metrics["effective_rank"][-1] > 5
