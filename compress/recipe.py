"""How a model is trained, as data."""

from __future__ import annotations

from dataclasses import dataclass, field

from runtime import PlanError, check_fields


@dataclass(frozen=True)
class TrainRecipe:
    """Settings of a training with AdamW, cosine annealing and early stopping; with a teacher also of distillation.

    Attributes:
        epochs: most passes over the training split; 0 trains nothing.
        batch_size: images per step.
        lr: peak learning rate of the backbone.
        head_lr: peak learning rate of the classifier.
        weight_decay: decay of weights with two or more dimensions.
        warmup: share of all steps with a rising learning rate, 0..1.
        patience: stop after this many epochs without a better held-out accuracy (or equal and lower loss).
        clip_norm: largest gradient norm; 0 does not clip.
        distill_weight: weight of the distillation term, 0..1; cross-entropy has the rest of 1.
        temperature: temperature of the softmax in the distillation term.
        minutes: most wall-clock time of the training; its first steps are timed, and then the number of steps is fixed.
            0 sets no limit. The representation leaves it out, so that trainings of earlier versions are resumed.

    Raises:
        PlanError: a value is out of range.
    """

    epochs: int
    batch_size: int = 128
    lr: float = 0.5e-5
    head_lr: float = 0.5e-5
    weight_decay: float = 0.05
    warmup: float = 0.0
    patience: int = 5
    clip_norm: float = 0.0
    distill_weight: float = 0.9
    temperature: float = 4.0
    minutes: float = field(default=0.0, repr=False)

    def __post_init__(self) -> None:
        check_fields(self)
        for name, low in (("epochs", 0), ("batch_size", 1), ("patience", 1)):
            if getattr(self, name) < low:
                raise PlanError(f"{name} must be at least {low}", got=getattr(self, name))
        for name in ("lr", "head_lr", "temperature"):
            if not 0 < getattr(self, name) < float("inf"):
                raise PlanError(f"{name} must be positive", got=getattr(self, name))
        for name in ("weight_decay", "clip_norm", "minutes"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise PlanError(f"{name} must not be negative", got=getattr(self, name))
        for name in ("warmup", "distill_weight"):
            if not 0 <= getattr(self, name) <= 1:
                raise PlanError(f"{name} must be between 0 and 1", got=getattr(self, name))


FINE_TUNE = TrainRecipe(epochs=30, lr=0.5e-5, head_lr=0.5e-4)
"""Fine-tuning of pretrained weights before pruning, as published."""

RECOVER = TrainRecipe(epochs=20, lr=0.5e-5, head_lr=0.5e-5)
"""Recovery after slicing, as published."""

SCRATCH = TrainRecipe(epochs=40, batch_size=32, lr=1e-3, head_lr=1e-3, warmup=0.1, patience=10, clip_norm=1.0)
"""Training of fresh weights on a small dataset."""

SCRATCH_RECOVER = TrainRecipe(epochs=15, batch_size=32, lr=5e-4, head_lr=5e-4, warmup=0.1, patience=8, clip_norm=1.0)
"""Recovery of a model that was trained from fresh weights, with a learning rate of the same order."""
