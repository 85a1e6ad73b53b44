"""The usual command: its keys are at fixed places and all in one slot, and it goes to that slot's node as the bytes it came in.

Compiled; the one object it makes is the Call. Of a pipeline of requests that are alike only the first was taken apart, and
they are sent on together.
"""

from typing import Any

import cython

if not cython.compiled:
    from puerta.protocol.span import key_slot
    from puerta.protocol.spec import KEYED, SPLIT
    from puerta.proxy.redis_caller import Call as new_call  # without the call of a function for it

from puerta.proxy import redis_forward


def usual(index: Any, spans: Any, data: Any, start: int) -> Any:
    """The row of a command that has its keys at fixed places, and as many arguments as it must; else None."""
    spec = index.find(data, start + spans.offsets[0], spans.lengths[0])
    if spec is None or spec.first == 0 or (spec.kind != KEYED and spec.kind != SPLIT):
        return None
    arity = spec.arity
    if (arity > 0 and spans.count != arity) or spans.count < -arity:
        return None
    if spec.kind == SPLIT and (spans.count - 1) % spec.step:
        return None
    return spec


def forward_run(session: Any, cluster: Any, spec: Any, request: Any, data: Any, start: int, run: int) -> int:
    """Send on a command, and with it those that follow and are alike, which are `run`; returns how many were taken.

    The run ends with one that is answered here: its keys are in several slots, or its node takes nothing.
    """
    spans = request.spans
    length = request.at
    offset = spans.offsets[spec.first]
    size = spans.lengths[spec.first]
    taken = 0
    while taken < run:
        taken += 1
        slot = key_slot(data, start + offset, size)
        if spec.last != spec.first and not in_one(slot, spec, spans, data, start):
            session.reply(redis_forward.CROSSSLOT)
            break
        upstream = cluster.shared(slot, session.protocol, spec.readonly)
        if upstream is None or upstream.full():
            session.reply(redis_forward.unavailable(session, slot, upstream))
            break
        call = new_call(session, spec, slot, spec.readonly, session.loop.now)
        session.enqueue(call)
        upstream.append(call, data, start, length)
        start += length
    return taken


def in_one(slot: int, spec: Any, spans: Any, data: Any, start: int) -> bool:
    """Whether the keys behind the first are in this slot, too."""
    last = spec.last if spec.last > 0 else spans.count + spec.last
    at = spec.first + spec.step
    while at <= last:
        if key_slot(data, start + spans.offsets[at], spans.lengths[at]) != slot:
            return False
        at += spec.step
    return True
