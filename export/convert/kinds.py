"""The kinds of file that models without a plan are exported as, and what writes each."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from export.formats import DEFAULT_KINDS
from export.settings import ExportSettings
from runtime import DataError, MissingExtraError


@dataclass(frozen=True)
class ConvertedKind:
    """How files of one kind are made of a model without a plan.

    Attributes:
        name: name of the kind in ``export.formats.KINDS``.
        source: the float file that it is made from, ``onnx`` or ``tflite``.
        converter: distribution that writes the float file.
        recipes: names in ``export.convert.quantise.CONVERTED_RECIPES``, in the order in which they are
            tried; empty for the float file itself.
        packages: names of the modules that have to be installed.
    """

    name: str
    source: str
    converter: str
    recipes: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()

    def written_by(self) -> str:
        """Returns name and version of the libraries that write it, such as ``litert-torch 0.10.0``."""
        names = (self.converter, *(("ai-edge-quantizer",) if self.recipes and self.source == "tflite" else ()))
        names += ("onnxruntime",) if self.recipes and self.source == "onnx" else ()
        return ", ".join(f"{name} {_version(name)}".strip() for name in names)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


_LITERT = ("litert_torch",)
_ONNX = ("onnx",)
_INT8 = (
    "aeq_static_wi8_ai8_float_islands",
    "aeq_static_wi8_ai8_products",
    "aeq_static_wi8_ai8_float_io",
    "aeq_dynamic_wi8_afp32",
)
_INTEGER = (*_LITERT, "ai_edge_quantizer")

CONVERTED: dict[str, ConvertedKind] = {
    own.name: own
    for own in (
        ConvertedKind("onnx", "onnx", "torch", packages=_ONNX),
        ConvertedKind("onnx-int8", "onnx", "torch", ("ort_qdq", "ort_qdq_products"), _ONNX),
        ConvertedKind("fp32", "tflite", "litert-torch", packages=_LITERT),
        ConvertedKind("int8", "tflite", "litert-torch", _INT8, _INTEGER),
        ConvertedKind("int8-full", "tflite", "litert-torch", ("aeq_static_wi8_ai8",), _INTEGER),
    )
}
"""Kinds by name."""


def check_convertible(settings: ExportSettings, architecture: str) -> None:
    """Checks that a model without a plan can be exported by ``settings``, with what is installed.

    Raises:
        DataError: a kind of file, or an option, is of PocketViT's own writers alone.
        MissingExtraError: a converter is not installed.
    """
    kinds = settings.kinds
    unknown = [name for name in kinds if name not in CONVERTED]
    if unknown:
        raise DataError(
            f"'{architecture}' has no plan, and converters write no files of this kind",
            expected=f"--formats among {', '.join(CONVERTED)}",
            got=", ".join(unknown),
            fix=f"Leave --formats out for {', '.join(DEFAULT_KINDS)}",
        )
    own = {
        "--app": settings.app,
        "--qat": settings.qat_epochs > 0,
        "--int8-recipe": bool(settings.int8_recipe),
        "--for": settings.made_for != ExportSettings().made_for,
    }
    given = [option for option, there in own.items() if there]
    if given:
        raise DataError(
            f"'{architecture}' has no plan, and converters write its files",
            expected="no options of PocketViT's own writers",
            got=", ".join(given),
            fix="Leave them out",
        )
    for name in kinds:
        for package in CONVERTED[name].packages:
            if find_spec(package) is None:
                raise MissingExtraError(package.replace("_", "-"), "convert")
