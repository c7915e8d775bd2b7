"""torch, which runs ``.pt2`` files on a CPU or an NVIDIA GPU. It is imported only when such a file is opened."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.errors import ArtifactError, MissingExtraError, UnsupportedTargetError
from runtime.quiet import quiet

from .base import EngineDevice, EngineKind, EngineName, Resident, check_fit, check_one
from .torch_archive import pack_torch_archive, read_torch_archive


class TorchEngine:
    """An exported graph that torch runs operator by operator, without gradients.

    torch has one number of threads for the whole process. An engine sets its own number before a run and leaves it set.
    On a GPU, products of matrices are in full float32, and cuDNN may use TF32 in the convolution that cuts the image
    into patches.

    Args:
        path: the ``.pt2`` file; it is checked by ``read_torch_archive`` before torch sees any of it.
        threads: of the CPU's operators, for the whole process.
        device: ``cpu`` or ``cuda``.

    Raises:
        MissingExtraError: torch is not installed.
        UnsupportedTargetError: torch reaches no GPU, or there is no such device for it.
        ArtifactError: the file is damaged, holds anything we would not write, or is not one image in and one tensor
            out.
    """

    name: EngineName = "torch"

    def __init__(self, path: Path, threads: int, device: EngineDevice = "cpu") -> None:
        try:
            with quiet():
                import torch
        except ImportError:
            raise MissingExtraError("torch", "compress") from None
        self.version, self.threads = str(torch.__version__), threads
        self.device: EngineDevice = device
        if device == "cuda":
            _check_cuda(torch)
        archive = read_torch_archive(path)
        check_one(path, len(archive.inputs), len(archive.outputs))
        try:
            with quiet():
                program = torch.export.load(io.BytesIO(pack_torch_archive(archive.records)))
                # the guards would be compiled from texts in the file, and run with every inference
                module = program.module(check_guards=False).to(device)
        except Exception as error:  # a damaged graph fails in every way there is
            text = f"{type(error).__name__}: {str(error)[:300]}"
            raise ArtifactError(f"torch cannot load {path}", got=text) from error
        self._torch, self._module = torch, module
        self.input_name, self.input_shape = archive.inputs[0].name, archive.inputs[0].shape
        self.output_name, self.output_shape = archive.outputs[0].name, archive.outputs[0].shape
        self.input_dtype = self.output_dtype = np.dtype(np.float32)
        self.input_qparams: tuple[float, int] | None = None
        self.output_qparams: tuple[float, int] | None = None

    def run(self, batch: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Runs one batch of any size; on a GPU, copies it there and the answer back.

        Raises:
            DataError: the input is of another type or shape.
        """
        torch = self._torch
        self._own_threads()
        try:
            with torch.inference_mode():
                output: npt.NDArray[Any] = self._module(torch.from_numpy(batch).to(self.device)).cpu().numpy()
        except Exception as error:  # torch raises errors of many kinds
            check_fit(self, batch, error)
            raise
        return output

    def resident(self, batch: npt.NDArray[Any]) -> Resident:
        """Copies the input to the device; on a GPU, runs are only queued until they are waited for.

        Raises:
            DataError: the input is of another type or shape.
        """
        check_fit(self, batch)
        torch, gpu, held = self._torch, self.device == "cuda", {}  # type: Any, bool, dict[str, Any]
        there = torch.from_numpy(batch).to(self.device)

        def run() -> None:
            self._own_threads()
            with torch.inference_mode():
                held["output"] = self._module(there)

        def wait() -> None:
            if gpu:
                torch.cuda.synchronize()

        def output() -> npt.NDArray[Any]:
            copied: npt.NDArray[Any] = held["output"].cpu().numpy()
            return copied

        return Resident(run, wait, output, (lambda: torch.cuda.Event(enable_timing=True)) if gpu else None)

    def _own_threads(self) -> None:
        if self._torch.get_num_threads() != self.threads:
            self._torch.set_num_threads(self.threads)


def _check_cuda(torch: Any) -> None:
    with quiet():
        reached = bool(torch.cuda.is_available())
    if not reached:
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        raise UnsupportedTargetError(
            "torch reaches no GPU",
            expected="an NVIDIA GPU with its driver, and a torch built for CUDA",
            got=f"torch {torch.__version__}, {built}",
            fix="Install the NVIDIA driver until `nvidia-smi` lists a GPU, and a CUDA build of torch",
        )


TORCH = EngineKind(
    "torch",
    "torch",
    TorchEngine,
    ("torch",),
    "torch",
    package="torch",
    extra="compress",
    devices=("cpu", "cuda"),
    resident=True,
)
