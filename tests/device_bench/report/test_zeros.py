"""The document of zeros, and what the report says of them."""

import json
import shutil
from dataclasses import replace

import pytest

from device_bench.documents.sparsity import ZEROS_DOCUMENT, LayerZeros, Zeros, zeros_path
from device_bench.report.page import write_report
from device_bench.report.summary import summarise
from device_bench.report.zeros import zeros_part
from runtime import ArtifactError, read_artifact, write_artifact
from tests.device_bench.conftest import BASELINE

from .test_gain import slow_down

ZEROS = Zeros(
    0.9,
    "layer",
    (
        LayerZeros("blocks.0.attn.q.weight", 36_864, 33_178),
        LayerZeros("blocks.0.mlp.fc1.weight", 147_456, 132_710),
    ),
)


@pytest.fixture
def sparse(run):
    """A run whose smaller model has the widths of its baseline, and zeros; the models, long to draw, are gone."""
    for name in ("baseline", "sliced"):
        shutil.rmtree(run / name)
    ZEROS_DOCUMENT.write(zeros_path(run), ZEROS)
    for name, gzipped in (("baseline", 900), ("digits", 270)):
        file = run / "artifacts" / f"{name}.fp32.tflite"
        write_artifact(file, replace(read_artifact(file), plan=BASELINE, gzip_bytes=gzipped))
    return run


def section(text):
    return text.split("\n## What zeros bought\n")[1].split("\n## ")[0]


def test_the_document_round_trips(tmp_path):
    assert ZEROS_DOCUMENT.read_if_there(zeros_path(tmp_path)) is None
    ZEROS_DOCUMENT.write(zeros_path(tmp_path), ZEROS)
    assert ZEROS_DOCUMENT.read_if_there(zeros_path(tmp_path)) == ZEROS
    assert (ZEROS.weights, ZEROS.zeros) == (184_320, 165_888)
    document = json.loads(zeros_path(tmp_path).read_text())
    assert (document["schema"], document["schema_version"]) == ("pocketvit.sparsity", 1)


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("layers",), []),
        (("layers", 0, "zeros"), 36_865),
        (("layers", 0, "zeros"), -1),
        (("layers", 0, "weights"), "many"),
        (("schema_version",), 2),
        (("share",), None),
    ],
)
def test_a_damaged_document_is_told_and_costs_its_part_alone(sparse, keys, value):
    document = json.loads(zeros_path(sparse).read_text())
    at = document
    for key in keys[:-1]:
        at = at[key]
    at[keys[-1]] = value
    zeros_path(sparse).write_text(json.dumps(document))
    with pytest.raises(ArtifactError, match="sparsity"):
        ZEROS_DOCUMENT.read_if_there(zeros_path(sparse))
    write_report(sparse)
    for name in ("report.md", "report.html"):
        assert "What zeros bought is not shown" in (sparse / name).read_text()


def test_other_runs_say_nothing_of_zeros(run):
    assert zeros_part(summarise(run), run) is None
    write_report(run)
    assert "zeros" not in (run / "report.md").read_text().lower()


@pytest.mark.parametrize(
    ("factor", "said", "unsaid"),
    [
        (1.0, "no measurable difference", "slower"),
        (1.2, "the file is slower, 0.83×", "no measurable difference"),  # noqa: RUF001
        (0.8, "On cpu it is 1.25×", "bought no time"),  # noqa: RUF001
    ],
)
def test_time_is_what_was_measured(sparse, factor, said, unsaid):
    slow_down(sparse, "digits.fp32.tflite", factor)
    write_report(sparse)
    told = section((sparse / "report.md").read_text())
    assert said in told
    assert unsaid not in told
    assert ("Zeros bought no time" in told) == (factor >= 1)


def test_sizes_macs_and_shares_are_told_in_both_reports(sparse):
    write_report(sparse)
    markdown, html = ((sparse / name).read_text() for name in ("report.md", "report.html"))
    told = section(markdown)
    assert "90.0 % of the 184,320 weights in 2 layers are zeros, the smallest of each layer" in told
    assert "computes the same multiply-accumulates as baseline.fp32.tflite" in told
    assert "compressed by gzip they take 270 B and 900 B (−70 %)" in told  # noqa: RUF001
    assert "| Compressed by gzip | 900 B | 270 B | −70 % |" in told  # noqa: RUF001
    assert "| blocks.0.attn.q.weight | 36,864 | 33,178 (90.0 %) |" in told
    assert ", gzip 270 B |" in markdown
    for text in ("What zeros bought", "33,178 (90.0 %)", "gzip 270 B", "Compressed by gzip"):
        assert text in html.replace("\N{NO-BREAK SPACE}", " ")


def test_more_operators_are_told_only_where_zeros_need_them(sparse):
    def told():
        return " ".join(zeros_part(summarise(sparse), sparse).sentences)

    assert "mean of every norm" not in told()
    ZEROS_DOCUMENT.write(
        zeros_path(sparse), replace(ZEROS, layers=(*ZEROS.layers, LayerZeros("blocks.0.mlp.fc2.weight", 100, 90)))
    )
    assert "mean of every norm" in told()
    ZEROS_DOCUMENT.write(zeros_path(sparse), replace(ZEROS, scope="global"))
    assert "of all chosen layers together" in told()


def test_files_written_before_gzip_was_taken_have_no_such_size(sparse):
    file = sparse / "artifacts" / "baseline.fp32.tflite"
    write_artifact(file, replace(read_artifact(file), gzip_bytes=None))
    part = zeros_part(summarise(sparse), sparse)
    assert not any("gzip" in sentence for sentence in part.sentences)
    assert [row.after for row in part.rows if row.what == "Compressed by gzip"] == ["270 B"]


def test_before_the_export_zeros_are_counted_alone(sparse):
    summary = replace(summarise(sparse), artifacts=(), gains=())
    part = zeros_part(summary, sparse)
    assert len(part.sentences) == 1
    assert part.rows == ()
