"""The graphics driver that ``pocketvit verify --with gpu`` runs a file with."""

from __future__ import annotations

from runtime import MeasurementError, Progress, StorageError, silent
from runtime.gpu.adapter import Adapter
from runtime.gpu.drivers import GpuDriver, gpu_allowed
from runtime.gpu.run import find_gpu, no_gpu


def graphics_driver(progress: Progress = silent) -> tuple[GpuDriver, Adapter]:
    """Returns a graphics driver that LiteRT can use: a GPU's, an installed software driver, or one that is fetched.

    Args:
        progress: reports the steps of fetching.

    Raises:
        UnsupportedTargetError: there is none, and none can be fetched; the message says what to install.
        MissingExtraError: ai-edge-litert is not installed.
    """
    from device_bench.targets.software_gpu.driver import software_vulkan

    found = find_gpu()
    if found is None and gpu_allowed():
        try:
            found = find_gpu([software_vulkan(progress=progress).driver])
        except (MeasurementError, StorageError) as error:
            raise no_gpu(f"{error}") from None
    if found is None:
        raise no_gpu()
    return found
