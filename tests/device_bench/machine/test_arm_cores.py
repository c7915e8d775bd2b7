import pytest

from device_bench.machine.arm_cores import arm_cores


def cpuinfo(*cores):
    return "\n".join(
        f"processor\t: {i}\nFeatures\t: fp asimd\nCPU implementer\t: {maker}\nCPU part\t: {part}\n"
        for i, (maker, part) in enumerate(cores)
    )


@pytest.mark.parametrize(
    ("cores", "names"),
    [
        ([("0x41", "0xd08")] * 4, "Cortex-A72"),
        ([("0x41", "0xd05")] * 4 + [("0x41", "0xd0b")] * 2, "Cortex-A55, Cortex-A76"),
        ([("0x51", "0x001")], "ARM core 0x51/0x001"),
        ([("0x41", "0xfff")], "ARM core 0x41/0xfff"),
    ],
)
def test_cores_are_named_by_their_numbers(cores, names):
    assert arm_cores(cpuinfo(*cores)) == names


@pytest.mark.parametrize("text", ["", "model name\t: Example Core 9\n", "CPU implementer\t: 0x41\nCPU part\t: none\n"])
def test_what_tells_no_parts_has_no_names(text):
    assert arm_cores(text) is None
