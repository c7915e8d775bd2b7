"""The licence that a model card states."""

from __future__ import annotations

import re
from pathlib import Path

_LONGEST = 100


def licence_in_card(card: Path | None) -> str | None:
    """Returns the licence in the front matter of a ``README.md``; None where it states none.

    A card with ``license: other`` names it in ``license_name``.
    """
    try:
        text = card.read_text(encoding="utf-8", errors="replace")[:65536] if card is not None else ""
    except OSError:
        return None
    matter = re.match(r"\ufeff?---[ \t]*\r?\n(.*?)\r?\n---", text, re.DOTALL)
    if matter is None:
        return None
    stated = dict(re.findall(r"(?m)^(license|license_name):[ \t]*[\"']?([^\"'#\r\n]+)", matter[1]))
    name = stated.get("license", "").strip()
    if name == "other":
        name = stated.get("license_name", name).strip()
    return name[:_LONGEST] if name.isprintable() and name else None
