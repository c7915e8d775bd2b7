"""The content of a model file and the outcome of its checks, as tables on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from device_bench import format
from runtime import GpuParity

from .models import agreement_of

if TYPE_CHECKING:  # export loads torch, which most tables have no use for
    from export.inspect.check_file import Verification
    from export.inspect.inspection import Inspection

_NOISE = 0.05
"""Share of the whole time that negative times of parts may add up to before a line says so."""


def inspection_tables(found: Inspection) -> list[RenderableType]:
    """Returns operators, bytes, widths, partitions and times of a file, or the reason for a missing part."""
    contents = found.contents
    ops, sizes = Table(header_style="bold"), Table(header_style="bold")
    ops.title, ops.title_justify = f"{found.file}, {format.size(contents.size_bytes)}", "left"
    for heading in ("operator", "precision", "count", "MACs"):
        ops.add_column(heading, justify="left" if heading in ("operator", "precision") else "right")
    for row in contents.ops:
        macs = "" if row.macs == 0 else format.count(row.macs)
        ops.add_row(_shown(row.kind), _shown(row.precision), str(row.count), macs)
    for heading in ("bytes of", "type", "tensors", "size", "share"):
        sizes.add_column(heading, justify="left" if heading in ("bytes of", "type") else "right")
    for size in contents.sizes:
        share = format.percent(size.size_bytes / contents.size_bytes) if contents.size_bytes else format.MISSING
        tensors = format.MISSING if size.tensors is None else str(size.tensors)
        sizes.add_row(size.kind, _shown(size.dtype or format.MISSING), tensors, format.size(size.size_bytes), share)
    return [ops, sizes, _widths_part(found), _partitions_part(found), *_times_part(found)]


def _shown(text: str) -> Text:
    """Returns a text from a file, shortened and without control characters."""
    return Text("".join(c if c.isprintable() else "?" for c in text[:80]))


def _widths_part(found: Inspection) -> RenderableType:
    if found.widths is None:
        return Text(f"Widths: not known, {found.widths_reason}")
    table = Table(header_style="bold")
    table.title, table.title_justify = f"Widths: embed_dim {found.widths.embed_dim}", "left"
    for heading in ("block", "heads", "qk", "v", "mlp"):
        table.add_column(heading, justify="right")
    for i, block in enumerate(found.widths.blocks):
        table.add_row(*map(str, (i, block.num_heads, block.qk_dim, block.v_dim, block.mlp_dim)))
    return table


def _partitions_part(found: Inspection) -> RenderableType:
    parts = found.partitions
    if parts.pieces is None or parts.fallback is None:
        return Text(f"Delegate: not known, {parts.reason}")
    if parts.whole:
        return Text(f"Delegate: XNNPACK takes all {parts.pieces[0]} operators in one piece, none falls back", "green")
    fallen = ", ".join(f"{count} {_shown(kind)}" for kind, count in parts.fallback.items()) or "no operator"
    taken = f"XNNPACK takes {sum(parts.pieces)} operators in {len(parts.pieces)} pieces"
    return Text(f"DELEGATE FALL-BACK: {taken}; LiteRT's own kernels compute {fallen}", "bold red")


def _times_part(found: Inspection) -> list[RenderableType]:
    times = found.times
    if times is None:
        return [Text(f"Times: not measured, {found.times_reason}")]
    table = Table(header_style="bold")
    table.title, table.title_justify = f"Whole file {format.seconds(times.whole_s)}, {times.threads} thread(s)", "left"
    for heading in (times.by, "time", "share"):
        table.add_column(heading, justify="left" if heading == times.by else "right")
    total = sum(max(0.0, row.seconds) for row in times.rows)
    for row in times.rows:
        # noise makes the smallest differences negative
        time = max(0.0, row.seconds)
        share = format.percent(time / total) if total else format.MISSING
        table.add_row(_shown(row.what), format.seconds(time), share)
    how = Text(f"Measured by: {times.how}")
    noise = -sum(min(0.0, row.seconds) for row in times.rows)
    if noise <= _NOISE * times.whole_s:
        return [table, how]
    loud = f"NOISY: parts came out up to {format.seconds(noise)} below nothing; run it again on an idle machine"
    return [table, how, Text(loud, "bold red")]


def verification_tables(found: Verification) -> list[RenderableType]:
    """Returns every check with its finding, the manifest's parity, and the comparison with another engine."""
    checks, parity = Table(header_style="bold"), found.parity
    checks.title, checks.title_justify = found.file, "left"
    for heading in ("check", "", "found"):
        checks.add_column(heading, overflow="fold")
    for check in found.checks:
        style = None if check.passed else "bold red"
        checks.add_row(check.name, "ok" if check.passed else "FAILED", Text(check.found), style=style)
    recorded = Text(
        f"Recorded when it was exported: {parity.images} images, max abs {format.error(parity.max_abs)}, "
        f"SQNR {format.decibels(parity.sqnr_db)}, {agreement_of(parity)}"
    )
    other = found.comparison
    if found.gpu is not None:
        return [checks, recorded, *_gpu_answers(found.gpu)]
    if other is None:
        return [checks, recorded]
    compared = Text(
        f"With {other.engine} {other.version} on {found.images} random images: max abs {format.error(other.max_abs)}, "
        f"agrees {format.percent(other.top1_agreement)}"
    )
    return [checks, recorded, compared, *([_gpu_part(found)] if other.gpu else [])]


def _gpu_part(found: Verification) -> Text:
    assert found.comparison is not None
    assert found.comparison.gpu is not None
    gpu = found.comparison.gpu
    if gpu.compatible is None:
        return Text("GPU delegate: TensorFlow's analyzer gave no answer")
    if gpu.compatible:
        return Text("GPU delegate: looks compatible, by TensorFlow's analyzer", "green")
    issues = "".join(f"\n  {count} x {_shown(issue)}" for issue, count in gpu.issues.items())
    return Text(f"GPU DELEGATE: not compatible, by TensorFlow's analyzer{issues}", "bold red")


def _gpu_answers(gpu: GpuParity) -> list[Text]:
    """Returns the figures of a file on LiteRT's GPU path."""
    kinds = {True: "computes on the CPU: answers, no times", False: "a GPU", None: "not known whether a GPU"}
    kind = kinds[gpu.software]
    driver = Text(f"GPU path on {_shown(gpu.driver or 'a driver without a name')} ({kind}), arithmetic ")
    driver.append(gpu.arithmetic or "not known")
    whole = Text("All operators ran on the GPU", "green")
    if not gpu.whole:
        whole = Text("NOT WHOLLY ON THE GPU: LiteRT's CPU kernels computed some operators", "bold red")
    lines = [driver, whole]
    if gpu.cosine is not None and gpu.mean_cosine is not None:
        lines.append(
            Text(
                f"Against the CPU on {gpu.images} images: cosine {gpu.cosine:.6f} at least, {gpu.mean_cosine:.6f} in "
                f"the mean; largest difference {format.error(gpu.max_rel)} of the largest output"
            )
        )
    if gpu.cpu_sqnr_db is not None or gpu.sqnr_db is not None:
        on_gpu, on_cpu = _decibels(gpu.sqnr_db), _decibels(gpu.cpu_sqnr_db)
        lines.append(Text(f"SQNR against the float file: {on_gpu} on the GPU, {on_cpu} on the CPU"))
    if gpu.near_ties is not None:
        clear = gpu.images - gpu.near_ties
        lines.append(
            Text(f"Same top-1 on {format.percent(gpu.top1_agreement)} of {clear} images; {gpu.near_ties} are near ties")
        )
    return lines


def _decibels(value: float | None) -> str:
    return "no error" if value is None else format.decibels(value)
