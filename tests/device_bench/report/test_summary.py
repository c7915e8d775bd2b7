import hashlib
import shutil
from dataclasses import replace

import pytest

from device_bench.documents.results import BENCH_DOCUMENT
from device_bench.report.page import run_page, write_report
from device_bench.report.pictures import training_drawing
from device_bench.report.summary import summarise
from device_bench.report.verdict import tiles, verdict
from device_bench.targets.fleet import Fleet
from device_bench.targets.fleet_folder import write_fleet
from device_bench.timing.stats import median_interval, ratio_of_medians
from runtime import (
    METRICS_DOCUMENT,
    ArtifactError,
    EpochRecord,
    RunFolderError,
    WholeComparison,
    macs,
    params,
    read_artifact,
    write_artifact,
)
from runtime.formats import model_files
from tests.device_bench.conftest import BASELINE, FILES, SLICED
from tests.device_bench.fleets import emulated, failure


def test_rows_are_the_models_then_the_files_from_plain_to_integer(run):
    assert [row.name for row in summarise(run).rows] == [
        "baseline",
        "sliced",
        "baseline.fp32.tflite",
        "digits.fp32.tflite",
        "digits.int8.tflite",
        "digits.int8-full.tflite",
        "digits.onnx",
        "digits.int8.onnx",
    ]


def test_figures_come_from_where_they_should(run):
    summary = summarise(run)
    baseline, sliced = summary.row("baseline"), summary.row("sliced")
    assert (baseline.params, baseline.macs) == (params(BASELINE), macs(BASELINE))
    assert (sliced.top1, sliced.top1_images, sliced.agreement, sliced.timings) == (0.979, 1000, None, ())
    reference, row = summary.row("baseline.fp32.tflite"), summary.row("digits.int8.tflite")
    assert reference.params == params(BASELINE)
    assert (row.params, row.macs) == (params(SLICED), macs(SLICED))
    assert row.size_bytes == (run / "artifacts" / "digits.int8.tflite").stat().st_size
    assert (row.top1, row.top1_images, row.agreement) == (0.977, 500, 0.996)


def test_timings_come_from_the_raw_values(run):
    bench, summary = BENCH_DOCUMENT.read(run / "bench" / "cpu.json"), summarise(run)
    timing = summary.row("digits.int8.tflite").on("cpu")
    values = bench.of("digits.int8.tflite").latency.values
    assert timing.median_s == median_interval(values)
    assert timing.speedup == ratio_of_medians(bench.of("baseline.fp32.tflite").latency.values, values)
    assert timing.speedup.low < 21.4 / 6.9 < timing.speedup.high
    assert summary.row("baseline.fp32.tflite").on("cpu").speedup is None
    assert summary.row("digits.int8.tflite").on("gpu") is None


def test_without_the_reference_there_is_no_speedup(run):
    path = run / "bench" / "cpu.json"
    bench = BENCH_DOCUMENT.read(path)
    BENCH_DOCUMENT.write(path, replace(bench, files=bench.files[1:]))
    timing = summarise(run).row("digits.int8.tflite").on("cpu")
    assert timing.median_s is not None
    assert timing.speedup is None


def test_a_reference_with_other_threads_is_none(run):
    path = run / "bench" / "cpu.json"
    bench = BENCH_DOCUMENT.read(path)
    BENCH_DOCUMENT.write(path, replace(bench, files=(replace(bench.files[0], threads=4), *bench.files[1:])))
    assert summarise(run).row("digits.int8.tflite").on("cpu").speedup is None


def test_the_timing_of_an_older_file_is_left_out_and_said(run):
    path = run / "bench" / "cpu.json"
    bench = BENCH_DOCUMENT.read(path)
    BENCH_DOCUMENT.write(path, replace(bench, files=(*bench.files[:-1], replace(bench.files[-1], sha256="0" * 64))))
    summary = summarise(run)
    assert summary.row(FILES[-1][0]).timings == ()
    assert any("timed an older digits.int8.onnx" in note for note in summary.notes)


def test_a_missing_memory_figure_says_why(run):
    summary = summarise(run)
    assert summary.row("digits.int8-full.tflite").on("cpu").peak_rss_bytes is None
    assert any("stopped after 120 s" in note for note in summary.notes)


@pytest.mark.parametrize("missing", ["baseline", "sliced", "artifacts", "bench"])
def test_a_run_that_has_not_come_so_far_is_read(run, missing):
    (run / missing).rename(run.parent / missing)
    summary = summarise(run)
    if missing in ("baseline", "sliced"):
        row = summary.row(missing)
        assert (row.params, row.macs, row.size_bytes, row.top1) == (None,) * 4
    elif missing == "artifacts":
        assert len(summary.rows) == 2
    else:
        assert summary.targets == ()


def test_a_plan_without_metrics_still_has_its_cost(run):
    (run / "sliced" / "metrics.json").unlink()
    row = summarise(run).row("sliced")
    assert (row.params, row.macs, row.top1) == (params(SLICED), macs(SLICED), None)


def test_other_targets_stand_beside_the_cpu(run):
    bench = BENCH_DOCUMENT.read(run / "bench" / "cpu.json")
    BENCH_DOCUMENT.write(run / "bench" / "board.json", replace(bench, target="board"))
    summary = summarise(run)
    assert summary.targets == ("cpu", "board")
    assert summary.row("digits.onnx").on("board") is not None


def test_two_results_for_one_target_are_refused(run):
    BENCH_DOCUMENT.write(run / "bench" / "again.json", BENCH_DOCUMENT.read(run / "bench" / "cpu.json"))
    with pytest.raises(RunFolderError, match="two results"):
        summarise(run)


def test_what_is_no_run_folder_is_refused(tmp_path):
    with pytest.raises(RunFolderError, match="does not exist"):
        summarise(tmp_path / "absent")
    with pytest.raises(RunFolderError, match="no run folder"):
        summarise(tmp_path)


def test_damage_is_refused(run):
    (run / "artifacts" / "digits.onnx").write_bytes(b"short")
    with pytest.raises(ArtifactError, match="damaged"):
        summarise(run)


def test_the_verdict_says_what_was_measured(run):
    text = verdict(summarise(run))
    assert "97.9 %" in text
    assert "(−0.4 points)" in text  # noqa: RUF001
    assert "digits.int8-full.tflite, takes 6.1" in text
    assert "faster than baseline.fp32.tflite" in text


def test_the_verdict_does_not_call_noise_a_speedup(run):
    path = run / "bench" / "cpu.json"
    bench = BENCH_DOCUMENT.read(path)
    same = bench.files[0].measurements
    BENCH_DOCUMENT.write(path, replace(bench, files=tuple(replace(item, measurements=same) for item in bench.files)))
    assert "no measurable difference" in verdict(summarise(run))


def test_the_verdict_says_when_a_file_is_slower(run):
    path = run / "bench" / "cpu.json"
    bench = BENCH_DOCUMENT.read(path)
    latency = bench.files[0].latency
    slower = (replace(latency, values=tuple(2 * value for value in latency.values)),)
    files = (bench.files[0], *(replace(item, measurements=slower) for item in bench.files[1:]))
    BENCH_DOCUMENT.write(path, replace(bench, files=files))
    assert "the speed of baseline.fp32.tflite, measured turn by turn with it, so it is slower" in verdict(
        summarise(run)
    )


def test_the_verdict_of_an_empty_run(tmp_path):
    (tmp_path / "baseline").mkdir()
    assert verdict(summarise(tmp_path)) == "This run has no figures to compare yet."


def test_the_verdict_without_a_bench_speaks_of_size(run):
    (run / "bench" / "cpu.json").unlink()
    text = verdict(summarise(run))
    assert "The smallest file" in text
    assert text.endswith("No latency was measured.")


def test_times_come_before_counts(run):
    bench = BENCH_DOCUMENT.read(run / "bench" / "cpu.json")
    write_fleet(run / "bench", Fleet((emulated(bench, "a-board"), replace(bench, target="b-board"))))
    summary = summarise(run)
    assert summary.targets == ("cpu", "b-board", "a-board")
    timing = summary.row("digits.onnx").on("a-board")
    assert timing.emulated
    assert (timing.median_s, timing.speedup, timing.peak_rss_bytes) == (None, None, None)
    assert timing.instructions.of("all") == 5_000_000_000
    assert not any("a-board" in note for note in summary.notes)
    assert summary.row("digits.onnx").on("cpu").instructions is None


def test_targets_without_a_result_are_known(run):
    assert summarise(run).unmeasured == ()
    write_fleet(run / "bench", Fleet((), (failure("attic"),)))
    assert summarise(run).unmeasured == (failure("attic"),)


def test_a_torch_file_reaches_every_table(run):
    first, second = (run / "artifacts" / name for name in ("digits.onnx", "digits.pt2"))
    content = b"an archive of torch"
    second.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    manifest = replace(read_artifact(first), file=second.name, format="torch", sha256=digest, size_bytes=len(content))
    write_artifact(second, manifest)
    bench = BENCH_DOCUMENT.read(run / "bench" / "cpu.json")
    timed = replace(bench.of("digits.onnx"), file=second.name, sha256=digest, size_bytes=len(content), engine="torch")
    BENCH_DOCUMENT.write(run / "bench" / "cpu.json", replace(bench, files=(*bench.files, timed)))
    summary = summarise(run)
    assert summary.rows[-1].name == "digits.pt2"
    assert summary.row("digits.pt2").on("cpu").median_s is not None
    for path in write_report(run):
        assert path.read_text().count("digits.pt2") >= 4


def without_labels(run):
    """Takes from a run all figures that need labels, and gives its sliced model those that need none."""
    whole = WholeComparison(1500, 0.9, 0.98765)
    for name in ("baseline", "sliced"):
        path = run / name / "metrics.json"
        epochs = (EpochRecord(1, 0.5, None, None, 0.8, 0.02), EpochRecord(2, 0.4, None, None, 0.9, 0.01))
        metrics = replace(
            METRICS_DOCUMENT.read(path),
            top1=None,
            held_out_top1=None,
            test_images=0,
            epochs=epochs if name == "sliced" else (),
            top1_reason="the run reads no labels",
            test_whole=whole if name == "sliced" else None,
        )
        METRICS_DOCUMENT.write(path, metrics)
    for file in model_files(run / "artifacts"):
        artifact = read_artifact(file)
        parity = replace(artifact.parity, top1=None, reference_top1=None, top1_reason="the images have no labels")
        write_artifact(file, replace(artifact, parity=parity))
    return run


def test_without_labels_there_is_no_top1_and_the_reason_is_said_once(run):
    summary = summarise(without_labels(run))
    assert {(row.top1, row.top1_images) for row in summary.rows} == {(None, None)}
    row = summary.row("sliced")
    assert (row.whole_agreement, row.whole_cosine, row.whole_images) == (0.9, 0.98765, 1500)
    assert [note for note in summary.notes if "top-1" in note] == ["There is no top-1: the run reads no labels."]


def test_why_files_alone_have_no_top1_is_said_once_where_it_is_the_same(run):
    without_labels(run)
    for name in ("baseline", "sliced"):
        shutil.rmtree(run / name)
    said = [note for note in summarise(run).notes if "top-1" in note]
    assert said == ["There is no top-1: the images have no labels."]
    file = sorted(model_files(run / "artifacts"))[0]
    artifact = read_artifact(file)
    write_artifact(file, replace(artifact, parity=replace(artifact.parity, top1_reason="other classes")))
    said = [note for note in summarise(run).notes if "top-1" in note]
    assert f"{file.name} has no top-1: other classes." in said
    assert len(said) == len(list(model_files(run / "artifacts")))


def test_without_labels_verdict_and_tiles_speak_of_the_whole_model(run):
    summary = summarise(without_labels(run))
    text = verdict(summary)
    assert "On 1,500 test images it gives the whole model's top-1 class in 90.0 %" in text
    assert "and the mean cosine of what their classifiers read is 0.988." in text
    assert "Its top-1" not in text
    (tile,) = [tile for tile in tiles(summary) if "whole" in tile.caption]
    assert (tile.value, tile.compared) == ("90.0 %", "cosine 0.988")
    assert not [tile for tile in tiles(summary) if tile.caption == "Top-1"]


def test_without_labels_the_report_draws_what_there_is(run):
    page = run_page(summarise(without_labels(run)), run)
    text = repr(page)
    assert "Cosine with the whole model" in text
    drawn = repr(training_drawing(summarise(run)))
    assert "Held-out agreement" in drawn
    assert "Held-out divergence" in drawn
    assert "Held-out top-1" not in drawn
    assert "Held-out loss" not in drawn


def test_with_labels_the_report_shows_both(run):
    path = run / "sliced" / "metrics.json"
    METRICS_DOCUMENT.write(
        path, replace(METRICS_DOCUMENT.read(path), test_whole=WholeComparison(900, 0.95, None, "another width"))
    )
    summary = summarise(run)
    row = summary.row("sliced")
    assert row.top1 is not None
    assert (row.whole_agreement, row.whole_cosine) == (0.95, None)
    text = verdict(summary)
    assert "Its top-1 on 1,000 test images" in text
    assert "On 900 test images it gives the whole model's top-1 class in 95.0 %." in text
    assert "Cosine" not in repr(run_page(summary, run))
