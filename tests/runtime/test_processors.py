from __future__ import annotations

import pytest

from runtime.processors import PROCESSORS, host_processor


@pytest.mark.parametrize(("machine", "name"), [("x86_64", "x86"), ("AMD64", "x86"), ("aarch64", ""), ("", "")])
def test_the_family_of_this_machine_is_known_by_its_architecture(
    machine: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    assert host_processor() == name


def test_families_are_listed_by_their_names() -> None:
    names = ["x86", "pi4", "pi5", "android", "static-int8"]
    assert [one.name for one in PROCESSORS.values()] == list(PROCESSORS) == names
