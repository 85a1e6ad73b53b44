"""What Puerta does with each command that is not simply forwarded to the node of its keys, and why: every decision, in one place.

The server says which commands there are and where their keys stand (commands.json); it can't say what they mean on
connections that many clients share, in front of several nodes that look like one. A command without keys must be decided
here: a test fails when a server lists one that is not. A name stands for itself only, a subcommand is `CONFIG|GET`.
"""

from typing import NamedTuple

from puerta.protocol import spec
from puerta.protocol.entry import Entry
from puerta.protocol.spec import KEYED, LOCAL, PINNED, REFUSED, SPLIT


class Policy(NamedTuple):
    """`note` explains it in the reference; for a REFUSED command it is the second half of the error's sentence."""

    kind: int
    note: str
    handler: bytes = b""
    aggregate: int = spec.NONE


POLICIES: dict[str, Policy] = {}


def decide(entry: Entry) -> Policy:
    """What to do with a command: as decided below, else by what the server says of it. Carefully, as it may be a module's."""
    decided = POLICIES.get(entry.name)
    if decided is not None:
        return decided
    if entry.flags & {"admin", "pubsub"} or ("dangerous" in entry.flags and not entry.has_keys()):
        return Policy(REFUSED, "it is not known here, and the server marks it as one for administrators or subscribers")
    if "blocking" in entry.flags:
        if not entry.has_keys():
            return Policy(
                REFUSED, "it is not known here, waits, and names no key, so there is no telling on which node"
            )
        return Policy(PINNED, "so that nobody else waits", b"blocking")
    if "movablekeys" in entry.flags and not entry.keys[0] and not entry.specs:
        return Policy(REFUSED, "it is not known here, and the server does not say where its keys are")
    if entry.has_keys() or entry.container or "readonly" in entry.flags:
        return Policy(KEYED, "")
    return Policy(REFUSED, "it is not known here and names no key, so there is no telling which node it is for")


def _forwarded(note: str, *names: str) -> None:
    POLICIES.update((name, Policy(KEYED, note)) for name in names)


def _local(handler: bytes, note: str, *names: str) -> None:
    POLICIES.update((name, Policy(LOCAL, note, handler)) for name in names)


def _by_slot(aggregate: int, note: str, *names: str) -> None:
    POLICIES.update((name, Policy(SPLIT, note, name.lower().encode(), aggregate)) for name in names)


def _to_nodes(aggregate: int, note: str, *names: str, handler: bytes = b"") -> None:
    POLICIES.update((name, Policy(SPLIT, note, handler, aggregate)) for name in names)


def _pinned(handler: bytes, note: str, *names: str) -> None:
    POLICIES.update((name, Policy(PINNED, note, handler)) for name in names)


def _refused(note: str, *names: str) -> None:
    POLICIES.update((name, Policy(REFUSED, note)) for name in names)


# -- Answered here: what belongs to the connection between the client and Puerta

_local(b"ping", "", "PING")
_local(b"echo", "", "ECHO")
_local(b"time", "Puerta's clock", "TIME")
_local(b"hello", "switches this client between RESP2 and RESP3; shows what AUTH and CLIENT SETNAME would", "HELLO")
_local(b"auth", "checked against the route's `client_auth`", "AUTH")
_local(b"acl", "the user this client authenticated as with Puerta", "ACL|WHOAMI")
_local(b"select", "database 0 only", "SELECT")
_local(b"quit", "after the replies that are due", "QUIT")
_local(b"reset", "forgets transaction, subscriptions, name, protocol and authentication", "RESET")
_local(b"info", "about Puerta and the route", "INFO")
_local(b"role", "a master without replicas, which is what Puerta looks like", "ROLE")
_local(b"readonly", "OK; the route's `read_from` decides where reads go", "READONLY", "READWRITE")
_local(b"asking", "OK; Puerta follows redirections itself", "ASKING")
_local(b"config", "a few parameters that client libraries ask for", "CONFIG|GET")
_local(b"slowlog", "Puerta's own slow log of this route", "SLOWLOG|GET", "SLOWLOG|LEN", "SLOWLOG|RESET")
_local(
    b"client", "kept with this client's connection", "CLIENT|GETNAME", "CLIENT|SETNAME", "CLIENT|SETINFO", "CLIENT|ID"
)
_local(b"client", "this client's own line", "CLIENT|INFO")
_local(b"client", "this client's own line only", "CLIENT|LIST")
_local(b"client", "replies are dropped here, the nodes always answer", "CLIENT|REPLY")
_local(b"client", "OK, without effect: Puerta evicts no client", "CLIENT|NO-EVICT")
_local(b"client", "OK, without effect: a client of Puerta is never redirected", "CLIENT|CAPA")
_local(b"client", "tracking is always off", "CLIENT|TRACKINGINFO", "CLIENT|GETREDIR")
_local(b"cluster", "describes a cluster of one node, Puerta itself", "CLUSTER|INFO", "CLUSTER|NODES", "CLUSTER|SHARDS")
_local(
    b"cluster", "describes a cluster of one node, Puerta itself", "CLUSTER|SLOTS", "CLUSTER|MYID", "CLUSTER|MYSHARDID"
)
_local(b"cluster", "computed here", "CLUSTER|KEYSLOT")

# -- Taken apart by slot

_by_slot(spec.ARRAY_BY_POSITION, "one MGET for each slot, values in the order of the keys", "MGET")
_by_slot(spec.ALL_OK, "one MSET for each slot; not atomic over several", "MSET")
_by_slot(spec.SUM, "one for each slot, counts added up; not atomic over several", "DEL", "UNLINK", "EXISTS", "TOUCH")

# -- Sent to every master

_to_nodes(spec.SUM, "counts added up", "DBSIZE", "PUBSUB|NUMPAT", "CLUSTER|COUNTKEYSINSLOT")
_to_nodes(spec.CONCAT, "one list of all", "KEYS", "CLUSTER|GETKEYSINSLOT")
_to_nodes(spec.UNION, "one list of all, each once", "PUBSUB|CHANNELS", "PUBSUB|SHARDCHANNELS")
_to_nodes(spec.SUM_PAIRS, "counts added up by channel", "PUBSUB|NUMSUB", "PUBSUB|SHARDNUMSUB")
_to_nodes(spec.ALL_OK, "", "FLUSHALL", "FLUSHDB", "MEMORY|PURGE")
_to_nodes(spec.ALL_OK, "so that any node can run it", "FUNCTION|DELETE", "FUNCTION|FLUSH", "FUNCTION|RESTORE")
_to_nodes(spec.ALL_OK, "", "SCRIPT|FLUSH")
_to_nodes(spec.FIRST_SAME, "so that any node can run it", "SCRIPT|LOAD", "FUNCTION|LOAD")
_to_nodes(spec.AND_ARRAY, "1 where every master has the script", "SCRIPT|EXISTS")
_to_nodes(spec.ANY_OK, "the first that has it answers", "SCRIPT|SHOW")
_to_nodes(
    spec.ANY_OK, "on connections of their own, as a busy node reads no other; OK when one was running", "SCRIPT|KILL",
    "FUNCTION|KILL", handler=b"kill",
)  # fmt: skip
_to_nodes(spec.MIN, "the oldest of all masters", "LASTSAVE")
_to_nodes(spec.MIN, "asked again until the least of all masters is enough", "WAIT", handler=b"wait")
_to_nodes(spec.MIN, "asked again until the least of all masters is enough", "WAITAOF", handler=b"waitaof")
_to_nodes(spec.ONE_RANDOM, "of a master that has keys", "RANDOMKEY")
_to_nodes(spec.CURSOR, "one master after the other; the cursor says which", "SCAN", handler=b"scan")
_to_nodes(spec.ONE, "one master answers: all have the same", "FUNCTION|LIST", "FUNCTION|DUMP")
_to_nodes(spec.ONE, "one master answers, for itself", "FUNCTION|STATS")

# -- On a connection of the client's own

_pinned(b"multi", "on one node, that of the first key", "MULTI")
_pinned(b"exec", "", "EXEC")
_pinned(b"discard", "", "DISCARD")
_pinned(b"watch", "keys of one slot; on the node the transaction will run on", "WATCH")
_pinned(b"unwatch", "", "UNWATCH")
_pinned(b"blocking", "so that nobody else waits", "BLMOVE", "BLMPOP", "BLPOP", "BRPOP", "BRPOPLPUSH")
_pinned(b"blocking", "so that nobody else waits", "BZMPOP", "BZPOPMAX", "BZPOPMIN")
_pinned(b"xread", "only with BLOCK; else forwarded to the node of its keys", "XREAD", "XREADGROUP")
_pinned(b"subscribe", "", "SUBSCRIBE", "PSUBSCRIBE")
_pinned(b"subscribe", "channels of one slot", "SSUBSCRIBE")
_pinned(b"unsubscribe", "", "UNSUBSCRIBE", "PUNSUBSCRIBE", "SUNSUBSCRIBE")

# -- Forwarded without a key: any node can answer

_forwarded("", "LOLWUT", "ACL|CAT", "ACL|GENPASS")
_forwarded("the cluster spreads the message to all nodes", "PUBLISH")
_forwarded("the commands of the cluster's servers", "COMMAND", "COMMAND|COUNT", "COMMAND|DOCS", "COMMAND|GETKEYS")
_forwarded("the commands of the cluster's servers", "COMMAND|GETKEYSANDFLAGS", "COMMAND|INFO", "COMMAND|LIST")
_forwarded("the modules of one node", "MODULE|LIST")
_CONTAINERS = (
    "ACL", "CLIENT", "CLUSTER", "COMMANDLOG", "CONFIG", "FUNCTION", "LATENCY", "MEMORY", "MODULE", "OBJECT", "PUBSUB", "SCRIPT",
    "SLOWLOG", "XGROUP", "XINFO",
)  # fmt: skip
_forwarded("the server's own help", "COMMAND|HELP", *(f"{name}|HELP" for name in _CONTAINERS))
_forwarded("", *_CONTAINERS)

REPEATABLE = frozenset(name for name in POLICIES if POLICIES[name].kind == KEYED) - {"PUBLISH"}
"""What the server does not call reading, and yet does no more when it is done twice."""

# -- Forwarded by its keys, but worth a word

_forwarded("with keys in several slots: CROSSSLOT, as it must be atomic", "MSETNX", "MSETEX")
_forwarded("the channel counts as the key", "SPUBLISH")
_forwarded("the cursor counts as the key: it names the slot to go on with", "CLUSTERSCAN")
_forwarded("STORE's key counts too; BY and GET must stay within the slot", "SORT")
_forwarded(
    "the keys of `numkeys`; without one, to any node", "EVAL", "EVAL_RO", "EVALSHA", "EVALSHA_RO", "FCALL", "FCALL_RO"
)

# -- Refused. The note goes on from "'X' is not available through Puerta: "

_refused("it would stop a node of the cluster", "SHUTDOWN")
_refused("it would turn the connection into a replication link", "SYNC", "PSYNC", "REPLCONF")
_refused("it would show the commands of every client of one node", "MONITOR")
_refused("it is meant for the developers of the server and can stop a node", "DEBUG", "PFDEBUG", "PFSELFTEST")
_refused("it would change which node is a master", "REPLICAOF", "SLAVEOF", "FAILOVER")
_refused("a node is saved by whoever runs it", "SAVE", "BGSAVE", "BGREWRITEAOF")
_refused("it serves database 0 only", "MOVE", "SWAPDB")
_refused("nodes move keys between themselves when a slot migrates", "MIGRATE", "RESTORE-ASKING")
_refused("modules are loaded by whoever runs the nodes", "MODULE|LOAD", "MODULE|LOADEX", "MODULE|UNLOAD")
_refused("the configuration of a node is changed on that node", "CONFIG|SET", "CONFIG|REWRITE")
_refused("each node counts for itself; ask that node", "CONFIG|RESETSTAT")
_refused(
    "the users of the cluster are managed on its nodes", "ACL|DELUSER", "ACL|DRYRUN", "ACL|GETUSER", "ACL|LIST", "ACL|LOAD",
    "ACL|LOG", "ACL|SAVE", "ACL|SETUSER", "ACL|USERS",
)  # fmt: skip
_refused(
    "connections to the nodes are shared, so invalidations can't be told apart", "CLIENT|TRACKING", "CLIENT|CACHING"
)
_refused(
    "connections to the nodes are shared, so it would apply to other clients too",
    "CLIENT|NO-TOUCH",
    "CLIENT|IMPORT-SOURCE",
)
_refused("it would stop the clients of one node, not those of Puerta", "CLIENT|PAUSE", "CLIENT|UNPAUSE")
_refused("it would end a connection to a node, which clients share", "CLIENT|KILL")
_refused("connections to the nodes are shared; close the waiting client's connection instead", "CLIENT|UNBLOCK")
_refused(
    "the cluster is changed on its nodes", "CLUSTER|ADDSLOTS", "CLUSTER|ADDSLOTSRANGE", "CLUSTER|BUMPEPOCH",
    "CLUSTER|CANCELSLOTMIGRATIONS", "CLUSTER|DELSLOTS", "CLUSTER|DELSLOTSRANGE", "CLUSTER|FAILOVER", "CLUSTER|FLUSHSLOT",
    "CLUSTER|FLUSHSLOTS", "CLUSTER|FORGET", "CLUSTER|MEET", "CLUSTER|MIGRATESLOTS", "CLUSTER|REPLICATE", "CLUSTER|RESET",
    "CLUSTER|SAVECONFIG", "CLUSTER|SET-CONFIG-EPOCH", "CLUSTER|SETSLOT", "CLUSTER|SYNCSLOTS",
)  # fmt: skip
_refused(
    "it shows the cluster behind Puerta as one node sees it; ask that node", "CLUSTER|COUNT-FAILURE-REPORTS",
    "CLUSTER|GETSLOTMIGRATIONS", "CLUSTER|LINKS", "CLUSTER|REPLICAS", "CLUSTER|SLAVES", "CLUSTER|SLOT-STATS",
)  # fmt: skip
_refused(
    "each node measures for itself; ask that node, or see Puerta's metrics", "LATENCY|DOCTOR", "LATENCY|GRAPH",
    "LATENCY|HISTOGRAM", "LATENCY|HISTORY", "LATENCY|LATEST", "LATENCY|RESET",
)  # fmt: skip
_refused("it describes one node; ask that node", "MEMORY|DOCTOR", "MEMORY|MALLOC-STATS", "MEMORY|STATS")
_refused("each node keeps its own; SLOWLOG shows Puerta's", "COMMANDLOG|GET", "COMMANDLOG|LEN", "COMMANDLOG|RESET")
_refused("the debugger needs a node for itself; connect to one", "SCRIPT|DEBUG")
