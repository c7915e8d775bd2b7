import importlib.util
import json
import logging
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from device_bench.documents.figures import Energy
from device_bench.energy.carbon import NO_COUNTRY, Grid, find_grid, quiet_codecarbon, with_grid
from device_bench.energy.source import CounterSource, NoSource
from device_bench.energy.tdp import find_tdp
from runtime import MeasurementError

needs_codecarbon = pytest.mark.skipif(not importlib.util.find_spec("codecarbon"), reason="codecarbon is not installed")
MIX = {"DEU": {"carbon_intensity": 380.0}, "ATA": {}}


def fake(mix=None, tdp=None, model="Example Core 9", default_w=4):
    """Imports modules that answer like codecarbon's."""

    class TDP:
        def __init__(self):
            raise AssertionError("looks at this machine")

        def _get_cpu_power_from_registry(self, name):
            return (tdp or {}).get(name)

    modules = {
        "codecarbon.input": SimpleNamespace(DataSource=lambda: SimpleNamespace(get_global_energy_mix_data=lambda: mix)),
        "codecarbon.core.cpu": SimpleNamespace(TDP=TDP, DEFAULT_POWER_PER_CORE=default_w),
        "codecarbon.core.util": SimpleNamespace(detect_cpu_model=lambda: model),
    }
    return modules.__getitem__


def absent(name):
    raise ModuleNotFoundError(name=name)


def put_cpuinfo(root: Path, model: str | None, cores: int, sockets: int = 1, flags: str = "fpu avx2") -> None:
    (root / "proc").mkdir()
    blocks = []
    for core in range(cores):
        lines = [f"processor\t: {core}", f"physical id\t: {core % sockets}", f"flags\t\t: {flags}"]
        blocks.append("\n".join([*lines, f"model name\t: {model}"] if model else lines))
    (root / "proc/cpuinfo").write_text("\n\n".join(blocks) + "\n")


@pytest.mark.parametrize("country", ["DEU", "deu", " Deu "])
def test_a_country_has_a_grid(country):
    assert find_grid(country, importer=fake(MIX)) == Grid(380.0, "DEU")


def test_without_a_country_the_reason_names_the_option():
    assert find_grid(None, importer=absent) == Grid(None, None, NO_COUNTRY)
    assert "--country" in NO_COUNTRY


@pytest.mark.parametrize("country", ["", "DE", "GERM", "D3U", "Germany", "ÄÖÜ"])
def test_what_is_no_code_is_refused_before_the_library_is_asked(country):
    with pytest.raises(MeasurementError, match="alpha-3 code such as DEU"):
        find_grid(country, importer=absent)


@pytest.mark.parametrize("country", ["GER", "ATA"])
def test_a_country_without_figure_is_refused(country):
    with pytest.raises(MeasurementError, match=f"does not know the grid.*{country}"):
        find_grid(country, importer=fake(MIX))


def test_without_codecarbon_the_reason_names_the_extra():
    grid = find_grid("DEU", importer=absent)
    assert (grid.grams_per_kwh, grid.country) == (None, "DEU")
    assert "pip install 'pocketvit[energy]'" in (grid.reason or "")


def test_a_library_that_changed_is_a_reason():
    grid = find_grid("DEU", importer=lambda name: SimpleNamespace())
    assert grid.grams_per_kwh is None
    assert "AttributeError" in (grid.reason or "")
    found = find_tdp(importer=lambda name: SimpleNamespace())
    assert isinstance(found, NoSource)
    assert "AttributeError" in found.reason


def test_a_host_can_add_the_grid_to_a_boards_energy():
    energy = Energy("measured", "meter", (36.0,), (2.0,), (10,), idle_w=3.0)
    assert with_grid(energy, Grid(500.0, "FRA")).grams_co2_per_image == pytest.approx(3.6 / 3.6e6 * 500)
    assert with_grid(energy, Grid(None, None, NO_COUNTRY)).carbon_reason == NO_COUNTRY


def test_quiet_silences_and_then_restores():
    logger = logging.getLogger("codecarbon")
    before = logger.disabled
    with quiet_codecarbon():
        assert logger.disabled
    assert logger.disabled == before


def test_the_estimate_is_tdp_times_the_share_of_the_cores(tmp_path):
    put_cpuinfo(tmp_path, "Example Core 9", cores=8)
    used = [5.0]
    source = find_tdp(tmp_path, importer=fake(tdp={"Example Core 9": 120.0}), cpu_s=lambda: used[0], remark="Because.")
    assert isinstance(source, CounterSource)
    assert source.tier == "estimated"
    assert source.name == "codecarbon, TDP of 120 W, times the share of 8 cores in use"
    assert source.remark == "Because."
    source.start()
    used[0] += 2 * 3.0  # two cores for three seconds
    assert source.read_j() == pytest.approx(120 * 2 / 8 * 3)


def test_two_sockets_have_two_tdps(tmp_path):
    put_cpuinfo(tmp_path, "Example Core 9", cores=4, sockets=2)
    used = [0.0]
    source = find_tdp(tmp_path, importer=fake(tdp={"Example Core 9": 100.0}), cpu_s=lambda: used[0])
    assert isinstance(source, CounterSource)
    assert "2 x 100 W" in source.name
    source.start()
    used[0] = 4.0
    assert source.read_j() == pytest.approx(200.0)


def test_an_unknown_processor_gets_codecarbons_default_and_says_so(tmp_path):
    put_cpuinfo(tmp_path, "Unheard Of", cores=2, flags="hypervisor")
    used = [0.0]
    source = find_tdp(tmp_path, importer=fake(), cpu_s=lambda: used[0])
    assert isinstance(source, CounterSource)
    assert "TDP of Unheard Of unknown, 4 W a core assumed" in source.name
    assert source.remark is None
    source.start()
    used[0] = 1.0
    assert source.read_j() == pytest.approx(4.0)


def test_where_proc_has_no_name_the_library_finds_it(tmp_path):
    put_cpuinfo(tmp_path, None, cores=4)
    source = find_tdp(tmp_path, importer=fake(tdp={"Cortex-A76": 12.0}, model="Cortex-A76"))
    assert "TDP of 12 W" in source.name


def test_a_virtual_machine_is_warned_of(tmp_path):
    put_cpuinfo(tmp_path, "Example Core 9", cores=2, flags="fpu hypervisor")
    source = find_tdp(tmp_path, importer=fake(tdp={"Example Core 9": 300.0}), remark="Because.")
    assert isinstance(source, CounterSource)
    assert (source.remark or "").startswith("Because. The machine is virtual and shows 2 cores")


def test_an_estimate_without_codecarbon_names_the_extra(tmp_path):
    put_cpuinfo(tmp_path, "Example Core 9", cores=2)
    found = find_tdp(tmp_path, importer=absent)
    assert isinstance(found, NoSource)
    assert "pip install 'pocketvit[energy]'" in found.reason


OFFLINE = """
import json, sys
from pathlib import Path
used = []
sys.addaudithook(lambda event, args: used.append(event) if event.startswith("socket.") else None)
from device_bench.energy.carbon import find_grid
from device_bench.energy.tdp import find_tdp
source = find_tdp(Path(sys.argv[1]))
grid = find_grid("DEU")
source.start()
sum(range(3_000_000))
print(json.dumps([source.name, source.read_j(), grid.grams_per_kwh, grid.reason, list(used)]))
import socket
socket.socket().close()
assert used, "the hook sees nothing"
"""


@needs_codecarbon
def test_codecarbon_answers_offline_silently_and_leaves_no_file(tmp_path):
    root, here = tmp_path / "root", tmp_path / "here"
    root.mkdir()
    here.mkdir()
    put_cpuinfo(root, "AMD Ryzen 7 5800X 8-Core Processor", cores=16)
    packages = str(Path(__file__).parents[3])
    command = [sys.executable, "-W", "error", "-c", OFFLINE, str(root)]
    home = {"HOME": str(here), "PYTHONPATH": packages, "PATH": "", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=here, env=home, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    name, joules, grams, reason, used = json.loads(done.stdout)
    assert used == []
    assert name == "codecarbon, TDP of 105 W, times the share of 16 cores in use"
    assert joules > 0
    assert 100 < grams < 800
    assert reason is None
    assert not list(here.iterdir())


@needs_codecarbon
def test_codecarbon_knows_what_is_asked_of_it(tmp_path):
    put_cpuinfo(tmp_path, "Unheard Of 9000", cores=2)
    assert "Unheard Of 9000 unknown" in find_tdp(tmp_path).name
    with pytest.raises(MeasurementError, match="does not know the grid"):
        find_grid("ZZZ")
