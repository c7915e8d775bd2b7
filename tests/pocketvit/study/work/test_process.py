"""The parts that do a study's work: order, processes, working time, archives, and what ends when."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import tarfile
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from pocketvit.study.work.archive import digest_of, pack, unpack_run
from pocketvit.study.work.attempts import begin_attempt, read_attempts, worked
from pocketvit.study.work.pools import LocalPool
from pocketvit.study.work.process import Work, WorkOutcome, WorkStep, do
from pocketvit.study.work.schedule import carry_out
from runtime import ArtifactError, RunFolderError
from tests.pocketvit.study.study_fixtures import Ended


class Order:
    """A pool that does nothing, in an order of its own, and notes what it was given."""

    def __init__(self, failing: Sequence[str] = (), last_first: bool = False) -> None:
        self.failing, self.last_first = failing, last_first
        self.given: list[str] = []
        self._ready: list[str] = []

    def submit(self, work: Work) -> None:
        self.given.append(work.name)
        self._ready.append(work.name)

    def next_done(self) -> WorkOutcome:
        name = self._ready.pop(-1 if self.last_first else 0)
        return WorkOutcome(name, "It broke." if name in self.failing else None, "here")

    def close(self) -> None:
        pass


def works(*names: str) -> list[Work]:
    """Returns works; ``b<a`` needs ``a``."""
    return [Work(name.partition("<")[0], (), 1, name.partition("<")[2]) for name in names]


@pytest.mark.parametrize("last_first", [False, True])
def test_work_begins_when_what_it_needs_is_done(last_first: bool) -> None:
    pool = Order(last_first=last_first)
    events: list[str] = []
    carry_out(
        works("c<a", "a", "d<b", "e<a", "b", "f<gone"),
        pool,
        lambda work: events.append(f"begun {work.name}"),
        lambda outcome: events.append(f"done {outcome.name}"),
    )
    assert sorted(events) == sorted(f"{word} {name}" for word in ("begun", "done") for name in "abcdef")
    assert sorted(pool.given) == list("abcdef")
    for needed, own in (("a", "c"), ("a", "e"), ("b", "d")):
        assert events.index(f"done {needed}") < events.index(f"begun {own}")
    assert set(events[:3]) == {"begun a", "begun b", "begun f"}


def test_what_needs_failed_work_fails_with_it_and_the_rest_goes_on() -> None:
    pool, done = Order(["a"]), {}

    def note(outcome: WorkOutcome) -> None:
        done[outcome.name] = outcome.error

    carry_out(works("a", "b<a", "c", "d<c"), pool, lambda work: None, note)
    assert done == {"a": "It broke.", "b": "The model that it starts from failed: It broke.", "c": None, "d": None}
    assert "b" not in pool.given


def test_work_whose_folder_is_refused_fails_alone() -> None:
    done: dict[str, str | None] = {}

    def ready(work: Work) -> None:
        if work.name == "a":
            raise RunFolderError("Another process is writing to a")

    carry_out(works("a", "b"), Order(), ready, lambda outcome: done.update({outcome.name: outcome.error}))
    assert done == {"a": "Another process is writing to a.", "b": None}


def test_a_pool_does_as_many_at_a_time_as_it_has_workers(tmp_path: Path) -> None:
    both = threading.Barrier(2, timeout=20)

    def starter(steps: Sequence[Sequence[str]], folder: Path, log: Path) -> Ended:
        both.wait()  # broken where the two do not meet
        return Ended(0)

    pool = LocalPool(tmp_path, 2, starter)
    for work in works("a", "b"):
        (tmp_path / work.name).mkdir()
        pool.submit(work)
    assert {pool.next_done().name, pool.next_done().name} == {"a", "b"}
    pool.close()


def test_a_failed_process_is_told_by_its_step_and_last_words(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()

    def starter(steps: Sequence[Sequence[str]], folder: Path, log: Path) -> Ended:
        assert [step[0] for step in steps] == ["compress", "export"]
        log.write_text("$ pocketvit compress --x\nerror: not this\n$ pocketvit export a\nline\nlast words\n")
        return Ended(-9)

    work = Work("a", (WorkStep("compress", ("--x",)), WorkStep("export")), 1)
    outcome = do(work, tmp_path, threading.Event(), "here", starter=starter)
    assert outcome.error == "export was ended by signal 9. line\nlast words"


def test_steps_say_the_whole_command() -> None:
    folder = Path("runs/s/cell")
    assert WorkStep("compress", ("--lr", "1")).line(folder) == (
        *("compress", "--lr", "1", "--name", "cell", "--runs", "runs/s", "--resume"),
    )
    assert WorkStep("export", ("--for", "pi5")).line(folder) == ("export", "runs/s/cell", "--for", "pi5")
    assert WorkStep("answer").line(folder) == ("answer", "runs/s/cell")
    assert WorkStep("bench", ("a",), plain=True).line(folder) == ("bench", "a")


@pytest.mark.parametrize("polite", [True, False])
def test_work_that_is_stopped_ends_its_process_even_a_deaf_one(
    tmp_path: Path, polite: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pocketvit.study.work.process._GRACE_S", 0.4)
    (tmp_path / "a").mkdir()
    heard = "sys.exit(7)" if polite else "time.sleep(600)"
    stop, started = threading.Event(), []

    def starter(steps: Sequence[Sequence[str]], folder: Path, log: Path) -> subprocess.Popen[bytes]:
        program = (
            "import sys, time\n"
            "while True:\n"
            "    try:\n"
            "        print('up', flush=True)\n"
            "        time.sleep(600)\n"
            "    except KeyboardInterrupt:\n"
            f"        {heard}\n"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
        )
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        started.append(process)
        stop.set()
        return process

    outcome = do(Work("a", (), 1), tmp_path, stop, "here", starter=starter)
    assert outcome == WorkOutcome("a", None, "here", stopped=True)
    assert started[0].returncode == (7 if polite else -signal.SIGKILL)


def log(folder: Path, *events: tuple[int, str, str, float | None]) -> None:
    """Writes a run's log; times are seconds after 12:00."""
    lines = []
    for at, event, stage, seconds in events:
        utc = f"2026-01-01T12:{at // 60:02}:{at % 60:02}+00:00"
        lines.append(
            json.dumps({"utc": utc, "event": event, "stage": stage, **({"seconds": seconds} if seconds else {})})
        )
    (folder / "log.jsonl").write_text("\n".join(lines) + "\n")


NOON = 1767268800.0


def beats(folder: Path, *times: tuple[float, float]) -> None:
    for started, seen in times:
        clock = iter((NOON + started, NOON + seen))
        begin_attempt(folder, lambda clock=clock: next(clock))()  # type: ignore[misc]


def test_working_time_is_that_of_the_log(tmp_path: Path) -> None:
    log(
        tmp_path,
        *((0, "started", "fine-tune", None), (10, "finished", "fine-tune", 9.5)),
        *((10, "started", "search 1", None), (13, "finished", "search 1", 2.5)),
        *((13, "started", "recover 1", None), (20, "finished", "recover 1", 7.0)),
        *((20, "started", "export", None), (21, "told", "of something else", None), (24, "finished", "export", 4.0)),
    )
    found = worked(tmp_path)
    assert (found.fine_tune_s, found.after_s, found.other_s, found.training_s) == (9.5, 9.5, 4.0, 19.0)


def test_a_pause_between_a_kill_and_the_next_start_is_no_work(tmp_path: Path) -> None:
    beats(tmp_path, (-3.0, 40.0), (600.0, 700.0))
    log(
        tmp_path,
        *((0, "started", "fine-tune", None), (605, "started", "fine-tune", None)),
        *((625, "finished", "fine-tune", 20.0), (625, "started", "recover", None)),
    )
    found = worked(tmp_path)
    assert found.fine_tune_s == 40.0 + 20.0
    assert found.after_s == 700.0 - 625.0


def test_a_line_cut_short_by_a_kill_is_left_out_and_the_next_attempt_counts(tmp_path: Path) -> None:
    beats(tmp_path, (0.0, 5.0))
    with (tmp_path / "attempts.txt").open("a") as handle:
        handle.write("seen 17672")
    beats(tmp_path, (50.0, 60.0))
    assert [(own.started - NOON, own.seen - NOON) for own in read_attempts(tmp_path)] == [(0.0, 5.0), (50.0, 60.0)]


def test_a_log_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"utc": "yesterday", "event": "started", "stage": "x"}\n')
    with pytest.raises(ArtifactError, match="damaged"):
        worked(tmp_path)


def test_a_folder_comes_out_of_its_archive_as_it_went_in_but_for_unfinished_training(tmp_path: Path) -> None:
    source = tmp_path / "run"
    (source / "baseline").mkdir(parents=True)
    (source / "baseline" / "plan.json").write_text("{}")
    (source / "baseline" / "training.safetensors").write_bytes(b"x" * 99)
    (source / ".lock").touch()
    (source / "a.bin").write_bytes(bytes(range(256)))
    (source / "link").symlink_to("/etc/hostname")
    place = tmp_path / "there" / "run"
    place.mkdir(parents=True)
    (place / "old").touch()
    data = pack(source)
    unpack_run(data, digest_of(data), place)
    assert sorted(path.relative_to(place).as_posix() for path in place.rglob("*")) == [
        *("a.bin", "baseline", "baseline/plan.json"),
    ]
    assert (place / "a.bin").read_bytes() == bytes(range(256))
    assert [path.name for path in place.parent.iterdir()] == ["run"]


def archive(*members: tuple[str, bytes, str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as made:
        for name, kind, target in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            made.addfile(member)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "members",
    [
        [("../evil", tarfile.REGTYPE, "")],
        [("a/../../evil", tarfile.REGTYPE, "")],
        [("/tmp/evil", tarfile.REGTYPE, "")],
        [("link", tarfile.SYMTYPE, "/etc/passwd")],
        [("link", tarfile.SYMTYPE, "..")],
        [("hard", tarfile.LNKTYPE, "../evil")],
        [("fifo", tarfile.FIFOTYPE, "")],
        [("device", tarfile.CHRTYPE, "")],
        [("same", tarfile.REGTYPE, ""), ("same", tarfile.REGTYPE, "")],
        [("a", tarfile.REGTYPE, ""), ("a/b", tarfile.REGTYPE, "")],
        [("", tarfile.REGTYPE, "")],
    ],
)
def test_an_archive_that_reaches_out_of_its_folder_is_refused_and_leaves_nothing(
    tmp_path: Path, members: list[tuple[str, bytes, str]]
) -> None:
    place = tmp_path / "runs" / "cell"
    place.mkdir(parents=True)
    (place / "kept").touch()
    data = archive(("fine", tarfile.REGTYPE, ""), *members)
    with pytest.raises(ArtifactError):
        unpack_run(data, digest_of(data), place)
    assert [path.name for path in tmp_path.rglob("*")] == ["runs", "cell", "kept"]


def test_an_archive_that_was_damaged_on_its_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_bytes(b"abc")
    data = pack(tmp_path / "a")
    broken = data.replace(b"abc", b"abd")
    with pytest.raises(ArtifactError, match="damaged"):
        unpack_run(broken, digest_of(data), tmp_path / "b")
    for short in (data[:100], data[:514], b""):
        with pytest.raises(ArtifactError):
            unpack_run(short, digest_of(short), tmp_path / "b")
    assert not (tmp_path / "b").exists()
