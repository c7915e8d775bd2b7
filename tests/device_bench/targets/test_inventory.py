from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_bench.targets.base import Device
from device_bench.targets.inventory import Inventory, places, read_inventory, resolve
from runtime import ArtifactError, PocketVitError, UnsupportedTargetError

FULL = """
[targets.kitchen]
address = "ssh:pi@kitchen.local"
threads = 4
cpu_family = "pi4"
python = "/opt/py/bin/python"
ssh_config = "keys/ssh config"
notes = "with a fan"

[targets.phone]
address = "adb:"
benchmark_model = "tools/benchmark_model"
benchmark_model_sha256 = "{digest}"
backends = ["cpu", "gpu"]
""".format(digest="ab" * 32)


def write(folder: Path, text: str, name: str = "targets.toml") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_every_field_is_read_and_files_are_beside_the_inventory(tmp_path: Path) -> None:
    path = write(tmp_path, FULL)
    found = read_inventory(path)
    assert found.path == path
    assert found.devices == (
        Device(
            "ssh:pi@kitchen.local",
            "kitchen",
            threads=4,
            cpu_family="pi4",
            python="/opt/py/bin/python",
            ssh_config=tmp_path / "keys/ssh config",
            notes="with a fan",
        ),
        Device(
            "adb:",
            "phone",
            benchmark_model=tmp_path / "tools/benchmark_model",
            benchmark_model_sha256="ab" * 32,
            backends=("cpu", "gpu"),
        ),
    )


def test_an_absolute_path_and_one_from_home_are_what_they_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    lines = '[targets.{}]\naddress = "ssh:{}"\nssh_config = "{}"\n'
    text = lines.format("a", "a", "/etc/own") + lines.format("b", "b", "~/own")
    configs = [device.ssh_config for device in read_inventory(write(tmp_path, text)).devices]
    assert configs == [Path("/etc/own"), Path("/home/somebody/own")]


def test_the_folder_one_is_in_comes_before_the_users_own(tmp_path: Path) -> None:
    here, config = tmp_path / "here", tmp_path / "config"
    looked = places({"XDG_CONFIG_HOME": str(config), "HOME": "/nowhere"}, here)
    assert looked == (here / "targets.toml", config / "pocketvit" / "targets.toml")
    assert read_inventory(looked=looked) == Inventory()
    own = write(config, '[targets.a]\naddress = "ssh:a"', "pocketvit/targets.toml")
    assert read_inventory(looked=looked).path == own
    local = write(here, '[targets.b]\naddress = "ssh:b"')
    assert read_inventory(looked=looked).path == local


@pytest.mark.parametrize("told", [{}, {"XDG_CONFIG_HOME": ""}, {"XDG_CONFIG_HOME": "relative"}])
def test_without_a_folder_for_configurations_it_is_in_the_home(told: dict[str, str]) -> None:
    assert places({"HOME": "/home/a", **told})[1] == Path("/home/a/.config/pocketvit/targets.toml")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[targets.a", "cannot be read as TOML"),
        ('[targets.a]\naddress = "ssh:a"\n[targets.a]\naddress = "ssh:b"', "cannot be read as TOML"),
        ('[target.a]\naddress = "ssh:a"', "unknown key.*'target'.*Did you mean targets?"),
        ("targets = 3", "targets in .* is not a table"),
        ("[targets]\na = 3", r"targets\.a in .* is not a table.*Got 3"),
        ('[targets.a]\nadress = "ssh:a"', r"\[targets\.a\] of .* unknown key.*Did you mean address?"),
        ('[targets.a]\naddress = "ssh:a"\nfan = true', "'fan'"),
        ("[targets.a]\nthreads = 2", "has no address"),
        ('[targets.a]\naddress = ""', "has no address"),
        ("[targets.a]\naddress = 3", "address in .* wrong type.*Got 3"),
        ('[targets.a]\naddress = "ssh:a"\nthreads = "2"', "threads in .* wrong type.*whole number.*'2'"),
        ('[targets.a]\naddress = "ssh:a"\nthreads = true', "threads in .* wrong type.*True"),
        ('[targets.a]\naddress = "adb:"\nbackends = "cpu"', "backends in .* wrong type.*list"),
        ('[targets.a]\naddress = "adb:"\nbackends = [1]', "backends in .* wrong type"),
        ('[targets.all]\naddress = "ssh:a"', "a name that means something else.*'all'"),
        ('[targets.cpu]\naddress = "ssh:a"', "a name that means something else.*'cpu'"),
        ('[targets.""]\naddress = "ssh:a"', "a name that means something else.*''"),
    ],
)
def test_what_no_inventory_has_is_refused_with_file_table_and_key(tmp_path: Path, text: str, said: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ArtifactError, match=said) as caught:
        read_inventory(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "line",
    [
        'address = "toaster:3"',
        'address = "ssh:-oProxyCommand=x"',
        'address = "ssh:a b"',
        'address = "ssh:a"\nthreads = 0',
        'address = "ssh:a"\ncpu_family = "pi3"',
        'address = "adb:"\nbackends = ["tpu"]',
        'address = "adb:"\nbenchmark_model_sha256 = "12"',
        'address = "ssh:a"\nssh_config = "~nobody-of-this-name/x"',
    ],
)
def test_what_no_device_can_be_is_refused_with_file_and_table(tmp_path: Path, line: str) -> None:
    path = write(tmp_path, f"[targets.board]\n{line}")
    with pytest.raises(UnsupportedTargetError, match=r"\[targets\.board\] of ") as caught:
        read_inventory(path)
    assert str(path) in str(caught.value)


def test_a_name_that_would_leave_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedTargetError, match="file names"):
        read_inventory(write(tmp_path, '[targets."../x"]\naddress = "ssh:a"'))


def test_an_inventory_that_is_asked_for_and_not_there(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="does not exist"):
        read_inventory(tmp_path / "no.toml")
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_inventory(tmp_path)


@given(st.text(max_size=60))
def test_no_text_ends_in_another_error_than_ours(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for own in (text, f"[targets.a]\n{text}", f'[targets.a]\naddress = "{text}"'):
            path = Path(folder) / "targets.toml"
            path.write_bytes(own.encode(errors="surrogatepass"))
            with contextlib.suppress(PocketVitError):
                resolve([text], read_inventory(path))


KNOWN = Inventory(Path("x.toml"), (Device("ssh:a", "board"), Device("adb:", "phone"), Device("cpu", "cpu", threads=2)))


def labels(*names: str) -> list[str]:
    return [device.label for device in resolve(names, KNOWN)]


def test_names_and_addresses_become_devices_in_the_order_asked() -> None:
    assert labels("phone", "ssh:pi@host,board", " emu:pi4 , ") == ["phone", "ssh:pi@host", "board", "emu:pi4"]
    assert resolve(["board"], KNOWN) == (KNOWN.devices[0],)
    assert resolve(["cuda", "adb:"], KNOWN) == (Device("cuda"), Device("adb:"))


def test_a_target_of_this_machine_can_have_settings_of_its_own() -> None:
    assert resolve(["cpu"], KNOWN)[0].threads == 2
    assert resolve(["cpu"], Inventory())[0].threads is None


def test_all_is_the_whole_inventory_and_goes_with_addresses() -> None:
    assert labels("all") == ["board", "phone", "cpu"]
    assert labels("emu:pi5,all") == ["emu:pi5", "board", "phone", "cpu"]


def test_all_of_nothing_says_where_to_write_it() -> None:
    with pytest.raises(UnsupportedTargetError, match=r"there is none.*\[targets\.NAME\] in .*targets\.toml"):
        resolve(["all"], Inventory())
    with pytest.raises(UnsupportedTargetError, match=r"\[targets\.NAME\] in empty\.toml"):
        resolve(["all"], Inventory(Path("empty.toml")))


def test_twice_the_same_is_refused() -> None:
    for names in (["board,board"], ["all", "phone"], ["ssh:x", "ssh:x"]):
        with pytest.raises(UnsupportedTargetError, match="asked for twice"):
            resolve(names, KNOWN)


def test_nothing_is_refused() -> None:
    for names in ([], [""], [" , "]):
        with pytest.raises(UnsupportedTargetError, match="No target is asked for"):
            resolve(names, KNOWN)


def test_an_unknown_name_says_what_there_is_and_what_may_be_meant() -> None:
    with pytest.raises(UnsupportedTargetError, match=r"board, phone.*ssh:.*'bord'.*Did you mean board\?"):
        resolve(["bord"], KNOWN)
    with pytest.raises(UnsupportedTargetError, match="no inventory"):
        resolve(["toaster"], Inventory())
