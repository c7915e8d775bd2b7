"""Reads the inventory of devices, a TOML file, and turns names on the command line into devices."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from device_bench.targets import TARGETS
from runtime import ArtifactError, PocketVitError, UnsupportedTargetError

from .base import Device

FILE = "targets.toml"
EVERY = "all"

_TEXT: tuple[str, Callable[[Any], bool]] = ("a text in quotes", lambda value: isinstance(value, str))
_FIELDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "address": _TEXT,
    "threads": ("a whole number", lambda value: isinstance(value, int) and not isinstance(value, bool)),
    "cpu_family": _TEXT,
    "python": _TEXT,
    "ssh_config": _TEXT,
    "benchmark_model": _TEXT,
    "benchmark_model_sha256": _TEXT,
    "backends": (
        'a list of texts, such as ["cpu", "gpu"]',
        lambda value: isinstance(value, list) and all(isinstance(own, str) for own in value),
    ),
    "notes": _TEXT,
}
"""For each key of a table: the expected type in words, and a check of a value."""

_FILES = ("ssh_config", "benchmark_model")


@dataclass(frozen=True)
class Inventory:
    """The devices that the user has listed.

    Attributes:
        path: path of the file; None without one.
        devices: the devices in the order of the file, each with a name.
    """

    path: Path | None = None
    devices: tuple[Device, ...] = ()


def places(environ: Mapping[str, str] = os.environ, here: Path = Path()) -> tuple[Path, ...]:
    """Returns the paths where an inventory is looked for, in order.

    Args:
        environ: environment variables; ``HOME`` and ``XDG_CONFIG_HOME`` are used.
        here: the current folder.
    """
    config = environ.get("XDG_CONFIG_HOME", "")
    # the convention says to ignore a relative path
    folder = Path(config) if Path(config).is_absolute() else Path(environ.get("HOME", "/")) / ".config"
    return here / FILE, folder / "pocketvit" / FILE


def read_inventory(path: Path | None = None, *, looked: Sequence[Path] | None = None) -> Inventory:
    """Reads an inventory: tables ``[targets.NAME]`` with the fields of ``Device``.

    Paths in it are relative to the file.

    Args:
        path: the file; by default the first of ``looked`` that exists, or else an empty inventory.
        looked: paths to look at; by default ``places()``.

    Raises:
        ArtifactError: the file is missing, is not TOML, or has an unknown key or a value of the wrong type.
        UnsupportedTargetError: a value is impossible.
    """
    if path is None:
        path = next((place for place in (places() if looked is None else looked) if place.is_file()), None)
        if path is None:
            return Inventory()
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(f"The inventory {path} does not exist", expected="a TOML file, [targets.NAME]") from None
    except (OSError, ValueError) as error:
        raise ArtifactError(f"The inventory {path} cannot be read as TOML", got=error) from error
    for key in document:
        if key != "targets":
            raise _unknown(f"{path} has an unknown key", key, ("targets",), "tables [targets.NAME]")
    tables = _table(document.get("targets", {}), "targets", path)
    return Inventory(path, tuple(_device(name, table, path) for name, table in tables.items()))


def resolve(names: Sequence[str], inventory: Inventory) -> tuple[Device, ...]:
    """Returns the devices with the given names, in that order.

    Args:
        names: names of the inventory, addresses, or ``all`` for the whole inventory; one text may hold several,
            separated by commas.
        inventory: the user's inventory.

    Raises:
        UnsupportedTargetError: a name is unknown or comes twice, or there is no name.
    """
    asked = [name.strip() for text in names for name in text.split(",") if name.strip()]
    devices: list[Device] = []
    for name in asked:
        devices += _all(inventory) if name == EVERY else [_one(name, inventory)]
    labels = [device.label for device in devices]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice or not devices:
        raise UnsupportedTargetError(
            "A target is asked for twice" if twice else "No target is asked for",
            expected=None if twice else f"names of the inventory, or {', '.join(TARGETS)}",
            got=", ".join(twice) or None,
            fix="Name each once; all has every one of the inventory" if twice else None,
        )
    return tuple(devices)


def _bare() -> list[str]:
    """Returns the addresses without a place, which no device may be named after."""
    return [form for form in TARGETS if ":" not in form]


def _device(name: str, value: Any, path: Path) -> Device:
    where = f"[targets.{name}] of {path}"
    table = _table(value, f"targets.{name}", path)
    for key, own in table.items():
        if key not in _FIELDS:
            raise _unknown(f"{where} has an unknown key", key, tuple(_FIELDS), f"one of {', '.join(_FIELDS)}")
        expected, fits = _FIELDS[key]
        if not fits(own):
            raise ArtifactError(f"{key} in {where} is of the wrong type", expected=expected, got=repr(own)[:80])
    if not table.get("address"):
        raise ArtifactError(f"{where} has no address", expected=f'address = "…", one of {", ".join(TARGETS)}')
    if not name or name == EVERY or (name in _bare() and table["address"] != name):
        raise ArtifactError(
            f"{path} has a target with a name that means something else",
            expected=f"a name other than {EVERY}, {', '.join(_bare())}",
            got=repr(name),
        )
    try:
        return Device(name=name, **{key: _value(key, own, path.parent) for key, own in table.items()})
    except (PocketVitError, RuntimeError) as error:  # a RuntimeError comes from a ~ of an unknown user
        raise UnsupportedTargetError(f"{where} cannot be: {error}") from error


def _value(key: str, value: Any, folder: Path) -> Any:
    """Returns a value as the field holds it: a path relative to ``folder``, a list as a tuple."""
    if key in _FILES:
        return folder / Path(value).expanduser()
    return tuple(value) if isinstance(value, list) else value


def _table(value: Any, name: str, path: Path) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ArtifactError(f"{name} in {path} is not a table", expected=f"[{name}]", got=repr(value)[:80])
    return value


def _all(inventory: Inventory) -> tuple[Device, ...]:
    if not inventory.devices:
        where = inventory.path or " or ".join(map(str, places()))
        raise UnsupportedTargetError(
            f"'{EVERY}' means every target of the inventory, and there is none",
            expected=f"tables [targets.NAME] in {where}",
        )
    return inventory.devices


def _one(name: str, inventory: Inventory) -> Device:
    known = {device.name: device for device in inventory.devices}
    if name in known:
        return known[name]
    if name in _bare() or ":" in name:
        return Device(name)
    raise _unknown(
        "This target is neither a name of the inventory nor an address",
        name,
        (*known, EVERY, *_bare()),
        f"{', '.join(known) or 'no name, for there is no inventory'}; or {', '.join(TARGETS)}",
        kind=UnsupportedTargetError,
    )


def _unknown(
    what: str, key: str, known: Sequence[str], expected: str, kind: type[PocketVitError] = ArtifactError
) -> PocketVitError:
    close = difflib.get_close_matches(key, known, 1)
    return kind(what, expected=expected, got=repr(key), fix=f"Did you mean {close[0]}?" if close else None)
