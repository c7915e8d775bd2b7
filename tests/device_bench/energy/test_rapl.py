from pathlib import Path

import pytest

from device_bench.energy.rapl import CURE, RaplSource, find_rapl
from device_bench.energy.source import NoSource, SourceError

RANGE_UJ = 262_143_328_850


class FakeClock:
    def __init__(self) -> None:
        self.ns = 0

    def __call__(self) -> int:
        return self.ns


def put(root: Path, zone: str, name: str, energy_uj: object, range_uj: object = RANGE_UJ) -> None:
    folder = root / "sys/class/powercap" / zone
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "energy_uj").write_text(f"{energy_uj}\n")
    (folder / "max_energy_range_uj").write_text(f"{range_uj}\n")


def opened(root: Path, **injected) -> RaplSource:
    found = find_rapl(root, **injected)
    assert isinstance(found, RaplSource), found
    found.start()
    return found


def refused(root: Path, **injected) -> str:
    found = find_rapl(root, **injected)
    assert isinstance(found, NoSource)
    return found.reason


def test_a_package_is_read_in_joules(tmp_path):
    put(tmp_path, "intel-rapl:0", "package-0", 5_000_000)
    source = opened(tmp_path)
    assert (source.name, source.tier, source.remark) == ("RAPL package-0", "measured", None)
    assert source.read_j() == 0
    put(tmp_path, "intel-rapl:0", "package-0", 12_500_000)
    assert source.read_j() == pytest.approx(7.5)
    source.stop()


def test_packages_are_summed_and_everything_else_is_left_out(tmp_path):
    for zone, name in (
        ("intel-rapl:0", "package-0"),
        ("intel-rapl:0:0", "core"),
        ("intel-rapl:0:1", "dram"),
        ("intel-rapl:1", "package-1"),
        ("intel-rapl:2", "psys"),
        ("intel-rapl:3", "dram"),
        ("intel-rapl-mmio:0", "package-0"),
    ):
        put(tmp_path, zone, name, 0)
    source = opened(tmp_path)
    assert source.name == "RAPL package-0 + package-1"
    put(tmp_path, "intel-rapl:0", "package-0", 1_000_000)
    put(tmp_path, "intel-rapl:1", "package-1", 2_000_000)
    for other in ("intel-rapl:0:0", "intel-rapl:0:1", "intel-rapl:2", "intel-rapl:3", "intel-rapl-mmio:0"):
        (tmp_path / "sys/class/powercap" / other / "energy_uj").write_text("64000000\n")
    assert source.read_j() == pytest.approx(3.0)


def test_a_zone_in_the_tenth_place_comes_after_the_second(tmp_path):
    for number in (10, 2):
        put(tmp_path, f"intel-rapl:{number}", f"package-{number}", 0)
    assert opened(tmp_path).name == "RAPL package-2 + package-10"


def test_dies_that_show_one_counter_count_once(tmp_path):
    put(tmp_path, "intel-rapl:0", "package-0-die-0", 70_000_000)
    put(tmp_path, "intel-rapl:1", "package-0-die-1", 70_400_000)
    assert opened(tmp_path).name == "RAPL package-0-die-0"


@pytest.mark.parametrize(("second", "energy_uj"), [("package-0-die-1", 90_000_000), ("package-1-die-0", 70_000_000)])
def test_dies_and_packages_of_their_own_all_count(tmp_path, second, energy_uj):
    put(tmp_path, "intel-rapl:0", "package-0-die-0", 70_000_000)
    put(tmp_path, "intel-rapl:1", second, energy_uj)
    assert opened(tmp_path).name == f"RAPL package-0-die-0 + {second}"


def test_a_counter_that_wraps_goes_on(tmp_path):
    put(tmp_path, "intel-rapl:0", "package-0", RANGE_UJ - 2_000_000)
    put(tmp_path, "intel-rapl:1", "package-1", 1_000_000)
    source = opened(tmp_path)
    put(tmp_path, "intel-rapl:0", "package-0", 3_000_000)
    put(tmp_path, "intel-rapl:1", "package-1", 2_000_000)
    assert source.read_j() == pytest.approx(5.0 + 1.0)
    put(tmp_path, "intel-rapl:0", "package-0", 1_000_000)
    assert source.read_j() == pytest.approx(6.0 + (RANGE_UJ - 2_000_000) * 1e-6)


def test_a_pause_in_which_a_counter_could_wrap_twice_is_refused(tmp_path):
    clock = FakeClock()
    put(tmp_path, "intel-rapl:0", "package-0", 0, range_uj=65_000_000_000)
    source = opened(tmp_path, clock=clock)
    clock.ns = 64_000_000_000
    assert source.read_j() == 0
    clock.ns += 66_000_000_000
    with pytest.raises(SourceError, match=r"wrapped around twice.*at most 65 s.*Got 66 s"):
        source.read_j()


def test_a_start_forgets_the_pause_before_it(tmp_path):
    clock = FakeClock()
    put(tmp_path, "intel-rapl:0", "package-0", 0)
    source = opened(tmp_path, clock=clock)
    put(tmp_path, "intel-rapl:0", "package-0", 9_000_000)
    clock.ns = 10**15
    source.start()
    assert source.read_j() == 0


def test_a_counter_for_root_alone_names_the_cure(tmp_path):
    put(tmp_path, "intel-rapl:0", "package-0", 0)

    def read(file: Path) -> str:
        if file.name == "energy_uj":
            raise PermissionError(13, "Permission denied", str(file))
        return file.read_text()

    reason = refused(tmp_path, read=read)
    assert CURE in reason
    assert "sudo chmod a+r" in reason
    assert "energy_uj" in reason


def test_a_machine_without_rapl_says_so(tmp_path):
    assert "no RAPL package" in refused(tmp_path)


def test_a_machine_with_psys_alone_says_so(tmp_path):
    put(tmp_path, "intel-rapl:0", "psys", 0)
    assert "no RAPL package" in refused(tmp_path)


@pytest.mark.parametrize(
    ("energy_uj", "range_uj", "said"),
    [
        ("", RANGE_UJ, "energy_uj is not a number"),
        ("much", RANGE_UJ, "energy_uj is not a number"),
        ("1.5", RANGE_UJ, "energy_uj is not a number"),
        ("9" * 5000, RANGE_UJ, "energy_uj is not a number"),
        ("١٢", RANGE_UJ, "energy_uj is not a number"),
        (-1, RANGE_UJ, "out of its range"),
        (RANGE_UJ + 1, RANGE_UJ, "out of its range"),
        (0, 0, "range of RAPL package-0 is impossible"),
        (0, "none", "max_energy_range_uj is not a number"),
    ],
)
def test_nonsense_is_a_reason(tmp_path, energy_uj, range_uj, said):
    put(tmp_path, "intel-rapl:0", "package-0", energy_uj, range_uj)
    assert said in refused(tmp_path)


@pytest.mark.parametrize("file", ["name", "energy_uj", "max_energy_range_uj"])
def test_a_missing_or_binary_file_is_a_reason(tmp_path, file):
    put(tmp_path, "intel-rapl:0", "package-0", 0)
    path = tmp_path / "sys/class/powercap/intel-rapl:0" / file
    path.write_bytes(b"\xff\xfe")
    assert f"{file} cannot be read" in refused(tmp_path, read=lambda path: path.read_text(encoding="utf-8"))
    path.unlink()
    assert f"{file} cannot be read" in refused(tmp_path)


def test_a_package_that_disappears_is_an_error_of_the_source(tmp_path):
    put(tmp_path, "intel-rapl:0", "package-0", 0)
    source = opened(tmp_path)
    (tmp_path / "sys/class/powercap/intel-rapl:0/energy_uj").unlink()
    with pytest.raises(SourceError, match="energy_uj cannot be read"):
        source.read_j()
