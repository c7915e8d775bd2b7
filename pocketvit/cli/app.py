"""The command line: which commands there are, and how a command ends.

Every command is imported when it is called, so that ``pocketvit --help`` is instant.
"""

from __future__ import annotations

import os
import sys
from contextlib import AbstractContextManager, nullcontext

from cyclopts import App, CycloptsError, Group, Parameter

from pocketvit.console import PlainConsole

from .streams import prepare_streams

COMMANDS = {
    "run": "Do it all: fine-tune, prune, recover, export, verify, bench, report.",
    "compress": "Make the model smaller: fine-tune, choose what to prune, slice, recover.",
    "profile": "Measure the time of every width, for budgets and costs such as latency=12ms@cpu.",
    "export": "Write ONNX and TFLite files, each verified by running it.",
    "predict": "Classify pictures, with confidence, and with the loss where the true class is known.",
    "inspect": "Show the contents of a file: operators, precision, MACs, bytes, widths, delegate partitions, times.",
    "verify": "Check a file against its manifest and by running it; exits with 1 when a check fails.",
    "distill": "Teach a small model by the answers, hidden states or image relations of a larger one.",
    "study": "Make, measure and compare methods x models x data x seeds x budgets, from a TOML file.",
    "bench": "Measure files in turns: latency, start, throughput, memory, GFLOP/s, and optionally energy and accuracy.",
    "compare": "Compare two files, timed in turns; or two results, as far as they can be compared.",
    "gate": "Stop a change that makes a model slower, larger or worse: exits with 1 when a limit is exceeded.",
    "report": "Write report.html and report.md of a run, and print its table.",
    "doctor": "Show what this machine and installation can do, what is missing, and how to get it.",
    "models": "List timm's architectures: which can be pruned, and what stands in the way of others.",
    "targets": "List the devices of your inventory, and check whether a bench can run there.",
}
"""Each command and the first sentence of its help, which a test compares with the command's docstring."""


_OPTIONS = Group("Options", sort_key=0)


def _version() -> str:
    from runtime import tool_version

    return tool_version()


def _app() -> App:
    app = App(
        name="pocketvit",
        help="Make a Vision Transformer physically smaller, export it, and prove what that bought.",
        help_flags=["--help", "-h"],
        help_format="plaintext",
        version=_version,
        default_parameter=Parameter(negative_iterable=(), allow_repeating=True),
        group_parameters=_OPTIONS,
    )
    for number, (name, summary) in enumerate(COMMANDS.items()):
        app.command(f"pocketvit.cli.{name}:{name}", name=name, help=summary, sort_key=number)
    app.register_install_completion_command(help="Install completion for your shell and exit.", group=_OPTIONS)
    for name in ("--help", "--version"):
        app[name].group = (_OPTIONS,)
    return app


app = _app()


def main() -> None:
    """Runs the command line; a user's mistake ends in one paragraph and an exit code, never in a traceback."""
    prepare_streams()
    # without this, torch's threads spin for each other: beside one busy process, training is thirty times slower
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    if os.environ.get("WORLD_SIZE", "1") == "1":
        _run_command()
        return
    # without this, torch writes a stack for every connection that ends
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from compress.distributed import RankError, joined
    from pocketvit.output import fail

    try:
        with joined():
            _run_command()
    except RankError as error:
        fail(str(error), error.exit_code)


def _run_command() -> None:
    try:
        try:
            _parse_and_call(sys.argv[1:])
        finally:
            sys.stdout.flush()  # while an error can still be shown
    except KeyboardInterrupt:
        _fail("Stopped. Continue a run with --resume.", 130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    except Exception as error:
        from runtime import PocketVitError

        if isinstance(error, PocketVitError):
            _fail(str(error), error.exit_code)
        text = _words_for(error)
        if text is None:
            raise
        _forget_output()
        _fail(text, 2)
    sys.exit(0)


def _parse_and_call(words: list[str]) -> None:
    try:
        command, bound, _ = app.parse_args(
            words, console=PlainConsole(), exit_on_error=False, print_error=False, verbose=False
        )
    except CycloptsError as error:
        raise _usage_error(error) from None
    if command.__module__.startswith("pocketvit."):
        from pocketvit.output import show_warnings

        notes: AbstractContextManager[None] = show_warnings()
    else:  # help and version, which need no more imports
        notes = nullcontext()
    with notes:
        command(*bound.args, **bound.kwargs)
    if getattr(command, "__func__", None) is App.help_print and not {"--help", "-h"} & set(words):
        sys.exit(2)  # no command was given


def _usage_error(error: CycloptsError) -> Exception:
    """Returns an error of the command line as one of ours, with the option that was probably meant."""
    from cyclopts import CoercionError, MissingArgumentError, UnusedCliTokensError

    from runtime import PlanError

    command = " ".join(("pocketvit", *(error.command_chain or ())))
    fix = f"See {command} --help"
    match error:
        case MissingArgumentError(argument=argument) if argument is not None:
            what = "a value" if argument.name.startswith("-") else argument.name
            return PlanError(f"{argument.name if what == 'a value' else command} needs {what}", fix=fix)
        case CoercionError(argument=argument, token=token) if argument is not None and token is not None:
            kinds: dict[type | None, str] = {int: "a whole number", float: "a number"}
            kind = kinds.get(error.target_type, "another value")
            return PlanError(f"{argument.name} takes {kind}", got=repr(token.value), fix=fix)
        case UnusedCliTokensError(unused_tokens=tokens) if tokens:
            return PlanError(f"{command} does not take so many arguments", got=" ".join(tokens), fix=fix)
    what, found, guess = str(error).partition(" Did you mean ")
    return PlanError(what, fix=f"Did you mean {guess.partition('?')[0].strip(chr(34))}?" if found else fix)


def _fail(text: str, code: int) -> None:
    from pocketvit.output import fail

    fail(text, code)


def _words_for(error: Exception) -> str | None:
    """Returns the text for an error of the installation or the system, or None for any other."""
    from pocketvit.failures import system_refusal
    from pocketvit.jobs.doctor import missing_extra

    if isinstance(error, ModuleNotFoundError):
        missing = missing_extra(error.name or "")
        return None if missing is None else str(missing)
    return system_refusal(error)


def _forget_output() -> None:
    """Drops the output that stdout could not write; otherwise Python tries it again at exit and fails again."""
    try:
        sys.stdout.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.close(nowhere)
