"""The file of text embeddings: what it holds, what is refused, and how data takes its order of classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compress.text_embeddings import as_texts_name, read_text_embeddings
from runtime import DataError
from tests.compress.texts import written
from tests.compress.tiny import toy_data

ONES = np.ones((3, 8), np.float32)


def test_vectors_of_any_length_become_unit_vectors_and_clips_scale_is_usual(tmp_path: Path) -> None:
    vectors = np.array([[3, 4], [0, 1e-30], [-1e30, 0]], np.float64)
    found = read_text_embeddings(written(tmp_path, vectors=vectors))
    assert found.names == ("ant", "bee", "cat")
    assert np.allclose(found.vectors, [[0.6, 0.8], [0, 1], [-1, 0]], atol=1e-15)
    assert (found.dim, found.scale, found.bias, found.notes) == (2, 100.0, 0.0, ())


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_numbers_may_be_of_any_float_and_shape(tmp_path: Path, dtype: Any) -> None:
    path = written(tmp_path, vectors=ONES.astype(dtype), logit_scale=np.array([112.5], dtype), logit_bias=dtype(-16.5))
    found = read_text_embeddings(path)
    assert (found.scale, found.bias, found.vectors.dtype) == (112.5, -16.5, np.float64)
    assert np.allclose(found.vectors, 8**-0.5)


def test_a_scale_like_a_logarithm_is_said(tmp_path: Path) -> None:
    (note,) = read_text_embeddings(written(tmp_path, logit_scale=4.6052)).notes
    assert "logit_scale of texts.npz is 4.6052, which looks like the logarithm" in note


@pytest.mark.parametrize(
    ("arrays", "text"),
    [
        ({"names": None}, "lacks an array. Expected names and vectors"),
        ({"vectors": None}, "lacks an array. Expected names and vectors"),
        ({"logitscale": 100.0}, "has other arrays"),
        ({"names": np.array(["a", "b", "c"], object)}, "cannot be read. Expected an NPZ without pickled arrays"),
        ({"vectors": np.array([[1.0], [2.0], [None]])}, "cannot be read. Expected an NPZ without pickled arrays"),
        ({"names": np.array([b"a", b"b", b"c"])}, "are no list of texts. Expected an array of text"),
        ({"names": np.array([["a", "b", "c"]])}, "Got <U1 of shape (1, 3)"),
        ({"names": np.array(["a", "b", "a"])}, "names a class twice. Expected each once. Got a"),
        ({"names": np.array(["a", " ", "c"])}, "has a name that cannot be shown. Expected printable text. Got ' '"),
        ({"names": np.array(["a", "b\nc", "c"])}, "Got 'b\\nc'"),
        ({"names": np.array(["a"]), "vectors": ONES[:1]}, "names too few classes. Expected two or more. Got 1"),
        ({"vectors": ONES[:2]}, "Expected floats of shape (3, D), a row for each name. Got float32 of shape (2, 8)"),
        ({"vectors": ONES[0]}, "has vectors of another form"),
        ({"vectors": ONES[:, :0]}, "has vectors of another form"),
        ({"vectors": ONES.astype(np.int64)}, "Got int64 of shape (3, 8)"),
        ({"vectors": ONES * np.array([[1], [np.nan], [1]])}, "are not finite. Expected numbers. Got those of bee"),
        ({"vectors": ONES * np.array([[1], [1], [np.inf]])}, "are not finite. Expected numbers. Got those of cat"),
        (
            {"vectors": ONES * np.array([[0.0], [1], [1]])},
            "has vectors of zeros. Expected a direction. Got those of ant",
        ),
        ({"logit_scale": 0.0}, "has a logit_scale that is not positive. Expected the factor itself. Got 0.0"),
        ({"logit_scale": np.nan}, "has a logit_scale that is no number. Expected one finite number. Got nan"),
        ({"logit_scale": np.ones(3)}, "has a logit_scale that is no number"),
        ({"logit_bias": np.array("x")}, "has a logit_bias that is no number"),
    ],
)
def test_what_is_no_list_of_texts_is_refused(tmp_path: Path, arrays: dict[str, Any], text: str) -> None:
    with pytest.raises(DataError) as caught:
        read_text_embeddings(written(tmp_path, **arrays))
    assert text in str(caught.value)


def test_a_pickle_is_never_loaded(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "harm",)

    path = written(tmp_path, names=np.array([Harm(), Harm(), Harm()], object))
    with pytest.raises(DataError, match="cannot be read"):
        read_text_embeddings(path)
    assert not (tmp_path / "harm").exists()


def test_a_file_that_is_no_npz_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.npz does not exist\. Change --text-embeddings"):
        read_text_embeddings(tmp_path / "none.npz")
    np.save(tmp_path / "one.npy", ONES)
    with pytest.raises(DataError, match=r"one\.npy is no NPZ\. Expected an archive of arrays"):
        read_text_embeddings(tmp_path / "one.npy")
    whole = written(tmp_path).read_bytes()
    for cut in (len(whole) // 2, len(whole) - 30):
        (tmp_path / "cut.npz").write_bytes(whole[:cut])
        with pytest.raises(DataError, match=r"is no NPZ|cannot be read"):
            read_text_embeddings(tmp_path / "cut.npz")
    place = whole.index(b"\x93NUMPY") + 200
    (tmp_path / "bad.npz").write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
    with pytest.raises(DataError, match="cannot be read"):
        read_text_embeddings(tmp_path / "bad.npz")


def test_a_file_that_grows_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compress.text_embeddings._MOST_BYTES", 300)
    with pytest.raises(DataError, match=r"is too large\. Expected at most"):
        read_text_embeddings(written(tmp_path))


def test_labelled_data_takes_the_order_of_the_texts(tmp_path: Path) -> None:
    data = toy_data()
    own = data.class_names
    turned = as_texts_name(data, read_text_embeddings(written(tmp_path, names=np.array(own[::-1]))))
    assert turned.class_names == own[::-1]
    assert [turned.class_names[label] for label in turned.labels] == [own[label] for label in data.labels]
    with pytest.raises(DataError) as caught:
        as_texts_name(data, read_text_embeddings(written(tmp_path, names=np.array([*own[:2], "moth"]))))
    text = str(caught.value)
    assert f"it lacks {own[2]}; it has moth, which the data lacks" in text
    assert "Name the texts as the classes of the data, or give --no-labels" in text
