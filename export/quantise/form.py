"""How a quantised graph becomes a file of some format."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from export.graph.ir import Graph

from .recipes import Mode, Recipe, modes_of

if TYPE_CHECKING:
    from export.graph.rewrites import Rewrites


def unchanged(graph: Graph) -> Graph:
    """Returns ``graph``."""
    return graph


def unchanged_model(model: Any) -> Any:
    """Returns ``model``."""
    return model


@dataclass(frozen=True)
class Form:
    """How a model becomes a quantised file.

    Attributes:
        suffix: of the files, with the dot.
        write: returns the content of the file of a graph.
        rewrites: returns the exact rewrites that suit the format, given a ``SlicedViT``.
        prepare: rewrites the float graph for an engine that lacks some operators, before it is calibrated.
        modes: returns the mode of each operator under a recipe, by the name of the operator's output.
        settle: returns a graph of integers without the grids that its file does not have.
        repeat: adds to a graph of integers what its file computes more than once, to round less.
        rotate: returns a ``SlicedViT`` that computes the same in rotated coordinates, given a ``SlicedViT``.
    """

    suffix: str
    write: Callable[[Graph], bytes]
    rewrites: Callable[[Any], Rewrites]
    prepare: Callable[[Graph], Graph] = unchanged
    modes: Callable[[Graph, Recipe], Mapping[str, Mode]] = modes_of
    settle: Callable[[Graph], Graph] = unchanged
    repeat: Callable[[Graph], Graph] = unchanged
    rotate: Callable[[Any], Any] = unchanged_model
