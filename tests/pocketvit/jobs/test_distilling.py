"""``pocketvit distill``: every kind of teacher, a run folder that export takes, and the same after a kill."""

from __future__ import annotations

import itertools
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from compress.distill.settings import Distillation
from compress.distill.teacher_folder import read_teacher
from compress.model.folder import read_model, read_task, weights_sha256
from pocketvit import RunSettings, TrainSettings
from pocketvit.distill_settings import DistillSettings
from pocketvit.jobs.distilling import distill
from runtime import METRICS_DOCUMENT, ModelError, PlanError, RunFolderError, read_artifact
from tests.pocketvit.conftest import Answer, Command

pytestmark = pytest.mark.slow

STUDENT = [
    *("--model", "vit_tiny_patch16_224", "--img-size", "32", "--patch-size", "16"),
    *("--model-arg", "embed_dim=32", "--model-arg", "depth=2", "--model-arg", "num_heads=2"),
    *("--epochs", "1", "--train-limit", "60", "--threads", "1"),
]
TEACHER = ["--teacher", "test_resnet", "--teacher-img-size", "48", "--teacher-epochs", "1"]
SETTINGS = RunSettings(
    model="vit_tiny_patch16_224",
    img_size=32,
    patch_size=16,
    model_args={"embed_dim": 32, "depth": 2, "num_heads": 2},
    fine_tune=TrainSettings(epochs=2, batch_size=16),
    train_limit=60,
    threads=1,
)


def refused(answer: Answer, *texts: str) -> None:
    assert answer.code == 2, answer.err
    assert "Traceback" not in answer.err
    assert answer.out == ""
    said = " ".join(answer.err.split())
    for text in texts:
        assert text in said


def lasting(root: Path) -> dict[str, bytes]:
    """Returns every file of a run but its log and its lock."""
    files = (path for path in root.rglob("*") if path.is_file() and path.name not in ("log.jsonl", ".lock"))
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(files)}


def test_the_result_is_a_run_that_export_takes(pocketvit: Command, tmp_path: Path) -> None:
    answer = pocketvit("distill", *STUDENT, *TEACHER, "--name", "small", "--runs", tmp_path, "--json")
    assert answer.code == 0, answer.err
    document, root = json.loads(answer.out), tmp_path / "small"
    assert document["schema"] == "pocketvit.distillation"
    assert [row["name"] for row in document["rows"]] == ["baseline", "sliced"]
    record = read_teacher(root / "teacher")
    assert document["teacher"]["name"] == record.name == "timm test_resnet"
    assert (record.preprocessing.height, len(record.epochs), record.online) == (48, 1, False)
    files = {"model.safetensors", "plan.json", "task.json", "metrics.json"}
    for name in ("baseline", "sliced"):
        assert {path.name for path in (root / name).iterdir()} == files
    assert {path.name for path in (root / "teacher").iterdir()} == {"teacher.json", "model.safetensors"}
    assert read_task(root / "sliced").source == f"{read_task(root / 'baseline').source}, taught by timm test_resnet"
    models = [read_model(root / name) for name in ("baseline", "sliced")]
    assert models[0].plan == models[1].plan
    assert weights_sha256(models[0]) != weights_sha256(models[1])
    exported = pocketvit("export", root, "--formats", "onnx", "--verify-images", 20, "--json")
    assert exported.code == 0, exported.err
    assert read_artifact(root / "artifacts" / "small.onnx").plan == models[1].plan


def test_a_teacher_trained_here_teaches_again(pocketvit: Command, tmp_path: Path) -> None:
    first = pocketvit("distill", *STUDENT, *TEACHER, "--no-alone", "--name", "first", "--runs", tmp_path, "--json")
    assert first.code == 0, first.err
    teacher = tmp_path / "first" / "teacher"
    options = ("--method", "feature,relation", "--blocks", "1:2,2:5", "--no-alone", "--name", "second")
    answer = pocketvit("distill", *STUDENT, "--teacher", teacher, *options, "--runs", tmp_path, "--json")
    assert answer.code == 0, answer.err
    again, before = read_teacher(tmp_path / "second" / "teacher"), read_teacher(teacher)
    assert (again.top1, again.held_out_top1) == (before.top1, before.held_out_top1)
    assert again.architecture is None
    refused(
        pocketvit("distill", *STUDENT, "--teacher", teacher, "--teacher-pretrained", "--runs", tmp_path / "no"),
        "--teacher-pretrained is for timm's architectures",
    )


def test_without_a_reference_the_baseline_is_the_student_as_it_was(pocketvit: Command, tmp_path: Path) -> None:
    options = ("--teacher", "test_resnet", "--online", "--no-alone", "--name", "online", "--runs", tmp_path)
    answer = pocketvit("distill", *STUDENT, *options)
    assert answer.code == 0, answer.err
    assert "Teacher: timm test_resnet" in answer.out
    assert METRICS_DOCUMENT.read(tmp_path / "online" / "baseline" / "metrics.json").epochs == ()
    record = read_teacher(tmp_path / "online" / "teacher")
    assert record.online
    assert record.architecture == "test_resnet"


def test_a_file_teaches_by_its_answers_alone(tiny_run: Path, pocketvit: Command, tmp_path: Path) -> None:
    file = tiny_run / "artifacts" / "tiny.onnx"
    options = ("--teacher", file, "--no-alone", "--runs", tmp_path, "--name", "by-file")
    answer = pocketvit("distill", *STUDENT, *options, "--json")
    assert answer.code == 0, answer.err
    record = read_teacher(tmp_path / "by-file" / "teacher")
    assert record.name == "the file tiny.onnx"
    assert record.params is None
    assert record.top1 == pytest.approx(METRICS_DOCUMENT.read(tiny_run / "sliced" / "metrics.json").top1, abs=0.01)
    for more, texts in (
        (("--method", "feature"), ("by feature needs a teacher's hidden states", "the file tiny.onnx gives none")),
        (("--method", "response,relation"), ("by relation", "gives none")),
        (("--online",), ("exported file, which cannot be trained", "--online")),
        (("--teacher-epochs", 2), ("is trained already",)),
    ):
        refused(pocketvit("distill", *STUDENT, *options[:3], "--runs", tmp_path / "no", *more), *texts)
    assert not (tmp_path / "no").exists()


def test_a_run_teaches_and_its_sliced_model_can_be_taught(tiny_run: Path, pocketvit: Command, tmp_path: Path) -> None:
    shutil.copytree(tiny_run, tmp_path / "tiny")
    options = ("--student", tmp_path / "tiny", "--teacher", tmp_path / "tiny" / "baseline", "--epochs", 1)
    answer = pocketvit("distill", *options, "--threads", 1, "--runs", tmp_path, "--json")
    assert answer.code == 0, answer.err
    root = tmp_path / "tiny-distilled"
    assert read_model(root / "sliced").plan == read_model(tiny_run / "sliced").plan
    assert read_task(root / "sliced").data == read_task(tiny_run / "sliced").data
    assert read_teacher(root / "teacher").top1 == METRICS_DOCUMENT.read(tiny_run / "baseline" / "metrics.json").top1
    refused(pocketvit("distill", *options, "--data", "digits:x", "--runs", tmp_path / "no"), "no --data with it")


def test_a_vit_that_was_trained_along_teaches_again(tiny_run: Path, pocketvit: Command, tmp_path: Path) -> None:
    options = ("--teacher", tiny_run, "--online", "--no-alone", "--name", "along", "--runs", tmp_path)
    answer = pocketvit("distill", *STUDENT, *options, "--json")
    assert answer.code == 0, answer.err
    teacher = tmp_path / "along" / "teacher"
    learnt = weights_sha256(read_model(teacher))
    assert learnt not in {weights_sha256(read_model(tiny_run / name)) for name in ("baseline", "sliced")}
    options = ("--teacher", teacher, "--no-alone", "--name", "again", "--runs", tmp_path)
    answer = pocketvit("distill", *STUDENT, *options, "--json")
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["teacher"]["top1"] == read_teacher(teacher).top1


def test_a_block_teaches_those_before_it(pocketvit: Command, tmp_path: Path) -> None:
    answer = pocketvit("distill", *STUDENT, "--method", "self", "--name", "self", "--runs", tmp_path, "--json")
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["teacher"] is None
    assert not (tmp_path / "self" / "teacher").exists()
    assert read_task(tmp_path / "self" / "sliced").source.endswith("taught by its own deeper blocks")


def test_unlabelled_pictures_are_learnt_from(pocketvit: Command, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for i in range(40):
        (tmp_path / "more").mkdir(exist_ok=True)
        Image.fromarray(generator.integers(0, 255, (20, 24, 3), dtype=np.uint8)).save(tmp_path / "more" / f"{i}.png")
    made = []
    for name, more in (("none", ()), ("some", ("--unlabelled", tmp_path / "more"))):
        options = (*TEACHER, "--no-alone", "--name", name, "--runs", tmp_path, *more)
        answer = pocketvit("distill", *STUDENT, *options, "--json")
        assert answer.code == 0, answer.err
        made.append(weights_sha256(read_model(tmp_path / name / "sliced")))
    assert made[0] != made[1]
    assert "check images: 40/40" in answer.err
    for folder in ("none", "some"):
        assert read_task(tmp_path / folder / "sliced").data == "digits"


@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        ((), ("by response needs a teacher", "--teacher")),
        (("--method", "self", "--teacher", "resnet18"), ("takes no teacher",)),
        (("--method", "osmosis", "--teacher", "resnet18"), ("response, feature, relation, self or tokens", "osmosis")),
        (("--teacher", "resnet81"), ("no teacher 'resnet81'", "Did you mean")),
        (("--teacher", "resnet18"), ("knows nothing", "--teacher-epochs")),
        (("--teacher", "resnet18", "--teacher-pretrained"), ("know other classes", "Expected 10", "Got 1000")),
        (("--teacher", "nowhere/at/all"), ("does not exist",)),
        (("--teacher", "none.onnx"), ("does not exist",)),
        ((*TEACHER, "--online"), ("trained together with the student", "--teacher-epochs")),
        ((*TEACHER, "--teacher-arg", "in_chans=2"), ("1 or 3 channels",)),
        ((*TEACHER, "--teacher-arg", "wings"), ("NAME=VALUE",)),
        ((*TEACHER, "--method", "feature", "--blocks", "3:1"), ("student has no block 3", "1 to 2")),
        ((*TEACHER, "--method", "feature", "--blocks", "1:9"), ("teacher has no block 9", "1 to 5")),
        ((*TEACHER, "--method", "feature", "--blocks", "1"), ("STUDENT:TEACHER",)),
        ((*TEACHER, "--method", "feature", "--blocks", "a:b"), ("STUDENT:TEACHER",)),
        (("--method", "self", "--self-blocks", "2"), ("Block 2 cannot be taught",)),
        ((*TEACHER, "--unlabelled", "/nowhere/at/all"), ("does not exist", "--unlabelled")),
        (("--method", "self", "--unlabelled", "."), ("Unlabelled images need",)),
        ((*TEACHER, "--distill-weight", "1.5"), ("between 0 and 1",)),
        ((*TEACHER, "--temperature", "0"), ("temperature must be positive",)),
        (("--student", "/nowhere/at/all", "--method", "self"), ("brings its model and its data along",)),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    pocketvit: Command, tmp_path: Path, arguments: tuple[str, ...], texts: tuple[str, ...]
) -> None:
    refused(pocketvit("distill", *STUDENT, *arguments, "--runs", tmp_path / "runs"), *texts)
    assert not (tmp_path / "runs").exists()


def test_a_teacher_of_other_classes(pocketvit: Command, tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_file(timm.create_model("test_resnet", num_classes=7).state_dict(), tmp_path / "seven.safetensors")
    options = ("--teacher", "test_resnet", "--teacher-checkpoint", tmp_path / "seven.safetensors")
    refused(
        pocketvit("distill", *STUDENT, *options, "--runs", tmp_path / "runs"),
        *("seven.safetensors", "Expected (10,)", "Got (7,)"),
    )


class Killed(BaseException):
    """Stands for the end of the process."""


def dying(after: int) -> Callable[..., None]:
    counter = itertools.count(1)

    def progress(stage: str, done: int, total: int, note: str = "") -> None:
        if next(counter) == after:
            raise Killed

    return progress


@pytest.mark.parametrize("online", [False, True])
def test_kills_change_nothing(tmp_path: Path, online: bool) -> None:
    lesson = Distillation(methods=("response", "feature", "self"), online=online)
    told = DistillSettings(lesson, "test_resnet", teacher_img_size=48, teacher_epochs=0 if online else 2)
    whole = distill(SETTINGS, told, tmp_path / "a" / "run")
    generator, kills = random.Random(3), 0
    for _ in range(40):
        try:
            again = distill(
                SETTINGS, told, tmp_path / "b" / "run", resume=True, progress=dying(generator.randint(2, 12))
            )
            break
        except Killed:
            kills += 1
    else:
        pytest.fail("never came to an end")
    assert kills >= 2
    assert lasting(tmp_path / "b" / "run") == lasting(tmp_path / "a" / "run")
    assert again == whole
    untouched = lasting(tmp_path / "a" / "run")
    assert distill(SETTINGS, told, tmp_path / "a" / "run", resume=True) == whole
    assert lasting(tmp_path / "a" / "run") == untouched


def test_another_lesson_does_not_go_on(tiny_run: Path, tmp_path: Path) -> None:
    told = DistillSettings(Distillation(methods=("self",)), alone=False)
    distill(SETTINGS, told, tmp_path / "run")
    before = lasting(tmp_path / "run")
    other = DistillSettings(Distillation(methods=("self",), self_weight=0.9), alone=False)
    with pytest.raises(RunFolderError, match="exists already"):
        distill(SETTINGS, other, tmp_path / "run")
    with pytest.raises(RunFolderError, match=r"distilled with other settings.*self_weight.*--force"):
        distill(SETTINGS, other, tmp_path / "run", resume=True)
    assert lasting(tmp_path / "run") == before
    distill(SETTINGS, other, tmp_path / "run", force=True)
    assert lasting(tmp_path / "run") != before
    (tmp_path / "run" / "distill.json").unlink()
    with pytest.raises(RunFolderError, match="not made by distill"):
        distill(SETTINGS, other, tmp_path / "run", resume=True)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"teacher": ""}, "needs a teacher"),
        ({"teacher_epochs": -1}, "must not be negative"),
        ({"teacher_pretrained": True, "teacher_checkpoint": "x.pth"}, "two sources"),
        ({"distillation": Distillation(online=True), "teacher_epochs": 1}, "trained together"),
        ({"distillation": Distillation(methods=("self",))}, "takes no teacher"),
        (
            {"distillation": Distillation(methods=("self",)), "teacher": "", "unlabelled": "x"},
            "Unlabelled images need",
        ),
    ],
)
def test_settings_that_contradict_each_other(wrong: dict[str, object], text: str) -> None:
    with pytest.raises(PlanError, match=text):
        DistillSettings(**({"teacher": "resnet18"} | wrong))  # type: ignore[arg-type]


def test_a_student_of_other_classes_than_its_teacher(tmp_path: Path) -> None:
    told = DistillSettings(teacher="test_resnet", teacher_args={"num_classes": 7}, teacher_epochs=1)
    with pytest.raises(ModelError, match="no classifier"):
        distill(SETTINGS, told, tmp_path / "run")


def test_recovery_learns_by_the_methods_asked_for(pocketvit: Command, tmp_path: Path) -> None:
    def recovered(*more: str) -> dict[str, bytes]:
        name = "-".join(("run", *(text.strip("-").replace(",", "-") for text in more)))
        options = [*STUDENT, "--recovery-epochs", "1", "--budget", "macs=0.8", "--name", name, "--runs", str(tmp_path)]
        answer = pocketvit("compress", *options, *more)
        assert answer.code == 0, answer.err
        return {part: (tmp_path / name / part / "model.safetensors").read_bytes() for part in ("baseline", "sliced")}

    by_answers = recovered()
    methods = [recovered("--distill-method", told) for told in ("feature", "self", "response,relation")]
    assert recovered("--distill-method", "response") == by_answers
    assert all(made["baseline"] == by_answers["baseline"] for made in methods)
    assert len({made["sliced"] for made in (*methods, by_answers)}) == 4


def test_an_unknown_method_of_recovery_is_refused_before_any_work(pocketvit: Command, tmp_path: Path) -> None:
    answer = pocketvit("compress", *STUDENT, "--distill-method", "osmosis", "--runs", tmp_path)
    refused(answer, "for methods", "osmosis", "response, feature, relation, self or tokens")
    assert not list(tmp_path.iterdir())
