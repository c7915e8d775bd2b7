"""Which of timm's architectures can be pruned, and which part stands in the way of the others."""

from __future__ import annotations

import fnmatch
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import timm
import torch

from runtime import ModelError, PlanError, PocketVitError, macs

from .timm_vit import plan_of_timm

CLASSES = 1000
"""Outputs of a listed model's classifier where timm's weights have none."""


@dataclass(frozen=True)
class ListedModel:
    """One architecture of timm.

    Attributes:
        name: its name.
        kind: the class that timm builds.
        use: ``prune`` (and export) or ``refused``.
        reason: the part that stands in the way; None for a model that can be pruned.
        params: number of parameters, with a classifier; None where timm cannot build it.
        macs: multiply-accumulates of one image; None for a model that is refused.
    """

    name: str
    kind: str
    use: Literal["prune", "refused"]
    reason: str | None
    params: int | None
    macs: int | None


def names_like(pattern: str | None) -> list[str]:
    """Returns timm's names that match a pattern, in alphabetical order.

    Args:
        pattern: a part of the name, or a pattern with ``*`` and ``?`` for the whole name; None takes all.

    Raises:
        ModelError: no name matches.
    """
    every = timm.list_models()
    wanted = "*" if pattern is None else pattern if re.search(r"[*?\[]", pattern) else f"*{pattern}*"
    found = [name for name in every if fnmatch.fnmatchcase(name, wanted)]
    if not found:
        raise ModelError(f"timm knows no model like '{pattern}'", fix="A pattern looks like 'vit_small*' or 'dinov3'")
    return found


def listed_models(pattern: str | None) -> Iterator[ListedModel]:
    """Yields what can be done with each of timm's architectures that match a pattern; no weights are made.

    Args:
        pattern: see ``names_like``.

    Raises:
        ModelError: no name matches.
    """
    for name in names_like(pattern):
        yield catalogued(name)


def catalogued(name: str) -> ListedModel:
    """Returns what can be done with one of timm's architectures."""
    try:
        model = without_weights(name)
    except Exception as error:  # timm lets through whatever an architecture raises
        reason = f"timm cannot build it: {str(error).strip().splitlines()[0][:120] if str(error) else error!r}"
        return ListedModel(name, "", "refused", reason, None, None)
    kind, params = type(model).__name__, sum(value.numel() for value in model.parameters())
    try:
        plan = plan_of_timm(model)
    except (ModelError, PlanError) as error:
        return ListedModel(name, kind, "refused", refused_part(error), params, None)
    return ListedModel(name, kind, "prune", None, params, macs(plan))


def without_weights(name: str, **options: Any) -> Any:
    """Returns an architecture of timm without memory for its weights, with a classifier."""
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")
        published = timm.get_pretrained_cfg(name, allow_unregistered=False)
        classes = getattr(published, "num_classes", 0) or CLASSES
        return timm.create_model(name, pretrained=False, num_classes=classes, **options)


def refused_part(error: PocketVitError) -> str:
    """Returns the part that a model is refused for, from the error that names it."""
    text = str(error)
    found = re.search(r"This model uses (.*), which is not supported", text)
    return found[1] if found else text.partition(". ")[0]
