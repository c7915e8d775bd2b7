from __future__ import annotations

import threading

from device_bench.targets.base import Device
from device_bench.targets.check import check_devices
from device_bench.targets.finding import Finding
from runtime import MeasurementError


def test_findings_come_in_the_order_of_the_devices_though_all_are_looked_at_at_once() -> None:
    together = threading.Barrier(2, timeout=20)

    def look(device: Device) -> tuple[Finding, ...]:
        together.wait()
        return Finding(device.label, "link", "here"), Finding(device.label, "LiteRT", None, "pip install it")

    found = check_devices([Device("ssh:a", "b"), Device("adb:", "a")], look)
    assert [(own.area, own.name) for own in found] == [("b", "link"), ("b", "LiteRT"), ("a", "link"), ("a", "LiteRT")]


def test_a_device_that_cannot_be_looked_at_says_why_and_costs_no_other() -> None:
    def look(device: Device) -> tuple[Finding, ...]:
        if device.scheme == "ssh":
            raise MeasurementError("It is switched off", fix="Switch it on")
        return (Finding(device.label, "link", "here"),)

    found = check_devices([Device("ssh:a"), Device("adb:")], look)
    assert found == (
        Finding("ssh:a", "answers", None, "It is switched off. Switch it on."),
        Finding("adb:", "link", "here"),
    )


def test_nothing_is_nothing() -> None:
    assert check_devices([]) == ()


def test_this_machines_engines_are_found() -> None:
    found = {own.name: own for own in check_devices([Device("cpu")])}
    assert found["ONNX Runtime"].value
    assert found["LiteRT"].fix == "pip install 'pocketvit[litert]'"
