"""Every command has the options, defaults and flags that it had, and makes the settings of them that it made."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cyclopts import App

from pocketvit.cli.app import COMMANDS, app
from pocketvit.options import run_settings
from pocketvit.settings import RunSettings
from runtime import encode
from tests.pocketvit.conftest import Command

GOLDEN = Path(__file__).parents[2] / "golden"
FROZEN: dict[str, dict[str, dict[str, Any]]] = json.loads((GOLDEN / "options.json").read_text())
SETTINGS: dict[str, Any] = json.loads((GOLDEN / "run-settings.json").read_text())


def command_of(name: str) -> App:
    found = app
    for word in name.split():
        found = found[word]
    return found


def options_now(name: str) -> dict[str, dict[str, Any]]:
    found = {}
    for own in command_of(name).assemble_argument_collection():
        default = own.field_info.default
        is_argument = own.field_info.kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL)
        entry: dict[str, Any] = {"default": None if default is inspect.Parameter.empty else as_given(default)}
        entry |= {"argument": True} if is_argument else {}
        entry |= {"required": True} if own.required else {}
        flag = own.parameter.count or own.hint in (bool, bool | None)
        entry |= {"flag": True} if flag else {}
        entry |= {"off": own.negatives[0]} if flag and own.negatives else {}
        found[own.name.lower() if is_argument else own.name] = entry
    return found


def as_given(default: Any) -> Any:
    """Returns a default as the command line takes it; nothing for an empty one."""
    if isinstance(default, tuple):
        return ",".join(map(str, default)) or ""
    return str(default) if isinstance(default, Path) else default or default if default != {} else None


@pytest.mark.parametrize("name", [name for name in FROZEN if name != "pocketvit"])
def test_no_option_has_lost_its_name_its_default_or_its_opposite(name: str) -> None:
    now = options_now(name)
    for option, before in FROZEN[name].items():
        before = {key: value for key, value in before.items() if key not in ("panel", "repeated")}
        assert now[option] == before, option
    assert set(now) == set(FROZEN[name])


GIVEN: dict[str, dict[str, Any]] = {
    "default": {},
    "dfbnb": {
        "search": "dfbnb",
        "iterations": "3",
        "depth": "4",
        "epsilon": "0.01",
        "cost-weight": "0.5",
        "exact": True,
        "round-epochs": "2",
        "group-size": ("mlp=16", "embed=32"),
        "patience": "3",
        "batch-size": "16",
    },
    "tas": {
        "search": "tas",
        "search-epochs": "3",
        "candidates": "4",
        "tolerance": "0.1",
        "odds-lr": "2",
        "budget": "params=0.5",
        "recovery-epochs": "1",
        "recovery-lr": "0.1",
        "head-lr": "0.2",
        "lr": "0.3",
        "epochs": "2",
    },
    "unstructured": {
        "search": "unstructured",
        "sparsity": "0.5",
        "sparsity-scope": "global",
        "sparsity-layers": "qkv, fc1",
    },
    "input": {
        "data": "imagefolder:x/y",
        "model": "vit_tiny_patch16_224",
        "img-size": "32x64",
        "patch-size": "8",
        "in-chans": "1",
        "pretrained": False,
        "model-arg": ("depth=6", "qk_norm=true", "x=0.5", "y=z"),
        "mean": "0.5,0.5,0.5",
        "std": "0.1",
        "resize": "border",
        "crop-pct": "0.9",
        "interpolation": "lanczos",
        "train-limit": "5",
        "skip-bad": True,
        "class-order": "natural",
        "class-map": "m.txt",
        "mirror": False,
        "eval-limit": "3",
        "seed": "7",
        "threads": "2",
        "device": "cpu",
        "bf16": "off",
    },
    "export": {
        "formats": "onnx, fp32,onnx",
        "calibration-images": "5",
        "verify-images": "6",
        "min-agreement": "0.5",
        "for": "pi5",
        "max-drop": "1.5",
        "micro-flash": "1",
        "micro-ram": "2",
        "opset": "18",
        "int8-recipe": "dynamic_wi8_afp32",
        "qat": "2",
        "qat-from": "2",
        "distill": False,
        "distill-method": "response,feature",
        "distill-weight": "0.4",
        "temperature": "2",
        "cost": "params",
        "importance": "l2",
        "latency-precision": "int8",
        "latency-threads": "2",
        "profiles": "p",
        "importance-images": "3",
        "reconstruct": False,
    },
}


@pytest.mark.parametrize("name", SETTINGS)
def test_the_same_options_make_the_same_settings(name: str) -> None:
    now = encode(run_settings(GIVEN[name]))
    assert {key: now[key] for key in SETTINGS[name]} == SETTINGS[name]
    assert set(now) - set(SETTINGS[name]) == {"method_settings"}
    assert run_settings({}) == RunSettings()


def commands() -> Iterator[tuple[str, App]]:
    for name in FROZEN:
        if name != "pocketvit":
            yield name, command_of(name)


def test_the_list_of_commands_gives_the_first_sentence_of_each() -> None:
    assert set(COMMANDS) == {name.split()[0] for name in FROZEN} - {"pocketvit"}
    for name, summary in COMMANDS.items():
        assert app[name].help.splitlines()[0].strip() == summary
    assert all(own.help for _, own in commands())


def test_the_last_of_repeated_options_counts_and_arguments_may_stand_anywhere() -> None:
    words = ["run", "--epochs", "1", "--epochs", "2", "--model-arg", "a=1", "--model-arg", "b=2", "--no-distill"]
    _, bound, _ = app.parse_args([*words, "--distill"])
    given = {name.removeprefix("option_"): value for name, value in bound.arguments.items()}
    assert given == {"epochs": "2", "model_arg": ["a=1", "b=2"], "distill": True}
    _, bound, _ = app.parse_args(["bench", "a.onnx", "--target", "cpu", "--seconds", "1", "b.onnx", "--target", "cuda"])
    assert bound.args == (Path("a.onnx"), Path("b.onnx"))
    assert bound.kwargs == {"target": ["cpu", "cuda"], "seconds": 1.0}


@pytest.mark.parametrize(
    ("words", "texts"),
    [
        (("run", "--lrr", "1"), ("--lrr", "Did you mean --lr?")),
        (("rnu",), ("rnu", "Did you mean run?")),
        (("run", "--lr"), ("--lr needs a value", "pocketvit run --help")),
        (("run", "extra"), ("pocketvit run does not take so many arguments", "Got extra")),
        (("bench",), ("pocketvit bench needs FILES",)),
        (("bench", "a.onnx", "--threads", "two"), ("--threads takes a whole number", "Got 'two'")),
        (("run", "--lr", "fast"), ("--lr takes a number", "Got 'fast'")),
        (("run", "--epochs", "1.5"), ("--epochs takes a whole number",)),
        (("run", "--formats", "onnx,coreml"), ("--formats takes some of 13", "Got 'coreml'")),
    ],
)
def test_mistakes_of_the_command_line_are_one_paragraph_on_stderr(
    pocketvit: Command, words: tuple[str, ...], texts: tuple[str, ...]
) -> None:
    answer = pocketvit(*words)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("error: ")
    assert answer.err.count("\n") == 1
    for text in texts:
        assert text in answer.err


@pytest.mark.parametrize("words", [(), ("targets",)])
def test_without_a_command_the_help_is_printed_and_the_exit_code_is_2(
    pocketvit: Command, words: tuple[str, ...]
) -> None:
    answer = pocketvit(*words)
    assert (answer.code, answer.err) == (2, "")
    assert "Usage: pocketvit" in answer.out
