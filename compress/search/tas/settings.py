"""How a transformable architecture search learns, as data."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from runtime import PlanError, check_fields
from runtime.options import Option

Alignment = Literal["interpolate", "mask"]
"""How the channels of a narrower candidate are added to those of a wider one: ``interpolate`` resizes them, as
published; ``mask`` adds them to the first channels, which are the same units."""

Optimizer = Literal["sgd", "adam"]
"""Optimiser of the odds: plain gradient steps, or Adam, as published."""


@dataclass(frozen=True)
class TasSettings:
    """How ``tas`` learns widths and depth.

    Each field's ``Option`` describes it. With ``exact``, the odds are learnt as published, for networks of fresh
    weights; otherwise in the way that suits a trained model.

    Raises:
        PlanError: a value is of another type or out of range.
    """

    epochs: Annotated[
        int,
        Option(
            "tas: epochs of the search, in which half of the training images train the weights and half the odds.",
            name="--search-epochs",
        ),
    ] = 20
    candidates: Annotated[int, Option("tas: most candidates of a width or of the depth.")] = 8
    tolerance: Annotated[float, Option("tas: share of the budget by which the result may stay below it, 0 to 1.")] = (
        0.05
    )
    exact: Annotated[bool, Option("tas: learn as published.", negative=False)] = False
    lr: Annotated[
        float | None,
        Option("tas: learning rate of the odds; by default 4, or with --exact 0.05.", name="--odds-lr"),
    ] = None

    def __post_init__(self) -> None:
        check_fields(self)
        if self.epochs < 1:
            raise PlanError("The epochs of a search must be at least 1", got=self.epochs)
        self.odds_recipe()

    def odds_recipe(self) -> OddsRecipe:
        """Returns the training of the odds for these settings."""
        usual = ODDS_AS_PUBLISHED if self.exact else OddsRecipe()
        lr = usual.lr if self.lr is None else self.lr
        return replace(usual, candidates=self.candidates, tolerance=self.tolerance, lr=lr)


@dataclass(frozen=True)
class OddsRecipe:
    """Training of the odds over widths and depth; the defaults suit a trained model.

    With plain gradient steps, the log-odds of all choices have the unit of the loss, so that choices can be traded
    against each other where not all can have their likeliest candidate. Adam scales each choice by its gradient's size.

    Attributes:
        candidates: most candidates of a width or of the depth.
        least_share: smallest candidate as a share of the model's width or depth, 0..1.
        tolerance: share of the budget by which the result may stay below it, 0..1.
        cost_weight: lambda, the weight of the cost loss.
        optimizer: optimiser of the odds' logits.
        lr: learning rate of the logits.
        weight_decay: weight decay of the logits.
        clip_norm: highest Euclidean norm of the gradient of all logits together; 0 does not clip.
        hot: temperature of the first samples.
        cold: temperature of the last samples; it falls linearly.
        records: approximate number of lines in the journal.
        align: how channels of candidates are added.
        drawn: most candidates of a width in a step of the odds; steps of the weights have two.

    Raises:
        PlanError: a value is out of range.
    """

    candidates: int = TasSettings.candidates
    least_share: float = 0.1
    tolerance: float = TasSettings.tolerance
    cost_weight: float = 0.2
    optimizer: Optimizer = "sgd"
    lr: float = 4.0
    weight_decay: float = 0.0
    clip_norm: float = 0.05
    hot: float = 1.0
    cold: float = 0.1
    records: int = 100
    align: Alignment = "mask"
    drawn: int = 8

    def __post_init__(self) -> None:
        check_fields(self)
        for name, low in (("candidates", 2), ("drawn", 2), ("records", 1)):
            if getattr(self, name) < low:
                raise PlanError(f"{name} must be at least {low}", got=getattr(self, name))
        for name in ("least_share", "tolerance"):
            if not 0 < getattr(self, name) < 1:
                raise PlanError(f"{name} must be more than 0 and less than 1", got=getattr(self, name))
        for name in ("cost_weight", "weight_decay", "clip_norm"):
            if not 0 <= getattr(self, name) < math.inf:
                raise PlanError(f"{name} must not be negative", got=getattr(self, name))
        for name in ("lr", "hot", "cold"):
            if not 0 < getattr(self, name) < math.inf:
                raise PlanError(f"{name} must be positive", got=getattr(self, name))
        if self.cold > self.hot:
            raise PlanError("The temperature falls: cold must not be above hot", got=f"{self.hot} to {self.cold}")


ODDS_AS_PUBLISHED = OddsRecipe(
    least_share=0.3,
    cost_weight=2.0,
    optimizer="adam",
    lr=0.05,
    weight_decay=0.001,
    clip_norm=0.0,
    hot=10.0,
    align="interpolate",
    drawn=2,
)
"""The published settings (Dong and Yang 2019, arXiv 1905.09717), for networks searched from fresh weights, except for
the learning rate, which is 0.001 over 600 epochs in the paper."""
