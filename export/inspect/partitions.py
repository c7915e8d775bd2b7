"""The division of a TFLite file between XNNPACK and LiteRT's own kernels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.engines.litert import load_interpreter

_DELEGATE = "DELEGATE"


@dataclass(frozen=True)
class Partitions:
    """The division of a file between XNNPACK and LiteRT's own kernels.

    Attributes:
        pieces: number of operators in each piece that XNNPACK takes; None with a reason where it is not known.
        fallback: number of operators by type that LiteRT computes itself; None with a reason.
        reason: why ``pieces`` and ``fallback`` are None.
    """

    pieces: tuple[int, ...] | None
    fallback: dict[str, int] | None
    reason: str | None = None

    @property
    def whole(self) -> bool:
        """Whether XNNPACK takes all operators in one piece."""
        return self.pieces is not None and len(self.pieces) == 1 and not self.fallback


def unknown_partitions(reason: str) -> Partitions:
    """Returns unknown partitions with a reason."""
    return Partitions(None, None, reason)


def find_partitions(path: Path) -> Partitions:
    """Loads a file in LiteRT and returns the pieces that XNNPACK takes of it.

    The interpreter appends one node for each piece, with its input and output tensors. The operators of a piece are
    those between its inputs and its outputs.

    Raises:
        MissingExtraError: ai-edge-litert is not installed.
        ArtifactError: LiteRT cannot load the file.
    """
    interpreter = load_interpreter(path, threads=1)
    listed = getattr(interpreter, "_get_ops_details", None)  # not public: a later LiteRT may not have it
    if listed is None:
        return unknown_partitions("this LiteRT does not list its operators")
    try:
        nodes = [_Node(op["op_name"], set(map(int, op["inputs"])), set(map(int, op["outputs"]))) for op in listed()]
    except (KeyError, TypeError) as error:
        return unknown_partitions(f"this LiteRT lists its operators in another form ({error})")
    return divide(nodes)


@dataclass(frozen=True)
class _Node:
    kind: str
    inputs: set[int]
    outputs: set[int]


def divide(nodes: list[Any]) -> Partitions:
    """Returns the pieces, from all operators followed by one node for each piece."""
    own = [node for node in nodes if node.kind != _DELEGATE]
    writers: Mapping[int, int] = {tensor: i for i, node in enumerate(own) for tensor in node.outputs}
    taken: set[int] = set()
    pieces = []
    for piece in (node for node in nodes if node.kind == _DELEGATE):
        members: set[int] = set()
        todo = list(piece.outputs)
        while todo:
            i = writers.get(todo.pop())
            if i is None or i in members:
                continue
            members.add(i)
            todo.extend(own[i].inputs - piece.inputs)
        taken |= members
        pieces.append(len(members))
    fallback = Counter(node.kind for i, node in enumerate(own) if i not in taken)
    return Partitions(tuple(pieces), dict(fallback.most_common()))
