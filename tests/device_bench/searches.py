"""Journals of made-up searches, set into a run folder."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from runtime import LATENCY_DOCUMENT, LatencyTable, WidthGrid, macs, params

from .conftest import BASELINE

IMAGES = 50
TOTAL = params(BASELINE)

Line = dict[str, Any]


def look(path: list[tuple[str, int]], cost: int, correct: int, images: int = IMAGES, verdict: str = "leaf") -> Line:
    """Returns the line of a node; with fewer images than the Search Set has, one that was stopped early."""
    value = math.log2(correct / IMAGES) - math.log2(cost / TOTAL) if correct else None
    steps = [{"action": action, "block": block} for action, block in path]
    seen = {"correct": correct, "complete": images == IMAGES, "images": images}
    told = {"op": "look", "path": steps, "cost": cost, "objective": value}
    return {**told, **seen, "order": None, "verdict": verdict}


def tree(*operations: Line) -> list[Line]:
    """Returns the lines of a tree's journal."""
    settings = {"weights_sha256": "ab" * 32, "budget": "params=0.7", "tree": {}, "images": IMAGES}
    return [{"schema": "pocketvit.tree", "schema_version": 1, "settings": settings}, *operations]


BRANCH: Line = {"op": "branch", "images": 3 * IMAGES, "children": []}
MLP, EMBED, QK = ("mlp", 3), ("embed", -1), ("qk", 0)

ROUNDS = (
    tree(
        look([], TOTAL, 45, verdict="branched"),
        BRANCH,
        look([MLP], int(0.96 * TOTAL), 45, verdict="branched"),
        BRANCH,
        look([MLP, MLP], int(0.92 * TOTAL), 44),
        look([MLP, EMBED], int(0.8 * TOTAL), 43),
        look([EMBED], int(0.84 * TOTAL), 40, images=25, verdict="bounded"),
        {"op": "repeat", "path": []},
    ),
    tree(
        look([], int(0.8 * TOTAL), 46, verdict="branched"),
        BRANCH,
        look([QK], int(0.78 * TOTAL), 30),
        look([EMBED], int(0.66 * TOTAL), 0, images=25, verdict="bounded"),
        look([MLP], int(0.7 * TOTAL), 41, verdict="met"),
    ),
)


def write_lines(path: Path, lines: list[Line]) -> Path:
    """Writes a journal and returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def write_rounds(run: Path) -> None:
    """Sets a search of two rounds into a run folder."""
    for number, lines in enumerate(ROUNDS, 1):
        write_lines(run / "search" / f"iteration-{number:02}" / "journal.jsonl", lines)


def write_steps(run: Path, search: str = "one-shot", budget: str = "macs=0.9") -> Path:
    """Sets a search of three steps into a run folder."""
    total = macs(BASELINE)
    steps = [("mlp", 2, 1e-7, 0.97), ("head", 5, 2e-7, 0.93), ("mlp", 2, 4e-7, 0.9)]
    return write_lines(
        run / "search" / "journal.jsonl",
        [
            {
                "schema": "pocketvit.journal",
                "schema_version": 1,
                "settings": {"search": search, "cost": "params", "budget": budget},
            },
            *(
                {"step": i, "action": action, "block": block, "importance": lost, "cost": int(share * total)}
                for i, (action, block, lost, share) in enumerate(steps, 1)
            ),
            {"plan": {}, "kept": {}},
        ],
    )


def write_table(run: Path, precision: str = "fp32") -> None:
    """Sets a latency table into a run folder, by which time goes with ``embed_dim`` alone, and it with its square."""
    flat, zero = WidthGrid(((8,),), (0.0,)), WidthGrid(((8,), (8,), (8,)), (0.0,))
    first = WidthGrid(((168, 192),), (1e6 * 168**2, 1e6 * 192**2))
    parts = {"first": first, "further": flat, "mlp": WidthGrid(((8,), (8,)), (0.0,)), "qk": zero, "v": zero}
    where = {"target": "cpu", "cpu_model": "Example", "engine": "litert", "engine_version": "2.1.0", "threads": 1}
    residual = {"factors": (1.0, 1.0, 1.0, 1.0), "offset_ns": 0, "checks": ()}
    table = LatencyTable(**where, precision=precision, baseline=BASELINE, **parts, **residual)
    LATENCY_DOCUMENT.write(run / "search" / "latency.json", table)
