"""The command ``compress``."""

from __future__ import annotations

from collections.abc import Mapping

from pocketvit.options import Raw, run_options, run_settings
from pocketvit.output import print_json, say

from .common import RUNS, Force, Json, Name, Resume, Runs, with_options
from .summary import print_summary, summary_body


@with_options(run_options)
def compress(
    given: Mapping[str, Raw],
    *,
    name: Name = None,
    runs: Runs = RUNS,
    resume: Resume = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Make the model smaller: fine-tune, choose what to prune, slice, recover."""
    from pocketvit.pipeline import run as pipeline
    from pocketvit.progress import show_progress

    settings = run_settings(given)
    root = runs / (name or settings.name)
    with show_progress() as progress:
        summary = pipeline.compress(settings, root, resume=resume, force=force, progress=progress)
    if as_json:
        print_json("pocketvit.summary", summary_body(summary))
        return
    print_summary(summary)
    say(f"The smaller model is in {root / 'sliced'}; export it with: pocketvit export {root}")
