"""The manifest of an exported file: its model, its input and output, and how well it was verified."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from runtime.pictures.preprocess import Preprocessing
from runtime.storage.documents import Document
from runtime.storage.files import sha256_of

from .cost import CountedModel, macs, params
from .errors import ArtifactError
from .formats import format_of
from .parity import ClassLoss, Parity
from .plan import OutputKind, ShapePlan

Precision = str
"""Precision of a file's weights and operators: that of a kind of file, such as ``fp32``, ``int8`` or ``int8-full``."""
_PRECISION = re.compile(r"[\w.-]{1,40}", re.ASCII)
_OUTPUT_LAYOUTS: dict[OutputKind, tuple[str, ...]] = {
    "classes": ("NC",),
    "vector": ("NC",),
    "grid": ("NLC", "NHWC", "NCHW"),
}


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a file.

    Attributes:
        name: the tensor's name in the file.
        shape: its dimensions; -1 is free (batch).
        dtype: numpy's name of its type.
        layout: ``NHWC`` or ``NCHW`` for images and for grids of patches, ``NLC`` for a sequence of patches, ``NC`` for
            one vector.
        scale: real = scale * (stored - zero_point), for integers; null for float.
        zero_point: see ``scale``.

    Raises:
        ArtifactError: layout and shape disagree, or an int8 tensor has no usable scale and zero point, or a
            float one has them.
    """

    name: str
    shape: tuple[int, ...]
    dtype: Literal["float32", "int8", "uint8", "int16"]
    layout: Literal["NHWC", "NCHW", "NLC", "NC"]
    scale: float | None = None
    zero_point: int | None = None

    def __post_init__(self) -> None:
        if len(self.shape) != len(self.layout) or any(size < 1 and size != -1 for size in self.shape):
            raise ArtifactError(f"The tensor '{self.name}' does not fit {self.layout}", got=self.shape)
        if self.dtype == "float32":
            if self.scale is not None or self.zero_point is not None:
                raise ArtifactError(f"The float tensor '{self.name}' has a scale or zero point")
            return
        if self.scale is None or self.zero_point is None:
            raise ArtifactError(f"The integer tensor '{self.name}' lacks its scale or zero point")
        least, most = (0, 255) if self.dtype == "uint8" else (-128, 127)
        if not (1e-30 <= self.scale <= 1e30 and least <= self.zero_point <= most):
            raise ArtifactError(
                f"The integer tensor '{self.name}' has an impossible scale or zero point",
                expected=f"scale within 1e-30 to 1e30, zero point within {least} to {most}",
                got=f"{self.scale} and {self.zero_point}",
            )


@dataclass(frozen=True)
class Calibration:
    """The images whose activations set the integer ranges.

    Attributes:
        data: the dataset's name.
        split: the split they come from; never the test split.
        images: how many.
        seed: of their choice.
    """

    data: str
    split: str
    images: int
    seed: int


@dataclass(frozen=True)
class Trial:
    """One way of quantising that was tried, and how it did on the images of choice (held-out, never the test split).

    Attributes:
        recipe: its name.
        images: number of images.
        top1_agreement: share of them with the float model's top-1, 0..1; null where the output is not classes.
        top1_drop: points of top-1 lost on them; null where labels are unknown.
        sqnr_db: signal to quantisation noise of the logits, dB; null when they are identical.
        latency_s: of one image, by a file of the same operators that was timed in turns with those of the other
            recipes; null where not timed.
        instructions_of_fp32: instructions of a run over those of the float32 file, as counted on an emulated core for
            ViTs like it, where recipes were ordered by them; null elsewhere.
        cosine: mean cosine with the float model's vectors, -1..1; null where the output is not a vector.
    """

    recipe: str
    images: int
    top1_agreement: float | None
    top1_drop: float | None
    sqnr_db: float | None
    latency_s: float | None = None
    instructions_of_fp32: float | None = None
    cosine: float | None = field(default=None, metadata={"omit_default": True})


@dataclass(frozen=True)
class HalfArithmetic:
    """Whether a file lets engines compute in float16, by what a simulation on calibration images found.

    Attributes:
        metadata: value of the file's metadata ``reduced_precision_support``; null where it was not written.
        reason: why it was not written; null where it was.
        images: number of images whose values and sums were compared with float16's range.
        largest: the largest value or sum on them; null where there was no such image or the value is not finite.
        largest_at: name of the tensor it belongs to; null as ``largest``.
        simulated: number of images that were also computed in simulated float16.
        step: number of products in a sum between two roundings of the simulation; XNNPACK rounds after each.
        sqnr_db: signal to noise of the simulated outputs, dB; null where none were simulated, they are identical, or
            not finite.
        top1_agreement: share of the simulated images with the same top-1 as in float32, 0..1; null where none were.
    """

    metadata: str | None
    reason: str | None
    images: int = 0
    largest: float | None = None
    largest_at: str | None = None
    simulated: int = 0
    step: int = 1
    sqnr_db: float | None = None
    top1_agreement: float | None = None


@dataclass(frozen=True)
class Provenance:
    """Where a file comes from.

    Attributes:
        tool_version: of PocketViT.
        source: the model it was exported from, in words.
        weights_sha256: of the source's weights (every tensor's name, type, shape and bytes).
        versions: of the libraries that wrote the file.
        origin: the repository of the Hugging Face Hub and the commit that the weights come from, ``OWNER/NAME@COMMIT``;
            null for others.
        licence: that the model's card states; null where it states none.
    """

    tool_version: str
    source: str
    weights_sha256: str
    versions: dict[str, str]
    origin: str | None = None
    licence: str | None = None


@dataclass(frozen=True)
class AppForm:
    """What a file for apps computes beyond the exported file that it was made from.

    Its image is RGB of 0..1, or uint8 pixels, so its ``preprocessing`` subtracts nothing and divides by 1.

    Attributes:
        made_from: name of the file it was made from.
        made_from_sha256: digest of that file.
        channels: number of channels of the model's own images; a grey model (1) computes grey from RGB.
        normalised_by: where mean and standard deviation went: into the weights of the ``patch embedding``, or into a
            ``convolution`` of 1 x 1 in front.
        scores: meaning of its outputs: ``probabilities`` after a softmax, ``logits``, or one ``vector``.
    """

    made_from: str
    made_from_sha256: str
    channels: Literal[1, 3]
    normalised_by: Literal["patch embedding", "convolution"]
    scores: Literal["probabilities", "logits", "vector"]


@dataclass(frozen=True)
class Artifact:
    """The manifest of one exported file.

    Attributes:
        file: name of the file.
        sha256: digest of its bytes.
        size_bytes: its size.
        format: name of its format, of ``runtime.formats.FORMATS``.
        precision: precision of its weights and operators.
        recipe: name of the recipe of integers, or ``fp32``.
        plan: the model's shape; null for a model that was not sliced by PocketViT.
        preprocessing: how a picture becomes the input.
        input: the image tensor.
        output: the output tensor.
        class_names: names of the classes; empty where they are not known or ``output_kind`` is not ``classes``.
        parity: comparison with the torch model.
        calibration: the images that set integer ranges, or null.
        provenance: the origin of the file.
        made_for: family of processors the recipe was chosen for; null where none was.
        asked: the settings that the choice of recipe depended on.
        trials: the recipes it was chosen from.
        arena_bytes: least arena that TensorFlow Lite Micro ran it in; null for files of other kinds.
        gzip_bytes: size of the file compressed by gzip; null where it was not measured.
        refused: why the file was not released; null where it was.
        unproven: a warning that it may lose more top-1 than allowed, although it was released, or that too few images
            were there to prove it of any file; null where it was told.
        drop_bounds: one-sided 95 % bounds of the points of top-1 lost, over all looks at more and more images; null
            without labels and for files that were not judged by them.
        class_losses: the classes on which the file answers otherwise right or wrong than the torch model.
        output_kind: whether the output is a logit for each class, one vector, or a vector for each patch.
        int8_weights: names of the weights that stay int8 in a file with weights of 4 bits in blocks of 32 inputs,
            because their number of inputs is no multiple of 32 or an operator with 4 bits is missing; empty for others.
        half: whether the file lets engines compute in float16; null for a file that is not meant for it.
        app: what a file for apps computes itself; null for other files.
        counted: the model of a file that a converter wrote, with its costs; null for a model with a plan.
    """

    file: str
    sha256: str
    size_bytes: int
    format: str
    precision: Precision
    recipe: str
    plan: ShapePlan | None
    preprocessing: Preprocessing
    input: TensorSpec
    output: TensorSpec
    class_names: tuple[str, ...]
    parity: Parity
    calibration: Calibration | None
    provenance: Provenance
    made_for: str | None = None
    asked: dict[str, int | float | str] = field(default_factory=dict)
    trials: tuple[Trial, ...] = ()
    arena_bytes: int | None = None
    gzip_bytes: int | None = None
    refused: str | None = None
    output_kind: OutputKind = "classes"
    unproven: str | None = None
    drop_bounds: tuple[float, float] | None = None
    class_losses: tuple[ClassLoss, ...] = ()
    int8_weights: tuple[str, ...] = ()
    half: HalfArithmetic | None = None
    app: AppForm | None = None
    counted: CountedModel | None = field(default=None, metadata={"omit_default": True})

    @property
    def macs(self) -> int | None:
        """Multiply-accumulates of one image; None where neither a plan nor a counted model tells them."""
        known = self.plan or self.counted
        return None if known is None else macs(known)

    @property
    def params(self) -> int | None:
        """Number of parameters; None where neither a plan nor a counted model tells it."""
        known = self.plan or self.counted
        return None if known is None else params(known)


ARTIFACT_DOCUMENT = Document("pocketvit.artifact", 9, Artifact)


def manifest_path(file: Path) -> Path:
    """Returns the path of the manifest of ``file``."""
    return file.with_name(file.name + ".json")


def write_artifact(file: Path, artifact: Artifact) -> None:
    """Writes the manifest of ``file``, atomically.

    Raises:
        StorageError: the manifest cannot be written.
    """
    ARTIFACT_DOCUMENT.write(manifest_path(file), artifact)


def read_artifact(file: Path, verify: bool = True) -> Artifact:
    """Reads the manifest of an exported file and checks that the file is the one it describes.

    Args:
        file: the model file, of one of ``runtime.formats.FORMATS``.
        verify: also compare size and SHA-256.

    Raises:
        ArtifactError: file or manifest is missing, damaged, tampered with, or of a newer version.
    """
    form = format_of(file)
    if not file.is_file():
        raise ArtifactError(f"The artifact {file} does not exist")
    manifest = manifest_path(file)
    if not manifest.is_file():
        raise ArtifactError(
            f"{file} has no manifest",
            expected=f"{manifest.name} in the same folder",
            fix="Copy it along with the file, or export again",
        )
    artifact = ARTIFACT_DOCUMENT.read(manifest)
    _check_agreement(manifest, artifact)
    if artifact.format != form.name:
        raise ArtifactError(f"{manifest} describes another format", expected=file.suffix, got=artifact.format)
    if verify:
        check_bytes(file, artifact)
    return artifact


def _check_agreement(manifest: Path, artifact: Artifact) -> None:
    plan, spec, output = artifact.plan, artifact.preprocessing, artifact.output
    if not _PRECISION.fullmatch(artifact.precision):
        raise ArtifactError(f"{manifest} has an impossible precision", got=repr(artifact.precision[:80]))
    chans = spec.channels if artifact.app is None else artifact.app.channels
    if artifact.app is not None and spec.channels != 3:
        raise ArtifactError(f"{manifest} describes a file for apps that does not read RGB", got=spec.channels)
    if plan is not None and (spec.height, spec.width, chans) != (*plan.img_size, plan.in_chans):
        raise ArtifactError(
            f"{manifest} prepares images of another size than its plan reads",
            expected=f"{plan.img_size[0]}x{plan.img_size[1]}x{plan.in_chans}",
            got=f"{spec.height}x{spec.width}x{chans}",
        )
    image = (spec.height, spec.width, spec.channels)
    layouts = {"NHWC": image, "NCHW": (image[2], image[0], image[1])}
    if artifact.input.shape[1:] != layouts.get(artifact.input.layout):
        raise ArtifactError(
            f"{manifest} describes an input that is not its image",
            expected=" or ".join(f"{layout} {shape}" for layout, shape in layouts.items()),
            got=f"{artifact.input.layout} {artifact.input.shape[1:]}",
        )
    if output.layout not in _OUTPUT_LAYOUTS[artifact.output_kind]:
        raise ArtifactError(
            f"{manifest} describes an output that is no {artifact.output_kind}",
            expected=" or ".join(_OUTPUT_LAYOUTS[artifact.output_kind]),
            got=f"{output.layout} {output.shape[1:]}",
        )
    names = len(artifact.class_names)
    if artifact.output_kind != "classes":
        if names:
            raise ArtifactError(f"{manifest} names classes of a {artifact.output_kind}", expected="none", got=names)
        if plan is not None and (plan.output_kind, plan.output_shape) != (artifact.output_kind, output.shape[1:]):
            raise ArtifactError(
                f"{manifest} describes an output that is not that of its plan",
                expected=f"{plan.output.replace('_', ' ')} {plan.output_shape}",
                got=f"{artifact.output_kind} {output.shape[1:]}",
            )
        return
    if plan is not None and plan.is_vector:
        raise ArtifactError(
            f"{manifest} has classes, and the model of its plan has none", expected=f"a {plan.output_kind}"
        )
    classes = output.shape[1] if plan is None else plan.num_classes
    if names != classes and (plan is not None or names):
        raise ArtifactError(f"{manifest} names the wrong number of classes", expected=classes, got=names)
    if output.shape[1] != classes:
        raise ArtifactError(
            f"{manifest} describes an output that is not its classes",
            expected=f"NC ({classes},)",
            got=f"{output.layout} {output.shape[1:]}",
        )


def check_bytes(file: Path, artifact: Artifact) -> None:
    """Checks size and SHA-256 of ``file`` against its manifest.

    Raises:
        ArtifactError: they differ.
    """
    fix = "It was truncated or changed after it was written: copy or export it again"
    size = file.stat().st_size
    if size != artifact.size_bytes:
        raise ArtifactError(f"{file} is damaged", expected=f"{artifact.size_bytes} bytes", got=f"{size} bytes", fix=fix)
    found = sha256_of(file)
    if found != artifact.sha256:
        raise ArtifactError(f"{file} is damaged", expected=f"sha256 {artifact.sha256}", got=f"sha256 {found}", fix=fix)
