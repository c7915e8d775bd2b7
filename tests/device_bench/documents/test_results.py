import hashlib
import json
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from device_bench.documents.figures import Accuracy, Energy, Failure, MemoryUse, Peak, Startup, Throughput, confusion
from device_bench.documents.instructions import Instructions
from device_bench.documents.measurement import Measurement, Sampling
from device_bench.documents.results import BENCH_DOCUMENT, BenchResult, FileResult
from device_bench.machine.state import MachineState
from runtime import ArtifactError, MeasurementError
from tests.device_bench.conftest import bench_result

GOLDEN = Path(__file__).parents[1] / "golden" / "bench_v1.json"
GOLDEN_2 = GOLDEN.with_name("bench_v2.json")
GOLDEN_3 = GOLDEN.with_name("bench_v3.json")
GOLDEN_4 = GOLDEN.with_name("bench_v4.json")
GOLDEN_5 = GOLDEN.with_name("bench_v5.json")

BEFORE = MachineState(
    board="Example Pi 5",
    cpu_model="Example A76",
    logical_cores=2,
    governor="ondemand, performance",
    clocks_hz=(1.5e9, 2.4e9),
    temperature_c=51.5,
    load_average=(0.1, 0.2, 0.3),
    os="Linux 6.1",
    architecture="aarch64",
    python="3.12.4",
    versions={"ai-edge-litert": "2.1.0", "numpy": "2.1.0"},
    affinity=(0, 1),
    max_clocks_hz=(2.4e9, 2.4e9),
    clock_driver="cpufreq-dt",
    throttle_count=3,
    throttled_bits=0x50000,
    uptime_s=86400.25,
    busy_s=1234.5,
    own_s=1.75,
    steal_s=0.5,
    memory_bytes=8_000_000_000,
    virtualised=False,
)

FULL = FileResult(
    file="digits.int8.tflite",
    sha256="0123456789abcdef" * 4,
    size_bytes=4321,
    precision="int8",
    engine="litert",
    engine_version="2.1.0",
    threads=1,
    batch=1,
    measurements=(
        Measurement("latency", "s", (0.0021, 0.002, 0.0022), (0.01, 0.0021), True),
        Measurement("latency_with_copies", "s", (0.0031, 0.003, 0.0032), (), False),
    ),
    memory=MemoryUse(61_000_000, 31_000_000),
    startup=Startup((0.011, 0.0105, 0.0108), (0.0041, 0.0039, 0.004)),
    throughput=(Throughput(1, 1, 1, (480.5, 491.25)), Throughput(1, 2, 1, (801.5, 790.0))),
    macs=20_000_000,
    arithmetic="int8",
    energy=Energy(
        "measured",
        "RAPL package-0",
        joules=(10.5, 10.25, 10.75),
        window_s=(1.5, 1.25, 1.75),
        images=(700, 690, 710),
        idle_w=2.5,
        grams_per_kwh=352.5,
        country="DEU",
    ),
    accuracy=Accuracy(
        "digits", "test", 3, ((0, 0, 2), (0, 1, 1), (1, 1, 1), (2, 0, 1), (2, 2, 3)), (0, 0, 1, 1, 0, 2, 2, 2)
    ),
    notes=("The times jump between two levels, 2.00 ms and 2.20 ms.",),
    metrics={"operators": 12, "wear": {"cycles": 1.5}},
)

WHOLE = BenchResult(
    target="cpu",
    created_utc="2025-01-02T03:04:05+00:00",
    tool_version="0.1.0",
    seed=7,
    sampling=Sampling(30, 500, 2.5, 40),
    before=BEFORE,
    after=replace(BEFORE, temperature_c=None, load_average=None, throttle_count=4, uptime_s=86460.5, busy_s=1240.0),
    files=(
        FULL,
        replace(
            FULL,
            file="digits.onnx",
            sha256="fedcba9876543210" * 4,
            precision="fp32",
            engine="onnxruntime",
            engine_version="1.22.0",
            measurements=(Measurement("latency", "s", (0.003, 0.0031, 0.0035), (), False),),
            memory=MemoryUse(None, None, "The process was killed by SIGKILL"),
            arithmetic="fp32",
            energy=Energy(
                "estimated",
                "codecarbon, TDP of 120 W",
                joules=(0.0, 12.5),
                window_s=(1.0, 1.0),
                images=(330, 331),
                idle_w=0.0,
                carbon_reason="No country was given",
            ),
        ),
        FileResult(
            file="other.pt2",
            sha256="0f" * 32,
            size_bytes=1234,
            precision=None,
            engine="torch",
            engine_version="2.9.0",
            threads=2,
            batch=4,
            measurements=(),
            memory=MemoryUse(61_000_000, 31_000_000),
            energy=Energy("unavailable", reason="No counter can be read"),
            instructions=Instructions("cortex-a72", (110, 111), (60, 60), (30, 31), (10, 10), (10, 10), (5, 5)),
        ),
    ),
    failures=(Failure("broken.tflite", "LiteRT cannot load broken.tflite"),),
    peaks=(Peak("onnxruntime", "fp32", 1, (41.5, 42.25)), Peak("litert", "int8", 1, (81.5,))),
    notes=("Other processes used 0.40 cores.",),
)

FOURTH = replace(WHOLE, files=tuple(replace(one, metrics={}) for one in WHOLE.files))


@pytest.fixture
def written(run):
    return run / "bench" / "cpu.json"


def test_a_result_comes_back_as_it_was(run, written):
    assert BENCH_DOCUMENT.read(written) == bench_result(run)


def test_no_folder_is_stored(run, written):
    assert str(run) not in written.read_text()


def test_the_golden_file_of_version_1_loads():
    result = BENCH_DOCUMENT.read(GOLDEN)
    assert json.loads(GOLDEN.read_text())["schema_version"] == 1
    assert (result.target, result.created_utc) == ("cpu", "2025-01-02T03:04:05+00:00")
    first, second = result.files
    assert first.latency.values == (0.0021, 0.002, 0.0022)
    assert first.latency.warmup_values == (0.01, 0.0021)
    assert first.memory.peak_rss_bytes == 61_000_000
    assert second.memory.reason == "The process was killed by SIGKILL"
    assert second.precision is None
    assert result.before.clocks_hz == (1.5e9, 2.4e9)
    assert result.sampling.max_samples == 1000


def test_what_version_1_did_not_have_is_at_its_default():
    result = BENCH_DOCUMENT.read(GOLDEN)
    assert (result.failures, result.peaks, result.notes) == ((), (), ())
    for one in result.files:
        assert (one.startup, one.macs, one.arithmetic, one.energy, one.accuracy) == (None,) * 5
        assert (one.throughput, one.notes) == ((), ())
    newer = [field.name for field in fields(MachineState) if field.name not in document(GOLDEN)["before"]]
    assert newer[0] == "affinity"
    assert newer[-1] == "virtualised"
    assert [getattr(result.before, name) for name in newer] == [None] * len(newer)


def test_the_golden_file_of_version_2_loads():
    assert document(GOLDEN_2)["schema_version"] == 2
    accuracy = Accuracy("digits", "test", 3, ((0, 0, 9), (0, 1, 1), (1, 1, 10), (2, 0, 2), (2, 2, 8)))
    files = tuple(replace(one, accuracy=one.accuracy and accuracy, instructions=None) for one in FOURTH.files)
    assert BENCH_DOCUMENT.read(GOLDEN_2) == replace(WHOLE, files=files)


def test_the_golden_file_of_version_3_loads():
    assert document(GOLDEN_3)["schema_version"] == 3
    assert BENCH_DOCUMENT.read(GOLDEN_3) == FOURTH


def test_the_golden_file_of_version_4_loads():
    assert document(GOLDEN_4)["schema_version"] == 4
    assert BENCH_DOCUMENT.read(GOLDEN_4) == FOURTH


def test_the_golden_file_of_version_5_is_what_was_written(tmp_path):
    assert BENCH_DOCUMENT.read(GOLDEN_5) == WHOLE
    BENCH_DOCUMENT.write(tmp_path / "again.json", WHOLE)
    assert (tmp_path / "again.json").read_bytes() == GOLDEN_5.read_bytes()


def test_a_result_of_many_classes_stays_small(tmp_path):
    classes = 2_500
    answers = np.random.default_rng(0).integers(0, classes, 2 * classes)
    counts = confusion(np.arange(2 * classes) % classes, answers)
    accuracy = Accuracy("photos", "test", classes, counts, tuple(map(int, answers)))
    files = tuple(replace(one, accuracy=accuracy) for one in WHOLE.files)
    BENCH_DOCUMENT.write(tmp_path / "cpu.json", replace(WHOLE, files=files))
    assert BENCH_DOCUMENT.read(tmp_path / "cpu.json").files == files
    # with a matrix of 6.25 million cells it was 100 MB and more
    assert (tmp_path / "cpu.json").stat().st_size < 500_000 * len(files)
    assert sum(map(sum, accuracy.confusion)) == accuracy.images == 2 * classes


def test_the_golden_file_of_version_5_has_every_field():
    told = set(told_of(BENCH_DOCUMENT.read(GOLDEN_5)))
    kinds = {kind for kind, _ in told}
    assert kinds >= {BenchResult, FileResult, MachineState, Sampling, Measurement, MemoryUse, Startup, Throughput}
    assert kinds >= {Energy, Accuracy, Peak, Failure, Instructions}
    assert {(kind, field.name) for kind in kinds for field in fields(kind)} == told
    assert {one.energy.tier for one in WHOLE.files} == {"measured", "estimated", "unavailable"}


def told_of(value):
    """Yields each kind of dataclass in ``value`` with each field that holds more than nothing somewhere."""
    if isinstance(value, tuple):
        for item in value:
            yield from told_of(item)
    elif is_dataclass(value):
        for field in fields(value):
            own = getattr(value, field.name)
            if own not in (None, (), {}):
                yield type(value), field.name
            yield from told_of(own)


@pytest.mark.parametrize("golden", [GOLDEN, GOLDEN_2, GOLDEN_3])
def test_every_truncation_is_refused(tmp_path, golden):
    text = golden.read_text()
    path = tmp_path / "cut.json"
    for end in range(0, len(text.rstrip()), 37):
        path.write_text(text[:end])
        with pytest.raises(ArtifactError, match=r"is not valid JSON.*truncated or edited"):
            BENCH_DOCUMENT.read(path)


EDITED = "was changed after it was written.*measure again"
NO_JSON = "is not valid JSON.*not a number JSON knows"


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("491.25", "591.25", EDITED),
        ("491.25", "NaN", NO_JSON),
        ("491.25", "Infinity", NO_JSON),
        ("491.25", "-Infinity", NO_JSON),
        ("491.25", "1e999", EDITED),
        ("10.75", "-10.75", EDITED),
        ('"macs": 20000000', '"macs": 10000000', EDITED),
        ('"country": "DEU"', '"country": "FRA"', EDITED),
        ('"digest": "', '"digest": "0', "Expected digest 0"),
        ('"digest"', '"digset"', "Expected a digest"),
        ('"schema_version": 2', '"schema_version": 6', "newer PocketViT"),
    ],
)
def test_version_2_edited_by_hand_is_refused_with_the_reason(tmp_path, old, new, reason):
    text = GOLDEN_2.read_text()
    assert old in text
    path = tmp_path / "edited.json"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ArtifactError, match=reason):
        BENCH_DOCUMENT.read(path)


ROW = ("files", 0)


@pytest.mark.parametrize(
    ("keys", "value", "reason"),
    [
        ((*ROW, "energy", "joules", 0), -10.5, "An energy is impossible"),
        ((*ROW, "energy", "idle_w"), -1.0, "An energy is impossible"),
        ((*ROW, "energy", "joules"), [10.5], "for each window"),
        ((*ROW, "energy", "source"), None, "An energy needs a source"),
        ((*ROW, "energy", "tier"), "guessed", "'measured', 'estimated', 'unavailable'"),
        ((*ROW, "energy", "tier"), "unavailable", "a reason and no value"),
        ((*ROW, "accuracy", "confusion"), [[9, 1, 0], [0, 10, 0]], "A confusion matrix is square"),
        ((*ROW, "accuracy", "confusion", 0), [9, 1], "A confusion matrix is square"),
        ((*ROW, "accuracy", "confusion", 0, 0), -1, "A confusion matrix counts images"),
        ((*ROW, "accuracy", "confusion", 0, 0), 9.5, "Expected int"),
        ((*ROW, "startup", "load_s"), [0.011], "Each start has a load and a first run"),
        ((*ROW, "throughput", 0, "images_per_s", 0), 0, "A throughput has an impossible value"),
        ((*ROW, "throughput", 0, "images_per_s", 0), float("inf"), "not a number JSON knows"),
        ((*ROW, "memory", "peak_rss_bytes"), None, "missing without a reason"),
        ((*ROW, "measurements", 0, "values", 0), -0.002, "latency has an impossible value"),
        ((*ROW, "arithmetic"), "fp16", "'fp32', 'int8'"),
        ((*ROW, "macs"), 2.5, "Expected int"),
        ((*ROW, "sha256"), "0", "sha256 of digits.int8.tflite is not one"),
        (("peaks", 0, "gflops"), [], "A peak needs values"),
        (("failures", 0, "file"), "digits.onnx", "files of different names"),
        (("before", "virtualised"), 0, "before.virtualised"),
        (("before", "affinity", 0), "0", "before.affinity"),
        (("sampling", "min_samples"), 0, "number of samples is out of range"),
        (("weather",), "fine", "unknown fields"),
    ],
)
def test_version_2_forged_under_a_right_digest_is_refused_with_the_reason(tmp_path, keys, value, reason):
    refused_when_forged(tmp_path, GOLDEN_2, keys, value, reason)


@pytest.mark.parametrize(
    ("keys", "value", "reason"),
    [
        ((*ROW, "accuracy", "counts"), [], "A confusion matrix counts images by true class and answer"),
        ((*ROW, "accuracy", "counts", 0), [0, 3, 1], "A confusion matrix counts images"),
        ((*ROW, "accuracy", "counts", 0), [-1, 0, 1], "A confusion matrix counts images"),
        ((*ROW, "accuracy", "counts", 1), [0, 0, 1], "A confusion matrix counts images"),
        ((*ROW, "accuracy", "counts", 0, 2), -1, "A confusion matrix counts images"),
        ((*ROW, "accuracy", "counts", 0, 2), 9.5, "Expected int"),
        ((*ROW, "accuracy", "classes"), 2, "classes from 0 to 1"),
    ],
)
def test_version_4_forged_under_a_right_digest_is_refused_with_the_reason(tmp_path, keys, value, reason):
    refused_when_forged(tmp_path, GOLDEN_4, keys, value, reason)


def refused_when_forged(tmp_path, golden, keys, value, reason):
    body = document(golden)
    inner = body
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    path = tmp_path / "forged.json"
    path.write_text(json.dumps(signed(body)))
    with pytest.raises(ArtifactError, match=reason):
        BENCH_DOCUMENT.read(path)


def test_a_golden_file_signed_again_is_itself(tmp_path):
    path = tmp_path / "same.json"
    path.write_text(json.dumps(signed(document(GOLDEN_3))))
    assert BENCH_DOCUMENT.read(path) == FOURTH


def document(path):
    return json.loads(path.read_text())


def signed(body):
    """Returns the document with the digest that goes with its content."""
    content = {key: value for key, value in body.items() if key not in ("schema", "schema_version", "digest")}
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return {**body, "digest": hashlib.sha256(canonical.encode()).hexdigest()}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("0.0022", "0.0012"),
        ("0.0022", "NaN"),
        ("0.0022", "Infinity"),
        ("0.0022", "1e999"),
        ("0.0022", '"0.0022"'),
        ('"cpu"', '"gpu"'),
        ('"threads": 1', '"threads": 2'),
        ('"digest"', '"digset"'),
        ('"schema_version": 1', '"schema_version": 6'),
        ('"pocketvit.bench"', '"pocketvit.plan"'),
    ],
)
def test_what_was_edited_by_hand_is_refused(tmp_path, old, new):
    text = GOLDEN.read_text()
    assert old in text
    path = tmp_path / "edited.json"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ArtifactError):
        BENCH_DOCUMENT.read(path)


def test_an_edit_is_called_an_edit(tmp_path):
    path = tmp_path / "edited.json"
    path.write_text(GOLDEN.read_text().replace("0.0022", "0.0012", 1))
    with pytest.raises(ArtifactError, match=r"changed after it was written.*measure again"):
        BENCH_DOCUMENT.read(path)


def test_layout_does_not_matter(tmp_path):
    path = tmp_path / "compact.json"
    path.write_text(json.dumps(json.loads(GOLDEN.read_text()), sort_keys=True))
    assert BENCH_DOCUMENT.read(path) == BENCH_DOCUMENT.read(GOLDEN)


@pytest.mark.parametrize(
    "changes",
    [
        {"file": "folder/a.onnx"},
        {"file": "folder\\a.onnx"},
        {"file": ""},
        {"sha256": "abc"},
        {"threads": 0},
        {"size_bytes": 0},
        {"batch": 0},
    ],
)
def test_an_impossible_file_result_is_refused(changes):
    with pytest.raises(MeasurementError):
        replace(BENCH_DOCUMENT.read(GOLDEN).files[0], **changes)


def test_an_impossible_result_is_refused():
    golden = BENCH_DOCUMENT.read(GOLDEN)
    for changes in (
        {"created_utc": "yesterday"},
        {"created_utc": "2025-01-02T03:04:05"},
        {"files": ()},
        {"files": (golden.files[0],) * 2},
    ):
        with pytest.raises(MeasurementError):
            replace(golden, **changes)
    twice = golden.files[0].measurements * 2
    with pytest.raises(MeasurementError, match="twice"):
        replace(golden.files[0], measurements=twice)


def test_invalid_content_under_a_right_digest_is_still_refused(tmp_path):
    golden = BENCH_DOCUMENT.read(GOLDEN)
    object.__setattr__(golden, "created_utc", "yesterday")
    path = tmp_path / "forged.json"
    BENCH_DOCUMENT.write(path, golden)
    with pytest.raises(ArtifactError, match="created_utc"):
        BENCH_DOCUMENT.read(path)


def test_an_emulated_target_has_no_times():
    silent = replace(FULL, measurements=(), startup=None, throughput=(), energy=None)
    assert replace(WHOLE, files=(silent,), peaks=(), emulated=True).emulated
    for timed in ({"files": (FULL,), "peaks": ()}, {"files": (silent,)}):
        with pytest.raises(MeasurementError, match="An emulated target has no times"):
            replace(WHOLE, emulated=True, **timed)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"all": ()}, "a count for each run"),
        ({"all": (110,), "simd": (60, 60)}, "a count for each run"),
        ({"all": (109, 111)}, "do not add up"),
        ({"dot": (61, 5)}, "do not add up"),
        ({"alu": (-1, 10), "branch": (21, 10)}, "do not add up"),
    ],
)
def test_instructions_that_cannot_be_are_refused(change, said):
    whole = Instructions("cortex-a72", (110, 111), (60, 60), (30, 31), (10, 10), (10, 10), (5, 5))
    assert (whole.of("all"), whole.of("simd")) == (110, 60)
    with pytest.raises(MeasurementError, match=said):
        replace(whole, **change)


def test_answers_are_those_of_the_confusion_matrix():
    accuracy = FULL.accuracy
    assert accuracy.agreement(accuracy) == 1
    counts = ((0, 0, 1), (0, 1, 2), (1, 1, 1), (2, 0, 1), (2, 2, 3))
    assert accuracy.agreement(replace(accuracy, counts=counts, answers=())) is None
    counts = ((0, 0, 2), (0, 1, 1), (1, 1, 1), (2, 0, 1), (2, 2, 3))
    other = replace(accuracy, counts=counts, answers=(0, 0, 1, 1, 2, 0, 2, 2))
    assert other.confusion == ((2, 1, 0), (0, 1, 0), (1, 0, 3))
    assert accuracy.agreement(other) == 6 / 8
    with pytest.raises(MeasurementError, match="answers are not those"):
        replace(accuracy, answers=(0,) * 8)
