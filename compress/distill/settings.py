"""What a student is taught by, as data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from runtime import PlanError, check_fields

DistillMethod = Literal["response", "feature", "relation", "self"]
DISTILL_METHODS: tuple[DistillMethod, ...] = get_args(DistillMethod)


@dataclass(frozen=True)
class Distillation:
    """What is added to the loss of a student, and how much of it.

    The student's loss is ``(1 - weight) * cross-entropy + weight * T^2 * KL`` with ``response``, and the
    cross-entropy without; the terms of the other methods come on top.

    Attributes:
        methods: any of ``DISTILL_METHODS``; all but ``self`` need a teacher.
        weight: of the teacher's answers, 0..1.
        temperature: of every softmax that is compared; positive.
        blocks: pairs of a student's and a teacher's block whose hidden states are compared, counted from 1; empty
            takes the middle and the last of both.
        feature_weight: of the mean over these pairs.
        distance_weight: of the distances between pictures.
        angle_weight: of the angles between pictures.
        self_blocks: blocks that the last one teaches, counted from 1; empty takes those at a quarter, a half and
            three quarters of the depth.
        self_weight: of the last block's answers to them, 0..1; labels have the rest.
        self_feature_weight: of its hidden state.
        online: train the teacher together with the student.
        mutual_weight: of the student's answers in the loss of such a teacher, 0..1; labels have the rest.
        teacher_lr: peak learning rate of such a teacher; None takes the student's.
        fresh_lr: that of projections and shallow classifiers, whose weights are fresh.

    Raises:
        PlanError: a value is out of range, or a method is unknown or named twice.
    """

    methods: tuple[DistillMethod, ...] = ("response",)
    weight: float = 0.9
    temperature: float = 4.0
    blocks: tuple[tuple[int, int], ...] = ()
    feature_weight: float = 1.0
    distance_weight: float = 25.0
    angle_weight: float = 50.0
    self_blocks: tuple[int, ...] = ()
    self_weight: float = 0.3
    self_feature_weight: float = 0.03
    online: bool = False
    mutual_weight: float = 0.5
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
        for name in ("feature_weight", "distance_weight", "angle_weight", "self_feature_weight"):
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
