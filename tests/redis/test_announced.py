"""Clients behind a proxy that announces them by a PROXY header: known by their own address from the first command on."""

import pytest

from puerta.protocol.proxy_protocol import header_v1, header_v2
from tests.harness import wait_for
from tests.redis.scripted import ScriptedFront
from tests.redis.wire import Wire, request

pytestmark = pytest.mark.dataplane

CLIENT, SERVER = ("203.0.113.9", 4711), ("192.0.2.1", 6379)
HEADERS = {"v1": header_v1(CLIENT, SERVER), "v2": header_v2(CLIENT, SERVER)}
UNKNOWN = header_v1(None, None)


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_commands_behind_the_header(scripted: ScriptedFront, header: bytes) -> None:
    asked = request("CLIENT", "INFO") + request("GET", "foo") + request("PING")
    for cut in (0, 1, len(header) - 1, len(header), len(header) + 1, len(header) + len(asked) - 1):
        with Wire(scripted.behind) as wire:
            wire.send((header + asked)[:cut])
            if cut:
                wire.quiet(0.02)
            wire.send((header + asked)[cut:])
            said = wire.frames(3)
            assert b" addr=203.0.113.9:4711 " in said[0] and said[1].startswith(b":") and said[2] == b"+PONG\r\n"
            assert wire.ask("GET", "foo") == said[1]


def test_a_proxy_may_speak_for_itself(scripted: ScriptedFront) -> None:
    with Wire(scripted.behind) as wire:
        wire.send(UNKNOWN)
        assert b" addr=127.0.0.1:" in wire.ask("CLIENT", "INFO")


def test_who_sends_none_or_nothing_is_closed_and_counted(scripted: ScriptedFront) -> None:
    with Wire(scripted.behind) as wire:
        wire.send(request("PING"))
        assert wire.rest() == b""
    Wire(scripted.behind).close()
    with Wire(scripted.behind) as silent, Wire(scripted.behind) as halting:
        halting.send(HEADERS["v1"][:9])
        assert silent.rest() == halting.rest() == b""
    told = wait_for(lambda: ended(scripted) if ended(scripted)["handshake_timeout"] else None, "all are counted")
    assert (told["protocol_error"], told["client_closed"], told["handshake_timeout"]) == (1, 1, 2)
    assert scripted.status("behind")["connections_total"] == 4


def ended(scripted: ScriptedFront) -> dict[str, int]:
    return dict(scripted.status("behind")["closed"])


def test_other_routes_expect_none(scripted: ScriptedFront) -> None:
    with Wire(scripted.port) as wire:
        assert wire.ask("PING") == b"+PONG\r\n"
        wire.send(HEADERS["v1"])
        assert wire.frame().startswith(b"-ERR unknown command 'PROXY'")
