"""Runs Arm's compiler for Ethos-U NPUs, and says which operators of a file it leaves to the CPU.

Vela (PyPI ``ethos-u-vela``) needs no NPU: it compiles on any machine. It lives in an environment of its own, in
``$POCKETVIT_VELA`` or the user's cache folder, so that its requirements never meet ours.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from export.graph.file_model import op_names, open_tflite
from runtime import MeasurementError

VERSION = "5.2.0"
FOLDER = "POCKETVIT_VELA"
CHIPS = {"U55": "ethos-u55-256", "U65": "ethos-u65-256", "U85": "ethos-u85-256"}
"""The configuration that is compiled for, by name of the NPU: 256 multipliers each."""

_ON_NPU = "ethos-u"
_LEFT = re.compile(r"^Warning \(supported operators\) operator: \w+, ofm: '(.*)'\nReason: (.*)$", re.MULTILINE)
_TENSOR = re.compile(r" \([\w./]+\)$")
_CYCLES = re.compile(r"^Total cycles +(\d+)", re.MULTILINE)
_LIMIT_S = 600


@dataclass(frozen=True)
class Compiled:
    """What Vela made of a file.

    Attributes:
        chip: a name of ``CHIPS``.
        operators: names of the outputs of the file's operators.
        left: those that are left to the CPU, each with Vela's reason.
        cycles: that Vela estimates for one image, in its own model of the memory; None where operators are left.
    """

    chip: str
    operators: tuple[str, ...]
    left: dict[str, str]
    cycles: int | None

    def on_cpu(self, start: str = "") -> list[str]:
        """Returns the operators that are left to the CPU, of those whose name begins with ``start``."""
        return [name for name in self.operators if name in self.left and name.startswith(start)]


def vela_folder() -> Path:
    """Returns the folder of Vela's environment, which may not exist."""
    cache = os.environ.get("XDG_CACHE_HOME")
    usual = (Path(cache) if cache else Path.home() / ".cache") / "pocketvit" / f"vela-{VERSION}"
    return Path(os.environ[FOLDER]) if os.environ.get(FOLDER) else usual


def find_vela() -> Path | None:
    """Returns Vela's program, or None where it is not installed."""
    program = vela_folder() / "bin" / "vela"
    return program if program.is_file() else None


def fetch_vela() -> Path:
    """Installs Vela in its environment, if it is not there, and returns its program.

    Raises:
        MeasurementError: it cannot be installed.
    """
    if (found := find_vela()) is not None:
        return found
    folder = vela_folder()
    for words in (
        (sys.executable, "-m", "venv", str(folder)),
        (str(folder / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", f"ethos-u-vela=={VERSION}"),
    ):
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            raise MeasurementError(
                "Vela cannot be installed", expected="a Python with venv, and a network", got=done.stderr[-300:]
            )
    return folder / "bin" / "vela"


def compiled(file: Path, chip: str, program: Path) -> Compiled:
    """Compiles a ``.tflite`` file for an NPU.

    Args:
        file: the file; it is not changed.
        chip: a name of ``CHIPS``.
        program: Vela's.

    Raises:
        MeasurementError: Vela does not compile the file, or says something else than its result shows.
    """
    with tempfile.TemporaryDirectory() as scratch:
        words = (str(program), "--accelerator-config", CHIPS[chip], "--output-dir", scratch, "--show-cpu-operations")
        words = (*words, "--verbose-cycle-estimate", str(file.absolute()))
        try:
            done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=_LIMIT_S, cwd=scratch)
        except subprocess.TimeoutExpired:
            raise MeasurementError(f"Vela did not compile {file.name} in {_LIMIT_S} s") from None
        result = Path(scratch) / f"{file.stem}_vela.tflite"
        if done.returncode or not result.is_file():
            raise MeasurementError(f"Vela cannot compile {file.name}", got=(done.stderr or done.stdout)[-300:])
        kept = {name: kind for kind, name in outputs_of(result) if kind != _ON_NPU}
    said = {name: _TENSOR.sub("", reason) for name, reason in _LEFT.findall(done.stdout + done.stderr)}
    names = tuple(name for _, name in outputs_of(file))
    left = {name: f"{kind}: {said.get(name, 'Vela names no reason')}" for name, kind in kept.items()}
    cycles = _CYCLES.search(done.stdout)
    return Compiled(chip, names, left, int(cycles[1]) if cycles and not left else None)


def outputs_of(file: Path) -> list[tuple[str, str]]:
    """Returns the kind of every operator of a ``.tflite`` file, and the name of its output."""
    data = file.read_bytes()
    model = open_tflite(file, data)
    kinds, graph = op_names(model, data), model.Subgraphs(0)
    operators = [graph.Operators(i) for i in range(graph.OperatorsLength())]
    return [(kinds[op.OpcodeIndex()], graph.Tensors(op.Outputs(0)).Name().decode()) for op in operators]
