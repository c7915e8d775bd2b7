"""The command ``export``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from compress.model.hub.place import is_place, short_name
from pocketvit.options import Raw, run_options, run_settings
from pocketvit.output import fail, print_json, say
from pocketvit.settings import EXPORT_PANEL, RunSettings
from runtime import Artifact, ModelError, PlanError, encode

from .common import RUNS, Force, Json, Name, Resume, Runs, with_options


@with_options(run_options)
def export(
    given: Mapping[str, Raw],
    source: Annotated[Path | None, Parameter(help="A run folder; without it, the model named by --model.")] = None,
    /,
    *,
    name: Name = None,
    runs: Runs = RUNS,
    resume: Resume = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Write ONNX and TFLite files, each verified by running it.

    With a run folder, this exports its sliced model, and only the options of export apply. With --model, this exports
    that model as it is, with the weights of --pretrained, --checkpoint or --no-pretrained, or those that it brings.
    Classifiers of timm that cannot be pruned are written by the converters of the extra convert.
    """
    from export.exporter import RefusedFilesError
    from pocketvit.pipeline import run as pipeline
    from pocketvit.progress import show_progress

    if source is not None:
        of_new_run = {"--name": name is not None, "--runs": runs != RUNS, "--resume": resume, "--force": force}
        _check_export_options(source, given, [option for option, is_given in of_new_run.items() if is_given])
    settings = run_settings(given)
    refused: tuple[Artifact, ...] = ()
    with show_progress() as progress:
        try:
            if source is not None:
                folder = source / "artifacts"
                artifacts = pipeline.export_run(source, settings, progress)
            else:
                _check_weights(settings)
                root = runs / (name or short_name(settings.model))
                folder = root / "artifacts"
                artifacts = pipeline.export(settings, root, resume=resume, force=force, progress=progress)
        except RefusedFilesError as error:
            artifacts, refused = list(error.accepted), error.refused
    if as_json:
        body = {"folder": str(folder), "artifacts": [encode(a) for a in artifacts]}
        print_json("pocketvit.artifacts", {**body, "refused": [encode(a) for a in refused]})
    else:
        from pocketvit.cli.tables.models import artifact_table, gpu_lines, refused_lines, unproven_lines
        from pocketvit.console import stdout_console

        console = stdout_console()
        console.print(artifact_table(artifacts))
        for line in [*unproven_lines(artifacts), *gpu_lines(artifacts), *refused_lines(refused)]:
            console.print(line)
        say(f"Files in {folder}")
    if refused:
        where = folder / "rejected"
        fail(f"Refused, and kept in {where}: {', '.join(artifact.file for artifact in refused)}.", 1)


_MOVABLE = ("imagefolder:", "unlabelled:")
"""Data that may lie in another folder than when the run was begun."""


def _check_export_options(source: Path, given: Mapping[str, Raw], of_new_run: list[str]) -> None:
    """Refuses options that the run folder decides, since they would be ignored."""
    known = run_options()
    others = [
        f"--{key}"
        for key, value in given.items()
        if known[key].option.panel != EXPORT_PANEL and not (key == "data" and str(value).startswith(_MOVABLE))
    ]
    if others or of_new_run:
        raise PlanError(
            f"The run {source} decides its model and data",
            expected="no options but those of export, and --data imagefolder:PATH where a folder was moved",
            got=", ".join([*of_new_run, *others]),
            fix="Leave them out, or export another model with --model and no run folder",
        )


def _check_weights(settings: RunSettings) -> None:
    if not settings.model:
        raise ModelError("There is nothing to export", fix="Give a run folder, or name a model with --model")
    if settings.pretrained is None and settings.checkpoint is None and not is_place(settings.model):
        raise ModelError(
            f"No option names which weights of '{settings.model}' to export",
            expected="one of --pretrained, --checkpoint FILE, --no-pretrained",
        )
