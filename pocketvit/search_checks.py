"""Refuses settings that a search method has no use for, and reads those of methods that are registered elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compress.search import METHODS
from runtime import PlanError, check_is, decode

_LEAST_BASIS_IMAGES = 8


def check_search(
    name: str,
    *,
    in_best_bases: bool,
    published: bool,
    importance: str | None,
    budget: str,
    cost: str,
    trains_under_rounding: bool,
) -> None:
    """Checks the settings of a run against its search method.

    Args:
        name: of the method.
        in_best_bases: whether the best bases were asked for.
        published: whether the search is to run as its paper has it.
        importance: the importance that was asked for, where it is not the usual one.
        budget: that was asked for; empty for none.
        cost: that was asked for; empty for none.
        trains_under_rounding: whether quantisation-aware training was asked for.

    Raises:
        PlanError: the method cannot do what was asked for.
    """
    method = METHODS[name]
    if in_best_bases and (not method.in_bases or published):
        raise PlanError(
            f"{name} {'with --exact ' if method.in_bases else ''}cuts the units of the model as they are",
            expected="--basis units, or none",
            got="best",
            fix=f"Take --search {', '.join(own for own in METHODS if METHODS[own].in_bases)} for the best bases",
        )
    if method.ranks_by and importance is not None:
        others = [own for own in METHODS if not METHODS[own].ranks_by]
        raise PlanError(
            f"{name} goes by {method.ranks_by}",
            expected="no --importance, or --importance fisher",
            got=importance,
            fix=f"Compare criteria with --search {', '.join(others[:-1])} or {others[-1]}",
        )
    if method.needs_budget:
        return
    if budget:
        raise PlanError(
            f"{name} makes zeros and removes no width, so what the model costs stays and no budget can be met",
            expected="no --budget (in Python: budget='')",
            got=budget,
            fix="Say how many zeros with --sparsity, or take another --search",
        )
    if cost:
        raise PlanError(f"{name} goes by {method.ranks_by}, not by cost", expected="no --cost")
    if trains_under_rounding:
        raise PlanError("--qat trains every weight, and the zeros would not stay", expected="no --qat")


def check_search_counts(basis_images: int, basis_copies: int, importance_images: int, latency_threads: int) -> None:
    """Refuses numbers of images and threads that a search cannot use.

    Args:
        basis_images: images that the best bases are found from; 0 to choose.
        basis_copies: changed copies of each of them at most.
        importance_images: images per class that importance is measured on.
        latency_threads: threads of the engine that a latency is measured with.

    Raises:
        PlanError: one is out of range.
    """
    if basis_images < 0 or 0 < basis_images < _LEAST_BASIS_IMAGES:
        raise PlanError(
            "--basis-images is a number of images",
            expected=f"0 to choose, or {_LEAST_BASIS_IMAGES} or more",
            got=basis_images,
        )
    if basis_copies < 0:
        raise PlanError("--basis-copies is a number of copies", expected="0 or more", got=basis_copies)
    if importance_images < 1:
        raise PlanError("importance_images must be at least 1", got=importance_images)
    if latency_threads < 1:
        raise PlanError("latency_threads must be at least 1", got=latency_threads)


def registered_settings(given: Mapping[str, Any], search: str) -> dict[str, Any]:
    """Returns the settings of methods that are registered elsewhere, those of the chosen one in full.

    Args:
        given: settings, or what a document holds of them, by the method's name.
        search: name of the chosen method.

    Raises:
        PlanError: a method is not registered elsewhere, or a value is of another type.
    """
    found = {}
    for name, own in given.items():
        method = METHODS[name]
        if method.settings is None or method.group:
            raise PlanError(f"method_settings has no place for {name}", expected="a registered method")
        is_document = isinstance(own, Mapping)
        found[name] = decode(method.settings, own, f"method_settings.{name}") if is_document else own
        check_is(found[name], method.settings)
    method = METHODS[search]
    if method.settings is not None and not method.group:
        found.setdefault(search, method.settings())
    return found
