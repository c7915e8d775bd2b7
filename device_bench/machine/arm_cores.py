"""Names of ARM cores by their part numbers, since ``/proc/cpuinfo`` of an ARM board has no model name."""

from __future__ import annotations

import re

_ARM = 0x41
_PARTS = {
    0xD03: "Cortex-A53",
    0xD04: "Cortex-A35",
    0xD05: "Cortex-A55",
    0xD07: "Cortex-A57",
    0xD08: "Cortex-A72",
    0xD09: "Cortex-A73",
    0xD0A: "Cortex-A75",
    0xD0B: "Cortex-A76",
    0xD0C: "Neoverse-N1",
    0xD0D: "Cortex-A77",
    0xD40: "Neoverse-V1",
    0xD41: "Cortex-A78",
    0xD44: "Cortex-X1",
    0xD46: "Cortex-A510",
    0xD47: "Cortex-A710",
    0xD48: "Cortex-X2",
    0xD49: "Neoverse-N2",
    0xD4D: "Cortex-A715",
    0xD4E: "Cortex-X3",
    0xD4F: "Neoverse-V2",
    0xD80: "Cortex-A520",
    0xD81: "Cortex-A720",
    0xD82: "Cortex-X4",
}
"""Part numbers of ARM's own designs, as in the Main ID Register of each core's manual."""


def arm_cores(cpuinfo: str) -> str | None:
    r"""Returns the kinds of cores in the text of ``/proc/cpuinfo``; None if it names no ARM parts.

    >>> arm_cores("CPU implementer : 0x41\nCPU part : 0xd08")
    'Cortex-A72'

    An unknown part keeps its number. Each kind is named once, in the order of the cores.
    """
    makers = [int(text, 16) for text in re.findall(r"^CPU implementer\s*:\s*(0x[0-9a-fA-F]+)$", cpuinfo, re.MULTILINE)]
    parts = [int(text, 16) for text in re.findall(r"^CPU part\s*:\s*(0x[0-9a-fA-F]+)$", cpuinfo, re.MULTILINE)]
    names = [
        _PARTS[part] if maker == _ARM and part in _PARTS else f"ARM core {maker:#04x}/{part:#05x}"
        for maker, part in zip(makers, parts, strict=False)
    ]
    return ", ".join(dict.fromkeys(names)) or None
