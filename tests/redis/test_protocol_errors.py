"""Bytes that no client should send get the server's own answer, and the same end."""

import contextlib
import socket
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from playground.servers import Valkey
from puerta.protocol import inline, resp
from tests.redis.conftest import PASSWORD, Front
from tests.redis.wire import Wire, decoded, request

pytestmark = pytest.mark.dataplane

PING = request("PING")


def answers(port: int, data: bytes) -> bytes:
    """All that comes back until the other side closes: because of `data`, or because that is all.

    Who closes before it has read everything resets the connection, and what it said may be lost on the way: then once more.
    """
    for _ in range(10):
        with Wire(port) as wire, contextlib.suppress(OSError):
            wire.send(data)
            wire.socket.shutdown(socket.SHUT_WR)
            while wire.fill():
                pass
            return wire.buffer
    return wire.buffer


LONG = (64 << 10) + 4
"""Just beyond what a line may be long: the server has read it all when it says so, and need not reset the connection."""

BAD = {
    "bulk length": b"*2\r\n$4\r\nECHO\r\n$-1\r\n",
    "negative bulk": b"*2\r\n$4\r\nECHO\r\n$-5\r\n",
    "bulk length of letters": b"*2\r\n$4\r\nECHO\r\n$abc\r\n",
    "bulk too long": b"*2\r\n$4\r\nECHO\r\n$536870913\r\n",
    "no dollar": b"*2\r\n$4\r\nECHO\r\n:5\r\n",
    "no dollar but a control": b"*2\r\n$4\r\nECHO\r\n\x01\r\n",
    "no dollar but a byte": b"*2\r\n$4\r\nECHO\r\n\xff\r\n",
    "no dollar but a line end": b"*1\r\n\r\n\r\n",
    "count too large": b"*2147483648\r\n",
    "count of letters": b"*abc\r\n",
    "count with blank": b"* 1\r\n",
    "count with plus": b"*+1\r\n$4\r\nPING\r\n",
    "count with zero": b"*01\r\n$4\r\nPING\r\n",
    "empty count": b"*\r\n",
    "huge count": b"*99999999999999999999999\r\n",
    "count line without end": b"*" + b"1" * LONG,
    "bulk line without end": b"*1\r\n$" + b"1" * LONG,
    "inline without end": b"A" * LONG,
    "unbalanced quotes": b'ECHO "abc\r\n',
    "unbalanced single quotes": b"ECHO 'abc\r\n",
    "an open quote in a word": b'ECHO a"b\r\n',
    "an escaped quote and a blank": b'ECHO "\\" \r\n',
}

FINE = {
    "empty lines": b"\r\n\r\n\n" + PING,
    "nothing": b"*0\r\n*-1\r\n" + PING,
    "empty bulk": b"*2\r\n$4\r\nECHO\r\n$0\r\n\r\n",
    "inline": b"PING\r\nECHO abc\n  echo   x  \r\n",
    "inline with quotes": b'ECHO "a b\\x41\\n\\"\\\\"\r\nECHO \'it\\\'s\'\r\nECHO ""\r\n',
    "inline and not": b"PING\r\n" + PING + b"PING\r\n" + request("ECHO", "x") + b"ECHO y\n",
    "quotes within words": b'ECHO "abc"def\r\nECHO a"b c"\'d\'\r\nECHO ""a\r\n',
    "an escape at the end is none": b"ECHO \"\\\"\r\nECHO '\\'\nECHO '\\''\r\n",
    "an empty command": b"*1\r\n$0\r\n\r\n" + PING,
    "inline blank": b"   \r\nPING\r\n",
    "unknown commands": request("NO\r\nSUCH", "a\r\nb", b"\0\xff") + request("x" * 200, "y" * 200) + PING,
    "unknown with many": request("nosuch", *["arg"] * 100) + request(b"\0abc", "d"),
    "unknown subcommand": request("CLIENT", "no\r\nsuch") + request("config", "x" * 300) + PING,
    "wrong arity": request("GET") + request("CLIENT") + request("SET", "a") + request("XGROUP", "CREATE") + PING,
    "cr in a bulk": request("ECHO", "\r") + request("ECHO", "\r\n\r\n"),
}


@pytest.mark.parametrize("name", [*BAD, *FINE])
def test_answered_as_by_the_server(front: Front, server: Valkey, name: str) -> None:
    data = PING + (BAD[name] if name in BAD else FINE[name] + request("ECHO", "the end"))
    ours, theirs = answers(front.port, data), answers(server.port, data)
    assert ours == theirs
    assert (b"Protocol error" in ours) == (name in BAD) and ours.endswith(b"the end\r\n") == (name in FINE)


UNKNOWN = {
    "few arguments": request("SET", *["a"] * 9) + PING,
    "many arguments": request("SET", *["a"] * 10),
    "short bulk": request("ECHO", "x" * 16384),
    "long bulk": b"*2\r\n$4\r\nECHO\r\n$16385\r\n",
    "unknown command": request("NOSUCH"),
    "wrong arity": request("GET"),
    "exec": request("EXEC") + request("EXEC", "x"),
    "before": PING + request("GET", "a") + request("SELECT", "0") + request("CLIENT", "ID") + request("MULTI"),
    "inline": b"PING\r\nGET a\r\n",
    "wrong password": request("AUTH", "x")
    + request("AUTH", "default", "x")
    + request("AUTH", "nobody", PASSWORD)
    + PING,
    "too much for auth": request("AUTH", "a", "b", "c") + request("AUTH") + PING,
    "hello": request("HELLO") + request("HELLO", 3) + PING,
    "hello with wrong password": request("HELLO", 3, "AUTH", "default", "x") + PING,
    "hello of no version": request("HELLO", 4) + request("HELLO", "x") + request("HELLO", 3, "AUTH", "default"),
    "the password": request("AUTH", PASSWORD) + PING + request("AUTH", "x") + PING + request("SET", *["a"] * 11),
    "the password and its user": PING + request("AUTH", "default", PASSWORD) + PING + request("ECHO", "x" * 16385),
    "reset": request("AUTH", PASSWORD) + PING + request("RESET") + PING,
    "bad greeting": request("HELLO", 3, "AUTH", "default", PASSWORD, "SETNAME", "a b") + PING,
    "no protocol change": request("AUTH", PASSWORD) + request("HELLO", 4) + request("HGETALL", "a{nosuch}"),
    "whoami": request("AUTH", PASSWORD) + request("ACL", "WHOAMI"),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_who_is_not_known_gets_the_servers_answer(front: Front, guarded_server: Valkey, name: str) -> None:
    assert answers(front.guarded, UNKNOWN[name]) == answers(guarded_server.port, UNKNOWN[name])


@given(st.text("ab \"'\\xn0\t\x0b\x0cré4", max_size=24).map(lambda text: text.encode("latin-1")))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_inline_arguments_are_the_servers(server: Valkey, text: bytes) -> None:
    found = inline.arguments(b"ECHO " + text)
    with Wire(server.port) as wire:
        wire.send(b"ECHO " + text + b"\r\n")
        said = wire.frame()
    if found is None:
        assert said == b"-ERR Protocol error: unbalanced quotes in request\r\n"
    elif len(found) == 2:
        assert said == resp.bulk(found[1])
    else:
        assert said == b"-ERR wrong number of arguments for 'echo' command\r\n"


def test_earlier_replies_come_before_the_error_and_the_end(front: Front) -> None:
    with front.connect() as wire:
        wire.send(request("SET", "a", "1") + request("GET", "a") + request("MGET", "a", "b{no}") + b"*x\r\n" + PING)
        assert (
            wire.rest()
            == b"+OK\r\n$1\r\n1\r\n*2\r\n$1\r\n1\r\n$-1\r\n-ERR Protocol error: invalid multibulk length\r\n"
        )


def test_a_client_that_asks_and_closes_its_side_gets_its_replies(front: Front) -> None:
    with front.connect() as wire:
        wire.send(b"".join(request("ECHO", number) for number in range(2000)) + request("MGET", "no", "b{no}"))
        wire.socket.shutdown(socket.SHUT_WR)
        said = wire.rest()
    assert said.count(b"\r\n$") + 1 == 2000 + 2 and said.endswith(b"*2\r\n$-1\r\n$-1\r\n")


def test_a_zero_does_not_end_an_inline_command(front: Front) -> None:
    """The server would wait for ever."""
    with front.connect() as wire:
        wire.send(b"ECHO a\0b\r\n")
        assert wire.frame() == b"$3\r\na\0b\r\n"


def test_every_byte_on_its_own(front: Front) -> None:
    data = request("SET", "k\r\n", b"\0\xff\r\n$") + b'GET "k\\x0d\\x0a"\r\n' + request("MGET", "k\r\n", "", "{}")
    with front.connect() as wire:
        for at in range(len(data)):
            wire.send(data[at : at + 1])
        said = wire.frames(3)
    assert said == [b"+OK\r\n", b"$5\r\n\0\xff\r\n$\r\n", b"*3\r\n$5\r\n\0\xff\r\n$\r\n$-1\r\n$-1\r\n"]


def test_keys_and_values_longer_than_any_buffer(front: Front) -> None:
    key, value = b"k" * 300_000, b"\0\r\n" * 1_000_000
    with front.connect() as wire:
        assert wire.pipeline([("SET", key, value), ("STRLEN", key), ("GET", key), ("DEL", key), ("MGET", key, "b")]) == [
            b"+OK\r\n", b":3000000\r\n", resp.bulk(value), b":1\r\n", b"*2\r\n$-1\r\n$-1\r\n"
        ]  # fmt: skip


def test_patterns_that_take_long_to_understand_are_refused(wire: Wire) -> None:
    """A megabyte of them would occupy the worker for seconds."""
    for patterns in (["ab" * 500_000], ["x"] * 100_000):
        began = time.monotonic()
        assert wire.ask("CONFIG", "GET", *patterns).startswith(b"-ERR the patterns are longer than Puerta takes")
        assert time.monotonic() - began < 1.0
    assert decoded(wire.ask("CONFIG", "GET", "max*", "s[a-b]ve")) == [b"maxmemory", b"0", b"save", b""]
