"""A study from beginning to end: its cells, its failures, its report, and the same numbers after kills."""

from __future__ import annotations

import csv
import json
import shlex
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from pocketvit.study.conduct import Orders, conduct
from pocketvit.study.definition import read_study
from pocketvit.study.folder import StudyFolder, claim_study
from pocketvit.study.results.collect import StudyResult
from pocketvit.study.results.report import write_study_report
from pocketvit.study.work.attempts import worked
from runtime import METRICS_DOCUMENT, RunFolderError, read_artifact
from tests.pocketvit.conftest import Command

from .study_fixtures import CELLS, Within, alive, children_of, command, lasting, study_file

pytestmark = pytest.mark.slow

FAILING = "self-taught.vit.digits.s1"


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, StudyResult, Within]:
    """A study of which one cell failed."""
    folder = tmp_path_factory.mktemp("study")
    starter = Within([FAILING])
    unmeasured = replace(read_study(study_file(folder)), targets=())
    result = conduct(unmeasured, folder / "tiny", Orders(), starter=starter, write_report=write_study_report)
    return folder / "tiny", result, starter


@pytest.fixture(scope="module")
def whole(first: tuple[Path, StudyResult, Within]) -> tuple[Path, StudyResult]:
    """The same, tried again with success."""
    root, _, _ = first
    study = read_study(root.parent / "tiny.toml")
    return root, conduct(study, root, Orders(retry_failed=True), starter=Within(), write_report=write_study_report)


def test_a_cell_that_fails_is_a_row_with_its_error_and_the_others_go_on(
    first: tuple[Path, StudyResult, Within],
) -> None:
    root, result, _ = first
    (failed,) = result.failed
    assert failed.cell == FAILING
    assert failed.error == "compress ended with exit code 2. The disk is on fire. Put it out."
    assert failed.command.startswith("pocketvit distill ")
    assert "The disk is on fire" in (root / FAILING / "stderr.log").read_text()
    assert [(row.method, row.seeds) for row in result.rows] == [("one-shot", (0, 1)), ("self-taught", (0,))]


def test_one_seed_has_neither_spread_nor_test_over_seeds_and_says_why(
    first: tuple[Path, StudyResult, Within],
) -> None:
    _, result, _ = first
    lonely = result.rows[1].top1
    assert (lonely.n, lonely.sd, lonely.reason) == (1, None, "One seed has no spread.")
    (comparison,) = result.comparisons
    assert comparison.seeds.p is None
    assert comparison.seeds.significant is None
    assert "two seeds" in str(comparison.seeds.reason)
    assert comparison.images.p is not None


def test_a_shared_model_is_trained_once_for_each_seed_and_before_its_cells(
    first: tuple[Path, StudyResult, Within],
) -> None:
    root, _, starter = first
    trained = [words[0] for words in starter.done if words[1] == "fine-tune"]
    assert len(trained) == len(set(trained)) == 2
    for seed in (0, 1):
        (shared,) = (
            path
            for path in (root / "baselines").iterdir()
            if json.loads((path / "run.json").read_text())["settings"]["seed"] == seed
        )
        order = [words[0] for words in starter.done]
        for cell in CELLS[seed::2]:
            assert order.index(shared.name) < order.index(cell)
            assert (root / cell / "baseline" / "model.safetensors").read_bytes() == (
                shared / "baseline" / "model.safetensors"
            ).read_bytes()


def test_what_was_done_is_not_done_again_and_what_failed_only_when_asked(
    first: tuple[Path, StudyResult, Within], whole: tuple[Path, StudyResult]
) -> None:
    root, result = whole
    assert not result.failed
    assert [len(row.seeds) for row in result.rows] == [2, 2]
    again = Within()
    assert conduct(read_study(root.parent / "tiny.toml"), root, Orders(), starter=again) == result
    assert again.done == []


def test_the_command_of_a_row_makes_the_same_from_nothing(
    whole: tuple[Path, StudyResult], pocketvit: Command, tmp_path: Path
) -> None:
    root, result = whole
    for row in result.rows:
        cell = f"{row.method}.vit.digits{'.macs-0.75' if row.budget else ''}.s1"
        for line in row.commands[1].replace(str(root), str(tmp_path)).split(" && "):
            answer = pocketvit(*shlex.split(line)[1:])
            assert answer.code == 0, answer.err
        for name in ("baseline/model.safetensors", "sliced/model.safetensors", f"artifacts/{cell}.fp32.tflite"):
            assert (tmp_path / cell / name).read_bytes() == (root / cell / name).read_bytes()


def test_rows_hold_what_the_run_folders_hold(whole: tuple[Path, StudyResult]) -> None:
    root, result = whole
    row = result.rows[0]
    metrics = [METRICS_DOCUMENT.read(root / cell / "sliced" / "metrics.json") for cell in CELLS[:2]]
    assert row.flops.values == tuple(2.0 * own.macs for own in metrics)
    assert row.params.values == tuple(float(own.params) for own in metrics)
    files = [root / cell / "artifacts" / f"{cell}.fp32.tflite" for cell in CELLS[:2]]
    assert row.size_bytes.values == tuple(float(file.stat().st_size) for file in files)
    assert all(0 < packed < size for packed, size in zip(row.gzip_bytes.values, row.size_bytes.values, strict=True))
    for cell, file, top1 in zip(CELLS, files, row.top1.values, strict=False):
        answers = json.loads((root / cell / "answers.json").read_text())
        own = answers["files"][0]["accuracy"]["answers"]
        assert top1 == sum(a == b for a, b in zip(own, answers["labels"], strict=True)) / len(own)
        assert answers["files"][0]["sha256"] == read_artifact(file).sha256
    assert sum(images for _, _, images in row.confusion) == sum(row.images.values)
    shared = worked(next(p for p in (root / "baselines").iterdir() if '"seed": 0' in (p / "run.json").read_text()))
    assert row.training_s.values[0] == pytest.approx(worked(root / CELLS[0]).after_s + shared.fine_tune_s)


def test_a_training_time_whose_log_is_gone_is_not_made_up(whole: tuple[Path, StudyResult], tmp_path: Path) -> None:
    root, result = whole
    shutil.copytree(root, tmp_path / "tiny")
    shutil.rmtree(tmp_path / "tiny" / "baselines")
    study = replace(read_study(root.parent / "tiny.toml"), targets=())
    found = conduct(study, tmp_path / "tiny", Orders(), starter=Within())
    assert found.rows[0].training_s.mean is None
    assert "is gone" in str(found.rows[0].training_s.reason)
    assert found.rows[1].training_s == result.rows[1].training_s


def test_every_file_was_measured_in_turns_by_one_command(whole: tuple[Path, StudyResult]) -> None:
    root, result = whole
    bench = json.loads((root / "bench" / "cpu.json").read_text())
    assert [own["file"] for own in bench["files"]] == [f"{cell}.fp32.tflite" for cell in CELLS]
    words = shlex.split(result.measured_by["cpu"])
    assert words[:2] == ["pocketvit", "bench"]
    assert sum(word.endswith(".tflite") for word in words) == len(CELLS)
    for row in result.rows:
        (own,) = row.targets
        assert own.figures["latency_s"].n == 2
        assert own.figures["joules_per_image"].mean is None


def test_the_report_stands_alone_and_every_row_says_its_command(whole: tuple[Path, StudyResult]) -> None:
    root, result = whole
    html, text = ((root / name).read_text() for name in ("report.html", "report.md"))
    assert "http" not in html.replace("http://www.w3.org/", "")
    assert "src=" not in html
    lines = list(csv.DictReader((root / "table.csv").read_text().splitlines()))
    assert [line["method"] for line in lines] == ["one-shot", "self-taught"]
    for row, line in zip(result.rows, lines, strict=True):
        assert float(line["top1_mean"]) == row.top1.mean
        for own in row.commands:
            assert own.replace("&&", "&amp;&amp;") in html
            assert own in text
            assert own in line["commands"]
    drawn = [part.partition(")")[0] for part in text.split("](")[1:]]
    assert drawn
    assert all((root / name).read_text().startswith("<svg") for name in drawn if name.endswith(".svg"))


def test_a_changed_cell_is_refused_and_made_anew_when_forced(whole: tuple[Path, StudyResult], tmp_path: Path) -> None:
    root, _ = whole
    shutil.copytree(root, tmp_path / "tiny")
    text = (
        (root.parent / "tiny.toml")
        .read_text()
        .replace('search = "one-shot"', 'search = "one-shot"\nrecovery-epochs = 0')
        .replace('targets = ["cpu"]', "targets = []")
    )
    path = tmp_path / "tiny.toml"
    path.write_text(text)
    starter = Within()
    with pytest.raises(
        RunFolderError, match=r"2 of the cells .*--recovery-epochs 1 is now --recovery-epochs 0.*--force"
    ):
        conduct(read_study(path), tmp_path / "tiny", Orders(), starter=starter)
    assert starter.done == []
    conduct(read_study(path), tmp_path / "tiny", Orders(force=True), starter=starter)
    assert [words[0] for words in starter.done if words[0] in CELLS] == list(CELLS[:2])
    assert METRICS_DOCUMENT.read(tmp_path / "tiny" / CELLS[0] / "sliced" / "metrics.json").epochs == ()


def test_two_studies_do_not_share_a_folder_and_no_other_folder_is_taken(tmp_path: Path) -> None:
    with claim_study(tmp_path / "a", (), force=False):
        with (
            pytest.raises(RunFolderError, match="Another process is working"),
            claim_study(tmp_path / "a", (), force=False),
        ):
            pass
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.txt").write_text("mine")
    with pytest.raises(RunFolderError, match="is no study's folder"), claim_study(tmp_path / "b", (), force=True):
        pass
    assert (tmp_path / "b" / "thesis.txt").read_text() == "mine"
    assert StudyFolder(tmp_path / "a").bench == tmp_path / "a" / "bench"


def test_killed_and_stopped_a_study_goes_on_and_ends_with_the_same_numbers(
    whole: tuple[Path, StudyResult], tmp_path: Path
) -> None:
    path = study_file(tmp_path)
    text = path.read_text().replace('targets = ["cpu"]', "targets = []").replace("seeds = [0, 1]", "seeds = [1]")
    path.write_text(text)
    for place, number in (("baselines/*/attempts.txt", signal.SIGKILL), ("*.s1/attempts.txt", signal.SIGINT)):
        process = command("study", path, "--runs", tmp_path)
        try:
            while not list((tmp_path / "tiny").glob(place)):
                assert process.poll() is None, process.communicate()[1]
                time.sleep(0.05)
            at_work = children_of(str(tmp_path))
            process.send_signal(number)
            _, said = process.communicate(timeout=60)
        finally:
            process.kill()
        assert process.returncode == (-number if number == signal.SIGKILL else 130)
        assert ("goes on where it was" in said) == (number == signal.SIGINT)
        until = time.monotonic() + 10
        while any(map(alive, at_work)) and time.monotonic() < until:
            time.sleep(0.05)
        assert at_work
        assert not any(map(alive, at_work))
    states = [json.loads(state.read_text())["outcome"] for state in (tmp_path / "tiny" / "status").glob("*.json")]
    assert "failed" not in states
    conduct(read_study(path), tmp_path / "tiny", Orders(), starter=Within())
    root, _ = whole
    seed_1 = {name: data for name, data in lasting(root).items() if ".s1/" in name}
    assert seed_1
    assert lasting(tmp_path / "tiny") == seed_1


def test_the_list_names_every_cell_and_its_command_and_does_nothing(pocketvit: Command, tmp_path: Path) -> None:
    path = study_file(tmp_path)
    answer = pocketvit("study", path, "--runs", tmp_path / "runs", "--list")
    assert answer.code == 0, answer.err
    assert all(cell in answer.out for cell in CELLS)
    assert "2 fine-tuned models" in answer.err
    document = json.loads(pocketvit("study", path, "--runs", tmp_path / "runs", "--list", "--json").out)
    assert document["schema"] == "pocketvit.study-cells"
    assert [own["cell"] for own in document["cells"]] == list(CELLS)
    assert not (tmp_path / "runs").exists()


def test_the_command_prints_its_table_and_ends_with_1_where_a_cell_failed(
    whole: tuple[Path, StudyResult], pocketvit: Command, tmp_path: Path
) -> None:
    root, _ = whole
    copy = tmp_path / "tiny"
    shutil.copytree(root, copy)
    state = copy / "status" / f"{FAILING}.json"
    state.write_text(state.read_text().replace('"outcome": "done"', '"outcome": "failed"'))
    shutil.copy(copy / "status" / f"{CELLS[2]}.json", tmp_path / "kept.json")
    text = (root.parent / "tiny.toml").read_text().replace('targets = ["cpu"]', "targets = []")
    (tmp_path / "tiny.toml").write_text(text)
    answer = pocketvit("study", tmp_path / "tiny.toml", "--runs", tmp_path)
    assert answer.code == 1
    assert FAILING in answer.err
    assert "one-shot" in answer.out
    document = json.loads(pocketvit("study", tmp_path / "tiny.toml", "--runs", tmp_path, "--json").out)
    assert document["schema"] == "pocketvit.study"
    assert [own["cell"] for own in document["failed"]] == [FAILING]
