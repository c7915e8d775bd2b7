"""The search methods that come with PocketViT. Imports no torch."""

from __future__ import annotations

from .base import SearchMethod
from .sparse_settings import SparseSettings
from .tas.settings import TasSettings
from .tree.settings import TreeSettings

_FISHER = "Fisher importance, which it takes anew on the models along its way"
_DRAWN = "Drawn as if embed_dim were cut first and then block after block."

ONE_SHOT = SearchMethod(
    name="one-shot",
    summary="least importance per cost first",
    choose="compress.search.one_shot:choose",
    any_cost=True,
)

MILP = SearchMethod(
    name="milp",
    summary="the least importance for the budget, solved as an integer program",
    choose="compress.search.milp:choose",
    explain=f"All widths at once, by integer programming: the least importance lost within the budget. {_DRAWN}",
)

GREEDY = SearchMethod(
    name="greedy",
    summary="the best action by measured accuracy, again and again",
    choose="compress.search.tree.method:choose_greedily",
    kind="rounds",
    settings=TreeSettings,
    group="tree",
    ranks_by=_FISHER,
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
    explain=(
        "Widths and depth learnt by gradient: the odds of every candidate over the steps of the search, "
        "the likelier the darker, and what the most likely plan costs. The band is the tolerance. Kept are the "
        "most important units of the baseline at the widths found."
    ),
)

UNIFORM = SearchMethod(
    name="uniform",
    summary="all widths scaled alike",
    choose="compress.search.uniform:choose",
    explain=f"Every width scaled alike, as near as multiples of 8 come, down to the budget. {_DRAWN}",
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
