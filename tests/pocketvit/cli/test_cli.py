from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

import pocketvit as package
from pocketvit.options import run_settings
from pocketvit.progress import progress_lines
from pocketvit.settings import RunSettings
from runtime import PlanError, decode, encode
from tests.pocketvit.conftest import Command, environment


def test_help_loads_nothing_heavy() -> None:
    program = (
        "import sys; sys.argv = ['pocketvit', '--help']\n"
        "from pocketvit.cli import main\n"
        "try:\n"
        "    main()\n"
        "except SystemExit:\n"
        "    heavy = {'torch', 'timm', 'matplotlib', 'sklearn', 'onnxruntime', 'PIL', 'numpy', 'runtime'}\n"
        "    print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment(), capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip().endswith("[]")
    for command in ("run", "compress", "export", "predict", "bench", "report", "doctor"):
        assert command in done.stdout


def test_version(pocketvit: Command) -> None:
    assert pocketvit("--version").out.strip()


@pytest.mark.parametrize("command", ["run", "compress", "export", "predict", "bench", "report", "doctor"])
def test_every_command_explains_itself_and_speaks_json(pocketvit: Command, command: str) -> None:
    answer = pocketvit(command, "--help")
    assert answer.code == 0
    assert "--json" in answer.out


def test_doctor(pocketvit: Command) -> None:
    document = json.loads(pocketvit("doctor", "--json").out)
    found = {finding["name"]: finding for finding in document["findings"]}
    assert document["schema"] == "pocketvit.doctor"
    assert found["torch"]["value"]
    assert found["ai-edge-litert"]["fix"] == "pip install 'pocketvit[litert]'"
    assert "python" in pocketvit("doctor").out


def test_the_public_names_are_there() -> None:
    for name in package.__all__:
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'prune'"):
        _ = package.prune


def test_options_become_settings_and_settings_survive_json() -> None:
    given: dict[str, Any] = {
        **{"data": "cifar10", "model": "vit_tiny_patch16_224", "mean": "0.1,0.2,0.3", "std": "1,1,1", "epochs": 3},
        **{"model-arg": ("depth=6", "qkv_bias=false", "init_values=1e-5"), "group-size": ("mlp=16",)},
        **{"recovery-lr": 1e-4, "formats": "onnx, int8"},
    }
    settings = run_settings(given)
    assert settings.model_args == {"depth": 6, "qkv_bias": False, "init_values": 1e-5}
    assert settings.mean == (0.1, 0.2, 0.3)
    assert settings.group_sizes == {"mlp": 16}
    assert (settings.fine_tune.epochs, settings.recover.epochs, settings.recover.lr) == (3, None, 1e-4)
    assert settings.kinds == ("onnx", "int8")
    assert decode(RunSettings, json.loads(json.dumps(encode(settings))), "run") == settings


def test_the_name_of_a_run() -> None:
    assert RunSettings().name == "digits-vit"
    assert RunSettings(data="imagefolder:/a/photos/", model="vit_x").name == "photos-vit_x"


def test_contradictions_are_refused() -> None:
    with pytest.raises(PlanError, match="two sources"):
        RunSettings(pretrained=True, checkpoint="x", model="m")
    with pytest.raises(PlanError, match="out of range"):
        RunSettings(seed=-1)


def test_progress_without_a_terminal_is_a_line_now_and_then() -> None:
    lines: list[str] = []
    now = [0.0]
    report = progress_lines(lines.append, clock=lambda: now[0])
    for done in range(1, 101):
        now[0] += 1.0
        report("train", done, 100, "note")
    assert lines[0] == "train: 1/100  note"
    assert lines[-1] == "train: 100/100  note"
    assert 10 <= len(lines) <= 12
