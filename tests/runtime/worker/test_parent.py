"""Workers that crash, hang, flood and die, and parents that do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime import ArtifactError, MeasurementError, MissingExtraError
from runtime.worker.parent import JobResult, Worker, WorkerError, signal_name

ROOT = Path(__file__).resolve().parents[3]

JOBS = """
import os, signal, subprocess, sys, time
from runtime import ArtifactError, MissingExtraError
from runtime.worker.child import limit, serve

def crash(reporter, number):
    reporter.turn(3)
    print("out of luck", file=sys.stderr, flush=True)
    os.kill(os.getpid(), number)

def end(reporter, status):
    os._exit(status)

def sleep(reporter, seconds):
    reporter.turn(2)
    reporter.doing("The engine", "running")
    time.sleep(seconds)

def turns(reporter, count):
    for number in range(count):
        reporter.turn(number)
        time.sleep(0.2)
    return count

def progress(reporter, count, pause_s=0.0):
    for done in range(count + 1):
        reporter.progress("measure", done, count)
        time.sleep(pause_s)
    return os.getpid()

def refuse(reporter):
    reporter.turn(1)
    raise ArtifactError("It is damaged")

def lack(reporter):
    raise MissingExtraError("onnxruntime", "onnx")

def fail(reporter):
    raise ValueError("a mistake of ours")

def flood(reporter):
    limit("RLIMIT_AS", 2**30)
    bytearray(2**36)

def chatter(reporter):
    print("[1]")
    print('{"result": "an engine greets"}', flush=True)
    os.write(1, b"INFO: native code too")
    return "the result"

def babble(reporter):
    for line in ('[1]', '{"progress": 1}', '{"no": "message"}', 'not json', '[' * 100_000):
        reporter._stream.write(line + chr(10))
    return 3

def core(reporter):
    import resource
    return resource.getrlimit(resource.RLIMIT_CORE)[0]

def heir(reporter):
    '''Leaves a process behind that keeps the output open.'''
    pid = os.fork()
    if pid == 0:
        time.sleep(30)
        os._exit(0)
    reporter.progress("left", pid, pid)
    os._exit(4)

raise SystemExit(serve({name: thing for name, thing in list(globals().items()) if callable(thing)}))
"""
COMMAND = (sys.executable, "-P", "-c", JOBS)


def worker() -> Worker:
    return Worker(COMMAND, silence_s=30.0, turns=True)


def failure_of(job: str, **request: object) -> WorkerError:
    with worker() as own, pytest.raises(WorkerError) as caught:
        own.run(job, request)
    return caught.value


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_until(what: Callable[[], bool], seconds: float = 15.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def test_one_process_does_one_job_after_another_and_ends_with_the_block() -> None:
    with worker() as own:
        pids = [own.run("progress", {"count": 0}).checked() for _ in range(3)]
        assert len(set(pids)) == 1
        assert is_running(pids[0])
    assert not is_running(pids[0])


def test_progress_is_relayed() -> None:
    seen: list[tuple[str, int, int]] = []
    with worker() as own:
        own.run(
            "progress",
            {"count": 3, "pause_s": 0.15},
            lambda stage, done, total, note="": seen.append((stage, done, total)),
        )
    assert seen == [("measure", done, 3) for done in range(4)]


def test_errors_keep_their_kind_and_the_process_goes_on() -> None:
    with worker() as own:
        refused = own.run("refuse", {})
        assert (type(refused.error), str(refused.error)) == (ArtifactError, "It is damaged.")
        assert refused.turn == 1
        missing = own.run("lack", {}).error
        assert isinstance(missing, MissingExtraError)
        assert (missing.package, missing.extra) == ("onnxruntime", "onnx")
        with pytest.raises(ArtifactError, match="damaged"):
            own.run("refuse", {}).checked()
        assert own.run("turns", {"count": 1}) == JobResult(1)


def test_what_is_printed_is_no_message() -> None:
    with worker() as own:
        assert own.run("chatter", {}).value == "the result"
        assert own.stderr_lines() == ["[1]", '{"result": "an engine greets"}', "INFO: native code too"]
        assert own.run("babble", {}).value == 3


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL])
def test_a_crash_says_which_signal_which_turn_and_the_last_line(number: signal.Signals) -> None:
    with worker() as own:
        with pytest.raises(WorkerError) as caught:
            own.run("crash", {"number": number})
        assert own.turn == 3
        failure = caught.value
        assert (failure.hung, failure.status, failure.how) == (False, -number, f"signal {number.name}")
        assert failure.last_line == "out of luck"
        assert own.run("turns", {"count": 1}) == JobResult(1)  # in a new process
        assert own.turn == 0


def test_an_end_without_a_result_says_the_status() -> None:
    assert failure_of("end", status=3).how == "exit status 3"
    assert failure_of("end", status=0).how == "exit status 0"
    assert failure_of("fail").last_line == "ValueError: a mistake of ours"


def test_an_unknown_signal_has_its_number() -> None:
    assert signal_name(99) == "99"


def test_a_process_that_leaves_its_output_open_has_ended() -> None:
    begin = time.monotonic()
    pids: list[int] = []
    with worker() as own, pytest.raises(WorkerError) as caught:
        own.run("heir", {}, lambda stage, pid, total, note="": pids.append(pid))
    assert (caught.value.hung, caught.value.status) == (False, 4)
    wait_until(lambda: not is_running(pids[0]))
    assert time.monotonic() - begin < 15


def test_a_hang_is_killed_and_says_who_did_what() -> None:
    with worker() as own:
        own.run("progress", {"count": 0})  # the imports take their time
        own.silence_s, begin = 1.0, time.monotonic()
        with pytest.raises(WorkerError) as caught:
            own.run("sleep", {"seconds": 60})
        assert own.turn == 2
    assert (caught.value.hung, caught.value.doing) == (True, ("The engine", "running"))
    assert time.monotonic() - begin < 15


def test_progress_and_turns_are_signs_of_life() -> None:
    with worker() as own:
        own.run("progress", {"count": 0})
        own.silence_s = 1.0
        assert own.run("turns", {"count": 8}).value == 8
        own.run("progress", {"count": 8, "pause_s": 0.2}).checked()


def test_a_flood_of_memory_ends_the_job_alone() -> None:
    assert failure_of("flood").last_line == "MemoryError"


def test_no_core_file_is_written() -> None:
    with worker() as own:
        assert own.run("core", {}).value == 0


@pytest.mark.parametrize("kind", [KeyboardInterrupt, MeasurementError])
def test_an_exception_here_kills_the_process(kind: type[BaseException]) -> None:
    with worker() as own:
        pid = own.run("progress", {"count": 0}).value

        def progress(*seen: object) -> None:
            raise kind("stop")

        with pytest.raises(kind):
            own.run("progress", {"count": 200, "pause_s": 0.1}, progress)
        assert not is_running(pid)
        assert own.run("progress", {"count": 0}).value != pid


def test_a_program_that_does_not_exist_is_an_error_of_the_system() -> None:
    with Worker(("/no/such/program",)) as own, pytest.raises(OSError, match="No such file"):
        own.run("any", {})


def test_a_program_that_reads_nothing_ends_with_its_status() -> None:
    with Worker(("/bin/false",)) as own, pytest.raises(WorkerError) as caught:
        own.run("any", {"much": "x" * 200_000})
    assert caught.value.status == 1


def test_modules_of_the_working_directory_are_not_taken_for_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runtime.py").write_text("raise SystemExit('hit')")
    monkeypatch.chdir(tmp_path)
    with worker() as own:
        assert own.run("turns", {"count": 1}).value == 1


def test_the_environment_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/of/the/user")
    code = (
        "import os\nfrom runtime.worker.child import serve\nserve({'get': lambda reporter, name: os.environ.get(name)})"
    )
    with Worker((sys.executable, "-P", "-c", code), env={"OF_OURS": "1"}) as own:
        assert own.run("get", {"name": "OF_OURS"}).value == "1"
        assert own.run("get", {"name": "PYTHONPATH"}).value == f"{ROOT}{os.pathsep}/of/the/user"


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux kills it")
@pytest.mark.parametrize("turns", [True, False])
def test_a_killed_parent_leaves_no_process(turns: bool) -> None:
    program = (
        "import sys\nfrom runtime.worker.parent import Worker\n"
        f"own = Worker({COMMAND!r}, turns={turns})\n"
        "print(own.run('progress', {'count': 0}).value, flush=True)\n"
        "own.run('sleep', {'seconds': 600})\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=ROOT) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert is_running(pid)
        parent.kill()
    wait_until(lambda: not is_running(pid))
