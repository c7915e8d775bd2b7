import os
import sys
from pathlib import Path

import numpy as np
import pytest

from device_bench.machine.state import MachineState, command_output, machine_state
from runtime import decode, encode

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


def test_what_the_machine_did_is_read(tmp_path):
    flags = "flags\t\t: fpu vme hypervisor lahf_lm\n"
    put(tmp_path, "proc/cpuinfo", CPUINFO + flags)
    put(tmp_path, "proc/self/status", "Name:\tpython\nCpus_allowed:\tff\nCpus_allowed_list:\t0-2,6\n")
    put(tmp_path, "proc/uptime", "1234.56 4000.00\n")
    put(tmp_path, "proc/stat", "cpu  1000 200 300 9000 70 5 15 40 500 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n")
    put(tmp_path, "proc/self/stat", "77 (a name) R) S " + " ".join(map(str, range(1, 11))) + " 250 50 0 0\n")
    put(tmp_path, "proc/meminfo", "MemTotal:        4000000 kB\nMemFree: 1 kB\n")
    for core in (0, 1):
        folder = f"sys/devices/system/cpu/cpu{core}"
        put(tmp_path, f"{folder}/cpufreq/cpuinfo_max_freq", "2400000\n")
        put(tmp_path, f"{folder}/cpufreq/scaling_driver", "intel_pstate\n")
        put(tmp_path, f"{folder}/thermal_throttle/core_throttle_count", "3\n")
    state = machine_state(tmp_path)
    tick_s = 1 / os.sysconf("SC_CLK_TCK")
    assert state.affinity == (0, 1, 2, 6)
    assert state.uptime_s == 1234.56
    assert state.busy_s == pytest.approx(1520 * tick_s)
    assert state.steal_s == pytest.approx(40 * tick_s)
    assert state.own_s == pytest.approx(300 * tick_s)
    assert state.memory_bytes == 4_096_000_000
    assert (state.max_clocks_hz, state.clock_driver) == ((2.4e9, 2.4e9), "intel_pstate")
    assert state.throttle_count == 6
    assert state.virtualised is True


def test_a_raspberry_pi_is_asked_for_its_throttling(tmp_path):
    asked = []

    def run(command):
        asked.append(tuple(command))
        return "throttled=0x50005\n"

    assert machine_state(tmp_path, run).throttled_bits is None
    put(tmp_path, "proc/device-tree/model", "Raspberry Pi 5 Model B\0")
    assert machine_state(tmp_path, run).throttled_bits == 0x50005
    assert asked == [("vcgencmd", "get_throttled")]
    assert machine_state(tmp_path, lambda command: None).throttled_bits is None
    assert machine_state(tmp_path, lambda command: "VCHI failed").throttled_bits is None


def test_x86_without_the_flag_is_no_virtual_machine_and_others_do_not_say(tmp_path):
    assert machine_state(tmp_path).virtualised is None
    put(tmp_path, "proc/cpuinfo", CPUINFO + "flags\t\t: fpu vme\n")
    assert machine_state(tmp_path).virtualised is False
    put(tmp_path, "sys/hypervisor/type", "xen\n")
    assert machine_state(tmp_path).virtualised is True


def test_garbage_about_the_machines_doings_is_null(tmp_path):
    put(tmp_path, "proc/uptime", "soon\n")
    put(tmp_path, "proc/stat", "cpu  1 2 3\n")
    put(tmp_path, "proc/self/stat", "77 (python) S 1 2\n")
    put(tmp_path, "proc/self/status", "Cpus_allowed_list:\t1-,3\n")
    state = machine_state(tmp_path)
    assert (state.uptime_s, state.busy_s, state.steal_s, state.own_s, state.affinity) == (None,) * 5
    assert (state.throttle_count, state.memory_bytes, state.max_clocks_hz, state.clock_driver) == (None,) * 4


def test_a_command_that_is_absent_fails_or_answers():
    assert command_output(["/no/such/command"]) is None
    assert command_output([sys.executable, "-c", "raise SystemExit(3)"]) is None
    assert command_output([sys.executable, "-c", "print('yes')"]) == "yes\n"


def test_states_of_older_results_are_still_read():
    old = encode(machine_state())
    for name in ("affinity", "max_clocks_hz", "clock_driver", "throttle_count", "throttled_bits", "uptime_s", "busy_s"):
        del old[name]
    assert decode(MachineState, old, "old").affinity is None
