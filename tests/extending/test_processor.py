"""A family of processors from one file outside the package."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.pocketvit.conftest import TINY

from .plugins import run

pytestmark = pytest.mark.slow

PLUGIN = '''
"""A processor on which only dynamic quantisation is fast."""

from export.quantise.processors import PROCESSORS, Processor

COSTS = {"dynamic_wi8_afp32": 0.2, "static_wi8_ai8_float_islands": 0.9}
PROCESSORS.register("toychip", Processor("toychip", "Toy chips", costs=COSTS, recipes=tuple(COSTS)))
'''


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    (tmp_path / "toy_chip.py").write_text(PLUGIN)
    return tmp_path


def test_it_is_in_the_help_and_among_the_choices(plugin: Path) -> None:
    shown = " ".join(run(plugin, "toy_chip", "export", "--help").stdout.replace("│", " ").split())
    assert "toychip" in shown
    refused = run(plugin, "math", "export", "--for", "toychip", "--model", "vit_tiny_patch16_224", "--no-pretrained")
    assert refused.returncode == 2
    assert "'toychip'" in refused.stderr


def test_int8_is_made_for_it_by_its_counted_costs(plugin: Path) -> None:
    export = ("export", *TINY, "--for", "toychip", "--no-pretrained", "--formats", "int8", "--runs", plugin / "runs")
    done = run(plugin, "toy_chip", *export, "--name", "mine", "--json")
    assert done.returncode == 0, done.stderr
    (artifact,) = json.loads(done.stdout)["artifacts"]
    assert (artifact["made_for"], artifact["asked"]["made_for"]) == ("toychip", "toychip")
    assert artifact["recipe"] == "dynamic_wi8_afp32"
    tried = {trial["recipe"]: trial["instructions_of_fp32"] for trial in artifact["trials"]}
    # the search ends with the recipe that costs the least, since any accuracy is good enough here
    assert tried == {"dynamic_wi8_afp32": 0.2}
    folder = plugin / "runs" / "mine"
    done = run(plugin, "toy_chip", "report", folder)
    assert done.returncode == 0, done.stderr
    assert artifact["file"] in done.stdout
    assert "dynamic_wi8_afp32" in (folder / "report.html").read_text()
    assert "for toychip" in " ".join(done.stdout.split())
    assert "for toychip" in (folder / "report.html").read_text()


def test_a_device_may_have_it(plugin: Path) -> None:
    (plugin / "targets.toml").write_text('[targets.board]\naddress = "ssh:board"\ncpu_family = "toychip"\n')
    listed = run(plugin, "toy_chip", "targets", "list", "--inventory", plugin / "targets.toml")
    assert listed.returncode == 0, listed.stderr
    refused = run(plugin, "math", "targets", "list", "--inventory", plugin / "targets.toml")
    assert refused.returncode == 2
    assert "Expected x86, pi4, pi5, android" in refused.stderr
