from __future__ import annotations

import pickle

import pytest

import runtime
from runtime import MissingExtraError, PocketVitError, StorageError


def test_the_text_says_what_expected_got_and_fix() -> None:
    error = PocketVitError("It broke.", expected="two", got=0, fix="Mend it.")
    assert str(error) == "It broke. Expected two. Got 0. Mend it."
    assert str(PocketVitError("It broke")) == "It broke."


@pytest.mark.parametrize(
    ("name", "base", "code"),
    [
        ("PlanError", ValueError, 2),
        ("ModelError", ValueError, 2),
        ("DataError", ValueError, 2),
        ("ArtifactError", Exception, 2),
        ("UnsupportedTargetError", ValueError, 2),
        ("ParityError", Exception, 1),
        ("MeasurementError", Exception, 2),
        ("RunFolderError", Exception, 2),
        ("StorageError", OSError, 2),
    ],
)
def test_every_error_is_of_the_one_tree_and_survives_a_process(name: str, base: type[Exception], code: int) -> None:
    kind = getattr(runtime, name)
    assert issubclass(kind, PocketVitError)
    assert issubclass(kind, base)
    assert kind.exit_code == code
    error = pickle.loads(pickle.dumps(kind("It broke", got=1)))
    assert (type(error), str(error)) == (kind, "It broke. Got 1.")


def test_a_missing_extra_says_the_command() -> None:
    error = MissingExtraError("onnxruntime", "onnx")
    assert str(error) == (
        "This needs the package 'onnxruntime', which is not installed. Run: pip install 'pocketvit[onnx]'."
    )
    assert isinstance(error, ImportError)
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.package, copy.extra) == (type(error), str(error), "onnxruntime", "onnx")


def test_a_storage_error_is_caught_as_an_os_error() -> None:
    with pytest.raises(OSError, match="no space"):
        raise StorageError("no space")
