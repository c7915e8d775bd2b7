from collections.abc import Callable
from types import SimpleNamespace

import pytest

from device_bench.energy.nvml import find_nvml
from device_bench.energy.source import CounterSource, NoSource, PolledPower, SourceError

PCI = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


class NVMLError(Exception):
    pass


class FakeNvml:
    """Stands for the module: each GPU is a name, mJ and mW; None is not supported."""

    NVMLError = NVMLError

    def __init__(self, *gpus: SimpleNamespace, driver: bool = True) -> None:
        self.gpus, self.driver = gpus, driver

    def nvmlInit(self) -> None:  # noqa: N802
        if not self.driver:
            raise NVMLError("NVML Shared Library Not Found")

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> SimpleNamespace:  # noqa: N802
        return self.gpus[index]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> SimpleNamespace:  # noqa: N802
        for gpu in self.gpus:
            if gpu.uuid == uuid:
                return gpu
        raise NVMLError("Not Found")

    def nvmlDeviceGetName(self, gpu: SimpleNamespace) -> str | bytes:  # noqa: N802
        return gpu.name

    def nvmlDeviceGetTotalEnergyConsumption(self, gpu: SimpleNamespace) -> int:  # noqa: N802
        return _supported(gpu.mj)

    def nvmlDeviceGetPowerUsage(self, gpu: SimpleNamespace) -> int:  # noqa: N802
        return _supported(gpu.mw)


def _supported(value: int | None) -> int:
    if value is None:
        raise NVMLError("Not Supported")
    return value


def gpu(name="Example GPU", mj: int | None = 1000, mw: int | None = 50_000, uuid="GPU-a") -> SimpleNamespace:
    return SimpleNamespace(name=name, mj=mj, mw=mw, uuid=uuid)


def find(*gpus, index=0, environment=None, watch=None, driver=True):
    nvml = FakeNvml(*gpus, driver=driver)
    return find_nvml(index, importer=lambda name: nvml, environment=environment or {}, watch=watch)


def test_millijoules_of_the_counter_become_joules():
    card = gpu()
    source = find(card)
    assert isinstance(source, CounterSource)
    assert (source.name, source.tier) == ("NVML energy of Example GPU", "measured")
    source.start()
    card.mj += 2500
    assert source.read_j() == pytest.approx(2.5)


def test_a_counter_that_falls_is_an_error_of_the_source():
    card = gpu()
    source = find(card)
    source.start()
    card.mj = 10
    with pytest.raises(SourceError, match="counter fell"):
        source.read_j()


def test_a_counter_that_fails_later_is_an_error_of_the_source():
    card = gpu()
    source = find(card)
    source.start()
    card.mj = None
    with pytest.raises(SourceError, match="Example GPU cannot be read"):
        source.read_j()


def test_a_gpu_without_counter_has_its_power_polled():
    polled: list[tuple[Callable[[], None], float]] = []

    def watch(do, seconds):
        polled.append((do, seconds))
        return polled.clear

    source = find(gpu(name=b"Old GPU", mj=None), watch=watch)
    assert isinstance(source, PolledPower)
    assert "power of Old GPU" in source.name
    source.start()
    assert polled[0][1] == source.resolution_s
    source.stop()
    assert not polled


def test_a_gpu_that_tells_nothing_is_a_reason():
    found = find(gpu(mj=None, mw=None))
    assert isinstance(found, NoSource)
    assert "neither its energy" in found.reason
    assert "Not Supported" in found.reason


def test_without_a_driver_there_is_a_reason():
    found = find(driver=False)
    assert isinstance(found, NoSource)
    assert "Library Not Found" in found.reason


@pytest.mark.parametrize(("index", "gpus"), [(0, []), (1, [gpu()])])
def test_without_the_gpu_there_is_a_reason(index, gpus):
    found = find(*gpus, index=index)
    assert isinstance(found, NoSource)
    assert f"no NVIDIA GPU {index}" in found.reason


def test_without_the_package_the_reason_names_the_extra():
    def importer(name: str):
        raise ModuleNotFoundError(name=name)

    found = find_nvml(importer=importer)
    assert isinstance(found, NoSource)
    assert "pip install 'pocketvit[energy]'" in found.reason


def test_of_several_gpus_in_an_unknown_order_none_is_guessed():
    found = find(gpu(), gpu())
    assert isinstance(found, NoSource)
    assert "CUDA_DEVICE_ORDER=PCI_BUS_ID" in found.reason


@pytest.mark.parametrize(
    ("index", "environment", "name"),
    [
        (1, PCI, "B"),
        (0, {**PCI, "CUDA_VISIBLE_DEVICES": "1"}, "B"),
        (1, {**PCI, "CUDA_VISIBLE_DEVICES": "1, 0"}, "A"),
        (0, {"CUDA_VISIBLE_DEVICES": "GPU-b"}, "B"),
    ],
)
def test_cuda_and_nvml_mean_the_same_gpu(index, environment, name):
    cards = gpu("A", uuid="GPU-a"), gpu("B", uuid="GPU-b")
    source = find(*cards, index=index, environment=environment)
    assert source.name == f"NVML energy of {name}"


@pytest.mark.parametrize("visible", ["", "0", "0,", "0,7", "0,GPU-none", "0,MIG-1"])
def test_a_gpu_that_cuda_does_not_see_is_a_reason(visible):
    cards = gpu(), gpu()
    found = find(*cards, index=1, environment={**PCI, "CUDA_VISIBLE_DEVICES": visible})
    assert isinstance(found, NoSource)
    assert found.reason
