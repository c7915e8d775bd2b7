"""Every mistake of a user's: one paragraph, exit code 2, no traceback, nothing half-written."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from compress.model.load import ModelSpec, load_model
from runtime import manifest_path
from tests.pocketvit import preloaded
from tests.pocketvit.conftest import TINY, Answer, Command, environment

pytestmark = pytest.mark.slow


def refused(answer: Answer, *texts: str) -> None:
    assert answer.code == 2, answer.err
    assert "Traceback" not in answer.err
    assert answer.out == ""
    said = " ".join(answer.err.split())
    assert said.count("error:") == 1
    for text in texts:
        assert text in said


@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        (("--model", "vit_smal_patch16_224"), ("knows no model", "vit_small_patch16_224")),
        (("--model", "swin_tiny_patch4_window7_224"), ("window attention", "not supported")),
        (("--model", "vit_dwee_patch16_reg1_gap_256"), ("differential attention", "not supported")),
        (("--data", "digit"), ("No dataset is called", "digits")),
        (("--data", "imagefolder:/nowhere/at/all"), ("does not exist",)),
        (("--img-size", "33"), ("patches", "33")),
        (("--in-chans", "2"), ("1 or 3",)),
        (("--budget", "macs=0.001"), ("cannot be met", "at least macs=0.0")),
        (("--budget", "latency=fast"), ("not a budget", "macs=0.75")),
        (("--checkpoint", "missing.safetensors", "--model", "vit_tiny_patch16_224"), ("does not exist",)),
        (("--checkpoint", "x.pth"), ("needs its architecture", "--model")),
        (("--pretrained", "--checkpoint", "x.pth", "--model", "vit_tiny_patch16_224"), ("two sources",)),
        (("--epochs", "-1"), ("at least 0",)),
        (("--batch-size", "0"), ("at least 1",)),
        (("--group-size", "mlp=12"), ("multiple of 8",)),
        (("--group-size", "tail=8"), ("Unknown kind of group",)),
        (("--model-arg", "depth"), ("NAME=VALUE",)),
        (("--formats", "onnx,coreml"), ("coreml", "int8-full")),
        (("--mean", "a,b"), ("numbers with commas",)),
        (("--bf16", "perhaps"), ("auto, on or off",)),
        (("--train-limit", "3"), ("leaves a class empty",)),
    ],
)
def test_a_run_that_cannot_be_is_refused_before_anything_is_written(
    pocketvit: Command, tmp_path: Path, arguments: tuple[str, ...], texts: tuple[str, ...]
) -> None:
    refused(pocketvit("run", *arguments, "--runs", tmp_path / "runs"), *texts)
    assert not (tmp_path / "runs").exists()


def test_the_smallest_budget_named_can_be_met(pocketvit: Command, tmp_path: Path) -> None:
    said = pocketvit("compress", *TINY, "--budget", "macs=0.0001", "--runs", tmp_path).err
    smallest = said.split("at least ")[1].split()[0]
    assert smallest.startswith("macs=0.")
    answer = pocketvit(
        "compress", *TINY, "--epochs", "0", "--recovery-epochs", "0", "--budget", smallest, "--runs", tmp_path
    )
    assert answer.code == 0, answer.err


def test_a_checkpoint_of_other_classes(pocketvit: Command, tmp_path: Path) -> None:
    spec = ModelSpec("vit_tiny_patch16_224", 32, 16, 1, overrides={"embed_dim": 32, "depth": 2, "num_heads": 2})
    file = tmp_path / "seven.safetensors"
    import timm

    model = timm.create_model(
        spec.name, img_size=32, patch_size=16, in_chans=1, num_classes=7, embed_dim=32, depth=2, num_heads=2
    )
    save_file(model.state_dict(), file)
    arguments = (*TINY, "--in-chans", 1, "--checkpoint", file, "--runs", tmp_path / "runs")
    refused(pocketvit("compress", *arguments), "seven.safetensors", "Expected 10", "Got 7", "--reset-head")
    assert not (tmp_path / "runs").exists()
    answer = pocketvit("compress", *arguments, "--reset-head", "--json")
    assert answer.code == 0, answer.err
    assert load_model(spec, 10).plan.num_classes == 10


def test_a_truncated_checkpoint(pocketvit: Command, tmp_path: Path) -> None:
    whole = tmp_path / "whole.pth"
    torch.save({"head.weight": torch.zeros(10, 32)}, whole)
    (tmp_path / "cut.pth").write_bytes(whole.read_bytes()[:-200])
    refused(
        pocketvit("run", *TINY, "--checkpoint", tmp_path / "cut.pth", "--runs", tmp_path / "runs"),
        "cut.pth",
        "cannot be read",
    )


def test_a_corrupt_image_is_named_or_skipped(pocketvit: Command, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(30):
            pixels = generator.integers(0, 255, (20, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{i}.png")
    bad = tmp_path / "photos" / "dog" / "7.png"
    bad.write_bytes(bad.read_bytes()[:300])
    arguments = ("compress", *TINY, "--train-limit", "30", "--data", f"imagefolder:{tmp_path / 'photos'}")
    refused(pocketvit(*arguments, "--runs", tmp_path / "runs"), str(bad), "--skip-bad")
    assert not (tmp_path / "runs").exists()
    answer = pocketvit(*arguments, "--runs", tmp_path / "runs", "--skip-bad", "--json")
    assert answer.code == 0, answer.err
    assert f"skipped {bad}" in answer.err.replace("\n", "")


def test_an_existing_run_is_left_alone(tiny_run: Path, pocketvit: Command, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(tiny_run, runs / "tiny")
    before = contents(runs)
    again = ("run", *TINY, "--name", "tiny", "--runs", runs)
    refused(pocketvit(*again), "exists already", "--resume", "--force")
    refused(pocketvit(*again, "--budget", "macs=0.5", "--resume"), "other settings", "macs=0.75", "macs=0.5")
    refused(pocketvit(*again, "--force", "--budget", "macs=0.0001"), "cannot be met")
    (runs / "mine").mkdir()
    (runs / "mine" / "thesis.txt").write_text("all of it")
    refused(pocketvit("run", *TINY, "--name", "mine", "--runs", runs, "--force"), "no run folder")
    (runs / "mine" / "thesis.txt").unlink()
    (runs / "mine").rmdir()
    assert contents(runs) == before


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock"}


@pytest.fixture
def artifact(tiny_run: Path, tmp_path: Path) -> Path:
    file = tmp_path / "tiny.fp32.tflite"
    shutil.copy(tiny_run / "artifacts" / file.name, file)
    shutil.copy(manifest_path(tiny_run / "artifacts" / file.name), manifest_path(file))
    return file


def test_damaged_artifacts(artifact: Path, pocketvit: Command, tmp_path: Path) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    whole, manifest = artifact.read_bytes(), manifest_path(artifact).read_text()
    for command_line in (("predict", artifact, tmp_path / "a.png"), ("bench", artifact, "--samples", 3)):
        artifact.write_bytes(whole[:-1000])
        refused(pocketvit(*command_line), artifact.name, "damaged", "bytes")
        artifact.write_bytes(whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:])
        refused(pocketvit(*command_line), artifact.name, "sha256")
        artifact.write_bytes(whole)
        newer = re.sub(r'"schema_version": \d+', '"schema_version": 99', manifest, count=1)
        manifest_path(artifact).write_text(newer)
        refused(pocketvit(*command_line), "newer PocketViT", "version 99", "pip install --upgrade")
        manifest_path(artifact).write_text(manifest[: len(manifest) // 2])
        refused(pocketvit(*command_line), "not valid JSON")
        manifest_path(artifact).write_text(manifest)
    assert pocketvit("predict", artifact, tmp_path / "a.png").code == 0


def test_things_that_are_not_there(pocketvit: Command, tmp_path: Path) -> None:
    refused(pocketvit("predict", tmp_path / "no.tflite", tmp_path / "a.png"), "does not exist")
    refused(pocketvit("bench", tmp_path / "no.onnx"), "does not exist")
    refused(pocketvit("report", tmp_path / "no"), "does not exist")
    refused(pocketvit("report", tmp_path), "no run folder")
    refused(pocketvit("export", tmp_path), "no run folder")
    refused(pocketvit("export"), "nothing to export")
    refused(pocketvit("export", "--model", "vit_tiny_patch16_224"), "which weights", "--no-pretrained")


def test_an_unknown_target(artifact: Path, pocketvit: Command) -> None:
    refused(pocketvit("bench", artifact, "--target", "toaster"), "toaster", "cpu")


def test_an_unknown_option_is_a_usage_error(pocketvit: Command) -> None:
    answer = pocketvit("run", "--speed", "fast")
    assert answer.code == 2
    assert "Traceback" not in answer.err


def test_a_full_disk_stops_a_run_and_leaves_no_half_file(tmp_path: Path) -> None:
    short = ("--epochs", 1, "--recovery-epochs", 0, "--formats", "fp32")
    arguments = ("run", *TINY, *short, "--name", "full", "--runs", tmp_path)
    little_space = (
        "import resource, signal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "from pocketvit.cli import main\n"
        "main()\n"
    )
    done = preloaded.run(*arguments, env=environment(), program=little_space)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "no space left" in " ".join(done.stderr.split())
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(".tmp")]
    assert not (tmp_path / "full" / "baseline" / "metrics.json").exists()
    again = preloaded.run(*arguments, "--resume", "--bench-seconds", "0.1", "--no-energy", env=environment())
    assert again.returncode == 0, again.stderr


@pytest.mark.parametrize(
    ("package", "extra", "arguments"),
    [
        ("timm", "compress", ("run", *TINY)),
        ("ai_edge_litert", "litert", ("predict", "{tflite}", "{png}")),
        ("onnxruntime", "onnx", ("predict", "{onnx}", "{png}")),
        ("PIL", "litert", ("predict", "{tflite}", "{png}")),
        ("flatbuffers", "export", ("export", "{run}", "--formats", "fp32")),
        ("jinja2", "bench", ("report", "{run}")),
        ("matplotlib", "bench", ("report", "{run}")),
    ],
)
def test_a_missing_extra_names_the_pip_command(
    tiny_run: Path, tmp_path: Path, package: str, extra: str, arguments: tuple[str, ...]
) -> None:
    shutil.copytree(tiny_run, tmp_path / "runs" / "tiny")
    for path in (tmp_path / "runs" / "tiny" / "artifacts").glob("tiny.fp32.tflite*"):
        path.unlink() if package == "flatbuffers" else None
    places = {
        "{tflite}": tiny_run / "artifacts" / "tiny.int8.tflite",
        "{onnx}": tiny_run / "artifacts" / "tiny.onnx",
        "{run}": tmp_path / "runs" / "tiny",
        "{png}": tmp_path / "a.png",
    }
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    words = [str(places.get(argument, argument)) for argument in arguments]
    words += ["--runs", str(tmp_path / "new")] if arguments[0] == "run" else []
    without = (
        "import sys\n"
        f"for name in [name for name in sys.modules if name.split('.')[0] == {package!r}]:\n"
        "    del sys.modules[name]\n"
        f"sys.modules[{package!r}] = None\n"
        "from pocketvit.cli import main\n"
        "main()\n"
    )
    done = preloaded.run(*words, env=environment(), program=without)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert f"pip install 'pocketvit[{extra}]'" in " ".join(done.stderr.split())
