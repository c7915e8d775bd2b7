"""The last Linear after a fit: nearer to the float model on images that it has not seen, or as it was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from compress.model.vit import SlicedViT
from export.compare import real_logits
from export.formats.tflite import tflite_form
from export.graph.build import vit_graph
from export.graph.execute import run_graph
from export.graph.ir import LINEAR, Graph
from export.quantise.candidates import CandidateBuilder, Subject
from export.quantise.dither import last_row, shifts_of, with_row_copies
from export.quantise.fitted_head import features_graph, fitted_head, last_linear, logits_from
from export.quantise.recipes import recipes_for
from export.quantise.simulate import simulate
from tests.export.graph.test_build import EVERY, images_for, model_of

FULL = recipes_for("int8-full")[0]


@pytest.fixture(scope="module")
def made(trained: SlicedViT, subject: Subject, tmp_path_factory: pytest.TempPathFactory) -> Graph:
    return CandidateBuilder(subject, tmp_path_factory.mktemp("head"), tflite_form()).quantised(FULL)


def copied(graph: Graph, copies: int) -> Graph:
    return with_row_copies(graph, last_row(graph), shifts_of(copies, graph, last_row(graph)))


@pytest.mark.parametrize("copies", [1, 3])
def test_features_are_what_the_last_linear_reads(made: Graph, subject: Subject, copies: int, tmp_path: Path) -> None:
    graph = copied(made, copies) if copies > 1 else made
    head = last_linear(graph)
    assert head is not None
    images, seen = torch.from_numpy(subject.images[:8]), {}
    run_graph(graph, images, lambda name, value: seen.setdefault(name, value))
    own = run_graph(features_graph(graph, head), images)
    assert own.shape == (8, copies * graph.constants[head.inputs[1]].shape[1])
    torch.testing.assert_close(own, seen[head.inputs[0]].reshape(8, -1))
    path = tmp_path / "features.tflite"
    path.write_bytes(tflite_form().write(features_graph(graph, head)))
    far = real_logits(path, subject.images[:8]) - simulate(features_graph(graph, head), subject.images[:8])
    assert np.abs(far).max() <= 4 * graph.qparams[head.inputs[0]].scale[0]


def test_a_head_that_is_wrong_in_a_way_is_mended(made: Graph, subject: Subject) -> None:
    head = last_linear(made)
    assert head is not None
    weight, bias = (made.constants[name] for name in head.inputs[1:3])
    random = np.random.default_rng(0)
    # a mean far from 0 turns what rounding the weights changes into an offset of the answers
    features = (3 + random.standard_normal((600, weight.shape[1]))).astype(np.float32)
    wanted = (features @ weight.T + bias).astype(np.float32)
    wrong = {head.inputs[1]: 0.8 * weight, head.inputs[2]: bias + 1}
    after = fitted_head(replace(made, constants={**made.constants, **wrong}), head, features[:400], wanted[:400])

    def error(graph: Graph) -> float:
        own, shift = (graph.constants[name] for name in head.inputs[1:3])
        rounded = graph.qparams[head.inputs[1]].rounded(own)
        return float(np.square(features[400:] @ rounded.T + shift - wanted[400:]).sum())

    own, shift = (after.constants[name] for name in head.inputs[1:3])
    seen = features[:400] @ after.qparams[head.inputs[1]].rounded(own).T + shift
    assert np.abs((seen - wanted[:400]).mean(axis=0)).max() < 1e-4
    assert error(after) < 0.1 * error(replace(made, constants={**made.constants, **wrong}))
    for op in after.ops:
        if op.kind in LINEAR and len(op.inputs) > 2:
            data, steps, sums = (np.asarray(after.qparams[name].scale) for name in op.inputs)
            np.testing.assert_allclose(sums, data * steps, rtol=1e-6)


def test_noise_is_not_fitted(made: Graph) -> None:
    head = last_linear(made)
    assert head is not None
    weight, bias = (made.constants[name] for name in head.inputs[1:3])
    random = np.random.default_rng(1)
    features = random.standard_normal((100, weight.shape[1])).astype(np.float32)
    right = features @ made.qparams[head.inputs[1]].rounded(weight).T + bias
    noise = random.standard_normal(right.shape)
    assert fitted_head(made, head, features, (right + noise - noise.mean(axis=0)).astype(np.float32)) is made


def test_a_builder_fits_what_it_learnt(made: Graph, subject: Subject, tmp_path: Path) -> None:
    builder = CandidateBuilder(subject, tmp_path, tflite_form())
    head = last_linear(made)
    assert head is not None
    weak = {name: 0.9 * made.constants[name] for name in head.inputs[1:3]}
    wrong = replace(made, constants={**made.constants, **weak})
    before = builder.candidate(FULL, wrong)
    after = builder._fitted(FULL, wrong)
    assert after is not None
    assert after.path.read_bytes() == builder.form.write(after.graph)
    assert len(after.logits) == len(subject.images)
    assert before.parity.sqnr_db is not None
    assert after.parity.sqnr_db is not None
    assert after.parity.sqnr_db > before.parity.sqnr_db + 3
    assert not list(tmp_path.glob("features*"))


@pytest.mark.parametrize("copies", [1, 3])
def test_vectors_of_texts_stay(copies: int, tmp_path: Path) -> None:
    plan = EVERY["texts"]
    model, images = model_of(plan), images_for(plan, 40).numpy()
    with torch.no_grad():
        logits = model(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    builder = CandidateBuilder(Subject(model, images[:16], images[16:], logits[16:], None), tmp_path, tflite_form())
    graph = builder.quantised(FULL)
    graph = copied(graph, copies) if copies > 1 else graph
    assert builder._fitted(FULL, graph) is None


@pytest.mark.parametrize("copies", [1, 3])
def test_answers_from_features_are_those_of_the_whole_file(
    copies: int, made: Graph, subject: Subject, tmp_path: Path
) -> None:
    graph = copied(made, copies) if copies > 1 else made
    head = last_linear(graph)
    assert head is not None
    paths = [tmp_path / name for name in ("whole.tflite", "features.tflite")]
    for path, own in zip(paths, (graph, features_graph(graph, head)), strict=True):
        path.write_bytes(tflite_form().write(own))
    whole, features = (real_logits(path, subject.images) for path in paths)
    far = np.abs(logits_from(graph, head, features) - whole) / graph.qparams[graph.output].scale[0]
    assert far.shape == whole.shape
    # sums that lie in the middle between two integers are rounded to either
    assert far.max() < 1.01
    assert (far > 0.01).mean() < 0.02


def test_answers_of_no_linear_have_no_head() -> None:
    for name in ("unit-vector", "grid"):
        assert last_linear(vit_graph(model_of(EVERY[name]))) is None
