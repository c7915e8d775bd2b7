from __future__ import annotations

import sys
from pathlib import Path

import pytest

from runtime import UnsupportedTargetError
from runtime.registry import PLUGINS, Registry


def numbers() -> Registry[object]:
    return Registry("number", {"pi": "math:pi", "none": "no_such_module:none"})


def test_names_are_listed_without_an_import_and_in_order() -> None:
    known = numbers()
    known.register("two", 2)
    assert list(known) == ["pi", "none", "two"]
    assert len(known) == 3
    assert "two" in known
    assert "no_such_module" not in sys.modules


def test_a_thing_is_imported_when_it_is_looked_up() -> None:
    assert numbers()["pi"] == pytest.approx(3.14159, abs=1e-5)
    with pytest.raises(ModuleNotFoundError):
        _ = numbers()["none"]


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UnsupportedTargetError, match=r"Unknown number\. Expected one of pi, none\. Got 'four'"):
        _ = numbers()["four"]


def test_a_name_is_taken_once() -> None:
    known = numbers()
    known.register("two", 2)
    for name in ("two", "pi"):
        with pytest.raises(UnsupportedTargetError, match=f"already a number named '{name}'"):
            known.register(name, 3)


def test_modules_of_the_environment_are_imported_before_a_registry_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "adds_a_number.py").write_text("import builtins\nbuiltins.seen_by_the_test.register('two', 2)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv(PLUGINS, "adds_a_number")
    known = numbers()
    monkeypatch.setattr("builtins.seen_by_the_test", known, raising=False)
    assert known["two"] == 2
    monkeypatch.setenv(PLUGINS, "adds_a_number,not_there_at_all")
    with pytest.raises(UnsupportedTargetError, match="not_there_at_all"):
        list(known)
