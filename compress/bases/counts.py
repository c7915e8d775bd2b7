"""How many images bases are found from."""

from __future__ import annotations

COPIES = 3
"""Changed copies of an image at most; with more, too few of the images are as they are."""

TOKENS = 106_000
"""Tokens of all images together."""


def images_to_see(distinct: int, tokens: int, copies: int = COPIES) -> int:
    """Returns how many images bases are found from: all that there are, and changed copies up to 106,000 tokens.

    Where there are plenty of images of the kind that the model will see, copies would only be unlike them.

    Args:
        distinct: number of images that there are.
        tokens: number of tokens of an image.
        copies: copies of an image at most.
    """
    return max(distinct, min((1 + copies) * distinct, TOKENS // tokens))
