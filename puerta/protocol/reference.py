"""The reference of Redis commands, made from the table: `python -m puerta.protocol.reference > docs/redis-commands.md`."""

from collections.abc import Iterator

from puerta.protocol import commands
from puerta.protocol.commands import KEYED, LOCAL, PINNED, SPLIT
from puerta.protocol.entry import Entry
from puerta.protocol.policy import Policy, decide
from puerta.protocol.spec import ONE, Spec

INTRODUCTION = """\
# Redis commands

What a route of `mode: redis` does with each command; [redis.md](redis.md) has what else to know. Made from
`puerta/protocol/policy.py` and `commands.json` by `python -m puerta.protocol.reference`; change it there. The table holds
every command of Valkey 9.1 and Redis 7.0. Commands that a connected cluster has besides (of modules or of a newer server)
are learned from its nodes while it runs.

| Puerta | means |
|---|---|
| forwards to the keys' node | the bytes go as they are to the node of the keys' slot, over a connection that clients share |
| forwards to any node | the command names no key; any one node answers |
| splits by slot | one command for each slot of its keys, sent to all nodes at once; not atomic |
| asks every master | to all at once, their replies put together; an error of one is the answer, unless noted otherwise |
| asks one master | as it is the same on all of them, or for that one alone |
| answers | no node is asked |
| uses a connection of the client's own | taken from a pool, given back clean |
| gathers a transaction | kept until EXEC, then sent to the keys' node in one piece, over a connection that clients share |
| refuses | an error says why |

**Keys** are the places of the arguments that decide on the node; 0 is the command's name, -1 the last argument. All keys of
a command that is not split must be in one slot (a `{tag}` in their names sees to that), else the answer is CROSSSLOT, as
from a node.

**A command that is not here** but that a node lists is forwarded by its keys as the server describes them; one that waits gets
a connection of its own; one without keys is forwarded to any node when it only reads. Everything else, and what the server
marks as administrative, is refused. A command that is here stays as it is described, but it may come to take more arguments
and to have more subcommands. The table takes 2,000 commands at most.

Wrong numbers of arguments and unknown commands are answered by Puerta in the server's words.
"""

_BY_KIND = {
    LOCAL: "answers",
    PINNED: "uses a connection of the client's own",
    SPLIT: "asks every master",
}


_TRANSACTION = frozenset({b"multi", b"exec", b"discard", b"unwatch"})
"""Of the pinned ones, those that are so for WATCH alone."""


def reference() -> str:
    """The whole document, in Markdown."""
    return INTRODUCTION + "".join(_tables())


def _tables() -> Iterator[str]:
    initial = ""
    for entry in commands.entries():
        if entry.container and entry.arity < -1:
            continue  # nothing but an error without a subcommand
        if entry.name[0] != initial:
            initial = entry.name[0]
            yield f"\n## {initial}\n\n| Command | Puerta | Keys | Note |\n|---|---|---|---|\n"
        yield _row(entry)


def _row(entry: Entry) -> str:
    spec = commands.TABLE.resolve(entry.name.encode().split(b"|"))
    assert spec is not None
    policy = decide(entry)
    cells = (f"`{entry.name.replace('|', ' ')}`", _action(spec, policy), _keys(spec, entry), policy.note)
    return "| " + " | ".join(cells) + " |\n"


def _action(spec: Spec, policy: Policy) -> str:
    has_keys = bool(spec.first or spec.finder)
    if policy.kind == KEYED:
        return "forwards to the keys' node" if has_keys else "forwards to any node"
    if policy.kind == SPLIT and has_keys:
        return "splits by slot"
    if policy.aggregate == ONE:
        return "asks one master"
    if spec.handler in _TRANSACTION:
        return "gathers a transaction"
    return _BY_KIND.get(policy.kind, "refuses")


def _keys(spec: Spec, entry: Entry) -> str:
    if spec.first:
        if spec.first == spec.last:
            return str(spec.first)
        every = f", every {spec.step}nd" if spec.step == 2 else ""
        return f"{spec.first} to {spec.last}{every}"
    if spec.finder is None:
        return ""
    return _MOVING.get(entry.name) or " and ".join(
        f"`numkeys` at {key.start}" if key.find == "keynum" else str(key.start) for key in entry.specs
    )


_MOVING = {
    "GEORADIUS": "1, STORE, STOREDIST",
    "GEORADIUSBYMEMBER": "1, STORE, STOREDIST",
    "MIGRATE": "3, or after KEYS",
    "SORT": "1, STORE",
    "SUNSUBSCRIBE": "1 to -1",
    "XREAD": "after STREAMS",
    "XREADGROUP": "after STREAMS",
}


if __name__ == "__main__":
    print(reference(), end="")
