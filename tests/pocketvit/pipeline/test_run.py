from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from compress.model.canonical import canonical
from compress.model.folder import read_model, read_task
from compress.model.slicing import keep_all, same_widths
from compress.search.journal import read_journal
from export.inspect.widths import read_widths
from runtime import METRICS_DOCUMENT, MULTIPLE, PLAN_DOCUMENT, macs, params, read_artifact
from tests.pocketvit.conftest import TINY, Command

pytestmark = pytest.mark.slow

SUFFIXES = ("onnx", "int8.onnx", "fp32.tflite", "int8.tflite", "int8-full.tflite")


def test_a_run_leaves_everything_where_the_formats_say(tiny_run: Path) -> None:
    for folder, more in (("baseline", set()), ("sliced", {"coordinates.safetensors"})):
        own = {"model.safetensors", "plan.json", "task.json", "metrics.json"}
        assert {path.name for path in (tiny_run / folder).iterdir()} == own | more
    files = {f"tiny.{suffix}" for suffix in SUFFIXES} | {"baseline.fp32.tflite"}
    assert {path.name for path in (tiny_run / "artifacts").iterdir()} == files | {f"{file}.json" for file in files}
    assert {"run.json", "log.jsonl", "report.html", "report.md"} <= {path.name for path in tiny_run.iterdir()}
    assert (tiny_run / "bench" / "cpu.json").is_file()
    assert (tiny_run / "search" / "journal.jsonl").is_file()


def test_the_sliced_model_is_physically_smaller_and_within_its_budget(tiny_run: Path) -> None:
    before, after = (
        PLAN_DOCUMENT.read(tiny_run / "baseline" / "plan.json"),
        PLAN_DOCUMENT.read(tiny_run / "sliced" / "plan.json"),
    )
    assert 0.70 * macs(before) < macs(after) <= 0.75 * macs(before)
    widths = [after.embed_dim, *(w for b in after.blocks for w in (b.qk_dim, b.v_dim, b.mlp_dim))]
    assert all(width % MULTIPLE == 0 for width in widths)
    model = read_model(tiny_run / "sliced")
    metrics = METRICS_DOCUMENT.read(tiny_run / "sliced" / "metrics.json")
    assert metrics.params == params(after) == sum(p.numel() for p in model.parameters())
    assert metrics.macs == macs(after)
    assert metrics.size_bytes == (tiny_run / "sliced" / "model.safetensors").stat().st_size
    assert read_task(tiny_run / "sliced") == read_task(tiny_run / "baseline")
    for suffix in SUFFIXES:
        file = tiny_run / "artifacts" / f"tiny.{suffix}"
        assert read_widths(file, after) == after == read_artifact(file).plan


def test_the_journal_says_how_the_plan_came_about(tiny_run: Path) -> None:
    path = tiny_run / "search" / "journal.jsonl"
    header = json.loads(path.read_text().splitlines()[0])
    before = canonical(read_model(tiny_run / "baseline")).plan
    proposal = read_journal(path, before, header["settings"])
    assert same_widths(proposal.plan, PLAN_DOCUMENT.read(tiny_run / "sliced" / "plan.json"))
    assert proposal.kept != keep_all(before)
    costs = [step["cost"] for step in proposal.steps]
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] == macs(proposal.plan)


class Page(HTMLParser):
    """Collects what a page would load from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [value or "" for name, value in attrs if name in ("src", "href") and tag != "a"]


def test_the_report_stands_alone_and_names_every_file(tiny_run: Path) -> None:
    html = (tiny_run / "report.html").read_text()
    page = Page()
    page.feed(html)
    assert not [load for load in page.loads if not load.startswith(("#", "data:"))]
    text = (tiny_run / "report.md").read_text()
    for suffix in SUFFIXES:
        assert f"tiny.{suffix}" in html
        assert f"tiny.{suffix}" in text


def test_a_finished_run_resumes_to_its_table_at_once(tiny_run: Path, pocketvit: Command) -> None:
    before = {path: path.stat().st_mtime_ns for path in (tiny_run / "artifacts").iterdir()}
    answer = pocketvit("run", *TINY, "--name", "tiny", "--runs", tiny_run.parent, "--resume", "--json")
    assert answer.code == 0, answer.err
    document = json.loads(answer.out)
    assert document["schema"] == "pocketvit.summary"
    assert document["schema_version"] == 1
    names = [row["name"] for row in document["rows"]]
    order = ("fp32.tflite", "int8.tflite", "int8-full.tflite", "onnx", "int8.onnx")
    assert names == ["baseline", "sliced", "baseline.fp32.tflite", *(f"tiny.{suffix}" for suffix in order)]
    assert {path: path.stat().st_mtime_ns for path in (tiny_run / "artifacts").iterdir()} == before


def test_export_of_a_run_keeps_what_is_there(tiny_run: Path, pocketvit: Command) -> None:
    options = ("--calibration-images", 4, "--verify-images", 60, "--min-agreement", 0, "--for", "pi5")
    answer = pocketvit("export", tiny_run, *options, "--json")
    assert answer.code == 0, answer.err
    files = [artifact["file"] for artifact in json.loads(answer.out)["artifacts"]]
    assert files == ["baseline.fp32.tflite", *(f"tiny.{suffix}" for suffix in SUFFIXES)]


def test_report_prints_the_table(tiny_run: Path, pocketvit: Command) -> None:
    answer = pocketvit("report", tiny_run)
    assert answer.code == 0, answer.err
    assert "tiny.int8-full.tflite" in answer.out
    assert "speed-up" in answer.out


def test_bench_prints_and_keeps_raw_values(tiny_run: Path, pocketvit: Command, tmp_path: Path) -> None:
    files = [tiny_run / "artifacts" / f"tiny.{suffix}" for suffix in ("onnx", "int8.tflite")]
    short = ("--throughput", 0.1)
    answer = pocketvit("bench", *files, "--target", "cpu", "--samples", 7, *short, "--json", tmp_path / "b.json")
    assert answer.code == 0, answer.err
    assert "median" in answer.out
    body = json.loads((tmp_path / "b.json").read_text())
    assert [len(file["measurements"][0]["values"]) for file in body["files"]] == [7, 7]
    printed = pocketvit("bench", files[0], "--samples", 3, *short, "--json", "-")
    assert json.loads(printed.out)["schema"] == "pocketvit.bench"


def test_exporting_a_model_as_it_is(pocketvit: Command, tmp_path: Path) -> None:
    options = ("--verify-images", 10, "--formats", "onnx,int8", "--threads", 1)
    size = ("--img-size", 32, "--patch-size", 16, "--model-arg", "depth=1", "--model-arg", "embed_dim=48")
    answer = pocketvit(
        "export", "--model", "vit_tiny_patch16_224", "--no-pretrained", *size, *options, "--runs", tmp_path, "--json"
    )
    assert answer.code == 0, answer.err
    artifacts = json.loads(answer.out)["artifacts"]
    assert [artifact["file"] for artifact in artifacts] == [
        "vit_tiny_patch16_224.onnx",
        "vit_tiny_patch16_224.int8.tflite",
    ]
    assert artifacts[0]["plan"]["num_classes"] == 1000
    assert artifacts[0]["parity"]["top1"] is None
    assert artifacts[0]["parity"]["top1_reason"]
