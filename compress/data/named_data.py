"""Readers of the datasets known by name: where their files are, and how they are read."""

from __future__ import annotations

import gzip
import math
import os
import struct
import zlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from runtime import DataError, MissingExtraError, Progress

from .dataset import UNLABELLED, ArrayImages, Dataset

_FASHION_FOLDERS = (Path("/usr/share/datasets/fashion-mnist"),)
_FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


_NONE = np.zeros(0, np.int64)


def digits(folder: Path | None, skip_bad: bool, progress: Progress) -> Dataset:
    """Returns scikit-learn's 1,797 real 8x8 digits, all as training images.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise MissingExtraError("scikit-learn", "compress") from None
    raw = load_digits()
    pixels = np.clip(np.rint(raw.images * (255 / 16)), 0, 255).astype(np.uint8)
    labels = raw.target.astype(np.int64)
    names = tuple(str(c) for c in range(10))
    every = np.arange(len(labels), dtype=np.int64)
    return Dataset("digits", names, 1, (8, 8), False, ArrayImages(pixels), labels, every, _NONE, _NONE)


def fashion_mnist(folder: Path | None, skip_bad: bool, progress: Progress) -> Dataset:
    """Reads Fashion-MNIST from ``folder``; without one from the data folder or Debian's package, else downloads it.

    Raises:
        DataError: it is not there and cannot be downloaded, or a file is damaged.
    """
    return _idx_dataset("fashion-mnist", _fashion_place(folder, _IDX_STEMS), _FASHION_CLASSES)


def fashion_mnist_images(folder: Path | None, skip_bad: bool, progress: Progress) -> Dataset:
    """Reads the pictures of Fashion-MNIST, which needs its two files of pictures alone.

    Raises:
        DataError: they are not there and cannot be downloaded, or a file is damaged.
    """
    place = _fashion_place(folder, _IDX_STEMS[::2])
    train, test = (read_idx(file) for stem in _IDX_STEMS[::2] if (file := _idx_file(place, stem)) is not None)
    _check_idx_images(place, train, test)
    return _idx_images("fashion-mnist", train, test, np.full(len(train) + len(test), UNLABELLED, np.int64), ())


def _fashion_place(folder: Path | None, stems: Sequence[str]) -> Path:
    """Returns the folder that holds the files of Fashion-MNIST named by ``stems``, after a download if need be."""
    root = folder or data_root()
    places = [root, root / "FashionMNIST" / "raw", *([] if folder else _FASHION_FOLDERS)]
    for place in places:
        if all(_idx_file(place, stem) for stem in stems):
            return place
    if folder is not None:
        raise DataError(
            f"{folder} does not hold Fashion-MNIST", expected=" and ".join(stems[:2]) + " with or without .gz, …"
        )
    _download("FashionMNIST", root)
    return root / "FashionMNIST" / "raw"


_IDX_STEMS = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def _idx_file(folder: Path, stem: str) -> Path | None:
    return next((f for f in (folder / stem, folder / f"{stem}.gz") if f.is_file()), None)


def _idx_dataset(name: str, folder: Path, classes: tuple[str, ...]) -> Dataset:
    arrays = [read_idx(file) for stem in _IDX_STEMS if (file := _idx_file(folder, stem)) is not None]
    train_x, train_y, test_x, test_y = arrays
    _check_idx_images(folder, train_x, test_x)
    if train_y.ndim != 1 or test_y.ndim != 1:
        raise DataError(
            f"The files in {folder} are not images and labels",
            expected="labels (N,)",
            got=f"{train_y.shape}, {test_y.shape}",
        )
    if len(train_x) != len(train_y) or len(test_x) != len(test_y):
        raise DataError(f"The images and labels in {folder} are not as many")
    if int(max(train_y.max(), test_y.max())) >= len(classes):
        raise DataError(f"The labels in {folder} name unknown classes", expected=f"0 to {len(classes) - 1}")
    return _idx_images(name, train_x, test_x, np.concatenate([train_y, test_y]).astype(np.int64), classes)


def _check_idx_images(folder: Path, train: npt.NDArray[np.uint8], test: npt.NDArray[np.uint8]) -> None:
    """Refuses files whose content is not pictures of one size."""
    if [train.ndim, test.ndim] != [3, 3] or train.shape[1:] != test.shape[1:] or 0 in test.shape:
        raise DataError(
            f"The files in {folder} are not images and labels",
            expected="images (N, H, W) of one size",
            got=f"{train.shape}, {test.shape}",
        )


def _idx_images(
    name: str,
    train: npt.NDArray[np.uint8],
    test: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int64],
    classes: tuple[str, ...],
) -> Dataset:
    """Returns a dataset of pictures ``(N, H, W)`` and the labels of all, those of the training images first."""
    first, images = np.arange(len(train), dtype=np.int64), ArrayImages(np.concatenate([train, test]))
    last = np.arange(len(train), len(labels), dtype=np.int64)
    size = (int(train.shape[1]), int(train.shape[2]))
    return Dataset(name, classes, 1, size, True, images, labels, first, _NONE, last)


def read_idx(path: Path) -> npt.NDArray[np.uint8]:
    """Reads a file of the MNIST format (idx, uint8), plain or gzipped.

    Raises:
        DataError: the file is damaged, truncated, or of another type.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(f"{path} cannot be read", got=error) from error
    sane = len(content) >= 4 and content[:3] == b"\x00\x00\x08" and 1 <= content[3] <= 8
    if not sane or len(content) < 4 + 4 * content[3]:
        raise DataError(f"{path} is not an idx file of bytes", got=content[:4].hex() or "nothing")
    shape = struct.unpack(f">{content[3]}I", content[4 : 4 + 4 * content[3]])
    data = np.frombuffer(content, np.uint8, offset=4 + 4 * content[3])
    expected = math.prod(shape)
    if data.size != expected:
        raise DataError(f"{path} is truncated or too long", expected=f"{expected} bytes of data", got=data.size)
    return data.reshape(shape)


def _cifar(kind: str, labelled: bool, folder: Path | None, skip_bad: bool, progress: Progress) -> Dataset:
    """Reads ``CIFAR10`` or ``CIFAR100`` in torchvision's layout, and downloads it where no folder is named.

    Each of its files holds pictures and labels; without ``labelled`` nothing looks at the labels.

    Raises:
        DataError: the data is not there and cannot be downloaded.
    """
    import torchvision

    cls = getattr(torchvision.datasets, kind)
    root = folder or data_root()
    parts = []
    for train in (True, False):
        try:
            parts.append(cls(str(root), train=train, download=False))
        except RuntimeError:
            if folder is not None:
                raise DataError(
                    f"{folder} does not hold {kind}",
                    expected=f"the folder {cls.base_folder} in torchvision's layout",
                ) from None
            _download(kind, root)
            parts.append(cls(str(root), train=train, download=False))
    pixels = np.concatenate([part.data for part in parts]).astype(np.uint8)
    labels, names = np.full(len(pixels), UNLABELLED, np.int64), tuple[str, ...]()
    if labelled:
        labels = np.concatenate([np.asarray(part.targets) for part in parts]).astype(np.int64)
        names = tuple(map(str, parts[0].classes))
    cut = len(parts[0].data)
    train_split = np.arange(cut, dtype=np.int64)
    test = np.arange(cut, len(labels), dtype=np.int64)
    return Dataset(kind.lower(), names, 3, (32, 32), True, ArrayImages(pixels), labels, train_split, _NONE, test)


cifar10, cifar100 = partial(_cifar, "CIFAR10", True), partial(_cifar, "CIFAR100", True)
cifar10_images, cifar100_images = partial(_cifar, "CIFAR10", False), partial(_cifar, "CIFAR100", False)


def data_root() -> Path:
    """Returns the folder of downloaded datasets: ``$POCKETVIT_DATA``, or ``~/.cache/pocketvit``."""
    return Path(os.environ.get("POCKETVIT_DATA") or Path.home() / ".cache" / "pocketvit")


def _download(kind: str, root: Path) -> None:
    import torchvision

    try:
        getattr(torchvision.datasets, kind)(str(root), download=True)
    except Exception as error:  # URL, socket, checksum and zip errors have no common base
        debian = " or install Debian's package dataset-fashion-mnist" if kind == "FashionMNIST" else ""
        reason = str(error).strip().splitlines()
        raise DataError(
            f"{kind} is not in {root} and cannot be downloaded",
            got=f"{type(error).__name__}: {reason[0][:160] if reason else ''}",
            fix=f"Go online, put it there in torchvision's layout, name its folder (--data NAME:FOLDER){debian}",
        ) from error
