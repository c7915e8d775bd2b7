"""What is in an exported file: operators, precision, MACs, bytes, widths, delegate partitions, and where time goes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from export.formats.torch import torch_model
from runtime import (
    ArtifactError,
    BlockPlan,
    MissingExtraError,
    Progress,
    ShapePlan,
    UnsupportedTargetError,
    decode,
    encode,
    manifest_path,
    read_artifact,
    silent,
)

from .contents import Contents, summarise
from .op_times import Times
from .partitions import Partitions, unknown_partitions
from .sandbox import Sandbox

TIME_BUDGET_S = 9.0
"""About so long is a file timed."""

SUFFIXES = (".onnx", ".tflite", ".pt2")

_NOT_ASKED = "it was not asked for"
_UNTIMED = "torch files are timed as a whole, by a bench"


@dataclass(frozen=True)
class Widths:
    """The prunable widths, read back from the tensors of a file."""

    embed_dim: int
    blocks: tuple[BlockPlan, ...]


@dataclass(frozen=True)
class Inspection:
    """What is in an exported file; a part that is None has a reason.

    Attributes:
        file: its name.
        contents: operators and sizes.
        widths: by its tensors and its manifest's plan.
        partitions: what XNNPACK takes of a TFLite file.
        times: where its time goes.
    """

    file: str
    contents: Contents
    widths: Widths | None
    widths_reason: str | None
    partitions: Partitions
    times: Times | None
    times_reason: str | None


def inspect_file(
    path: Path,
    *,
    time: bool = True,
    budget_s: float = TIME_BUDGET_S,
    threads: int = 1,
    progress: Progress = silent,
    sandbox: Sandbox | None = None,
) -> Inspection:
    """Looks into a ``.tflite``, ``.onnx`` or ``.pt2`` file, which may be hostile.

    A sandboxed process opens it. The operators of a ``.pt2`` file are read by the standard library alone, and its graph
    is not run.

    Args:
        path: the file; its manifest may stand beside it.
        time: also measure where its time goes.
        budget_s: about how long that may take, s.
        threads: of the engine, while timed.
        progress: told while timing.
        sandbox: the process that opens the file; by default one for this call.

    Raises:
        ArtifactError: there is no such file, it is damaged, or its engine cannot load it.
        UnsupportedTargetError: no threads.
        MissingExtraError: the package that reads the format, or its engine, is not installed.
    """
    check_readable(path)
    if threads < 1:
        raise UnsupportedTargetError("threads must be at least 1", got=threads)
    if sandbox is None:
        with Sandbox() as sandbox:
            return inspect_file(path, time=time, budget_s=budget_s, threads=threads, progress=progress, sandbox=sandbox)
    answer = f"what the reader of {path.name} said"
    if path.suffix == ".pt2":
        contents = summarise(torch_model(path), path.stat().st_size)
        widths, widths_reason = _widths(path, sandbox)
        delegate = unknown_partitions("torch runs every operator itself")
        return Inspection(path.name, contents, widths, widths_reason, delegate, None, _UNTIMED if time else _NOT_ASKED)
    contents = decode(Contents, sandbox.run("contents", path), answer)
    partitions = unknown_partitions("ONNX Runtime runs every operator in kernels of its own")
    if contents.format == "tflite":
        partitions = decode(Partitions, sandbox.run("partitions", path), answer)
    widths, widths_reason = _widths(path, sandbox)
    times = None
    if time:
        asked = sandbox.run("times", path, progress, threads=threads, budget_s=budget_s)
        times = decode(Times, asked, answer)
    return Inspection(path.name, contents, widths, widths_reason, partitions, times, None if time else _NOT_ASKED)


def check_readable(path: Path) -> None:
    """Checks that ``path`` is a file and called like a model.

    Raises:
        ArtifactError: it is not.
    """
    if path.suffix not in SUFFIXES:
        raise ArtifactError(f"{path} is not a model file", expected="a .onnx or .tflite file, or a .pt2 archive")
    if not path.is_file():
        raise ArtifactError(f"The model file {path} does not exist")


def read_widths_in_sandbox(path: Path, plan: ShapePlan, sandbox: Sandbox) -> ShapePlan:
    """Does what ``read_widths`` does, in the process of ``sandbox``.

    Raises:
        ArtifactError: the file's layers are not those of a Vision Transformer with as many blocks.
    """
    return decode(ShapePlan, sandbox.run("widths", path, plan=encode(plan)), "the widths")


def _widths(path: Path, sandbox: Sandbox) -> tuple[Widths | None, str | None]:
    if not manifest_path(path).is_file():
        return None, "no manifest stands beside the file"
    try:
        found = read_widths_in_sandbox(path, read_artifact(path, verify=False).plan, sandbox)
    except MissingExtraError:
        raise
    except ArtifactError as error:
        return None, str(error)
    return Widths(found.embed_dim, found.blocks), None
