from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compress.data.dataset import Dataset
from compress.model.vit import SlicedViT
from export.exporter import export_model
from export.formats import DEFAULT_KINDS
from export.formats.torch import torch_model, torch_shapes, write_torch
from export.inspect.check_file import verify_file
from export.inspect.inspection import inspect_file
from export.inspect.sandbox import Sandbox
from export.inspect.widths import read_widths
from export.settings import ExportSettings
from runtime import (
    ArtifactError,
    DataError,
    UnsupportedTargetError,
    load,
    macs,
    open_engine,
    read_artifact,
    write_artifact,
)
from runtime.engines import open_device_engine
from runtime.engines.torch_archive import PROGRAM, SAMPLES, WEIGHTS, pack_torch_archive, read_torch_archive
from tests.export.conftest import task_for
from tests.export.small import LEAST, SMALL, artifact_of, small_model

Records = dict[str, bytes]


@pytest.fixture(scope="module")
def model() -> SlicedViT:
    return small_model(SMALL)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, model: SlicedViT) -> Path:
    path = tmp_path_factory.mktemp("torch") / "small.pt2"
    write_torch(model, path)
    return path


def images(count: int, plan: Any = SMALL) -> np.ndarray[Any, Any]:
    shape = (count, plan.in_chans, *plan.img_size)
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def answers(model: SlicedViT, batch: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    with torch.no_grad():
        return model(torch.from_numpy(batch)).numpy()


def test_the_file_computes_what_the_model_does_at_any_batch(file: Path, model: SlicedViT) -> None:
    engine = open_engine(file)
    assert (engine.name, engine.version) == ("torch", torch.__version__)
    assert (engine.input_shape, engine.output_shape) == ((-1, 3, 32, 32), (-1, 10))
    assert (engine.input_name, engine.input_dtype, engine.input_qparams) == ("images", np.float32, None)
    for count in (1, 2, 5):
        np.testing.assert_allclose(engine.run(images(count)), answers(model, images(count)), atol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"act": "quick_gelu", "pooling": "avg_all", "norm": "after_pool", "layer_scale": True, "dist_token": False},
        {"act": "gelu_tanh", "dist_token": True, "reg_tokens": 2, "norm_pre": True, "qkv_bias": False},
        {"act": "silu", "class_token": False, "pooling": "avg", "pos_embed": "patches", "norm": "before_pool"},
    ],
)
def test_every_kind_of_vit_is_written_and_read_back(tmp_path: Path, changes: dict[str, Any]) -> None:
    plan = replace(LEAST, **changes)
    own = small_model(plan)
    write_torch(own, tmp_path / "m.pt2")
    assert read_widths(tmp_path / "m.pt2", replace(plan, embed_dim=64)) == plan
    batch = images(3, plan)
    np.testing.assert_allclose(open_engine(tmp_path / "m.pt2").run(batch), answers(own, batch), atol=1e-5)


def test_equal_weights_give_equal_bytes_that_tell_nothing_of_this_machine(
    file: Path, model: SlicedViT, tmp_path: Path
) -> None:
    write_torch(model, tmp_path / "again.pt2")
    assert (tmp_path / "again.pt2").read_bytes() == file.read_bytes()
    for trace in (b".py", b"stack_trace", str(Path.cwd()).encode(), b"pickle\x00"):
        assert trace not in file.read_bytes()


def test_there_is_no_pickle_in_the_file(file: Path) -> None:
    for name, record in read_torch_archive(file).records.items():
        if not name.startswith("data/weights/weight_"):
            assert record == b"" or not record.startswith((b"\x80", b"PK")), name


@pytest.mark.parametrize("shape", [(1, 3, 16, 16), (1, 1, 32, 32), (3, 32, 32), ()])
def test_another_shape_or_type_is_refused(file: Path, shape: tuple[int, ...]) -> None:
    engine = open_device_engine(file, device="cpu")
    for refuses in (engine.run, engine.resident):
        with pytest.raises(DataError, match="The input does not fit the model"):
            refuses(np.zeros(shape, np.float32))
        with pytest.raises(DataError, match="Got float64"):
            refuses(np.zeros((1, 3, 32, 32)))


def test_a_resident_run_gives_what_a_run_gives(file: Path) -> None:
    engine = open_device_engine(file, device="cpu")
    resident = engine.resident(images(2))
    resident.run()
    resident.wait()
    np.testing.assert_array_equal(resident.output(), engine.run(images(2)))
    assert resident.event is None


def test_an_engine_sets_the_threads_of_the_process_when_it_runs(file: Path) -> None:
    before = torch.get_num_threads()
    try:
        engine = open_engine(file, threads=before + 1)
        assert torch.get_num_threads() == before
        engine.run(images(1))
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


def test_no_gpu_is_said_before_the_file_is_read(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    (tmp_path / "a.pt2").write_bytes(b"")
    with pytest.raises(UnsupportedTargetError, match=r"torch reaches no GPU.* `nvidia-smi` lists") as caught:
        open_engine(tmp_path / "a.pt2", device="cuda")
    assert caught.value.exit_code == 2
    with pytest.raises(UnsupportedTargetError, match=r"does not run on tensorrt. Expected a \.onnx file"):
        open_engine(tmp_path / "a.pt2", device="tensorrt")


def test_the_widths_in_the_file_are_those_of_the_plan(file: Path) -> None:
    unlike = replace(SMALL, embed_dim=8, blocks=(SMALL.blocks[1],) * 2)
    assert read_widths(file, unlike) == SMALL
    assert torch_shapes(file)["blocks.1.attn.scores"] == (-1, 2, 17, 17)
    with pytest.raises(ArtifactError, match="does not have the layers"):
        read_widths(file, replace(SMALL, blocks=SMALL.blocks * 2))


def test_what_stands_in_the_file_adds_up(file: Path, tmp_path: Path) -> None:
    found = inspect_file(file)
    assert found.contents.format == "torch"
    assert sum(row.macs or 0 for row in found.contents.ops) == macs(SMALL)
    assert {row.kind for row in found.contents.ops} >= {"linear", "conv2d", "matmul", "softmax"}
    assert sum(row.size_bytes for row in found.contents.sizes) == file.stat().st_size
    assert (found.widths, found.widths_reason) == (None, "the file has no manifest")
    assert found.times_reason == "torch files are timed as a whole, by a bench"
    assert inspect_file(file, time=False).times_reason == "it was not asked for"
    assert len(torch_model(file).ops) == sum(row.count for row in found.contents.ops)


@pytest.mark.slow
def test_a_file_is_verified_by_running_it_apart(file: Path, tmp_path: Path) -> None:
    path = tmp_path / "small.pt2"
    path.write_bytes(file.read_bytes())
    spec = artifact_of(file, SMALL)
    side = {"shape": (-1, 3, 32, 32), "layout": "NCHW"}
    artifact = replace(
        spec, format="torch", input=replace(spec.input, **side), output=replace(spec.output, shape=(-1, 10))
    )
    write_artifact(path, artifact)
    with Sandbox() as sandbox:
        verified = verify_file(path, images=2, sandbox=sandbox)
        assert verified.passed, verified.checks
        assert "torch" in next(check.found for check in verified.checks if check.name == "loads and runs")
        widths = inspect_file(path, time=False, sandbox=sandbox).widths
        assert widths is not None
        assert widths.blocks == SMALL.blocks
        path.write_bytes(file.read_bytes()[:-1])
        broken = verify_file(path, images=2, sandbox=sandbox)
    assert {check.name for check in broken.checks if not check.passed} == {"size", "sha256", "widths", "loads and runs"}


@pytest.mark.slow
def test_the_file_is_exported_with_a_manifest_and_verified(sliced: SlicedViT, digits: Dataset, tmp_path: Path) -> None:
    settings = ExportSettings(kinds=("torch",), verify_images=50)
    (artifact,) = export_model(sliced, task_for(digits, trained=False), digits, tmp_path, "tiny", settings)
    assert read_artifact(tmp_path / "tiny.pt2") == artifact
    assert (artifact.format, artifact.precision, artifact.recipe) == ("torch", "fp32", "fp32")
    assert (artifact.input.layout, artifact.input.shape) == ("NCHW", (-1, 1, 32, 32))
    assert artifact.parity.images == 50
    assert artifact.parity.max_rel < 1e-4
    assert load(tmp_path / "tiny.pt2").predict([np.zeros((32, 32), np.uint8)])[0].name in digits.class_names
    before = (tmp_path / "tiny.pt2").stat().st_mtime_ns
    export_model(sliced, task_for(digits, trained=False), digits, tmp_path, "tiny", settings)
    assert (tmp_path / "tiny.pt2").stat().st_mtime_ns == before
    assert "torch" not in DEFAULT_KINDS


def with_program(records: Records, change: Callable[[Any], None], name: str = PROGRAM) -> Records:
    document = json.loads(records[name])
    change(document)
    return records | {name: json.dumps(document).encode()}


class Bomb:
    """Leaves a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def sample_inputs(records: Records, mark: Path) -> Records:
    return records | {SAMPLES: pickle.dumps(Bomb(mark))}


def pickled_weight(records: Records, mark: Path) -> Records:
    config = json.loads(records[WEIGHTS])["config"]["head.bias"]

    def change(document: Any) -> None:
        document["config"]["head.bias"]["use_pickle"] = True

    changed = with_program(records, change, WEIGHTS)
    return changed | {f"data/weights/{config['path_name']}": pickle.dumps(Bomb(mark))}


def code_in_a_size(records: Records, mark: Path) -> Records:
    def change(program: Any) -> None:
        (symbol,) = program["graph_module"]["graph"]["sym_int_values"].values()
        symbol["as_expr"]["expr_str"] = f"__import__('pathlib').Path({str(mark)!r}).touch()"

    return with_program(records, change)


def a_guard(records: Records, mark: Path) -> Records:
    code = f"__import__('pathlib').Path({str(mark)!r}).touch()"
    return with_program(records, lambda program: program.update(guards_code=[code]))


def code_in_a_name(records: Records, mark: Path) -> Records:
    def change(program: Any) -> None:
        program["graph_module"]["graph"]["nodes"][0]["name"] = "x = 1; import os; y"

    return with_program(records, change)


def another_operator(records: Records, mark: Path) -> Records:
    def change(program: Any) -> None:
        program["graph_module"]["graph"]["nodes"][0]["target"] = "torch.ops.aten.from_file.default"

    return with_program(records, change)


def any_function(records: Records, mark: Path) -> Records:
    def change(program: Any) -> None:
        program["graph_module"]["graph"]["nodes"][0]["target"] = "torch.hub.load"

    return with_program(records, change)


def another_tree(records: Records, mark: Path) -> Records:
    def change(program: Any) -> None:
        call = program["graph_module"]["module_call_graph"][0]["signature"]
        call["in_spec"] = call["in_spec"].replace("builtins.dict", "collections.defaultdict")

    return with_program(records, change)


def a_library(records: Records, mark: Path) -> Records:
    return records | {"data/aotinductor/model/model.so": b"\x7fELF"}


def a_constant(records: Records, mark: Path) -> Records:
    def change(document: Any) -> None:
        document["config"]["c"] = {"path_name": "opaque_obj_0", "use_pickle": True}

    return with_program(records, change, "data/constants/model_constants_config.json")


def a_short_weight(records: Records, mark: Path) -> Records:
    return records | {"data/weights/weight_0": b"\0" * 4}


def a_wider_weight(records: Records, mark: Path) -> Records:
    def change(document: Any) -> None:
        document["config"]["head.weight"]["tensor_meta"]["sizes"][0]["as_int"] = 11

    return with_program(records, change, WEIGHTS)


def a_double_weight(records: Records, mark: Path) -> Records:
    def change(program: Any) -> None:
        program["graph_module"]["graph"]["tensor_values"]["images"]["dtype"] = 8

    return with_program(records, change)


def deep_nesting(records: Records, mark: Path) -> Records:
    return records | {PROGRAM: b"[" * 10**5}


ATTACKS = (
    sample_inputs,
    pickled_weight,
    code_in_a_size,
    a_guard,
    code_in_a_name,
    another_operator,
    any_function,
    another_tree,
    a_library,
    a_constant,
    a_short_weight,
    a_wider_weight,
    a_double_weight,
    deep_nesting,
)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_a_hostile_file_is_refused_before_torch_sees_it(
    file: Path, tmp_path: Path, attack: Callable[[Records, Path], Records]
) -> None:
    mark, path = tmp_path / "ran", tmp_path / "hostile.pt2"
    path.write_bytes(pack_torch_archive(attack(dict(read_torch_archive(file).records), mark)))
    for opens in (open_engine, torch_shapes, torch_model):
        with pytest.raises(ArtifactError, match=r"hostile\.pt2 is (not a model that this project wrote|damaged)"):
            opens(path)
    assert not mark.exists()


@pytest.mark.parametrize("attack", [sample_inputs, code_in_a_size], ids=lambda attack: attack.__name__)
def test_torch_alone_would_have_run_it(file: Path, tmp_path: Path, attack: Callable[[Records, Path], Records]) -> None:
    """Why the check is there; when this fails, torch has become safer."""
    mark = tmp_path / "ran"
    data = pack_torch_archive(attack(dict(read_torch_archive(file).records), mark))
    with pytest.raises(Exception):  # noqa: B017, PT011
        torch.export.load(io.BytesIO(data))
    assert mark.exists()


def test_a_truncated_file_is_an_artifact_error(file: Path, tmp_path: Path) -> None:
    whole, path = file.read_bytes(), tmp_path / "cut.pt2"
    for length in (*range(0, len(whole), 9001), len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ArtifactError, match=r"cut\.pt2 is damaged"):
            open_engine(path)


def test_what_torch_itself_saves_is_not_taken(model: SlicedViT, tmp_path: Path) -> None:
    program = torch.export.export(model, (torch.zeros(2, 3, 32, 32),))
    torch.export.save(program, tmp_path / "own.pt2")
    with pytest.raises(ArtifactError, match="not a model that this project wrote"):
        open_engine(tmp_path / "own.pt2")


def test_a_graph_that_torch_refuses_is_an_artifact_error(file: Path, tmp_path: Path) -> None:
    def change(program: Any) -> None:
        program["graph_module"]["graph"]["nodes"] = program["graph_module"]["graph"]["nodes"][1:]

    records = with_program(dict(read_torch_archive(file).records), change)
    (tmp_path / "a.pt2").write_bytes(pack_torch_archive(records))
    with pytest.raises(ArtifactError, match=r"torch cannot load .*a\.pt2"):
        open_engine(tmp_path / "a.pt2")


def test_the_archive_is_an_ordinary_one(file: Path) -> None:
    with zipfile.ZipFile(file) as archive:
        assert archive.testzip() is None
        assert {name.partition("/")[0] for name in archive.namelist()} == {"model"}
