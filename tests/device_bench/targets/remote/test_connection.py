import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from device_bench.targets.link import Link
from device_bench.targets.remote.connection import Order, Upload, run_on_device
from runtime import MeasurementError, UnsupportedTargetError

PROGRAM = """
import json, os, subprocess, sys, time
request = json.load(sys.stdin)
def say(**answer): print(json.dumps(answer), flush=True)
"""

RELAY = """
import os, shutil, subprocess, sys, threading
child = subprocess.Popen(sys.argv[2:], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
def copy(source, target):
    while piece := os.read(source.fileno(), 65536):
        os.write(target.fileno(), piece)
    target.close()
threading.Thread(target=copy, args=(sys.stdin, child.stdin), daemon=True).start()
copy(child.stdout, sys.stdout)
sys.exit(child.wait())
"""
"""What ssh does, as far as pipes go: when it is killed, both of its ends are closed."""


@pytest.fixture
def home(tmp_path):
    folder = tmp_path / "home of ' $(touch hit) `touch hit`"
    folder.mkdir()
    return folder


def link_to(home, explain=lambda status, said: None, path=os.environ["PATH"]):
    def argv(line):
        return ["/usr/bin/env", "-i", f"HOME={home}", f"PATH={path}", "/bin/sh", "-c", line]

    return Link("the board", argv, explain)


def order(text, *uploads, request=None, silence_s=20.0):
    program = Upload(("agent", "work.py"), (PROGRAM + text).encode())
    return Order((program, *uploads), ("agent/work.py",), "agent", request or {}, silence_s)


def talk(home, what, **options):
    return run_on_device(link_to(home), sys.executable, lambda survey: what, **options)


def is_gone(home):
    try:
        return not list(home.rglob("*"))
    except FileNotFoundError:  # it is going this very moment
        return False


def wait_until(what, seconds=20.0):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def running(mark):
    """Returns the processes whose command line has that text."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def test_a_program_gets_its_files_and_its_result_comes_back(home):
    names = ["plain", "-rf", "$(touch hit)", "a'b\"c", "new\nline", "ü ;&|", "{folder}"]
    uploads = [Upload(("files", str(i), name), name.encode()) for i, name in enumerate(names)]
    text = """
say(progress=["one", 1, 2, "note"])
read = [open(os.path.join("files", str(i), name)).read() for i, name in enumerate(request["names"])]
say(result=read)
"""
    seen = []
    what = order(text, *uploads, request={"names": names})
    assert talk(home, what, progress=lambda *said: seen.append(said)) == names
    assert ("one", 1, 2, "note") in seen
    assert seen[0][0] == "send"
    assert is_gone(home)
    assert not Path("hit").exists()


def test_the_device_says_what_it_is_before_anything_is_sent(home):
    surveys = []
    assert run_on_device(link_to(home), sys.executable, surveys.append) is None
    assert surveys[0].python == ".".join(map(str, sys.version_info[:3]))
    assert surveys[0].versions["numpy"]
    assert surveys[0].free_bytes > 0
    assert is_gone(home)


def test_a_python_made_for_it_is_preferred(home):
    folder = home / ".cache/pocketvit/venv/bin"
    folder.mkdir(parents=True)
    (folder / "python").write_text(f'#!/bin/sh\nMADE=yes exec {sys.executable} "$@"\n')
    (folder / "python").chmod(0o755)
    assert talk(home, order('say(result=os.environ.get("MADE"))')) == "yes"
    assert (folder / "python").exists()


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        ('say(error="UnsupportedTargetError", text="No such thing.")', UnsupportedTargetError, "^No such thing.$"),
        ('sys.exit("it broke")', MeasurementError, "status 1 and no result. Got it broke"),
        ("os.kill(os.getpid(), 9)", MeasurementError, "status -9 and no result"),
        ('print("no json"); print("[1]")', MeasurementError, "status 0 and no result"),
    ],
)
def test_a_program_that_fails_is_told_and_leaves_nothing(home, text, kind, said):
    with pytest.raises(kind, match=said):
        talk(home, order(text))
    assert is_gone(home)


def test_a_program_that_falls_silent_is_ended_with_all_it_started(home):
    mark = f"sleeper-of-{os.getpid()}"
    text = f"""
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", "{mark}"])
say(progress=["begun", 0, 1, ""])
time.sleep(600)
"""
    with pytest.raises(MeasurementError, match="gave no sign for 1 s and was given up"):
        talk(home, order(text, silence_s=1.0))
    assert is_gone(home)
    wait_until(lambda: not running(mark))


def test_who_is_told_to_stop_stops(home):
    stop = threading.Event()

    def progress(*said):
        if said[0] == "begun":
            stop.set()

    with pytest.raises(MeasurementError, match="the board was stopped"):
        talk(home, order('say(progress=["begun", 0, 1, ""]); time.sleep(600)'), progress=progress, stop=stop)
    assert is_gone(home)


def test_an_interrupt_here_ends_it_there(home):
    def progress(*said):
        if said[0] == "begun":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        talk(home, order('say(progress=["begun", 0, 1, ""]); time.sleep(600)'), progress=progress)
    assert is_gone(home)


def test_a_cut_link_is_told_and_the_device_clears_up_by_itself(home):
    mark = f"cut-{os.getpid()}"
    near = link_to(home)
    link = Link("the board", lambda line: [sys.executable, "-c", RELAY, mark, *near.argv(line)])
    what = order('say(progress=["begun", 0, 1, ""]); time.sleep(600)')
    seen = threading.Event()

    def kill(*said):
        if said[0] == "begun":
            for number in running(mark):
                os.kill(number, signal.SIGKILL)
            seen.set()

    with pytest.raises(MeasurementError, match="link to the board ended before there was an answer"):
        run_on_device(link, sys.executable, lambda survey: what, kill)
    assert seen.is_set()
    wait_until(lambda: is_gone(home))
    wait_until(lambda: not running(str(home)))


def test_the_next_talk_removes_what_a_killed_supervisor_left(home):
    def kill_all(*said):
        if said[0] == "begun":
            os.kill(int(said[3]), signal.SIGKILL)

    text = 'say(progress=["begun", 0, 1, str(os.getppid())]); time.sleep(600)'
    with pytest.raises(MeasurementError, match="link to the board ended"):
        talk(home, order(text), progress=kill_all)
    left = list((home / ".cache/pocketvit").glob("run-*"))
    assert len(left) == 1
    # the program dies with its supervisor, whatever that died of
    wait_until(lambda: not running("agent/work.py"))
    assert talk(home, order("say(result=1)")) == 1
    assert not left[0].exists()


def test_two_talks_at_once_do_not_disturb_each_other(home):
    text = 'say(progress=["begun", 0, 1, ""])\nwhile not os.path.exists(request["go"]): time.sleep(0.01)\nsay(result=2)'
    begun, answers = threading.Event(), []
    what = order(text, request={"go": str(home / "go")})
    thread = threading.Thread(
        target=lambda: answers.append(talk(home, what, progress=lambda *said: said[0] == "begun" and begun.set()))
    )
    thread.start()
    assert begun.wait(20)
    assert talk(home, order("say(result=1)")) == 1
    (home / "go").touch()
    thread.join(20)
    assert answers == [2]


@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        (
            {"kind": "space", "needed": 3_000_000, "free": 1_000_000, "folder": "/x"},
            "Expected 3.0 MB in /x. Got 1.0 MB",
        ),
        ({"kind": "python", "got": "3.9.2", "oldest": "3.11"}, "too old. Expected 3.11 or newer. Got 3.9.2"),
        ({"kind": "damaged", "file": "a.onnx"}, "a.onnx arrived damaged"),
        ({"kind": "write", "folder": "/x", "reason": "Read-only file system"}, "cannot write /x. Got Read-only"),
    ],
)
def test_a_refusal_of_the_device_says_what_to_do(home, refusal, said):
    answer = json.dumps({"refused": refusal})
    link = Link("the board", lambda line: ["/bin/sh", "-c", f"echo '{answer}'"])
    with pytest.raises(MeasurementError, match=said):
        run_on_device(link, "python3", lambda survey: None)


def test_a_device_without_python_says_how_to_get_it(home, tmp_path):
    with pytest.raises(MeasurementError, match=r"There is no Python 3 on the board.*apt install python3"):
        run_on_device(link_to(home), "python-of-nobody", lambda survey: None)


def test_what_the_link_knows_of_its_own_endings_comes_first(home):
    link = Link("the board", lambda line: ["/bin/sh", "-c", "echo no route >&2; exit 255"], explain)
    with pytest.raises(UnsupportedTargetError, match="255 no route"):
        run_on_device(link, "python3", lambda survey: None)


def explain(status, said):
    return UnsupportedTargetError(f"{status} {said}")


def test_a_link_whose_program_is_missing_is_told(tmp_path):
    link = Link("the board", lambda line: [str(tmp_path / "none"), line])
    with pytest.raises(MeasurementError, match="program that reaches the board cannot be run"):
        run_on_device(link, "python3", lambda survey: None)


def test_a_device_that_never_answers_is_given_up():
    link = Link("the board", lambda line: ["/bin/sh", "-c", "exec sleep 600"])
    with pytest.raises(MeasurementError, match=r"did not answer for 0\.3 s"):
        run_on_device(link, "python3", lambda survey: None, connect_s=0.3)


def test_a_file_that_changes_on_its_way_is_refused(home, tmp_path):
    file = tmp_path / "model"
    file.write_bytes(b"a" * 10)

    def change(*said):
        file.write_bytes(b"b" * 10)

    with pytest.raises(MeasurementError, match="model arrived damaged on the board"):
        talk(home, order("say(result=1)", Upload(("files", "0", "model"), file)), progress=change)
    assert is_gone(home)


def test_the_supervisor_ends_when_nobody_is_heard_of(home):
    from device_bench.targets.remote import supervisor

    program = Path(supervisor.__file__).read_bytes()
    command = [sys.executable, "-c", "import sys;exec(sys.stdin.buffer.read(int(sys.stdin.buffer.readline())))"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "HOME": str(home)}
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{len(program)}\n".encode() + program + b'{"root": "~/.cache/pocketvit", "lost_s": 1}\n')
        process.stdin.flush()
        assert b"device" in process.stdout.readline()
        assert process.wait(20) == 1
    assert is_gone(home)
