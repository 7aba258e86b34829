# SPDX-License-Identifier: Apache-2.0
"""Runs the commands of a step beside each other, each in a process group of its own, until they end or time is up."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from device import files
from device.plan import GRACE

_KILLED_WITH_PARENT = 1  # PR_SET_PDEATHSIG
_LIBC = ctypes.CDLL(None)
# Seconds without which no step begins.
LEAST = 2.0


@dataclass
class Step:
    """Commands that run at the same time within ``seconds``. Their output goes to the end of ``log``."""

    name: str
    seconds: float
    commands: list[list[str]]
    log: Path
    after: Callable[[], None] | None = None
    """Work on what they left, however they ended."""
    tool: str | None = None
    """A program without which the step is left out."""


@dataclass
class Outcome:
    """How a step ended: ok, failed, out of time, absent, or not begun; and a word more where there is one."""

    name: str
    state: str
    seconds: float = 0.0
    why: str = ""


@dataclass
class Boxes:
    """The seconds of the whole run, from which every step takes its own."""

    seconds: float
    began: float = field(default_factory=time.monotonic)
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def left(self) -> float:
        return self.began + self.seconds - time.monotonic()

    def run(self, step: Step) -> Outcome:
        if step.tool and shutil.which(step.tool) is None:
            return Outcome(step.name, "absent", why=f"{step.tool} is not here")
        if self.left < LEAST:
            return Outcome(step.name, "not begun", why="the time was up")
        start = time.monotonic()
        end = start + min(step.seconds, self.left)
        files.append(step.log, f"\n== {step.name}\n")
        with step.log.open("ab") as log:
            self.running = [begin(command, log) for command in step.commands]
            try:
                while any(process.poll() is None for process in self.running) and time.monotonic() < end:
                    time.sleep(0.05)
                late = [process for process in self.running if process.poll() is None]
            finally:  # an interrupt ends the step, too, and what it left is still of use
                self.stop()
                if step.after and sys.exc_info()[0]:
                    step.after()
        codes = [process.returncode for process in self.running]
        self.running = []
        why = ""
        if step.after:
            try:
                step.after()
            except Exception as error:  # what a step left may be damaged; the others go on
                why = f"its files could not be read: {error}"
        spent = time.monotonic() - start
        if late:
            return Outcome(step.name, "out of time", spent, why or f"{len(late)} of {len(codes)} processes were killed")
        if any(codes) or why:
            told = ", ".join(_ended(code) for code in codes if code)
            return Outcome(step.name, "failed", spent, why or told)
        return Outcome(step.name, "ok", spent)

    def stop(self) -> None:
        """End what still runs, with everything that it began: first by asking."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            for process in self.running:
                # The group may outlive its first process.
                try:
                    os.killpg(process.pid, number)
                except (ProcessLookupError, PermissionError):
                    continue
            end = time.monotonic() + GRACE
            while number == signal.SIGTERM and time.monotonic() < end:
                if all(process.poll() is not None for process in self.running):
                    break
                time.sleep(0.02)
        for process in self.running:
            process.wait()


def begin(command: list[str], log: object) -> subprocess.Popen[bytes]:
    """Start a command in a process group of its own. It is killed when its parent is."""
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, preexec_fn=_alone
    )  # fmt: skip


def _alone() -> None:
    os.setpgid(0, 0)
    _LIBC.prctl(_KILLED_WITH_PARENT, signal.SIGKILL)


def _ended(code: int) -> str:
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}"
