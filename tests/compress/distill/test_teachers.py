"""Who can teach: timm's networks, models in folders, exported files; and who is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from compress.data.dataset import UNLABELLED, FileImages
from compress.data.unlabelled import JoinedImages, with_unlabelled
from compress.distill.outputs import depth_of, outputs_of
from compress.distill.teacher_folder import open_teacher, read_teacher, record_of, save_teacher
from compress.distill.teachers import TimmSpec, folder_teacher, sliced_teacher, teacher_score, timm_teacher
from compress.evaluate import Score, score
from compress.model.folder import Task, read_model, save_model, weights_sha256
from runtime import (
    METRICS_DOCUMENT,
    Artifact,
    ArtifactError,
    DataError,
    ModelError,
    ModelMetrics,
    Parity,
    Provenance,
    Session,
    TensorSpec,
)
from tests.compress.model.hub.made import LABELS, answers, saved
from tests.compress.tiny import SPEC, TINY_PLAN, tiny_vit, toy_data

DATA = toy_data()
SMALL = TimmSpec("test_resnet", img_size=32)


def teacher_of(spec: TimmSpec, **options: Any) -> Any:
    return timm_teacher(spec, DATA, SPEC, **({"learns": True} | options))


def test_a_fresh_teacher_takes_size_and_channels_of_the_student() -> None:
    teacher = teacher_of(TimmSpec("test_vit", overrides={"patch_size": 4}))
    own = teacher.preprocessing
    assert (own.height, own.width, own.channels, own.resize, own.crop_pct) == (8, 8, 1, "stretch", 1.0)
    assert len(own.mean) == len(own.std) == 1
    assert not teacher.network.training
    assert teacher.name == "timm test_vit"


@pytest.mark.filterwarnings("ignore:.*has no preprocessor_config")
def test_a_hugging_face_checkpoint_teaches_its_own_classes(tmp_path: Path) -> None:
    checkpoint = saved(tmp_path)
    data = replace(DATA, class_names=LABELS)
    teacher = open_teacher(str(tmp_path), data, SPEC)
    images = torch.rand(2, 3, 32, 32)
    found = outputs_of(teacher.network, images).logits
    assert torch.allclose(found, answers(checkpoint, images), atol=1e-5)
    assert (teacher.preprocessing.height, teacher.preprocessing.channels) == (32, 3)
    assert teacher.spec is None
    with pytest.raises(ModelError, match=r"knows other classes.*Expected 3 classes.*Got 5 classes \(ant"):
        open_teacher(str(tmp_path), DATA, SPEC)
    with pytest.raises(ModelError, match="knows the classes in another order"):
        open_teacher(str(tmp_path), replace(data, class_names=LABELS[::-1]), SPEC)
    assert open_teacher(str(tmp_path), DATA, SPEC, learns=True).num_classes == 3
    learning = open_teacher(str(tmp_path), data, SPEC, learns=True)
    assert torch.equal(outputs_of(learning.network, images).logits, found)


def test_a_convolutional_teacher_reads_any_size_and_colour() -> None:
    teacher = teacher_of(replace(SMALL, in_chans=3))
    assert (teacher.preprocessing.height, teacher.preprocessing.channels) == (32, 3)
    assert outputs_of(teacher.network, torch.zeros(2, 3, 32, 32)).logits.shape == (2, 3)
    assert depth_of(teacher.network) == 5


def test_fresh_weights_hang_on_the_seed_alone() -> None:
    first = weights_sha256(teacher_of(SMALL, seed=1).network)
    torch.manual_seed(77)
    assert weights_sha256(teacher_of(SMALL, seed=1).network) == first
    assert weights_sha256(teacher_of(SMALL, seed=2).network) != first
    assert teacher_of(SMALL, seed=1).identity() != teacher_of(SMALL, seed=2).identity()


def test_a_checkpoint_is_taken_as_it_is(tmp_path: Path) -> None:
    torch.manual_seed(5)
    network = timm.create_model("test_resnet", num_classes=3, in_chans=1)
    save_file(network.state_dict(), tmp_path / "t.safetensors")
    spec = replace(SMALL, in_chans=1, checkpoint=tmp_path / "t.safetensors")
    assert weights_sha256(teacher_of(spec, learns=False).network) == weights_sha256(network)
    with pytest.raises(ModelError, match=r"does not fit the teacher.*Expected.*Got"):
        teacher_of(replace(spec, in_chans=3), learns=False)
    other = timm.create_model("test_resnet", num_classes=7, in_chans=1)
    save_file(other.state_dict(), tmp_path / "t.safetensors")
    with pytest.raises(ModelError, match=r"fc\.bias.*Expected \(3,\).*Got \(7,\)"):
        teacher_of(spec, learns=False)


def test_a_checkpoint_of_any_network_is_taken_out_of_what_is_around_it(tmp_path: Path) -> None:
    torch.manual_seed(5)
    network = timm.create_model("test_resnet", num_classes=3, in_chans=1)
    spec = replace(SMALL, in_chans=1, checkpoint=tmp_path / "t.pth.tar")
    for prefix in ("module.", "_orig_mod.model.", "backbone."):
        wrapped = {f"{prefix}{name}": value for name, value in network.state_dict().items()}
        torch.save({"epoch": 3, "state_dict": wrapped | {"criterion.weight": torch.ones(3)}}, tmp_path / "t.pth.tar")
        assert weights_sha256(teacher_of(spec, learns=False).network) == weights_sha256(network)
    broken = network.state_dict() | {"fc.bias": torch.tensor([0.0, float("nan"), 0.0])}
    torch.save(broken, tmp_path / "t.pth.tar")
    with pytest.raises(ModelError, match=r"'fc\.bias'.*1 of 3 values"):
        teacher_of(spec, learns=False)


@pytest.mark.parametrize(
    ("spec", "options", "text"),
    [
        (TimmSpec("resnet81"), {}, r"no teacher 'resnet81'.*Did you mean resnet"),
        (TimmSpec("blob/../x"), {}, "no teacher"),
        (SMALL, {"learns": False}, r"fresh weights and knows nothing.*--teacher-epochs"),
        (replace(SMALL, pretrained=True), {"learns": False}, r"know other classes.*Expected 3.*Got 1000.*--online"),
        (replace(SMALL, overrides={"wings": 2}), {}, r"cannot make the teacher.*wings"),
        (TimmSpec("inception_v3", img_size=16), {}, r"does not read images of 16x16 pixels.*--teacher-img-size"),
        (TimmSpec("test_vit", img_size=33), {}, r"does not read images of 33x33 pixels.*patch size \(16\)\. Change"),
        (replace(SMALL, overrides={"num_classes": 0}), {}, r"no classifier.*Got \(1, 96\)"),
    ],
)
def test_a_teacher_that_cannot_be_is_refused(spec: TimmSpec, options: dict[str, Any], text: str) -> None:
    with pytest.raises(ModelError, match=text):
        teacher_of(spec, **options)


def task(names: tuple[str, ...] = DATA.class_names) -> Task:
    return Task("toy", 0, None, SPEC, names, "fresh weights", True)


def run_folder(root: Path, baseline: float, sliced: float) -> Path:
    for seed, (name, top1) in enumerate((("baseline", baseline), ("sliced", sliced))):
        save_model(root / name, tiny_vit(seed=seed), task())
        METRICS_DOCUMENT.write(root / name / "metrics.json", ModelMetrics(1, 1, 1, 0.5, 4, top1))
    return root


@pytest.mark.parametrize(("scores", "better"), [((0.9, 0.8), "baseline"), ((0.8, 0.9), "sliced")])
def test_the_better_model_of_a_run_teaches(tmp_path: Path, scores: tuple[float, float], better: str) -> None:
    run = run_folder(tmp_path / "run", *scores)
    teacher = open_teacher(str(run), DATA, SPEC)
    assert isinstance(teacher.network, nn.Module)
    assert weights_sha256(teacher.network) == weights_sha256(read_model(run / better))
    assert teacher.name == f"the model in {run / better}"
    chosen = open_teacher(str(run / "baseline"), DATA, SPEC)
    assert isinstance(chosen.network, nn.Module)
    assert weights_sha256(chosen.network) == weights_sha256(read_model(run / "baseline"))


def test_folders_that_cannot_teach(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="holds no trained model"):
        open_teacher(str(tmp_path), DATA, SPEC)
    with pytest.raises(ModelError, match=r"nowhere/at/all does not exist.*run folder"):
        open_teacher("nowhere/at/all", DATA, SPEC)
    save_model(tmp_path, tiny_vit(), task(("cat", "dog", "cow")))
    with pytest.raises(ModelError, match=r"other classes.*3 classes \(row0, row1, row2\).*cat, dog, cow"):
        folder_teacher(tmp_path, DATA)


def test_files_that_cannot_teach(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="does not exist"):
        open_teacher(str(tmp_path / "no.onnx"), DATA, SPEC)
    (tmp_path / "foreign.onnx").write_bytes(b"x")
    with pytest.raises(ArtifactError, match="no manifest"):
        open_teacher(str(tmp_path / "foreign.onnx"), DATA, SPEC)


def test_a_trained_teacher_comes_back_from_its_folder(tmp_path: Path) -> None:
    teacher = teacher_of(SMALL, seed=4)
    record = record_of(teacher, DATA, (Score(0.5, 1.0, 15), Score(0.25, 1.0, 15)), kept=True)
    save_teacher(tmp_path / "teacher", record, teacher.network)
    assert read_teacher(tmp_path / "teacher") == record
    assert record.params == sum(p.numel() for p in teacher.network.parameters())
    again = open_teacher(str(tmp_path / "teacher"), DATA, SPEC)
    assert weights_sha256(again.network) == weights_sha256(teacher.network)  # type: ignore[arg-type]
    assert again.preprocessing == teacher.preprocessing
    with pytest.raises(ModelError, match="other classes"):
        open_teacher(str(tmp_path / "teacher"), replace(DATA, class_names=("a", "b", "c")), SPEC)
    save_teacher(tmp_path / "teacher", replace(record, architecture=None))
    with pytest.raises(ModelError, match=r"has no weights.*timm test_resnet"):
        open_teacher(str(tmp_path / "teacher"), DATA, SPEC)


class Bright:
    """An engine that answers with the mean brightness of thirds of the picture, three pictures at a time."""

    def run(self, batch: Any) -> Any:
        assert len(batch) == 3
        return np.stack([batch[:, 0, 3 * c : 3 * c + 2].mean((1, 2)) for c in range(3)], axis=1)


def bright_session() -> Session:
    artifact = Artifact(
        file="bright.onnx",
        sha256="ab" * 32,
        size_bytes=1,
        format="onnx",
        precision="fp32",
        recipe="fp32",
        plan=TINY_PLAN,
        preprocessing=SPEC,
        input=TensorSpec("x", (3, 1, 8, 8), "float32", "NCHW"),
        output=TensorSpec("y", (3, 3), "float32", "NC"),
        class_names=DATA.class_names,
        parity=Parity(1, 0.0, 0.0, None, 1.0, None, None, "none"),
        calibration=None,
        provenance=Provenance("0", "by hand", "0" * 64, {}),
    )
    return Session(artifact, Bright())  # type: ignore[arg-type]


def test_a_file_of_any_batch_size_answers() -> None:
    session = bright_session()
    images = torch.randn(7, 1, 8, 8)
    expected = torch.stack([images[:, 0, 3 * c : 3 * c + 2].mean((1, 2)) for c in range(3)], dim=1)
    torch.testing.assert_close(outputs_of(session, images).logits, expected)
    with pytest.raises(ModelError, match="no hidden states"):
        outputs_of(session, images, (0,))
    assert depth_of(session) == 0


def test_the_score_of_a_teacher() -> None:
    from compress.distill.teachers import Teacher

    found = teacher_score(Teacher("bright", bright_session(), SPEC, 3), DATA, DATA.test)
    assert (found.top1, found.images) == (1.0, len(DATA.test))
    model = tiny_vit()
    assert teacher_score(sliced_teacher(model, SPEC), DATA, DATA.test) == score(model, DATA, DATA.test, SPEC)


def pictures(folder: Path, count: int = 3) -> list[Path]:
    paths = [folder / "deep" / f"{i}.png" for i in range(count)]
    for i, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((5, 6, 3), 40 * i % 256, np.uint8)).save(path)
    return paths


def test_unlabelled_pictures_join_the_training_split_alone(tmp_path: Path) -> None:
    pictures(tmp_path)
    (tmp_path / "notes.txt").write_text("not a picture")
    told: list[tuple[str, int, int]] = []
    joined = with_unlabelled(DATA, tmp_path, progress=lambda *a: told.append(a[:3]))
    assert told[-2:] == [("check images", 3, 3), ("data", 0, 0)]
    count = len(DATA.images)
    assert joined.train.tolist() == [*DATA.train, count, count + 1, count + 2]
    assert joined.labels[count:].tolist() == [UNLABELLED] * 3
    assert np.array_equal(joined.labels[:count], DATA.labels)
    assert np.array_equal(joined.held_out, DATA.held_out)
    assert np.array_equal(joined.test, DATA.test)
    assert isinstance(joined.images, JoinedImages)
    assert len(joined.images) == count + 3
    assert np.array_equal(np.asarray(joined.images[4]), np.asarray(DATA.images[4]))
    assert np.asarray(joined.images[count + 2])[0, 0].tolist() == [80, 80, 80]
    pictures(tmp_path, 4)
    assert len({DATA.name, joined.name, with_unlabelled(DATA, tmp_path).name}) == 3


def test_files_stay_files(tmp_path: Path) -> None:
    paths = pictures(tmp_path / "a", 60)
    data = replace(DATA, images=FileImages(tuple(paths)))
    pictures(tmp_path / "b")
    joined = with_unlabelled(data, tmp_path / "b")
    assert joined.from_files
    assert len(joined.images) == 63


def test_folders_without_pictures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"does not exist.*--unlabelled"):
        with_unlabelled(DATA, tmp_path / "none")
    with pytest.raises(DataError, match=r"holds no pictures.*\.png"):
        with_unlabelled(DATA, tmp_path)
    bad = pictures(tmp_path, 1)[0]
    bad.write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"0\.png.*--skip-bad"):
        with_unlabelled(DATA, tmp_path)
    with pytest.raises(DataError, match="no picture that can be decoded"):
        with_unlabelled(DATA, tmp_path, skip_bad=True)
    pictures(tmp_path, 3)
    bad.write_bytes(b"no picture")
    assert len(with_unlabelled(DATA, tmp_path, skip_bad=True).train) == len(DATA.train) + 2


def test_who_waits_for_a_teachers_score_hears_of_every_batch() -> None:
    data, said = toy_data(), []
    teacher = sliced_teacher(tiny_vit(), SPEC)
    teacher_score(teacher, data, data.test, lambda *told: said.append(told))
    assert said[-1][:3] == ("score teacher", len(data.test), len(data.test))


def test_a_teacher_that_knows_the_classes_in_another_order_is_told_so(tmp_path: Path) -> None:
    data = toy_data()
    names = tuple(reversed(data.class_names))
    task = Task("toy", 0, None, SPEC, names, "a test", True)
    save_model(tmp_path / "own", tiny_vit(), task)
    with pytest.raises(ModelError, match=r"knows the classes in another order.*--class-map FILE"):
        folder_teacher(tmp_path / "own", data)
