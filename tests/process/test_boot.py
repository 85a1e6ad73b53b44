"""Starting: what is there when the server says it is ready, and what it says when it can't."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.harness import ROOT, free_port, is_listening, wait_for
from tests.process.server import Fakes, Make, config


def test_children_and_board(make: Make) -> None:
    with make() as server:
        names = sorted(server.children().values())
        assert names == ["puerta: supervisor [test]", "puerta: worker 0 [test]", "puerta: worker 1 [test]"]
        assert server.seats() == {(0, 0), (1, 1)}
        assert server.states() == {"supervisor": "up", "worker 0": "up", "worker 1": "up"}
        board = server.board()
        assert board["master"]["state"] == "running"
        assert board["master"]["pid"] == server.pid
        assert board["self"]["store"] == "redis://127.0.0.1:1"
        assert {"route one", "backend one 127.0.0.1:1", "verdict one 127.0.0.1:1"} <= set(board["tables"])


def test_master_imports_nothing_heavy() -> None:
    code = "import sys, puerta.cli; print([m for m in ('gevent', 'redis', 'pymongo', 'ssl') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_children_hold_nothing_private(make: Make) -> None:
    """A worker must hold neither the lifeline's write end nor the pid file nor the admin sockets; a supervisor no seat."""
    with make() as server:
        held = {role: descriptors(pid) for pid, name in server.children().items() for role in [name.split()[1]]}
        master = descriptors(server.pid)
        pid_file = next(entry for entry in master if entry.endswith("puerta.pid"))
        admin = {entry for entry in held["supervisor"] if entry.startswith("socket:")} - held["worker"]
        assert pid_file not in held["worker"] | held["supervisor"]
        assert admin and not admin & held["worker"]
        writers = [pid for pid in server.session_pids() if writes_pipe(pid, master)]
        assert writers == [server.pid]


def descriptors(pid: int) -> set[str]:
    return {os.readlink(entry) for entry in Path("/proc", str(pid), "fd").iterdir()}


def writes_pipe(pid: int, pipes: set[str]) -> bool:
    """Whether the process holds the write end of a pipe that the master has too."""
    for entry in Path("/proc", str(pid), "fd").iterdir():
        flags = int(Path("/proc", str(pid), "fdinfo", entry.name).read_text().split("flags:")[1].split()[0], 8)
        target = os.readlink(entry)
        if target.startswith("pipe:") and target in pipes and flags & os.O_ACCMODE == os.O_WRONLY:
            return True
    return False


def test_second_instance_is_refused(make: Make, tmp_path: Path) -> None:
    with make() as first:
        other = tmp_path / "other"
        other.mkdir()
        second = make(port=first.port, directory=other).start()
        assert second.wait() == 1
        assert f"can't listen on 127.0.0.1:{first.port}: address already in use" in second.text()
        assert not (second.run_dir / "puerta.pid").exists()
        assert first.seats() == {(0, 0), (1, 1)}


def test_same_run_dir_is_refused(make: Make) -> None:
    with make() as first:
        second = make().start()
        assert second.wait() == 1
        assert f"already running as pid {first.pid}" in second.text()
        assert first.board()["master"]["pid"] == first.pid


def test_pid_file(make: Make) -> None:
    with make() as server:
        assert (server.run_dir / "puerta.pid").read_text() == f"{server.pid}\n"
    assert not (server.run_dir / "puerta.pid").exists()
    assert not (server.run_dir / "puerta.sock").exists()


def test_stale_files_of_a_killed_master_are_no_obstacle(make: Make) -> None:
    first = make().start().wait_ready()
    first.signal(signal.SIGKILL)
    first.wait()
    first.assert_gone()
    assert (first.run_dir / "puerta.pid").exists()
    assert (first.run_dir / "puerta.sock").exists()
    with make(port=first.port) as second:
        assert (second.run_dir / "puerta.pid").read_text() == f"{second.pid}\n"
        assert second.board()["master"]["pid"] == second.pid


def test_daemon_returns_when_it_serves(make: Make) -> None:
    server = make(("-d",))
    server.start()
    assert server.wait() == 0
    assert is_listening(server.port)
    pid = int((server.run_dir / "puerta.pid").read_text())
    server.session = os.getsid(pid)
    assert server.session != pid, "a session leader could get a terminal again"
    assert server.board()["master"]["pid"] == pid
    assert "ready: 2 of 2 workers" in (server.run_dir / "puerta.log").read_text()
    assert server.text() == "", "nothing is said in the foreground when all is well"
    os.kill(pid, signal.SIGTERM)
    server.assert_gone()


def test_daemon_says_why_it_could_not_start(make: Make) -> None:
    server = make(("-d",))
    with socket.create_server(("127.0.0.1", server.port)):
        server.start()
        assert server.wait() == 1
    assert "address already in use" in server.text()
    server = make(("-d",))
    for seat in range(2):
        server.tell("never", seat)
    server.start()
    assert server.wait() == 1
    assert "can't start: no worker ever boots" in server.text()


def test_no_worker_ever_boots(make: Make) -> None:
    server = make()
    for seat in range(2):
        server.tell("never", seat)
    assert server.start().wait() == 1
    assert server.text().count("it says that it will never boot") == 2
    server.assert_gone()


def test_supervisor_never_boots(make: Make) -> None:
    server = make()
    server.tell("never", "supervisor")
    assert server.start().wait() == 1
    server.assert_gone()


def test_no_worker_gets_ready(make: Make) -> None:
    server = make(timing={"give_up": 1.0})
    for seat in range(2):
        server.tell("slow", seat)
    assert server.start().wait() == 1
    assert "no worker was ready within 1 s" in server.text()
    server.assert_gone()


def test_a_role_that_raises_is_logged_and_started_again(make: Make) -> None:
    server = make()
    broken = server.tell("raise", 1)
    server.start().wait_log("RuntimeError: told to", 2)
    broken.unlink()
    with server.wait_ready():
        assert server.seats() == {(0, 0), (1, 1)}


def test_unknown_role_never_boots(make: Make) -> None:
    """The real entry texts are code of ours; one that can't be imported must not be tried for ever."""
    server = make()
    server.command = [sys.executable, "-c", LAUNCH_BAD, "-c", str(server.config)]
    assert server.start().wait() == 1
    assert "nowhere:main can't be loaded" in server.text()


LAUNCH_BAD = """
import sys
from puerta.cli import main
sys.exit(main(entries={"worker": "nowhere:main", "supervisor": "tests.process.fakes:supervisor"}))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_privileges_are_dropped() -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        port = free_port()
        text = config(port, directory, extra="user: nobody\nstore: {url: embedded}")
        server = Fakes(directory, text, module="tests.process.launch")
        server.port = port
        with server:
            user, group, groups = server.board()["user"]
            assert user == 65534
            assert group in groups or groups == []
            for pid in server.children():
                status = Path("/proc", str(pid), "status").read_text()
                assert "Uid:\t65534\t65534\t65534\t65534" in status
            assert Path("/proc", str(server.pid), "status").read_text().count("Uid:\t0\t0\t0\t0") == 1
            os.kill(server.worker(0), signal.SIGKILL)
            wait_for(lambda: server.states()["worker 0"] == "up", "the worker is back")
        assert os.stat(server.run_dir).st_uid == 65534


def test_pinned_to_cores(make: Make) -> None:
    server = make(extra="pin_cpus: true\nstore: {url: 'redis://127.0.0.1:1'}", workers=3)
    allowed = sorted(os.sched_getaffinity(0))
    with server:
        for seat in range(3):
            assert os.sched_getaffinity(server.worker(seat)) == {allowed[seat % len(allowed)]}
        assert os.sched_getaffinity(server.child("supervisor")) == set(allowed)


def test_unix_listener_is_shared(make: Make) -> None:
    server = make(routes='  - {name: two, mode: tcp, listen: "unix:two.sock", backends: [{address: "127.0.0.1:1"}]}')
    with server:
        path = server.directory / "two.sock"
        assert path.stat().st_mode & 0o777 == 0o660
        told = server.hello(str(path))
        assert (told["route"], told["listener"]) == ("two", -1)
    assert not path.exists()
