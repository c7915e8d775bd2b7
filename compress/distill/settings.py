"""What a student is taught by, as data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal, get_args

from compress.recipe import TrainRecipe
from runtime import PlanError, check_fields
from runtime.options import Option

DistillMethod = Literal["response", "feature", "relation", "self", "tokens"]
DISTILL_METHODS: tuple[DistillMethod, ...] = get_args(DistillMethod)

TEACHER_PANEL, LESSON_PANEL = "Teacher", "Distillation"
_teacher, _lesson = partial(Option, panel=TEACHER_PANEL), partial(Option, panel=LESSON_PANEL)


@dataclass(frozen=True)
class Distillation:
    """What is added to the loss of a student, and how much of it.

    The student's loss is ``(1 - weight) * cross-entropy + weight * T^2 * KL`` with ``response``, and the
    cross-entropy without; the terms of the other methods come on top.

    Each field's ``Option`` describes it. Blocks are counted from 1.

    Attributes:
        weight: weight of the teacher's logits, 0..1.
        temperature: temperature of every softmax in the losses; positive.
        self_feature_weight: weight of the last block's hidden state in self-distillation.
        teacher_lr: peak learning rate of a teacher that is trained together; None takes the student's.
        fresh_lr: peak learning rate of projections and shallow classifiers, whose weights are fresh.

    Raises:
        PlanError: a value is out of range, or a method is unknown or named twice.
    """

    methods: Annotated[
        tuple[DistillMethod, ...],
        _lesson("What is learnt, comma-separated: response, feature, relation, self, tokens.", name="--method"),
    ] = ("response",)
    weight: float = TrainRecipe.distill_weight
    temperature: float = TrainRecipe.temperature
    blocks: Annotated[
        tuple[tuple[int, int], ...],
        _lesson(
            "feature: pairs of student's and teacher's blocks, counted from 1, such as 6:2,12:4; by default the "
            "middle and the last of both."
        ),
    ] = ()
    feature_weight: Annotated[float, _lesson("feature: weight of the mean over the pairs of hidden states.")] = 1.0
    token_weight: Annotated[
        float, _lesson("tokens: weight of the relative error of the last tokens and the classifier's input.")
    ] = 1.0
    distance_weight: Annotated[float, _lesson("relation: weight of distances between images.")] = 25.0
    angle_weight: Annotated[float, _lesson("relation: weight of angles between images.")] = 50.0
    self_blocks: Annotated[
        tuple[int, ...],
        _lesson(
            "self: blocks that the last one teaches, counted from 1, such as 3,6,9; by default those at a quarter, "
            "a half and three quarters of the depth."
        ),
    ] = ()
    self_weight: Annotated[
        float, _lesson("self: weight of the last block's answers, 0 to 1; labels have the rest.")
    ] = 0.3
    self_feature_weight: float = 0.03
    online: Annotated[bool, _teacher("Train teacher and student together.", negative=False)] = False
    mutual_weight: Annotated[
        float, _teacher("Weight of the student's answers in the loss of an online teacher, 0 to 1.")
    ] = 0.5
    teacher_lr: float | None = None
    fresh_lr: float = 1e-3

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.methods or len(set(self.methods)) != len(self.methods):
            raise PlanError(
                "The methods of distillation cannot be read",
                expected=f"some of {', '.join(DISTILL_METHODS)}, each once",
                got=", ".join(self.methods) or "none",
            )
        for name in ("weight", "self_weight", "mutual_weight"):
            if not 0 <= getattr(self, name) <= 1:
                raise PlanError(f"{name} must be between 0 and 1", got=getattr(self, name))
        for name in ("feature_weight", "token_weight", "distance_weight", "angle_weight", "self_feature_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise PlanError(f"{name} must not be negative", got=getattr(self, name))
        for name in ("temperature", "teacher_lr", "fresh_lr"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise PlanError(f"{name} must be positive", got=value)
        if self.online and self.methods == ("self",):
            raise PlanError("Self-distillation has no teacher to train together with", fix="Leave out --online")

    @property
    def needs_teacher(self) -> bool:
        """Whether any of the methods has a teacher."""
        return self.methods != ("self",)


def feature_pairs(settings: Distillation, student_depth: int, teacher_depth: int) -> tuple[tuple[int, int], ...]:
    """Returns the blocks to compare, counted from 0.

    Raises:
        PlanError: a block is not there.
    """
    if not settings.blocks:
        halves = (-(-student_depth // 2) - 1, -(-teacher_depth // 2) - 1)
        return tuple(dict.fromkeys((halves, (student_depth - 1, teacher_depth - 1))))
    for own, other in settings.blocks:
        for whose, block, depth in (("student", own, student_depth), ("teacher", other, teacher_depth)):
            if not 1 <= block <= depth:
                raise PlanError(f"The {whose} has no block {block}", expected=f"1 to {depth}", fix="Change --blocks")
    return tuple((own - 1, other - 1) for own, other in settings.blocks)


def shallow_blocks(settings: Distillation, depth: int) -> tuple[int, ...]:
    """Returns the blocks that the last one teaches, counted from 0.

    Raises:
        PlanError: a block is not there or is the last one, or there is no block before it.
    """
    if depth < 2:
        raise PlanError("Self-distillation needs two blocks or more", got=depth)
    if not settings.self_blocks:
        return tuple(sorted({max(1, round(depth * share)) - 1 for share in (0.25, 0.5, 0.75)} - {depth - 1}))
    for block in settings.self_blocks:
        if not 1 <= block < depth:
            raise PlanError(
                f"Block {block} cannot be taught by the last one",
                expected=f"1 to {depth - 1}",
                fix="Change --self-blocks",
            )
    return tuple(block - 1 for block in settings.self_blocks)
