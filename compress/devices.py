"""The device that networks compute on: the CPU, or a GPU of this machine. Saved models are always on the CPU."""

from __future__ import annotations

import copy
import re
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import torch
from torch import nn

from runtime import PlanError, UnsupportedTargetError

CPU = torch.device("cpu")

Network = TypeVar("Network", bound=nn.Module)

_in_use = [CPU]


def choose_device(name: str, gpus: int, rank: int = 0, ranks: int = 1) -> torch.device:
    """Returns the device that a name means on a machine with ``gpus`` GPUs.

    Args:
        name: ``auto`` (a GPU where there is one), ``cpu``, ``cuda`` or ``cuda:N``.
        gpus: number of GPUs that torch sees.
        rank: rank of this process among those on this machine; each process takes another GPU.
        ranks: number of processes on this machine.

    Raises:
        PlanError: the name is no device.
        UnsupportedTargetError: there is no such GPU, or there are fewer GPUs than processes.
    """
    match = re.fullmatch(r"(auto|cpu|cuda)(?::(\d{1,4}))?", name, re.ASCII)
    if match is None or (match[2] and match[1] != "cuda"):
        raise PlanError("The device cannot be read", expected="auto, cpu, cuda or cuda:N", got=repr(name))
    kind, number = match[1], match[2]
    if kind == "cpu" or (kind == "auto" and not gpus):
        return CPU
    if number and ranks > 1:
        raise UnsupportedTargetError(
            f"Each of the {ranks} processes takes another GPU", expected="--device cuda", got=f"--device {name}"
        )
    index = int(number) if number else rank
    if not gpus:
        raise UnsupportedTargetError(
            "torch sees no GPU on this machine",
            got=f"--device {name}",
            fix="Install the GPU's driver and a build of torch for it, or leave out --device",
        )
    if max(index, ranks - 1) >= gpus:
        raise UnsupportedTargetError(
            f"There are not enough GPUs for --device {name}",
            expected=f"GPU {index} of {gpus}, counted from 0" if number else f"{ranks} GPUs, one for each process",
            got=f"{gpus} GPU{'s' if gpus > 1 else ''}",
            fix="Choose another one" if number else "Start fewer processes, or give --device cpu",
        )
    return torch.device("cuda", index)


def count_gpus() -> int:
    """Returns the number of GPUs that torch can compute on."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def use_device(device: torch.device) -> None:
    """Makes ``device`` the default for training and evaluation in this process."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
    _in_use[0] = device


def device_in_use() -> torch.device:
    """Returns the device that ``use_device`` set; the CPU before its first call."""
    return _in_use[0]


def device_of(network: nn.Module) -> torch.device:
    """Returns the device of a network's weights; the CPU for a network without weights."""
    return next((value.device for value in network.parameters()), CPU)


def copy_on(network: Network, device: torch.device) -> Network:
    """Returns the network if it is on ``device``, else a copy on ``device``."""
    return network if device_of(network) == device else copy.deepcopy(network).to(device)


def autocast(device: torch.device, bf16: bool) -> AbstractContextManager[object]:
    """Returns a context in which networks on ``device`` compute in bfloat16 if ``bf16`` is set."""
    return torch.autocast(device.type, torch.bfloat16, enabled=bf16)


def made_on(device: torch.device) -> AbstractContextManager[object]:
    """Returns a context in which new tensors are made on ``device``."""
    return nullcontext() if device == CPU else device


def own_randomness(device: torch.device) -> AbstractContextManager[object]:
    """Returns a context that restores torch's random generators at its end."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
