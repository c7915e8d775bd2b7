"""What a search did, read from the journals in a run folder."""
# ruff: noqa: RUF001, RUF002 - the multiplication sign is meant for readers

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from runtime import METRICS_DOCUMENT, ArtifactError, JsonLines, decode
from runtime.journals import STEPS_JOURNAL, TREE_JOURNAL

T = TypeVar("T")


@dataclass(frozen=True)
class Step:
    """One action on the path to a node: its kind, and the block it was taken in (-1: the whole model)."""

    action: str
    block: int


@dataclass(frozen=True)
class Look:
    """A node of a tree as its journal has it.

    Attributes:
        path: the actions that lead to it, none for the root.
        cost: in the unit of the budget.
        correct: images of the Search Set it has right; where ``complete`` is false, at most so many.
        complete: whether every image was looked at.
        images: looked at.
        objective: of ``correct``, bits; None with nothing right.
        verdict: what became of it.
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
    """A node branched: what its gradients took, forward-equivalents of images; none where known ones served."""

    images: int


@dataclass(frozen=True)
class Round:
    """One tree.

    Attributes:
        number: of the round, from 1.
        looks: every node looked at, in order.
        branched: how many nodes were branched.
        repeats: visits that another order of the same actions made unnecessary.
        images: size of the Search Set.
        gradients: forward-equivalents of images that gradients took.
        recovered_top1: accuracy on the test split once what was chosen was trained again, 0..1; None before that.
        one_path: whether the best child was followed down to the budget, and nothing else.
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
        """Forward-equivalents of images that evaluations and gradients took."""
        return sum(look.images for look in self.looks) + self.gradients

    @property
    def chosen(self) -> Look | None:
        """The complete node below the root with the highest objective, the first of equals.

        Where one path was followed, of the deepest nodes.
        """
        depth = max(len(look.path) for look in self.looks) if self.one_path else 0
        below = [look for look in self.looks if look.path and look.complete and look.objective is not None]
        ends = [look for look in below if len(look.path) >= depth]
        return max(ends, key=lambda look: look.objective or 0.0, default=None)


@dataclass(frozen=True)
class TreeLog:
    """Every round of a search over trees.

    Attributes:
        unit: of the cost: ``macs``, ``params``, or what else the budget was in.
        total: cost of the unpruned model.
        rounds: in order.
    """

    unit: str
    total: int
    rounds: tuple[Round, ...]

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
    """One step of a search in one go: what went, the importance lost with it, and the cost after it."""

    action: str
    block: int
    importance: float
    cost: int


@dataclass(frozen=True)
class StepLog:
    """A search in one go.

    Attributes:
        method: name of the search method, such as ``one-shot``.
        unit: of the cost, as the budget has it.
        steps: in order.
        explain: how the method chooses, a sentence of its journal; empty where the journal has none.
    """

    method: str
    unit: str
    steps: tuple[Removal, ...]
    explain: str = ""


SearchLog = TreeLog | StepLog


def read_search(run: Path) -> SearchLog | None:
    """Reads what the search of a run did; None where there was none, or nothing has been looked at yet.

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
    """Returns the actions of a path in few words, blocks counted from 1, in the order they first occur.

    >>> actions((Step("mlp", 3), Step("embed", -1), Step("mlp", 3)))
    'mlp 4 (2×), embed'
    """
    times = Counter(path)
    names = {step: step.action if step.block < 0 else f"{step.action} {step.block + 1}" for step in times}
    return ", ".join(f"{names[step]} ({count}×)" if count > 1 else names[step] for step, count in times.items())


def _read_trees(journals: list[Path]) -> TreeLog | None:
    rounds, told = [], []
    for path in journals:
        settings, lines = _settings_and_lines(TREE_JOURNAL, path)
        own = _round(path, lines, settings)
        if own is not None:
            rounds.append(own)
            told.append(settings)
    if not rounds:
        return None
    total = told[0].get("total")
    if not isinstance(total, int) or isinstance(total, bool) or total < 1:
        total = rounds[0].looks[0].cost
    return TreeLog(_unit(told[0].get("cost")) or _unit(told[0].get("budget")), total, tuple(rounds))


def _round(path: Path, lines: Iterator[tuple[str, dict[str, Any]]], settings: dict[str, Any]) -> Round | None:
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
    return Round(int(number), tuple(looks), *counts, images, gradients, _recovered(path.parent), one_path)


def _recovered(folder: Path) -> float | None:
    metrics = folder / "metrics.json"
    return METRICS_DOCUMENT.read(metrics).top1 if metrics.exists() else None


def _read_steps(path: Path) -> StepLog | None:
    settings, lines = _settings_and_lines(STEPS_JOURNAL, path)
    steps = tuple(_part(Removal, line, where) for where, line in lines if "step" in line)
    if any(step.cost < 1 for step in steps):
        raise ArtifactError(f"{path} has figures that cannot be", fix="It was edited by hand")
    method = settings.get("search", "one-shot")
    explain = next((line["explain"] for _, line in lines if isinstance(line.get("explain"), str)), "")
    if not steps:
        return None
    return StepLog(method if isinstance(method, str) else "one-shot", _unit(settings.get("budget")), steps, explain)


def _unit(told: object) -> str:
    return told.partition("=")[0] if isinstance(told, str) else ""


def _part(cls: type[T], line: dict[str, Any], where: str) -> T:
    """Builds ``cls`` from the fields of a line that it has; journals say more than is shown."""
    return decode(cls, {field.name: line[field.name] for field in fields(cls) if field.name in line}, where)  # type: ignore[arg-type]


def _settings_and_lines(kind: JsonLines, path: Path) -> tuple[dict[str, Any], Iterator[tuple[str, dict[str, Any]]]]:
    header, lines = kind.read(path)
    settings = header.get("settings")
    return settings if isinstance(settings, dict) else {}, lines
