"""The options that say what to make smaller and how, shared by the commands that do it."""

import functools
import inspect
import re
from collections.abc import Callable
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer

from compress.data import data_forms
from compress.search.sparse_settings import SparseSettings
from compress.search.tas.settings import TasSettings
from compress.search.tree.settings import TreeSettings
from export.formats import DEFAULT_KINDS, KINDS
from pocketvit.settings import DEFAULT_BUDGET, REGISTERED, RunSettings, TrainSettings
from runtime import PlanError
from runtime.processors import PROCESSORS

EXPORT_PANEL = "Export"
_MODEL, _TRAIN, _PRUNE, _EXPORT = "Model and data", "Training", "Pruning", EXPORT_PANEL


def _option(panel: str, help_text: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=help_text, rich_help_panel=panel, **more)


def run_settings(
    data: Annotated[
        str,
        _option(_MODEL, f"{', '.join(data_forms())}."),
    ] = "digits",
    model: Annotated[str, _option(_MODEL, "A timm architecture; without it, a small ViT for the digits.")] = "",
    img_size: Annotated[str | None, _option(_MODEL, "Input side in pixels, or HEIGHTxWIDTH, such as 32x64.")] = None,
    patch_size: Annotated[int | None, _option(_MODEL, "Patch side, pixels.")] = None,
    in_chans: Annotated[int | None, _option(_MODEL, "1 (grayscale) or 3 (RGB).")] = None,
    pretrained: Annotated[
        bool | None, _option(_MODEL, "Start from timm's published weights, or from fresh ones.")
    ] = None,
    checkpoint: Annotated[
        str | None, _option(_MODEL, "Start from a file: .safetensors, .pth, .pth.tar, .pt, .ckpt or .bin.")
    ] = None,
    reset_head: Annotated[bool, _option(_MODEL, "Train a new classifier for the checkpoint.", "--reset-head")] = False,
    model_arg: Annotated[
        list[str] | None, _option(_MODEL, "A further argument of the architecture, such as depth=6. Repeatable.")
    ] = None,
    mean: Annotated[str | None, _option(_MODEL, "Pixel mean per channel, such as 0.5,0.5,0.5.")] = None,
    std: Annotated[str | None, _option(_MODEL, "Pixel standard deviation per channel.")] = None,
    resize: Annotated[
        str | None,
        _option(
            _MODEL,
            "How a picture becomes the model's size: center (scale the short side, crop), squash (scale both sides, "
            "crop), border (scale the long side, fill), stretch (scale both sides).",
        ),
    ] = None,
    crop_pct: Annotated[float | None, _option(_MODEL, "Share of the scaled picture that the crop keeps.")] = None,
    interpolation: Annotated[str | None, _option(_MODEL, "nearest, bilinear, bicubic or lanczos.")] = None,
    train_limit: Annotated[int | None, _option(_MODEL, "Use only so many training images.")] = None,
    skip_bad: Annotated[bool, _option(_MODEL, "Leave out pictures that cannot be decoded.", "--skip-bad")] = False,
    class_order: Annotated[
        str,
        _option(
            _MODEL,
            "Of an image folder's classes: text (as torchvision), natural (as timm); by default the checkpoint's.",
        ),
    ] = "",
    class_map: Annotated[
        str | None, _option(_MODEL, "File with the classes in the order of the outputs: .txt, one a line, or .json.")
    ] = None,
    mirror: Annotated[
        bool | None,
        _option(
            _MODEL, "Whether training may mirror pictures; not where they show text or signs.", "--mirror/--no-mirror"
        ),
    ] = None,
    eval_limit: Annotated[
        int, _option(_MODEL, "Most test and held-out images that top-1 is taken on, of every class its share; 0: all.")
    ] = 0,
    seed: Annotated[int, _option(_MODEL, "Of splits, fresh weights, order and augmentation.")] = 0,
    epochs: Annotated[int | None, _option(_TRAIN, "Most epochs of the first training; 0 trains nothing.")] = None,
    batch_size: Annotated[int | None, _option(_TRAIN, "Images per step, in both trainings.")] = None,
    lr: Annotated[float | None, _option(_TRAIN, "Peak learning rate of the first training.")] = None,
    head_lr: Annotated[float | None, _option(_TRAIN, "The same of its classifier.")] = None,
    patience: Annotated[int | None, _option(_TRAIN, "Epochs without improvement before stopping.")] = None,
    recovery_epochs: Annotated[int | None, _option(_TRAIN, "Most epochs after slicing.")] = None,
    recovery_lr: Annotated[float | None, _option(_TRAIN, "Peak learning rate after slicing.")] = None,
    distill: Annotated[bool, _option(_TRAIN, "Recover with the baseline as teacher.")] = True,
    distill_method: Annotated[
        str, _option(_TRAIN, "What recovery learns, comma-separated: response, feature, relation, self.")
    ] = "response",
    distill_weight: Annotated[float, _option(_TRAIN, "Weight of the teacher's answers, 0 to 1.")] = 0.9,
    temperature: Annotated[float, _option(_TRAIN, "Of the softmax they are compared at.")] = 4.0,
    bf16: Annotated[str, _option(_TRAIN, "Train in bfloat16: auto, on or off.")] = "auto",
    threads: Annotated[int, _option(_TRAIN, "Torch threads; 0 takes every core.")] = 0,
    device: Annotated[str, _option(_TRAIN, "Where to train: auto (a GPU where there is one), cpu, cuda or cuda:N.")] = (
        "auto"
    ),
    budget: Annotated[
        str | None,
        _option(
            _PRUNE,
            "What the result may cost: macs=0.75, params=0.7, macs=300M, latency=12ms@cpu …",
            show_default="macs=0.75",
        ),
    ] = None,
    cost: Annotated[
        str, _option(_PRUNE, "What choosing goes by: params, macs or latency@cpu; by default what the budget counts.")
    ] = "",
    search: Annotated[
        str,
        _option(
            _PRUNE,
            "How units are chosen: one-shot, milp, greedy, dfbnb or tas; uniform: all widths scaled alike; "
            "unstructured: zeros in place of weights.",
        ),
    ] = "one-shot",
    importance: Annotated[
        str, _option(_PRUNE, "What units are ranked by (not in dfbnb and greedy): fisher, taylor, l2 or random.")
    ] = "fisher",
    latency_precision: Annotated[str, _option(_PRUNE, "Of the files whose time latency is: fp32 or int8.")] = "fp32",
    latency_threads: Annotated[int, _option(_PRUNE, "Threads of the engine that runs them.")] = 1,
    profiles: Annotated[str, _option(_PRUNE, "Folder of latency tables; missing ones are measured into it.")] = (
        "profiles"
    ),
    iterations: Annotated[int, _option(_PRUNE, "dfbnb: most rounds of search, slice, recover.")] = 15,
    depth: Annotated[int, _option(_PRUNE, "dfbnb: most actions on one path.")] = 6,
    epsilon: Annotated[float, _option(_PRUNE, "dfbnb: how much worse than the best is still branched.")] = 0.005,
    cost_weight: Annotated[float, _option(_PRUNE, "dfbnb: weight of cost against accuracy.")] = 1.0,
    exact: Annotated[
        bool, _option(_PRUNE, "dfbnb, tas: search as published; dfbnb at several times the work.", "--exact")
    ] = False,
    round_epochs: Annotated[
        int | None,
        _option(_PRUNE, "dfbnb: most epochs after every round but the last; by default a quarter of the last's."),
    ] = None,
    search_epochs: Annotated[int, _option(_PRUNE, "tas: epochs of the search, each on half the images each.")] = 20,
    candidates: Annotated[int, _option(_PRUNE, "tas: most candidates of a width or of the depth.")] = 8,
    tolerance: Annotated[float, _option(_PRUNE, "tas: share of the budget that may stay unused.")] = 0.05,
    odds_lr: Annotated[
        float | None, _option(_PRUNE, "tas: learning rate of the odds; by default 4, with --exact 0.05.")
    ] = None,
    sparsity: Annotated[float, _option(_PRUNE, "unstructured: share of the weights that become zeros.")] = 0.9,
    sparsity_scope: Annotated[
        str, _option(_PRUNE, "unstructured: this share of each layer, or global, of all ranked together.")
    ] = "layer",
    sparsity_layers: Annotated[
        str, _option(_PRUNE, "unstructured: whose weights, comma-separated.")
    ] = "qkv,proj,fc1,fc2",
    group_size: Annotated[
        list[str] | None, _option(_PRUNE, "Units one removal takes, such as mlp=16 (mlp, qk, v, embed). Repeatable.")
    ] = None,
    reconstruct: Annotated[
        bool, _option(_PRUNE, "Fit what slicing left to the whole model by least squares, before any training.")
    ] = True,
    importance_images: Annotated[int, _option(_PRUNE, "Images per class that importance is taken on.")] = 25,
    formats: Annotated[str, _option(_EXPORT, f"Files to write, comma-separated: {', '.join(KINDS)}.")] = ",".join(
        DEFAULT_KINDS
    ),
    calibration_images: Annotated[int, _option(_EXPORT, "Held-out images that set integer ranges; 0 chooses.")] = 0,
    verify_images: Annotated[int, _option(_EXPORT, "Test images every file is run on; 0 chooses.")] = 0,
    min_agreement: Annotated[float, _option(_EXPORT, "Least share of images on which int8 agrees with float.")] = 0.99,
    made_for: Annotated[
        str, _option(_EXPORT, f"Processors that int8 is made for: {', '.join(PROCESSORS)}.", "--for")
    ] = "x86",
    max_drop: Annotated[
        float | None, _option(_EXPORT, "Most points of top-1 an integer file may lose on held-out images.")
    ] = None,
    micro_flash: Annotated[
        int, _option(_EXPORT, "Bytes of flash that a tflite-micro file may take; its program comes on top.")
    ] = 2 * 2**20,
    micro_ram: Annotated[int, _option(_EXPORT, "Bytes of memory that a tflite-micro file may need to run.")] = 2**19,
    opset: Annotated[
        int, _option(_EXPORT, "Version of ONNX's operators in ONNX files, 17 to 23; ONNX Runtime 1.20 reads up to 21.")
    ] = 17,
    int8_recipe: Annotated[
        str, _option(_EXPORT, "Make int8 by this recipe, such as dynamic_wi8_afp32, and choose none by measurement.")
    ] = "",
    qat: Annotated[int, _option(_EXPORT, "Epochs of training int8-full under rounding.")] = 0,
    qat_from: Annotated[
        int, _option(_EXPORT, "First of these epochs, counted from 1, that rounds; those before train in float.")
    ] = 1,
) -> RunSettings:
    """Collects the options into settings.

    Raises:
        PlanError: an option cannot be read.
    """
    chosen = {"bf16": bf16, "search": search, "importance": importance, "latency_precision": latency_precision}
    _check_choices(
        {**chosen, "made_for": made_for, "class_order": class_order, "resize": resize, "interpolation": interpolation}
    )
    return RunSettings(
        data=data,
        model=model,
        img_size=None if img_size is None else image_size("--img-size", str(img_size)),
        patch_size=patch_size,
        in_chans=in_chans,
        pretrained=pretrained,
        checkpoint=checkpoint,
        reset_head=reset_head,
        model_args={key: plain_value(text) for key, text in name_values("--model-arg", model_arg)},
        mean=_floats("--mean", mean),
        std=_floats("--std", std),
        resize=resize,  # type: ignore[arg-type]
        crop_pct=crop_pct,
        interpolation=interpolation,  # type: ignore[arg-type]
        budget=budget if budget is not None else "" if search == "unstructured" else DEFAULT_BUDGET,
        cost=cost,
        search=search,
        latency_precision=latency_precision,  # type: ignore[arg-type]
        latency_threads=latency_threads,
        profiles=profiles,
        tree=TreeSettings(iterations, depth, epsilon, cost_weight, exact, round_epochs),
        tas=TasSettings(search_epochs, candidates, tolerance, exact, odds_lr),
        sparse=SparseSettings(
            sparsity,
            sparsity_scope,  # type: ignore[arg-type]
            tuple(part.strip() for part in sparsity_layers.split(",")),  # type: ignore[misc]
        ),
        importance=importance,
        group_sizes={key: _integer("--group-size", text) for key, text in name_values("--group-size", group_size)},
        importance_images=importance_images,
        reconstruct=reconstruct,
        distill=distill,
        distill_methods=tuple(part.strip() for part in distill_method.split(",")),
        distill_weight=distill_weight,
        temperature=temperature,
        fine_tune=TrainSettings(epochs, batch_size, lr, head_lr, patience),
        recover=TrainSettings(recovery_epochs, batch_size, recovery_lr, None, patience),
        bf16=bf16,  # type: ignore[arg-type]
        train_limit=train_limit,
        skip_bad=skip_bad,
        class_order=class_order,  # type: ignore[arg-type]
        class_map=class_map,
        mirror=mirror,
        kinds=tuple(dict.fromkeys(kind.strip() for kind in formats.split(",") if kind.strip())),
        calibration_images=calibration_images,
        verify_images=verify_images,
        min_agreement=min_agreement,
        made_for=made_for,
        max_drop=max_drop,
        int8_recipe=int8_recipe,
        qat_epochs=qat,
        qat_from=qat_from,
        micro_flash=micro_flash,
        micro_ram=micro_ram,
        opset=opset,
        eval_limit=eval_limit,
        threads=threads,
        device=device,
        seed=seed,
    )


def with_run_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Gives ``command(settings, ...)`` the options of ``run_settings`` in place of its first parameter."""
    own = list(inspect.signature(command).parameters.values())[1:]
    shared = list(inspect.signature(run_settings).parameters.values())
    names = {parameter.name for parameter in shared}

    @functools.wraps(command)
    def wrapper(**values: Any) -> None:
        settings = run_settings(**{name: values.pop(name) for name in names})
        command(settings, **values)

    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*own, *shared)]
    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {p.name: p.annotation for p in parameters}
    return wrapper


def name_values(option: str, texts: list[str] | None) -> list[tuple[str, str]]:
    """Reads an option that is given as NAME=VALUE, any number of times.

    Raises:
        PlanError: a text is of another form.
    """
    pairs = []
    for text in texts or []:
        key, equals, value = text.partition("=")
        if not (key and equals and value):
            raise PlanError(f"{option} cannot be read", expected="NAME=VALUE", got=repr(text))
        pairs.append((key, value))
    return pairs


def plain_value(text: str) -> int | float | str | bool:
    """Reads true, false or a number; anything else stays text."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def image_size(option: str, text: str) -> int | tuple[int, int]:
    """Reads one side in pixels, or HEIGHTxWIDTH.

    Raises:
        PlanError: the text is of another form.
    """
    match = re.fullmatch(r"(\d{1,6})(?:x(\d{1,6}))?", text.strip(), re.ASCII | re.IGNORECASE)
    if match is None:
        raise PlanError(f"{option} cannot be read", expected="a number of pixels, or HEIGHTxWIDTH", got=repr(text))
    return int(match[1]) if match[2] is None else (int(match[1]), int(match[2]))


def _check_choices(values: dict[str, str | None]) -> None:
    """Refuses what a setting has no such choice for, by the option's name; None and an empty text are no choice."""
    for name, value in values.items():
        kind = get_type_hints(RunSettings)[name]
        literals = (kind, *get_args(kind)) if get_args(kind) else ()
        known = [own for one in literals if get_origin(one) is Literal for own in get_args(one) if own]
        known += REGISTERED.get(name, ())
        if value and value not in known:
            option = "--for" if name == "made_for" else f"--{name.replace('_', '-')}"
            expected = f"{', '.join(known[:-1])} or {known[-1]}"
            raise PlanError(f"{option} is one of {len(known)}", expected=expected, got=repr(value))


def _integer(option: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise PlanError(f"{option} takes a whole number", got=repr(text)) from None


def _floats(option: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise PlanError(f"{option} takes numbers with commas between", got=repr(text)) from None
