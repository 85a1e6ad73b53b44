"""MGET, MSET, DEL and their like taken apart: the request's own bytes again, slot by slot.

Each leg is appended to its node's connection as a command of its own; a Gather makes one reply of all. Compiled, as keys over
all nodes are an everyday request.
"""

from typing import Any

import cython

if not cython.compiled:
    from puerta.protocol.request import Request
    from puerta.protocol.resp import head
    from puerta.protocol.span import key_slot, line_end
    from puerta.proxy.redis_caller import Call as new_call
    from puerta.proxy.redis_gather import new_gather

from puerta.protocol import resp
from puerta.proxy.redis_gather import COMBINE, UNREACHABLE, combiner

MOST_APART = cython.declare(cython.Py_ssize_t, 64)
"""Words of a request up to which every key is compared with all before it; beyond it a dictionary finds equal slots."""


def scatter(session: Any, cluster: Any, spec: Any, request: Any, data: Any, start: int) -> int:
    """Send the legs of a request whose words are data[start:]. 0: its keys are all in one slot, and nothing was done."""
    spans = request.spans
    step = spec.step
    found = cluster.found
    apart = are_apart(found, spans, step, data, start)
    if not apart:
        by_slot(found, spans, step, data, start)
    if found.offsets[0] == found.offsets[found.count - 1]:
        return 0
    positions = [] if apart else [found.lengths[number] for number in range(found.count)]
    gather = new_gather(session, spec, COMBINE[spec.aggregate] if apart else combiner(spec, positions))
    number = words = 0
    begun = b""
    while number < found.count:
        slot = found.offsets[number]
        after = number + 1
        while after < found.count and found.offsets[after] == slot:
            after += 1
        leg = new_call(session, spec, slot, spec.readonly, session.loop.now)
        gather.expect(leg)
        upstream = cluster.shared(slot, session.protocol, spec.readonly)
        if upstream is None or upstream.full():
            gather.leg_answered(leg, UNREACHABLE)
            number = after
            continue
        if words != 1 + (after - number) * step:
            words = 1 + (after - number) * step
            begun = beginning(spans, words, data, start)
        upstream.log.append(begun)
        leg.length = len(begun)
        while number < after:  # from behind the word before each key to the last that belongs to it
            index = found.lengths[number]
            at = spans.offsets[index - 1] + spans.lengths[index - 1] + 2
            length = spans.offsets[index + step - 1] + spans.lengths[index + step - 1] + 2 - at
            upstream.log.extend(data, start + at, length)
            leg.length += length
            number += 1
        upstream.push_call(leg)
    gather.seal()
    return 1


def split(session: Any, spec: Any, arguments: list[bytes]) -> int:
    """`scatter`, for a command that is there in Python's objects."""
    data = resp.command(*arguments)
    request = Request(len(data))
    request.look(data)
    return scatter(session, session.cluster, spec, request, data, 0)


def are_apart(found: Any, spans: Any, step: int, data: Any, start: int) -> int:
    """Has every key a slot of its own? Then `found` has them, each with its key's position."""
    found.clear()
    if spans.count > MOST_APART:
        return 0
    for index in range(1, spans.count, step):
        slot = key_slot(data, start + spans.offsets[index], spans.lengths[index])
        if found.has(slot):
            return 0
        found.push(slot, index)
    return 1


def by_slot(found: Any, spans: Any, step: int, data: Any, start: int) -> int:
    """Put into `found` the slot and the position of each key, those of one slot together."""
    groups: dict[int, list[int]] = {}
    for index in range(1, spans.count, step):
        slot = key_slot(data, start + spans.offsets[index], spans.lengths[index])
        groups.setdefault(slot, []).append(index)
    found.clear()
    for slot, group in groups.items():
        for index in group:
            found.push(slot, index)
    return 0


def beginning(spans: Any, words: int, data: Any, start: int) -> bytes:
    """How a command of so many words begins whose first is that of the request."""
    at = line_end(data, start, start + spans.offsets[0]) + 2
    return head(words) + data[at : start + spans.offsets[0] + spans.lengths[0] + 2]  # type: ignore[no-any-return]
