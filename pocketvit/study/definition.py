"""The definition of a study: a TOML file of methods, models, data, seeds, budgets and targets, read and checked."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from pocketvit.options import Raw
from runtime import PlanError

CellOptions = Mapping[str, Raw]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*", re.ASCII)
_TABLES = ("study", "measure", "common", "models", "methods")


@dataclass(frozen=True)
class Method:
    """One way of making a model smaller.

    Attributes:
        command: ``run`` prunes, ``distill`` teaches.
        options: options of that command, by their long names without dashes.
    """

    command: Literal["run", "distill"] = "run"
    options: CellOptions = field(default_factory=dict)


@dataclass(frozen=True)
class Measure:
    """How the files of all cells are measured.

    Attributes:
        formats: kinds of files to measure, of those that are exported; empty measures all.
        seconds: measuring time for each file's latency, s.
        throughput: measuring time for each file's images per second, s; 0 does not measure it.
        energy: measure or estimate the energy of an image.
        country: country whose grid CO2 is estimated for, ISO 3166 alpha-3.
        grams_per_kwh: CO2 equivalent of the grid, g/kWh, instead of the country's.
        threads: threads of the engine.
        inventory: file of the user's targets; empty looks where ``bench`` does.
    """

    formats: tuple[str, ...] = ()
    seconds: float = 2.0
    throughput: float = 1.0
    energy: bool = True
    country: str = ""
    grams_per_kwh: float | None = None
    threads: int = 1
    inventory: str = ""


@dataclass(frozen=True)
class Study:
    """A study as its file defines it; the values of its options are not checked yet.

    Attributes:
        path: the file.
        name: name of the study and of its folder.
        methods: methods by name, in the order of the file.
        seeds: seeds, each of which makes every cell once.
        data: datasets, as ``--data`` takes them.
        budgets: budgets, as ``--budget`` takes them.
        targets: where files are measured, as ``bench --target`` takes them; empty measures nothing.
        threads: torch threads of each cell, which its results depend on.
        workers: cells at a time; 0 takes as many as the cores have threads for.
        reference: the method that all others are compared with; empty compares every pair.
        alpha: chance of one or more false differences among all significant ones, in each family.
        measure: how files are measured.
        common: options of every cell.
        models: options of each model, by its name.
    """

    path: Path
    name: str
    methods: Mapping[str, Method]
    seeds: tuple[int, ...] = (0,)
    data: tuple[str, ...] = ("digits",)
    budgets: tuple[str, ...] = ("macs=0.75",)
    targets: tuple[str, ...] = ("cpu",)
    threads: int = 1
    workers: int = 0
    reference: str = ""
    alpha: float = 0.05
    measure: Measure = field(default_factory=Measure)
    common: CellOptions = field(default_factory=dict)
    models: Mapping[str, CellOptions] = field(default_factory=lambda: {"default": {}})


ValueCheck = tuple[str, Callable[[Any], bool]]


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any) -> bool:
    return _whole(value) or isinstance(value, float)


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(own, str) and own for own in value)


_SEEDS: ValueCheck = (
    "a list of whole numbers, 0 to 2147483647, such as [0, 1, 2]",
    lambda value: isinstance(value, list) and bool(value) and all(_whole(v) and 0 <= v < 2**31 for v in value),
)
_SOME: ValueCheck = ('a list of one or more texts, such as ["digits"]', lambda value: _texts(value) and bool(value))
_ANY: ValueCheck = ('a list of texts, such as ["cpu"]', _texts)
_TEXT: ValueCheck = ("a text in quotes", lambda value: isinstance(value, str))
_COUNT: ValueCheck = ("a whole number, 1 or more", lambda value: _whole(value) and value >= 1)
_AMOUNT: ValueCheck = ("a number, 0 or more", lambda value: _number(value) and 0 <= value < float("inf"))
_POSITIVE: ValueCheck = ("a number above 0", lambda value: _number(value) and 0 < value < float("inf"))

_STUDY: dict[str, ValueCheck] = {
    "name": ("a name of letters, digits, _ and -", lambda value: isinstance(value, str) and _is_name(value)),
    "seeds": _SEEDS,
    "data": _SOME,
    "budgets": _SOME,
    "targets": _ANY,
    "threads": _COUNT,
    "workers": _COUNT,
    "reference": _TEXT,
    "alpha": ("a number between 0 and 1", lambda value: _number(value) and 0 < value < 1),
}
_MEASURE: dict[str, ValueCheck] = {
    "formats": _ANY,
    "seconds": _POSITIVE,
    "throughput": _AMOUNT,
    "energy": ("true or false", lambda value: isinstance(value, bool)),
    "country": _TEXT,
    "grams-per-kwh": _AMOUNT,
    "threads": _COUNT,
    "inventory": _TEXT,
}


def read_study(path: Path) -> Study:
    """Reads a study's file.

    Raises:
        PlanError: the file is missing, is not TOML, or has an unknown key or a wrong value.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PlanError(
            f"The study {path} does not exist", expected="a TOML file with [study] and [methods.NAME]"
        ) from None
    except (OSError, ValueError) as error:
        raise PlanError(f"The study {path} cannot be read as TOML", got=error) from error
    for key in document:
        if key not in _TABLES:
            raise unknown_key(f"{path} has an unknown table", key, _TABLES)
    settings = _checked(path, "study", document.get("study", {}), _STUDY)
    measured = _checked(path, "measure", document.get("measure", {}), _MEASURE)
    methods = {name: _method(path, name, own) for name, own in _named(path, "methods", document).items()}
    models = {name: _options(path, f"models.{name}", own) for name, own in _named(path, "models", document).items()}
    if not methods:
        raise PlanError(f"{path} has no methods", expected="a table [methods.NAME] for each")
    settings.setdefault("name", path.stem)
    if not _is_name(settings["name"]):
        raise PlanError(f"{path} gives the study no name", expected="[study] name, of letters, digits, _ and -")
    study = Study(
        path=path,
        methods=methods,
        measure=Measure(**measured),
        common=_options(path, "common", document.get("common", {})),
        models=models or {"default": {}},
        **settings,
    )
    _check_whole(study)
    return study


def unknown_key(what: str, key: str, known: Sequence[str]) -> PlanError:
    """Returns the error for a key that is not in ``known``, with the closest key."""
    close = difflib.get_close_matches(key, known, 1)
    return PlanError(
        what, expected=f"one of {', '.join(known)}", got=repr(key), fix=f"Did you mean {close[0]}?" if close else None
    )


def _check_whole(study: Study) -> None:
    for name in ("seeds", "data", "budgets", "targets"):
        values = getattr(study, name)
        twice = sorted({str(value) for value in values if values.count(value) > 1})
        if twice:
            raise PlanError(f"[study] {name} of {study.path} has a value twice", got=", ".join(twice))
    if study.reference and study.reference not in study.methods:
        raise unknown_key(
            f"[study] reference of {study.path} is none of its methods", study.reference, tuple(study.methods)
        )
    if study.measure.country and study.measure.grams_per_kwh is not None:
        raise PlanError(
            f"[measure] of {study.path} says twice what the grid emits", expected="country or grams-per-kwh, not both"
        )


def _checked(path: Path, table: str, value: Any, checks: Mapping[str, ValueCheck]) -> dict[str, Any]:
    """Returns the values of a table by the fields of its dataclass."""
    found = {}
    for key, own in _table(path, table, value).items():
        if key not in checks:
            raise unknown_key(f"[{table}] of {path} has an unknown key", key, tuple(checks))
        expected, fits = checks[key]
        if not fits(own):
            raise PlanError(f"{key} in [{table}] of {path} cannot be", expected=expected, got=repr(own)[:80])
        found[key.replace("-", "_")] = tuple(own) if isinstance(own, list) else own
    return found


def _method(path: Path, name: str, value: Any) -> Method:
    options = dict(_options(path, f"methods.{name}", value))
    command = options.pop("command", "run")
    if command not in ("run", "distill"):
        raise PlanError(
            f"command in [methods.{name}] of {path} cannot be", expected="run or distill", got=repr(command)
        )
    return Method("distill" if command == "distill" else "run", options)


def _named(path: Path, table: str, document: Mapping[str, Any]) -> dict[str, Any]:
    tables = _table(path, table, document.get(table, {}))
    for name in tables:
        if not _is_name(name):
            raise PlanError(
                f"[{table}.{name}] of {path} has a name that cannot stand in a file's",
                expected="letters, digits, _ and -, and a letter or digit first",
            )
    return tables


def _options(path: Path, table: str, value: Any) -> CellOptions:
    found: dict[str, Raw] = {}
    for key, own in _table(path, table, value).items():
        if isinstance(own, list) and all(isinstance(one, (str, int, float)) for one in own):
            found[key] = tuple(_plain(one) for one in own)
        elif isinstance(own, (str, int, float)):
            found[key] = own
        else:
            raise PlanError(
                f"{key} in [{table}] of {path} cannot be",
                expected="a text, a number, true, false, or a list of texts",
                got=repr(own)[:80],
            )
    return found


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _table(path: Path, name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise PlanError(f"{name} in {path} is not a table", expected=f"[{name}]", got=repr(value)[:80])
    return value


def _is_name(text: str) -> bool:
    return bool(_NAME.fullmatch(text))


assert {name.replace("-", "_") for name in _MEASURE} == {own.name for own in fields(Measure)}
