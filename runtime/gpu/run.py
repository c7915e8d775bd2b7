"""Runs ``.tflite`` files on the CPU and on LiteRT's GPU path, both in a worker process, with one graphics driver."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.errors import MeasurementError, UnsupportedTargetError
from runtime.progress import Progress, silent
from runtime.storage.codec import decode
from runtime.worker.parent import Worker, WorkerError, python_module

from .adapter import Adapter
from .drivers import NO_DRIVER_FIX, GpuDriver, gpu_drivers

TIMEOUT_S = 300.0
"""The default time without a finished image after which a run is ended, s: software computes a GPU's parallel work one
piece after another."""

BUDGET_S = 900.0
"""The default time for all images of a file, s."""

_COMMAND = python_module("runtime.gpu.child")


@dataclass(frozen=True)
class GpuAnswers:
    """The outputs of a file on the CPU and on the GPU path.

    Attributes:
        cpu: outputs on the CPU in real units, ``(N, …)`` float32.
        gpu: those on the GPU path.
        whole: whether the GPU computed all operators.
    """

    cpu: npt.NDArray[np.float32]
    gpu: npt.NDArray[np.float32]
    whole: bool


class GpuCrashError(MeasurementError):
    """LiteRT's GPU path ended its process; in an app it would end the app."""


class GpuWorker(AbstractContextManager["GpuWorker"]):
    """A process that runs files on LiteRT's GPU path; it starts with the first call.

    Args:
        driver: the graphics driver it uses.
        timeout_s: a run without a finished image for so long is ended, s.
    """

    def __init__(self, driver: GpuDriver, timeout_s: float = TIMEOUT_S) -> None:
        self.driver, self._timeout_s = driver, timeout_s
        self._worker = Worker(_COMMAND, silence_s=timeout_s, env=driver.variables)

    def __exit__(self, *raised: object) -> None:
        """Ends the process."""
        self._worker.close()

    def look(self) -> Adapter:
        """Returns the adapter that LiteRT chooses with this driver.

        Raises:
            MissingExtraError: ai-edge-litert is not installed.
            UnsupportedTargetError: LiteRT finds none that it can use.
            MeasurementError: it crashes or hangs.
        """
        return decode(Adapter, self._run("look", {}, silent, f"LiteRT cannot use {self.driver.title}"), "the adapter")

    def answers(
        self, path: Path, images: npt.NDArray[np.float32], progress: Progress = silent, budget_s: float = BUDGET_S
    ) -> GpuAnswers:
        """Runs a file on the CPU and on the GPU.

        Args:
            path: a ``.tflite`` file of one image at a time.
            images: preprocessed, ``(N, H, W, C)``, N at least 1; quantised here where the file takes integers.
            progress: called after every image.
            budget_s: time after which no further image begins, s, once there are two.

        Returns:
            The outputs for the first images; for all of them where the time suffices.

        Raises:
            MissingExtraError: ai-edge-litert is not installed.
            ArtifactError: the file cannot be loaded.
            DataError: the images do not fit the file.
            UnsupportedTargetError: LiteRT cannot compile the file for the GPU.
            GpuCrashError: it crashes.
            MeasurementError: it takes too long.
        """
        with tempfile.TemporaryDirectory() as scratch:
            cpu, gpu = Path(scratch) / "cpu.npy", Path(scratch) / "gpu.npy"
            request = {**_request(path, images, Path(scratch)), "cpu": str(cpu), "gpu": str(gpu), "seconds": budget_s}
            found = self._run("answers", request, progress, f"LiteRT cannot run {path.name} on the GPU path")
            return GpuAnswers(np.load(cpu), np.load(gpu), bool(found["whole"]))

    def cpu_answers(self, path: Path, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Returns the outputs of a file on the CPU alone, ``(N, …)`` float32 in real units.

        Args:
            path: as in ``answers``.
            images: as in ``answers``.

        Raises:
            PocketVitError: as in ``answers``.
        """
        with tempfile.TemporaryDirectory() as scratch:
            cpu = Path(scratch) / "cpu.npy"
            request = {**_request(path, images, Path(scratch)), "cpu": str(cpu)}
            self._run("cpu_answers", request, silent, f"LiteRT cannot run {path.name}")
            outputs: npt.NDArray[np.float32] = np.load(cpu)
            return outputs

    def _run(self, job: str, request: dict[str, Any], progress: Progress, what: str) -> Any:
        try:
            return self._worker.run(job, request, progress).checked()
        except WorkerError as failure:
            if failure.hung:
                raise MeasurementError(what, expected=f"a sign of life within {self._timeout_s:g} s") from None
            raise GpuCrashError(
                what, got=f"{failure.how}: {failure.last_line[:300].rstrip('.') or 'no message'}"
            ) from None


def _request(path: Path, images: npt.NDArray[np.float32], folder: Path) -> dict[str, Any]:
    """Writes the images to ``folder`` and returns the arguments of a job that runs a file on them."""
    inside = folder / "images.npy"
    np.save(inside, images)
    return {"model": str(path.resolve()), "images": str(inside), "name": path.name}


def find_gpu(drivers: Sequence[GpuDriver] | None = None) -> tuple[GpuDriver, Adapter] | None:
    """Returns the first driver that LiteRT can use, with the adapter it chooses; None where there is none.

    It takes about a second for each driver that is tried.

    Args:
        drivers: those to try; by default those of this machine.

    Raises:
        MissingExtraError: ai-edge-litert is not installed.
        UnsupportedTargetError: the environment variable ``POCKETVIT_GPU`` has an unknown value.
    """
    for driver in gpu_drivers() if drivers is None else drivers:
        with GpuWorker(driver, timeout_s=60.0) as worker:
            try:
                return driver, worker.look()
            except (UnsupportedTargetError, MeasurementError):
                continue
    return None


def no_gpu(got: str | None = None) -> UnsupportedTargetError:
    """Returns the error that says that there is no driver, and what to install.

    Args:
        got: why none could be fetched.
    """
    return UnsupportedTargetError(
        "There is no graphics driver here that LiteRT can use",
        expected="a GPU with a Vulkan or Metal driver, or SwiftShader, which computes on the CPU",
        got=got,
        fix=NO_DRIVER_FIX,
    )
