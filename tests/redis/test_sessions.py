"""What belongs to one client's connection: protocol, identity, name, muted replies, and its end."""

import random
import socket
import struct
import threading
import time
from collections.abc import Callable

import pytest

from playground.servers import Valkey
from tests.redis.conftest import PASSWORD, Front
from tests.redis.wire import Wire, decoded, parts, request, until

pytestmark = pytest.mark.dataplane

Connect = Callable[..., Wire]

# -- HELLO, AUTH, RESET, QUIT, SELECT


def test_hello_in_the_middle_of_a_pipeline(wire: Wire) -> None:
    said = wire.pipeline(
        [
            ("HSET", "h", "f", "v"),
            ("HGETALL", "h"),
            ("HELLO", "3"),
            ("HGETALL", "h"),
            ("GET", "no"),
            ("HELLO", "2"),
            ("GET", "no"),
        ]
    )
    assert said[:2] == [b":1\r\n", b"*2\r\n$1\r\nf\r\n$1\r\nv\r\n"]
    assert said[2].startswith(b"%7\r\n") and said[5].startswith(b"*14\r\n")
    assert said[3:5] == [b"%1\r\n$1\r\nf\r\n$1\r\nv\r\n", b"_\r\n"]
    assert said[6] == b"$-1\r\n"


@pytest.mark.parametrize(
    "refused",
    [("HELLO", "4"), ("HELLO", "x"), ("HELLO", "3", "SETNAME", "a b"), ("HELLO", "3", "AUTH", "default", "x")],
)
def test_a_hello_that_fails_changes_nothing(wire: Wire, refused: tuple[str, ...]) -> None:
    said = wire.pipeline([refused, ("GET", "no"), ("CLIENT", "GETNAME")])
    assert said[0].startswith(b"-") and said[1:] == [b"$-1\r\n", b"$-1\r\n"]


def test_no_command_overtakes_another_when_the_protocol_changes(wire: Wire) -> None:
    """The two protocols have connections of their own."""
    wanted, asked = [], []
    for number in range(200):
        asked += [("SET", "k", number), ("HELLO", 3 - number % 2), ("GET", "k")]
        wanted.append(b"$%d\r\n%d\r\n" % (len(str(number)), number))
    assert wire.pipeline(asked)[2::3] == wanted


def test_both_protocols_at_the_same_time(connect: Connect) -> None:
    """Shapes that differ by more than a letter."""
    two, three = connect(), connect()
    three.ask("HELLO", "3")
    two.ask("ZADD", "z", "1.5", "a", "2", "b")
    asked = [("ZRANGE", "z", 0, -1, "WITHSCORES"), ("ZSCORE", "z", "a"), ("ZADD", "z", "INCR", 1, "b")] * 100
    for wire in (two, three):
        wire.send(b"".join(request(*command) for command in asked))
    old, new = two.frames(300), three.frames(300)
    assert old[0].startswith(b"*4\r\n$1\r\na\r\n$3\r\n1.5\r\n") and old[1] == b"$3\r\n1.5\r\n"
    assert new[0].startswith(b"*2\r\n*2\r\n$1\r\na\r\n,1.5\r\n") and new[1] == b",1.5\r\n"
    assert all(frame.startswith(b"$") for frame in old[2::3]) and all(frame.startswith(b",") for frame in new[2::3])


def test_auth_counts_for_what_follows(connect: Connect, front: Front) -> None:
    wire = connect(front.guarded)
    said = wire.pipeline(
        [
            ("SET", "a", "1"),
            ("AUTH", "nobody", PASSWORD),
            ("AUTH", PASSWORD),
            ("SET", "a", "1"),
            ("AUTH", "x"),
            ("GET", "a"),
        ]
    )
    assert said[0] == b"-NOAUTH Authentication required.\r\n"
    assert said[1].startswith(b"-WRONGPASS") and said[4].startswith(b"-WRONGPASS")
    assert said[2:4] == [b"+OK\r\n", b"+OK\r\n"] and said[5] == b"$1\r\n1\r\n"


def test_hello_with_auth(connect: Connect, front: Front) -> None:
    wire = connect(front.guarded)
    assert wire.ask("HELLO", "3", "AUTH", "default", PASSWORD, "SETNAME", "me").startswith(b"%7\r\n")
    assert wire.pipeline([("GET", "no"), ("CLIENT", "GETNAME")]) == [b"_\r\n", b"$2\r\nme\r\n"]


def test_where_nobody_needs_a_password_giving_one_is_a_clear_error(wire: Wire) -> None:
    for command in (("AUTH", "x"), ("AUTH", "default", "x"), ("HELLO", "3", "AUTH", "default", "x")):
        assert wire.ask(*command).startswith(b"-ERR Client sent AUTH, but no password is set: ")
    assert wire.ask("GET", "no") == b"$-1\r\n"


def test_reset_forgets_everything(connect: Connect, front: Front) -> None:
    wire = connect(front.guarded)
    wire.ask("HELLO", "3", "AUTH", "default", PASSWORD, "SETNAME", "me")
    wire.pipeline([("SUBSCRIBE", "ch"), ("WATCH", "k"), ("MULTI",), ("SET", "k", "1")])
    assert wire.pipeline([("RESET",), ("GET", "k")]) == [b"+RESET\r\n", b"-NOAUTH Authentication required.\r\n"]
    assert wire.pipeline([("AUTH", PASSWORD), ("CLIENT", "GETNAME"), ("EXEC",), ("GET", "k")]) == [
        b"+OK\r\n", b"$-1\r\n", b"-ERR EXEC without MULTI\r\n", b"$-1\r\n"
    ]  # fmt: skip
    assert connect().ask("PUBSUB", "NUMSUB", "ch") == b"*2\r\n$2\r\nch\r\n:0\r\n"


def test_reset_ends_the_muted_state_and_the_resp2_subscriber(wire: Wire) -> None:
    said = wire.pipeline([("SUBSCRIBE", "ch"), ("RESET",), ("GET", "no")])
    assert said[1:] == [b"+RESET\r\n", b"$-1\r\n"]
    wire.send(request("CLIENT", "REPLY", "OFF") + request("PING") + request("RESET") + request("PING"))
    assert wire.frames(2) == [b"+RESET\r\n", b"+PONG\r\n"]
    wire.send(request("CLIENT", "REPLY", "SKIP") + request("RESET") + request("ECHO", "x"))
    assert wire.frame() == b"$1\r\nx\r\n"


@pytest.mark.parametrize(
    "before", [[], [("HELLO", "3")], [("MULTI",), ("SET", "a", "1")], [("SUBSCRIBE", "a")], [("WATCH", "a")]]
)
def test_quit_after_everything_else(wire: Wire, before: list[tuple[str, ...]]) -> None:
    wire.send(b"".join(request(*command) for command in before))
    wire.frames(len(before))
    asked = [("PING", "x")] if before == [("SUBSCRIBE", "a")] else [("MGET", "a", "b", "c"), ("DBSIZE",), ("GET", "a")]
    wire.send(b"".join(request(*command) for command in [*asked, ("QUIT",), ("PING",)]))
    said = wire.frames(len(asked) + 1)
    assert said[-1] == b"+OK\r\n" and not any(frame.startswith(b"+OK") for frame in said[:-1])
    assert wire.rest() == b""


def test_one_database(wire: Wire) -> None:
    said = wire.pipeline([("SELECT", "0"), ("SELECT", "1"), ("SELECT", "x"), ("SWAPDB", "0", "1"), ("MOVE", "a", "1")])
    assert said[:3] == [
        b"+OK\r\n", b"-ERR SELECT is not allowed in cluster mode\r\n", b"-ERR value is not an integer or out of range\r\n"
    ]  # fmt: skip
    assert all(frame.startswith(b"-ERR ") for frame in said[3:])


# -- CLIENT


def test_names_and_ids_are_each_clients_own(connect: Connect) -> None:
    one, two = connect(), connect()
    assert one.pipeline([("CLIENT", "SETNAME", "one"), ("CLIENT", "SETINFO", "lib-name", "x"), ("CLIENT", "NO-EVICT", "on")]) == [
        b"+OK\r\n"
    ] * 3  # fmt: skip
    assert two.ask("CLIENT", "GETNAME") == b"$-1\r\n"
    assert one.ask("CLIENT", "GETNAME") == b"$3\r\none\r\n"
    assert one.ask("CLIENT", "ID") != two.ask("CLIENT", "ID")
    line = decoded(one.ask("CLIENT", "INFO")).decode()
    host, port = one.socket.getsockname()
    assert f"addr={host}:{port} " in line and " name=one " in line and " lib-name=x " in line and " resp=2 " in line
    assert decoded(two.ask("CLIENT", "LIST")).decode().count("\n") == 1
    two.ask("HELLO", "3")
    assert two.ask("CLIENT", "INFO").startswith(b"=")


def test_a_name_too_long_is_refused(wire: Wire) -> None:
    assert wire.ask("CLIENT", "SETNAME", "x" * 100_000).startswith(b"-ERR ")
    assert wire.ask("HELLO", "3", "SETNAME", "x" * 100_000).startswith(b"-ERR ")


TEXTS = [
    "HELLO 3 AUTH x", "HELLO 3 FOO bar", "HELLO 2 SETNAME", "SELECT abc", "CLIENT SETNAME a\tb", "CLIENT SETINFO lib-name a\tb",
    "CLIENT SETINFO foo bar", "CLIENT REPLY foo", "CLIENT NO-EVICT foo", "CLIENT GETREDIR", "CLIENT TRACKINGINFO", "CLIENT FOO",
    "CLIENT", "CLIENT CAPA redirect", "ACL WHOAMI", "ECHO", "PING a b", "RESET a", "EXEC a", "SCAN abc", "SCAN 0 COUNT 0",
    "SCAN 0 COUNT abc", "SCAN 0 FOO", "SCAN 0 TYPE foo", "SCAN -1", "SCAN 99999999999999999999999", "WAIT a b", "WAIT 0 -1",
    "WAIT 0 0", "WAIT 1 10", "WAITAOF 0 0 0", "SLOWLOG GET abc", "SLOWLOG GET -2", "SLOWLOG LEN x", "MSET a", "MSET a 1 b",
    "KEYS", "TIME a", "DBSIZE a", "FLUSHALL FOO", "FLUSHALL ASYNC SYNC", "SCRIPT KILL", "FUNCTION KILL", "SCRIPT SHOW abc",
    "SCRIPT EXISTS", "SCRIPT FLUSH FOO", "RANDOMKEY x", "CLUSTER KEYSLOT a", "CLUSTER FOO", "CONFIG GET nosuch", "OBJECT", "EVAL",
    "EVAL x", "EVAL x y", "EVAL x -1", "EVAL x 3 a", "FCALL x", "FCALL x -1", "FCALL x 2 a", "SUBSCRIBE", "SSUBSCRIBE", "MULTI x",
    "LOLWUT VERSION 1", "COMMAND INFO get nosuch", "COMMAND GETKEYS get", "PUBSUB FOO", "FUNCTION LOAD x", "FUNCTION RESTORE x",
]  # fmt: skip


@pytest.mark.parametrize("protocol", [2, 3])
def test_odd_commands_get_the_servers_words(wire: Wire, server: Valkey, protocol: int) -> None:
    with Wire(server.port) as other:
        for each in (wire, other):
            each.ask("HELLO", protocol)
        for text in TEXTS:
            words = text.split(" ")
            if text.startswith("WAIT") and " " in text:
                words = text.split()
            if text in ("SCAN -1", "SCAN 99999999999999999999999"):
                continue
            ours, theirs = wire.ask(*words), other.ask(*words)
            if text != "CLUSTER KEYSLOT a":
                assert ours == theirs, text


def test_cursors_that_are_none(wire: Wire) -> None:
    for text in ("-1", "+1", " 1", "1x", "", "99999999999999999999999", "18446744073709551616"):
        assert wire.ask("SCAN", text) == b"-ERR invalid cursor\r\n"


def test_many_clients_have_ids_of_their_own(connect: Connect) -> None:
    assert len({connect().ask("CLIENT", "ID") for _ in range(50)}) == 50


# -- CLIENT REPLY


def test_muted_replies_are_never_heard_of_again(wire: Wire) -> None:
    """Whatever way a command goes: forwarded, taken apart, to all masters, pinned, answered here, or refused."""
    muted = [
        ("SET", "a", "x" * 200_000), ("GET", "a"), ("MGET", "a", "b", "c"), ("DBSIZE",), ("KEYS", "*"), ("SCAN", "0"), ("PING",),
        ("GET",), ("NOSUCH",), ("CONFIG", "SET", "a", "b"), ("MULTI",), ("GET", "a"), ("EXEC",), ("WATCH", "a"), ("UNWATCH",),
        ("BLPOP", "no", "0.01"), ("EVAL", "return 1", "0"), ("XREAD", "STREAMS", "no", "0"), ("WAIT", "0", "0"),
        ("MSETNX", "a", "1", "b", "2"), ("CLIENT", "REPLY", "SKIP"), ("SCRIPT", "KILL"), ("INFO",),
    ]  # fmt: skip
    wire.send(request("CLIENT", "REPLY", "OFF"))
    for command in muted:
        wire.send(request(*command))
    assert wire.ask("CLIENT", "REPLY", "ON") == b"+OK\r\n"
    for command in muted:
        if command[0] not in ("MULTI", "EXEC", "CLIENT"):
            wire.send(request("CLIENT", "REPLY", "SKIP") + request(*command))
            assert wire.ask("ECHO", command[0]) == b"$%d\r\n%s\r\n" % (len(command[0]), command[0].encode()), command
    assert wire.pipeline([("STRLEN", "a"), ("GET", "no")]) == [b":200000\r\n", b"$-1\r\n"]


def test_earlier_replies_are_not_lost_by_muting(wire: Wire) -> None:
    for _ in range(50):
        asked = [("GET", "no"), ("DBSIZE",), ("MGET", "no", "none")]
        wire.send(
            b"".join(request(*command) for command in asked) + request("CLIENT", "REPLY", "OFF") + request("PING")
        )
        wire.send(request("DBSIZE") + request("CLIENT", "REPLY", "ON"))
        assert wire.frames(4) == [b"$-1\r\n", b":0\r\n", b"*2\r\n$-1\r\n$-1\r\n", b"+OK\r\n"]


def test_a_muted_client_is_heard_by_nobody_else(connect: Connect) -> None:
    muted, other = connect(), connect()
    muted.send(request("CLIENT", "REPLY", "OFF"))
    for number in range(300):
        muted.send(request("SET", f"k{number}", number) + request("MGET", f"k{number}", "a"))
        assert other.ask("ECHO", number) == b"$%d\r\n%d\r\n" % (len(str(number)), number)
    assert muted.ask("CLIENT", "REPLY", "ON") == b"+OK\r\n"
    assert other.ask("GET", "k299") == b"$3\r\n299\r\n"


# -- the server it seems to be


def test_what_client_libraries_ask_first(wire: Wire) -> None:
    host, port = wire.socket.getpeername()
    assert decoded(wire.ask("CLUSTER", "SLOTS"))[0][:2] == [0, 16383]
    assert decoded(wire.ask("CLUSTER", "SLOTS"))[0][2][:2] == [host.encode(), port]
    assert f" {host}:{port}@".encode() in b" " + decoded(wire.ask("CLUSTER", "NODES"))
    assert b"cluster_state:ok" in wire.ask("CLUSTER", "INFO")
    shard = decoded(wire.ask("CLUSTER", "SHARDS"))[0]
    assert shard[1] == [0, 16383] and port in shard[3][0]
    assert decoded(wire.ask("CLUSTER", "KEYSLOT", "foo{bar}")) == 5061
    assert decoded(wire.ask("CLUSTER", "MYID")) == decoded(wire.ask("CLUSTER", "NODES")).split()[0]
    assert decoded(wire.ask("CLUSTER", "MYSHARDID"))
    assert len(parts(wire.ask("COMMAND"))) > 200
    assert len(parts(wire.ask("COMMAND", "DOCS", "get", "set"))) == 4
    assert b"redis_version:" in wire.ask("INFO") and b"cluster_masters:3" in wire.ask("INFO", "puerta")
    assert b"# Clients" not in wire.ask("INFO", "server")
    assert (
        wire.ask("CONFIG", "GET", "save", "append*")
        == b"*4\r\n$10\r\nappendonly\r\n$2\r\nno\r\n$4\r\nsave\r\n$0\r\n\r\n"
    )
    assert len(decoded(wire.ask("TIME"))) == 2
    assert wire.pipeline([("READONLY",), ("READWRITE",), ("ASKING",)]) == [b"+OK\r\n"] * 3
    wire.ask("HELLO", "3")
    assert wire.ask("INFO").startswith(b"=") and wire.ask("CLUSTER", "SHARDS").startswith(b"*1\r\n%2\r\n")


# -- the end of a connection


def test_clients_that_vanish_leave_no_trace(connect: Connect) -> None:
    """In the midst of a request, of a reply, with many commands under way: nobody else's replies are moved."""
    other = connect()
    other.ask("SET", "big", b"x" * 300_000)
    source = random.Random(1)
    asked = (
        request("GET", "big")
        + request("MGET", "big", "a", "b")
        + request("KEYS", "*")
        + request("MULTI")
        + request("GET", "a")
    )
    asked += request("EXEC") + request("WATCH", "a") + request("BLPOP", "l", "0") + request("PING")
    for number in range(60):
        gone = connect()
        gone.send(asked[: source.randrange(len(asked) + 1)] * source.choice([1, 1, 8]))
        if number % 2:
            gone.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if number % 3 == 0:
            gone.socket.recv(1000 if number % 2 else 10) if asked and number % 6 == 0 else None
        gone.close()
        commands = [("SET", "n", number), ("GET", "n"), ("MGET", "n", "m"), ("ECHO", number)]
        text = b"$%d\r\n%d\r\n" % (len(str(number)), number)
        assert other.pipeline(commands) == [b"+OK\r\n", text, b"*2\r\n" + text + b"$-1\r\n", text]


def test_the_connections_of_clients_that_vanished_are_gone_too(connect: Connect, front: Front) -> None:
    before = int(front.info()["upstream_connections"])
    for _ in range(30):
        gone = connect()
        gone.send(request("WATCH", "a") + request("BLPOP", "l", "0") + request("SUBSCRIBE", "c"))
        gone.frame()
        gone.close()
    until(lambda: int(front.info()["upstream_connections"]) <= before + 3, "the connections are given back")


def test_half_closed_clients_get_all_replies(connect: Connect) -> None:
    """Also of commands that had to wait for those before them."""
    for _ in range(20):
        wire = connect()
        asked = [
            ("SET", "a", "1"),
            ("WATCH", "a"),
            ("MULTI",),
            ("GET", "a"),
            ("EXEC",),
            ("DBSIZE",),
            ("HELLO", "3"),
            ("GET", "a"),
        ]
        wire.send(b"".join(request(*command) for command in asked))
        wire.socket.shutdown(socket.SHUT_WR)
        assert wire.rest().endswith(b"*0\r\n$1\r\n1\r\n")


def test_a_slow_reader_holds_nobody_up(connect: Connect) -> None:
    slow, other = connect(), connect()
    slow.ask("SET", "big", b"x" * 2_000_000)
    slow.send(request("GET", "big") * 20)
    for number in range(200):
        assert other.ask("ECHO", number) and other.ask("STRLEN", "big") == b":2000000\r\n"
    for _ in range(20):
        assert len(slow.frame()) == 2_000_000 + 12


def test_many_clients_at_once_each_get_their_own(connect: Connect) -> None:
    wires = [connect() for _ in range(16)]
    failures: list[object] = []

    def work(wire: Wire, mine: int) -> None:
        source = random.Random(mine)
        for _ in range(30):
            keys = [f"{mine}.{source.randrange(40)}" for _ in range(10)]
            commands: list[tuple[bytes | str | int, ...]] = [("SET", key, key) for key in keys]
            said = wire.pipeline([*commands, ("MGET", *keys), *[("GET", key) for key in keys]])
            wanted = [b"$%d\r\n%s\r\n" % (len(key), key.encode()) for key in keys]
            if parts(said[10]) != wanted or said[11:] != wanted:
                failures.append(said)

    threads = [threading.Thread(target=work, args=(wire, number)) for number, wire in enumerate(wires)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


@pytest.mark.parametrize("last", [("SUBSCRIBE", "c"), ("BLPOP", "empty", "0")])
def test_half_closed_clients_get_what_is_before_that_for_which_they_do_not_wait(
    front: Front, connect: Connect, last: tuple[str, ...]
) -> None:
    wire = connect(front.narrow)
    wire.send(request("APPEND", "log", "x") * 20 + request(*last))
    wire.socket.shutdown(socket.SHUT_WR)
    assert wire.rest().startswith(b"".join(b":%d\r\n" % length for length in range(1, 21)))


def test_half_closed_clients_that_read_slowly_get_all_replies(connect: Connect) -> None:
    """What they sent is executed to the end, though it had to wait in Puerta for them to take what is before it."""
    with connect() as writer:
        writer.ask("SET", "large", "x" * 20_000)
    for count in range(1, 6):
        wire = connect()
        wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 << 10)
        wire.send(request("GET", "large") * 2000 + request("INCR", "counter"))
        wire.socket.shutdown(socket.SHUT_WR)
        size = 0
        while chunk := wire.socket.recv(8 << 10):
            size += len(chunk)
            if size % (1 << 20) < 8 << 10:
                time.sleep(0.002)
            last = chunk
        assert size == 2000 * len(b"$20000\r\n\r\n") + 2000 * 20_000 + len(b":1\r\n")
        assert last.endswith(b"\r\n:%d\r\n" % count)
