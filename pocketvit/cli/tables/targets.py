"""The targets of an inventory, and what ``doctor`` found, as tables on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from device_bench import format
from device_bench.targets.base import Device
from device_bench.targets.finding import Finding


def targets_table(devices: Sequence[Device]) -> Table:
    """Returns each target with where it is and what to use there."""
    table = Table(header_style="bold")
    for heading in ("name", "address", "CPU family", "threads", "notes"):
        table.add_column(heading, overflow="fold", justify="right" if heading == "threads" else "left")
    for device in devices:
        threads = format.MISSING if device.threads is None else str(device.threads)
        cells = (device.label, device.address, device.cpu_family or format.MISSING, threads, device.notes)
        table.add_row(*map(Text, cells))
    return table


def doctor_table(findings: Sequence[Finding]) -> Table:
    """Returns the findings, and the cure for everything missing."""
    table = Table(header_style="bold")
    for heading in ("area", "what", "found", "to get it"):
        table.add_column(heading, overflow="fold")
    area = None
    for finding in findings:
        missing = finding.value is None
        table.add_row(
            "" if finding.area == area else finding.area,
            finding.name,
            "missing" if missing else finding.value,
            (finding.fix or "") if missing else "",
            style="yellow" if missing else None,
        )
        area = finding.area
    return table
