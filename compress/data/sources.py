"""The sources of data that come with PocketViT. Imports no torch."""

from __future__ import annotations

from .base import Source

DIGITS = Source("digits", "compress.data.named_data:digits")
FASHION_MNIST = Source(
    "fashion-mnist",
    "compress.data.named_data:fashion_mnist",
    folder="optional",
    open_unlabelled="compress.data.named_data:fashion_mnist_images",
)
CIFAR10 = Source(
    "cifar10",
    "compress.data.named_data:cifar10",
    folder="optional",
    open_unlabelled="compress.data.named_data:cifar10_images",
)
CIFAR100 = Source(
    "cifar100",
    "compress.data.named_data:cifar100",
    folder="optional",
    open_unlabelled="compress.data.named_data:cifar100_images",
)
IMAGE_FOLDER = Source(
    "imagefolder",
    "compress.data.image_folder:image_folder",
    folder="required",
    named_by_folders=True,
    open_unlabelled="compress.data.unlabelled:image_folder_images",
)
UNLABELLED = Source(
    "unlabelled",
    "compress.data.unlabelled:unlabelled_folder",
    folder="required",
    labelled=False,
)
