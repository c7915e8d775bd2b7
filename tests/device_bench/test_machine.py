from pathlib import Path

import numpy as np

from device_bench import machine_state

CPUINFO = """processor\t: 0
model name\t: Example Core 9
cpu MHz\t\t: 1800.5

processor\t: 1
model name\t: Example Core 9
cpu MHz\t\t: 2400.0
"""


def put(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def test_a_full_tree_is_read(tmp_path):
    put(tmp_path, "proc/cpuinfo", CPUINFO)
    put(tmp_path, "proc/loadavg", "0.42 0.50 0.61 2/345 6789\n")
    put(tmp_path, "proc/device-tree/model", "Example Pi 5\0")
    for core, khz in ((0, 1500000), (1, 2400000), (10, 600000)):
        folder = f"sys/devices/system/cpu/cpu{core}/cpufreq"
        put(tmp_path, f"{folder}/scaling_cur_freq", f"{khz}\n")
        put(tmp_path, f"{folder}/scaling_governor", "performance\n" if core else "powersave\n")
    put(tmp_path, "sys/devices/system/cpu/cpufreq/other", "not a core")
    put(tmp_path, "sys/class/thermal/thermal_zone0/temp", "41250\n")
    put(tmp_path, "sys/class/thermal/thermal_zone1/temp", "63500\n")
    put(tmp_path, "sys/class/thermal/thermal_zone2/temp", "-274000\n")
    state = machine_state(tmp_path)
    assert state.board == "Example Pi 5"
    assert state.cpu_model == "Example Core 9"
    assert state.logical_cores == 2
    assert state.governor == "performance, powersave"
    assert state.clocks_hz == (1.5e9, 2.4e9, 6e8)
    assert state.temperature_c == 63.5
    assert state.load_average == (0.42, 0.5, 0.61)
    assert state.versions["numpy"] == np.__version__
    assert state.python


def test_clocks_come_from_cpuinfo_where_there_is_no_cpufreq(tmp_path):
    put(tmp_path, "proc/cpuinfo", CPUINFO)
    assert machine_state(tmp_path).clocks_hz == (1800.5e6, 2400e6)


def test_whatever_is_absent_is_null(tmp_path):
    state = machine_state(tmp_path)
    for name in ("board", "cpu_model", "logical_cores", "governor", "clocks_hz", "temperature_c", "load_average"):
        assert getattr(state, name) is None, name


def test_garbage_is_null(tmp_path):
    put(tmp_path, "proc/cpuinfo", "no such thing")
    put(tmp_path, "proc/loadavg", "nonsense")
    put(tmp_path, "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", "<unknown>")
    put(tmp_path, "sys/class/thermal/thermal_zone0/temp", "")
    state = machine_state(tmp_path)
    assert (state.cpu_model, state.load_average, state.clocks_hz, state.temperature_c) == (None,) * 4


def test_this_machine_answers():
    state = machine_state()
    assert state.os
    assert state.architecture
