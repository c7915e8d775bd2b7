"""Finds the parts of a model in a TFLite file by the names of its tensors."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from export.graph.file_model import open_tflite

Level = Literal["fine", "coarse", "blocks"]

_EVEN = 20
_NAMES = (
    re.compile(r"(?:^|/)blocks\.(\d{1,4})\.(\w+)"),  # as vit_graph names them
    re.compile(r"\bBlock_(\d{1,4})(?:/[^/;_]*_(\w+))?"),  # as litert-torch does, after modules
)
_JOINED = {"norm1": "attn", "norm2": "mlp"}


@dataclass(frozen=True)
class Part:
    """A stretch of the graph.

    Attributes:
        name: such as ``embed``, ``blocks.3.attn``, ``head``.
        last_op: index of its last operator.
    """

    name: str
    last_op: int


def model_parts(path: Path, level: Level) -> list[Part]:
    """Returns the parts of a file in the order they end; stretches of equal length where tensors have no known names.

    Args:
        path: a ``.tflite`` file.
        level: ``fine`` separates norms from the layers behind them, ``coarse`` does not, ``blocks`` gives whole blocks.
    """
    data = path.read_bytes()
    graph = open_tflite(path, data).Subgraphs(0)
    names = []
    for i in range(graph.OperatorsLength()):
        operator = graph.Operators(i)
        first = int(operator.OutputsAsNumpy()[0]) if operator.OutputsLength() else -1
        name = graph.Tensors(first).Name() if first >= 0 else None
        names.append((name or b"").decode(errors="replace"))
    return parts_of(names, level)


def parts_of(names: list[str], level: Level) -> list[Part]:
    """Returns the parts of a graph whose operators write tensors of these names.

    >>> parts_of(["patches", "blocks.0.norm1", "blocks.0.attn.q", "logits"], "coarse")
    [Part(name='embed', last_op=0), Part(name='blocks.0.attn', last_op=2), Part(name='head', last_op=3)]
    """
    found = [_label(name, level) for name in names]
    known = [i for i, label in enumerate(found) if label is not None]
    if not known:
        return _even(len(names))
    ends: dict[str, int] = {}
    label, block = "embed", -1
    for i, here in enumerate(found):
        if i > known[-1]:
            label = "head"
        # a shared or fused tensor may have an earlier block's name, and the sum of two parts that of the block alone
        elif here is not None and here[0] >= block and not label.startswith(f"{here[1]}."):
            block, label = here
        ends[label] = i
    return [Part(name, last) for name, last in sorted(ends.items(), key=lambda item: item[1])]


def _label(name: str, level: Level) -> tuple[int, str] | None:
    """Returns the block and part of a tensor; that of a fused operator belongs to the last part in it."""
    matches = [match for text in name.split(";;") for pattern in _NAMES if (match := pattern.search(text))]
    if not matches:
        return None
    match = max(reversed(matches), key=lambda match: int(match[1]))
    block, part = int(match[1]), match[2]
    if level == "blocks" or not part:
        return block, f"blocks.{block}"
    return block, f"blocks.{block}.{_JOINED.get(part, part) if level == 'coarse' else part}"


def _even(count: int) -> list[Part]:
    ends = sorted({round((i + 1) * count / _EVEN) - 1 for i in range(_EVEN)} - {-1})
    starts = [0, *(end + 1 for end in ends)]
    return [Part(f"operators {start} to {end}", end) for start, end in zip(starts, ends, strict=False)]
