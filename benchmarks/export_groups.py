"""The graphs of timm's architectures without a plan: those that differ in depth and width alone count once.

A model's signature is the tree of its modules with their kinds and structural settings, in which equal siblings count
once, and no width counts.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn

from compress.model.catalogue import catalogued, without_weights


@dataclass(frozen=True)
class Grouped:
    """One architecture and the graph that it stands for.

    Attributes:
        name: its name.
        kind: the class that timm builds.
        own_path: whether it has a plan and needs no converter.
        graph: digest of its signature; empty for one that timm cannot build.
        params: of the whole architecture.
    """

    name: str
    kind: str
    own_path: bool
    graph: str
    params: int


def group(name: str, planned: bool | None) -> Grouped:
    """Finds the graph of one architecture; no weights are made.

    Args:
        name: the architecture.
        planned: whether it has a plan, where that is known.
    """
    if planned is None:
        planned = catalogued(name).use != "refused"
    if planned:
        return Grouped(name, "", True, "", 0)
    try:
        with _no_initialisation():
            model = without_weights(name)
    except Exception:  # timm lets through whatever an architecture raises
        return Grouped(name, "", False, "", 0)
    digest = hashlib.sha256(repr(signature(model)).encode()).hexdigest()[:16]
    return Grouped(name, type(model).__name__, False, digest, sum(value.numel() for value in model.parameters()))


_INITIALISERS = ("add_", "clamp_", "erfinv_", "fill_", "mul_", "normal_", "uniform_", "zero_")


@contextlib.contextmanager
def _no_initialisation() -> Iterator[None]:
    """Leaves out what sets the values of weights that have no memory, which takes most of the time."""
    with contextlib.ExitStack() as stack:
        for own in _INITIALISERS:
            stack.enter_context(mock.patch.object(torch.Tensor, own, lambda self, *_, **__: self))
        yield


def planned_in(path: Path) -> dict[str, bool]:
    """Returns whether each architecture has a plan, of the lines of ``census.py``."""
    lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return {line["name"]: line["reason"] is None for line in lines}


def signature(module: nn.Module) -> tuple[Any, ...]:
    """Returns the kinds and structural settings of a module and its children; equal children count once."""
    children = tuple(dict.fromkeys(signature(child) for child in module.children()))
    return type(module).__name__, _settings(module), children


def _settings(module: nn.Module) -> tuple[Any, ...]:
    if isinstance(module, nn.Conv2d):
        grouped = "one" if module.groups == 1 else "each" if module.groups == module.in_channels else "some"
        return module.kernel_size, module.stride, module.padding, module.dilation, grouped, module.bias is not None
    if isinstance(module, nn.Linear | nn.modules.batchnorm._NormBase | nn.Dropout):
        return (getattr(module, "bias", None) is not None,)
    named = ((key, _coarse(value)) for key, value in sorted(vars(module).items()) if not key.startswith("_"))
    return tuple((key, value) for key, value in named if value is not None and key != "training")


def _coarse(value: Any) -> Any:
    """Returns a setting without widths: whether a number is 0, 1 or more; None for what is no setting."""
    if isinstance(value, bool | str):
        return value
    if isinstance(value, int | float):
        return 0 if value == 0 else 1 if value == 1 else 2
    if isinstance(value, tuple | list) and all(isinstance(own, int | float) for own in value):
        return tuple(dict.fromkeys(_coarse(own) for own in value))
    return getattr(value, "__name__", None)


def read_groups(path: Path) -> dict[str, Grouped]:
    """Returns the architectures whose graph is known, by name."""
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            one = Grouped(**json.loads(line))
        except (ValueError, TypeError):
            continue
        found[one.name] = one
    return found


def find_groups(names: Sequence[str], path: Path, planned: Mapping[str, bool]) -> None:
    """Finds the graphs of the names that have no line yet."""
    known = read_groups(path)
    with path.open("a", encoding="utf-8") as file:
        for name in names:
            if name not in known:
                file.write(json.dumps(asdict(group(name, planned.get(name)))) + "\n")
                file.flush()


def representatives(groups: Sequence[Grouped]) -> list[Grouped]:
    """Returns the smallest architecture of each graph that needs a converter, of each class in turn."""
    smallest: dict[str, Grouped] = {}
    for own in sorted(groups, key=lambda own: (own.params, own.name)):
        if own.graph:
            smallest.setdefault(own.graph, own)
    turns: Counter[str] = Counter()
    order = []
    for own in smallest.values():
        turns[own.kind] += 1
        order.append((turns[own.kind], own))
    return [own for _, own in sorted(order, key=lambda one: one[0])]
