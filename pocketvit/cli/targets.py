"""The commands ``targets list`` and ``targets check``."""

from pathlib import Path
from typing import Annotated

import typer

from runtime import encode

from .output import fail, print_json

targets = typer.Typer(
    help="The devices of your inventory: what they are, and whether a bench can run there.", no_args_is_help=True
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
Inventory = Annotated[
    Path | None,
    typer.Option("--inventory", help="Your targets; by default ./targets.toml or that in ~/.config/pocketvit."),
]


@targets.command("list")
def list_targets(inventory: Inventory = None, as_json: Json = False) -> None:
    """Say which targets the inventory names."""
    from device_bench.targets.inventory import places, read_inventory

    found = read_inventory(inventory)
    if as_json:
        path = None if found.path is None else str(found.path)
        bodies = [{k: str(v) if isinstance(v, Path) else v for k, v in encode(own).items()} for own in found.devices]
        print_json("pocketvit.targets", {"file": path, "targets": bodies})
        return
    from pocketvit.cli.tables.targets import targets_table

    from .console import stdout_console

    if found.path is None:
        stdout_console().print(f"No inventory. Name your targets in {' or '.join(map(str, places()))}:")
        stdout_console().print('\n[targets.my-pi]\naddress = "ssh:pi@raspberrypi.local"')
        return
    stdout_console().print(targets_table(found.devices))


@targets.command("check")
def check_targets(
    names: Annotated[
        list[str] | None, typer.Argument(help="Names of the inventory, or addresses; by default the whole inventory.")
    ] = None,
    inventory: Inventory = None,
    as_json: Json = False,
) -> None:
    """Say of each target what can be reached, what is there and what is missing; exits with 1 when anything is."""
    from device_bench.targets.check import check_devices
    from device_bench.targets.inventory import EVERY, read_inventory, resolve
    from pocketvit.cli.tables.targets import doctor_table

    from .console import stdout_console

    devices = resolve(names or [EVERY], read_inventory(inventory))
    findings = check_devices(devices)
    if as_json:
        print_json("pocketvit.targets-check", {"findings": encode(findings)})
    else:
        stdout_console().print(doctor_table(findings))
    lacking = dict.fromkeys(finding.area for finding in findings if finding.value is None)
    if lacking:
        fail(f"Not ready for a bench: {', '.join(lacking)}.", 1)
