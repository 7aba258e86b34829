# SPDX-License-Identifier: Apache-2.0
"""Files of a user's own: each mistake in them is one sentence, and no number in them is lost."""

from __future__ import annotations

import pytest
import torch

from sslkernels.data import Dataset, Graphs, load

PAIRS = "who\tfilm\twhen\n" + "".join(f"u{n % 12}\ti{n % 5}\t{n}\n" for n in range(60))
LINES = "".join(f"line {n}\n" for n in range(20))
SERIES = "@data\n" + "".join(f"{n},{n + 1}:{'ab'[n % 2]}\n" for n in range(12))
NUMBERS = "a,b\n" + "".join(f"{n},{n % 3}\n" for n in range(20))


def record(atoms: list[str], bonds: list[tuple[int, int]], kind: str = "low") -> str:
    lines = ["name", "", "", f"{len(atoms):3d}{len(bonds):3d}  0  0  0  0  0  0  0  0999 V2000"]
    lines += [f"    0.0000    0.0000    0.0000 {atom:<3} 0  0" for atom in atoms]
    lines += [f"{first:3d}{second:3d}  1  0" for first, second in bonds]
    return "\n".join([*lines, "M  END", "> <kind>", kind, "", "$$$$", ""])


@pytest.fixture
def read(tmp_path):
    def loaded(reader: str, content: str, settings: str = "") -> Dataset:
        path = tmp_path / "own"
        path.write_text(content, newline="")
        return load(f"{reader}:{path}{settings}")

    return loaded


@pytest.mark.parametrize(
    ("reader", "content", "settings", "words"),
    [
        ("csv", NUMBERS.replace("3,0", "3,1e300"), "", r"column 'b' .* holds 1e\+300 in row 4; fill it, or scale it"),
        ("csv", NUMBERS.replace("3,0", "3," + "1" * 200_000), "", r"line 5 of .* is no row of a table \(field larger"),
        ("csv", NUMBERS + "\n\n7\n", "", "line 24 of .* has 1 columns and the header 2"),
        ("csv", NUMBERS, "?delimiter=;;", "delimiter is ';;'; pass one character"),
        ("csv", NUMBERS, "?delimiter=", "delimiter is ''; pass one character"),
        ("csv", NUMBERS.replace(",", ""), "?label=ab", "has no column beside 'ab'"),
        ("text", LINES, "?length=0", "text: length is 0; pass a whole number of at least 1"),
        ("text", LINES, "?words=0", "text: words is 0; pass a whole number of at least 1"),
        ("text", LINES, "?length=1000000000000", "text: the rows of shape .* pass a smaller length"),
        ("interactions", PAIRS, "?user=who&item=film&length=0", "interactions: length is 0; pass a whole"),
        ("interactions", PAIRS.replace("\t7\n", "\tnan\n"), "?user=who&item=film&time=when", "'when' .* not finite"),
        ("series", SERIES.replace("3,4", ",".join(["1"] * 9)), "", "all as long as the longest, .* cut the longest"),
    ],
    ids=[
        "large",
        "field",
        "width",
        "delimiter",
        "no delimiter",
        "only classes",
        "no length",
        "no words",
        "long rows",
        "empty rows",
        "moment",
        "long series",
    ],  # fmt: skip
)
def test_a_mistake_is_one_sentence(read, monkeypatch, reader, content, settings, words):
    if reader == "series":
        monkeypatch.setattr("sslkernels.data.dataset.MEMORY", 12 * 9 * 24 - 1)
    with pytest.raises(ValueError, match=words) as caught:
        read(reader, content, settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("reader", ["csv", "series", "sdf", "text", "interactions"])
def test_a_folder_is_named_when_a_file_was_meant(tmp_path, reader):
    with pytest.raises(OSError, match=f"{reader}: {tmp_path} cannot be read: it is a folder .*; pass a file"):
        load(f"{reader}:{tmp_path}")


def test_a_table_needs_memory_for_its_cells(read, monkeypatch):
    monkeypatch.setattr("sslkernels.data.dataset.MEMORY", 32 * len(NUMBERS))
    assert read("csv", NUMBERS).inputs.shape == (16, 2)
    with pytest.raises(ValueError, match="csv: the cells of .* pass a smaller file"):
        read("csv", NUMBERS + "\n")


def test_moments_of_time_stay_apart(read):
    # float32 knows every 128th second of these days.
    table = read("csv", "a,b\n" + "".join(f"{1_600_000_000 + n},{n}\n" for n in range(20)))
    assert table.inputs.dtype == torch.float32
    torch.testing.assert_close(table.inputs[:, 0], table.inputs[:, 1])


def test_tables_of_old_systems_end_lines_with_a_carriage_return(read):
    table = read("csv", NUMBERS)
    for end in ("\r", "\r\n"):
        assert torch.equal(read("csv", NUMBERS.replace("\n", end)).inputs, table.inputs)


def test_a_quotation_mark_in_a_log_is_a_letter(read):
    plain, quoted = (read("interactions", text, "?user=who&item=film") for text in (PAIRS, PAIRS.replace("i3", '"i3')))
    assert torch.equal((plain.inputs != 0).sum(1), (quoted.inputs != 0).sum(1))


def test_series_of_a_test_file_are_taken_only_by_the_end_of_the_name(tmp_path):
    for name in ("X_TRAIN_2.ts", "X_TEST_2.ts", "Y_TRAIN.ts", "Y_TEST.ts"):
        (tmp_path / name).write_text(SERIES)
    assert len(load(f"series:{tmp_path / 'X_TRAIN_2.ts'}").inputs) == 10
    assert len(load(f"series:{tmp_path / 'Y_TRAIN.ts'}").inputs) == 12


def test_molecules_alike_have_no_label_and_may_have_no_atom(read):
    assert read("sdf", record(["C", "O"], [(1, 2)]) * 12, "?label=kind").labels is None
    none = read("sdf", record([], []) * 12)
    assert len(none.inputs) == 10 and none.inputs.x.shape == (0, 17)


def test_graphs_are_taken_in_any_order_and_as_often_as_they_stand():
    generator = torch.Generator().manual_seed(0)
    batch = torch.tensor([0, 0, 0, 2, 2, 3, 3, 3])
    edges = torch.tensor([(a, b) for a in range(8) for b in range(8) if batch[a] == batch[b]]).T
    edges = edges[:, torch.randperm(edges.shape[1], generator=generator)[:14]]
    graphs = Graphs(torch.arange(8.0)[:, None], edges, batch, 5)
    for rows in ([3, 0, 3], [1], [4, 2], slice(1, 4), torch.tensor([2, 2, -2])):  # a second call has the order by heart
        chosen = torch.arange(5)[rows].tolist()
        taken = graphs[rows]
        assert len(taken) == len(chosen)
        for place, graph in enumerate(chosen):
            assert taken.x[taken.batch == place, 0].tolist() == (batch == graph).nonzero()[:, 0].tolist()
            found = [pair for pair in taken.edge_index.T.tolist() if taken.batch[pair[0]] == place]
            expected = [pair for pair in edges.T.tolist() if batch[pair[0]] == graph]
            assert sorted([int(taken.x[a]), int(taken.x[b])] for a, b in found) == sorted(expected)
