from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from runtime import PlanError, check_fields


@dataclass(frozen=True)
class Inner:
    share: float = 0.5

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class Settings:
    name: str = ""
    folder: Path | None = None
    size: int | None = None
    rate: float = 1.0
    quiet: bool = False
    mode: Literal["fast", "exact"] = "fast"
    kinds: tuple[str, ...] = ()
    pair: tuple[int, int] = (1, 2)
    mean: tuple[float, ...] | None = None
    extra: Mapping[str, int | float | str | bool] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    inner: Inner = field(default_factory=Inner)
    anything: Any = None

    def __post_init__(self) -> None:
        check_fields(self)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"name": Path("a/b")}, "a/b"),
        ({"folder": "a/b"}, Path("a/b")),
        ({"folder": None}, None),
        ({"size": np.int64(3)}, 3),
        ({"rate": 2}, 2.0),
        ({"rate": np.float32(0.5)}, 0.5),
        ({"quiet": np.bool_(True)}, True),
        ({"kinds": ["onnx", "fp32"]}, ("onnx", "fp32")),
        ({"pair": [3, 4]}, (3, 4)),
        ({"pair": np.array([3, 4])}, (3, 4)),
        ({"mean": [0, 0.5]}, (0.0, 0.5)),
        ({"extra": {"depth": 6, "ratio": 2.5, "act": "gelu", "bias": True}}, None),
        ({"anything": object}, object),
    ],
)
def test_what_says_the_same_is_brought_to_the_annotated_type(given: dict[str, Any], kept: Any) -> None:
    (name,) = given
    value = getattr(Settings(**given), name)
    kept = given[name] if name == "extra" else kept
    assert value == kept
    assert type(value) is type(kept)
    assert not isinstance(value, tuple) or list(map(type, value)) == list(map(type, kept))


@pytest.mark.parametrize(
    ("given", "expected", "got"),
    [
        ({"name": 3}, "a text", "3"),
        ({"name": b"x"}, "a text", "b'x'"),
        ({"folder": 3}, "a path or None", "3"),
        ({"size": "32"}, "a whole number or None", "'32'"),
        ({"size": 32.0}, "a whole number or None", "32.0"),
        ({"size": True}, "a whole number or None", "True"),
        ({"rate": "1"}, "a number", "'1'"),
        ({"rate": False}, "a number", "False"),
        ({"rate": 1j}, "a number", "1j"),
        ({"quiet": "yes"}, "True or False", "'yes'"),
        ({"quiet": 1}, "True or False", "1"),
        ({"mode": "foo"}, "fast or exact", "'foo'"),
        ({"mode": None}, "fast or exact", "None"),
        ({"kinds": "fp32"}, "a tuple or list of a text, such as ('fp32',)", "'fp32'"),
        ({"kinds": {"a", "b"}}, "a tuple or list of a text", "{'a', 'b'}"),
        ({"kinds": (1,)}, "a text", "(1,)"),
        ({"pair": (1, 2, 3)}, "2 values", "(1, 2, 3)"),
        ({"mean": 0.5}, "a tuple or list of a number, such as (0.5,) or None", "0.5"),
        ({"extra": [("depth", 6)]}, "a dict from text to", "[('depth', 6)]"),
        ({"extra": {"depth": (6,)}}, "a whole number, a number, a text or True or False", "{'depth': (6,)}"),
        ({"sizes": {3: 1}}, "a text", "{3: 1}"),
        ({"sizes": {"mlp": "8"}}, "a whole number", "{'mlp': '8'}"),
        ({"inner": {"share": 0.5}}, "a Inner", "{'share': 0.5}"),
    ],
)
def test_anything_else_is_refused_with_what_would_be_right(given: dict[str, Any], expected: str, got: str) -> None:
    (name,) = given
    with pytest.raises(PlanError) as caught:
        Settings(**given)
    assert str(caught.value).startswith(f"Settings does not take this for {name}. Expected {expected}")
    assert str(caught.value).endswith(f"Got {got}.")


def test_values_that_fit_are_kept_as_they_are() -> None:
    kinds, inner = ("a", "b"), Inner(0.25)
    settings = Settings(kinds=kinds, inner=inner)
    assert settings.kinds is kinds
    assert settings.inner is inner


def test_a_long_value_does_not_fill_the_screen() -> None:
    with pytest.raises(PlanError) as caught:
        Settings(size="9" * 10_000)  # type: ignore[arg-type]
    assert len(str(caught.value)) < 300
