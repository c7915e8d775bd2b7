"""A search method as data: its settings, what it needs, and the function that chooses. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from compress.budget import Budget, Cost
from compress.recipe import TrainRecipe
from runtime import MULTIPLE, PlanError, Preprocessing, Progress, ShapePlan, check_fields, silent
from runtime.registry import imported

if TYPE_CHECKING:
    from compress.data.augment import Augmentation
    from compress.data.dataset import Dataset
    from compress.data.search_images import SearchImages
    from compress.importance.units import Importance
    from compress.model.slicing import KeptUnits
    from compress.model.vit import SlicedViT
    from compress.train.masks import Masks


@dataclass(frozen=True)
class GroupSizes:
    """How many units one removal takes, by kind; each is a multiple of 8.

    Raises:
        PlanError: a size is not a positive multiple of 8.
    """

    mlp: int = MULTIPLE
    qk: int = MULTIPLE
    v: int = MULTIPLE
    embed: int = MULTIPLE

    def __post_init__(self) -> None:
        check_fields(self)
        for name, size in asdict(self).items():
            if size < MULTIPLE or size % MULTIPLE:
                raise PlanError(f"The group size of {name} must be a positive multiple of {MULTIPLE}", got=size)


_WIDE = 1024
_TILES = {"mlp": 32, "qk": 16}


def usual_groups(plan: ShapePlan) -> GroupSizes:
    """Returns the steps in which a search in the best bases reduces the widths of a model unless told otherwise.

    Engines compute products in tiles of 16 or 32 outputs, and a width in between takes the time of the next one. Where
    MLPs have 1,024 units, larger steps leave choice enough, and a model of the same MACs is faster. Smaller models,
    values, and the residual stream keep steps of 8. So do models that answer with vectors or grids: the little that the
    larger steps lose hardly shows in an answer among classes, but moves some neighbours.

    Args:
        plan: plan of the whole model.
    """
    wide = min(block.mlp_dim for block in plan.blocks) >= _WIDE
    return GroupSizes(**_TILES) if wide and plan.output == "classes" else GroupSizes()


@dataclass(frozen=True)
class Proposal:
    """The outcome of a search.

    Attributes:
        plan: plan of the pruned model.
        kept: the units that stay, as indices into the model that was searched.
        steps: how the search got there, JSON values; each step has ``action``, ``block`` (-1 for the whole model),
            ``importance`` (lost by it) and ``cost`` (of the model after it).
        masks: the weights that become zeros, for methods of kind ``zeros``; None for the others.
    """

    plan: ShapePlan
    kept: KeptUnits
    steps: tuple[dict[str, Any], ...] = ()
    masks: Masks | None = None


@dataclass(frozen=True)
class MeasuredUnits:
    """Units whose importance was measured before the search, in the best bases of the model.

    Attributes:
        importance: importance of every unit of the model.
        cut: returns the model that keeps some units, with its weights fitted to those that are removed.
    """

    importance: Importance
    cut: Callable[[KeptUnits], SlicedViT]


@dataclass(frozen=True)
class SearchInputs:
    """Everything that a search method may use.

    Attributes:
        model: the model to prune; methods leave it as it is.
        settings: the method's settings, an instance of ``SearchMethod.settings``; None where it has none.
        budget: the most the result may cost; None for methods without a budget.
        cost: the cost that removals are ranked by; None for methods without a budget.
        total: cost of the baseline.
        groups: how many units one removal takes.
        data: the dataset.
        spec: the model's input.
        augmentation: random changes to training pictures.
        recipe: recipe of the recovery; a method that trains starts from it.
        take_importance: measures the importance of the model's units by the criterion that was asked for.
        draw_images: draws the Search Set of this round.
        gradient_batch: images of one gradient of the importance.
        asked: header of the method's journals: what identifies this search, JSON values.
        folder: where the method may keep journals and the state of an unfinished search.
        seed: seed of everything random.
        bf16: compute under bfloat16 autocast.
        progress: called as the search advances.
        measured: the units in the best bases; None where the model is cut as it is.
    """

    model: SlicedViT
    settings: Any
    budget: Budget | None
    cost: Cost | None
    total: int
    groups: GroupSizes
    data: Dataset
    spec: Preprocessing
    augmentation: Augmentation
    recipe: TrainRecipe
    take_importance: Callable[[], Importance]
    draw_images: Callable[[], SearchImages]
    gradient_batch: int
    asked: Mapping[str, Any]
    folder: Path
    seed: int = 0
    bf16: bool = False
    progress: Progress = silent
    measured: MeasuredUnits | None = None

    @property
    def required_budget(self) -> Budget:
        """The budget, for methods that have one."""
        assert self.budget is not None
        return self.budget

    @property
    def required_cost(self) -> Cost:
        """The cost that removals are ranked by, for methods that have a budget."""
        assert self.cost is not None
        return self.cost


Choose = Callable[[SearchInputs], Proposal]

MethodKind = Literal["units", "rounds", "zeros"]
"""Kinds of search methods.

``units`` chooses the units to remove once; ``rounds`` searches, slices and recovers until the budget is met;
``zeros`` removes no unit and makes weights zero, and its settings have the fields ``sparsity`` and ``scope``.
"""


@dataclass(frozen=True)
class SearchMethod:
    """A way to choose what to prune.

    Attributes:
        name: name of the method for ``--search``.
        summary: description in a few words, for ``--help``.
        choose: the function that chooses, or its place as ``"module:function"``. A place is imported when the function
            is first called, so that listing the methods imports no torch.
        kind: see ``MethodKind``.
        settings: dataclass of the method's settings, which is also its group of options; None for a method without
            settings. For kind ``rounds`` it has the fields ``iterations`` and ``round_epochs``.
        group: field of ``RunSettings`` that holds the settings; empty where there are none.
        ranks_by: criterion that the method uses in place of the run's ``importance``, to end a sentence "It goes by
            ..."; empty for a method that uses the run's ``importance``.
        in_bases: whether the method can search a model in its best bases, by the measured loss of its units.
        any_cost: whether removals may be ranked by another cost than the one that the budget limits.
        one_round: for kind ``rounds``, whether one round is enough to meet the budget.
        record: function of the settings and the recipe that returns their part of the journal's header, or its place;
            for methods whose outcome depends on them.
        scratch: names of files in the search's folder that are removed when the search has finished.
        explain: a sentence for the report on how the units were chosen; the journal keeps it. The report knows the
            methods that come with PocketViT.
    """

    name: str
    summary: str
    choose: Choose | str
    kind: MethodKind = "units"
    settings: type[Any] | None = None
    group: str = ""
    ranks_by: str = ""
    in_bases: bool = False
    any_cost: bool = False
    one_round: bool = False
    record: Callable[[Any, TrainRecipe], dict[str, Any]] | str | None = None
    scratch: tuple[str, ...] = ()
    explain: str = ""

    @property
    def needs_budget(self) -> bool:
        """Whether the method removes units until a budget is met; otherwise it takes no budget."""
        return self.kind != "zeros"

    def run(self, inputs: SearchInputs) -> Proposal:
        """Chooses what to prune.

        Raises:
            PlanError: the budget cannot be met.
        """
        proposal: Proposal = _function(self.choose)(inputs)
        return proposal

    def recorded(self, settings: Any, recipe: TrainRecipe) -> dict[str, Any]:
        """Returns what the journal records of the method's settings, JSON values.

        Args:
            settings: the method's settings.
            recipe: recipe of the recovery.
        """
        found: dict[str, Any] = _function(self.record)(settings, recipe) if self.record else {}
        return found


def _function(place: Callable[..., Any] | str) -> Callable[..., Any]:
    return imported(place) if isinstance(place, str) else place
