"""Energy of an NVIDIA GPU from its driver, by NVML (package ``nvidia-ml-py``)."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from runtime import MissingExtraError

from .source import CounterSource, EnergyKind, EnergySource, Importer, NoSource, PolledPower, SourceError, Watch

_UPDATE_S = 0.1  # GPUs renew both figures every 20 to 100 ms


def find_nvml(
    index: int = 0,
    *,
    importer: Importer = import_module,
    environment: Mapping[str, str] = os.environ,
    watch: Watch | None = None,
) -> EnergySource | NoSource:
    """Returns the energy counter of a GPU, else its polled power, else the reason why there is neither.

    Args:
        index: number of the GPU as CUDA counts, 0 or more.
        importer: imports ``pynvml``.
        environment: environment variables, with CUDA's own.
        watch: see ``PolledPower``.
    """
    try:
        nvml = importer("pynvml")
    except ImportError:
        return NoSource(str(MissingExtraError("nvidia-ml-py", "energy")))
    try:
        nvml.nvmlInit()
        handle = _handle(nvml, index, environment)
        name = _text(nvml.nvmlDeviceGetName(handle))
    except nvml.NVMLError as error:
        return NoSource(f"NVML finds no NVIDIA GPU {index}: {error}.")
    except SourceError as error:
        return NoSource(str(error))
    return _source(nvml, handle, name, watch)


def _source(nvml: Any, handle: Any, name: str, watch: Watch | None) -> EnergySource | NoSource:
    total_j = _reader(nvml, nvml.nvmlDeviceGetTotalEnergyConsumption, handle, f"The energy of {name}")
    try:
        total_j()
    except SourceError:
        power_w = _reader(nvml, nvml.nvmlDeviceGetPowerUsage, handle, f"The power of {name}")
        try:
            power_w()
        except SourceError as error:
            return NoSource(f"{name} tells neither its energy (Volta and newer do) nor its power. {error}")
        return PolledPower(
            f"NVML power of {name}, read every {_UPDATE_S:g} s", power_w, interval_s=_UPDATE_S, watch=watch
        )
    return CounterSource(f"NVML energy of {name}", total_j, tier="measured", resolution_s=_UPDATE_S)


def _reader(nvml: Any, function: Callable[[Any], int], handle: Any, what: str) -> Callable[[], float]:
    """Returns a function for joules or watts; NVML counts in thousandths of both."""

    def read() -> float:
        try:
            return function(handle) * 1e-3
        except nvml.NVMLError as error:
            raise SourceError(f"{what} cannot be read", got=error) from error

    return read


def _handle(nvml: Any, index: int, environment: Mapping[str, str]) -> Any:
    """Returns NVML's handle of CUDA's GPU ``index``; CUDA and NVML may number several GPUs differently."""
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    chosen = str(index)
    if visible is not None:
        names = [name.strip() for name in visible.split(",") if name.strip()]
        if index >= len(names):
            raise SourceError(f"CUDA_VISIBLE_DEVICES hides GPU {index}", got=repr(visible))
        chosen = names[index]
    if chosen.startswith("GPU-"):
        return nvml.nvmlDeviceGetHandleByUUID(chosen)
    count = nvml.nvmlDeviceGetCount()
    if not chosen.isdecimal() or int(chosen) >= count:
        raise SourceError(f"There is no NVIDIA GPU {chosen}", expected=f"one of {count}")
    if count > 1 and environment.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
        raise SourceError(
            f"Which of {count} GPUs CUDA calls {chosen} is not known", fix="Set CUDA_DEVICE_ORDER=PCI_BUS_ID"
        )
    return nvml.nvmlDeviceGetHandleByIndex(int(chosen))


def _text(name: str | bytes) -> str:
    return name.decode(errors="replace") if isinstance(name, bytes) else name


NVML = EnergyKind(
    "cuda", "measured", lambda own: find_nvml(own.gpu, importer=own.importer, environment=own.environment)
)
