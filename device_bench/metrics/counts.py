"""Metrics that are counted: file size, and instructions on an emulated processor."""

from __future__ import annotations

from device_bench import format

from .base import VIEWS, Metric, Number, column, held

INSTRUCTIONS = Metric(
    name="instructions",
    title="executed instructions",
    emulated=True,
    optional=False,
    columns=(
        column(
            "Instructions per run",
            held("instructions", lambda own: own.of("all")),
            text=format.count,
            short="instructions",
            views=VIEWS | {"models"},
        ),
        column(
            "On vectors (SIMD)",
            held("instructions", lambda own: own.of("simd") / own.of("all")),
            text=format.percent,
            short="SIMD",
            views=VIEWS | {"models"},
        ),
        column(
            "Dot products of integers",
            held("instructions", lambda own: own.of("dot")),
            text=format.count,
            short="dot products",
            views=VIEWS | {"models"},
        ),
    ),
    numbers=(
        Number(
            "instructions",
            "instructions",
            held("instructions", lambda own: float(own.of("all"))),
            lambda number: f"{format.count(round(number))} instr.",
            unit="instr.",
            reason=lambda own: "They are not counted.",
            cost="instructions",
            axis=lambda measured: "instructions of one run, 10⁹",
            scale=1e9,
        ),
    ),
    section=None,
)

SIZE = Metric(
    name="size",
    title="file size",
    emulated=True,
    optional=False,
    numbers=(
        Number(
            "size_bytes",
            "size",
            lambda own: own.file.size_bytes,
            lambda number: format.size(round(number)),
            cost="size",
            axis=lambda measured: "file size, MB",
            scale=1e6,
            averaged=False,
        ),
    ),
    section=None,
)
