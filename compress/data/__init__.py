"""Pictures and their labels: where they come from, how they are split, checked, augmented and batched.

A source is a function that returns a ``Dataset`` and a line in ``SOURCES``. A file outside the package calls
``SOURCES.register(name, source)`` and is named in ``POCKETVIT_PLUGINS``.
"""

from __future__ import annotations

from runtime import DataError
from runtime.registry import Registry

from .base import Source

SOURCES: Registry[Source] = Registry(
    "dataset",
    {
        "digits": "compress.data.sources:DIGITS",
        "fashion-mnist": "compress.data.sources:FASHION_MNIST",
        "cifar10": "compress.data.sources:CIFAR10",
        "cifar100": "compress.data.sources:CIFAR100",
        "imagefolder": "compress.data.sources:IMAGE_FOLDER",
        "unlabelled": "compress.data.sources:UNLABELLED",
    },
    error=DataError,
)
"""Sources of data by the name that ``--data`` takes."""


def data_forms() -> tuple[str, ...]:
    """Returns the possible arguments of ``--data``, such as ``cifar10[:FOLDER]`` and ``imagefolder:PATH``."""
    return tuple(source.form for source in SOURCES.values())
