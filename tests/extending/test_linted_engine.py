"""An engine to lint for, from one file outside the package."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.export.small import LEAST, small_file

from .plugins import run

pytestmark = pytest.mark.slow

PLUGIN = '''
"""An engine without GELU."""

from export.inspect.lint.base import LintedEngine, LintFinding, computed, first_output, label
from export.inspect.lint.engines import LINTED


def no_gelu(model):
    for number, op in computed(model):
        if op.kind == "GELU":
            yield LintFinding("operator", label(number, op), first_output(model, op).name, "a GELU", "Use ReLU")


LINTED.register("toychip", LintedEngine("toychip", "the toy chip", (no_gelu,)))
'''


def test_a_file_is_linted_for_it(tmp_path: Path) -> None:
    (tmp_path / "toy_chip.py").write_text(PLUGIN)
    file = small_file(tmp_path / "m.tflite", LEAST)
    found = run(tmp_path, "toy_chip", "inspect", file, "--for", "toychip", "--json")
    assert found.returncode == 1, found.stderr
    document = json.loads(found.stdout)
    assert [(own["rule"], own["count"]) for own in document["findings"]] == [("operator", 2)]
    refused = run(tmp_path, "toy_chip", "inspect", file, "--for", "other")
    assert refused.returncode == 2
    assert "toychip" in refused.stderr
