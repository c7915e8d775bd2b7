"""The wheel as a device gets it: five packages, no torch, and one engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from compress.data.load import load_data

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    arguments = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_ships_exactly_the_five_packages(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names}
    info = next(top for top in tops if top.endswith(".dist-info"))
    assert tops == {"runtime", "compress", "export", "device_bench", "pocketvit", info}
    assert f"{info}/licenses/LICENSE" in names
    for package in ("runtime", "compress", "export", "device_bench", "pocketvit"):
        assert f"{package}/py.typed" in names
    assert {"device_bench/report/render/page.html.j2", "device_bench/report/render/page.css"} <= set(names)
    page = ("index.html", "style.css", "main.js", "worker.js", "sha256.js")
    assert {f"device_bench/targets/web/page/{name}" for name in page} <= set(names)
    kinds = (
        "fp32.onnx",
        "fp32.tflite",
        "int8-dynamic.onnx",
        "int8-dynamic.tflite",
        "int8-static.onnx",
        "int8-static.tflite",
    )
    assert {f"device_bench/metrics/peak_models/{kind}" for kind in kinds} <= set(names)


def test_predicting_without_torch(wheel: Path, tiny_run: Path, tmp_path: Path) -> None:
    # the pip of the tests installs into it, since making another takes longer than all the rest
    venv.create(tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", str(python))
    quiet = ("--quiet", "--disable-pip-version-check", "-c", str(ROOT / "constraints.txt"))
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [*pip, "install", *quiet, f"{wheel}[litert]"],
        env=environment, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    load_data("digits").images[0].save(tmp_path / "zero.png")
    artifact = tiny_run / "artifacts" / "tiny.int8-full.tflite"
    program = (
        "import sys\n"
        "from pocketvit.cli import main\n"
        "try:\n"
        "    main()\n"
        "finally:\n"
        "    heavy = ('torch', 'timm', 'onnxruntime')\n"
        "    print(sorted(m for m in sys.modules if m.split('.')[0] in heavy), file=sys.stderr)\n"
    )
    words = ["predict", str(artifact), str(tmp_path / "zero.png"), "--plot", str(tmp_path / "seen.png"), "--json"]
    done = subprocess.run(
        [python, "-c", program, *words],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip().endswith("[]")
    assert json.loads(done.stdout)["predictions"][0]["class"] in {str(c) for c in range(10)}
    assert (tmp_path / "seen.png").stat().st_size > 1000
    installed = subprocess.run([*pip, "list"], capture_output=True, text=True, timeout=60, check=True)
    assert "pocketvit" in installed.stdout
    assert "torch" not in installed.stdout
    done = subprocess.run(
        [tmp_path / "venv" / "bin" / "pocketvit", "run"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "pip install 'pocketvit[compress]'" in done.stderr
