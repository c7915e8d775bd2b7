"""What of emulated boards can be tested without one: pins, texts, parsers, steps, and what a machine lacks."""

from __future__ import annotations

import re
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from device_bench.documents.instructions import Instructions
from device_bench.targets.emulated import CORES, MARKER, Lack, boards_folder, count_instructions, emulated_board
from device_bench.targets.emulated import missing_for_boards as missing
from device_bench.targets.emulated.base import RECORD, RECORD_DOCUMENT, Package, Record, read_boards, recipe_key
from device_bench.targets.emulated.cores import CPUINFO, board_files, cpuinfo
from device_bench.targets.emulated.fetch import apt_sources, fetch_board_wheels, fetch_debs
from device_bench.targets.emulated.host import Host
from device_bench.targets.emulated.marks import between, read_marks
from device_bench.targets.emulated.once import made_once
from device_bench.targets.emulated.steps import Steps, last_line
from runtime import ArtifactError, MeasurementError, StorageError, UnsupportedTargetError

PACKAGE = files("device_bench.targets.emulated")
PINNED = re.compile(r"(?P<name>[a-z0-9-]+)==(?P<version>[\w.]+) --hash=sha256:[0-9a-f]{64}")
NOTHING: Any = object()
DEBIAN = "Types: deb\nURIs: http://mirror\nSuites: bookworm bookworm-updates\nComponents: main\n"


def test_the_cpuinfo_is_of_four_cores_of_that_kind():
    text = cpuinfo(CORES["pi5"])
    assert re.findall(r"^processor\t: (\d)$", text, re.M) == ["0", "1", "2", "3"]
    assert set(re.findall(r"^CPU part\t: (\S+)$", text, re.M)) == {"0xd0b"}
    assert len(re.findall(r"^Features\t: .* asimddp$", text, re.M)) == 4
    assert "asimddp" not in cpuinfo(CORES["pi4"])
    assert re.search(r"^Model\t\t: Raspberry Pi 4 ", cpuinfo(CORES["pi4"]), re.M)


@pytest.mark.parametrize("core", CORES)
def test_a_board_says_that_it_is_emulated_and_claims_no_clock_or_temperature(core: str):
    found = board_files(CORES[core])
    assert CORES[core].emulator_cpu in found[MARKER]
    assert found[CPUINFO] == cpuinfo(CORES[core])
    assert found["sys/firmware/devicetree/base/model"].startswith("Raspberry Pi ")
    assert not [name for name in found if "thermal" in name or "scaling_cur_freq" in name or "governor" in name]


def test_a_core_that_cannot_be_emulated_is_refused():
    with (
        pytest.raises(UnsupportedTargetError, match="pi4 or pi5"),
        emulated_board("pi3", boards=NOTHING),
    ):
        pass


def test_wheels_are_pinned_to_the_versions_the_project_is_tested_with():
    lines = [line for line in PACKAGE.joinpath("wheels.txt").read_text().splitlines() if line[0] != "#"]
    pins = {}
    for line in lines:
        found = PINNED.fullmatch(line)
        assert found, line
        pins[found["name"]] = found["version"]
    constraints = (Path(__file__).parents[3] / "constraints.txt").read_text().lower().replace("_", "-")
    tested = dict(re.findall(r"^([a-z0-9-]+)==(\S+)$", constraints, re.M))
    assert {"numpy", "ai-edge-litert", "onnxruntime"} <= pins.keys() & tested.keys()
    assert {name: pins[name] for name in pins.keys() & tested.keys()} == {
        name: tested[name] for name in pins.keys() & tested.keys()
    }


def test_whatever_changes_a_base_changes_its_key(tmp_path: Path):
    names = [entry.name for entry in PACKAGE.iterdir() if entry.name.endswith((".py", ".txt", ".c", ".sh"))]
    for name in names:
        (tmp_path / name).write_bytes(PACKAGE.joinpath(name).read_bytes())
    key = recipe_key(tmp_path)
    assert key == recipe_key()
    for name in ("build.py", "fetch.py", "cores.py", "debs.txt", "wheels.txt", "counts.c"):
        before = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(before + b"\n")
        assert recipe_key(tmp_path) != key, name
        (tmp_path / name).write_bytes(before)
    assert recipe_key(tmp_path) == key


@pytest.mark.parametrize(
    ("environ", "folder"),
    [
        ({"POCKETVIT_BOARDS": "/b", "XDG_CACHE_HOME": "/c"}, Path("/b")),
        ({"XDG_CACHE_HOME": "/c"}, Path("/c/pocketvit/boards")),
        ({}, Path.home() / ".cache/pocketvit/boards"),
    ],
)
def test_where_bases_are_kept(environ: dict[str, str], folder: Path):
    assert boards_folder(environ) == folder


def test_a_base_is_read_with_its_record_and_only_when_whole(tmp_path: Path):
    assert read_boards(tmp_path) is None
    record = Record("k", (Package("a_1_arm64.deb", "0" * 64),), "1" * 64, {"numpy": "2"})
    RECORD_DOCUMENT.write(tmp_path / RECORD, record)
    found = read_boards(tmp_path)
    assert found is not None
    assert found.record == record
    (tmp_path / "record.json").write_text("{")
    assert read_boards(tmp_path) is None


def test_apt_s_sources_of_the_suite_are_found(tmp_path: Path):
    folder = tmp_path / "etc/apt/sources.list.d"
    folder.mkdir(parents=True)
    for name, text in {
        "debian.sources": DEBIAN,
        "other.sources": DEBIAN.replace("bookworm", "trixie"),
        "tool.list": "deb https://tool cloud-bookworm main\n",
        "old.list": "deb [signed-by=/k] http://mirror bookworm main contrib\n",
        "notes.txt": DEBIAN,
    }.items():
        (folder / name).write_text(text)
    (tmp_path / "etc/apt/sources.list").write_text("# deb http://mirror bookworm main\n")
    assert [path.name for path in apt_sources(tmp_path)] == ["debian.sources", "old.list"]


def test_without_debian_s_sources_nothing_is_fetched(tmp_path: Path):
    with pytest.raises(MeasurementError, match="Debian 12"):
        fetch_debs(["dash"], tmp_path, Steps(run=never), sources=())


def never(*_: Any, **__: Any) -> Any:
    raise AssertionError("this must not run")


def test_apt_is_given_folders_of_its_own(tmp_path: Path):
    asked: list[tuple[list[str], str]] = []

    def run(argv: Sequence[str], *, env: dict[str, str], **_: Any) -> Any:
        asked.append((list(argv), Path(env["APT_CONFIG"]).read_text()))
        return subprocess.CompletedProcess(argv, 0, b"", b"")

    source = tmp_path / "debian.sources"
    source.write_text(DEBIAN)
    work = tmp_path / "work"
    work.mkdir()
    assert fetch_debs(["dash"], work, Steps(run=run), sources=[source]) == ()
    assert [argv[1] for argv, _ in asked] == ["update", "install"]
    for _, text in asked:
        assert f'Dir::State::status "{work}/status"' in text
        assert f'Dir::Etc::sourceparts "{work}/sources"' in text


def test_a_step_that_fails_says_which_what_was_said_and_the_cure(tmp_path: Path):
    def run(argv: Sequence[str], **_: Any) -> Any:
        return subprocess.CompletedProcess(argv, 1, b"out\n", b"WARNING: x\nERROR: no matching distribution\n\n")

    with pytest.raises(MeasurementError) as caught:
        fetch_board_wheels(tmp_path / "wheels.txt", tmp_path, Steps(run=run))
    for part in ("fetching the engines' wheels", "status 1", "ERROR: no matching distribution", "pip download"):
        assert part in str(caught.value)


def test_a_step_s_program_that_is_missing_or_hangs_is_an_error():
    with pytest.raises(MeasurementError, match=r"testing.*no program pocketvit-nothing.*Install it"):
        Steps()("testing", ["pocketvit-nothing"], "Install it")
    with pytest.raises(MeasurementError, match=r"testing.*no end of sleep after 0.05 s"):
        Steps(timeout_s=0.05)("testing", ["sleep", "5"], "Wait")
    assert Steps()("testing", ["echo", "said"], "Install it") == "said\n"


def test_the_last_line_is_the_last_that_says_something():
    assert last_line(b"a\nb \n \n\n") == "b"
    assert last_line(b"mount: no such thing\n  dmesg(1) may have more information\n") == "mount: no such thing"
    assert last_line(b"") == ""
    assert len(last_line(b"x" * 1000)) == 300


HOST = Host(system="Linux", machine="x86_64", release="6.18.1", which=lambda name: f"/bin/{name}", status=lambda _: 0)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """A machine with all that boards need."""
    folder = tmp_path / "etc/apt/sources.list.d"
    folder.mkdir(parents=True)
    (folder / "debian.sources").write_text(DEBIAN)
    return replace(HOST, root=tmp_path)


def test_a_machine_with_everything_lacks_nothing(host: Host, tmp_path: Path):
    assert missing(tmp_path / "cache", host) == ()


@pytest.mark.parametrize(
    ("change", "what", "fix"),
    [
        ({"system": "Darwin"}, "Linux on x86-64", "another machine"),
        ({"machine": "aarch64"}, "Linux on x86-64", "another machine"),
        ({"release": "6.1.0-13-amd64"}, "Linux 6.7 or newer", "linux-image-amd64"),
        ({"which": lambda name: None if name == "unshare" else name}, "unshare", "apt-get install util-linux"),
        ({"which": lambda name: None if name == "gcc" else name}, "gcc", "apt-get install gcc"),
        ({"status": lambda argv: int(argv[0] == "unshare")}, "user namespaces", "sysctl -w"),
        ({"status": lambda argv: int("sh" in argv)}, "leave to mount", "--privileged"),
        ({"status": lambda argv: int("pip" in argv)}, "pip", "ensurepip"),
        ({"root": Path("/nowhere")}, "Debian 12", "container"),
    ],
)
def test_what_is_missing_comes_with_its_cure(host: Host, tmp_path: Path, change: Any, what: str, fix: str):
    lacks = missing(tmp_path / "cache", replace(host, **change))
    assert len(lacks) == 1
    assert what in lacks[0].what
    assert fix in lacks[0].fix


def test_what_is_made_already_needs_nothing_to_make_it(host: Host, tmp_path: Path):
    RECORD_DOCUMENT.write(tmp_path / "cache" / recipe_key() / RECORD, Record(recipe_key(), (), "", {}))
    bare = replace(host, root=Path("/nowhere"), which=lambda name: None if name in ("gcc", "apt-get") else name)
    assert missing(tmp_path / "cache", bare) == ()
    assert all(isinstance(lack, Lack) for lack in missing(tmp_path / "other", bare))
    assert len(missing(tmp_path / "other", bare)) == 3


def test_a_folder_is_made_by_one_while_others_wait(tmp_path: Path):
    made, waited = [], threading.Event()

    def make(folder: Path) -> None:
        made.append(folder)
        assert waited.wait(10)
        (folder / "done").touch()

    def ask() -> None:
        made_once(tmp_path / "a", make, whole=lambda path: (path / "done").exists(), waiting=waited.set)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(made) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "lock"]


def test_a_folder_that_cannot_be_made_is_not_there_and_remains_of_killed_ones_go(tmp_path: Path):
    rest = tmp_path / "making-x/closed"
    rest.mkdir(parents=True)
    rest.chmod(0o500)

    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise MeasurementError("no network")

    with pytest.raises(MeasurementError, match="no network"):
        made_once(tmp_path / "a", fail, whole=lambda path: path.exists(), waiting=lambda: None)
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_a_cache_that_is_no_folder_is_an_error(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError):
        made_once(tmp_path / "file/a", never, whole=lambda path: path.exists(), waiting=lambda: None)


def line(mark: int, *counts: int) -> str:
    names = ("all", "simd", "ldst", "branch", "alu", "dot")
    return f'{{"mark": {mark}' + "".join(f', "{name}": {n}' for name, n in zip(names, counts, strict=True)) + "}\n"


def test_marks_are_read_and_subtracted():
    marks = read_marks(line(0, 10, 1, 2, 3, 4, 0) + line(1, 30, 11, 7, 6, 6, 5))
    assert [mark.number for mark in marks] == [0, 1]
    assert between(marks) == ((20, 10, 5, 3, 2, 5),)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}\n",
        "[1]\n",
        "qemu: crashed\n",
        line(0, 1, 1, 1, 1, 1, 1)[:-5],
        line(0, 1, 1, 1, 1, 1, -1),
        line(0, 1, 1, 1, 1, 1, 1).replace("1,", "true,", 1),
        line(0, 10, 1, 2, 3, 4, 0) + line(1, 9, 1, 2, 3, 4, 0),
    ],
)
def test_what_the_plugin_does_not_write_is_refused(text: str):
    with pytest.raises(MeasurementError):
        read_marks(text)


def test_instructions_add_up_and_the_fewest_of_the_runs_count():
    found = Instructions("cortex-a72", (11, 10), (4, 3), (3, 3), (2, 2), (2, 2), (1, 1))
    assert (found.of("all"), found.of("simd"), found.of("dot")) == (10, 3, 1)


@pytest.mark.parametrize(
    "counts",
    [
        ((), (), (), (), (), ()),
        ((10, 10), (3,), (3,), (2,), (2,), (0,)),
        ((10,), (3,), (3,), (2,), (3,), (0,)),
        ((10,), (3,), (3,), (2,), (2,), (4,)),
        ((10,), (13,), (-3,), (-2,), (2,), (0,)),
        ((0,), (0,), (0,), (0,), (0,), (0,)),
    ],
)
def test_instructions_that_cannot_be_are_refused(counts: Any):
    with pytest.raises(MeasurementError):
        Instructions("cortex-a72", *counts)


def test_what_cannot_be_counted_is_refused_before_a_board_starts(tmp_path: Path):
    for name in ("a/x.onnx", "b/x.onnx"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    with pytest.raises(MeasurementError, match="different names"):
        count_instructions("pi4", [tmp_path / "a/x.onnx", tmp_path / "b/x.onnx"], boards=NOTHING)
    with pytest.raises(MeasurementError, match="1 to 98"):
        count_instructions("pi4", [tmp_path / "a/x.onnx"], runs=0, boards=NOTHING)
    with pytest.raises(ArtifactError, match="does not exist"):
        count_instructions("pi4", [tmp_path / "c.onnx"], boards=NOTHING)
