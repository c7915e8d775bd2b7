"""The software driver that tests run LiteRT's GPU path with: an installed one, or one that is fetched once."""

from __future__ import annotations

import os
from functools import cache

from device_bench.targets.software_gpu.driver import software_vulkan
from runtime.gpu.adapter import Adapter
from runtime.gpu.drivers import CHOICE, GpuDriver, gpu_drivers
from runtime.gpu.run import find_gpu, no_gpu


@cache
def software_gpu_driver() -> tuple[GpuDriver, Adapter]:
    """Returns the driver and the adapter that LiteRT chooses with it.

    Raises:
        PocketVitError: there is none, and none can be fetched.
    """
    known = gpu_drivers(environ={**os.environ, CHOICE: "software"})
    found = find_gpu(known) or find_gpu([software_vulkan().driver])
    if found is None:
        raise no_gpu()
    return found
