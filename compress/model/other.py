"""Classifiers of timm that have no plan: nothing is pruned in them, and they are exported whole."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from runtime import CountedModel, ModelError, PlanError

from .checkpoint_file import check_finite_weights, open_checkpoint, short_list
from .checkpoint_fit import weights_needed
from .load import ModelSpec, create_network, default_classes, resolved
from .timm_vit import plan_of_timm
from .whole.plain import plain_network


class OtherModel(nn.Module):
    """A classifier of timm without a plan.

    Args:
        network: timm's own network, in evaluation mode.
        plan: its sizes and counted costs, in the place of a plan.
        spec: what the network was built from.
    """

    def __init__(self, network: nn.Module, plan: CountedModel, spec: ModelSpec) -> None:
        super().__init__()
        self.network, self.plan, self.spec = plain_network(network), plan, spec

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Maps images ``(B, C, H, W)`` to logits ``(B, num_classes)``."""
        logits: torch.Tensor = self.network(images)
        return logits


def is_other(spec: ModelSpec) -> bool:
    """Returns whether ``spec`` names a model of timm that has no plan; no weights are made.

    Raises:
        ModelError: the name is unknown, or an option does not fit.
        PlanError: the image does not divide into patches.
    """
    spec = resolved(spec)
    if spec.hub is not None and spec.hub.family is not None:
        return False
    with torch.device("meta"):
        network, _ = _network(spec, 2)
        try:
            plan_of_timm(network)
        except (ModelError, PlanError):
            return True
    return False


def load_other(spec: ModelSpec, seed: int = 0) -> OtherModel:
    """Returns the model that ``spec`` names, with the classes of its weights, in evaluation mode.

    Fresh weights have as many classes as timm's published ones, and 1000 where there are none.

    Args:
        spec: architecture and weights.
        seed: seed of fresh weights.

    Raises:
        ModelError: the name is unknown; the model is an encoder without classes; the weights cannot be had or read,
            do not fit, or are NaN; the model does not run on images of this size, or does not answer with classes.
    """
    spec = resolved(spec)
    with torch.device("meta"):
        check_classifier(_network(spec, 2)[0], spec.name)
    weights = _weights(spec) if spec.checkpoint is not None else None
    classes = _classes(spec, weights) if weights is not None else default_classes(_sized(spec))
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        network, size = _network(spec, classes, pretrained=spec.pretrained and weights is None)
    if weights is not None:
        _load(network, weights, spec)
    return OtherModel(network, _counted(plain_network(network), spec, size, classes), spec)


def check_classifier(network: Any, name: str) -> None:
    """Checks that an architecture of timm has classes; its encoders have none, whatever number is asked for.

    Raises:
        ModelError: it has none.
    """
    if getattr(network, "num_classes", 1) == 0:
        raise ModelError(
            f"'{name}' is an encoder and no classifier",
            expected="an architecture that answers with a logit for each class",
            got=f"timm's {type(network).__name__}, which answers with tokens or a map of features",
            fix="Choose an architecture with a classifier",
        )


def rebuilt(spec: ModelSpec, plan: CountedModel, weights: Mapping[str, torch.Tensor]) -> OtherModel:
    """Returns the model of a ``spec`` with all of its weights, as another process has loaded it.

    Raises:
        ModelError: the network cannot be built.
    """
    network, _ = _network(resolved(spec), plan.num_classes)
    network.load_state_dict(weights)
    return OtherModel(network, plan, spec)


def _network(spec: ModelSpec, classes: int, pretrained: bool = False) -> tuple[nn.Module, tuple[int, int]]:
    """Returns the network, and height and width of its image; most networks take images of any size."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            network = create_network(spec, classes, pretrained)
        except ModelError:
            if spec.img_size is None:
                raise
            network = create_network(_sized(spec), classes, pretrained)
    own: Any = network
    usual = tuple(int(side) for side in own.pretrained_cfg["input_size"][1:])
    if spec.hub is not None and spec.hub.img_size != (0, 0):
        usual = spec.hub.img_size
    asked = spec.img_size
    size = usual if asked is None else (asked, asked) if isinstance(asked, int) else asked
    return network, (size[0], size[1])


def _sized(spec: ModelSpec) -> ModelSpec:
    """Returns the spec without a size of image, which networks that take any size have no option for."""
    return replace(spec, img_size=None)


def _weights(spec: ModelSpec) -> Mapping[str, torch.Tensor]:
    """Returns the checkpoint's weights by timm's names, without its wrappers.

    Raises:
        ModelError: it cannot be read, or a weight is NaN or infinite.
    """
    assert spec.checkpoint is not None
    with torch.device("meta"):
        network, _ = _network(spec, 2)
    if spec.hub is not None:
        weights = spec.hub.checkpoint(network)[0].weights
    else:
        weights = open_checkpoint(spec.checkpoint, tuple(network.state_dict())).weights
    check_finite_weights(f"The checkpoint {spec.checkpoint}", weights)
    convert = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    wanted = network.state_dict()
    if convert is not None and not wanted.keys() <= weights.keys():
        with suppress(Exception):  # weights of another layout; the comparison of names says which
            weights = dict(convert(dict(weights), network))
    return weights_needed(weights, wanted)


def _classes(spec: ModelSpec, weights: Mapping[str, torch.Tensor]) -> int:
    """Returns the number of outputs of the checkpoint's classifier.

    Raises:
        ModelError: it has none.
    """
    with torch.device("meta"):
        network, _ = _network(spec, 2)
    names = classifier_names(network)
    for name in names:
        if f"{name}.weight" in weights:
            return int(weights[f"{name}.weight"].shape[0])
    raise ModelError(
        f"The checkpoint {spec.checkpoint} has no classifier of '{spec.name}'",
        expected=" or ".join(f"{name}.weight" for name in names) or "a classifier",
        got=short_list(sorted(weights)),
        fix="Check --model, or give the checkpoint of the fine-tuned model",
    )


def classifier_names(network: Any) -> list[str]:
    """Returns the names of the layers that timm calls the classifier."""
    try:
        found = network.get_classifier()
    except Exception:  # a network without one
        return []
    layers = found if isinstance(found, tuple | list) else (found,)
    return [name for name, part in network.named_modules() if any(part is layer for layer in layers)]


def _load(network: nn.Module, weights: Mapping[str, torch.Tensor], spec: ModelSpec) -> None:
    """Loads weights of which none lacks and none is left over, but for counters and tables that are no weights.

    Raises:
        ModelError: names or shapes differ.
    """
    wanted = network.state_dict()
    learnt = {name for name, _ in network.named_parameters()}
    needed = {name for name in wanted if name in learnt or name.endswith(("running_mean", "running_var"))}
    lacking, left = sorted(needed - weights.keys()), sorted(weights.keys() - wanted.keys())
    other = [name for name in wanted if name in weights and weights[name].shape != wanted[name].shape]
    where = f"The checkpoint {spec.checkpoint} does not fit '{spec.name}'"
    if lacking or left:
        raise ModelError(
            where,
            expected=short_list(lacking) if lacking else f"no {short_list(left)}",
            got=short_list(left) or "weights that end before them",
            fix="Check --model and --model-arg",
        )
    if other:
        raise ModelError(
            f"{where}: {other[0]} has another shape",
            expected=tuple(wanted[other[0]].shape),
            got=tuple(weights[other[0]].shape),
            fix="Check --model, --img-size, --in-chans and --model-arg",
        )
    network.load_state_dict(wanted | dict(weights))


def _counted(network: nn.Module, spec: ModelSpec, size: tuple[int, int], classes: int) -> CountedModel:
    """Runs the network on a blank image and counts what it computes.

    Raises:
        ModelError: it does not run on images of this size, or does not answer with classes.
    """
    counter = FlopCounterMode(display=False)
    try:
        with torch.no_grad(), counter:
            answer = network(torch.zeros(1, spec.in_chans, *size))
    except Exception as error:  # timm lets through whatever a size breaks
        raise ModelError(
            f"'{spec.name}' does not run on images of {size[0]}x{size[1]}",
            got=str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__,
            fix="Give another --img-size, or leave it out",
        ) from error
    if not isinstance(answer, torch.Tensor) or answer.shape != (1, classes):
        raise ModelError(
            f"'{spec.name}' does not answer with a logit for each class",
            expected=f"logits of {classes} classes",
            got=f"a tensor {tuple(answer.shape)}" if isinstance(answer, torch.Tensor) else type(answer).__name__,
            fix="Choose an architecture with a classifier",
        )
    params = sum(value.numel() for value in network.parameters())
    name = spec.hub.kind if spec.hub is not None else spec.name
    return CountedModel(name, size, spec.in_chans, classes, counter.get_total_flops() // 2, params)
