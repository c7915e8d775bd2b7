from __future__ import annotations

import pytest

from device_bench.targets import TARGETS
from device_bench.targets.base import Device, Target, form_of
from runtime import UnsupportedTargetError


@pytest.mark.parametrize(
    ("address", "form"),
    [
        ("cpu", "cpu"),
        ("ssh:pi@board", "ssh:[USER@]HOST"),
        ("adb:", "adb:[SERIAL]"),
        ("adb:R58M", "adb:[SERIAL]"),
        ("emu:pi4", "emu:pi4|pi5"),
    ],
)
def test_an_address_has_a_form(address: str, form: str) -> None:
    assert form_of(address) == form
    assert isinstance(Device(address).target, Target)


@pytest.mark.parametrize("address", ["cpu:", "cpu:1", "ssh", "ssh:", "adb", "emu:", "", ":", "ftp:board"])
def test_any_other_is_refused_with_the_forms(address: str) -> None:
    with pytest.raises(UnsupportedTargetError, match=r"one of cpu, cuda, gpu, ssh:\[USER@\]HOST, adb:\[SERIAL\]"):
        Device(address)


def test_this_machine_is_the_only_local_device() -> None:
    assert [form for form, target in TARGETS.items() if target.local] == ["cpu", "cuda", "gpu", "web:chromium"]
    assert [form for form, target in TARGETS.items() if target.separate] == ["emu:pi4|pi5"]
