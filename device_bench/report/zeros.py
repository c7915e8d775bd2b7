"""The section of the report on weights that became zeros: their effect on size and time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from device_bench import format
from device_bench.columns import Column, split_columns
from device_bench.documents.sparsity import ZEROS_DOCUMENT, Zeros, zeros_path
from device_bench.report.render.document import Fold, Paragraph, Section, blocks, paragraph, table
from runtime import Artifact, ArtifactError

from .gain import Gain
from .summary import RunSummary

_WRITING = ("attn.proj.weight", "mlp.fc2.weight")


@dataclass(frozen=True)
class ZerosRow:
    """One figure of the baseline's file and of the file with zeros.

    Attributes:
        what: name of the figure.
        before: value for the baseline's file.
        after: value for the file with zeros.
        change: difference of the two.
    """

    what: str
    before: str
    after: str
    change: str


@dataclass(frozen=True)
class ZerosPart:
    """The effect of zeros.

    Attributes:
        sentences: the effect in words; empty, with ``note``, if the document cannot be read.
        rows: the effect as a table; empty before the export.
        files: the baseline's file and the file with zeros.
        layers: name, weights and zeros of every pruned layer, as text.
        note: why nothing is shown.
    """

    sentences: tuple[str, ...] = ()
    rows: tuple[ZerosRow, ...] = ()
    files: tuple[str, str] = ("", "")
    layers: tuple[tuple[str, str, str], ...] = ()
    note: str | None = None


def zeros_part(summary: RunSummary, run: Path) -> ZerosPart | None:
    """Returns the effect of zeros; None for a run without any."""
    try:
        zeros = ZEROS_DOCUMENT.read_if_there(zeros_path(run))
    except ArtifactError as error:
        return ZerosPart(note=f"What zeros bought is not shown: {error}")
    if zeros is None:
        return None
    pair = _pair(summary)
    gains = tuple(gain for gain in summary.gains if pair and (gain.baseline, gain.file) == (pair[0].file, pair[1].file))
    sentences = [_counted(zeros), *([_stored(*pair), *_kept(zeros)] if pair else []), *map(_timed, gains)]
    layers = tuple(
        (own.name, format.whole(own.weights), f"{format.whole(own.zeros)} ({format.percent(own.zeros / own.weights)})")
        for own in zeros.layers
    )
    files = (pair[0].file, pair[1].file) if pair else ("", "")
    return ZerosPart(tuple(sentences), _rows(*pair, gains) if pair else (), files, layers)


_CHANGES: tuple[Callable[[ZerosRow], str], ...] = (
    lambda row: row.before,
    lambda row: row.after,
    lambda row: row.change or format.MISSING,
)
_LAYERS: tuple[Column[tuple[str, str, str]], ...] = (
    Column("Weights", lambda layer: layer[1]),
    Column("Zeros", lambda layer: layer[2]),
)


def zeros_section(summary: RunSummary, run: Path) -> Section | None:
    """Returns the section of the report on zeros; None for a run without any."""
    part = zeros_part(summary, run)
    if part is None:
        return None
    columns = [
        Column(heading, cell, text=split_columns)
        for heading, cell in zip((*part.files, "Change"), _CHANGES, strict=True)
    ]
    layers = table("Layer", _LAYERS, part.layers, lambda layer: layer[0])
    return Section(
        "What zeros bought",
        blocks(
            paragraph(part.note),
            [Paragraph(sentence) for sentence in part.sentences],
            table("Figure", columns, part.rows, lambda row: row.what),
            Fold("Zeros of every layer", layers) if layers else None,
        ),
    )


def _pair(summary: RunSummary) -> tuple[Artifact, Artifact] | None:
    """Returns the float TFLite files of the baseline and of the model with zeros."""
    floats = [one for one in summary.artifacts if (one.format, one.precision) == ("tflite", "fp32") and one.plan]
    before = next((one for one in floats if one.file.startswith("baseline.")), None)
    after = next((one for one in floats if not one.file.startswith("baseline.")), None)
    return (before, after) if before and after else None


def _counted(zeros: Zeros) -> str:
    each = "of each layer" if zeros.scope == "layer" else "of all chosen layers together"
    return (
        f"{format.percent(zeros.zeros / zeros.weights)} of the {format.whole(zeros.weights)} weights in "
        f"{format.plural(len(zeros.layers), 'layer')} are zeros, the smallest {each}, and every width stays."
    )


def _stored(before: Artifact, after: Artifact) -> str:
    same = before.macs == after.macs
    text = (
        f"{after.file} computes {'the same' if same else 'other'} multiply-accumulates as {before.file} and takes "
        f"{format.size(after.size_bytes)} on disk, where that takes {format.size(before.size_bytes)} "
        f"({format.change(before.size_bytes, after.size_bytes)})"
    )
    if before.gzip_bytes is None or after.gzip_bytes is None:
        return text + "."
    return (
        f"{text}; compressed by gzip they take {format.size(after.gzip_bytes)} and {format.size(before.gzip_bytes)} "
        f"({format.change(before.gzip_bytes, after.gzip_bytes)})."
    )


def _kept(zeros: Zeros) -> list[str]:
    """Returns the cost of keeping zeros in layers that write into the residual stream."""
    if not any(own.zeros and own.name.endswith(_WRITING) for own in zeros.layers):
        return []
    return [
        "To keep the zeros its file has a few operators more: it computes the mean of every norm, which the baseline's "
        "file has folded into weights that would be zeros no longer."
    ]


def _timed(gain: Gain) -> str:
    ratio, times = gain.measured, format.times_interval(gain.measured)
    if ratio.low > 1:
        return f"On {gain.target} it is {times} as fast, measured turn by turn."
    bought = f"Zeros bought no time on {gain.target}: this engine multiplies by them like by any other number"
    if ratio.high < 1:
        return f"{bought}, and the file is slower, {times} as fast, measured turn by turn."
    return f"{bought}. The file is {times} as fast, measured turn by turn, which is no measurable difference."


def _rows(before: Artifact, after: Artifact, gains: tuple[Gain, ...]) -> tuple[ZerosRow, ...]:
    old, new = before.macs, after.macs
    rows = [
        ZerosRow("MACs", format.count(old), format.count(new), format.change(old, new)),
        _sizes("Size on disk", before.size_bytes, after.size_bytes),
        _sizes("Compressed by gzip", before.gzip_bytes, after.gzip_bytes),
    ]
    rows += [ZerosRow(f"Speed on {one.target}", "1×", format.times_interval(one.measured), "") for one in gains]  # noqa: RUF001
    return tuple(rows)


def _sizes(what: str, before: int | None, after: int | None) -> ZerosRow:
    return ZerosRow(what, format.size(before), format.size(after), format.change(before, after))
