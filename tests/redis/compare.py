"""Programs run on two servers at once, and their replies compared byte for byte."""

import contextlib
import random
from collections.abc import Sequence

from puerta.protocol.commands import TABLE, keys
from tests.redis.programs import Step
from tests.redis.wire import Wire, parts, request

END = b"$15\r\nend of program.\r\n"
FINISH = request("RESET") + request("ECHO", "end of program.")
"""Whatever a program left behind (a transaction, a watch, RESP3) is over."""


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


def check(steps: Sequence[Step], ours: list[bytes], theirs: list[bytes], name: str) -> None:
    """Fails with the first step that was answered differently."""
    if ours == theirs:
        return
    at = 0
    for number, step in enumerate(steps):
        count = step.frames
        mine, other = ours[at : at + count], theirs[at : at + count]
        orders = [step.order] if step.order[:1] == "(" else list(step.order)
        for order, one, two in zip(orders, mine, other, strict=False):
            if one != two and normal(one, order) != normal(two, order):
                raise AssertionError(report(steps, number, one, two, name))
        assert len(mine) == len(other) == count, report(steps, number, b"".join(mine), b"".join(other), name)
        at += count
    assert ours[at:] == theirs[at:], f"{name}: {ours[at:]} {theirs[at:]}"


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
