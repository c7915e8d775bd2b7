"""The settings of ``pocketvit distill``, as data: its options fill them in, and ``distill.json`` keeps them."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Annotated

from compress.distill.settings import LESSON_PANEL, TEACHER_PANEL, Distillation
from runtime import PlanError, check_fields
from runtime.options import Option

_teacher, _lesson = partial(Option, panel=TEACHER_PANEL), partial(Option, panel=LESSON_PANEL)


@dataclass(frozen=True)
class DistillSettings:
    """Teacher, student and methods of a distillation; ``RunSettings`` hold model, data and training.

    Each field's ``Option`` describes it.

    Raises:
        PlanError: a value is of another type, or two contradict each other.
    """

    distillation: Distillation = field(default_factory=Distillation)
    teacher: Annotated[
        str,
        _teacher(
            "A timm architecture, hf:OWNER/NAME of the Hugging Face Hub, the folder of a run, a teacher or a Hugging "
            "Face checkpoint, or an .onnx or .tflite file."
        ),
    ] = ""
    student: Annotated[str, _lesson("Teach the sliced model of this run folder, with the run's data.")] = ""
    unlabelled: Annotated[str, _lesson("A folder of images without labels, which the teacher labels.")] = ""
    alone: Annotated[
        bool, _lesson("Train the student without the teacher too, equally long, as the baseline to compare with.")
    ] = True
    teacher_img_size: Annotated[
        int | None,
        _teacher("Input side of a timm teacher, pixels; by default the student's for fresh weights, else its own."),
    ] = None
    teacher_pretrained: Annotated[
        bool, _teacher("Start a timm teacher from its published weights.", negative=False)
    ] = False
    teacher_checkpoint: Annotated[str, _teacher("Start a timm teacher from the weights in this file.")] = ""
    teacher_args: Annotated[
        dict[str, int | float | str | bool],
        _teacher(
            "Further argument of the teacher's architecture, such as in_chans=1. Repeatable.", name="--teacher-arg"
        ),
    ] = field(default_factory=dict)
    teacher_epochs: Annotated[
        int, _teacher("Train a timm teacher on the labelled images first, for at most so many epochs.")
    ] = 0
    teacher_train_lr: Annotated[
        float | None,
        _teacher("Peak learning rate of the teacher's training; by default the student's.", name="--teacher-lr"),
    ] = None

    def __post_init__(self) -> None:
        check_fields(self)
        needs = self.distillation.needs_teacher
        if needs != bool(self.teacher):
            what = "needs a teacher" if needs else "takes no teacher"
            raise PlanError(
                f"Distillation by {', '.join(self.distillation.methods)} {what}",
                expected="--teacher with a timm name, hf:OWNER/NAME, a folder or an exported file"
                if needs
                else "no --teacher",
            )
        if self.unlabelled and not needs:
            raise PlanError(
                "Unlabelled images need a teacher that labels them",
                fix="Name a teacher, and a method that uses its answers",
            )
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
