"""The kind of file for torch: a ``.pt2`` archive of a sliced ViT with a free batch dimension, and its reader."""

from __future__ import annotations

import copy
import io
import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.formats import ExportKind
from export.graph.file_model import FileModel, FileOp, FileTensor
from runtime import ArtifactError, quiet
from runtime.engines.torch_archive import (
    CONSTANTS,
    FIXED,
    PROGRAM,
    WEIGHTS,
    Shape,
    TorchArchive,
    pack_torch_archive,
    parse_torch_archive,
    read_torch_archive,
)

if TYPE_CHECKING:  # what only reads a file needs no torch
    from compress.model.vit import SlicedViT

_BYTES = 4


def write_torch(model: SlicedViT, path: Path) -> None:
    """Writes ``model`` to ``path``: input ``(batch, C, H, W)``, output ``(batch, classes)``, float32.

    The file carries no path, no stack trace, no time and no pickle: equal weights give equal bytes, with the same
    version of torch.

    Args:
        model: the model to write.
        path: of the file.
    """
    import torch

    height, width = model.plan.img_size
    # two images, since torch takes a dimension of one for a fixed one
    images = torch.zeros(2, model.plan.in_chans, height, width)
    whole = io.BytesIO()
    with quiet(), torch.no_grad():
        program = torch.export.export(
            with_tables_as_weights(model).eval(),
            (images,),
            dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1)}},
        )
        torch.export.save(program, whole)
    data = pack_torch_archive(_bare(whole.getvalue()))
    parse_torch_archive(data)
    path.write_bytes(data)


def with_tables_as_weights(model: SlicedViT) -> SlicedViT:
    """Returns the model with its tables of constants among its weights, the only kind of tensor a file may hold."""
    import torch

    if not any(True for _ in model.buffers()):
        return model
    own = copy.deepcopy(model)
    for module in own.modules():
        for name, value in list(module.named_buffers(recurse=False)):
            delattr(module, name)
            setattr(module, name, torch.nn.Parameter(value, requires_grad=False))
    return own


def _bare(data: bytes) -> dict[str, bytes]:
    """Returns the records of a saved program, without those torch would unpickle or compile, and those of a run."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        records = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    program = json.loads(records[PROGRAM])
    program["guards_code"] = []
    program["graph_module"]["metadata"] = {}
    for node in program["graph_module"]["graph"]["nodes"]:
        node["metadata"] = {}
    kept = {name: content for name, content in records.items() if name.startswith("data/weights/weight_")}
    kept |= {name: records[name] for name in (WEIGHTS, CONSTANTS, ".data/version")}
    return kept | FIXED | {PROGRAM: json.dumps(program, separators=(",", ":")).encode()}


def torch_shapes(path: Path) -> dict[str, Shape]:
    """Returns the shapes of weights, as ``(outputs, inputs)``, and of the attention scores, ``(batch, heads, N, N)``.

    Neither torch nor any code of the file's is run.

    Raises:
        ArtifactError: the file is damaged, or holds anything that this project would not write.
    """
    archive = read_torch_archive(path)
    return {**archive.weights, **_scores(path, archive)}


def _scores(path: Path, archive: TorchArchive) -> dict[str, Shape]:
    """Returns the shape of each block's attention scores, from the split of the queries by head."""
    weights, linears, found = archive.weight_of, {}, {}  # type: dict[str, str], dict[str, str], dict[str, Shape]
    try:
        for node in archive.nodes:
            names = [item["arg"]["as_tensor"]["name"] for item in node["inputs"] if "as_tensor" in item["arg"]]
            if _kind(node) == "linear":
                linears[node["outputs"][0]["as_tensor"]["name"]] = weights.get(names[1], "")
            elif _kind(node) == "view" and linears.get(names[0], "").endswith(".attn.q.weight"):
                _, tokens, heads, _ = archive.shape(node["outputs"][0]["as_tensor"]["name"])
                split = node["inputs"][1]["arg"]["as_sym_ints"][2]["as_int"]
                if split != heads:
                    raise ArtifactError(f"The graph of {path} does not split heads by its shapes", got=split)
                block = linears[names[0]].removesuffix(".q.weight")
                found[f"{block}.scores"] = (-1, heads, tokens, tokens)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ArtifactError(f"The graph of {path} is no Vision Transformer's", got=repr(error)[:200]) from error
    return found


def torch_model(path: Path) -> FileModel:
    """Returns the operators and tensors of a ``.pt2`` file, without torch.

    Raises:
        ArtifactError: the file is damaged, or holds anything that this project would not write.
    """
    archive = read_torch_archive(path)
    weights = archive.weight_of
    try:
        tensors = {name: _tensor(archive, name, weights) for name in _values(archive)}
        ops = tuple(_op(node) for node in archive.nodes)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ArtifactError(f"The graph of {path} is damaged", got=repr(error)[:200]) from error
    return FileModel("torch", ops, tensors)


def _values(archive: TorchArchive) -> dict[str, Any]:
    values: dict[str, Any] = archive.program["graph_module"]["graph"]["tensor_values"]
    return values


def _tensor(archive: TorchArchive, name: str, weights: dict[str, str]) -> FileTensor:
    weight = weights.get(name)
    if weight is None:
        return FileTensor("float32", archive.shape(name))
    shape, size = archive.weights[weight], _BYTES
    for n in shape:
        size *= n
    return FileTensor("float32", shape, weight, size)


def _op(node: dict[str, Any]) -> FileOp:
    inputs: list[str | None] = []
    for item in node["inputs"]:
        argument = item["arg"]
        if "as_tensor" in argument:
            inputs.append(str(argument["as_tensor"]["name"]))
        inputs += [str(tensor["name"]) for tensor in argument.get("as_tensors", [])]
    outputs = tuple(str(out["as_tensor"]["name"]) for out in node["outputs"] if "as_tensor" in out)
    return FileOp(_kind(node), tuple(inputs), outputs)


def _kind(node: dict[str, Any]) -> str:
    """Returns an operator's name without torch's path to it and its overload."""
    return str(node["target"]).split(".")[3]


TORCH = ExportKind(
    "torch",
    "a torch program in float32 (.pt2)",
    format="torch",
    precision="fp32",
    recipe="fp32",
    write=write_torch,
    held_to="logits",
)
