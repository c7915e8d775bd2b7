"""The command ``distill``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pocketvit.options import Raw, distill_options, distill_settings
from pocketvit.output import print_json, say
from runtime import encode

from .common import RUNS, Force, Json, Name, Resume, Runs, with_options

if TYPE_CHECKING:
    from pocketvit.jobs.distilling import Distilled


@with_options(distill_options)
def distill(
    given: Mapping[str, Raw],
    *,
    name: Name = None,
    runs: Runs = RUNS,
    resume: Resume = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Teach a small model by the answers, hidden states or image relations of a larger one.

    The run's baseline is the same student trained on the labels alone; its sliced model is the taught one.
    """
    from pocketvit.jobs import distilling
    from pocketvit.progress import show_progress

    settings, lesson = distill_settings(given)
    taught = Path(lesson.student).resolve().name if lesson.student else settings.name
    root = runs / (name or f"{taught}-distilled")
    with show_progress() as progress:
        done = distilling.distill(settings, lesson, root, resume=resume, force=force, progress=progress)
    if as_json:
        body = {"run": done.summary.name, "rows": encode(done.summary.rows), "teacher": encode(done.teacher)}
        print_json("pocketvit.distillation", body)
        return
    _print(done)
    say(f"The taught model is in {root / 'sliced'}; export it with: pocketvit export {root}")


def _print(done: Distilled) -> None:
    from device_bench import format
    from pocketvit.cli.tables.results import summary_tables
    from pocketvit.console import stdout_console

    console = stdout_console()
    if done.teacher is not None:
        known = f"{format.count(done.teacher.params)} parameters, " if done.teacher.params else ""
        console.print(f"Teacher: {done.teacher.name}, {known}top-1 {format.percent(done.teacher.top1)}")
    console.print(*summary_tables(done.summary, console.width), sep="\n")
    if done.teacher is not None and done.teacher.top1 < (done.summary.rows[0].top1 or 0.0):
        say("Note: the teacher is worse than the student without it; train the teacher longer.")
    for note in done.summary.notes:
        say(f"Note: {note}")
