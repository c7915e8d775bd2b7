"""Cuts a Vision Transformer in memory to one or several budgets, with unlabelled images and without any training."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from compress.bases.analysis import RIDGE, BasisAnalysis, analyse
from compress.bases.counts import COPIES, images_to_see
from compress.bases.moments import batches_of
from compress.bases.varied import varied
from compress.bases.variety import remarks_on_images, sameness_of
from compress.budget import Budget, budget_cost, check_distinct, latency_target, parse_budget
from compress.data.augment import augmentation_for
from compress.data.dataset import ArrayImages, Dataset
from compress.data.search_images import SearchImages
from compress.devices import CPU
from compress.model.coordinates import Coordinates, of_head_input
from compress.model.folder import Task
from compress.model.metadata import timm_metadata
from compress.model.reconstruction import reconstruct as fit_again
from compress.model.slicing import KeptUnits, same_widths
from compress.model.timm_vit import from_timm
from compress.model.vit import SlicedViT, build
from compress.recipe import RECOVER
from compress.search import METHODS
from compress.search.base import SearchInputs, SearchMethod, usual_groups
from runtime import ModelError, PlanError, PocketVitWarning, Preprocessing, Progress, macs, params, silent

from .cut_model import CutModel, CutReport, same_coordinates
from .images import Images, divide_images


@overload
def cut(
    module: nn.Module,
    images: Images,
    budget: str,
    *,
    search: str = "milp",
    reconstruct: bool = True,
    copies: int = COPIES,
    seed: int = 0,
    progress: Progress | None = None,
) -> CutModel: ...


@overload
def cut(
    module: nn.Module,
    images: Images,
    budget: list[str] | tuple[str, ...],
    *,
    search: str = "milp",
    reconstruct: bool = True,
    copies: int = COPIES,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[CutModel]: ...


def cut(
    module: nn.Module,
    images: Images,
    budget: str | list[str] | tuple[str, ...],
    *,
    search: str = "milp",
    reconstruct: bool = True,
    copies: int = COPIES,
    seed: int = 0,
    progress: Progress | None = None,
) -> CutModel | list[CutModel]:
    """Cuts a Vision Transformer in its best bases, without labels and without training.

    The images find the bases of every head, of the MLPs and of the residual stream in which the model can be cut with
    the least change of its features, and the cut weights are fitted by least squares. The images should be like those
    that the model will see. The caller's module keeps its weights, mode, device and gradients.

    Args:
        module: a Vision Transformer that ``timm.create_model`` made, with a linear classifier; or a model of
            ``pocketvit.load`` or of this function.
        images: ``(N, C, H, W)``, normalised as the module reads them, without labels: 32 or more, better 300; or an
            iterable of such batches, such as a ``DataLoader``, whose labels are not looked at.
        budget: the most that the result may cost, such as ``macs=0.75``, ``params=0.5`` or ``macs=300M``; or several,
            which one analysis serves.
        search: a search method that chooses by the measured loss of units: ``milp``, ``one-shot`` or ``uniform``.
        reconstruct: fit the cut weights once more, block after block, and keep them if images that were held out then
            have features nearer to the whole model's.
        copies: changed copies of each image at most, where there are few images; 0 uses the images alone, which is
            better where they are just like those that the model will see.
        seed: seed of the division of the images, of the copies and of the random rotations.
        progress: called as the work advances.

    Returns:
        The cut model in evaluation mode, float32, on the module's device, with ``report``; for several budgets a list
        in their order.

    Raises:
        ModelError: the module is not supported, and the error names the part.
        PlanError: a budget is no budget, is there twice, cannot be met or counts time; the search method is unknown
            or needs data; or ``copies`` is negative.
        DataError: the images are of another shape or type, hold NaN or infinity, or are too few.

    Warns:
        PocketVitWarning: the images are few, all alike, or look like pixels that are not normalised.
    """
    progress = progress or silent
    # new layers draw their first weights, which are then replaced, from torch's generator
    with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices=[]):
        device = next((own.device for own in module.parameters()), CPU) if isinstance(module, nn.Module) else CPU
        whole = _whole_of(module)
        method = _method_of(search)
        if copies < 0:
            raise PlanError("There cannot be fewer than no copies", expected="copies of 0 or more", got=copies)
        budgets = _budgets_of(budget, whole)
        parts = divide_images(images, whole.plan, seed)
        tokens = whole.network.plan.num_tokens
        wanted = images_to_see(len(parts.analysis), tokens, copies)
        analysis = analyse(whole.network, varied(parts.analysis, wanted, seed), progress, distinct=len(parts.analysis))
        again = varied(parts.analysis, wanted, seed + 1) if reconstruct else None
        for note in remarks_on_images(len(parts.analysis), sameness_of(parts.analysis)):
            warnings.warn(note, PocketVitWarning, stacklevel=2)
        same = same_coordinates(whole.plan.embed_dim)
        choice, report = (_answers_of(whole.network, same, own) for own in (parts.choice, parts.report))
        made = []
        for text, own in budgets:
            kept = method.run(_search_inputs(whole, analysis, own, seed, progress)).kept
            network, mended = _cut_network(analysis, kept, again, (parts.choice, choice), progress)
            network, place = analysis.turned(network, kept, seed)
            answers = _answers_of(network, place, parts.report)
            found = CutReport(
                budget=text,
                search=search,
                macs=macs(network.plan),
                params=params(network.plan),
                whole_macs=macs(whole.plan),
                whole_params=params(whole.plan),
                error=answers.error(report),
                cosine=float(F.cosine_similarity(answers.features, report.features, dim=1).mean()),
                agreement=float((answers.classes == report.classes).double().mean()),
                images=len(parts.report),
                analysis_images=len(parts.analysis),
                reconstructed=mended,
            )
            beyond = whole.coordinates
            made.append(CutModel(network, place.then(beyond) if beyond else None, whole.task, found).to(device))
    return made[0] if isinstance(budget, str) else made


def _whole_of(module: Any) -> CutModel:
    """Returns a copy of a module on the CPU, float32, in evaluation mode.

    Raises:
        ModelError: the module is not supported.
    """
    if not isinstance(module, nn.Module):
        raise ModelError(
            "That is no model to cut",
            expected="a Vision Transformer of timm, or a model of pocketvit.load",
            got=type(module).__name__,
        )
    if isinstance(module, CutModel):
        return CutModel(_copied(module.network), module.coordinates, module.task)
    network = _copied(module) if isinstance(module, SlicedViT) else from_timm(module).cpu()
    return CutModel(network, same_coordinates(network.plan.embed_dim), _task_of(module, network))


def _copied(network: SlicedViT) -> SlicedViT:
    return build(network.plan, {name: value.cpu() for name, value in network.state_dict().items()})


def _task_of(module: nn.Module, network: SlicedViT) -> Task | None:
    """Returns the task of a module that timm made; None for another module, whose preprocessing is not known."""
    config: Any = getattr(module, "pretrained_cfg", None)
    if not config:
        return None
    plan = network.plan
    return Task(
        data="images in memory",
        split_seed=0,
        train_limit=None,
        preprocessing=timm_metadata(module, plan.in_chans).preprocessing(*plan.img_size, stretch=False),
        class_names=tuple(f"class {i}" for i in range(plan.num_classes)),
        source=f"timm {config.get('architecture', 'model')}, weights in memory",
        trained=True,
    )


def _method_of(search: str) -> SearchMethod:
    fitting = [name for name, own in METHODS.items() if own.in_bases and own.kind == "units"]
    if search not in fitting:
        raise PlanError(
            "cut chooses by the measured loss of units alone", expected=" or ".join(fitting), got=repr(search)
        )
    return METHODS[search]


def _budgets_of(budget: str | list[str] | tuple[str, ...], whole: CutModel) -> list[tuple[str, Budget]]:
    texts = [budget] if isinstance(budget, str) else budget
    check_distinct(texts)
    for text in texts:
        if latency_target(budget_cost(text)):
            raise PlanError(
                "A budget of time needs a latency table, which cut has not",
                expected="a budget of macs or params",
                got=repr(text),
                fix="Use pocketvit run, which measures the table",
            )
    return [(text, parse_budget(text, whole.plan)) for text in texts]


def _search_inputs(
    whole: CutModel, analysis: BasisAnalysis, budget: Budget, seed: int, progress: Progress
) -> SearchInputs:
    plan, none = whole.plan, np.zeros(0, np.int64)
    pixels = ArrayImages(np.zeros((0, *plan.img_size), np.uint8))
    data = Dataset("images in memory", (), plan.in_chans, plan.img_size, False, pixels, none, none, none, none)
    neutral = Preprocessing(*plan.img_size, plan.in_chans, (0.5,) * plan.in_chans, (0.5,) * plan.in_chans)

    def draw_images() -> SearchImages:
        raise PlanError("cut has no labelled images to search by", fix="Use another search method, or pocketvit run")

    return SearchInputs(
        model=analysis.model,
        settings=None,
        budget=budget,
        cost=budget.cost,
        total=budget.of(plan),
        groups=usual_groups(plan),
        data=data,
        spec=whole.preprocessing or neutral,
        augmentation=augmentation_for(data),
        recipe=RECOVER,
        take_importance=lambda: analysis.importance,
        draw_images=draw_images,
        gradient_batch=1,
        asked={},
        folder=Path(),
        seed=seed,
        progress=progress,
    )


def _cut_network(
    analysis: BasisAnalysis,
    kept: KeptUnits,
    images: torch.Tensor | None,
    judged: tuple[torch.Tensor, _Answers],
    progress: Progress,
) -> tuple[SlicedViT, bool]:
    """Returns the cut model in the bases of the analysis, and whether its reconstruction on ``images`` was kept.

    It is kept if the features of the judged images are not farther from the whole model's than without it.
    """
    network = analysis.cut(kept)
    if images is None or same_widths(network.plan, analysis.model.plan):
        return network, False
    batches = batches_of(images, network.plan.num_tokens)
    mended = fit_again(network, analysis.model, kept, batches, ridge=RIDGE, device=CPU, progress=progress)
    place, (chosen, wanted) = analysis.coordinates_of(kept), judged
    before, after = (_answers_of(one, place, chosen).error(wanted) for one in (network, mended))
    return (mended, True) if after <= before else (network, False)


@dataclass(frozen=True, eq=False)
class _Answers:
    """What a model computes for some images: features ``(N, F)`` float64 and classes ``(N,)``."""

    features: torch.Tensor
    classes: torch.Tensor

    def error(self, wanted: _Answers) -> float:
        """Returns the mean relative squared error of the features."""
        off = (self.features - wanted.features).square().sum(1)
        return float((off / wanted.features.square().sum(1).clamp_min(1e-30)).mean())


def _answers_of(network: SlicedViT, place: Coordinates, images: torch.Tensor) -> _Answers:
    features, classes = [], []
    with torch.no_grad():
        for batch in batches_of(images, network.plan.num_tokens):
            own = of_head_input(network.plan, place)
            found = network.features(batch)[1]
            features.append(found.double() if own is None else own.of(found))
            classes.append(network(batch).argmax(1))
    return _Answers(torch.cat(features), torch.cat(classes))
