"""The command ``doctor``."""

from __future__ import annotations

from pocketvit.output import print_json
from runtime import encode

from .common import Json


def doctor(*, as_json: Json = False) -> None:
    """Show what this machine and installation can do, what is missing, and how to get it."""
    from pocketvit.cli.tables.targets import doctor_table
    from pocketvit.console import stdout_console
    from pocketvit.jobs.doctor import examine

    findings = examine()
    if as_json:
        print_json("pocketvit.doctor", {"findings": encode(tuple(findings))})
    else:
        stdout_console().print(doctor_table(findings))
