from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from runtime import StorageError, atomic_path, dumps, sha256_of, storage_errors, write_bytes

ROOT = Path(__file__).resolve().parents[3]


def in_child(code: str, folder: Path, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Runs Python ``code`` with ``folder`` as its working directory."""
    return subprocess.run(
        [*prefix, sys.executable, "-c", code],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_bytes_and_folders_are_written(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file.bin"
    write_bytes(path, b"one")
    write_bytes(path, b"two")
    assert path.read_bytes() == b"two"
    assert list(path.parent.iterdir()) == [path]


def test_an_exception_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")

    def fail_half_way() -> None:
        with atomic_path(path) as temporary:
            temporary.write_bytes(b"half")
            assert path.read_bytes() == b"old"
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail_half_way()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupt_leaves_no_temporary_file(tmp_path: Path) -> None:
    def interrupted() -> None:
        with atomic_path(tmp_path / "file.bin") as temporary:
            temporary.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="tells descriptors apart by /proc")
def test_content_and_folder_are_synced_in_that_order_around_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, events = tmp_path / "file.bin", []
    sync, replace = os.fsync, Path.replace

    def spy_sync(descriptor: int) -> None:
        events.append("folder" if Path(f"/proc/self/fd/{descriptor}").resolve() == tmp_path else "content")
        sync(descriptor)

    def spy_replace(self: Path, target: Path) -> Path:
        events.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", spy_sync)
    monkeypatch.setattr(Path, "replace", spy_replace)
    write_bytes(path, b"data")
    assert events == ["content", "rename", "folder"]


def test_a_full_disk_at_the_sync_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="no space left"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


WRITE_TOO_MUCH = """
from pathlib import Path
from runtime import StorageError, write_bytes
try:
    write_bytes(Path("file.bin"), b"x" * 4_000_000)
except StorageError as error:
    print(error)
else:
    raise SystemExit("it was written")
print(sorted(p.name for p in Path().iterdir()), Path("file.bin").read_text())
"""


def test_a_file_size_limit_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file.bin").write_text("old")
    limit = (
        "import resource, signal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
    )
    done = in_child(limit + WRITE_TOO_MUCH, tmp_path)
    assert done.returncode == 0, done.stderr
    message, left = done.stdout.splitlines()
    assert message == (
        "Cannot write file.bin: no space left. Got File too large. "
        "Free some disk space or choose another folder; nothing was half-written."
    )
    assert left == "['file.bin'] old"


def private_mount(folder: Path, options: str, then: str) -> subprocess.CompletedProcess[str]:
    """Runs Python code inside a small file system that only this child sees; skips where that is forbidden."""
    if sys.platform != "linux":
        pytest.skip("needs Linux namespaces")
    try:
        allowed = subprocess.run(
            ["unshare", "-rm", "mount", "-t", "tmpfs", "none", str(folder)], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        pytest.skip("needs unshare")
    if allowed.returncode:
        pytest.skip(f"mounting in a user namespace is not permitted: {allowed.stderr.strip()}")
    script = f'mount -t tmpfs -o size=1m none "$1" && cd "$1" && printf old > file.bin && {options} exec "$2" -c "$3"'
    return in_child_shell(script, folder, then)


def in_child_shell(script: str, folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Runs a shell script in a new namespace with the folder, this Python and its code as arguments."""
    return subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, "sh", str(folder), sys.executable, code],
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_full_disk_is_a_storage_error(tmp_path: Path) -> None:
    done = private_mount(tmp_path, "", WRITE_TOO_MUCH)
    assert done.returncode == 0, done.stderr
    message, left = done.stdout.splitlines()
    assert message.startswith("Cannot write file.bin: no space left. Got No space left on device.")
    assert left == "['file.bin'] old"


def test_a_read_only_disk_is_a_storage_error(tmp_path: Path) -> None:
    done = private_mount(tmp_path, 'mount -o remount,ro "$1" && cd "$1" &&', WRITE_TOO_MUCH)
    assert done.returncode == 0, done.stderr
    message, left = done.stdout.splitlines()
    assert message == ("Cannot write file.bin. Got Read-only file system. Choose a folder you may write to.")
    assert left == "['file.bin'] old"


def test_a_read_only_folder_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file.bin").write_text("old")
    (tmp_path / "file.bin").chmod(0o644)
    tmp_path.chmod(0o555)
    drop = "import os, runtime\nif os.geteuid() == 0:\n    os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
    try:
        done = in_child(drop + WRITE_TOO_MUCH, tmp_path)
    finally:
        tmp_path.chmod(0o755)
    assert done.returncode == 0, done.stderr
    message, left = done.stdout.splitlines()
    assert message == "Cannot write file.bin. Got Permission denied. Choose a folder you may write to."
    assert left == "['file.bin'] old"


@pytest.mark.parametrize("inside", ["file/new.bin", "file/deeper/new.bin"])
def test_a_file_where_a_folder_should_be(tmp_path: Path, inside: str) -> None:
    (tmp_path / "file").write_text("here")
    with pytest.raises(StorageError, match="Choose a folder you may write to"):
        write_bytes(tmp_path / inside, b"data")
    assert (tmp_path / "file").read_text() == "here"


def test_a_folder_where_the_file_should_be(tmp_path: Path) -> None:
    (tmp_path / "file.bin").mkdir()
    with pytest.raises(StorageError, match="Is a directory"):
        write_bytes(tmp_path / "file.bin", b"data")
    assert [path.name for path in tmp_path.iterdir()] == ["file.bin"]


def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="File name too long"):
        write_bytes(tmp_path / ("x" * 300), b"data")


def test_other_system_errors_are_not_renamed(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), storage_errors(tmp_path):
        (tmp_path / "absent").read_bytes()


def test_a_storage_error_passes_through(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"^first\.$"), storage_errors(tmp_path):
        raise StorageError("first")


def test_two_writers_leave_one_whole_file(tmp_path: Path) -> None:
    path, contents = tmp_path / "file.bin", [bytes([n]) * 200_000 for n in (1, 2)]
    seen, failures = set(), []

    def write(data: bytes) -> None:
        try:
            for _ in range(15):
                write_bytes(path, data)
                seen.add(path.read_bytes())
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(data,)) for data in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert seen <= set(contents)
    assert list(tmp_path.iterdir()) == [path]


def test_overlapping_writers_do_not_share_a_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    with atomic_path(path) as outer:
        with atomic_path(path) as inner:
            outer.write_bytes(b"outer")
            inner.write_bytes(b"inner")
        assert path.read_bytes() == b"inner"
    assert path.read_bytes() == b"outer"


def test_sha256_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc" * 100_000)
    assert sha256_of(tmp_path / "file") == hashlib.sha256(b"abc" * 100_000).hexdigest()


def test_dumps_refuses_nan() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        dumps({"a": float("nan")})
