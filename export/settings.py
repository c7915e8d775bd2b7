"""The settings of an export. Importing them needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from export.formats.micro_limits import DEFAULT_LIMITS, MicroLimits
from export.quantise.processors import PROCESSORS
from export.quantise.recipes import recipes_for
from export.writers.onnx_opsets import OPSET, OPSETS
from runtime import DataError, check_fields
from runtime.processors import cpu_families

from .formats import DEFAULT_KINDS, KINDS, kinds_for, suits_apps


@dataclass(frozen=True)
class ExportSettings:
    """The kinds of file to export, and how each is checked.

    Attributes:
        kinds: names of ``export.formats.KINDS``.
        calibration_images: held-out images that set integer ranges; 0 takes 32 to 256 of them, more for small models.
        calibration_data: folder of pictures at any depth that set integer ranges and compensate rounding, in place of
            held-out ones; empty takes held-out ones.
        verify_images: test images every file is run on; 0 takes the whole test split, or for a big model a part of it,
            at least 32, and adds images, up to 3,000, until it can be told whether a file keeps its limits.
        min_agreement: least share of test images with the float model's top-1, 0..1, for kinds held to the top-1; None
            takes 0.99 for float16 files, and 0.9 with an SQNR of 12 dB for integer files. 0 checks nothing but a given
            ``max_drop``.
        min_cosine: least mean cosine of a file's vectors with the float model's on test images, 0..1, for models that
            answer with a vector; None takes 0.999 for float16 files and 0.98 for integer files. 0 checks nothing.
        made_for: what the files are for, of ``export.quantise.processors.PROCESSORS``: the family of processors that
            ``int8`` is chosen for, or ``static-int8``, with which the usual kinds give way to the kind of that name.
        max_drop: most points of top-1 an integer file may lose on test images; None takes 0.5 where the data has
            labels of the model's classes, and then counts a loss only where chance cannot explain it.
        int8_recipe: recipe of ``int8``, of ``export.quantise.recipes.RECIPES``; empty chooses one.
        qat_epochs: epochs of quantisation-aware training, for trainable kinds; 0 does not train.
        qat_from: the first of these epochs, counted from 1, that rounds; the epochs before train in float.
        seed: of the choice of calibration images, and of training.
        micro: memory that ``tflite-micro`` files must fit.
        opset: version of ONNX's operators in ONNX files, 17 to 23.
        io_type: type of image and logits in ``static-int8`` files, ``int8`` or ``uint8``.
        app: also write each ``.tflite`` file that LiteRT runs as a file for apps, ``NAME.PRECISION.app.tflite``.
        app_input: image of files for apps: ``float``, pixel / 255, or ``uint8``, the pixels themselves.
        app_scores: outputs of files for apps: ``probabilities`` or ``logits``.
        gpu_check: run each ``.tflite`` file on LiteRT's GPU path, too, where there is a graphics driver.

    Raises:
        DataError: a value is out of range.
    """

    kinds: tuple[str, ...] = DEFAULT_KINDS
    calibration_images: int = 0
    calibration_data: str = ""
    verify_images: int = 0
    min_agreement: float | None = None
    min_cosine: float | None = None
    made_for: str = "x86"
    max_drop: float | None = None
    int8_recipe: str = ""
    qat_epochs: int = 0
    qat_from: int = 1
    seed: int = 0
    micro: MicroLimits = DEFAULT_LIMITS
    opset: int = OPSET
    io_type: Literal["int8", "uint8"] = "int8"
    app: bool = False
    app_input: Literal["float", "uint8"] = "float"
    app_scores: Literal["probabilities", "logits"] = "probabilities"
    gpu_check: bool = True

    def __post_init__(self) -> None:
        check_fields(self)
        object.__setattr__(self, "kinds", kinds_for(self.made_for, self.kinds))
        unknown = [kind for kind in self.kinds if kind not in KINDS]
        if unknown or not self.kinds:
            raise DataError("Unknown kind of file", expected=", ".join(KINDS), got=", ".join(unknown) or "none")
        if self.calibration_images == 1 or self.calibration_images < 0:
            raise DataError("Calibration needs at least 2 images", got=self.calibration_images)
        if self.verify_images < 0:
            raise DataError("verify_images must not be negative", got=self.verify_images)
        if self.min_agreement is not None and not 0 <= self.min_agreement <= 1:
            raise DataError("min_agreement is a share", expected="0 to 1", got=self.min_agreement)
        if self.min_cosine is not None and not 0 <= self.min_cosine <= 1:
            raise DataError("min_cosine is a cosine", expected="0 to 1", got=self.min_cosine)
        if self.made_for not in PROCESSORS:
            raise DataError("Unknown family of processors", expected=", ".join(PROCESSORS), got=self.made_for)
        own = PROCESSORS[self.made_for]
        if own.kinds and any(KINDS[name].choice == "fastest" for name in self.kinds):
            raise DataError(
                f"Files for {own.title} have no recipe that is chosen by speed",
                expected=f"--for {' or '.join(cpu_families())}, or --formats {','.join(own.kinds)}",
                got=f"--for {self.made_for} --formats {','.join(self.kinds)}",
            )
        if self.io_type != "int8" and not any("io_type" in KINDS[name].options for name in self.kinds):
            raise DataError(
                "A type of image and logits was given, and no file that takes one",
                expected=" or ".join(kind.name for kind in KINDS.values() if "io_type" in kind.options),
                got=", ".join(self.kinds),
                fix="Give --for static-int8, or leave --io-type out",
            )
        if self.app and not any(suits_apps(KINDS[name]) for name in self.kinds):
            raise DataError(
                "A file for apps is made from a .tflite file, and none is asked for",
                expected=" or ".join(kind.name for kind in KINDS.values() if suits_apps(kind)),
                got=", ".join(self.kinds),
            )
        if not self.app and (self.app_input, self.app_scores) != ("float", "probabilities"):
            raise DataError(
                "The image or the scores of files for apps were given, and no such files asked for",
                expected="--app",
                got=f"--app-input {self.app_input} --app-scores {self.app_scores}",
            )
        if self.max_drop is not None and not 0 <= self.max_drop <= 100:
            raise DataError("max_drop is in points of top-1", expected="0 to 100", got=self.max_drop)
        if self.opset not in OPSETS:
            raise DataError(
                "ONNX files cannot be written with this version of ONNX's operators",
                expected=f"an opset of {OPSETS[0]} to {OPSETS[-1]}",
                got=self.opset,
                fix=f"Leave it out for {OPSET}, which the most engines read",
            )
        if self.qat_epochs < 0:
            raise DataError("qat_epochs must not be negative", got=self.qat_epochs)
        if not 1 <= self.qat_from <= max(1, self.qat_epochs):
            raise DataError(
                "Rounding begins at an epoch of the training under rounding, counted from 1",
                expected=f"--qat-from 1 to {self.qat_epochs}" if self.qat_epochs else "--qat-from only with --qat",
                got=self.qat_from,
            )
        fast = [kind for kind in KINDS.values() if kind.choice == "fastest"]
        named = list(dict.fromkeys(recipe.name for kind in fast for recipe in recipes_for(kind.name)))
        if self.int8_recipe and self.int8_recipe not in named:
            raise DataError("Unknown recipe of int8", expected=", ".join(named), got=repr(self.int8_recipe))
        if self.int8_recipe and not any(kind.name in self.kinds for kind in fast):
            raise DataError(
                "A recipe of int8 was named, and no int8 file asked for",
                expected=f"{' or '.join(kind.name for kind in fast)} among --formats",
                got=", ".join(self.kinds),
            )
