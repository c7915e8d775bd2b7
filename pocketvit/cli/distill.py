"""The command ``distill``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pocketvit.settings import RunSettings
from runtime import encode

from .distill_options import with_distill_settings
from .output import print_json, say

if TYPE_CHECKING:
    from pocketvit.distill_settings import DistillSettings


@with_distill_settings
def distill(
    settings: RunSettings,
    told: "DistillSettings",
    name: Annotated[str | None, typer.Option(help="The run's name; by default from data and model.")] = None,
    runs: Annotated[Path, typer.Option(help="Folder of all runs.")] = Path("runs"),
    resume: Annotated[bool, typer.Option("--resume", help="Continue a run that was stopped.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a run that is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")] = False,
) -> None:
    """Teach a small model what a larger one knows: by its answers, hidden states, or how it arranges images.

    The run's baseline is the same student trained on the labels alone; its sliced model is the taught one.
    """
    from pocketvit.jobs import distilling

    from .console import shown

    root = runs / (name or f"{_named_after(settings, told.student)}-distilled")
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
    from pocketvit.cli.tables.results import summary_tables

    from .console import stdout_console

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
