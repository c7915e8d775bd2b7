"""The command ``models``."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from pocketvit.output import print_json, say
from runtime import encode

from .common import Json


def models(
    pattern: Annotated[
        str | None,
        Parameter(help="Part of a name, such as dinov3, or a pattern for the whole name, such as 'vit_small*'."),
    ] = None,
    /,
    *,
    as_json: Json = False,
) -> None:
    """List timm's architectures: which can be pruned, and what stands in the way of others.

    Parameters and MACs are those of the whole model, with the classifier of timm's weights or one of 1,000 classes.
    No weights are downloaded or made. What can be pruned can be exported, too. The others are exported whole, by the
    converters of the extra convert.
    """
    from compress.model.catalogue import listed_models
    from pocketvit.cli.tables.models import catalogue_table
    from pocketvit.console import stdout_console

    found = tuple(listed_models(pattern))
    if as_json:
        print_json("pocketvit.models", {"models": encode(found)})
        return
    stdout_console().print(catalogue_table(found))
    pruned = sum(own.use == "prune" for own in found)
    say(f"{pruned} of {len(found)} can be pruned. pocketvit export converts the others whole, where a converter can.")
