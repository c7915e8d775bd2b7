"""The search methods that come with PocketViT. Imports no torch."""

from __future__ import annotations

from compress.search.tas.settings import TasSettings
from compress.search.tree.settings import TreeSettings

from .base import SearchMethod
from .sparse_settings import SparseSettings

_FISHER = "Fisher importance, which it takes anew on the models along its way"

ONE_SHOT = SearchMethod(
    name="one-shot",
    summary="least importance per cost first",
    choose="compress.search.one_shot:choose",
    in_bases=True,
    any_cost=True,
)

MILP = SearchMethod(
    name="milp",
    summary="the least importance for the budget, solved as an integer program",
    choose="compress.search.milp:choose",
    in_bases=True,
)

GREEDY = SearchMethod(
    name="greedy",
    summary="the best action by measured accuracy, again and again",
    choose="compress.search.tree.method:choose_greedily",
    kind="rounds",
    settings=TreeSettings,
    group="tree",
    ranks_by=_FISHER,
    in_bases=True,
    any_cost=True,
    one_round=True,
)

DFBNB = SearchMethod(
    name="dfbnb",
    summary="branch and bound over actions, round after round",
    choose="compress.search.tree.method:choose",
    kind="rounds",
    settings=TreeSettings,
    group="tree",
    ranks_by=_FISHER,
    in_bases=True,
    any_cost=True,
)

TAS = SearchMethod(
    name="tas",
    summary="widths and depth learnt by gradient",
    choose="compress.search.tas.method:choose",
    settings=TasSettings,
    group="tas",
    record="compress.search.tas.method:record",
    scratch=("tas.safetensors",),
)

UNIFORM = SearchMethod(
    name="uniform",
    summary="all widths scaled alike",
    choose="compress.search.uniform:choose",
    in_bases=True,
)

UNSTRUCTURED = SearchMethod(
    name="unstructured",
    summary="zeros in place of the smallest weights, every width stays",
    choose="compress.search.unstructured:choose",
    kind="zeros",
    settings=SparseSettings,
    group="sparse",
    ranks_by="the magnitude of weights",
)
