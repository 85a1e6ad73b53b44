import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from puerta.admin import server
from puerta.admin.app import App
from puerta.config.render import render
from tests.harness import wait_for

Get = Callable[..., tuple[int, http.client.HTTPMessage, str]]
PAGES = ("/", "/status", "/livez", "/readyz", "/metrics", "/config")


@pytest.fixture
def listeners(world: Any, tmp_path: Path) -> Iterator[list[socket.socket]]:
    made = [socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_UNIX)]
    made[1].bind(str(tmp_path / "admin.sock"))
    made[1].listen()
    app = App(world.role, world, render(world.role.config))
    servers = server.serve(app, made)
    yield made
    for each in servers:
        each.stop(5.0)
        assert not each.thread.is_alive()
    for listener in made:
        assert listener.fileno() >= 0  # the servers left it open
        listener.close()


@pytest.fixture
def get(listeners: list[socket.socket]) -> Get:
    def ask(path: str, method: str = "GET", body: str | None = None, **headers: str) -> Any:
        link = http.client.HTTPConnection(*listeners[0].getsockname(), timeout=10)
        try:
            link.request(method, path, body, headers)
            response = link.getresponse()
            return response.status, response.headers, response.read().decode()
        finally:
            link.close()

    return ask


def test_every_page_is_hardened_and_keeps_secrets(get: Get) -> None:
    for path in PAGES:
        status, headers, body = get(path)
        assert status == 200, path
        assert "s3cret" not in body
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Content-Security-Policy"].startswith("default-src 'none'; style-src 'sha256-")
        assert headers["Cache-Control"] == "no-store"
        assert headers["Server"] is None
        assert get(path, "HEAD")[2] == ""
        assert get(path, "HEAD")[1]["Content-Type"] == headers["Content-Type"]


def test_the_loop_may_end_before_the_pull_that_ends_it(world: Any, tmp_path: Path) -> None:
    """A reply that is finished at the same time pulls the trigger too, and the loop runs all that is waiting then."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        (running,) = server.serve(App(world.role, world, ""), [listener])
        trigger = running.server.trigger
        pull = trigger._physical_pull

        def late() -> None:
            pull()  # somebody else's
            running.thread.join(5)
            pull()

        trigger._physical_pull = late
        running.stop(5.0)
        assert not running.thread.is_alive()
        with pytest.raises(OSError, match="Bad file descriptor"):
            pull()  # all is closed in the end


def test_who_asked_before_the_end_gets_the_answer(world: Any) -> None:
    """Supervisors come and go with each reload; a scrape must not be lost with them."""
    asked, answer = threading.Event(), b"x" * 5_000_000

    def slow(environ: Any, start_response: Any) -> list[bytes]:
        asked.set()
        time.sleep(1.0)
        start_response("200 OK", [("Content-Length", str(len(answer)))])
        return [answer]

    with socket.create_server(("127.0.0.1", 0)) as listener:
        (running,) = server.serve(slow, [listener])
        link, fresh = (http.client.HTTPConnection(*listener.getsockname(), timeout=10) for _ in range(2))
        link.request("GET", "/")
        assert asked.wait(5)
        fresh.connect()
        wait_for(
            lambda: len(running.map) == 4, "both were accepted"
        )  # it was accepted: else it is the next supervisor's
        ending = threading.Thread(target=running.stop, args=(5.0,))
        ending.start()
        time.sleep(0.05)
        fresh.request("GET", "/")  # it came just before the end, and asks just after
        assert link.getresponse().read() == answer
        assert fresh.getresponse().read() == answer
        link.close()
        fresh.close()
        ending.join(10)
        assert not running.thread.is_alive()


def test_content(get: Get) -> None:
    assert json.loads(get("/status")[2])["name"] == "test"
    assert "name: test" in get("/config")[2]
    assert get("/")[1]["Content-Type"] == "text/html; charset=utf-8"
    _, headers, text = get("/metrics")
    assert headers["Content-Type"].startswith("text/plain")
    assert "puerta_backend_up" in {family.name for family in text_string_to_metric_families(text)}


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_read_only(get: Get, method: str) -> None:
    for path in PAGES:
        status, headers, _ = get(path, method, "x=1" if method == "POST" else None)
        assert (status, headers["Allow"]) == (405, "GET, HEAD")


def test_unknown_and_odd(get: Get) -> None:
    for path in ("/nope", "/status/", "/..%2fetc", "/%00", "/stat%75s/x", "/%ff"):
        assert get(path)[0] == 404
    assert get("/status?" + "&".join(f"a{n}=1" for n in range(100)))[0] == 400
    assert get("/status", Host="other.example")[0] == 200


def raw(listener: socket.socket, request: bytes) -> bytes:
    """The answer to these bytes; empty if the connection was reset first."""
    with socket.create_connection(listener.getsockname(), 10) as peer:
        try:
            peer.sendall(request)
            return peer.makefile("rb").read()
        except ConnectionError:
            return b""


def test_oversize_requests_are_refused(listeners: list[socket.socket]) -> None:
    head = b"POST /status HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"
    assert raw(listeners[0], head).startswith(b"HTTP/1.1 413")
    long = raw(listeners[0], b"GET /status HTTP/1.1\r\nCookie: " + b"c" * (64 << 10) + b"\r\n\r\n")
    assert long == b"" or long.startswith(b"HTTP/1.1 431") or long.startswith(b"HTTP/1.0 431")
    assert raw(listeners[0], b"GET /livez HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.0 200")


def test_readyz(get: Get, world: Any) -> None:
    assert get("/readyz")[::2] == (200, "ok\n")
    assert get("/readyz?verbose")[2].splitlines() == [
        "[+]master ok",
        "[+]workers ok",
        "[+]route mongo ok",
        "[+]route other ok",
        "ok",
    ]
    world.verdict("mongo", "10.0.0.1:27017", "down")
    world.master("draining")
    status, _, body = get("/readyz?verbose")
    assert status == 503
    assert "[-]master failed: the master is draining" in body.splitlines()
    assert "[-]route mongo failed: no healthy backend" in body.splitlines()
    assert "[+]workers ok" in body.splitlines()
    status, _, body = get("/readyz")
    assert status == 503
    assert "[+]" not in body


def test_livez(get: Get, world: Any) -> None:
    assert get("/livez?verbose")[::2] == (200, "[+]supervisor ok\n[+]master ok\nok\n")
    world.master("draining")
    assert get("/livez")[0] == 200  # to drain is to live
    world.board.master.set(0, "pid", 1 << 22 | 1)  # beyond pid_max
    status, _, body = get("/livez")
    assert (status, body) == (503, "[-]master failed: it does not run\nfailed\n")
    world.board.master.set(0, "pid", 0)
    assert get("/livez")[0] == 503


def test_a_page_that_fails_says_little_and_stays_up(get: Get, world: Any) -> None:
    def fail(route: str, backend: str) -> Any:
        raise RuntimeError("s3cret")

    works, world.result = world.result, fail
    app = App(world.role, world, "")
    seen: list[str] = []
    body = app({"PATH_INFO": "/status", "REQUEST_METHOD": "GET"}, lambda status, headers: seen.append(status))
    assert (seen, list(body)) == (["500 Internal Server Error"], [b"internal error\n"])
    world.result = works
    assert get("/status")[0] == 200


def test_unix_socket(listeners: list[socket.socket]) -> None:
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(10)
        peer.connect(listeners[1].getsockname())
        peer.sendall(b"GET /status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        head, _, body = peer.makefile("rb").read().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert json.loads(body)["state"] == "running"


def test_a_crowd_on_tcp_leaves_the_unix_socket_free(listeners: list[socket.socket]) -> None:
    limit = server.LIMITS["connection_limit"]
    crowd = []
    for _ in range(limit + 20):
        crowd.append(socket.create_connection(listeners[0].getsockname(), 5))
        crowd[-1].sendall(b"GET / HTTP/1.1\r\n")
    try:
        test_unix_socket(listeners)
    finally:
        for peer in crowd:
            peer.close()


def test_many_at_once(get: Get) -> None:
    found: list[int] = []
    askers = [threading.Thread(target=lambda: found.append(get("/metrics")[0])) for _ in range(20)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join(30)
    assert found == [200] * 20
