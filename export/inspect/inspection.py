"""Inspection of a model file: operators, precision, MACs, bytes, widths, delegate partitions and times."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

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
from runtime.formats import format_of

from .against.operator_errors import OperatorErrors
from .contents import Contents
from .lint.engines import LINTED
from .lint.lint_file import Lint
from .op_times import Times
from .partitions import Partitions, unknown_partitions
from .readers import reader_of
from .sandbox import Sandbox

TIME_BUDGET_S = 9.0
"""Approximate time that a file is timed for, s."""

_NOT_ASKED = "it was not asked for"


@dataclass(frozen=True)
class FileWidths:
    """The prunable widths, read back from the tensors of a file."""

    embed_dim: int
    blocks: tuple[BlockPlan, ...]


@dataclass(frozen=True)
class Inspection:
    """The contents of a model file; a part that is None has a reason.

    Attributes:
        file: name of the file.
        contents: operators and sizes.
        widths: read from its tensors with its manifest's plan.
        widths_reason: why ``widths`` is None.
        partitions: division of a TFLite file between XNNPACK and LiteRT's own kernels.
        times: time of its parts.
        times_reason: why ``times`` is None.
    """

    file: str
    contents: Contents
    widths: FileWidths | None
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
    """Reads the contents of a model file in a sandbox, and times its parts.

    Args:
        path: the file, which may be hostile; its manifest is read where there is one.
        time: whether to time its parts.
        budget_s: about how long the timing may take, s.
        threads: of the engine, while timed.
        progress: called while timing.
        sandbox: the process that opens the file; by default one for this call.

    Raises:
        ArtifactError: there is no such file, it is damaged, or its engine cannot load it.
        UnsupportedTargetError: ``threads`` is below 1, or the format has no reader.
        MissingExtraError: the package that reads the format, or its engine, is not installed.
    """
    check_readable(path)
    if threads < 1:
        raise UnsupportedTargetError("threads must be at least 1", got=threads)
    if sandbox is None:
        with Sandbox() as sandbox:
            return inspect_file(path, time=time, budget_s=budget_s, threads=threads, progress=progress, sandbox=sandbox)
    reader = reader_of(path)
    contents = decode(Contents, sandbox.run("contents", path), f"the contents of {path.name}")
    partitions = unknown_partitions(reader.no_partitions)
    if reader.partitions is not None:
        partitions = decode(Partitions, sandbox.run("partitions", path), f"the partitions of {path.name}")
    widths, widths_reason = _widths(path, sandbox)
    times, no_times = None, reader.no_times if time else _NOT_ASKED
    if time and reader.times is not None:
        asked = sandbox.run("times", path, progress, threads=threads, budget_s=budget_s)
        times = decode(Times, asked, f"the times of {path.name}")
    return Inspection(path.name, contents, widths, widths_reason, partitions, times, no_times or None)


def compare_with_float(
    path: Path,
    reference: Path,
    images: Path | None = None,
    *,
    threads: int = 1,
    progress: Progress = silent,
    sandbox: Sandbox | None = None,
) -> OperatorErrors:
    """Compares the operators of a quantised file with a float file as ``compare_operators`` does, in a sandbox.

    Args:
        path: the quantised ``.tflite`` file, which may be hostile.
        reference: a float ``.tflite`` file of the same model.
        images: an ``.npz`` file of images, as in ``images_for``; None takes those of the file's run, or random ones.
        threads: of the engine.
        progress: called after every image.
        sandbox: the process that runs the files; by default one for this call.

    Raises:
        ArtifactError: as ``compare_operators``, or LiteRT crashed on a file.
        DataError: the images are too few, or do not fit the files.
        UnsupportedTargetError: ``threads`` is below 1, or a file is no ``.tflite`` file.
        MissingExtraError: ai-edge-litert is not installed.
    """
    for file in (path, reference):
        check_readable(file)
        if format_of(file).name != "tflite":
            raise UnsupportedTargetError(
                f"The operators of {file.name} cannot be compared", expected="a .tflite file", got=format_of(file).name
            )
    if threads < 1:
        raise UnsupportedTargetError("threads must be at least 1", got=threads)
    if sandbox is None:
        with Sandbox() as sandbox:
            return compare_with_float(path, reference, images, threads=threads, progress=progress, sandbox=sandbox)
    given = None if images is None else str(images.resolve())
    asked = sandbox.run("operators", path, progress, against=str(reference.resolve()), images=given, threads=threads)
    return decode(OperatorErrors, asked, f"the errors of {path.name}")


def lint_file(
    path: Path,
    engine: str,
    images: Path | None = None,
    *,
    progress: Progress = silent,
    sandbox: Sandbox | None = None,
) -> Lint:
    """Lints a file for an engine in a sandbox: what the engine refuses, computes wrongly or computes slowly.

    Args:
        path: the ``.tflite`` file, which may be hostile.
        engine: a name of ``export.inspect.lint.engines.LINTED``.
        images: an ``.npz`` file of images, as in ``images_for``; None takes those of the file's run.
        progress: called after every image.
        sandbox: the process that opens the file; by default one for this call.

    Raises:
        ArtifactError: the file or the images are missing or damaged.
        DataError: the images do not fit the file.
        UnsupportedTargetError: there is no such engine, or the file is no ``.tflite`` file.
        MissingExtraError: ai-edge-litert is not installed.
    """
    check_readable(path)
    if format_of(path).name != "tflite":
        raise UnsupportedTargetError(
            f"{path.name} cannot be linted", expected="a .tflite file", got=format_of(path).name
        )
    _ = LINTED[engine]
    if sandbox is None:
        with Sandbox() as sandbox:
            return lint_file(path, engine, images, progress=progress, sandbox=sandbox)
    given = None if images is None else str(images.resolve())
    asked = sandbox.run("lint", path, progress, engine=engine, images=given)
    return decode(Lint, asked, f"the findings about {path.name}")


def check_readable(path: Path) -> None:
    """Checks that ``path`` is a file with the suffix of a model file.

    Raises:
        ArtifactError: it does not exist, or no format has its suffix.
    """
    format_of(path)
    if not path.is_file():
        raise ArtifactError(f"The model file {path} does not exist")


def read_widths_in_sandbox(path: Path, plan: ShapePlan, sandbox: Sandbox) -> ShapePlan:
    """Reads widths as ``read_widths`` does, in the process of ``sandbox``.

    Raises:
        ArtifactError: the file's layers are not those of a Vision Transformer with as many blocks.
    """
    return decode(ShapePlan, sandbox.run("widths", path, plan=encode(plan)), "the widths")


def _widths(path: Path, sandbox: Sandbox) -> tuple[FileWidths | None, str | None]:
    if not manifest_path(path).is_file():
        return None, "the file has no manifest"
    try:
        plan = read_artifact(path, verify=False).plan
        if plan is None:
            return None, "its manifest has no plan"
        found = read_widths_in_sandbox(path, plan, sandbox)
    except MissingExtraError:
        raise
    except ArtifactError as error:
        return None, str(error)
    return FileWidths(found.embed_dim, found.blocks), None
