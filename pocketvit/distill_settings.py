"""What ``pocketvit distill`` can be told, as data: what its options fill in and ``distill.json`` keeps."""

from __future__ import annotations

from dataclasses import dataclass, field

from compress.distill.settings import Distillation
from runtime import PlanError, check_fields


@dataclass(frozen=True)
class DistillSettings:
    """Who teaches what to whom, beside what ``RunSettings`` say of model, data and training.

    Attributes:
        distillation: the methods and their weights.
        teacher: a timm architecture, a run or teacher folder, or an exported file; empty without a teacher.
        student: a run folder whose sliced model is the student; empty takes the model of the run's settings.
        unlabelled: a folder of pictures that the teacher labels.
        alone: train the student without the teacher too, equally long, as the baseline to compare with; else the
            baseline is the student as it was.
        teacher_img_size: input side of a timm teacher, pixels; None takes the student's for fresh weights, else its
            own.
        teacher_pretrained: start it from timm's published weights.
        teacher_checkpoint: start it from this file's weights.
        teacher_args: further arguments of its architecture.
        teacher_epochs: train it on the labelled images first, for at most so many epochs.
        teacher_train_lr: peak learning rate of that training; None takes the student's.

    Raises:
        PlanError: a value is of another type, or two contradict each other.
    """

    distillation: Distillation = field(default_factory=Distillation)
    teacher: str = ""
    student: str = ""
    unlabelled: str = ""
    alone: bool = True
    teacher_img_size: int | None = None
    teacher_pretrained: bool = False
    teacher_checkpoint: str = ""
    teacher_args: dict[str, int | float | str | bool] = field(default_factory=dict)
    teacher_epochs: int = 0
    teacher_train_lr: float | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        needs = self.distillation.needs_teacher
        if needs != bool(self.teacher):
            what = "needs a teacher" if needs else "takes no teacher"
            raise PlanError(
                f"Distillation by {', '.join(self.distillation.methods)} {what}",
                expected="--teacher with a timm name, a run folder or an exported file" if needs else "no --teacher",
            )
        if self.unlabelled and not needs:
            raise PlanError("Nobody says what unlabelled images show", fix="Name a teacher, and a method that asks it")
        if self.teacher_pretrained and self.teacher_checkpoint:
            raise PlanError("--teacher-pretrained and --teacher-checkpoint are two sources of weights", fix="Give one")
        if self.teacher_img_size is not None and self.teacher_img_size < 1:
            raise PlanError("--teacher-img-size must be positive", got=self.teacher_img_size)
        if self.teacher_epochs < 0:
            raise PlanError("teacher_epochs must not be negative", got=self.teacher_epochs)
        if self.teacher_epochs and self.distillation.online:
            raise PlanError("An online teacher is trained together with the student", fix="Leave out --teacher-epochs")

    @property
    def learns(self) -> bool:
        """Whether the teacher is trained here."""
        return self.teacher_epochs > 0 or self.distillation.online
