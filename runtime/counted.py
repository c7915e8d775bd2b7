"""A model without a plan: what is known of one that is exported whole, by a converter."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CountedModel:
    """A classifier of timm that has no plan, with its counted costs.

    Attributes:
        architecture: its name in timm.
        img_size: height and width of its image, pixels.
        in_chans: channels of its image.
        num_classes: number of its logits.
        macs: multiply-accumulates of one image, counted on the model as it ran.
        params: number of its parameters.
        converter: name and version of the library that wrote the file; empty for the model itself.
    """

    architecture: str
    img_size: tuple[int, int]
    in_chans: int
    num_classes: int
    macs: int
    params: int
    converter: str = ""

    @property
    def is_vector(self) -> bool:
        """Whether it answers with a vector; it answers with classes."""
        return False
