"""The options of a run, made from its settings dataclasses: one table for the command line and for studies.

An option's key is its long name without dashes, which is also its key in a study's TOML file.
"""

from __future__ import annotations

import dataclasses
import operator
import re
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, reduce
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from compress.search import METHODS
from runtime import PlanError
from runtime.options import Option, Renamed, in_words

from .distill_settings import DistillSettings
from .settings import EXPORT_PANEL, PRUNING_PANEL, RunSettings

T = TypeVar("T")

_METHOD_SETTINGS = "method_settings"
_NOT_IN_DISTILL = (
    *("distill", "distill-method", "labels", "recovery-epochs", "recovery-lr", "recovery-minutes"),
    *("task", "embed-dim", "normalise", "blocks", "text-embeddings", "min-cosine"),
)

Raw = str | int | float | bool | tuple[str, ...]
"""The value of an option as the command line or a TOML file gives it."""


@dataclass(frozen=True)
class CommandOption:
    """One option of a command.

    Attributes:
        key: its long name without dashes.
        option: its description.
        kind: type of the fields that it sets.
        default: of these fields.
        paths: the fields that it sets, each as the names that lead to it.
    """

    key: str
    option: Option
    kind: Any
    default: Any
    paths: tuple[tuple[str, ...], ...]

    @property
    def flag(self) -> bool:
        """Whether it is on or off and takes no value."""
        return _plain(self.kind) is bool

    @property
    def off(self) -> str | None:
        """The option that turns it off, if there is one."""
        return f"--no-{self.key}" if self.flag and self.option.negative else None

    @property
    def repeated(self) -> bool:
        """Whether it may be given several times: each time as NAME=VALUE, or each time for work of its own."""
        return self.option.several or self.takes_pairs

    @property
    def takes_pairs(self) -> bool:
        """Whether its values have the form NAME=VALUE."""
        return get_origin(_plain(self.kind)) is dict

    @property
    def choices(self) -> tuple[str, ...]:
        """The values that it takes; empty for any."""
        kind = _plain(self.kind)
        return self.option.names() or (tuple(filter(None, get_args(kind))) if get_origin(kind) is Literal else ())

    @property
    def help(self) -> str:
        """The sentence for ``--help``."""
        return self.option.described(self.choices)

    @property
    def metavar(self) -> str:
        """The form of its value, for ``--help``."""
        kind = _plain(self.kind)
        return "NAME=VALUE" if self.takes_pairs else "A,B" if get_origin(kind) is tuple else _METAVARS.get(kind, "TEXT")

    def read(self, raw: Raw) -> Any:
        """Returns the value of the fields.

        Raises:
            PlanError: the text is of another form.
        """
        if isinstance(raw, bool):
            return raw
        if self.takes_pairs:
            return self._read_pairs(raw if isinstance(raw, tuple) else (str(raw),))
        if isinstance(raw, tuple):
            raw = self._one_of(raw)
        text, kind, choices = str(raw), _plain(self.kind), self.choices
        if not text and self.default == ():
            return ()
        value = _read(f"--{self.key}", kind, text)
        several = isinstance(value, tuple)
        wrong = [own for own in (value if several else (value,)) if choices and own and own not in choices]
        if wrong:
            what = f"--{self.key} takes some of" if several else f"--{self.key} is one of"
            raise PlanError(f"{what} {len(choices)}", expected=in_words(choices), got=", ".join(map(repr, wrong)))
        return value

    def _one_of(self, raw: tuple[str, ...]) -> str:
        if len(raw) != 1:
            raise PlanError(f"--{self.key} is given several times", expected="it once here", got=", ".join(raw))
        return raw[0]

    def _read_pairs(self, texts: tuple[str, ...]) -> dict[str, Any]:
        kind = get_args(_plain(self.kind))[1]
        found = {}
        for text in texts:
            name, equals, value = text.partition("=")
            if not (name and equals and value):
                raise PlanError(f"--{self.key} cannot be read", expected="NAME=VALUE", got=repr(text))
            found[name] = _read(f"--{self.key}", kind, value)
        return found


def options_of(kind: type[Any], panel: str = "", prefix: str = "") -> dict[str, CommandOption]:
    """Returns the options of a settings dataclass and of those nested in it, by key.

    Fields with one option name are set together.

    Args:
        kind: the dataclass.
        panel: heading of options that name none.
        prefix: begins the keys of fields without an ``Option``, which become options too; empty leaves such fields out.
    """
    found: dict[str, CommandOption] = {}
    for own in _fields_of(kind, (), {}, panel, prefix):
        if own.key in found:
            first = found[own.key]
            help_text = first.option if first.option.help else own.option
            found[own.key] = replace(first, option=help_text, paths=first.paths + own.paths)
        else:
            found[own.key] = own
    return found


def run_options() -> dict[str, CommandOption]:
    """Returns the options of ``RunSettings``, those of registered search methods with them, by key.

    Raises:
        PlanError: a registered method has an option whose name is taken.
    """
    return dict(_run_options(tuple(METHODS)))


@cache
def _run_options(methods: tuple[str, ...]) -> Mapping[str, CommandOption]:
    found = options_of(RunSettings, panel=PRUNING_PANEL)
    for name in methods:
        method = METHODS[name]
        if method.settings is None or method.group:
            continue
        for own in options_of(method.settings, panel=f"Search method {name}", prefix=f"{name}-").values():
            if own.key in found:
                raise PlanError(f"The search method {name} has an option whose name is taken", got=f"--{own.key}")
            found[own.key] = replace(own, paths=tuple((_METHOD_SETTINGS, name, *path) for path in own.paths))
    return found


def export_options() -> dict[str, CommandOption]:
    """Returns the options that say how files are made, by key."""
    return {key: own for key, own in run_options().items() if own.option.panel == EXPORT_PANEL}


def distill_options() -> dict[str, CommandOption]:
    """Returns the options of ``distill``: those of teacher and lesson, and those of model, data and training."""
    training = {
        key: own
        for key, own in run_options().items()
        if own.option.panel not in (PRUNING_PANEL, EXPORT_PANEL)
        and own.paths[0][0] != _METHOD_SETTINGS
        and key not in _NOT_IN_DISTILL
    }
    return {**lesson_options(), **training}


@cache
def _lesson_options() -> Mapping[str, CommandOption]:
    return options_of(DistillSettings)


def lesson_options() -> dict[str, CommandOption]:
    """Returns the options of ``DistillSettings``, by key."""
    return dict(_lesson_options())


def run_settings(given: Mapping[str, Raw]) -> RunSettings:
    """Returns the settings that options of a run make.

    Args:
        given: the options that were given, by key; any other key is left out.

    Raises:
        PlanError: a value cannot be read, or two options contradict each other.
    """
    values = _read_all(given, run_options())
    method = METHODS[values.get("search", RunSettings.search)]
    if "budget" not in values and not method.needs_budget:
        values["budget"] = ""
    return _made(RunSettings, values, run_options())


def settings_and_budgets(given: Mapping[str, Raw]) -> tuple[RunSettings, tuple[str, ...]]:
    """Returns the settings that options of a run make, and the budgets if there are several, else none.

    The settings have the first of several budgets.

    Raises:
        PlanError: a value cannot be read, or two options contradict each other.
    """
    own = given.get("budget", ())
    if not isinstance(own, tuple) or len(own) < 2:
        return run_settings(given), ()
    return run_settings({**given, "budget": own[0]}), own


def distill_settings(given: Mapping[str, Raw]) -> tuple[RunSettings, DistillSettings]:
    """Returns the settings that options of ``distill`` make: of model, data and training, and of the lesson.

    Raises:
        PlanError: a value cannot be read, or two options contradict each other.
    """
    shared = {key: own for key, own in given.items() if key in distill_options() and key not in _NOT_IN_DISTILL}
    settings = run_settings(shared)
    values = _read_all(given, lesson_options())
    nested: dict[str, Any] = {"weight": settings.distill_weight, "temperature": settings.temperature}
    if values.get("online"):
        nested["teacher_lr"] = values.pop("teacher-lr", None)
    lesson = _made(DistillSettings, values, lesson_options(), {"distillation": nested})
    return replace(settings, recover=settings.fine_tune), lesson


def arguments(given: Mapping[str, Raw], known: Mapping[str, CommandOption]) -> tuple[str, ...]:
    """Returns the words of a command line that give these options, in the order of ``known``."""
    words: list[str] = []
    for key, own in known.items():
        if key not in given:
            continue
        value = given[key]
        if own.flag:
            words += [f"--{key}"] if value else [own.off] if own.off else []
        else:
            for one in value if isinstance(value, tuple) else (value,):
                words += [f"--{key}", str(one)]
    return tuple(words)


def _fields_of(
    kind: type[Any], path: tuple[str, ...], renamed: Mapping[str, Option | None], panel: str, prefix: str
) -> Iterator[CommandOption]:
    hints = get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        inner, metadata = hints[field.name], getattr(hints[field.name], "__metadata__", ())
        if metadata:
            inner = get_args(inner)[0]
        place = (*path, field.name)
        if dataclasses.is_dataclass(inner) and isinstance(inner, type):
            changes = next((own.options for own in metadata if isinstance(own, Renamed)), {})
            yield from _fields_of(inner, place, changes, panel, prefix)
            continue
        option = next((own for own in metadata if isinstance(own, Option)), Option("") if prefix else None)
        option = renamed.get(field.name, option)
        if option is None:
            continue
        key = option.name.removeprefix("--") or prefix + field.name.replace("_", "-")
        default = field.default if field.default is not dataclasses.MISSING else None
        option = replace(option, panel=option.panel or panel)
        yield CommandOption(key, option, inner, default, (place,))


def _read_all(given: Mapping[str, Raw], known: Mapping[str, CommandOption]) -> dict[str, Any]:
    return {key: own.read(given[key]) for key, own in known.items() if key in given}


def _made(
    kind: type[T],
    values: Mapping[str, Any],
    known: Mapping[str, CommandOption],
    nested: dict[str, Any] | None = None,
) -> T:
    """Returns an instance in which the options' fields have these values, and any other its default."""
    tree: dict[str, Any] = nested or {}
    for key, value in values.items():
        for path in known[key].paths:
            place = tree
            for name in path[:-1]:
                place = place.setdefault(name, {})
            place[path[-1]] = value
    return _built(kind, tree)


def _built(kind: type[T], tree: Mapping[str, Any]) -> T:
    hints: dict[str, Any] = get_type_hints(kind)
    values = dict(tree)
    for name, value in tree.items():
        inner = hints[name]
        if name == _METHOD_SETTINGS:
            values[name] = {own: _built(_settings_of(own), part) for own, part in value.items()}
        elif dataclasses.is_dataclass(inner) and isinstance(inner, type):
            values[name] = _built(inner, value)
    return kind(**values)


def _settings_of(method: str) -> type[Any]:
    settings = METHODS[method].settings
    assert settings is not None
    return settings


def _plain(kind: Any) -> Any:
    """Returns a type without the None that it may also be."""
    if get_origin(kind) in (Union, types.UnionType):
        others = tuple(own for own in get_args(kind) if own is not type(None))
        return reduce(operator.or_, others)
    return kind


def _read(name: str, kind: Any, text: str) -> Any:
    """Returns a text as a value of ``kind``."""
    reader = _READERS.get(kind)
    if reader is not None:
        return reader(name, text)
    origin, inner = get_origin(kind), get_args(kind)
    if origin is tuple:
        return _read_list(name, inner[0], text)
    return text


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise PlanError(f"{name} takes a number", got=repr(text)) from None


def _whole_number(name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise PlanError(f"{name} takes a whole number", got=repr(text)) from None


def _read_list(name: str, kind: Any, text: str) -> tuple[Any, ...]:
    parts = [part.strip() for part in text.split(",")]
    if get_origin(kind) is tuple:
        return tuple(_pair(name, part) for part in parts if part)
    if kind in (int, float):
        what = "whole numbers" if kind is int else "numbers"
        try:
            return tuple(kind(part) for part in parts)
        except ValueError:
            raise PlanError(f"{name} takes {what} with commas between", got=repr(text)) from None
    return tuple(filter(None, parts))


def _pair(name: str, text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,9}):(\d{1,9})", text, re.ASCII)
    if match is None:
        raise PlanError(f"{name} cannot be read", expected="STUDENT:TEACHER, such as 6:2,12:4", got=repr(text))
    return int(match[1]), int(match[2])


def _image_size(name: str, text: str) -> int | tuple[int, int]:
    match = re.fullmatch(r"(\d{1,6})(?:x(\d{1,6}))?", text.strip(), re.ASCII | re.IGNORECASE)
    if match is None:
        raise PlanError(f"{name} cannot be read", expected="a number of pixels, or HEIGHTxWIDTH", got=repr(text))
    return int(match[1]) if match[2] is None else (int(match[1]), int(match[2]))


def _any_value(name: str, text: str) -> int | float | str | bool:
    """Reads true, false or a number; anything else stays text."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


_METAVARS = {int: "INT", float: "FLOAT", int | tuple[int, int]: "INT"}

_READERS: Mapping[Any, Callable[[str, str], Any]] = {
    int: _whole_number,
    float: _number,
    int | tuple[int, int]: _image_size,
    int | float | str | bool: _any_value,
}
