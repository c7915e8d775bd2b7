"""The command ``distill``."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from runtime import PlanError, encode

from .options import name_values, plain_value, run_settings
from .output import print_json, say
from .settings import RunSettings

_TEACHER, _LESSON = "Teacher", "Distillation"
_LEFT_OUT_PANELS = ("Pruning", "Export")
_LEFT_OUT = ("distill", "distill_method", "recovery_epochs", "recovery_lr")


def _option(panel: str, help_text: str, *names: str) -> Any:
    return typer.Option(*names, help=help_text, rich_help_panel=panel)


def _with_training_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Gives ``command(settings, ...)`` the options of model, data and training in place of its first parameter."""
    own = list(inspect.signature(command).parameters.values())[1:]
    shared = [p for p in inspect.signature(run_settings).parameters.values() if _concerns_training(p)]

    @functools.wraps(command)
    def wrapper(**values: Any) -> None:
        settings = run_settings(**{p.name: values.pop(p.name) for p in shared})
        command(replace(settings, recover=settings.fine_tune), **values)

    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*own, *shared)]
    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {p.name: p.annotation for p in parameters}
    return wrapper


def _concerns_training(parameter: inspect.Parameter) -> bool:
    option = parameter.annotation.__metadata__[0]
    return option.rich_help_panel not in _LEFT_OUT_PANELS and parameter.name not in _LEFT_OUT


@_with_training_settings
def distill(
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
    teacher_checkpoint: Annotated[str, _option(_TEACHER, "Start it from a .safetensors or .pth file.")] = "",
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
    name: Annotated[str | None, typer.Option(help="The run's name; by default from data and model.")] = None,
    runs: Annotated[Path, typer.Option(help="Folder of all runs.")] = Path("runs"),
    resume: Annotated[bool, typer.Option("--resume", help="Continue a run that was stopped.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a run that is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")] = False,
) -> None:
    """Teach a small model what a larger one knows: by its answers, hidden states, or how it arranges images.

    The run's baseline is the same student trained on the labels alone; its sliced model is the taught one.
    """
    from compress import Distillation, DistillMethod

    from . import distilling
    from .console import shown
    from .distill_settings import DistillSettings

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
    told = DistillSettings(
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
    root = runs / (name or f"{_named_after(settings, student)}-distilled")
    with shown() as progress:
        done = distilling.distill(settings, told, root, resume=resume, force=force, progress=progress)
    if as_json:
        body = {"run": done.summary.name, "rows": encode(done.summary.rows), "teacher": encode(done.teacher)}
        print_json("pocketvit.distillation", body)
        return
    _print(done)
    say(f"The taught model is in {root / 'sliced'}; export it with: pocketvit export {root}")


def _print(done: Any) -> None:
    from device_bench import format

    from .console import stdout_console
    from .table import summary_tables

    console = stdout_console()
    if done.teacher is not None:
        known = f"{format.count(done.teacher.params)} parameters, " if done.teacher.params else ""
        console.print(f"Teacher: {done.teacher.name}, {known}top-1 {format.percent(done.teacher.top1)}")
    console.print(*summary_tables(done.summary, console.width), sep="\n")
    if done.teacher is not None and done.teacher.top1 < (done.summary.rows[0].top1 or 0.0):
        say("Note: the teacher is worse than the student is without it; train it longer.")
    for note in done.summary.notes:
        say(f"Note: {note}")


def _named_after(settings: RunSettings, student: str) -> str:
    return Path(student).resolve().name if student else settings.name


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
