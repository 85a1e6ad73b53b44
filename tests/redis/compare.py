"""Programs run on two servers at once, and their replies compared byte for byte."""

import contextlib
import random
from collections import Counter
from collections.abc import Collection, Sequence

from puerta.protocol.commands import TABLE, keys
from puerta.protocol.slots import slot_of
from tests.redis.programs import Step
from tests.redis.wire import Wire, parts, request

END = b"$15\r\nend of program.\r\n"
FINISH = request("RESET") + request("ECHO", "end of program.")
"""Whatever a program left behind (a transaction, a watch, RESP3) is over."""

OUTAGE = (b"-CLUSTERDOWN ", b"-ERR the connection to node ", b"-EXECABORT ")
"""What is said of a master that died, until another has its place."""


def encoded(steps: Sequence[Step]) -> bytes:
    return b"".join(request(*step.arguments) for step in steps) + FINISH


def run(
    wires: Sequence[Wire], programs: Sequence[Sequence[Step]], cuts: random.Random | None = None
) -> list[list[bytes]]:
    """Each program on a connection of its own, all at once; `cuts` sends them in pieces. Returns all frames of each."""
    for wire, steps in zip(wires, programs, strict=True):
        data = encoded(steps)
        for piece in pieces(data, cuts):
            wire.send(piece)
    return [frames(wire) for wire in wires]


def run_apart(wires: Sequence[Wire], programs: Sequence[Sequence[Step]]) -> list[list[bytes]]:
    """The same, but what a cluster may put off while slots move is waited for before anything else is sent.

    A node that misses one of a command's keys answers TRYAGAIN, and goes on with what came behind it.
    """
    found: list[list[bytes]] = [[] for _ in wires]
    parts = [portions(steps) for steps in programs]
    for number in range(max(map(len, parts))):
        some = [
            (wire, part[number], said)
            for wire, part, said in zip(wires, parts, found, strict=True)
            if number < len(part)
        ]
        for wire, steps, _ in some:
            wire.send(b"".join(request(*step.arguments) for step in steps))
        for wire, steps, said in some:
            said.extend(wire.frames(sum(step.frames for step in steps)))
    for wire, said in zip(wires, found, strict=True):
        wire.send(FINISH)
        said.extend(frames(wire))
    return found


def portions(steps: Sequence[Step]) -> list[list[Step]]:
    found: list[list[Step]] = [[]]
    for step in steps:
        found[-1].append(step)
        if may_be_put_off(step):
            found.append([])
    return found


def may_be_put_off(step: Step) -> bool:
    spec = TABLE.resolve(list(step.arguments))
    if spec is None or spec.handler in (b"exec", b"discard"):
        return spec is not None
    with contextlib.suppress(ValueError):
        return len(keys(spec, list(step.arguments))) != 1
    return False


def pieces(data: bytes, cuts: random.Random | None) -> list[bytes]:
    if cuts is None:
        return [data]
    at = sorted(cuts.randrange(len(data)) for _ in range(cuts.randrange(4)))
    return [data[first:last] for first, last in zip([0, *at], [*at, len(data)], strict=True)]


def frames(wire: Wire) -> list[bytes]:
    found = []
    while (frame := wire.frame()) != END:
        found.append(frame)
    return found


def check(
    steps: Sequence[Step], ours: list[bytes], theirs: list[bytes], name: str, lost: Collection[int] = ()
) -> Counter[bytes]:
    """Fails with the first step that was answered differently.

    The master of the slots in `lost` may have died meanwhile. A step that touches one of them or none (any node is asked
    then), or is of a transaction that does, may be answered by an error of OUTAGE instead; then nothing is known any more
    of what is in the slots that it touches, and what is said of them is only counted. Returns how often each such error
    was seen.
    """
    seen: Counter[bytes] = Counter()
    if ours == theirs:
        return seen
    doubtful: set[int] = set()
    at = 0
    for number, (step, touched) in enumerate(
        zip(steps, slots_touched(steps) if lost else [()] * len(steps), strict=True)
    ):
        count = step.frames
        mine, other = ours[at : at + count], theirs[at : at + count]
        orders = [step.order] if step.order[:1] == "(" else list(step.order)
        assert len(mine) == len(other) == count, report(steps, number, b"".join(mine), b"".join(other), name)
        at += count
        may_fail = bool(lost) and (not touched or not set(lost).isdisjoint(touched))
        if may_fail and not count:
            doubtful.update(touched)  # CLIENT REPLY OFF: it failed or not, but does not say so
        for order, one, two in zip(orders, mine, other, strict=True):
            if may_fail and one.startswith(OUTAGE):
                seen[one] += 1
                doubtful.update(touched)
            elif one != two and normal(one, order) != normal(two, order) and doubtful.isdisjoint(touched):
                raise AssertionError(report(steps, number, one, two, name))
    assert ours[at:] == theirs[at:], f"{name}: {ours[at:]} {theirs[at:]}"
    return seen


def slots_touched(steps: Sequence[Step]) -> list[set[int]]:
    """The slots of each step's keys; those of a transaction's steps are those of all of it, with what is watched."""
    found: list[set[int]] = []
    block: set[int] | None = None
    for step in steps:
        name = step.arguments[0].upper()
        if block is None and name in (b"WATCH", b"MULTI"):
            block = set()
        own = set() if block is None else block
        own.update(slot_of(key) for key in keys_of(step))
        found.append(own)
        if name in (b"EXEC", b"DISCARD"):
            block = None
    return found


def keys_of(step: Step) -> list[bytes]:
    arguments = list(step.arguments)
    spec = TABLE.resolve(arguments)
    with contextlib.suppress(ValueError):
        return [] if spec is None else [arguments[index] for index in keys(spec, arguments)]
    return []


def normal(frame: bytes, order: str) -> object:
    """What remains of a reply without its order."""
    kind = frame[:1]
    if order == "?":
        return kind
    if order == "=" or kind in b"-_" or frame == b"*-1\r\n":
        return frame
    found = parts(frame) if kind in b"*~%" else []
    if order == "~":
        return kind, sorted(found)
    if order == "%":
        return kind, pairs(found)
    if order in "&^":
        elements = parts(found[1]) if len(found) == 2 else []
        return kind, found[:1], sorted(elements) if order == "&" else pairs(elements)
    return kind, [normal(part, inner) for part, inner in zip(found, order[1:-1], strict=False)], len(found)


def pairs(found: list[bytes]) -> list[tuple[bytes, bytes]]:
    return sorted(zip(found[::2], found[1::2], strict=True))


def report(steps: Sequence[Step], number: int, ours: bytes, theirs: bytes, name: str) -> str:
    before = "\n".join(f"  {b' '.join(step.arguments)[:150]!r}" for step in steps[max(0, 0) : number])
    command = b" ".join(steps[number].arguments)
    return f"{name}, step {number}:\n{before}\n> {command!r}\n  Puerta: {ours[:400]!r}\n  server: {theirs[:400]!r}"
