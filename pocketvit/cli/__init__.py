"""The command line. Commands import what they need when they run, so that ``--help`` is instant."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from pocketvit.settings import RunSettings
from runtime import Artifact, PlanError, PocketVitError, encode, tool_version

from .bench import bench
from .distill import distill
from .gate import compare, gate
from .options import EXPORT_PANEL, with_run_settings
from .output import fail, notes_said, print_json, say
from .streams import prepare_streams
from .study import study
from .targets import targets

app = typer.Typer(
    name="pocketvit",
    help="Make a Vision Transformer physically smaller, export it, and prove what that bought.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
Name = Annotated[str | None, typer.Option(help="The run's name; by default from data and model.")]
Runs = Annotated[Path, typer.Option(help="Folder of all runs.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue a run that was stopped.")]
Force = Annotated[bool, typer.Option("--force", help="Replace a run that is there.")]
Threads = Annotated[int, typer.Option(help="Threads of the engine.")]
Seconds = Annotated[float, typer.Option(help="Measuring time for each file, seconds.")]
_NEW_RUN = ("name", "runs", "resume", "force")
"""Options of export that say where a model that is no run goes."""

Country = Annotated[str | None, typer.Option(help="Whose grid CO2 is of, ISO 3166 alpha-3, such as DEU.")]


@app.command()
@with_run_settings
def run(
    settings: RunSettings,
    name: Name = None,
    runs: Runs = Path("runs"),
    resume: Resume = False,
    force: Force = False,
    bench_seconds: Seconds = 5.0,
    energy: Annotated[
        bool, typer.Option("--energy/--no-energy", help="Measure or estimate the energy of an image.")
    ] = True,
    country: Country = None,
    as_json: Json = False,
) -> None:
    """Do it all: fine-tune, prune, recover, export, verify, bench, report."""
    from pocketvit.pipeline import run as pipeline
    from pocketvit.pipeline.benching import bench_settings

    from .console import shown

    root = runs / (name or settings.name)
    bench = bench_settings(bench_seconds, energy, country)
    with shown() as progress:
        summary = pipeline.run(settings, root, resume=resume, force=force, bench=bench, progress=progress)
    if as_json:
        print_json("pocketvit.summary", _summary_body(summary))
    else:
        _print_summary(summary)
        say(f"Files in {root / 'artifacts'}, report in {root / 'report.html'}")
    wrong = [f"Refused: {', '.join(artifact.file for artifact in summary.refused)}."] if summary.refused else []
    if summary.failures and not as_json:
        wrong.append(f"Not measured: {', '.join(sorted({failure.file for _, failure in summary.failures}))}.")
    if wrong:
        fail(" ".join(wrong), 1)


@app.command()
@with_run_settings
def compress(
    settings: RunSettings,
    name: Name = None,
    runs: Runs = Path("runs"),
    resume: Resume = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Make the model smaller: fine-tune, choose what to prune, slice, recover."""
    from pocketvit.pipeline import run as pipeline

    from .console import shown

    root = runs / (name or settings.name)
    with shown() as progress:
        summary = pipeline.compress(settings, root, resume=resume, force=force, progress=progress)
    if as_json:
        print_json("pocketvit.summary", _summary_body(summary))
        return
    _print_summary(summary)
    say(f"The smaller model is in {root / 'sliced'}; export it with: pocketvit export {root}")


@app.command()
@with_run_settings
def profile(
    settings: RunSettings,
    target: Annotated[str, typer.Option(help="Where to measure: cpu.")] = "cpu",
    force: Annotated[bool, typer.Option("--force", help="Measure anew.")] = False,
    as_json: Json = False,
) -> None:
    """Measure what every width costs in time, for budgets and costs such as latency=12ms@cpu.

    Takes minutes, can be stopped and goes on where it was. A run that needs a table measures it by itself.
    """
    from device_bench import format
    from pocketvit.pipeline.job import prepare
    from pocketvit.pipeline.profiling import profile as measure

    from .console import shown, stdout_console

    with shown() as progress:
        plan = prepare(settings, progress).plan
        table, path = measure(
            plan,
            Path(settings.profiles),
            target=target,
            precision=settings.latency_precision,
            threads=settings.latency_threads,
            force=force,
            progress=progress,
        )
    if as_json:
        print_json("pocketvit.latency", {"file": str(path), "table": encode(table)})
        return
    from pocketvit.cli.tables.models import latency_tables

    parts, checks = latency_tables(table)
    console = stdout_console()
    where = f"{table.target} ({table.cpu_model}), {table.engine} {table.engine_version}, {table.precision}"
    console.print(f"Predicted on {where}, {table.threads} thread(s):", parts, sep="\n")
    console.print("Random smaller models, predicted and measured:", checks, sep="\n")
    console.print(f"Median error {format.percent(table.median_error)}", *table.notes, sep="\n")
    say(f"Table in {path}")


@app.command()
@with_run_settings
def export(
    settings: RunSettings,
    context: typer.Context,
    source: Annotated[Path | None, typer.Argument(help="A run folder; without it, the model named by --model.")] = None,
    name: Name = None,
    runs: Runs = Path("runs"),
    resume: Resume = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Write ONNX and TFLite files, each verified by running it.

    With a run folder: its sliced model; only the options of export apply. With --model: that model as it is, from
    --pretrained, --checkpoint or --no-pretrained weights.
    """
    from export.exporter import RefusedFilesError
    from pocketvit.pipeline import run as pipeline

    from .console import shown

    if source is not None:
        _check_export_options(source, context)
    refused: tuple[Artifact, ...] = ()
    with shown() as progress:
        try:
            if source is not None:
                folder = source / "artifacts"
                artifacts = pipeline.export_run(source, settings, progress)
            else:
                _check_weights(settings)
                root = runs / (name or settings.model)
                folder = root / "artifacts"
                artifacts = pipeline.export(settings, root, resume=resume, force=force, progress=progress)
        except RefusedFilesError as error:
            artifacts, refused = list(error.accepted), error.refused
    if as_json:
        body = {"folder": str(folder), "artifacts": [encode(a) for a in artifacts]}
        print_json("pocketvit.artifacts", {**body, "refused": [encode(a) for a in refused]})
    else:
        from pocketvit.cli.tables.models import artifact_table, refused_lines

        from .console import stdout_console

        console = stdout_console()
        console.print(artifact_table(artifacts))
        for line in refused_lines(refused):
            console.print(line)
        say(f"Files in {folder}")
    if refused:
        where = folder / "rejected"
        fail(f"Refused, and kept in {where}: {', '.join(artifact.file for artifact in refused)}.", 1)


@app.command()
def predict(
    artifact: Annotated[Path, typer.Argument(help="A .tflite or .onnx file; its manifest stands beside it.")],
    images: Annotated[list[Path], typer.Argument(help="Pictures, or folders of pictures.")],
    plot: Annotated[Path | None, typer.Option(help="Draw the pictures with their predictions here (.png).")] = None,
    label: Annotated[
        str | None, typer.Option(help="The true class; else a picture's folder is, where it names a class.")
    ] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out pictures that cannot be read.")] = False,
    threads: Threads = 1,
    as_json: Json = False,
) -> None:
    """Say what each picture shows, with confidence, and the loss where the true class is known."""
    from pocketvit.jobs import predicting

    outcome = predicting.predict(artifact, images, label=label, threads=threads, skip_bad=skip_bad)
    for path, reason in outcome.skipped:
        say(f"Left out {path}: {reason}")
    if plot is not None:
        predicting.draw(outcome, plot)
    if as_json:
        skipped = [{"image": str(path), "reason": reason} for path, reason in outcome.skipped]
        body = {"artifact": artifact.name, "predictions": outcome.as_json(), "skipped": skipped}
        print_json("pocketvit.predictions", body)
        return
    from .console import stdout_console

    stdout_console().print(outcome.table())


@app.command()
def inspect(
    artifact: Annotated[Path, typer.Argument(help="A .tflite or .onnx file, with or without its manifest.")],
    time: Annotated[bool, typer.Option("--time/--no-time", help="Measure where its time goes.")] = True,
    threads: Threads = 1,
    as_json: Json = False,
) -> None:
    """Say what is in a file: operators, precision, MACs, bytes, widths, delegate partitions, and where time goes.

    The file may be damaged or hostile: a process apart opens it.
    """
    from export.inspect.inspection import inspect_file

    from .console import shown, stdout_console

    with shown() as progress:
        found = inspect_file(artifact, time=time, threads=threads, progress=progress)
    if as_json:
        print_json("pocketvit.inspection", encode(found))
        return
    from pocketvit.cli.tables.inspection import inspection_tables

    stdout_console().print(*inspection_tables(found), sep="\n")


@app.command()
def verify(
    artifact: Annotated[Path, typer.Argument(help="A .tflite or .onnx file; its manifest stands beside it.")],
    against: Annotated[str | None, typer.Option("--with", help="Compare with another engine: tensorflow.")] = None,
    images: Annotated[int, typer.Option(help="Random images to run.")] = 16,
    as_json: Json = False,
) -> None:
    """Check a file against its manifest and by running it; exits with 1 when a check fails."""
    from export.inspect.check_file import verify_file

    from .console import shown, stdout_console

    with shown() as progress:
        found = verify_file(artifact, images=images, against=against, progress=progress)
    if as_json:
        print_json("pocketvit.verification", {"passed": found.passed, **encode(found)})
    else:
        from pocketvit.cli.tables.inspection import verification_tables

        stdout_console().print(*verification_tables(found), sep="\n")
    if not found.passed:
        fail(f"{artifact.name} does not pass: {', '.join(c.name for c in found.checks if not c.passed)}.", 1)


app.command()(distill)
app.command()(study)
app.command()(bench)
app.command()(compare)
app.command()(gate)
app.add_typer(targets, name="targets")


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="A run folder.")],
    as_json: Json = False,
) -> None:
    """Write report.html and report.md of a run, and print its table."""
    from device_bench.report.page import write_report
    from device_bench.report.summary import summarise

    written = write_report(folder)
    summary = summarise(folder)
    if as_json:
        files = {"files": [str(path) for path in written]}
        print_json("pocketvit.summary", {**files, **_summary_body(summary)})
        return
    _print_summary(summary)
    say(f"Written: {', '.join(map(str, written))}")


@app.command()
def doctor(as_json: Json = False) -> None:
    """Say what this machine and installation can do, what is missing, and how to get it."""
    from pocketvit.jobs.doctor import examine

    findings = examine()
    if as_json:
        print_json("pocketvit.doctor", {"findings": encode(tuple(findings))})
        return
    from pocketvit.cli.tables.targets import doctor_table

    from .console import stdout_console

    stdout_console().print(doctor_table(findings))


@app.callback(invoke_without_command=True)
def options(
    show_version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Handles options that come before any command."""
    if show_version:
        typer.echo(tool_version())
        raise typer.Exit


def main() -> None:
    """Runs the command line; a user's mistake ends in one paragraph and an exit code, never a traceback."""
    prepare_streams()
    # torch's threads otherwise spin for each other: with one other busy process, training is thirty times slower
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    if os.environ.get("WORLD_SIZE", "1") == "1":
        _run_command()
        return
    # torch otherwise tells of every connection that ends, with a stack of its own
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from compress.distributed import RankError, joined

    try:
        with joined():
            _run_command()
    except RankError as error:
        fail(str(error), error.exit_code)


def _run_command() -> None:
    try:
        try:
            with notes_said():
                app(standalone_mode=True)
        finally:
            sys.stdout.flush()  # while an error still can be said
    except PocketVitError as error:
        fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        fail("Stopped. Continue a run with --resume.", 130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    except Exception as error:
        text = _words_for(error)
        if text is None:
            raise
        _forget_output()
        fail(text, 2)


def _words_for(error: Exception) -> str | None:
    """Returns what to say of an error that is the installation's or the system's, or None for any other."""
    from pocketvit.failures import system_refusal
    from pocketvit.jobs.doctor import missing_extra

    if isinstance(error, ModuleNotFoundError):
        missing = missing_extra(error.name or "")
        return None if missing is None else str(missing)
    return system_refusal(error)


def _forget_output() -> None:
    """Drops what stdout could not write; else it is tried again, and fails again, as the program ends."""
    try:
        sys.stdout.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.close(nowhere)


def _check_export_options(source: Path, context: typer.Context) -> None:
    """Refuses options that a run folder answers itself and that would seem to have been followed."""
    given = []
    for parameter in context.command.params:
        source_of = context.get_parameter_source(parameter.name or "")
        applies = getattr(parameter, "rich_help_panel", None) in (None, EXPORT_PANEL) and parameter.name not in _NEW_RUN
        applies = applies or (parameter.name == "data" and context.params["data"].startswith("imagefolder:"))
        if not applies and source_of is not None and source_of.name == "COMMANDLINE":
            given.append(parameter.opts[0])
    if given:
        raise PlanError(
            f"The run {source} says itself what its model and data are",
            expected="no options beside those of export, and --data imagefolder:PATH where a folder was moved",
            got=", ".join(given),
            fix="Leave them out, or export another model with --model and no run folder",
        )


def _check_weights(settings: RunSettings) -> None:
    from runtime import ModelError

    if not settings.model:
        raise ModelError("There is nothing to export", fix="Give a run folder, or name a model with --model")
    if settings.pretrained is None and settings.checkpoint is None:
        raise ModelError(
            f"It is not said which weights of '{settings.model}' to export",
            expected="one of --pretrained, --checkpoint FILE, --no-pretrained",
        )


def _summary_body(summary: Any) -> dict[str, Any]:
    return {"run": summary.name, "rows": encode(summary.rows), "refused": [encode(a) for a in summary.refused]}


def _print_summary(summary: Any) -> None:
    from pocketvit.cli.tables.models import refused_lines
    from pocketvit.cli.tables.results import summary_tables

    from .console import stdout_console

    console = stdout_console()
    console.print(*summary_tables(summary, console.width), sep="\n")
    for line in refused_lines(summary.refused):
        console.print(line)
    for note in summary.notes:
        say(f"Note: {note}")
