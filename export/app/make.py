"""Makes a file for apps from each released ``.tflite`` file, and holds its answers against those of that file."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from export.compare import compare_logits
from export.formats import kind_of, suits_apps
from export.gpu.check import checked_on_gpu
from export.gpu.compare import MAX_LOSS_DB, least_loss_db, sqnr_db, within_error
from export.inspect.gzipped import gzip_size
from export.job import ExportJob, looks_of
from export.placing import REJECTED, discard, place, tensor_spec
from export.reference import GrowingReference, Reference
from export.verify import check_parity
from runtime import (
    AppForm,
    Artifact,
    ArtifactError,
    ParityError,
    Preprocessing,
    Progress,
    Session,
    UnsupportedTargetError,
    message,
    normalise,
    open_engine,
    read_artifact,
    sha256_of,
    silent,
    softmax,
    storage_errors,
)
from runtime.formats import app_file_of
from runtime.session import logits_of_probabilities

from .metadata import METADATA_NAME, AppDescription, app_metadata, with_labels
from .rewrite import IMAGE, SCORES, rewritten

STAGE = "files for apps"

_ALIKE = 16
"""One of this many images may have another top-1 although it is no near tie, as on GPUs, since the two round
differently."""

_MEANINGS = {
    "probabilities": "The probability of each class, within 0 to 1; all add up to 1.",
    "logits": "The logit of each class; their softmax is its probability.",
    "vector": "The features of the picture.",
}

Pixels = npt.NDArray[np.uint8]
Outputs = npt.NDArray[np.float32]


def files_for_apps(
    job: ExportJob, artifacts: Sequence[Artifact], reference: GrowingReference, progress: Progress = silent
) -> tuple[Artifact, ...]:
    """Returns the manifests of the files for apps, those of refused ones with the reason.

    A file for apps is refused if it answers test images otherwise than the file it was made from. Whole files of the
    same form are kept. They are run on the GPU path as all files are.

    Args:
        job: the export.
        artifacts: manifests of the released files.
        reference: the test images.
        progress: called at every file.

    Raises:
        StorageError: there is no space, or no permission to write.
    """
    settings, made = job.settings, list[Artifact]()
    suited = [own for own in artifacts if (kind := kind_of(own)) is not None and suits_apps(kind)]
    if any(own.preprocessing.resize == "border" for own in suited):
        message(progress, STAGE, "Pictures that do not fill the image are padded with black, and not with the mean")
    with storage_errors(job.folder), tempfile.TemporaryDirectory(dir=job.folder, prefix=".app-") as scratch:
        for position, plain in enumerate(suited):
            source = job.folder / plain.file
            path = app_file_of(source)
            progress(STAGE, position, len(suited), path.name)
            done = _finished(path, plain, settings.app_input == "uint8", settings.app_scores)
            if done is not None:
                made.append(done)
                continue
            new = Path(scratch) / path.name
            artifact = write_app_file(
                source, new, pixels=settings.app_input == "uint8", probabilities=settings.app_scores == "probabilities"
            )
            discard(path)
            try:
                artifact = _verified(artifact, new, plain, source, job, reference, progress)
            except ParityError as error:
                rejected = job.folder / REJECTED
                rejected.mkdir(exist_ok=True)
                made.append(place(replace(artifact, refused=str(error)), new, rejected))
                progress(f"{path.name} refused", 1, 1, str(error))
                continue
            discard(job.folder / REJECTED / path.name)
            made.append(place(artifact, new, job.folder))
        progress(STAGE, len(suited), len(suited))
    if not settings.gpu_check:
        return tuple(made)
    good = [own for own in made if own.refused is None]
    take = _taker(reference.take, job.task.preprocessing, softmax if settings.app_scores == "probabilities" else None)
    checked = {own.file: own for own in checked_on_gpu(good, job.folder, take, progress)}
    return tuple(checked.get(own.file, own) for own in made)


def write_app_file(source: Path, path: Path, *, pixels: bool = False, probabilities: bool = True) -> Artifact:
    """Writes a file for apps, and returns its manifest with the comparison of the file it was made from.

    Args:
        source: a ``.tflite`` file with its manifest that PocketViT wrote.
        path: of the new file.
        pixels: whether its image is uint8; else it is float32, pixel / 255.
        probabilities: whether a softmax over the classes comes last.

    Raises:
        ArtifactError: the file or its manifest is missing, damaged or not written by PocketViT.
        UnsupportedTargetError: it is no ``.tflite`` file, is a file for apps already, or answers with a grid.
        MissingExtraError: ai-edge-litert or flatbuffers is not installed.
    """
    plain = read_artifact(source)
    spec, classes = plain.preprocessing, plain.output_kind == "classes"
    if plain.format != "tflite" or plain.app is not None or plain.output_kind == "grid":
        raise UnsupportedTargetError(
            f"{source.name} cannot become a file for apps",
            expected="a .tflite file that answers with classes or one vector",
            got=f"{plain.format} with a {plain.output_kind}" if plain.app is None else "one that is for apps already",
        )
    probabilities = probabilities and classes
    scores = "vector" if not classes else "probabilities" if probabilities else "logits"
    about = AppDescription(
        name=source.stem.partition(".")[0],
        description=f"A Vision Transformer for images of {spec.height} x {spec.width}, written by PocketViT.",
        licence=plain.provenance.licence or "",
        height=spec.height,
        width=spec.width,
        image=IMAGE,
        scores=SCORES,
        meaning=_MEANINGS[scores],
        pixels=pixels,
        probabilities=probabilities,
        labels=plain.class_names,
    )
    made = rewritten(
        source.read_bytes(),
        spec,
        pixels=pixels,
        probabilities=probabilities,
        metadata={METADATA_NAME: app_metadata(about)},
    )
    path.write_bytes(with_labels(made.content, plain.class_names))
    engine = open_engine(path)
    return replace(
        plain,
        file=path.name,
        sha256=sha256_of(path),
        size_bytes=path.stat().st_size,
        gzip_bytes=gzip_size(path),
        preprocessing=for_apps(spec),
        input=tensor_spec(engine, "input", "NHWC"),
        output=tensor_spec(engine, "output", "NC"),
        parity=replace(plain.parity, gpu=None),
        app=AppForm(source.name, plain.sha256, spec.channels, made.normalised_by, scores),  # type: ignore[arg-type]
    )


def for_apps(spec: Preprocessing) -> Preprocessing:
    """Returns how pictures become the image of a file for apps: RGB of the same size, pixel / 255."""
    return replace(spec, channels=3, mean=(0.0,) * 3, std=(1.0,) * 3)


def pixels_of(inputs: npt.NDArray[np.float32], spec: Preprocessing) -> Pixels:
    """Returns the pixels ``(N, H, W, 3)`` in RGB that preprocessed images ``(N, H, W, C)`` were made from."""
    real = inputs.astype(np.float64) * np.asarray(spec.std) + np.asarray(spec.mean)
    pixels = np.clip(np.rint(255 * real), 0, 255).astype(np.uint8)
    return np.repeat(pixels, 3, axis=-1) if spec.channels == 1 else pixels


def _finished(path: Path, plain: Artifact, pixels: bool, scores: str) -> Artifact | None:
    """Returns the manifest of an earlier file for apps that is still right, or None."""
    try:
        found = read_artifact(path)
    except ArtifactError:
        return None
    if found.app is None or found.app.made_from_sha256 != plain.sha256:
        return None
    same = found.app.scores == scores and (found.input.dtype == "uint8") == pixels
    return found if same and found.class_names == plain.class_names else None


def _taker(
    take: Callable[[int], Reference],
    spec: Preprocessing,
    scores: Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float64]] | None,
) -> Callable[[int], Reference]:
    """Returns ``take`` with images for apps, and with the outputs that ``scores`` makes of logits."""

    def taken(images: int) -> Reference:
        found = take(images)
        outputs = found.logits if scores is None else scores(found.logits).astype(np.float32)
        return replace(found, inputs=normalise(pixels_of(found.inputs, spec), for_apps(spec)), logits=outputs)

    return taken


def _verified(
    artifact: Artifact,
    path: Path,
    plain: Artifact,
    source: Path,
    job: ExportJob,
    reference: GrowingReference,
    progress: Progress,
) -> Artifact:
    """Returns the manifest with the comparison of the new file.

    Raises:
        ParityError: it answers otherwise than the file it was made from.
    """
    assert artifact.app is not None
    images, classes = looks_of(job)[0], artifact.output_kind == "classes"
    as_logits = artifact.app.scores == "probabilities"

    def scores(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        return logits_of_probabilities(softmax(logits)).astype(np.float64)

    before = reference.take(images)
    wanted = _taker(reference.take, plain.preprocessing, scores if as_logits else None)(images)
    own = _outputs(artifact, path, wanted.inputs, progress)
    others = _outputs(plain, source, before.inputs, progress)
    others = scores(others).astype(np.float32) if as_logits else others
    found = replace(
        artifact,
        parity=compare_logits(own, wanted.logits, wanted.labels, wanted.no_labels_reason, classes),
        drop_bounds=None,
        class_losses=(),
    )
    check_parity(found, job.task.trained)
    _check_alike(found, plain, own, others, wanted.logits)
    return found


def _check_alike(artifact: Artifact, plain: Artifact, own: Outputs, others: Outputs, wanted: Outputs) -> None:
    """Checks that a file for apps is as near to the torch model as the file it was made from.

    The two prepare their images in another order of operations, so integers between two steps may be rounded either
    way. As on another engine, the file must not be farther from the torch model, and must answer the same on all images
    but those whose two largest logits are closer than the plain file's error there.

    Args:
        artifact: manifest of the file for apps.
        plain: manifest of the file it was made from.
        own: outputs of the file for apps, ``(N, …)``.
        others: those of the file it was made from.
        wanted: those of the torch model.

    Raises:
        ParityError: it is not.
    """
    fix = "This is a fault of the conversion: report it with the plan"
    # a float file's outputs were compared with the torch model's, and are apart from them by rounding alone
    if plain.calibration is not None and least_loss_db(others, own, wanted) > MAX_LOSS_DB:
        raise ParityError(
            f"{artifact.file} is farther from the model than {plain.file}, which it was made from",
            expected=f"an SQNR at most {MAX_LOSS_DB:g} dB lower",
            got=f"{sqnr_db(own, wanted)} and {sqnr_db(others, wanted)} dB",
            fix=fix,
        )
    if artifact.output_kind != "classes":
        return
    clear = ~within_error(others, wanted)
    changed = int((own.argmax(axis=1) != others.argmax(axis=1))[clear].sum())
    if changed > max(1, int(clear.sum()) // _ALIKE):
        raise ParityError(
            f"{artifact.file} does not answer as {plain.file}, which it was made from",
            expected=f"the same top-1 on all but 1 of {_ALIKE} images that are no near ties",
            got=f"another one on {changed} of {clear.sum()}",
            fix=fix,
        )


def _outputs(
    artifact: Artifact, path: Path, inputs: npt.NDArray[np.float32], progress: Progress
) -> npt.NDArray[np.float32]:
    session, found = Session(artifact, open_engine(path)), list[npt.NDArray[np.float32]]()
    for image in inputs:
        found.append(session.outputs(image[None]))
        progress("verify", len(found), len(inputs), artifact.file)
    return np.concatenate(found)
