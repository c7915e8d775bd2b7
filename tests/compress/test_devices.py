"""Which device a name means."""

from __future__ import annotations

import pytest
import torch

from compress.devices import choose_device, device_in_use, use_device
from runtime import PlanError, UnsupportedTargetError


@pytest.mark.parametrize(
    ("name", "gpus", "device"),
    [("auto", 0, "cpu"), ("auto", 2, "cuda:0"), ("cpu", 2, "cpu"), ("cuda", 1, "cuda:0"), ("cuda:1", 2, "cuda:1")],
)
def test_a_name_means_a_device(name: str, gpus: int, device: str) -> None:
    assert choose_device(name, gpus) == torch.device(device)


def test_each_process_of_a_machine_takes_a_gpu_of_its_own() -> None:
    assert [choose_device("auto", 3, rank, 3).index for rank in range(3)] == [0, 1, 2]
    assert {choose_device("auto", 0, rank, 3) for rank in range(3)} == {torch.device("cpu")}


@pytest.mark.parametrize(
    ("name", "gpus", "ranks", "error", "text"),
    [
        ("gpu", 1, 1, PlanError, "The device cannot be read. Expected auto, cpu, cuda or cuda:N. Got 'gpu'."),
        ("cuda:x", 1, 1, PlanError, "Got 'cuda:x'."),
        ("cpu:0", 1, 1, PlanError, "Got 'cpu:0'."),
        ("cuda", 0, 1, UnsupportedTargetError, "torch sees no GPU on this machine. Got --device cuda. Install"),
        (
            "cuda:2",
            2,
            1,
            UnsupportedTargetError,
            "Expected GPU 2 of 2, counted from 0. Got 2 GPUs. Choose",
        ),
        (
            "cuda:0",
            2,
            2,
            UnsupportedTargetError,
            "2 processes takes another GPU. Expected --device cuda.",
        ),
        ("auto", 1, 2, UnsupportedTargetError, "Expected 2 GPUs, one for each process. Got 1 GPU. Start fewer"),
    ],
)
def test_devices_that_are_not_there_are_refused(
    name: str, gpus: int, ranks: int, error: type[Exception], text: str
) -> None:
    with pytest.raises(error) as caught:
        choose_device(name, gpus, 0, ranks)
    assert text in str(caught.value)


def test_the_cpu_is_in_use_where_nothing_was_chosen() -> None:
    assert device_in_use() == torch.device("cpu")
    use_device(choose_device("auto", 0))
    assert device_in_use() == torch.device("cpu")
