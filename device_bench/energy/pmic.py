"""Energy of a Raspberry Pi 5 from the currents and voltages of its power chip. Not yet tried on hardware."""

from __future__ import annotations

import re

from .source import Command, EnergyKind, NoSource, PolledPower, SourceError, Watch, run_command

READ = ("vcgencmd", "pmic_read_adc")
_INTERVAL_S = 0.1
_RAIL = re.compile(r"^\s*(\w+)_([AV])(?:\s+\w+\(\d+\))?\s*=\s*(-?\d+(?:\.\d+)?)\2\s*$", re.MULTILINE | re.ASCII)


def find_pmic(*, command: Command = run_command, watch: Watch | None = None) -> PolledPower | NoSource:
    """Returns the polled power of a Raspberry Pi 5, or the reason why it cannot be read.

    It is the sum over the rails of the chip, without its losses and without devices that are plugged in.

    Args:
        command: runs ``vcgencmd`` and returns its output.
        watch: see ``PolledPower``.
    """

    def read_w() -> float:
        return parse_watts(command(READ))

    try:
        read_w()
    except SourceError as error:
        return NoSource(f"The power chip of this board cannot be read (a Raspberry Pi 5 has one). {error}")
    return PolledPower(
        f"Raspberry Pi 5 PMIC, sum of its rails, read every {_INTERVAL_S:g} s",
        read_w,
        interval_s=_INTERVAL_S,
        watch=watch,
    )


def parse_watts(text: str) -> float:
    r"""Returns the power in the output of ``vcgencmd pmic_read_adc``, W: volts times amperes, over all rails.

    >>> parse_watts("3V3_SYS_A current(1)=0.5A\nEXT5V_V volt(24)=5.1A\n3V3_SYS_V volt(9)=3.0V")
    1.5

    Args:
        text: one line for each current and voltage; a voltage without current, such as that of the input, is ignored.

    Raises:
        SourceError: there is no current, or a current has no voltage.
    """
    values = {(rail, unit): float(value) for rail, unit, value in _RAIL.findall(text)}
    rails = [rail for rail, unit in values if unit == "A"]
    if not rails:
        raise SourceError("vcgencmd names no current", got=repr(text.strip()[:80]))
    lonely = [rail for rail in rails if (rail, "V") not in values]
    if lonely:
        raise SourceError("A current has no voltage", got=", ".join(lonely))
    return sum(values[rail, "A"] * values[rail, "V"] for rail in rails)


PMIC = EnergyKind("cpu", "measured", lambda own: find_pmic(command=own.command), lambda own: own.is_pi)
