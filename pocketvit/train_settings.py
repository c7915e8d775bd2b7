"""The settings of a run's two trainings, as data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Annotated

from runtime import PlanError, check_fields
from runtime.options import Option, Renamed

TRAINING_PANEL = "Training"
_training = partial(Option, panel=TRAINING_PANEL)


@dataclass(frozen=True)
class TrainSettings:
    """Changes to a training recipe; None keeps the recipe's own value (``compress.recipe.TrainRecipe``).

    Raises:
        PlanError: a value is of another type.
    """

    epochs: Annotated[int | None, _training("Most epochs of the first training; 0 trains nothing.")] = None
    batch_size: Annotated[int | None, _training("Images per step of both trainings.")] = None
    lr: Annotated[float | None, _training("Peak learning rate of the first training.")] = None
    head_lr: Annotated[float | None, _training("Peak learning rate of the classifier in the first training.")] = None
    patience: Annotated[int | None, _training("Epochs without improvement before a training stops.")] = None
    minutes: float | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        if self.minutes is not None and not 0 < self.minutes < math.inf:
            raise PlanError("--recovery-minutes must be positive", got=self.minutes)


RECOVERY = Renamed(
    {
        "epochs": _training("Most epochs of the training after slicing.", name="--recovery-epochs"),
        "lr": _training("Peak learning rate of the training after slicing.", name="--recovery-lr"),
        "head_lr": None,
        "minutes": _training(
            "Most minutes of the training after slicing; the time of its first steps fixes their number.",
            name="--recovery-minutes",
        ),
    }
)
"""Options of the training after slicing."""
