"""The options of ``distill``, and the settings that they make."""

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from pocketvit.settings import RunSettings
from runtime import PlanError

from .options import name_values, plain_value, run_settings

if TYPE_CHECKING:
    from pocketvit.distill_settings import DistillSettings

_TEACHER, _LESSON = "Teacher", "Distillation"
_LEFT_OUT_PANELS = ("Pruning", "Export")
_LEFT_OUT = ("distill", "distill_method", "recovery_epochs", "recovery_lr")


def _option(panel: str, help_text: str, *names: str) -> Any:
    return typer.Option(*names, help=help_text, rich_help_panel=panel)


def lesson_settings(
    settings: RunSettings,
    teacher: Annotated[
        str, _option(_TEACHER, "A timm architecture, a run or teacher folder, or an .onnx or .tflite file.")
    ] = "",
    teacher_epochs: Annotated[
        int, _option(_TEACHER, "Train a timm teacher on the labelled images first, for at most so many epochs.")
    ] = 0,
    teacher_pretrained: Annotated[
        bool, _option(_TEACHER, "Start a timm teacher from its published weights.", "--teacher-pretrained")
    ] = False,
    teacher_checkpoint: Annotated[str, _option(_TEACHER, "Start it from a file, as with --checkpoint.")] = "",
    teacher_img_size: Annotated[int | None, _option(_TEACHER, "Its input side, pixels; may differ.")] = None,
    teacher_arg: Annotated[
        list[str] | None, _option(_TEACHER, "A further argument of its architecture, such as in_chans=1. Repeatable.")
    ] = None,
    teacher_lr: Annotated[float | None, _option(_TEACHER, "Peak learning rate of its training.")] = None,
    online: Annotated[bool, _option(_TEACHER, "Train teacher and student together.", "--online")] = False,
    mutual_weight: Annotated[
        float, _option(_TEACHER, "Weight of the student's answers in an online teacher's loss, 0 to 1.")
    ] = 0.5,
    method: Annotated[
        str, _option(_LESSON, "What is learnt, comma-separated: response, feature, relation, self.")
    ] = "response",
    blocks: Annotated[
        str, _option(_LESSON, "feature: pairs of student's and teacher's blocks, such as 6:2,12:4; from 1.")
    ] = "",
    feature_weight: Annotated[float, _option(_LESSON, "feature: weight of the hidden states.")] = 1.0,
    distance_weight: Annotated[float, _option(_LESSON, "relation: weight of distances between images.")] = 25.0,
    angle_weight: Annotated[float, _option(_LESSON, "relation: weight of angles between images.")] = 50.0,
    self_blocks: Annotated[str, _option(_LESSON, "self: blocks that the last one teaches, such as 3,6,9.")] = "",
    self_weight: Annotated[float, _option(_LESSON, "self: weight of its answers, 0 to 1.")] = 0.3,
    unlabelled: Annotated[str, _option(_LESSON, "A folder of images without labels, for the teacher to label.")] = "",
    student: Annotated[
        str, _option(_LESSON, "Teach the sliced model of this run folder; it brings its data along.")
    ] = "",
    alone: Annotated[
        bool, _option(_LESSON, "Train the student without the teacher too, to compare with.", "--alone/--no-alone")
    ] = True,
) -> "DistillSettings":
    """Returns what the options of teacher and distillation say; ``settings`` are those of the model and its training.

    Raises:
        PlanError: an option cannot be read or is out of range, or two contradict each other.
    """
    from compress.distill.settings import Distillation, DistillMethod
    from pocketvit.distill_settings import DistillSettings

    lesson = Distillation(
        methods=cast(tuple[DistillMethod, ...], tuple(part.strip() for part in method.split(","))),
        weight=settings.distill_weight,
        temperature=settings.temperature,
        blocks=_block_pairs(blocks),
        feature_weight=feature_weight,
        distance_weight=distance_weight,
        angle_weight=angle_weight,
        self_blocks=_whole_numbers("--self-blocks", self_blocks),
        self_weight=self_weight,
        online=online,
        mutual_weight=mutual_weight,
        teacher_lr=teacher_lr if online else None,
    )
    return DistillSettings(
        distillation=lesson,
        teacher=teacher,
        student=student,
        unlabelled=unlabelled,
        alone=alone,
        teacher_img_size=teacher_img_size,
        teacher_pretrained=teacher_pretrained,
        teacher_checkpoint=teacher_checkpoint,
        teacher_args={key: plain_value(text) for key, text in name_values("--teacher-arg", teacher_arg)},
        teacher_epochs=teacher_epochs,
        teacher_train_lr=None if online else teacher_lr,
    )


def settings_of(values: Mapping[str, Any]) -> tuple[RunSettings, "DistillSettings"]:
    """Returns the settings that ``distill`` makes of its options.

    Args:
        values: by parameter of ``lesson_settings`` and ``run_settings``; any other is left out.

    Raises:
        PlanError: an option cannot be read or is out of range, or two contradict each other.
    """
    settings = run_settings(**_given(values, _training_options()))
    told = lesson_settings(settings, **_given(values, _lesson_options()))
    return replace(settings, recover=settings.fine_tune), told


def with_distill_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Gives ``command(settings, told, ...)`` the options of ``distill`` in place of its first two parameters."""
    own = list(inspect.signature(command).parameters.values())[2:]

    @functools.wraps(command)
    def wrapper(**values: Any) -> None:
        command(*settings_of(values), **_given(values, own))

    parameters = [
        p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*_lesson_options(), *own, *_training_options())
    ]
    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {p.name: p.annotation for p in parameters}
    return wrapper


def _given(values: Mapping[str, Any], parameters: list[inspect.Parameter]) -> dict[str, Any]:
    return {p.name: values[p.name] for p in parameters if p.name in values}


def _lesson_options() -> list[inspect.Parameter]:
    return list(inspect.signature(lesson_settings).parameters.values())[1:]


def _training_options() -> list[inspect.Parameter]:
    """Returns the options of ``run_settings`` that concern model, data and training."""
    return [p for p in inspect.signature(run_settings).parameters.values() if _concerns_training(p)]


def _concerns_training(parameter: inspect.Parameter) -> bool:
    option = parameter.annotation.__metadata__[0]
    return option.rich_help_panel not in _LEFT_OUT_PANELS and parameter.name not in _LEFT_OUT


def _block_pairs(text: str) -> tuple[tuple[int, int], ...]:
    pairs = []
    for part in filter(None, text.split(",")):
        numbers = _whole_numbers("--blocks", part.replace(":", ","))
        if part.count(":") != 1 or len(numbers) != 2:
            raise PlanError("--blocks cannot be read", expected="STUDENT:TEACHER, such as 6:2,12:4", got=repr(part))
        pairs.append((numbers[0], numbers[1]))
    return tuple(pairs)


def _whole_numbers(option: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",")) if text else ()
    except ValueError:
        raise PlanError(f"{option} takes whole numbers", got=repr(text)) from None
