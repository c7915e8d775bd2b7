"""A tiny study, and processes that are none, for the tests of studies."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from pocketvit.cli.study_child import steps_in_turn
from tests.pocketvit import preloaded
from tests.pocketvit.conftest import environment

STUDY = """
[study]
name = "tiny"
seeds = [0, 1]
budgets = ["macs=0.75"]
targets = ["cpu"]
threads = 1
workers = 1
{more}

[measure]
formats = ["fp32"]
seconds = 0.05
throughput = 0
energy = false
grams-per-kwh = 400

[common]
img-size = 32
patch-size = 16
model-arg = ["embed_dim=32", "depth=2", "num_heads=2"]
epochs = 2
recovery-epochs = 1
train-limit = 200
importance-images = 4
calibration-images = 4
verify-images = 40
min-agreement = 0
formats = "fp32"

[models.vit]
model = "vit_tiny_patch16_224"

[methods.one-shot]
search = "one-shot"

[methods.self-taught]
command = "distill"
method = "self"
self-blocks = "1"
"""

CELLS = (
    "one-shot.vit.digits.macs-0.75.s0",
    "one-shot.vit.digits.macs-0.75.s1",
    "self-taught.vit.digits.s0",
    "self-taught.vit.digits.s1",
)


def study_file(folder: Path, more: str = "", text: str = STUDY) -> Path:
    path = folder / "tiny.toml"
    path.write_text(text.format(more=more), encoding="utf-8")
    return path


class Ended:
    """A process that has ended already."""

    def __init__(self, code: int) -> None:
        self.pid, self._code = 0, code

    def poll(self) -> int:
        return self._code


class Within:
    """Does steps within this process, where torch is loaded already; fails those of some cells."""

    def __init__(self, failing: Sequence[str] = ()) -> None:
        self.failing = tuple(failing)
        self.done: list[tuple[str, ...]] = []

    def __call__(self, steps: Sequence[Sequence[str]], folder: Path, log: Path) -> Ended:
        self.done.append((folder.name, *(step[0] for step in steps)))
        if folder.name in self.failing:
            with log.open("a") as handle:
                handle.write("$ pocketvit compress --budget x\nwork: 1/2\nerror: The disk is on fire. Put it out.\n")
            return Ended(2)
        before = sys.argv
        try:
            return Ended(steps_in_turn(steps))
        finally:
            sys.argv = before


def lasting(root: Path) -> dict[str, bytes]:
    """Returns the files of a study's runs that must not depend on when, where, or after what they were made."""
    kept = {
        path
        for pattern in ("run.json", "search/*", "baseline/*", "sliced/*", "artifacts/*", "answers.json")
        for cell in CELLS
        for path in (root / cell).glob(pattern)
        if path.is_file()
    }
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(kept)}


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def children_of(word: str) -> list[int]:
    """Returns the processes of steps that are at work on something with ``word`` in its command."""
    found = []
    for place in Path("/proc").iterdir():
        try:
            words = (place / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if place.name.isdigit() and "pocketvit.cli.study_child" in words and any(word in own for own in words):
            found.append(int(place.name))
    return found


def command(*words: object) -> preloaded.Process:
    return preloaded.start(*words, env=environment())
