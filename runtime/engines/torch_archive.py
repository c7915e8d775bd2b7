"""The ``.pt2`` archive of a model for torch, read and checked with the standard library alone.

``torch.export.load`` runs code from a hostile archive: it unpickles sample inputs, constants and marked weights with
``weights_only=False``, evaluates every symbolic size with ``sympy.sympify``, compiles guards and names into Python, and
finds operators by their path from ``torch``. Therefore our files hold nothing to unpickle. Every file is checked
against the short list of what PocketViT writes, and torch reads an archive that is packed again from the checked
parts. torch itself promises no such safety.
"""

from __future__ import annotations

import io
import json
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from runtime.errors import ArtifactError

Shape = tuple[int, ...]

PROGRAM = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"
SAMPLES = "data/sample_inputs/model.pt"
FIXED = {"archive_format": b"pt2", "archive_version": b"0", "byteorder": b"little", SAMPLES: b""}
"""Records with fixed content; the sample inputs are empty, since they would be pickled."""

OPERATORS = frozenset(
    f"torch.ops.aten.{name}"
    for name in (
        "add.Tensor avg_pool2d.default cat.default conv2d.default div.Tensor expand.default flatten.using_ints "
        "gelu.default group_norm.default layer_norm.default linear.default matmul.default max_pool2d.default "
        "mean.dim mul.Tensor pad.default permute.default relu.default reshape.default rsqrt.default select.int "
        "sigmoid.default silu.default slice.Tensor softmax.int square.default stack.default sub.Tensor "
        "sum.dim_IntList sym_size.int transpose.int view.default"
    ).split()
)
"""The operators of an exported Vision Transformer; none of them reads or writes a file."""

_FLOAT32 = 7
_LEAF: dict[str, Any] = {"type": None, "context": None, "children_spec": []}
_SPECS = {
    "in_spec": [
        1,
        {
            "type": "builtins.tuple",
            "context": "null",
            "children_spec": [
                {"type": "builtins.tuple", "context": "null", "children_spec": [_LEAF]},
                {"type": "builtins.dict", "context": "[]", "children_spec": []},
            ],
        },
    ],
    "out_spec": [1, _LEAF],
}
_WORD = re.compile(r"(?!.*__)[\w.+]*", re.ASCII)
_SYMBOL = re.compile(r"(?:Symbol\('s\d{1,6}'(?:, (?:positive|integer)=True){1,2}\)|s\d{1,6}|\d{1,18})", re.ASCII)
_EMPTY = ("metadata", "treespec_namedtuple_fields", "custom_obj_values", "guards_code")
_BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    NotImplementedError,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    EOFError,
    OverflowError,
    RecursionError,
    RuntimeError,
)


@dataclass(frozen=True)
class TensorValue:
    """A tensor as an archive describes it; -1 is a free dimension."""

    name: str
    shape: Shape


@dataclass(frozen=True)
class TorchArchive:
    """The content of a checked ``.pt2`` file.

    Attributes:
        records: every record's bytes by name.
        program: the graph, as JSON values.
        weights: shapes of the weights, ``(outputs, inputs)`` for Linears, by name.
        inputs: of the graph, without the weights.
        outputs: of the graph.
    """

    records: Mapping[str, bytes]
    program: Mapping[str, Any]
    weights: Mapping[str, Shape]
    inputs: tuple[TensorValue, ...]
    outputs: tuple[TensorValue, ...]

    @property
    def nodes(self) -> list[dict[str, Any]]:
        """The operators in their order."""
        nodes: list[dict[str, Any]] = self.program["graph_module"]["graph"]["nodes"]
        return nodes

    def shape(self, tensor: str) -> Shape:
        """Returns the shape of a tensor of the graph; -1 is a free dimension."""
        return _shape(self.program["graph_module"]["graph"]["tensor_values"][tensor]["sizes"])

    @property
    def weight_of(self) -> dict[str, str]:
        """For each tensor of the graph that is a weight, the weight's name."""
        specs = self.program["graph_module"]["signature"]["input_specs"]
        found = [spec["parameter"] for spec in specs if "parameter" in spec]
        return {spec["arg"]["name"]: spec["parameter_name"] for spec in found}


def read_torch_archive(path: Path) -> TorchArchive:
    """Reads a ``.pt2`` file that PocketViT wrote, and refuses any other content.

    Raises:
        ArtifactError: the file is damaged, or holds anything that PocketViT does not write.
    """
    try:
        return parse_torch_archive(path.read_bytes())
    except ArtifactError as error:
        raise ArtifactError(f"{path} is not a model that this project wrote for torch", got=error) from error
    except (*_BROKEN, OSError) as error:
        text = f"{type(error).__name__}: {str(error)[:200]}"
        raise ArtifactError(
            f"{path} is damaged or not a .pt2 archive", got=text, fix="Copy it or export it again"
        ) from error


def parse_torch_archive(data: bytes) -> TorchArchive:
    """Reads the bytes of a file as ``read_torch_archive`` does; a damaged file may raise any error."""
    records = _records(data)
    for name, content in FIXED.items():
        if records.get(name) != content:
            _refuse(f"its record {name}", content, records.get(name, b"none")[:20])
    program, config = json.loads(records[PROGRAM]), json.loads(records[WEIGHTS])
    if json.loads(records[CONSTANTS]) != {"config": {}}:
        _refuse("its constants", "none", "some")
    _check(program, "")
    _check(config, "")
    weights = {name: _weight(name, meta, records) for name, meta in config["config"].items()}
    known = {*FIXED, PROGRAM, WEIGHTS, CONSTANTS, ".data/version"}
    known |= {f"data/weights/{meta['path_name']}" for meta in config["config"].values()}
    if unknown := sorted(records.keys() - known):
        _refuse("its records", "weights and a graph", unknown[0][:80])
    graph, signature = program["graph_module"]["graph"], program["graph_module"]["signature"]
    users = [
        spec["user_input"]["arg"]["as_tensor"]["name"] for spec in signature["input_specs"] if "user_input" in spec
    ]
    specs = {
        spec["parameter"]["arg"]["name"]: spec["parameter"]["parameter_name"]
        for spec in signature["input_specs"]
        if "parameter" in spec
    }
    if len(users) + len(specs) != len(signature["input_specs"]) or not set(specs.values()) <= weights.keys():
        _refuse("its signature", "weights that it holds, and an image", "others")
    values = graph["tensor_values"]
    if any(value["dtype"] != _FLOAT32 for value in values.values()):
        _refuse("a tensor", "float32", "another type")
    outputs = [item["as_tensor"]["name"] for item in graph["outputs"]]
    inputs = tuple(TensorValue(name, _shape(values[name]["sizes"])) for name in users)
    outs = tuple(TensorValue(name, _shape(values[name]["sizes"])) for name in outputs)
    return TorchArchive(records, program, weights, inputs, outs)


def pack_torch_archive(records: Mapping[str, bytes]) -> bytes:
    """Returns the archive of ``records``: equal records give equal bytes."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(records):
            archive.writestr(zipfile.ZipInfo(f"model/{name}"), records[name])
    return out.getvalue()


def _records(data: bytes) -> dict[str, bytes]:
    records: dict[str, bytes] = {}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        infos = archive.infolist()
        if sum(info.file_size for info in infos) > len(data):
            _refuse("its size", f"at most {len(data)} bytes of records", "more")
        for info in infos:
            name = info.filename.partition("/")[2]
            if info.compress_type != zipfile.ZIP_STORED or not name or name in records:
                _refuse("a record", "stored as it is, once", info.filename[:80])
            records[name] = archive.read(info)
    return records


def _check(value: Any, key: str) -> None:
    """Refuses every text in a file that torch might evaluate, import, compile or look up."""
    if key in _EMPTY and value:
        _refuse(key, "nothing", "something")
    if key == "use_pickle" and value is not False:
        _refuse("a weight", "raw bytes", "a pickle")
    if isinstance(value, dict):
        for name, item in value.items():
            _check_text(name, "a name")
            _check(item, name)
    elif isinstance(value, list):
        for item in value:
            _check(item, key)
    elif isinstance(value, str):
        _check_text(value, key)


def _check_text(text: str, key: str) -> None:
    if key == "target":
        right = text in OPERATORS
    elif key == "expr_str":
        right = _SYMBOL.fullmatch(text) is not None
    elif key in _SPECS:
        right = json.loads(text) == _SPECS[key]
    else:
        right = _WORD.fullmatch(text) is not None
    if not right:
        _refuse(key or "a text", "what an exported Vision Transformer has there", repr(text[:80]))


def _weight(name: str, meta: dict[str, Any], records: Mapping[str, bytes]) -> Shape:
    tensor, shape = meta["tensor_meta"], _shape(meta["tensor_meta"]["sizes"])
    strides = tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))
    whole = _shape(tensor["strides"]) == strides and tensor["storage_offset"] == {"as_int": 0}
    plain = tensor["dtype"] == _FLOAT32 and tensor["device"]["type"] == "cpu" and meta["is_param"] is True
    size = len(records[f"data/weights/{meta['path_name']}"])
    if not whole or not plain or min(shape, default=1) < 1 or size != 4 * math.prod(shape):
        _refuse(f"the weight {name[:80]}", "whole float32 bytes of its shape", f"{size} bytes for {shape}")
    return shape


def _shape(sizes: list[dict[str, Any]]) -> Shape:
    shape = tuple(size["as_int"] if "as_int" in size else -1 for size in sizes)
    if any(type(size) is not int for size in shape):
        _refuse("a size", "a whole number", "another")
    return shape


def _refuse(what: str, expected: object, got: object) -> NoReturn:
    raise ArtifactError(f"The archive has {what} of another kind", expected=expected, got=got)
