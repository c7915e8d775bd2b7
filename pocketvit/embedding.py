"""What a run whose model answers with a vector, or with one for each patch, cannot do."""

from __future__ import annotations

from collections.abc import Mapping

from compress.search import METHODS
from runtime import PlanError

_BY_CLASSES = ("tas",)
"""Groups of settings of the search methods that train on classes."""

_BY_ANSWERS = ("tree",)
"""Groups of settings of the search methods that count the images with the right answer."""


def check_embedding(
    *,
    search: str,
    importance: str,
    qat_epochs: int,
    class_map: str | None,
    min_agreement: float | None,
    task: str = "embed",
) -> None:
    """Refuses settings that need classes in a run with ``--task embed`` or ``--task dense``.

    Args:
        search: name of the search method.
        importance: name of the criterion; empty for the usual one.
        qat_epochs: epochs of training under rounding.
        class_map: file with names of classes.
        min_agreement: least share of images with the same top-1.
        task: the task.

    Raises:
        PlanError: one of them needs classes.
    """
    if task == "dense" and METHODS[search].group in _BY_ANSWERS:
        fit = [name for name, own in METHODS.items() if own.group not in (*_BY_CLASSES, *_BY_ANSWERS)]
        raise PlanError(
            f"--search {search} counts right answers, and a grid of patches gives none",
            expected=f"--search {', '.join(fit[:-1])} or {fit[-1]}",
            got=search,
        )
    if METHODS[search].group in _BY_CLASSES:
        fit = [name for name, own in METHODS.items() if own.group not in _BY_CLASSES]
        raise PlanError(
            f"--search {search} trains on classes, and a vector has none",
            expected=f"--search {', '.join(fit[:-1])} or {fit[-1]}",
            got=search,
        )
    if importance == "taylor":
        raise PlanError(
            "The importance taylor needs the gradient of a loss, and a vector without a label has none",
            expected="no --importance, or --importance fisher",
        )
    if qat_epochs:
        raise PlanError("--qat trains a classifier under rounding", expected=f"no --qat with --task {task}")
    if class_map is not None:
        raise PlanError("A vector has no classes to name", expected=f"no --class-map with --task {task}", got=class_map)
    if min_agreement is not None:
        raise PlanError(
            "A vector has no top-1 that files could agree on",
            expected=f"no --min-agreement with --task {task}",
            got=min_agreement,
            fix="Give --min-cosine",
        )


def check_no_embedding(given: Mapping[str, bool]) -> None:
    """Refuses options of ``--task embed`` without it.

    Args:
        given: whether each option is given.

    Raises:
        PlanError: one is.
    """
    named = [name for name, there in given.items() if there]
    if named:
        raise PlanError(
            "These options are for models that answer with a vector",
            expected="--task embed with them",
            got=", ".join(named),
        )
