"""ONNX Runtime, which runs ``.onnx`` files on the CPU or on a GPU."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.errors import ArtifactError, MissingExtraError, UnsupportedTargetError

from .base import DTYPES, EngineDevice, EngineKind, EngineName, Resident, check_fit, check_one

_DTYPES = {f"tensor({name})": dtype for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Provider:
    """An execution provider of ONNX Runtime.

    Attributes:
        name: of the provider in ONNX Runtime.
        memory: name in ONNX Runtime of the device that holds its tensors.
        options: of the provider.
    """

    name: str
    memory: str
    options: dict[str, str] = field(default_factory=dict)


PROVIDERS: dict[EngineDevice, Provider] = {
    "cpu": Provider("CPUExecutionProvider", "cpu"),
    # otherwise CUDA would round the inputs of float32 products to the 10 bits of TF32
    "cuda": Provider("CUDAExecutionProvider", "cuda", {"use_tf32": "0"}),
    "tensorrt": Provider("TensorrtExecutionProvider", "cuda"),
}
GPU_FIX = (
    "Install the NVIDIA driver until `nvidia-smi` lists a GPU, then the package onnxruntime-gpu in place of "
    "onnxruntime, with the CUDA (and for TensorRT, the TensorRT) libraries it asks for"
)


class OnnxRuntimeEngine:
    """ONNX Runtime with one provider, without a silent fallback from the GPU to the CPU.

    Args:
        path: the ``.onnx`` file.
        threads: of its CPU kernels.
        device: the device to compute on.
        provider: the provider to compute with; by default that of ``device``.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        UnsupportedTargetError: this ONNX Runtime has no such provider, the provider finds no GPU, or it would leave
            operators of the file to the CPU.
        ArtifactError: the file is not a model it can load, or not one image in and one tensor out.
    """

    name: EngineName = "onnxruntime"

    def __init__(
        self, path: Path, threads: int, device: EngineDevice = "cpu", provider: Provider | None = None
    ) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise MissingExtraError("onnxruntime", "onnx") from None
        self.version: str = onnxruntime.__version__
        self.device: EngineDevice = device
        self._provider = provider or PROVIDERS[device]
        if device != "cpu":
            self._check_available(onnxruntime.get_available_providers())
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        wanted: list[Any] = ["CPUExecutionProvider"]
        if device != "cpu":
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
            wanted = [(self._provider.name, self._provider.options)]
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=wanted, enable_fallback=0)
        except Exception as error:  # its exceptions share no public base but Exception
            if device == "cpu":
                raise ArtifactError(f"ONNX Runtime cannot load {path}", got=error) from error
            OnnxRuntimeEngine(path, threads)  # a damaged file is damaged everywhere
            raise UnsupportedTargetError(
                f"{path.name} does not run on {self._provider.name} alone",
                expected="a GPU, its libraries, and a kernel for every operator",
                got=str(error)[:300],
                fix=GPU_FIX,
            ) from error
        self._check_used(path, session.get_providers())
        inputs, outputs = session.get_inputs(), session.get_outputs()
        check_one(path, len(inputs), len(outputs))
        self._session = session
        self.input_name, self.output_name = inputs[0].name, outputs[0].name
        self.input_shape, self.output_shape = _free_dims(inputs[0].shape), _free_dims(outputs[0].shape)
        self.input_dtype, self.output_dtype = _dtype(path, inputs[0].type), _dtype(path, outputs[0].type)
        self.input_qparams: tuple[float, int] | None = None
        self.output_qparams: tuple[float, int] | None = None

    def run(self, batch: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Runs one batch of any size; on a GPU, copies it there and the answer back.

        Raises:
            DataError: the input is of another type or shape.
        """
        try:
            output: npt.NDArray[Any] = self._session.run([self.output_name], {self.input_name: batch})[0]
        except Exception as error:  # its exceptions share no public base but Exception
            check_fit(self, batch, error)
            raise
        return output

    def resident(self, batch: npt.NDArray[Any]) -> Resident:
        """Binds the input and the output to the device's memory.

        Raises:
            DataError: the input is of another type or shape.
        """
        from onnxruntime import OrtValue

        check_fit(self, batch)
        binding = self._session.io_binding()
        value = OrtValue.ortvalue_from_numpy(batch, self._provider.memory, 0)
        binding.bind_ortvalue_input(self.input_name, value)
        binding.bind_output(self.output_name, self._provider.memory)

        def output() -> npt.NDArray[Any]:
            copied: npt.NDArray[Any] = binding.copy_outputs_to_cpu()[0]
            return copied

        return Resident(
            lambda: self._session.run_with_iobinding(binding), lambda: binding.synchronize_outputs(), output
        )

    def _check_available(self, available: list[str]) -> None:
        if self._provider.name not in available:
            raise UnsupportedTargetError(
                f"This ONNX Runtime cannot compute with {self.device}",
                expected=f"{self._provider.name} among its providers",
                got=", ".join(available),
                fix=GPU_FIX,
            )

    def _check_used(self, path: Path, used: list[str]) -> None:
        if used[:1] != [self._provider.name]:
            raise UnsupportedTargetError(
                f"ONNX Runtime fell back from {self._provider.name} on {path.name}",
                expected=f"{self._provider.name} first among the session's providers",
                got=", ".join(used) or "none",
                fix=GPU_FIX,
            )


def _free_dims(shape: list[Any]) -> tuple[int, ...]:
    return tuple(size if isinstance(size, int) else -1 for size in shape)


def _dtype(path: Path, name: str) -> np.dtype[Any]:
    if name not in _DTYPES:
        raise ArtifactError(f"{path} has a tensor of an unsupported type", expected=", ".join(_DTYPES), got=name)
    return _DTYPES[name]


ONNXRUNTIME = EngineKind(
    "onnxruntime",
    "ONNX Runtime",
    OnnxRuntimeEngine,
    ("onnx",),
    "onnxruntime",
    package="onnxruntime",
    extra="onnx",
    portable=True,
    devices=tuple(PROVIDERS),
    resident=True,
    same=("onnxruntime-gpu",),
    describe=lambda module: f"with {', '.join(module.get_available_providers())}",
)
