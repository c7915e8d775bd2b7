"""The settings of a run, as data: the command line and studies fill them in, and ``run.json`` keeps them.

The ``Option`` in a field's type describes the field. It is the only place where the help text, the option's name and
the heading in ``--help`` stand; ``pocketvit.options`` makes the options and the keys of studies from it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, Literal, get_type_hints

from compress.bases.counts import COPIES
from compress.data import SOURCES
from compress.model.hub.place import short_name
from compress.recipe import TrainRecipe
from compress.search import METHODS
from compress.search.sparse_settings import SparseSettings
from compress.search.tas.settings import TasSettings
from compress.search.tree.settings import TreeSettings
from export.formats import kinds_for
from export.formats.micro_limits import MicroLimits
from export.settings import ExportSettings
from runtime import Interpolation, LatencyPrecision, OutputForm, PlanError, check_fields
from runtime.options import Option, check_choices

from .embedding import check_embedding, check_no_embedding
from .input_checks import check_input
from .label_free import check_label_free
from .search_checks import check_search, check_search_counts, registered_settings
from .train_settings import RECOVERY, TRAINING_PANEL, TrainSettings
from .zero_shot import check_zero_shot

DEFAULT_MODEL = "vit_tiny_patch16_224"
DEFAULT_OVERRIDES: dict[str, int | float | str | bool] = {"embed_dim": 96, "depth": 6, "num_heads": 3}
DEFAULT_IMG_SIZE, DEFAULT_PATCH_SIZE = 32, 8
DEFAULT_BUDGET = "macs=0.75"

MODEL_PANEL, PRUNING_PANEL, EXPORT_PANEL = "Model and data", "Pruning", "Export"
_model = partial(Option, panel=MODEL_PANEL)
_training = partial(Option, panel=TRAINING_PANEL)
_pruning = partial(Option, panel=PRUNING_PANEL)
_export = partial(Option, panel=EXPORT_PANEL)


@dataclass(frozen=True)
class RunSettings:
    """What to make smaller, how small, and how.

    Each field's ``Option`` describes it. ``Path`` objects may be given where a text is a path, and lists where tuples
    are expected.

    Attributes:
        tree: settings of ``dfbnb`` and ``greedy``.
        tas: settings of ``tas``, which trains its weights by the recipe of the recovery.
        sparse: settings of ``unstructured``.
        method_settings: settings of search methods that are registered elsewhere, by the method's name.
        fine_tune: changes to the first training.
        recover: changes to the training after slicing.

    Raises:
        PlanError: a value is of another type, unknown or out of range.
    """

    data: Annotated[str, _model("Dataset: {choices}.", forms="compress.data:data_forms")] = "digits"
    labels: Annotated[
        bool,
        _model(
            "Read the labels of the data. With --no-labels no label is read: weights that already answer are pruned, "
            "and recover by the answers and features of the whole model."
        ),
    ] = True
    task: Annotated[
        Literal["classify", "embed", "dense"],
        _model(
            "What the model is for: {choices}. With embed it answers with the vector that its classifier would read, "
            "with dense with the tokens of all patches, in the whole model's coordinates, and no label is read."
        ),
    ] = "classify"
    embed_dim: Annotated[
        int | None, _model("Length of the vector of --task embed, by its principal components; by default the model's.")
    ] = None
    normalise: Annotated[bool, _model("Scale the vector of --task embed to length 1.", negative=False)] = False
    blocks: Annotated[
        tuple[int, ...],
        _model("Blocks whose patches --task dense answers with, side by side, such as 3,6,9,12; by default the last."),
    ] = ()
    text_embeddings: Annotated[
        str | None,
        _model("NPZ with the names and vectors of texts, which make a CLIP or SigLIP image tower a classifier."),
    ] = None
    model: Annotated[str, _model("timm architecture, hf:OWNER/NAME or a folder; else a small ViT for digits.")] = ""
    img_size: Annotated[
        int | tuple[int, int] | None, _model("Input side in pixels, or HEIGHTxWIDTH, such as 32x64.")
    ] = None
    patch_size: Annotated[int | None, _model("Patch side, pixels.")] = None
    in_chans: Annotated[int | None, _model("Input channels: 1 (grayscale) or 3 (RGB).")] = None
    pretrained: Annotated[
        bool | None, _model("Start from timm's published weights, or with --no-pretrained from fresh ones.")
    ] = None
    checkpoint: Annotated[
        str | None,
        _model("Start from the weights in a file: .safetensors, .pth, .pth.tar, .pt, .ckpt or .bin."),
    ] = None
    reset_head: Annotated[bool, _model("Train a new classifier for the checkpoint.", negative=False)] = False
    model_args: Annotated[
        dict[str, int | float | str | bool],
        _model("Further argument of the architecture, such as depth=6. Repeatable.", name="--model-arg"),
    ] = field(default_factory=dict)
    mean: Annotated[
        tuple[float, ...] | None,
        _model("Mean of pixels 0..1, one value or one per channel, such as 0.5,0.5,0.5; by default the model's."),
    ] = None
    std: Annotated[
        tuple[float, ...] | None,
        _model("Standard deviation of pixels 0..1, one value or one per channel; by default the model's."),
    ] = None
    resize: Annotated[
        Literal["center", "squash", "border", "stretch"] | None,
        _model(
            "How a picture becomes the model's size: center (scale the short side, crop), squash (scale both sides, "
            "crop), border (scale the long side, fill), stretch (scale both sides)."
        ),
    ] = None
    crop_pct: Annotated[float | None, _model("Share of the scaled picture that the crop keeps, 0.01 to 1.")] = None
    interpolation: Annotated[Interpolation | None, _model("How pixels are interpolated: {choices}.")] = None
    budget: Annotated[
        str,
        _pruning(
            "Most that the result may cost: macs=0.75, params=0.7, macs=300M, latency=12ms@cpu … Repeatable: run and "
            "compress make a run NAME-BUDGET of each.",
            several=True,
        ),
    ] = DEFAULT_BUDGET
    cost: Annotated[
        str,
        _pruning("Cost that removals are ranked by: params, macs or latency@cpu; by default the cost of the budget."),
    ] = ""
    search: Annotated[
        str, _pruning("How the units to prune are chosen: {choices}.", choices="compress.search:METHODS")
    ] = "one-shot"
    latency_precision: Annotated[
        LatencyPrecision, _pruning("Precision of the files that a latency is measured on: {choices}.")
    ] = "fp32"
    latency_threads: Annotated[int, _pruning("Threads of the engine that a latency is measured with.")] = 1
    profiles: Annotated[str, _pruning("Folder of latency tables; missing ones are measured into it.")] = "profiles"
    latency_check: Annotated[
        bool,
        _pruning("Time a model near a budget of time before the search and correct the latency table by it."),
    ] = True
    tree: TreeSettings = field(default_factory=TreeSettings)
    tas: TasSettings = field(default_factory=TasSettings)
    sparse: SparseSettings = field(default_factory=SparseSettings)
    method_settings: dict[str, Any] = field(default_factory=dict)
    basis: Annotated[
        Literal["auto", "best", "units"],
        _pruning(
            "Where the model is cut: best rotates it by images without labels so that what matters least can go, units "
            "cuts it as it is; auto takes best, but units with --importance, --exact, tas and unstructured."
        ),
    ] = "auto"
    basis_images: Annotated[
        int, _pruning("Images without labels that the best bases are found from; 0 chooses by the image size.")
    ] = 0
    basis_copies: Annotated[
        int,
        _pruning(
            "Changed copies of each of these images at most, where there are few; 0 takes the images alone, which is "
            "better where they are just like those that the model will see."
        ),
    ] = COPIES
    importance: Annotated[
        str,
        _pruning(
            "Criterion that units are ranked by: {choices}. By default the measured loss of the model's features in "
            "the best bases, and fisher elsewhere.",
            choices="compress.importance:CRITERIA",
        ),
    ] = ""
    group_sizes: Annotated[
        dict[str, int],
        _pruning(
            "Units that one removal takes, such as mlp=16 (mlp, qk, v, embed). Repeatable. By default 8; in the best "
            "bases of a classifier with MLPs of 1,024 units, 32 of an MLP and 16 of queries and keys.",
            name="--group-size",
        ),
    ] = field(default_factory=dict)
    importance_images: Annotated[
        int, _pruning("Images per class that importance is measured on; without labels, 20 times as many in all.")
    ] = 25
    reconstruct: Annotated[
        bool, _pruning("Fit the sliced model to the whole one by least squares before any training.")
    ] = True
    distill: Annotated[bool, _training("Recover with the baseline as teacher.")] = True
    distill_methods: Annotated[
        tuple[str, ...],
        _training(
            "What the recovery learns, comma-separated: response, feature, relation, self, tokens; without labels, "
            "tokens always join response.",
            name="--distill-method",
        ),
    ] = ("response",)
    distill_weight: Annotated[
        float, _training("Weight of the teacher's answers in the loss, 0 to 1; 1 without labels.")
    ] = TrainRecipe.distill_weight
    temperature: Annotated[float, _training("Temperature of the softmax that answers are compared at.")] = (
        TrainRecipe.temperature
    )
    fine_tune: TrainSettings = field(default_factory=TrainSettings)
    recover: Annotated[TrainSettings, RECOVERY] = field(default_factory=TrainSettings)
    bf16: Annotated[
        Literal["auto", "on", "off"], _training("Train in bfloat16 (auto does where it helps): {choices}.")
    ] = "auto"
    train_limit: Annotated[int | None, _model("Most training images to use.")] = None
    skip_bad: Annotated[bool, _model("Leave out pictures that cannot be decoded.", negative=False)] = False
    class_order: Annotated[
        Literal["", "text", "natural"],
        _model(
            "Order of an image folder's classes: text (as torchvision), natural (as timm); by default the checkpoint's."
        ),
    ] = ""
    class_map: Annotated[
        str | None, _model("File with the classes in the order of the outputs: .txt, one a line, or .json.")
    ] = None
    mirror: Annotated[
        bool | None,
        _model("Whether training may mirror pictures; turn it off where they show text or signs."),
    ] = None
    kinds: Annotated[
        tuple[str, ...],
        _export("Files to write, comma-separated: {choices}.", name="--formats", choices="export.formats:KINDS"),
    ] = ExportSettings.kinds
    calibration_images: Annotated[int, _export("Held-out images that set integer ranges; 0 chooses.")] = (
        ExportSettings.calibration_images
    )
    calibration_data: Annotated[
        str, _export("Folder of pictures that set integer ranges, in place of held-out ones; they need no labels.")
    ] = ExportSettings.calibration_data
    verify_images: Annotated[
        int, _export("Test images that every file is run on; 0 chooses, and adds some in doubt.")
    ] = ExportSettings.verify_images
    min_agreement: Annotated[
        float | None,
        _export("Least share of images on which a file has the float model's top-1, 0 to 1; 0 releases every file."),
    ] = ExportSettings.min_agreement
    min_cosine: Annotated[
        float | None,
        _export("Least mean cosine of a file's vectors with the float model's, 0 to 1; 0 releases every file."),
    ] = ExportSettings.min_cosine
    made_for: Annotated[
        str,
        _export(
            "What the files are for: processors that the recipe of int8 is chosen for, or static-int8 for the NPU "
            "compilers of chip vendors: {choices}.",
            name="--for",
            choices="runtime.processors:PROCESSORS",
        ),
    ] = ExportSettings.made_for
    max_drop: Annotated[
        float | None, _export("Most points of top-1 that an integer file may lose on test images; 0.5 with labels.")
    ] = ExportSettings.max_drop
    int8_recipe: Annotated[
        str, _export("Make int8 by this recipe, such as dynamic_wi8_afp32, and choose none by measurement.")
    ] = ExportSettings.int8_recipe
    qat_epochs: Annotated[
        int, _export("Epochs of quantisation-aware training of int8-full, static-int8 and tflite-micro.", name="--qat")
    ] = ExportSettings.qat_epochs
    qat_from: Annotated[
        int, _export("First of these epochs, counted from 1, that rounds; those before it train in float.")
    ] = ExportSettings.qat_from
    micro_flash: Annotated[
        int, _export("Bytes of flash that a tflite-micro file may take; its program comes on top.")
    ] = MicroLimits.flash_bytes
    micro_ram: Annotated[int, _export("Bytes of memory that a tflite-micro file may need to run.")] = (
        MicroLimits.ram_bytes
    )
    opset: Annotated[
        int, _export("Version of ONNX's operators in ONNX files, 17 to 23; ONNX Runtime 1.20 reads up to 21.")
    ] = ExportSettings.opset
    io_type: Annotated[
        Literal["int8", "uint8"], _export("Type of image and logits in static-int8 files: {choices}.")
    ] = ExportSettings.io_type
    app: Annotated[
        bool,
        _export(
            "Also write each .tflite file for apps: RGB of 0 to 1 in, probabilities out, labels inside, as MediaPipe "
            "Tasks loads it."
        ),
    ] = ExportSettings.app
    app_input: Annotated[
        Literal["float", "uint8"], _export("Image of files for apps, pixel / 255 or the pixels: {choices}.")
    ] = ExportSettings.app_input
    app_scores: Annotated[Literal["probabilities", "logits"], _export("Outputs of files for apps: {choices}.")] = (
        ExportSettings.app_scores
    )
    gpu_check: Annotated[bool, _export("Compare each .tflite file on LiteRT's GPU path with the CPU.")] = True
    eval_limit: Annotated[
        int,
        _model("Most test and held-out images that top-1 is measured on, each class with its share; 0 takes all."),
    ] = 0
    threads: Annotated[int, _training("Threads of torch; 0 takes every core.")] = 0
    device: Annotated[str, _training("Where to train: auto (a GPU where there is one), cpu, cuda or cuda:N.")] = "auto"
    seed: Annotated[int, _model("Seed of splits, fresh weights, order and augmentation.")] = 0

    def __post_init__(self) -> None:
        check_fields(self)
        check_choices(self)
        object.__setattr__(self, "kinds", kinds_for(self.made_for, tuple(dict.fromkeys(self.kinds))))
        object.__setattr__(self, "method_settings", registered_settings(self.method_settings, self.search))
        if self.pretrained and self.checkpoint:
            raise PlanError("--pretrained and --checkpoint are two sources of weights", fix="Give one of them")
        if self.checkpoint and not self.model:
            raise PlanError("A checkpoint needs its architecture", fix="Name it with --model")
        check_input(
            {"--img-size": self.img_size, "--patch-size": self.patch_size},
            {"--mean": self.mean, "--std": self.std},
            self.resize,
            self.crop_pct,
        )
        check_search(
            self.search,
            in_best_bases=self.basis == "best",
            published=self._published,
            importance=self.importance if self.criterion != "fisher" else None,
            budget=self.budget,
            cost=self.cost,
            trains_under_rounding=self.qat_epochs > 0,
        )
        _check_task(self)
        _check_labels(self)
        check_search_counts(self.basis_images, self.basis_copies, self.importance_images, self.latency_threads)
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
        return f"{source}-{short_name(self.model or 'vit')}"

    @property
    def uses_labels(self) -> bool:
        """Whether the run reads labels: the data has some, ``labels`` is set, and the model answers with classes."""
        kind = self.data.partition(":")[0]
        return self.labels and not self.embeds and (kind not in SOURCES or SOURCES[kind].labelled)

    @property
    def embeds(self) -> bool:
        """Whether the model answers with a vector, or with one for each patch."""
        return self.task != "classify"

    @property
    def output(self) -> OutputForm:
        """What the model answers with."""
        forms: dict[str, OutputForm] = {"embed": "unit_vector" if self.normalise else "vector", "dense": "grid"}
        return forms.get(self.task, "classes")

    @property
    def criterion(self) -> str:
        """Name of the criterion that units are ranked by where no loss is measured."""
        return self.importance or "fisher"

    @property
    def _published(self) -> bool:
        """Whether a search over a tree is made as published, which cuts units as they are."""
        return METHODS[self.search].group == "tree" and self.tree.exact

    @property
    def in_best_bases(self) -> bool:
        """Whether the model is cut in its best bases."""
        if self.basis == "auto":
            return METHODS[self.search].in_bases and not self.importance and not self._published
        return self.basis == "best"

    @property
    def search_settings(self) -> Any:
        """The settings of the chosen search method; None where it has none."""
        method = METHODS[self.search]
        return getattr(self, method.group) if method.group else self.method_settings.get(self.search)


def _check_task(settings: RunSettings) -> None:
    """Refuses settings that do not fit what the model answers with."""
    if settings.text_embeddings is not None:
        given = {name: bool(getattr(settings, name)) for name in ("class_map", "class_order", "reset_head")}
        check_zero_shot(settings.model, settings.task, **given)
    if settings.embeds:
        names = ("search", "importance", "qat_epochs", "class_map", "min_agreement")
        check_embedding(**{name: getattr(settings, name) for name in names}, task=settings.task)
    if settings.task != "embed":
        check_no_embedding({"--embed-dim": settings.embed_dim is not None, "--normalise": settings.normalise})
    if settings.blocks and settings.task != "dense":
        raise PlanError("--blocks names what a grid of patches is made of", expected="--task dense with it")


def _check_labels(settings: RunSettings) -> None:
    """Refuses settings that need labels in a run that reads none."""
    if not settings.uses_labels:
        check_label_free(
            max_drop=settings.max_drop,
            class_order=settings.class_order,
            reset_head=settings.reset_head,
            epochs=settings.fine_tune.epochs,
            recovers_alone=not settings.distill and settings.recover.epochs != 0,
        )


EXPORT_SETTINGS = frozenset(
    name
    for name, kind in get_type_hints(RunSettings, include_extras=True).items()
    for option in getattr(kind, "__metadata__", ())
    if isinstance(option, Option) and option.panel == EXPORT_PANEL
)
"""Fields of ``RunSettings`` that concern the export alone."""
