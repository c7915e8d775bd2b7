"""The sources of data that come with PocketViT. Imports no torch."""

from __future__ import annotations

from .base import Source

DIGITS = Source("digits", "compress.data.named_data:digits")
FASHION_MNIST = Source("fashion-mnist", "compress.data.named_data:fashion_mnist", folder="optional")
CIFAR10 = Source("cifar10", "compress.data.named_data:cifar10", folder="optional")
CIFAR100 = Source("cifar100", "compress.data.named_data:cifar100", folder="optional")
IMAGE_FOLDER = Source(
    "imagefolder", "compress.data.image_folder:image_folder", folder="required", named_by_folders=True
)
