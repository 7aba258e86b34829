# SPDX-License-Identifier: Apache-2.0
"""Files are whole or not there, whatever goes wrong while they are written."""

from __future__ import annotations

import errno
import os
import re
import stat
from pathlib import Path

import pytest
import torch

import sslkernels
from sslkernels.files import write_atomically

CONTENTS = {
    "text": "é" * 100_000,
    "bytes": b"x" * 100_000,
    "function": lambda file: [file.write(b"x" * 1000) for _ in range(100)],
    "torch.save": lambda file: torch.save({"a": torch.zeros(30_000), "b": torch.zeros(3)}, file),
}


@pytest.fixture(params=CONTENTS)
def content(request):
    return CONTENTS[request.param]


def test_what_was_written_is_there_and_nothing_else(tmp_path, content):
    path = tmp_path / ("n" * 255)
    os.umask(mask := os.umask(0))
    for _ in range(2):
        write_atomically(path, content)
    assert os.listdir(tmp_path) == [path.name] and path.stat().st_size >= 100_000
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failure_leaves_the_old_file_and_is_one_sentence(tmp_path, monkeypatch, content, call, code):
    (tmp_path / "a").write_text("old")

    def fail(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError) as caught:
        write_atomically(tmp_path / "a", content)
    assert str(caught.value) == f"{tmp_path / 'a'} cannot be written: {os.strerror(code)}; no older file was changed."
    assert (tmp_path / "a").read_text() == "old" and os.listdir(tmp_path) == ["a"]


def test_a_disk_that_fills_under_torch_is_named_too(tmp_path, run_python):
    """torch.save hides the cause behind "unexpected pos"; a limit on a file's size fails like a full disk."""
    done = run_python(
        "import pathlib, resource, torch\n"
        "from sslkernels.files import write_atomically\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        "try:\n"
        "    write_atomically(pathlib.Path('a'), lambda file: torch.save({'a': torch.zeros(30_000)}, file))\n"
        "except OSError as error:\n"
        "    print(error)\n"
    )
    assert done.stdout == "a cannot be written: File too large; no older file was changed.\n", done.stderr
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError])
def test_what_stops_a_write_comes_through(tmp_path, stop):
    def content(file):
        file.write(b"half")
        raise stop("now")

    with pytest.raises(stop, match="now"):
        write_atomically(tmp_path / "a", content)
    assert os.listdir(tmp_path) == []


def test_a_link_is_followed_and_a_device_kept(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there" / "a")
    write_atomically(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "there" / "a").read_text() == "new"
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path / "there"):
        with pytest.raises(OSError, match="is no regular file and cannot be written; pass another name"):
            write_atomically(path, "x")
    with pytest.raises(FileNotFoundError, match="nowhere/a cannot be written: No such file or directory"):
        write_atomically(tmp_path / "nowhere" / "a", "x")


def test_nobody_else_writes_a_file_whole():
    """Logs grow row by row, and what peak_memory writes is a switch of the kernel's."""
    package = Path(sslkernels.__file__).parent
    writes = re.compile(r"os\.replace\(|\.write_(text|bytes)\(|\bopen\([^)]*[\"'][wax]\+?b?[\"']|torch\.save\(")
    found = {str(path.relative_to(package)) for path in package.rglob("*.py") if writes.search(path.read_text())}
    assert found == {"files.py", "peak_memory.py", "training/logs.py"}
