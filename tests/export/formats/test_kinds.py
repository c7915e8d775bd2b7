from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from importlib import import_module

import pytest

from export.formats import DEFAULT_KINDS, KINDS, ExportKind, kind_of
from export.quantise.processors import PROCESSORS, ordered_recipes
from export.quantise.recipes import RECIPES, recipes_for
from runtime import DataError
from runtime.formats import FORMATS
from tests.export.test_verify import PARITY, artifact


def test_kinds_differ_in_their_file_names_and_in_their_manifests() -> None:
    kinds = list(KINDS.values())
    assert [kind.name for kind in kinds] == list(KINDS)
    assert len({kind.suffix for kind in kinds}) == len({(kind.format, kind.precision) for kind in kinds}) == len(kinds)
    assert all(kind.suffix.endswith(FORMATS[kind.format].suffix) for kind in kinds)
    assert set(DEFAULT_KINDS) < set(KINDS)


def test_the_kind_of_a_file_is_that_of_its_format_and_precision() -> None:
    assert kind_of(artifact("int8", PARITY)) is KINDS["int8"]
    assert kind_of(replace(artifact("int8", PARITY), format="onnx")) is KINDS["onnx-int8"]
    assert kind_of(artifact("int2", PARITY)) is None


def test_a_kind_has_either_a_writer_or_a_form() -> None:
    with pytest.raises(DataError, match="'bare' needs either a write or a form"):
        ExportKind("bare", "nothing", "onnx", "fp32")


@pytest.mark.parametrize("kind", [name for name, kind in KINDS.items() if kind.form])
def test_every_kind_of_integers_has_recipes_whose_passes_are_functions(kind: str) -> None:
    recipes = recipes_for(kind)
    assert recipes
    for recipe in recipes:
        assert RECIPES[recipe.name] is recipe
        for name in recipe.passes:
            module, function = name.split(":")
            assert callable(getattr(import_module(module), function))
    for processor in PROCESSORS:
        assert set(ordered_recipes(processor, kind)) == set(recipes)


def test_kinds_and_recipes_are_listed_without_torch() -> None:
    text = (
        "import sys; from export.formats import KINDS; from export.quantise.recipes import RECIPES\n"
        "from export.quantise.processors import PROCESSORS; from export.inspect.readers import READERS\n"
        "print(len(list(KINDS.values())), len(list(RECIPES.values())), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(len(KINDS)), str(len(RECIPES)), "False"]
