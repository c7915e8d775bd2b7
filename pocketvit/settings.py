"""Everything a run can be told, as data: what the command line fills in and ``run.json`` keeps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from compress.importance import CRITERIA
from compress.search import METHODS
from compress.search.sparse_settings import SparseSettings
from compress.search.tas.settings import TasSettings
from compress.search.tree.settings import TreeSettings
from runtime import Interpolation, LatencyPrecision, PlanError, check_fields
from runtime.processors import PROCESSORS
from runtime.registry import Registry

DEFAULT_MODEL = "vit_tiny_patch16_224"
DEFAULT_OVERRIDES: dict[str, int | float | str | bool] = {"embed_dim": 96, "depth": 6, "num_heads": 3}
DEFAULT_IMG_SIZE, DEFAULT_PATCH_SIZE = 32, 8
DEFAULT_BUDGET = "macs=0.75"
EXPORT_SETTINGS = frozenset(
    "kinds calibration_images verify_images min_agreement made_for max_drop int8_recipe qat_epochs qat_from "
    "micro_flash micro_ram opset".split()
)
"""What ``RunSettings`` says of export alone."""


_MOST_STATISTIC = 1.5
"""No mean or standard deviation of pixels 0..1 is larger; those of pixels 0..255 are."""

REGISTERED: dict[str, Registry[Any]] = {"search": METHODS, "importance": CRITERIA, "made_for": PROCESSORS}
"""Fields of ``RunSettings`` that name a thing in a registry."""


@dataclass(frozen=True)
class TrainSettings:
    """Changes to a training recipe; None keeps the recipe's own value (``compress.TrainRecipe``).

    Raises:
        PlanError: a value is of another type.
    """

    epochs: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    head_lr: float | None = None
    patience: int | None = None

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class RunSettings:
    """What to make smaller, how small, and how.

    Attributes:
        data: dataset, as ``compress.load_data`` takes it.
        model: timm architecture; empty takes a small ViT that suits the built-in digits.
        img_size: input side in pixels, or height and width; None takes the architecture's own.
        patch_size: patch side in pixels; None takes the architecture's own.
        in_chans: 1 or 3; None takes the data's for fresh weights, else 3.
        pretrained: start from timm's published weights, or, if False, from fresh ones; None is fresh where that is safe
            (training) and refused where it is not (export of a model as it is).
        checkpoint: start from this file's weights instead.
        reset_head: train a new classifier for the checkpoint.
        model_args: further arguments of the architecture.
        mean: pixel mean per channel, 0..1, or one value for all; None takes the architecture's own.
        std: pixel standard deviation per channel, of pixels 0..1; None takes the architecture's own.
        resize: how a picture becomes the model's size, as ``runtime.Preprocessing`` says: ``center``, ``squash``,
            ``border`` or ``stretch``; None takes the architecture's own, or ``stretch`` for built-in square data.
        crop_pct: share of the scaled picture that the crop keeps, 0.01 to 1; None takes the architecture's own.
        interpolation: ``nearest``, ``bilinear``, ``bicubic`` or ``lanczos``; None takes the architecture's own.
        budget: what the sliced model may cost, for instance ``macs=0.75``; empty for ``unstructured``, which slices
            nothing.
        cost: what choosing goes by: ``params``, ``macs`` or ``latency@TARGET``; empty takes what the budget counts.
        search: how units are chosen: ``one-shot`` (least importance per cost), ``milp`` (the least importance for
            the budget, solved), ``greedy`` (the best action by measured accuracy, again and again), ``dfbnb``
            (branch and bound over actions, round after round), ``tas`` (widths and depth learnt by gradient),
            ``uniform`` (every width scaled alike), or
            ``unstructured`` (no unit: the smallest weights become zeros and every width stays).
        latency_precision: of the files whose time a latency is.
        latency_threads: of the engine that runs them.
        profiles: folder of latency tables; one that is missing is measured into it.
        tree: of ``dfbnb``; ``greedy`` uses its ``cost_weight``.
        tas: of ``tas``; its weights are trained as in the recovery.
        sparse: of ``unstructured``.
        importance: what units are ranked by: ``fisher``, ``taylor``, ``l2`` or ``random``.
        group_sizes: units one removal takes, by kind (mlp, qk, v, embed).
        importance_images: images per class that importance is taken on.
        reconstruct: after slicing, fit what is left to the whole model by least squares.
        distill: recover with the baseline as teacher.
        distill_methods: what recovery learns from it: any of ``compress.DISTILL_METHODS``.
        distill_weight: weight of the teacher's answers, 0..1.
        temperature: of the softmax they are compared at.
        fine_tune: changes to the first training.
        recover: changes to the training after slicing.
        bf16: compute in bfloat16 where it helps (``auto``), always, or never.
        train_limit: use only so many training images.
        class_order: of an image folder's classes: ``text`` or ``natural``; empty takes the checkpoint's, else text.
        class_map: file that names the classes in order.
        mirror: whether training may mirror pictures; None mirrors all but the built-in digits.
        skip_bad: leave out pictures that cannot be decoded.
        kinds: files to write, of ``export.KINDS``.
        calibration_images: held-out images that set integer ranges; 0 chooses.
        verify_images: test images every file is run on; 0 chooses.
        min_agreement: least share of images on which ``fp16`` and ``int8`` have the float model's top-1.
        made_for: family of processors that the recipe of ``int8`` is chosen for.
        max_drop: most points of top-1 an integer file may lose on held-out images; None holds them to nothing more.
        int8_recipe: recipe of ``int8``, of ``export.INT8_RECIPES``; empty chooses the fastest that is good enough.
        qat_epochs: of quantisation-aware training of ``int8-full`` and ``tflite-micro``.
        qat_from: the first of these epochs, counted from 1, that rounds; those before train in float.
        micro_flash: bytes that a ``tflite-micro`` file may take.
        micro_ram: bytes that it may need to run.
        opset: version of ONNX's operators that ``onnx`` files are written with, 17 to 23.
        eval_limit: most images of the test split, and of the held-out split, that a finished model's top-1 is taken on,
            of every class its share; 0 takes all.
        threads: torch threads; 0 takes every core. Part of what makes a run repeatable.
        device: where networks are trained and scored: ``auto`` (a GPU where torch sees one), ``cpu``, ``cuda`` or
            ``cuda:N``.
        seed: of splits, fresh weights, order, augmentation and calibration.

    Paths may be given as ``Path``, tuples as lists.

    Raises:
        PlanError: a value is of another type, unknown or out of range.
    """

    data: str = "digits"
    model: str = ""
    img_size: int | tuple[int, int] | None = None
    patch_size: int | None = None
    in_chans: int | None = None
    pretrained: bool | None = None
    checkpoint: str | None = None
    reset_head: bool = False
    model_args: dict[str, int | float | str | bool] = field(default_factory=dict)
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    resize: Literal["center", "squash", "border", "stretch"] | None = None
    crop_pct: float | None = None
    interpolation: Interpolation | None = None
    budget: str = DEFAULT_BUDGET
    cost: str = ""
    search: str = "one-shot"
    latency_precision: LatencyPrecision = "fp32"
    latency_threads: int = 1
    profiles: str = "profiles"
    tree: TreeSettings = field(default_factory=TreeSettings)
    tas: TasSettings = field(default_factory=TasSettings)
    sparse: SparseSettings = field(default_factory=SparseSettings)
    importance: str = "fisher"
    group_sizes: dict[str, int] = field(default_factory=dict)
    importance_images: int = 25
    reconstruct: bool = True
    distill: bool = True
    distill_methods: tuple[str, ...] = ("response",)
    distill_weight: float = 0.9
    temperature: float = 4.0
    fine_tune: TrainSettings = field(default_factory=TrainSettings)
    recover: TrainSettings = field(default_factory=TrainSettings)
    bf16: Literal["auto", "on", "off"] = "auto"
    train_limit: int | None = None
    skip_bad: bool = False
    class_order: Literal["", "text", "natural"] = ""
    class_map: str | None = None
    mirror: bool | None = None
    kinds: tuple[str, ...] = ("onnx", "onnx-int8", "fp32", "int8", "int8-full")
    calibration_images: int = 0
    verify_images: int = 0
    min_agreement: float = 0.99
    made_for: str = "x86"
    max_drop: float | None = None
    int8_recipe: str = ""
    qat_epochs: int = 0
    qat_from: int = 1
    micro_flash: int = 2 * 2**20
    micro_ram: int = 2**19
    opset: int = 17
    eval_limit: int = 0
    threads: int = 0
    device: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self)
        for name, known in REGISTERED.items():
            if getattr(self, name) not in known:
                *most, last = known
                raise PlanError(
                    f"RunSettings does not take this for {name}",
                    expected=f"{', '.join(most)} or {last}",
                    got=repr(getattr(self, name)),
                )
        if self.pretrained and self.checkpoint:
            raise PlanError("--pretrained and --checkpoint are two sources of weights", fix="Give one of them")
        if self.reset_head and not self.checkpoint:
            raise PlanError("--reset-head needs --checkpoint")
        if self.checkpoint and not self.model:
            raise PlanError("A checkpoint needs its architecture", fix="Name it with --model")
        _check_input(self)
        _check_search(self)
        if self.importance_images < 1:
            raise PlanError("importance_images must be at least 1", got=self.importance_images)
        if self.latency_threads < 1:
            raise PlanError("latency_threads must be at least 1", got=self.latency_threads)
        if self.eval_limit < 0:
            raise PlanError("--eval-limit must not be negative", expected="0 for all images", got=self.eval_limit)
        if self.threads < 0:
            raise PlanError("threads must not be negative", got=self.threads)
        if not 0 <= self.seed < 2**31:
            raise PlanError("The seed is out of range", expected="0 to 2147483647", got=self.seed)

    @property
    def name(self) -> str:
        """A name for the run: data and model."""
        kind, _, place = self.data.partition(":")
        source = place.rstrip("/").rpartition("/")[2] if place else kind
        return f"{source}-{self.model or 'vit'}"


def _check_input(settings: RunSettings) -> None:
    """Refuses sizes and pixel statistics that no model reads."""
    sides = settings.img_size if isinstance(settings.img_size, tuple) else (settings.img_size,)
    for option, value in (*(("--img-size", side) for side in sides), ("--patch-size", settings.patch_size)):
        if value is not None and value < 1:
            raise PlanError(f"{option} must be positive", expected="1 or more pixels", got=value)
    for option, values in (("--mean", settings.mean), ("--std", settings.std)):
        if values and max(values) > _MOST_STATISTIC:
            raise PlanError(
                f"{option} is of pixels between 0 and 1, and these are values of pixels between 0 and 255",
                expected=f"at most {_MOST_STATISTIC}",
                got=",".join(f"{value:g}" for value in values),
                fix=f"Divide them by 255: {option} {','.join(f'{value / 255:.4g}' for value in values)}",
            )
    if settings.crop_pct is not None and not 0.01 <= settings.crop_pct <= 1:
        raise PlanError("--crop-pct is a share", expected="0.01 to 1", got=settings.crop_pct)
    if settings.resize == "stretch" and settings.crop_pct not in (None, 1):
        raise PlanError(
            "--resize stretch crops nothing",
            expected="no --crop-pct",
            got=settings.crop_pct,
            fix="Scale both sides and crop with --resize squash",
        )


def _check_search(settings: RunSettings) -> None:
    """Refuses options that the search method would ignore."""
    method = METHODS[settings.search]
    if method.ranks_by and settings.importance != "fisher":
        free = [name for name, own in METHODS.items() if not own.ranks_by]
        raise PlanError(
            f"{method.name} goes by {method.ranks_by}",
            expected="no --importance, or --importance fisher",
            got=settings.importance,
            fix=f"Compare criteria with --search {', '.join(free[:-1])} or {free[-1]}",
        )
    if method.needs_budget:
        return
    if settings.budget:
        raise PlanError(
            f"{method.name} makes zeros and removes no width, so what the model costs stays and no budget can be met",
            expected="no --budget (in Python: budget='')",
            got=settings.budget,
            fix="Say how many zeros with --sparsity, or take another --search",
        )
    if settings.cost:
        raise PlanError(f"{method.name} goes by {method.ranks_by}, not by cost", expected="no --cost")
    if settings.qat_epochs:
        raise PlanError("--qat trains every weight, and the zeros would not stay", expected="no --qat")
