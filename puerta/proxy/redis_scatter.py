"""MGET, MSET, DEL and their like taken apart on the usual path: the request's own bytes again, slot by slot.

Each leg is appended to its node's connection as a command of its own; a Gather makes one reply of all. Compiled, as keys over
all nodes are an everyday request.
"""

from typing import Any

import cython

if not cython.compiled:
    from puerta.protocol.span import key_slot, line_end
    from puerta.proxy.redis_caller import new_call
    from puerta.proxy.redis_gather import Gather

from puerta.proxy.redis_gather import UNREACHABLE, combiner

MOST_APART = cython.declare(cython.Py_ssize_t, 64)
"""Words of a request up to which every key is compared with all before it; beyond it a dictionary finds equal slots."""


def scatter(session: Any, cluster: Any, spec: Any, request: Any, data: Any, start: int) -> int:
    """Send the legs of a request whose words are data[start:]. 0: its keys are all in one slot, and nothing was done."""
    spans = request.spans
    step = spec.step
    name_at = line_end(data, start, start + request.at) + 2
    name = bytes(data[name_at : start + spans.offset(0) + spans.length(0) + 2])
    found = cluster.found
    if are_apart(found, spans, step, data, start):
        head = b"*%d\r\n%b" % (1 + step, name)
        gather = Gather(session, spec, combiner(spec, None))
        for number in range(found.count):
            leg = new_call(session, spec, found.offset(number), spec.readonly, session.loop.now)
            upstream = way(cluster, gather, leg)
            if upstream is not None:
                before = upstream.log.size()
                upstream.log.append(head)
                put_key(upstream.log, spans, found.length(number), step, data, start)
                leg.length = upstream.log.size() - before
                upstream.push_call(leg)
    else:
        groups = by_slot(spans, step, data, start)
        if len(groups) == 1:
            return 0
        gather = Gather(session, spec, combiner(spec, groups))
        for slot, group in groups.items():
            leg = new_call(session, spec, slot, spec.readonly, session.loop.now)
            upstream = way(cluster, gather, leg)
            if upstream is not None:
                before = upstream.log.size()
                upstream.log.append(b"*%d\r\n%b" % (1 + len(group) * step, name))
                for index in group:
                    put_key(upstream.log, spans, index, step, data, start)
                leg.length = upstream.log.size() - before
                upstream.push_call(leg)
    gather.seal()
    return 1


def way(cluster: Any, gather: Any, leg: Any) -> Any:
    """The connection for one more leg, or None when there is no way: then the leg is answered already."""
    gather.expect(leg)
    upstream = cluster.shared(leg.slot, leg.caller.protocol, leg.readonly)
    if upstream is None or upstream.full():
        gather.leg_answered(leg, UNREACHABLE)
        return None
    return upstream


def are_apart(found: Any, spans: Any, step: int, data: Any, start: int) -> int:
    """Has every key a slot of its own? Then `found` has them, each with its key's position."""
    found.clear()
    if spans.count > MOST_APART:
        return 0
    for index in range(1, spans.count, step):
        slot = key_slot(data, start + spans.offset(index), spans.length(index))
        for before in range(found.count):
            if found.offset(before) == slot:
                return 0
        found.push(slot, index)
    return 1


def by_slot(spans: Any, step: int, data: Any, start: int) -> dict[int, list[int]]:
    """Positions of the keys, grouped by their slot in the order of first appearance."""
    groups: dict[int, list[int]] = {}
    for index in range(1, spans.count, step):
        groups.setdefault(key_slot(data, start + spans.offset(index), spans.length(index)), []).append(index)
    return groups


def put_key(log: Any, spans: Any, index: int, step: int, data: Any, start: int) -> int:
    """From behind the word before the key to behind the last that belongs to the key."""
    at = spans.offset(index - 1) + spans.length(index - 1) + 2
    end = spans.offset(index + step - 1) + spans.length(index + step - 1) + 2
    log.extend(data, start + at, end - at)
    return 0
