"""What ``pocketvit verify --with gpu`` runs a file with: a graphics driver, and test images of the file's run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from device_bench.metrics.accuracy import read_test_images
from runtime import (
    DataError,
    MeasurementError,
    PocketVitError,
    Progress,
    StorageError,
    preprocess,
    read_artifact,
    silent,
)
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


def run_images(path: Path, count: int) -> npt.NDArray[np.float32] | None:
    """Returns the first test images of the run that a file belongs to, as the file reads them; None where it has none.

    Args:
        path: the file; that of a run is ``RUN/artifacts/FILE`` and its images are ``RUN/bench/test-images.npz``.
        count: number of images at most.

    Returns:
        Preprocessed images ``(N, H, W, C)`` float32.

    Raises:
        ArtifactError: the manifest is missing or damaged.
    """
    artifact = read_artifact(path, verify=False)
    stored = path.resolve().parent.parent / "bench" / "test-images.npz"
    if not stored.is_file():
        return None
    try:
        pictures = read_test_images(stored).pictures[:count]
        return np.stack([preprocess(picture, artifact.preprocessing) for picture in pictures])
    except PocketVitError as error:
        raise DataError(f"The test images of the run cannot be used: {error}", fix="Remove them") from error
