"""The child's side of a worker, in this process or in one that nobody watches."""

from __future__ import annotations

import io
import json
import mmap
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from runtime.worker.child import NO_TURN, TURN, Reporter, shared_turn

ROOT = Path(__file__).resolve().parents[3]


def serve(code: str, text: str) -> subprocess.CompletedProcess[str]:
    """Has jobs done by a process whose stdin is ``text`` and ends there."""
    program = "import time\nfrom runtime.worker.child import serve\n" + code
    return subprocess.run(
        [sys.executable, "-c", program], input=text, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False
    )


def test_jobs_are_done_until_the_input_ends() -> None:
    lines = [json.dumps({"job": "double", "request": {"number": number}}) for number in (1, 2)]
    done = serve("raise SystemExit(serve({'double': lambda reporter, number: (2 * number,)}))", "\n".join(lines))
    assert done.stdout == '{"result": [2]}\n{"result": [4]}\n'
    assert done.returncode == 0


def test_a_request_of_a_parent_that_is_gone_is_not_begun() -> None:
    request = json.dumps({"job": "say", "request": {}, "parent": os.getpid() + 1})
    assert serve("raise SystemExit(serve({'say': lambda reporter: 1}))", request).stdout == ""


def test_a_job_that_nobody_ends_ends_itself() -> None:
    request = json.dumps({"job": "hang", "request": {}, "alarm_s": 0.2})
    done = serve("raise SystemExit(serve({'hang': lambda reporter: time.sleep(50)}))", request)
    assert done.returncode == -14


def test_messages_and_results_put_the_alarm_off() -> None:
    code = (
        "def work(reporter):\n"
        "    for done in range(6):\n"
        "        reporter.doing('it', 'working')\n"
        "        time.sleep(0.2)\n"
        "def rest(reporter):\n"
        "    time.sleep(0.9)\n"
        "raise SystemExit(serve({'work': work, 'rest': rest}))"
    )
    requests = [{"job": "work", "request": {}, "alarm_s": 0.6}, {"job": "rest", "request": {}}]
    done = serve(code, "\n".join(map(json.dumps, requests)))
    assert done.stdout.splitlines()[-2:] == ['{"result": null}'] * 2
    assert done.returncode == 0


def test_other_exceptions_are_translated_with_their_request() -> None:
    code = (
        "from runtime import ArtifactError\n"
        "def translate(error, request):\n"
        "    return ArtifactError(f'{request[\"path\"]}: {error!r}')\n"
        "def work(reporter, path):\n"
        "    raise ValueError(path)\n"
        "raise SystemExit(serve({'work': work}, translate))"
    )
    done = serve(code, json.dumps({"job": "work", "request": {"path": "a.onnx"}}))
    assert json.loads(done.stdout) == {
        "error": "ArtifactError",
        "text": "a.onnx: ValueError('a.onnx').",
        "missing": None,
    }


def test_progress_is_sent_ten_times_a_second_and_the_last_is_never_lost() -> None:
    stream, now = io.StringIO(), [0.0]
    reporter = Reporter(stream, clock=lambda: now[0])
    for done in range(101):
        reporter.progress("measure", done, 100)
        now[0] += 0.01
    reporter.progress("other", 0, 5)
    seen = [json.loads(line)["progress"] for line in stream.getvalue().splitlines()]
    assert 10 <= len(seen) <= 13
    assert seen[-2:] == [["measure", 100, 100, ""], ["other", 0, 5, ""]]


def test_turns_are_numbered_in_shared_memory() -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(TURN.pack(NO_TURN, 0))
        file.flush()
        with mmap.mmap(file.fileno(), TURN.size) as shared:
            turn = shared_turn(file.name)
            turn(5)
            assert TURN.unpack(shared[:]) == (5, 1)
            turn(5)
            assert TURN.unpack(shared[:]) == (5, 2)


@pytest.mark.skipif(sys.platform != "linux", reason="it looks into /proc")
@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_a_child_ends_with_the_process_that_started_it(platform: str) -> None:
    program = (
        "import os, subprocess, sys, time\n"
        "child = 'import sys, time; from runtime.worker.child import end_with_parent;'\n"
        f"child += 'sys.platform = \"{platform}\";'\n"
        "child += 'end_with_parent(int(sys.argv[1]));'\n"
        "child += 'print(1, flush=True); time.sleep(600)'\n"
        "one = subprocess.Popen([sys.executable, '-c', child, str(os.getpid())], stdout=subprocess.PIPE)\n"
        "one.stdout.readline()\n"
        "print(one.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=ROOT) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert Path(f"/proc/{child}").exists()
        parent.kill()
    until = time.monotonic() + 10
    while Path(f"/proc/{child}").exists() and time.monotonic() < until:
        time.sleep(0.02)
    assert not Path(f"/proc/{child}").exists()


def test_a_process_whose_parent_ended_before_it_asked_ends() -> None:
    code = "from runtime.worker.child import *; end_with_parent(os.getppid() + 1); print('still here')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
