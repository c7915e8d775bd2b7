"""The vectors of texts that make an image tower a classifier, as an NPZ file holds them."""

from __future__ import annotations

import zipfile
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from compress.data.class_order import check_same_classes, reordered
from compress.data.dataset import Dataset
from runtime import DataError

CLIP_SCALE = 100.0
"""The factor of the logits that CLIP's training ended at, and the largest that it allows.

Ref: Radford et al. 2021 (arXiv 2103.00020), section 2.5.
"""

_NEEDED, _FREE = ("names", "vectors"), ("logit_scale", "logit_bias")
_MOST_BYTES = 2**30
_LIKE_A_LOGARITHM = 10.0
_HOW = "Write it with numpy.savez(FILE, names=…, vectors=…)"


@dataclass(frozen=True, eq=False)
class TextEmbeddings:
    """The texts that an image is compared with.

    Attributes:
        path: the file that they come from.
        names: the classes, in the order of the outputs.
        vectors: a vector of length 1 for each, ``(K, D)`` float64.
        scale: the factor of the cosines, positive.
        bias: what is added to every logit.
    """

    path: Path
    names: tuple[str, ...]
    vectors: npt.NDArray[np.float64]
    scale: float = CLIP_SCALE
    bias: float = 0.0

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return int(self.vectors.shape[1])

    @property
    def weight(self) -> npt.NDArray[np.float32]:
        """The rows of the last Linear, ``(K, D)``: the vectors times the factor of the logits."""
        return (self.scale * self.vectors).astype(np.float32)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know about the file, a sentence each."""
        if self.scale > _LIKE_A_LOGARITHM:
            return ()
        return (
            f"The logit_scale of {self.path.name} is {self.scale:g}, which looks like the logarithm that models "
            f"store: the factor itself is expected, {CLIP_SCALE:g} for CLIP",
        )


def read_text_embeddings(path: Path) -> TextEmbeddings:
    """Reads the texts of an NPZ file; arrays that are pickled are never loaded.

    The file has the arrays ``names``, ``(K,)`` text, and ``vectors``, ``(K, D)`` floats of any length, and it may have
    the numbers ``logit_scale``, 100 without it, and ``logit_bias``, 0 without it.

    Raises:
        DataError: the file is missing, damaged or no NPZ; an array is missing, unknown, pickled or of another form;
            there are fewer than two names, or a name stands twice; or a vector is zero or not finite.
    """
    where = f"The file of text embeddings {path}"
    arrays = _read_arrays(path, where)
    names = _names(arrays["names"], where)
    vectors = _vectors(arrays["vectors"], names, where)
    scale = _number(arrays, "logit_scale", where, CLIP_SCALE)
    if scale <= 0:
        raise DataError(f"{where} has a logit_scale that is not positive", expected="the factor itself", got=scale)
    return TextEmbeddings(path, names, vectors, scale, _number(arrays, "logit_bias", where, 0.0))


def as_texts_name(data: Dataset, texts: TextEmbeddings) -> Dataset:
    """Returns labelled data with its classes in the order of the texts.

    Raises:
        DataError: a class has no text, or a text is of no class.
    """
    check_same_classes(
        texts.names,
        data.class_names,
        f"The file of text embeddings {texts.path}",
        "Name the texts as the classes of the data, or give --no-labels",
    )
    return reordered(data, texts.names)


def _read_arrays(path: Path, where: str) -> dict[str, npt.NDArray[Any]]:
    if not path.is_file():
        raise DataError(f"{where} does not exist", fix="Change --text-embeddings")
    try:
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file):
                raise DataError(f"{where} is no NPZ", expected="an archive of arrays", fix=_HOW)
            file.seek(0)
            with np.load(file, allow_pickle=False) as stored:
                return _known_arrays(stored, where)
    except (
        OSError,
        ValueError,
        EOFError,
        KeyError,
        zipfile.BadZipFile,
        zlib.error,
        RuntimeError,
        MemoryError,
    ) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{where} cannot be read", expected="an NPZ without pickled arrays", got=error, fix=_HOW
        ) from error


def _known_arrays(stored: Any, where: str) -> dict[str, npt.NDArray[Any]]:
    found = list(stored.files)
    missing = [name for name in _NEEDED if name not in found]
    unknown = [name for name in found if name not in (*_NEEDED, *_FREE)]
    if missing or unknown:
        raise DataError(
            f"{where} has other arrays" if unknown else f"{where} lacks an array",
            expected=f"{' and '.join(_NEEDED)}, and where the model has them {' and '.join(_FREE)}",
            got=", ".join(found) or "none",
            fix=_HOW,
        )
    size = sum(own.file_size for own in stored.zip.infolist())
    if size > _MOST_BYTES:
        raise DataError(
            f"{where} is too large", expected=f"at most {_MOST_BYTES / 1e9:.1f} GB", got=f"{size / 1e9:.1f}"
        )
    return {name: np.asarray(stored[name]) for name in found}


def _names(array: npt.NDArray[Any], where: str) -> tuple[str, ...]:
    if array.ndim != 1 or array.dtype.kind != "U":
        raise DataError(
            f"The names of {where[0].lower()}{where[1:]} are no list of texts",
            expected="an array of text, one name for each vector",
            got=f"{array.dtype} of shape {array.shape}",
            fix="Write numpy.array(names) of a list of texts",
        )
    names = tuple(map(str, array))
    if len(names) < 2:
        raise DataError(f"{where} names too few classes", expected="two or more", got=len(names))
    blank = [place for place, name in enumerate(names) if not name.strip() or not name.isprintable()]
    if blank:
        raise DataError(
            f"{where} has a name that cannot be shown", expected="printable text", got=f"{names[blank[0]]!r}"
        )
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(f"{where} names a class twice", expected="each once", got=_few(twice))
    return names


def _vectors(array: npt.NDArray[Any], names: Sequence[str], where: str) -> npt.NDArray[np.float64]:
    if array.ndim != 2 or array.dtype.kind != "f" or len(array) != len(names) or not array.shape[1]:
        raise DataError(
            f"{where} has vectors of another form",
            expected=f"floats of shape ({len(names)}, D), a row for each name",
            got=f"{array.dtype} of shape {array.shape}",
        )
    vectors = array.astype(np.float64)
    bad = [name for name, own in zip(names, vectors, strict=True) if not np.isfinite(own).all()]
    if bad:
        raise DataError(f"{where} has vectors that are not finite", expected="numbers", got=f"those of {_few(bad)}")
    largest = np.abs(vectors).max(axis=1, keepdims=True)
    zero = [name for name, own in zip(names, largest, strict=True) if not own[0]]
    if zero:
        raise DataError(f"{where} has vectors of zeros", expected="a direction", got=f"those of {_few(zero)}")
    vectors = vectors / largest
    unit: npt.NDArray[np.float64] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def _number(arrays: dict[str, npt.NDArray[Any]], name: str, where: str, usual: float) -> float:
    array = arrays.get(name, np.array(usual))
    if array.size != 1 or array.dtype.kind not in "fiu" or not np.isfinite(array).all():
        raise DataError(
            f"{where} has a {name} that is no number",
            expected="one finite number",
            got=f"{array.dtype} of shape {array.shape}" if array.size != 1 or array.dtype.kind not in "fiu" else array,
        )
    return float(array.reshape(())[()])


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{', '.join(names[:5])}{more}"
