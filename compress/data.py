"""Datasets by name, each split once and for all by seed into train, held-out and test."""

from __future__ import annotations

import difflib
import gzip
import math
import os
import struct
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from runtime import DataError, MissingExtraError, Progress, open_image, silent

HELD_OUT = 0.1
"""Share of the training images held out to monitor training and to calibrate; never trained on."""

TEST = 0.2
"""Share of all images that becomes the test split where a dataset does not come with one."""

_IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".gif"}
_FASHION_FOLDERS = (Path("/usr/share/datasets/fashion-mnist"),)
_FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


class Images(Protocol):
    """A store of pictures, decoded when asked for."""

    def __len__(self) -> int:
        """Returns how many there are."""

    def __getitem__(self, index: int) -> Image.Image:
        """Returns one."""


@dataclass(frozen=True)
class Dataset:
    """Labelled pictures and their three splits.

    Attributes:
        name: as given to ``--data``.
        class_names: in the order of the labels.
        channels: 1 (grayscale) or 3 (RGB) as the pictures come.
        size: typical height and width in pixels, or None where they differ.
        mirror: whether a mirrored picture still belongs to its class (no for digits).
        images: all pictures.
        labels: ``(N,)`` int64.
        train: indices to train on.
        held_out: indices to monitor training with and to calibrate on.
        test: indices the reported accuracy is taken on, and nothing else.
    """

    name: str
    class_names: tuple[str, ...]
    channels: int
    size: tuple[int, int] | None
    mirror: bool
    images: Images
    labels: npt.NDArray[np.int64]
    train: npt.NDArray[np.int64]
    held_out: npt.NDArray[np.int64]
    test: npt.NDArray[np.int64]

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def from_files(self) -> bool:
        """Whether pictures are decoded from files, which is worth worker processes."""
        return isinstance(self.images, FileImages)


@dataclass(frozen=True)
class ArrayImages:
    """Pictures in memory: uint8 ``(N, H, W)`` or ``(N, H, W, 3)``."""

    pixels: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        """Returns how many there are."""
        return len(self.pixels)

    def __getitem__(self, index: int) -> Image.Image:
        """Returns one."""
        return Image.fromarray(self.pixels[index])


@dataclass(frozen=True)
class FileImages:
    """Pictures in files."""

    paths: tuple[Path, ...]

    def __len__(self) -> int:
        """Returns how many there are."""
        return len(self.paths)

    def __getitem__(self, index: int) -> Image.Image:
        """Decodes one.

        Raises:
            DataError: it cannot be decoded.
        """
        return open_image(self.paths[index])


def load_data(
    name: str,
    *,
    seed: int = 0,
    train_limit: int | None = None,
    skip_bad: bool = False,
    progress: Progress = silent,
) -> Dataset:
    """Loads a dataset and splits it.

    Args:
        name: ``digits``, ``fashion-mnist``, ``cifar10``, ``cifar100``, each but the first optionally with
            ``:FOLDER`` where it lies, or ``imagefolder:PATH`` (``train/`` and ``val/``, or one folder that is
            split by seed; a folder of pictures per class).
        seed: of the splits.
        train_limit: use only this many training images, the same share of every class.
        skip_bad: leave out pictures of a folder that cannot be decoded, instead of stopping.
        progress: told while a folder's pictures are checked.

    Raises:
        DataError: unknown name, data that is not there, an unreadable picture, too few images or classes.
    """
    kind, _, where = name.partition(":")
    if kind not in _LOADERS:
        near = difflib.get_close_matches(kind, _LOADERS, n=1)
        raise DataError(
            f"No dataset is called '{name}'",
            expected=", ".join([*list(_LOADERS)[:-1], "imagefolder:PATH"]),
            fix=f"Did you mean {near[0]}" if near else "A folder of your own is --data imagefolder:PATH",
        )
    if kind == "digits" and where:
        raise DataError("The dataset 'digits' is built in and takes no folder", got=name)
    raw = _LOADERS[kind](Path(where).expanduser() if where else None, skip_bad, progress)
    return _split(replace(raw, name=name), seed, train_limit)


def search_set(data: Dataset, per_class: int, seed: int) -> npt.NDArray[np.int64]:
    """Returns up to ``per_class`` random training indices of every class, shuffled.

    Ref: docs, "Search Set": fresh images of the training split for every iteration of the search.
    """
    generator = np.random.default_rng([seed, 0x5EA6C4])
    labels = data.labels[data.train]
    chosen = [generator.permutation(data.train[labels == c])[:per_class] for c in range(data.num_classes)]
    return generator.permutation(np.concatenate(chosen))


def _split(raw: Dataset, seed: int, train_limit: int | None) -> Dataset:
    """Splits off what a dataset does not come split: test (20 %) and held-out (10 % of the rest), per class."""
    counts = np.bincount(raw.labels[raw.train], minlength=raw.num_classes)
    fewest = int(counts.min())
    if raw.num_classes < 2 or fewest < 3:
        small = raw.class_names[int(counts.argmin())]
        raise DataError(
            f"The dataset '{raw.name}' is too small to split",
            expected="two classes or more, with at least 3 training images each",
            got=f"{raw.num_classes} classes; '{small}' has {fewest}",
        )
    train, test, held_out = raw.train, raw.test, raw.held_out
    if not len(test):
        train, test = _divide(raw.labels, train, TEST, np.random.default_rng([seed, 1]))
    if not len(held_out):
        train, held_out = _divide(raw.labels, train, HELD_OUT, np.random.default_rng([seed, 2]))
    if train_limit is not None:
        if train_limit < raw.num_classes:
            raise DataError(
                "--train-limit leaves a class empty", expected=f"{raw.num_classes} or more", got=train_limit
            )
        if train_limit < len(train):
            train = _draw(raw.labels, train, train_limit, np.random.default_rng([seed, 3]))
    return replace(raw, train=np.sort(train), held_out=np.sort(held_out), test=np.sort(test))


def _divide(
    labels: npt.NDArray[np.int64], indices: npt.NDArray[np.int64], share: float, generator: np.random.Generator
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Returns (rest, part): ``share`` of every class, at least one image of each, chosen at random."""
    part = []
    for c in np.unique(labels[indices]):
        own = generator.permutation(indices[labels[indices] == c])
        part.append(own[: max(1, round(share * len(own)))])
    chosen = np.concatenate(part)
    return np.setdiff1d(indices, chosen), chosen


def _draw(
    labels: npt.NDArray[np.int64], indices: npt.NDArray[np.int64], count: int, generator: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Returns ``count`` of ``indices`` at random: as near as can be the same share of every class, at least one."""
    classes, sizes = np.unique(labels[indices], return_counts=True)
    wanted = sizes * (count / len(indices))
    taken = np.maximum(1, wanted.astype(np.int64))
    while taken.sum() != count:
        if taken.sum() < count:
            taken[np.argmax(np.where(taken < sizes, wanted - taken, -np.inf))] += 1
        else:
            taken[np.argmax(np.where(taken > 1, taken - wanted, -np.inf))] -= 1
    return np.concatenate(
        [generator.permutation(indices[labels[indices] == c])[:n] for c, n in zip(classes, taken, strict=True)]
    )


_NONE = np.zeros(0, np.int64)


def _digits(folder: Path | None, skip_bad: bool, progress: Progress) -> Dataset:
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


def _fashion_mnist(folder: Path | None, skip_bad: bool, progress: Progress) -> Dataset:
    root = folder or data_root()
    places = [root, root / "FashionMNIST" / "raw", *([] if folder else _FASHION_FOLDERS)]
    for place in places:
        if all(_idx_file(place, stem) for stem in _IDX_STEMS):
            return _idx_dataset("fashion-mnist", place, _FASHION_CLASSES)
    if folder is not None:
        raise DataError(
            f"{folder} does not hold Fashion-MNIST", expected=" and ".join(_IDX_STEMS[:2]) + " with or without .gz, …"
        )
    _download("FashionMNIST", root)
    return _idx_dataset("fashion-mnist", root / "FashionMNIST" / "raw", _FASHION_CLASSES)


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
    if [array.ndim for array in arrays] != [3, 1, 3, 1] or train_x.shape[1:] != test_x.shape[1:] or 0 in test_x.shape:
        raise DataError(
            f"The files in {folder} are not images and labels",
            expected="images (N, H, W) of one size and labels (N,)",
            got=", ".join(str(array.shape) for array in arrays),
        )
    if len(train_x) != len(train_y) or len(test_x) != len(test_y):
        raise DataError(f"The images and labels in {folder} are not as many")
    if int(max(train_y.max(), test_y.max())) >= len(classes):
        raise DataError(f"The labels in {folder} name unknown classes", expected=f"0 to {len(classes) - 1}")
    train = np.arange(len(train_y), dtype=np.int64)
    test = np.arange(len(train_y), len(train_y) + len(test_y), dtype=np.int64)
    labels = np.concatenate([train_y, test_y]).astype(np.int64)
    images = ArrayImages(np.concatenate([train_x, test_x]))
    size = (int(train_x.shape[1]), int(train_x.shape[2]))
    return Dataset(name, classes, 1, size, True, images, labels, train, _NONE, test)


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


def _cifar(kind: str) -> Callable[[Path | None, bool, Progress], Dataset]:
    def load(folder: Path | None, skip_bad: bool, progress: Progress) -> Dataset:
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
        labels = np.concatenate([np.asarray(part.targets) for part in parts]).astype(np.int64)
        names, cut = tuple(map(str, parts[0].classes)), len(parts[0].targets)
        train_split = np.arange(cut, dtype=np.int64)
        test = np.arange(cut, len(labels), dtype=np.int64)
        return Dataset(kind.lower(), names, 3, (32, 32), True, ArrayImages(pixels), labels, train_split, _NONE, test)

    return load


def data_root() -> Path:
    """Returns where downloaded datasets lie: ``$POCKETVIT_DATA``, or ``~/.cache/pocketvit``."""
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


def _imagefolder(folder: Path | None, skip_bad: bool, progress: Progress) -> Dataset:
    if folder is None:
        raise DataError("imagefolder needs a path", expected="--data imagefolder:PATH")
    if not folder.is_dir():
        raise DataError(f"The image folder {folder} does not exist")
    roots = [folder / "train", folder / "val"] if (folder / "train").is_dir() else [folder]
    if len(roots) == 2 and not roots[1].is_dir():
        raise DataError(f"{folder} has train/ but no val/", fix="Add val/, or give one folder with a folder per class")
    names = tuple(sorted(p.name for p in roots[0].iterdir() if p.is_dir() and not p.name.startswith(".")))
    if not names:
        raise DataError(f"{roots[0]} holds no classes", expected="one folder of pictures per class")
    extra = sorted({p.name for p in roots[-1].iterdir() if p.is_dir() and not p.name.startswith(".")} - set(names))
    if extra:
        raise DataError(f"{roots[-1]} has classes that train/ has not", got=", ".join(extra[:5]))
    parts = [_list_images(root, names) for root in roots]
    paths = [path for part in parts for path, _ in part]
    labels = [label for part in parts for _, label in part]
    good = _check_images(paths, skip_bad, progress)
    cut = sum(good[: len(parts[0])])
    paths = [path for path, ok in zip(paths, good, strict=True) if ok]
    kept = np.array([label for label, ok in zip(labels, good, strict=True) if ok], np.int64)
    if not paths:
        raise DataError(f"{folder} holds no pictures", expected=", ".join(sorted(_IMAGE_SUFFIXES)))
    train = np.arange(cut, dtype=np.int64)
    test = np.arange(cut, len(kept), dtype=np.int64)
    if len(roots) == 2 and not len(test):
        raise DataError(
            f"{roots[1]} holds no pictures", fix="Add some, or remove val/ and take train/ as the one folder"
        )
    channels = 1 if all(_is_gray(path) for path in paths[:64]) else 3
    return Dataset("imagefolder", names, channels, None, True, FileImages(tuple(paths)), kept, train, _NONE, test)


def _list_images(root: Path, names: Sequence[str]) -> list[tuple[Path, int]]:
    found = []
    for label, name in enumerate(names):
        folder = root / name
        files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in _IMAGE_SUFFIXES) if folder.is_dir() else []
        found += [(path, label) for path in files]
    return found


def _check_images(paths: Sequence[Path], skip_bad: bool, progress: Progress) -> list[bool]:
    """Decodes every picture once, so that a bad one is found now and not hours into training."""

    def problem(path: Path) -> str | None:
        try:
            open_image(path)
        except DataError as error:
            return str(error)
        return None

    good = []
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        for done, (path, bad) in enumerate(zip(paths, pool.map(problem, paths), strict=True), 1):
            if bad is not None and not skip_bad:
                pool.shutdown(wait=True, cancel_futures=True)
                raise DataError(bad, fix=f"Replace or remove {path}, or leave bad pictures out with --skip-bad")
            good.append(bad is None)
            progress("check images", done, len(paths), "" if bad is None else f"skipped {path}")
    return good


def _is_gray(path: Path) -> bool:
    with Image.open(path) as image:
        return image.mode in {"1", "L", "I;16", "I", "LA"}


_LOADERS: dict[str, Callable[[Path | None, bool, Progress], Dataset]] = {
    "digits": _digits,
    "fashion-mnist": _fashion_mnist,
    "cifar10": _cifar("CIFAR10"),
    "cifar100": _cifar("CIFAR100"),
    "imagefolder": _imagefolder,
}


def known_data() -> tuple[str, ...]:
    """Returns the names ``load_data`` takes."""
    return tuple(_LOADERS)
