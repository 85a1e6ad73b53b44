"""Pid files, users, limits: what the kernel is asked for."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from puerta.errors import BootError
from puerta.process import unix
from puerta.process.daemon import Readiness
from puerta.process.pidfile import PidFile
from tests.harness import ROOT


def test_pid_file_of_a_dead_process_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "p.pid"
    path.write_text("1\n")
    file = PidFile(path)
    file.write()
    assert path.read_text() == f"{os.getpid()}\n"
    with pytest.raises(BootError, match=f"already running as pid {os.getpid()} "):
        PidFile(path).check()
    file.remove()
    assert list(tmp_path.iterdir()) == []


def test_pid_file_of_a_successor_is_left(tmp_path: Path) -> None:
    path = tmp_path / "p.pid"
    file = PidFile(path)
    file.write()
    path.unlink()
    path.write_text("77\n")
    file.remove()
    assert path.read_text() == "77\n"


def test_pid_file_that_can_not_be_written(tmp_path: Path) -> None:
    with pytest.raises(BootError, match="can't write the pid file"):
        PidFile(tmp_path / "missing" / "p.pid").write()


def test_unknown_user() -> None:
    with pytest.raises(BootError, match="there is no user 'nobody-we-know'"):
        unix.look_up("nobody-we-know")


def test_only_root_becomes_somebody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(BootError, match="only root can become 'root'"):
        unix.look_up("root")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert unix.look_up("root") is None
    assert unix.look_up(None) is None


@pytest.mark.parametrize(
    ("ending", "words"),
    [
        ("sys.exit(3)", "exit status 3"),
        ("os.kill(os.getpid(), 9)", "killed by SIGKILL"),
        ("os.kill(os.getpid(), 40)", "killed by signal 40"),
    ],
)
def test_endings_in_words(ending: str, words: str) -> None:
    child = subprocess.Popen([sys.executable, "-c", f"import os, sys; {ending}"])
    assert unix.describe_status(os.waitpid(child.pid, 0)[1]) == words
    child.returncode = 0


def test_open_files_are_raised_and_the_rest_is_said() -> None:
    code = (
        "import resource, logging; from puerta.process.unix import raise_open_files\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 128)); logging.basicConfig()\n"
        "raise_open_files(128); raise_open_files(500)\n"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "128\n"
    assert done.stderr.count("128 open files are allowed, the connection limits may need 500") == 1


def test_directories(tmp_path: Path) -> None:
    unix.make_directory(tmp_path / "a" / "b", 0o755, None)
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o755
    (tmp_path / "file").touch()
    with pytest.raises(BootError, match="can't make the directory"):
        unix.make_directory(tmp_path / "file", 0o755, None)


def test_parent_that_is_gone_is_noticed() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0 if unix.die_with_parent(os.getppid()) and not unix.die_with_parent(1) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_cores() -> None:
    assert 1 <= unix.usable_cores() <= len(os.sched_getaffinity(0))


def test_readiness_speaks_once() -> None:
    reader, writer = os.pipe()
    readiness = Readiness(writer)
    readiness.tell()
    readiness.tell("too late")
    assert os.read(reader, 100) == b"\0ready"
    assert os.read(reader, 100) == b""
    os.close(reader)
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        os.fstat(writer)


def test_readiness_survives_a_killed_command() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    assert signal.getsignal(signal.SIGPIPE) == signal.SIG_IGN
    Readiness(writer).tell("nobody hears this")


def test_what_is_written_to_stderr_moves_with_a_daemon_s_log(tmp_path: Path) -> None:
    """In every process: children reopen the log by themselves."""
    code = """if True:
        import os, sys
        from puerta import log
        log.setup("info", "text", sys.argv[1], all_of_it=True)
        os.write(2, b"stacks, before\\n")
        os.rename(sys.argv[1], sys.argv[1] + ".1")
        log.reopen()
        os.write(2, b"stacks, after\\n")
    """
    path = tmp_path / "puerta.log"
    subprocess.run([sys.executable, "-c", code, str(path)], check=True, timeout=60)
    assert (path.with_name("puerta.log.1").read_text(), path.read_text()) == ("stacks, before\n", "stacks, after\n")
