"""What one node of a Redis Cluster says of all: its answers to three commands, read with care.

`CLUSTER NODES` has the nodes, their slots and the config epochs; `CLUSTER SHARDS` (from Redis 7) or `CLUSTER SLOTS`
have the endpoints that clients shall use.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from puerta.config.schema import Address

SLOTS = 16384
MOST_NODES = 1024
"""Of one cluster; Redis' own advice ends at 1000. An answer with more is refused."""

UNKNOWN_HOST = "?"
"""A node's endpoint when it shall be named by its hostname and has none."""

_ID = re.compile(r"[!-~]{1,64}")
_HOST = re.compile(r"[0-9A-Za-z._:%-]{1,253}")
_SLOTS = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")

Ranges = tuple[tuple[int, int], ...]
Places = Mapping[str, tuple[str, int, bool]]
"""Host, port and "is loading" of nodes by their ids."""


@dataclass(frozen=True, slots=True)
class Node:
    """One node as somebody describes it. `master` is its master's id, "" for a master itself; `epoch` is the config
    epoch of its slots; `failed`: the cluster gave it up; `loading`: it is not yet fit to be read from."""

    id: str
    host: str
    port: int
    master: str = ""
    epoch: int = 0
    slots: Ranges = ()
    failed: bool = False
    loading: bool = False

    @property
    def address(self) -> Address:
        return Address(self.host, self.port)


@dataclass(frozen=True, slots=True)
class View:
    """The cluster as the node `myself` sees it, itself included."""

    myself: str
    nodes: Mapping[str, Node]


def parse_nodes(text: str, asked: str) -> View:
    """The answer to CLUSTER NODES by the node at the host `asked`. Raises ValueError for what is no such answer.

    A line is `id ip:port@busport[,hostname[,...]] flags master ping pong epoch link [slots...]`
    (https://valkey.io/commands/cluster-nodes/). Nodes without an address, or in a handshake, are left out.
    """
    found: dict[str, Node] = {}
    myself = ""
    for line in text.splitlines():
        fields = line.split()
        if len(fields) < 8:
            raise ValueError("a line of CLUSTER NODES is too short")
        id, place, flag_list, master, _, _, epoch, _ = fields[:8]
        flags = flag_list.split(",")
        if "noaddr" in flags or "handshake" in flags:
            continue
        host, _, port = place.partition(",")[0].partition("@")[0].rpartition(":")
        slots = () if "slave" in flags else _ranges(fields[8:])
        found[id] = Node(
            _id(id), _host(host or asked), _port(port), "" if master == "-" else master, int(epoch), slots,
            "fail" in flags,
        )  # fmt: skip
        if "myself" in flags:
            myself = id
        if len(found) > MOST_NODES:
            raise ValueError(f"the cluster has more than {MOST_NODES} nodes")
    if not myself:
        raise ValueError("CLUSTER NODES does not name the node itself")
    return View(myself, found)


def parse_shards(reply: Any, asked: str) -> Places:
    """Host, port and "is loading" of each node by its id, from CLUSTER SHARDS. Raises ValueError for any other answer.

    A node without an endpoint is where the asked one is, but for the port (https://valkey.io/commands/cluster-shards/).
    """
    found = {}
    try:
        for shard in reply:
            for entry in _pairs(shard)["nodes"]:
                node = _pairs(entry)
                endpoint, ip = _text(node.get("endpoint")), _text(node.get("ip"))
                port = node.get("port", node.get("tls-port"))
                place = _host(_endpoint(endpoint, ip, asked))
                found[_id(_text(node["id"]))] = (place, _port(port), _text(node.get("health")) == "loading")
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError("not an answer to CLUSTER SHARDS") from error
    return found


def parse_slots(reply: Any, asked: str) -> Places:
    """The same from CLUSTER SLOTS, which Redis 6 has and which knows nothing of loading
    (https://valkey.io/commands/cluster-slots/)."""
    found = {}
    try:
        for _, _, *nodes in reply:
            for endpoint, port, id, *rest in nodes:
                extra = _pairs(rest[0]) if rest else {}
                place = _endpoint(_text(endpoint), _text(extra.get("ip")), asked)
                found[_id(_text(id))] = (_host(place), _port(port), False)
    except (IndexError, TypeError, AttributeError) as error:
        raise ValueError("not an answer to CLUSTER SLOTS") from error
    return found


def at(view: View, places: Places) -> View:
    """`view` with its nodes where clients shall look for them."""
    nodes = dict(view.nodes)
    for id, (host, port, loading) in places.items():
        if id in nodes:
            nodes[id] = replace(nodes[id], host=host, port=port, loading=loading)
    return View(view.myself, nodes)


def _endpoint(endpoint: str, ip: str, asked: str) -> str:
    if endpoint == UNKNOWN_HOST:
        return ip or asked
    return endpoint or asked


def _pairs(reply: Any) -> dict[str, Any]:
    """A map, as RESP 2 sends one: keys and values in turn."""
    if isinstance(reply, Mapping):
        return {_text(key): value for key, value in reply.items()}
    return {_text(key): value for key, value in zip(reply[::2], reply[1::2], strict=True)}


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value or ""


def _ranges(fields: Sequence[str]) -> Ranges:
    """Slots as CLUSTER NODES has them: `5 7-9`; `[93-<-id]` are on their way in or out, and not counted."""
    found = []
    for field in fields:
        if field.startswith("["):
            continue
        match = _SLOTS.fullmatch(field)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (SLOTS, SLOTS)
        if not first <= last < SLOTS:
            raise ValueError(f"{field[:20]!r} is not a range of slots")
        found.append((first, last))
    return tuple(found)


def _id(text: str) -> str:
    if not _ID.fullmatch(text):
        raise ValueError("a node has a malformed id")
    return text


def _host(text: str) -> str:
    if not _HOST.fullmatch(text):
        raise ValueError("a node has a malformed host")
    return text


def _port(value: Any) -> int:
    port = int(value) if isinstance(value, (int, str)) else 0
    if not 0 < port < 65536:
        raise ValueError("a node has no port")
    return port
