from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from cutting import answers, best_basis, recovery
from cutting.answers import Fidelity, answers_of, fidelity
from cutting.cut_model import CutInputs, CutModel, selection
from cutting.lines import CutLine, Side, Spot, TimedSide, TimeLine, WholeLine, add_line, read_lines
from cutting.pictures import Pictures, photographs
from cutting.subject import Subject
from cutting.table import at_limit, mean_se, tables
from cutting.torch_pruning import kept_dimensions
from cutting.ways import WAYS, inputs_for
from PIL import Image
from safetensors.torch import save_file

from benchmarks import real_weights
from benchmarks.real_weights import Asked, work
from compress.budget import Budget, parse_budget
from compress.data.load import load_data
from compress.importance.units import Importance
from compress.model.load import ModelSpec, load_model
from compress.model.reconstruction import reconstruct
from compress.model.slicing import KeptUnits, keep_all, slice_vit
from compress.model.vit import SlicedViT
from device_bench.interval import Interval
from runtime import DataError, PlanError, Preprocessing, macs

SPEC = ModelSpec(
    "vit_small_patch14_dinov2", 16, 4, 1, overrides={"embed_dim": 32, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0}
)
INPUT = Preprocessing(16, 16, 1, (0.5,), (0.5,), "bilinear", "stretch")
ASKED = Asked(("units", "random"), (0.6,), ("cut", "reconstructed"), ("data",), 1, 0.0, 0)


@pytest.fixture(scope="module")
def model() -> SlicedViT:
    """Returns a model of random weights whose answers to the digits are of many classes."""
    made, random = load_model(SPEC, 10, seed=4), torch.Generator().manual_seed(5)
    images = Pictures("data", load_data("digits"), INPUT, True, 100).test().images
    with torch.no_grad():
        for value in made.parameters():
            value.add_(0.1 * torch.randn(value.shape, generator=random))
        made.head.bias.copy_(-(made.head.weight @ answers_of(made, images).features.mean(0)))
        assert len(made(images).argmax(1).unique()) > 5
    return made


@pytest.fixture(scope="module")
def subject(model: SlicedViT) -> Subject:
    return Subject(SPEC, model, (Pictures("data", load_data("digits"), INPUT, True, 20),), 16)


def narrowed(model: SlicedViT, width: int) -> KeptUnits:
    """Keeps the last dimensions of the stream."""
    return replace(keep_all(model.plan), embed=tuple(range(model.plan.embed_dim - width, model.plan.embed_dim)))


def test_a_second_call_measures_what_is_missing(
    subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells, judged = tmp_path / "runs" / "cells.jsonl", []
    judge = real_weights.judge
    monkeypatch.setattr(real_weights, "judge", lambda *told: judged.append(1) or judge(*told))
    work(subject, ASKED, cells)
    lines = read_lines(cells, subject.digest)
    places = [(line.spot.way, line.treatment) for line in lines if isinstance(line, CutLine)]
    assert places == [(way, treatment) for way in ASKED.ways for treatment in ASKED.treatments]
    assert isinstance(lines[0], WholeLine)
    assert len(judged) == 4
    kept = cells.read_bytes().splitlines(keepends=True)
    cells.write_bytes(b"".join(kept[:-2]) + kept[-2][:40])
    work(subject, ASKED, cells)
    assert len(judged) == 6
    work(subject, ASKED, cells)
    assert len(judged) == 6
    assert {(line.spot, line.treatment) for line in read_lines(cells, subject.digest)[1:]} == {
        (line.spot, line.treatment) for line in lines[1:]
    }


def test_a_budget_that_a_way_cannot_meet_does_not_stop_the_others(
    subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def choose(inputs: CutInputs, importance: Importance, budget: Budget) -> KeptUnits:
        if budget.limit < 0.5 * subject.macs:
            raise PlanError("No plan is that small")
        return choose_units(inputs, importance, budget)

    choose_units = WAYS["l2"].choose
    monkeypatch.setitem(WAYS, "l2", replace(WAYS["l2"], choose=choose))
    work(subject, replace(ASKED, ways=("l2",), shares=(0.4, 0.6)), tmp_path / "cells.jsonl")
    _, *cut = read_lines(tmp_path / "cells.jsonl", subject.digest)
    assert [line.spot.share for line in cut] == [0.6, 0.6]
    assert "L2 at 0.4 is left out: No plan is that small." in capsys.readouterr().out


def test_lines_of_other_pictures_or_weights_are_left_alone(subject: Subject, tmp_path: Path) -> None:
    cells = tmp_path / "cells.jsonl"
    others = [
        replace(subject, calibration_images=17),
        replace(subject, sets=(replace(subject.sets[0], test_images=21),)),
        replace(subject, model=load_model(SPEC, 10, seed=6)),
    ]
    work(subject, replace(ASKED, ways=()), cells)
    assert len(read_lines(cells, subject.digest)) == 1
    assert not any(read_lines(cells, other.digest) for other in others)


def test_a_cell_says_what_a_cut_model_answers(subject: Subject, tmp_path: Path) -> None:
    work(subject, replace(ASKED, ways=("l2",)), tmp_path / "cells.jsonl")
    whole, cut, mended = read_lines(tmp_path / "cells.jsonl", subject.digest)
    stack = subject.tests["data"]
    with torch.inference_mode():
        theirs = subject.model(stack.images).argmax(1)
    assert whole.top1 == pytest.approx(float((theirs == stack.labels).float().mean()))
    inputs = inputs_for(SPEC, subject.model, subject.sets[0].calibration(16, 0), 0)
    budget = parse_budget("macs=0.6", subject.model.plan)
    kept = WAYS["l2"].choose(inputs, WAYS["l2"].analyse(inputs), budget)
    plain = slice_vit(subject.model, kept)
    by_hand = reconstruct(plain, subject.model, kept, inputs.images.split(16))
    for line, made in ((cut, plain), (mended, by_hand)):
        with torch.inference_mode():
            own = made(stack.images).argmax(1)
        (side,) = line.sides
        assert side.macs == macs(made.plan) <= budget.limit
        assert side.fidelity["data"].agreement == pytest.approx(float((own == theirs).float().mean()))
        assert side.fidelity["data"].agreement < 1
        assert side.fidelity["data"].top1 == pytest.approx(float((own == stack.labels).float().mean()))
        assert line.peak_bytes > 2**20


def test_features_are_the_inputs_of_the_head_in_both_engines(
    model: SlicedViT, subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = subject.tests["data"].images[:5]
    lite = answers_of(model, images)
    monkeypatch.setattr(answers, "find_spec", lambda name: None)
    plain = answers_of(model, images)
    with torch.inference_mode():
        torch.testing.assert_close(model.head(plain.features), model(images))
    torch.testing.assert_close(lite.features, plain.features, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(lite.logits, plain.logits, rtol=1e-3, atol=1e-3)
    assert plain.features.shape == (5, 32)
    assert model.plan.num_classes == 10


def test_a_narrower_stream_is_compared_in_the_whole_models_coordinates(model: SlicedViT, subject: Subject) -> None:
    images = subject.tests["data"].images
    whole, kept = answers_of(model, images), narrowed(model, 24)
    own = answers_of(slice_vit(model, kept), images)
    assert fidelity(own, whole, None).cosine is None
    padded = torch.zeros_like(whole.features)
    padded[:, 8:] = own.features
    found = fidelity(own, whole, None, selection(kept.embed, 32))
    assert found.cosine == pytest.approx(float(torch.cosine_similarity(padded, whole.features).mean()), abs=1e-6)
    assert found.top1 is None
    assert fidelity(whole, whole, None, selection(tuple(range(32)), 32)) == Fidelity(1.0, pytest.approx(1.0), None)


def test_a_bias_that_went_into_the_head_is_added_again(model: SlicedViT, subject: Subject) -> None:
    whole = answers_of(model, subject.tests["data"].images)
    bias = model.norm.bias.detach()
    shifted = replace(whole, features=whole.features - bias)
    assert fidelity(shifted, whole, None).cosine < 0.999
    assert fidelity(shifted, whole, None, offset=bias).cosine == pytest.approx(1.0)


def test_the_kept_dimensions_of_a_pruned_model_are_found_by_its_filters(model: SlicedViT) -> None:
    kept = narrowed(model, 16)
    assert kept_dimensions(slice_vit(model, kept), model) == kept.embed


def test_labels_of_photographs_are_drawn_from_the_models_answers(model: SlicedViT, subject: Subject) -> None:
    stack = replace(subject.tests["data"], labels=None)
    first, again, other = (inputs_for(SPEC, model, stack, seed).labels for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    known = inputs_for(SPEC, model, subject.tests["data"], 1).labels
    assert torch.equal(known, subject.tests["data"].labels)


def test_the_best_basis_is_cut_within_the_budget_and_mended_where_asked(model: SlicedViT, subject: Subject) -> None:
    inputs = inputs_for(SPEC, model, subject.sets[0].calibration(16, 0), 3)
    analysis, budget = best_basis.analysed(inputs), parse_budget("macs=0.6", model.plan)
    chosen = best_basis.choose(inputs, analysis, budget)
    (plain,), (mended,) = (best_basis.cut(inputs, chosen, mend) for mend in (False, True))
    cut, where = analysis.turned(analysis.cut(chosen[1]), chosen[1], 3)
    for made in (plain, mended):
        assert budget.of(made.model.plan) <= budget.limit
        assert torch.equal(made.back, where.matrix)
        assert torch.equal(made.offset, where.shift)
    bias = cut.blocks[0].attn.proj.bias
    assert torch.equal(plain.model.blocks[0].attn.proj.bias, bias)
    assert not torch.equal(mended.model.blocks[0].attn.proj.bias, bias)


def test_a_way_whose_module_is_missing_is_not_installed() -> None:
    assert not replace(WAYS["best"], package="nothing.at.all").installed
    assert replace(WAYS["best"], package="compress.model.vit").installed


def test_photographs_have_no_labels_and_keep_their_folders_apart(tmp_path: Path) -> None:
    for folder, count in (("a", 20), ("b", 5)):
        (tmp_path / folder / "deep").mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (20, 16), (number, 0, 0)).save(tmp_path / folder / "deep" / f"{number:02}.png")
    data = photographs(tmp_path / "a", tmp_path / "b", ("x", "y"))
    assert (len(data.train), len(data.held_out), len(data.test)) == (18, 2, 5)
    assert {data.images.paths[i].parts[-3] for i in data.test} == {"b"}
    assert {data.images.paths[i].parts[-3] for i in (*data.train, *data.held_out)} == {"a"}
    pictures = Pictures("photos", data, replace(INPUT, channels=3, mean=(0.5,) * 3, std=(0.5,) * 3), False, 3)
    first, second = pictures.calibration(9, 0), pictures.calibration(9, 1)
    assert first.labels is None
    assert first.images.shape == (9, 3, 16, 16)
    assert not torch.equal(first.images, second.images)
    assert len(pictures.test()) == 3
    with pytest.raises(DataError, match="too few pictures to calibrate on"):
        pictures.calibration(19, 0)
    with pytest.raises(DataError, match="holds no photographs"):
        photographs(tmp_path / "a", tmp_path / "c", ("x",))


def cut_to(model: SlicedViT, width: int) -> CutModel:
    kept = narrowed(model, width)
    return CutModel(slice_vit(model, kept), selection(kept.embed, model.plan.embed_dim))


def test_recovery_looks_at_no_label(model: SlicedViT, subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "_images_until", lambda *told: 40)
    pictures = subject.sets[0]
    cut, rubbish = cut_to(model, 24), np.full(len(pictures.data.labels), 7)
    few = replace(pictures.data, train=pictures.data.train[:64])
    found = [
        recovery.recover(cut, model, replace(pictures, data=data), 1.0, seed=2)
        for data in (few, replace(few, labels=rubbish))
    ]
    (first, images), (second, _) = found
    assert images == 40
    assert all(torch.equal(own, second.state_dict()[name]) for name, own in first.state_dict().items())
    assert not torch.equal(first.patch_embed.weight, cut.model.patch_embed.weight)
    with pytest.raises(DataError, match="too few training images"):
        recovery.recover(cut, model, replace(pictures, data=replace(few, train=few.train[:63])), 1.0, seed=2)


def test_the_time_left_decides_how_many_images_are_learnt_from(model: SlicedViT, subject: Subject) -> None:
    cut, pictures = cut_to(model, 24), subject.sets[0]
    data = recovery._as_the_whole_answers(model, pictures, 0)
    late = recovery._images_until(0.0, cut, model, pictures, data, 0)
    assert late < 0
    assert recovery.recover(cut, model, pictures, 0.0, seed=0)[1] == recovery.RECIPE.batch_size


def test_figures_are_read_off_between_two_models() -> None:
    sides = [Side(800, 32, {}), Side(600, 24, {})]
    assert at_limit(sides, 650, [0.9, 0.5]) == pytest.approx(0.6)
    assert at_limit(sides[:1], 650, [0.9]) == 0.9
    assert mean_se([1.0, 3.0], 1) == "2.0 ± 1.0"


def test_the_tables_hold_what_was_measured(tmp_path: Path) -> None:
    cells = tmp_path / "cells.jsonl"

    def cut(way: str, draw: int, top1: tuple[float, ...]) -> CutLine:
        sides = [Side(800 - 200 * n, 32, {"data": Fidelity(0.5, None, own)}) for n, own in enumerate(top1)]
        spot = Spot("me", "data", way, 0.75, draw)
        return CutLine("cut", spot, "cut", 0.0, 750, tuple(sides), 10.0, 2.0, 1.0, 0.0, (), 2**30)

    add_line(cells, WholeLine("whole", "me", "vit, 16x16 px", 1000, {"data": 20}, 0.8))
    for line in (cut("units", 0, (0.5,)), cut("units", 1, (0.6,)), cut("torch-pruning", 0, (0.8, 0.4))):
        add_line(cells, line)
    timed = (TimedSide(800, Interval(0.8, 0.7, 0.9)), TimedSide(600, Interval(0.6, 0.5, 0.7)))
    add_line(cells, TimeLine("time", Spot("me", "data", "torch-pruning", 0.75, 0), "int8", 750, timed, 0.01, "cpu", ()))
    add_line(cells, replace(cut("l2", 0, (0.1,)), spot=Spot("you", "data", "l2", 0.75, 0)))
    for minutes, top1 in ((5.0, 0.7), (10.0, 0.75)):
        add_line(cells, replace(cut("units", 0, (top1,)), treatment="recovered", minutes=minutes))
    text = tables(read_lines(cells, "me"))
    rows = (", recovered for 5 min | 70.0", ", recovered for 10 min | 75.0")
    assert "| way | 0.75 |\n|---|---|\n| units (Fisher, knapsack) | 55.0 ± 5.0 |\n" in text
    assert "".join(f"| units (Fisher, knapsack){row} |\n" for row in rows) + "| Torch-Pruning | 70.0 |" in text
    assert "| Torch-Pruning | 0.75 [0.65, 0.85] |" in text
    assert "| Torch-Pruning | 60.0 to 80.0 |" in text
    assert "cosine" not in text
    assert "L2" not in text
    assert tables(read_lines(cells, "nobody")) == "Nothing has been measured yet."


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--only", "units,magic"], "Got magic"),
        (["--budgets", "0.5,1.5"], "Got 1.5"),
        (["--budgets", "half"], "Got half"),
        (["--treatments", "mended"], "Got mended"),
        (["--calibrate", "photos"], "Got photos"),
        (["--draws", "0"], "Got 0"),
        (["--photos", "nowhere", "nowhere"], "holds no photographs"),
    ],
)
def test_a_wrong_option_is_refused(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--model", "vit_tiny_patch16_224", "--checkpoint", str(tmp_path / "none"), "--data", "digits"]
    with pytest.raises(SystemExit) as ended:
        real_weights.main([*given, "--threads", "1", "--out", str(tmp_path / "out"), *words])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_command_measures_and_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = timm.create_model("vit_tiny_patch16_224", img_size=16, num_classes=10)
    save_file(whole.state_dict(), tmp_path / "weights.safetensors")
    given = ["--model", "vit_tiny_patch16_224", "--img-size", "16", "--data", "digits", "--out", str(tmp_path)]
    given += ["--checkpoint", str(tmp_path / "weights.safetensors"), "--threads", "1", "--test-images", "10"]
    given += [
        "--calibration-images",
        "16",
        "--only",
        "random",
        "--budgets",
        "0.5",
        "--treatments",
        "cut",
        "--rounds",
        "2",
    ]
    real_weights.main([*given, "--report"])
    assert "Nothing has been measured yet." in capsys.readouterr().out
    real_weights.main(given)
    printed = capsys.readouterr().out
    assert "data, draw 0: random at 0.5, int8: " in printed
    real_weights.main([*given, "--report"])
    reported = capsys.readouterr().out
    assert "LiteRT's time, fp32, one thread" in reported
    assert printed.endswith(reported)
