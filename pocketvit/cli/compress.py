"""The command ``compress``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pocketvit.options import Raw, run_options, settings_and_budgets
from pocketvit.output import say

from .common import RUNS, Force, Json, Name, Resume, Runs, with_options
from .summary import print_summaries, print_summaries_json


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
    from pocketvit.pipeline.budgets import compress_budgets
    from pocketvit.progress import show_progress

    settings, budgets = settings_and_budgets(given)
    root = runs / (name or settings.name)
    with show_progress() as progress:
        how: dict[str, Any] = {"resume": resume, "force": force, "progress": progress}
        if budgets:
            summaries = compress_budgets(settings, budgets, root, **how)
        else:
            summaries = (pipeline.compress(settings, root, **how),)
    if as_json:
        print_summaries_json(summaries)
        return
    print_summaries(summaries)
    for place in [root.with_name(own.name) for own in summaries] if budgets else [root]:
        say(f"The smaller model is in {place / 'sliced'}; export it with: pocketvit export {place}")
