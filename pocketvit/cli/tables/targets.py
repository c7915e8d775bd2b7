"""The targets of an inventory as a table on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from device_bench import format
from device_bench.targets.base import Device


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
