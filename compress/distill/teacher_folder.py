"""Teacher folders: ``teacher.json`` describes and scores a teacher; the weights are there if it was trained."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import nn

from compress.data.dataset import Dataset
from compress.evaluate import Score
from compress.model.hub.place import HUB_FORMS
from compress.model.metadata import write_names
from compress.model.tensors import write_tensors
from runtime import Document, EpochRecord, ModelError, Preprocessing
from runtime.formats import is_model_file

from .teachers import Teacher, TimmSpec, file_teacher, folder_teacher, hub_teacher, timm_teacher

FILE, WEIGHTS = "teacher.json", "model.safetensors"


@dataclass(frozen=True)
class TeacherRecord:
    """A description of a teacher.

    Attributes:
        name: description in words.
        preprocessing: the teacher's input.
        class_names: class names in the order of its logits.
        params: number of parameters; null for an exported file.
        top1: accuracy on the test split, 0..1.
        test_images: images in the test split.
        held_out_top1: accuracy on the held-out split.
        online: whether it was trained together with the student.
        epochs: epochs of its training before the student's; empty where there was none.
        architecture: timm name of the network whose weights are in the folder; null where there are none.
        overrides: further arguments of that architecture.
    """

    name: str
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    params: int | None
    top1: float
    test_images: int
    held_out_top1: float
    online: bool = False
    epochs: tuple[EpochRecord, ...] = ()
    architecture: str | None = None
    overrides: dict[str, int | float | str | bool] = field(default_factory=dict)


TEACHER_DOCUMENT = Document("pocketvit.teacher", 2, TeacherRecord)


def record_of(
    teacher: Teacher,
    data: Dataset,
    scores: tuple[Score, Score],
    *,
    online: bool = False,
    epochs: tuple[EpochRecord, ...] = (),
    kept: bool = False,
) -> TeacherRecord:
    """Returns the record of a teacher.

    Args:
        teacher: the teacher.
        data: the data of the training.
        scores: its scores on the test and on the held-out split.
        online: whether it was trained together with the student.
        epochs: epochs of its own training.
        kept: whether the weights of a timm network are kept next to the record.
    """
    network, (test, held_out) = teacher.network, scores
    spec = teacher.spec if kept else None
    weights = sum(value.numel() for value in network.parameters()) if isinstance(network, nn.Module) else None
    return TeacherRecord(
        name=teacher.name,
        preprocessing=teacher.preprocessing,
        class_names=data.class_names,
        params=weights,
        top1=test.top1,
        test_images=test.images,
        held_out_top1=held_out.top1,
        online=online,
        epochs=epochs,
        architecture=spec.name if spec else None,
        overrides=dict(spec.overrides) if spec else {},
    )


def save_teacher(folder: Path, record: TeacherRecord, network: nn.Module | None = None) -> None:
    """Writes a teacher's folder, ``teacher.json`` last.

    Raises:
        StorageError: a file cannot be written.
    """
    if network is not None:
        write_tensors(folder / WEIGHTS, network.state_dict(), write_names(record.class_names))
    TEACHER_DOCUMENT.write(folder / FILE, record)


def read_teacher(folder: Path) -> TeacherRecord:
    """Reads the record of a teacher.

    Raises:
        ArtifactError: the file is missing, damaged, or of a newer version.
    """
    return TEACHER_DOCUMENT.read(folder / FILE)


def trained_teacher(folder: Path, data: Dataset) -> Teacher:
    """Returns the teacher whose weights ``save_teacher`` kept.

    Raises:
        ArtifactError: ``teacher.json`` is missing or damaged.
        ModelError: the folder has no weights, they do not fit, or the teacher was trained on other classes.
    """
    record = read_teacher(folder)
    if record.architecture is None:
        raise ModelError(
            f"The folder {folder} describes a teacher and has no weights",
            fix=f"Name the teacher: {record.name}",
        )
    if record.class_names != data.class_names:
        raise ModelError(
            f"The teacher {folder} was trained on other classes than the data's",
            expected=f"{data.num_classes} classes",
            got=f"{len(record.class_names)}: {', '.join(record.class_names[:5])}",
        )
    own = record.preprocessing
    spec = TimmSpec(record.architecture, own.height, own.channels, False, folder / WEIGHTS, record.overrides)
    return replace(timm_teacher(spec, data, own), preprocessing=own, name=f"{record.name} of {folder}")


def open_teacher(
    source: str,
    data: Dataset,
    student: Preprocessing,
    timm_spec: TimmSpec | None = None,
    *,
    seed: int = 0,
    learns: bool = False,
) -> Teacher:
    """Returns the teacher that a text names: an exported file, a folder, a repository, or a timm architecture.

    Args:
        source: a ``.onnx``, ``.tflite`` or ``.pt2`` file; a run, model or teacher folder, or one with the
            ``config.json`` of a Hugging Face checkpoint; ``hf:OWNER/NAME``; or a timm name.
        data: the data of the training.
        student: the student's input.
        timm_spec: options of a timm classifier; its ``name`` is ignored.
        seed: seed of fresh weights.
        learns: whether the teacher will be trained on the data.

    Raises:
        ModelError: there is no such teacher, or it does not fit.
        ArtifactError: a file is damaged.
    """
    path = Path(source).expanduser()
    if is_model_file(path):
        return file_teacher(path, data)
    if (path / FILE).is_file() and not (path / "plan.json").is_file():
        return trained_teacher(path, data)
    if source.startswith(HUB_FORMS) or ((path / "config.json").is_file() and not (path / "plan.json").is_file()):
        return hub_teacher(source, data, learns=learns)
    if path.is_dir():
        return folder_teacher(path, data)
    if "/" in source:
        raise ModelError(
            f"The teacher {source} does not exist",
            expected="a run folder or another folder with a model, an exported file, hf:OWNER/NAME or a timm name",
        )
    spec = replace(timm_spec, name=source) if timm_spec else TimmSpec(source)
    return timm_teacher(spec, data, student, seed=seed, learns=learns)
