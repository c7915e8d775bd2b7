import json
import math
from dataclasses import fields, replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from device_bench.documents.facts import BASELINE_DOCUMENT, Baseline, Facts, baseline_of
from device_bench.documents.instructions import Instructions
from device_bench.gate.duel import Duel, DuelRound, Rules
from device_bench.gate.judge import Gate, Limits, gate_json, judge, read_limits
from device_bench.gate.render import gate_markdown, junit
from runtime import ArtifactError, MeasurementError

GOLDEN = Path(__file__).parents[1] / "golden" / "gate_baseline_v1.json"
GOLDEN_2 = GOLDEN.with_name("gate_baseline_v2.json")
BASE = Facts("vit.tflite", "a" * 64, 1_000_000, "int8", 500_000, 20_000_000, 300, 1, 0, 10_000_000, 0.95, 0.995)

COUNTS = Instructions("cortex-a72", (10_000, 10_001), (6000, 6000), (2000, 2001), (1000, 1000), (1000, 1000), (0, 0))
COUNTED = replace(BASE, file="counted.tflite", instructions=COUNTS)


def duel_of(ratio: float, rounds: int = 60) -> Duel:
    spread = [1 + 0.02 * math.sin(i) for i in range(rounds)]
    some = tuple(DuelRound((0.002, 0.002), (0.002 * ratio * s, 0.002 * ratio * s)) for s in spread)
    return Duel(Rules(), 1, 0, (some,), 5.0)


def verdict(gate: Gate, metric: str) -> bool | None:
    return next(check.passed for check in gate.checks if check.metric == metric)


def test_the_same_file_passes_every_limit():
    gate = judge(BASE, BASE, Limits(max_extra_operators=0), duel_of(1.0))
    assert gate.passed
    assert all(check.passed for check in gate.checks)


@pytest.mark.parametrize(
    ("metric", "worse", "better", "allowed"),
    [
        ("size", {"size_bytes": 1_020_000}, {"size_bytes": 900_000}, {"size_bytes": 1_010_000}),
        ("parameters", {"params": 500_001}, {"params": 400_000}, {"params": 500_000}),
        ("MACs", {"macs": 20_000_001}, {"macs": 10_000_000}, {"macs": 20_000_000}),
        ("operators", {"operators": 301}, {"operators": 200}, {"operators": 300}),
        ("XNNPACK partitions", {"partitions": 2}, {"partitions": 0}, {"partitions": 1}),
        ("operators outside XNNPACK", {"fallbacks": 1}, {"fallbacks": 0}, {"fallbacks": 0}),
        ("peak memory", {"memory_bytes": 11_100_000}, {"memory_bytes": 1}, {"memory_bytes": 11_000_000}),
        ("top-1", {"top1": 0.944}, {"top1": 0.99}, {"top1": 0.945}),
        ("agreement", {"agreement": 0.989}, {"agreement": 1.0}, {"agreement": 0.99}),
    ],
)
def test_every_limit_closes_the_gate_by_itself(metric, worse, better, allowed):
    limits = Limits(max_extra_operators=0)
    for change, passes in ((worse, False), (better, True), (allowed, True)):
        gate = judge(BASE, replace(BASE, **change), limits)
        assert verdict(gate, metric) is passes, change
        assert gate.passed is passes
    unlimited = replace(limits, **{field.name: None for field in fields(Limits) if field.name.startswith("max_")})
    assert judge(BASE, replace(BASE, **worse), unlimited).passed


def more(simd=0, rest=0):
    """Returns the counted facts with more instructions in every run."""
    counts = replace(
        COUNTS,
        all=tuple(count + simd + rest for count in COUNTS.all),
        simd=tuple(count + simd for count in COUNTS.simd),
        alu=tuple(count + rest for count in COUNTS.alu),
    )
    return replace(COUNTED, instructions=counts)


@pytest.mark.parametrize(
    ("new", "exceeded"),
    [
        (COUNTED, ()),
        (more(simd=1), ("SIMD instructions",)),
        (more(rest=10), ()),
        (more(rest=11), ("instructions",)),
        (more(simd=-500), ()),
        (more(simd=100), ("instructions", "SIMD instructions")),
    ],
)
def test_counted_instructions_are_held_to_their_own_limits(new, exceeded):
    gate = judge(COUNTED, new, Limits(), against="file")
    assert gate.exceeded == exceeded
    assert gate.against == "file"
    assert "latency" not in [check.metric for check in gate.checks]


def test_what_was_not_counted_is_not_compared():
    unknown = judge(BASE, COUNTED, Limits())
    assert unknown.passed
    assert verdict(unknown, "instructions") is None
    assert "instructions" not in [check.metric for check in judge(COUNTED, BASE, Limits()).checks]


def test_instructions_of_different_cores_are_not_compared():
    other = replace(COUNTED, instructions=replace(COUNTS, core="cortex-a76"))
    with pytest.raises(MeasurementError, match=r"not of the same core. Expected cortex-a72. Got cortex-a76"):
        judge(COUNTED, other, Limits())


def test_a_slowdown_closes_it():
    slow = judge(BASE, BASE, Limits(), duel_of(1.1))
    assert not slow.passed
    assert slow.exceeded == ("latency",)
    assert judge(BASE, BASE, replace(Limits(), max_slowdown_percent=None), duel_of(1.1)).passed


def test_stored_facts_compare_no_time():
    gate = judge(BASE, BASE, Limits())
    assert gate.against == "baseline"
    assert verdict(gate, "latency") is None
    assert "another moment" in gate.checks[0].note


def test_what_the_new_file_no_longer_tells_closes_it():
    assert judge(BASE, replace(BASE, top1=None), Limits()).exceeded == ("top-1",)
    unknown = judge(replace(BASE, top1=None), BASE, Limits())
    assert unknown.passed
    assert verdict(unknown, "top-1") is None


def test_from_nothing_any_growth_is_too_much():
    assert not judge(replace(BASE, macs=0), replace(BASE, macs=1), Limits()).passed


@pytest.mark.parametrize(
    "change", [{"size_bytes": 0}, {"macs": -1}, {"top1": 1.1}, {"top1": math.nan}, {"agreement": -0.1}]
)
def test_impossible_facts_are_refused(change):
    with pytest.raises(MeasurementError, match="impossible"):
        replace(BASE, **change)


def test_limits_come_from_toml(tmp_path):
    path = tmp_path / "pocketvit.toml"
    path.write_text("[gate]\nmax_slowdown_percent = 4\nmax_top1_loss_points = false\nseconds = 12.5\n")
    limits = read_limits(path)
    assert (limits.max_slowdown_percent, limits.max_top1_loss_points, limits.seconds) == (4.0, None, 12.5)
    assert limits.max_macs_growth_percent == Limits().max_macs_growth_percent
    assert limits.rules == Rules(max_slowdown=0.04, seconds=12.5)
    path.write_text("[other]\n")
    assert read_limits(path) == Limits()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[gate]\nmax_slowdwon_percent = 4", "unknown limit.*max_slowdwon"),
        ("[gate]\nmax_slowdown_percent = '4'", "no limit"),
        ("[gate]\nmax_slowdown_percent = true", "no limit"),
        ("[gate]\nseconds = false", "no limit"),
        ("[gate]\nmax_slowdown_percent = nan", "impossible"),
        ("[gate]\nmax_slowdown_percent = -1", "impossible"),
        ("gate = 3", "not a table"),
        ("[gate", "TOML"),
        (None, "does not exist"),
    ],
)
def test_bad_limits_are_refused(tmp_path, text, said):
    path = tmp_path / "pocketvit.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ArtifactError, match=said):
        read_limits(path)


def test_junit_says_what_failed():
    gates = (judge(BASE, replace(BASE, file="a<b>&\x01.tflite", macs=30_000_000), Limits(), duel_of(1.1)),)
    root = ElementTree.fromstring(junit(gates))
    suite = root[0]
    assert suite.get("name") == "a<b>&\N{REPLACEMENT CHARACTER}.tflite"
    assert (suite.get("failures"), suite.get("errors")) == ("2", "0")
    assert int(suite.get("tests", "0")) == len(suite) == len(gates[0].checks)
    failed = {case.get("name"): case[0].get("message") for case in suite if case.find("failure") is not None}
    assert set(failed) == {"latency", "MACs"}
    assert "20.0 M -> 30.0 M, limit +0 %" in str(failed["MACs"])
    skipped = [case.get("name") for case in suite if case.find("skipped") is not None]
    assert int(suite.get("skipped", "0")) == len(skipped) == sum(c.passed is None for c in gates[0].checks)


def test_markdown_stays_in_its_table():
    text = gate_markdown((judge(BASE, replace(BASE, file="a|b`<i>.tflite", size_bytes=2_000_000), Limits()),))
    assert text.startswith("### a\\|b\\`&lt;i&gt;.tflite: FAILED")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {row.count("|") for row in rows} == {8}
    assert "| size | 1.00 MB | 2.00 MB | +100.0 % | +1 % | **FAILED** |" in text


def test_json_has_no_infinity_and_every_round():
    few = Duel(Rules(), 1, 0, (duel_of(1.1, 3).launches[0],), 5.0)
    found = json.loads(json.dumps(gate_json((judge(BASE, BASE, Limits(), few),)), allow_nan=False))
    duel = found["gates"][0]["duel"]
    assert duel["ratio"]["high"] is None
    assert len(duel["launches"][0]) == 3
    assert found["passed"] is True


def test_a_baseline_comes_back(tmp_path):
    path = tmp_path / "baseline.json"
    baseline = baseline_of((BASE, replace(BASE, file="other.onnx", partitions=None)), "a processor")
    BASELINE_DOCUMENT.write(path, baseline)
    assert BASELINE_DOCUMENT.read(path) == baseline
    assert baseline.of("other.onnx").partitions is None
    with pytest.raises(MeasurementError, match=r"knows no new\.onnx.*--update-baseline"):
        baseline.of("new.onnx")


def test_the_first_version_still_loads():
    baseline = BASELINE_DOCUMENT.read(GOLDEN)
    assert baseline == Baseline("2025-01-02T03:04:05+00:00", "0.1.0", "a processor", (BASE,))


def test_the_second_version_is_what_was_written(tmp_path):
    whole = Baseline("2026-01-02T03:04:05+00:00", "0.1.0", "a processor", (BASE, COUNTED))
    assert BASELINE_DOCUMENT.read(GOLDEN_2) == whole
    BASELINE_DOCUMENT.write(tmp_path / "again.json", whole)
    assert (tmp_path / "again.json").read_bytes() == GOLDEN_2.read_bytes()


@pytest.mark.parametrize(
    ("old", "new"),
    [("1000000", "999999"), ("0.95", "NaN"), ('"digest"', '"digset"'), ('"schema_version": 1', '"schema_version": 3')],
)
def test_a_baseline_edited_by_hand_is_refused(tmp_path, old, new):
    text = GOLDEN.read_text()
    assert old in text
    path = tmp_path / "edited.json"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ArtifactError):
        BASELINE_DOCUMENT.read(path)


def test_a_truncated_baseline_is_refused(tmp_path):
    text, path = GOLDEN.read_text().rstrip(), tmp_path / "cut.json"
    for end in range(0, len(text), 23):
        path.write_text(text[:end])
        with pytest.raises(ArtifactError):
            BASELINE_DOCUMENT.read(path)


def test_a_baseline_names_files_once():
    with pytest.raises(MeasurementError, match="different names"):
        baseline_of((BASE, BASE), None)


VECTORS = replace(BASE, top1=None, agreement=None, cosine=0.999, whole_cosine=0.98, whole_neighbours=0.97)


@pytest.mark.parametrize(
    ("metric", "worse", "better", "allowed"),
    [
        ("cosine with torch", {"cosine": 0.996}, {"cosine": 1.0}, {"cosine": 0.9975}),
        ("cosine with the whole model", {"whole_cosine": 0.97}, {"whole_cosine": 0.99}, {"whole_cosine": 0.9785}),
        (
            "neighbours of the whole model",
            {"whole_neighbours": 0.95},
            {"whole_neighbours": 1.0},
            {"whole_neighbours": 0.962},
        ),
    ],
)
def test_vectors_close_the_gate_by_their_own_figures(metric, worse, better, allowed):
    limits = Limits(max_slowdown_percent=None)
    for change, passes in ((worse, False), (better, True), (allowed, True)):
        gate = judge(VECTORS, replace(VECTORS, **change), limits)
        assert gate.exceeded == (() if passes else (metric,))
    assert not {"top-1", "agreement"} & {check.metric for check in judge(VECTORS, VECTORS, limits).checks}
    assert metric not in [check.metric for check in judge(BASE, BASE, limits).checks]
    text = gate_markdown((judge(VECTORS, replace(VECTORS, whole_cosine=0.97), limits),))
    assert "0.9800" in text
    assert "0.9700" in text
    assert "\N{MINUS SIGN}0.0100" in text


def test_facts_of_vectors_are_possible_and_are_stored(tmp_path):
    with pytest.raises(MeasurementError, match=r"A cosine of vit\.tflite is impossible\. Expected -1 to 1"):
        replace(VECTORS, whole_cosine=1.1)
    with pytest.raises(MeasurementError, match=r"A share of vit\.tflite is impossible"):
        replace(VECTORS, whole_neighbours=1.1)
    BASELINE_DOCUMENT.write(tmp_path / "b.json", baseline_of((VECTORS,), None))
    assert BASELINE_DOCUMENT.read(tmp_path / "b.json").facts == (VECTORS,)
    BASELINE_DOCUMENT.write(tmp_path / "b.json", baseline_of((BASE,), None))
    assert "cosine" not in (tmp_path / "b.json").read_text()
