"""The commands ``targets list`` and ``targets check``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from pocketvit.output import fail, print_json
from runtime import encode

from .common import InventoryOption, Json

targets = App(
    name="targets",
    help="List the devices of your inventory, and check whether a bench can run there.",
    help_flags=["--help", "-h"],
    version_flags=[],
)


@targets.command(name="list")
def list_targets(*, inventory: InventoryOption = None, as_json: Json = False) -> None:
    """List the targets of the inventory.

    Of the backends of a phone, npu is Android's NNAPI. Files for the NPU compilers of chip vendors are written by
    `pocketvit export --for static-int8`.
    """
    from device_bench.targets.inventory import places, read_inventory

    found = read_inventory(inventory)
    if as_json:
        path = None if found.path is None else str(found.path)
        bodies = [{k: str(v) if isinstance(v, Path) else v for k, v in encode(own).items()} for own in found.devices]
        print_json("pocketvit.targets", {"file": path, "targets": bodies})
        return
    from pocketvit.cli.tables.targets import targets_table
    from pocketvit.console import stdout_console

    if found.path is None:
        stdout_console().print(f"No inventory. Name your targets in {' or '.join(map(str, places()))}:")
        stdout_console().print('\n[targets.my-pi]\naddress = "ssh:pi@raspberrypi.local"')
        return
    stdout_console().print(targets_table(found.devices))


@targets.command(name="check")
def check_targets(
    *names: Annotated[str, Parameter(help="Names of the inventory, or addresses; by default the whole inventory.")],
    inventory: InventoryOption = None,
    as_json: Json = False,
) -> None:
    """Check each target: what can be reached, what is there and what is missing; exits with 1 when anything is."""
    from device_bench.targets.check import check_devices
    from device_bench.targets.inventory import EVERY, read_inventory, resolve
    from pocketvit.cli.tables.targets import doctor_table
    from pocketvit.console import stdout_console

    devices = resolve(names or [EVERY], read_inventory(inventory))
    findings = check_devices(devices)
    if as_json:
        print_json("pocketvit.targets-check", {"findings": encode(findings)})
    else:
        stdout_console().print(doctor_table(findings))
    lacking = dict.fromkeys(finding.area for finding in findings if finding.value is None)
    if lacking:
        fail(f"Not ready for a bench: {', '.join(lacking)}.", 1)
