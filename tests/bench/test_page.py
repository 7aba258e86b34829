# SPDX-License-Identifier: Apache-2.0
"""`sslkernels bench plot`: the page and its pictures, on made-up records."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import pytest

from sslkernels.bench import page
from sslkernels.bench.records import digest, write
from sslkernels.cli import main

SHARED = {
    "format": 1,
    "date": "2026-01-02T03:04:05Z",
    "commit": "0123456789abcdef",
    "versions": {"sslkernels": "0.1.0", "torch": "2.14.1", "python": "3.11.7"},
    "device": {"type": "cpu", "name": "Some CPU", "isa": "avx2", "cpu_flags": []},
    "threads": 2,
}


def bench(op: str, shape: tuple[int, ...], provider: str, milliseconds: float, **more: Any) -> dict[str, Any]:
    def spread(share: float) -> dict[str, float]:
        return {"median": share * milliseconds / 1e3, "p20": milliseconds / 2e3, "p80": milliseconds / 5e2}

    family = {"nt_xent": "similarity", "barlow_twins": "correlation", "ema_update": "ema"}[op]
    phases = {"fwd": 1.0, "fwd+bwd": 1.0} if op == "ema_update" else {"fwd": 0.4, "bwd": 0.6, "fwd+bwd": 1.0}
    return {
        **SHARED,
        "family": family,
        "workload": f"{op}-{'x'.join(map(str, shape))}",
        "op": op,
        "shape": list(shape),
        "dtype": "float32",
        "provider": provider,
        "chosen": provider == "cpu",
        "status": "ok",
        "why": None,
        "memory_bytes": 3 << 20,
        "seconds": {phase: spread(share) for phase, share in phases.items()},
        "floor": {"fraction": 0.5, "bound": "operations"},
        **more,
    }


def failed(op: str, shape: tuple[int, ...], provider: str, status: str, why: str) -> dict[str, Any]:
    record = bench(op, shape, provider, 1.0, status=status, why=why)
    del record["seconds"], record["floor"], record["memory_bytes"]
    return record


def training(backend: str, method: str = "simclr", **more: Any) -> dict[str, Any]:
    costs = {"images_per_second": 1000.0, "loss_milliseconds": 2.0, "loss_share": 0.1, "update_milliseconds": None}
    costs |= {"update_share": None, "peak_memory_bytes": 5 << 20}
    record = {**SHARED, "kind": "train", "method": method, "backend": backend, "losses": [3.0, 2.5, 2.0]}
    record |= {"data": "digits", "batch_size": 8, "steps": 3, "seed": 0}
    record |= dict.fromkeys(("first_loss_deviation", "first_gradient_deviation", "control_deviation"), 0.0)
    record |= {"allowed_deviation": 1e-5}
    return record | (costs if backend != "control" else {}) | {"agrees": True, "deviation": 1e-7} | more


SMALL = [
    bench("nt_xent", (64, 128), "cpu", 2.0),
    bench("nt_xent", (64, 128), "eager", 1.5),
    bench("nt_xent", (64, 128), "compile", 4.0),
    bench("nt_xent", (256, 128), "cpu", 4.0),
    bench("nt_xent", (256, 128), "eager", 16.0),
    failed("nt_xent", (256, 128), "compile", "failed", "compile is wrong: <b>loss</b> & gradient."),
    failed("nt_xent", (64, 128), "lightly", "skipped", "lightly is not installed."),
    bench("ema_update", (7, 1003), "cpu", 2.0),
    bench("ema_update", (7, 1003), "eager", 1.0),
]


def sweep() -> list[dict[str, Any]]:
    """Ours overtakes eager at 32, and again from 128 on, and never overtakes compile."""
    found = []
    for n, eager, compiled in ((16, 1.0, 1.0), (32, 3.0, 1.0), (64, 1.9, 1.0), (128, 2.0, 1.0), (256, 9.0, 1.0)):
        for provider, milliseconds in (("cpu", 2.0), ("eager", eager), ("compile", compiled)):
            found.append(bench("nt_xent", (n, 128), provider, milliseconds, preset="crossover"))
    return found


@pytest.fixture
def plot(tmp_path, monkeypatch, capsys):
    """Plot these lists of records into `out`, or into what is named: exit code and what was complained."""
    monkeypatch.chdir(tmp_path)

    def call(*files: list[dict[str, Any]], out: str = "out") -> tuple[int, str]:
        names = [f"{number}.jsonl" for number in range(len(files))]
        for name, records in zip(names, files, strict=True):
            write(records, Path(name))
        code = main(["bench", "plot", *names, "--out", out])
        return code, capsys.readouterr().err

    return call


def text(folder: Path = Path("out")) -> str:
    return (folder / "index.html").read_text(encoding="utf-8")


def cells(page_text: str) -> list[list[str]]:
    rows = re.findall(r"<tr>(.*?)</tr>", page_text, re.DOTALL)
    return [[html.unescape(re.sub("<.*?>", "", c)) for c in re.findall(r"<td.*?>(.*?)</td>", row)] for row in rows]


def test_a_folder_gets_a_page_and_two_pictures_per_family(plot, tmp_path):
    assert plot(SMALL) == (0, "")
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert names == {"index.html", "similarity.png", "similarity-sizes.png", "ema.png", "ema-sizes.png"}
    assert plot(SMALL) == (0, ""), "a second time over the first"
    assert {p.name for p in (tmp_path / "out").iterdir()} == names


def test_the_page_needs_nothing_else(plot):
    plot(SMALL, sweep(), [training("reference"), training("cpu"), training("control")])
    assert "http" not in text() and "url(" not in text() and "<link" not in text() and "<script" not in text()
    sources = re.findall(r'src="(.{10})', text())
    assert len(sources) == 2 * 3 + 1 + 1 and set(sources) == {"data:image"}


def test_every_loss_is_on_the_page_and_before_all_else(plot):
    plot(SMALL)
    start, end = text().index("Where we lose"), text().index("<h2>Similarity")
    assert start < end < text().index("<img")
    rows = cells(text()[start:end])
    assert ["NT-Xent 64×128 fp32", "eager", "0.75", "0.75", "0.75", "2.00 ms", "1.50 ms"] in rows
    assert ["EMA, equal tensors 7×1003 fp32", "eager", "0.50", "", "", "2.00 ms", "1.00 ms"] in rows
    assert ["NT-Xent 64×128 fp32", "≥ 1.8x eager", "0.75x"] in rows
    assert sum(row[1:2] == ["eager"] or row[1:2] == ["compile"] for row in rows) == 2
    assert text()[start:end].count('class="loss"') == 3 + 1 + 1 and "2 comparisons" in text()[start:end]


def test_a_loss_in_one_pass_alone_is_shown(plot):
    slow_forward = bench("nt_xent", (64, 128), "eager", 4.0)
    slow_forward["seconds"]["fwd"]["median"] = 0.0001
    plot([bench("nt_xent", (64, 128), "cpu", 2.0), slow_forward])
    rows = cells(text()[: text().index("<h2>Similarity")])
    assert ["NT-Xent 64×128 fp32", "eager", "2.00", "0.12", "2.00", "2.00 ms", "4.00 ms"] in rows


def test_a_row_is_marked_where_the_other_was_disturbed(plot):
    quiet = [bench("nt_xent", (64, 128), "cpu", 1.0), bench("nt_xent", (64, 128), "eager", 400.0)]
    assert plot(quiet) == (0, "") and "~ NT-Xent" not in Path("out/index.html").read_text()
    assert plot([quiet[0], {**quiet[1], "disturbed": True}]) == (0, "")
    assert "~ NT-Xent" in Path("out/index.html").read_text()


def test_records_are_escaped(plot):
    script = {"name": "<script>alert(1)</script>", "type": "cpu", "isa": "a&b", "cpu_flags": []}
    plot([{**record, "device": script} for record in SMALL])
    assert "<script" not in text() and "&lt;script&gt;" in text() and "a&amp;b" in text()
    assert "&lt;b&gt;loss&lt;/b&gt; &amp; gradient" in text()
    assert "lightly is not installed." in text()


def test_the_later_of_two_files_stands_whatever_their_order(plot):
    later = [bench("nt_xent", (64, 128), "cpu", 0.125, date="2026-02-01T00:00:00Z", commit="fedcba9876")]
    for files in ((SMALL, later), (later, SMALL)):
        plot(*files)
        assert "0.12 ms" in text() and "The runs differ in commits" in text()
        assert not any(row[:2] == ["NT-Xent 64×128 fp32", "eager"] for row in cells(text())), "no loss any more"


def test_another_device_gets_its_own_section(plot, tmp_path):
    device = {"type": "cuda", "name": "NVIDIA H200", "isa": "avx2", "cpu_flags": []}
    plot([{**record, "device": device} for record in SMALL], SMALL)
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert {"similarity.png", "similarity-nvidia-h200.png"} <= names
    assert "The runs differ in machines" in text()


def test_the_sweep_says_from_where_ours_is_ahead(plot):
    (sentence,) = page.crossings(sweep())
    assert sentence == "NT-Xent, D = 128, fp32: ours is ahead of eager from N = 128 on and " \
        "behind compile at the largest size, N = 256."  # fmt: skip
    everywhere = [r for r in sweep() if r["provider"] != "compile" and r["shape"][0] >= 128]
    assert page.crossings(everywhere) == [
        "NT-Xent, D = 128, fp32: ours is ahead of eager at every size, N = 128 to 256."
    ]
    plot(SMALL, sweep())
    assert sentence in text() and "NT-Xent 16×128 fp32, sweep" in text()


def test_a_file_of_training_alone(plot, tmp_path):
    slower = training("cpu", images_per_second=900.0, loss_milliseconds=4.0, agrees=False)
    assert plot([training("reference"), slower, training("control")]) == (0, "")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["index.html"]
    (row,) = [row for row in cells(text()) if row[:1] == ["simclr"]]
    assert row == ["simclr", "1,000", "900", "0.90", "2.00 ms", "4.00 ms", "–", "–", "5.00 MiB", "5.00 MiB", "no"]
    for lost in ("0.90", "4.00 ms", "no"):
        assert f'<span class="loss">{lost}</span>' in text()


def test_presets_and_other_sides_of_a_method_have_rows_of_their_own(plot):
    old = [training("reference"), training("cpu"), training("control")]
    new = {"date": "2999-01-01T00:00:00Z", "against": "reference"}
    sides = [
        [training(backend, preset=preset, images_per_second=speed, **{**new, "against": against})
         for backend, speed in ((against, speed), ("cpu", 2000.0), ("control", None))]
        for preset, against, speed in (("paper", "reference", 40.0), ("small", "lightly", 500.0))
    ]  # fmt: skip
    assert plot(old, *sides) == (0, "")
    rows = {row[0]: row[1:4] for row in cells(text()) if row[:1] and row[0].startswith("simclr")}
    assert rows == {
        "simclr": ["1,000", "1,000", "1.00"],
        "simclr, paper": ["40", "2,000", "50.00"],
        "simclr, against lightly": ["500", "2,000", "4.00"],
    }


def test_a_png_is_the_ratios_of_one_family(plot, tmp_path):
    image = pytest.importorskip("PIL.Image")
    similarity = [r for r in SMALL if r["family"] == "similarity"]
    assert plot(similarity, out="ratios.png") == (0, "")
    with image.open("ratios.png") as opened:
        assert opened.text["Records"] == digest(similarity)
    assert not (tmp_path / "out").exists()
    code, complaint = plot(SMALL, out="both.png")
    assert code == 2 and "similarity, ema" in complaint and not Path("both.png").exists()


@pytest.mark.parametrize("out", ["out", "ratios.png"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda r: json.dumps(r)[:-20],
        lambda r: json.dumps({k: v for k, v in r.items() if k != "date"}),
        lambda r: json.dumps({**r, "seconds": {"fwd+bwd": {"median": 1.0}}}),
        lambda r: json.dumps({**r, "shape": [1, 2, 3, 4, 5, 6]}),
        lambda r: json.dumps({**r, "device": {"name": "x"}}),
        lambda r: json.dumps({k: v for k, v in r.items() if k != "commit"}),
        lambda r: json.dumps({k: v for k, v in r.items() if k != "why"}),
        lambda r: json.dumps({**r, "shape": [-size for size in r["shape"]]}),
        lambda r: json.dumps({**r, "memory_bytes": float("nan")}),
        lambda r: json.dumps({**r, "memory_bytes": -1}),
        lambda r: json.dumps(r).replace('"p20": ', '"p20": NaN, "was": '),
        lambda r: json.dumps(r).replace('"median": ', '"median": Infinity, "was": '),
        lambda r: json.dumps({**r, "floor": {}}),
        lambda r: json.dumps({k: v for k, v in r.items() if k != "seconds"}),
        lambda r: json.dumps({k: v for k, v in training("cpu").items() if k != "losses"}),
    ],
)
def test_a_damaged_file_is_one_sentence_and_leaves_nothing(damage, out, plot, tmp_path, capsys):
    plot(SMALL[:2], out="before")
    Path("damaged.jsonl").write_text(json.dumps(SMALL[1]) + "\n" + damage(SMALL[0]) + "\n")
    before = sorted(tmp_path.rglob("*"))
    assert main(["bench", "plot", "0.jsonl", "damaged.jsonl", "--out", out]) == 2
    complaint = capsys.readouterr().err
    assert "damaged.jsonl, line 2" in complaint and len(complaint.strip().splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before
