"""Reads the journals of a search in a run folder."""
# ruff: noqa: RUF001, RUF002 - the multiplication sign is meant for readers

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from runtime import METRICS_DOCUMENT, ArtifactError, JsonLines, decode
from runtime.storage.journals import STEPS_JOURNAL, TREE_JOURNAL

T = TypeVar("T")


@dataclass(frozen=True)
class Step:
    """One action on the path to a node: its kind, and the block it was taken in (-1: the whole model)."""

    action: str
    block: int


@dataclass(frozen=True)
class Look:
    """A node of a search tree, read from the journal.

    Attributes:
        path: actions that lead to the node; none for the root.
        cost: cost in the unit of the budget.
        correct: number of correct images of the Search Set; an upper bound if ``complete`` is false.
        complete: whether every image was evaluated.
        images: number of images evaluated.
        objective: objective for ``correct``, bits; None if nothing is correct.
        verdict: what the search decided for the node.
    """

    path: tuple[Step, ...]
    cost: int
    correct: int
    complete: bool
    images: int
    objective: float | None
    verdict: str


@dataclass(frozen=True)
class _Branch:
    """A node that was branched: cost of its gradients, forward-equivalents of images; 0 if known ones were used."""

    images: int


@dataclass(frozen=True)
class SearchRound:
    """One tree.

    Attributes:
        number: number of the round, from 1.
        looks: every evaluated node, in order.
        branched: number of nodes that were branched.
        repeats: number of visits saved because another order of the same actions was known.
        images: number of images in the Search Set.
        gradients: cost of gradients, forward-equivalents of images.
        recovered_top1: test accuracy of the chosen model after recovery training, 0..1; None before that.
        one_path: whether the search followed only the best child down to the budget.
    """

    number: int
    looks: tuple[Look, ...]
    branched: int
    repeats: int
    images: int
    gradients: int
    recovered_top1: float | None = None
    one_path: bool = False

    @property
    def work(self) -> int:
        """Cost of evaluations and gradients, forward-equivalents of images."""
        return sum(look.images for look in self.looks) + self.gradients

    @property
    def chosen(self) -> Look | None:
        """The complete node below the root with the highest objective, the first of equals.

        After a search along one path, the best of the deepest nodes.
        """
        depth = max(len(look.path) for look in self.looks) if self.one_path else 0
        below = [look for look in self.looks if look.path and look.complete and look.objective is not None]
        ends = [look for look in below if len(look.path) >= depth]
        return max(ends, key=lambda look: look.objective or 0.0, default=None)


@dataclass(frozen=True)
class TreeLog:
    """Every round of a search over trees.

    Attributes:
        unit: unit of the cost, such as ``macs`` or ``params``.
        total: cost of the unpruned model.
        rounds: in order.
    """

    unit: str
    total: int
    rounds: tuple[SearchRound, ...]

    @property
    def frontier(self) -> tuple[tuple[int, float], ...]:
        """Cost and accuracy of the complete nodes that no other beats in both, cheapest first."""
        seen = sorted(
            (look.cost, -look.correct / own.images) for own in self.rounds for look in own.looks if look.complete
        )
        best: list[tuple[int, float]] = []
        for cost, negative in seen:
            if not best or -negative > best[-1][1]:
                best.append((cost, -negative))
        return tuple(best)


@dataclass(frozen=True)
class Removal:
    """One step of a one-shot search: the removed group, its importance, and the cost after it."""

    action: str
    block: int
    importance: float
    cost: int


@dataclass(frozen=True)
class StepLog:
    """A search that removes groups one after another.

    Attributes:
        method: name of the search method, such as ``one-shot``.
        unit: unit of the budget.
        steps: the steps in order.
        explain: how the method chooses, a sentence of its journal; empty where the journal has none.
    """

    method: str
    unit: str
    steps: tuple[Removal, ...]
    explain: str = ""


SearchLog = TreeLog | StepLog


def read_search(run: Path) -> SearchLog | None:
    """Reads the search of a run; None without one, or if no node has been evaluated yet.

    Raises:
        ArtifactError: a journal is damaged, or of a newer version.
    """
    folders = sorted((run / "search").glob("iteration-*"))
    journals = [folder / "journal.jsonl" for folder in folders if (folder / "journal.jsonl").is_file()]
    if journals:
        return _read_trees(journals)
    path = run / "search" / "journal.jsonl"
    return _read_steps(path) if path.is_file() else None


def actions(path: tuple[Step, ...]) -> str:
    """Returns the actions of a path in short form, blocks counted from 1, in order of first occurrence.

    >>> actions((Step("mlp", 3), Step("embed", -1), Step("mlp", 3)))
    'mlp 4 (2×), embed'
    """
    times = Counter(path)
    names = {step: step.action if step.block < 0 else f"{step.action} {step.block + 1}" for step in times}
    return ", ".join(f"{names[step]} ({count}×)" if count > 1 else names[step] for step, count in times.items())


def _read_trees(journals: list[Path]) -> TreeLog | None:
    rounds, headers = [], []
    for path in journals:
        settings, lines = _settings_and_lines(TREE_JOURNAL, path)
        own = _round(path, lines, settings)
        if own is not None:
            rounds.append(own)
            headers.append(settings)
    if not rounds:
        return None
    total = headers[0].get("total")
    if not isinstance(total, int) or isinstance(total, bool) or total < 1:
        total = rounds[0].looks[0].cost
    return TreeLog(_unit(headers[0].get("cost")) or _unit(headers[0].get("budget")), total, tuple(rounds))


def _round(path: Path, lines: Iterator[tuple[str, dict[str, Any]]], settings: dict[str, Any]) -> SearchRound | None:
    looks, operations, gradients = [], Counter[str](), 0
    images = settings.get("images")
    if not isinstance(images, int) or isinstance(images, bool) or images < 1:
        raise ArtifactError(f"{path} does not say how many images were searched on", got=repr(images)[:80])
    for where, line in lines:
        operation = line.get("op")
        if operation not in ("look", "branch", "repeat"):
            raise ArtifactError(f"{where} records no operation of a search", got=repr(operation)[:80])
        operations[operation] += 1
        if operation == "look":
            looks.append(_part(Look, line, where))
        if operation == "branch":
            gradients += _part(_Branch, line, where).images
    if not looks:
        return None
    possible = range(images + 1)
    if gradients < 0 or any(k.cost < 1 or k.correct not in possible or k.images not in possible for k in looks):
        raise ArtifactError(f"{path} has figures that cannot be", fix="It was edited by hand")
    number = path.parent.name.removeprefix("iteration-")
    if not number.isdecimal():
        raise ArtifactError(f"{path.parent} is no round of a search", expected="iteration-NN")
    counts = operations["branch"], operations["repeat"]
    one_path = settings.get("search") == "greedy"
    return SearchRound(int(number), tuple(looks), *counts, images, gradients, _recovered(path.parent), one_path)


def _recovered(folder: Path) -> float | None:
    metrics = folder / "metrics.json"
    return METRICS_DOCUMENT.read(metrics).top1 if metrics.exists() else None


def _read_steps(path: Path) -> StepLog | None:
    settings, read = _settings_and_lines(STEPS_JOURNAL, path)
    lines = list(read)
    steps = tuple(_part(Removal, line, where) for where, line in lines if "step" in line)
    if any(step.cost < 1 for step in steps):
        raise ArtifactError(f"{path} has figures that cannot be", fix="It was edited by hand")
    method = settings.get("search", "one-shot")
    explain = next((line["explain"] for _, line in lines if isinstance(line.get("explain"), str)), "")
    if not steps:
        return None
    return StepLog(method if isinstance(method, str) else "one-shot", _unit(settings.get("budget")), steps, explain)


def _unit(budget: object) -> str:
    return budget.partition("=")[0] if isinstance(budget, str) else ""


def _part(cls: type[T], line: dict[str, Any], where: str) -> T:
    """Builds ``cls`` from a line, ignoring the fields that it does not have."""
    return decode(cls, {field.name: line[field.name] for field in fields(cls) if field.name in line}, where)  # type: ignore[arg-type]


def _settings_and_lines(kind: JsonLines, path: Path) -> tuple[dict[str, Any], Iterator[tuple[str, dict[str, Any]]]]:
    header, lines = kind.read(path)
    settings = header.get("settings")
    return settings if isinstance(settings, dict) else {}, lines
