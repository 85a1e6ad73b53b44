"""Calls that are sent again: where an error says they belong, or a little later, or because their connection was lost.

What an error or a lost connection means for a call depends on one question: can it have been executed? MOVED, ASK, TRYAGAIN,
CLUSTERDOWN, LOADING, MASTERDOWN and READONLY say that it was not, so the call is sent again, a bounded number of times. A call
whose bytes did not all leave us was not either. A call that was sent and not answered is only repeated when it only reads.

Order: from the first call on that is sent again, its session takes no new command (it is fenced), and its calls on one slot
that are sent again form a *lane*: each waits until the one before it is done. So a chain of redirections, each of which may
lead somewhere else, can't let one of them overtake another. What may get ahead of a call that was put off: see `redis_lane`.
"""

import heapq
import itertools
from collections import deque
from typing import Any

from puerta.protocol import slots
from puerta.proxy import redis_layout
from puerta.proxy.redis_caller import RAW, Call
from puerta.proxy.redis_forward import ASKING, unavailable
from puerta.proxy.redis_gather import collect
from puerta.proxy.redis_lane import Lane, Send, Sent, Witness

FIRST_RETRY = 0.02
"""Seconds before a call is sent again that the cluster was not ready for; doubled each time ..."""

MOST_RETRY = 0.5
"""... up to this."""

AFTERWARDS = 0.005
"""Seconds at least between two times that something is sent again."""

EARLY = 0.002
"""Seconds that a timer may be early, as its clock is another."""

AT_ONCE = 2
"""So many redirections of a call are followed without a pause. Nodes that send it to and fro do not agree yet."""

LAYOUT_SECONDS = 0.1
"""Until a layout can be expected that lists a node we did not know."""

TOO_MANY = b"-ERR too many cluster redirections\r\n"
UNKNOWN_NODE = b"-CLUSTERDOWN the slot's node is not known yet\r\n"


def pause(attempts: int) -> float:
    """Seconds to wait after so many attempts in vain."""
    return min(MOST_RETRY, FIRST_RETRY * float(2**attempts))


class Resender:
    """One for each cluster. `turns` knows the lane of every call that is under way again, `sent` what sessions had under way
    when a call of theirs was put off; at `due` those in `delayed` are looked at."""

    __slots__ = ("cluster", "delayed", "due", "lanes", "numbers", "sent", "turns")

    def __init__(self, cluster: Any) -> None:
        self.cluster = cluster
        self.lanes: dict[tuple[Any, int], Lane] = {}
        self.turns: dict[Any, Lane] = {}
        self.sent: dict[Any, Sent] = {}
        self.delayed: list[tuple[float, int, Any, Send]] = []
        self.numbers = itertools.count()
        self.due = float("inf")

    # -- why a call is sent again

    def refused(self, upstream: Any, call: Any, line: bytes, request: bytes) -> None:
        """A node answered by an error that says that it did not execute the call."""
        cluster = self.cluster
        if line.startswith((b"-MOVED ", b"-ASK ")):
            self.redirect(upstream, call, line, request)
        else:
            cluster.route.count_redis("tryagain" if line.startswith(b"-TRYAGAIN ") else "refresh_wanted", 1)
            session = call.caller
            self.later(call, request, upstream.protocol, line)
            if call.attempts == 1:
                self.doubt(call, session, call.slot, line)

    def redirect(self, upstream: Any, call: Any, line: bytes, request: bytes) -> None:
        """MOVED teaches us where the slot is; ASK is for this call alone. Only nodes that the layout lists are believed in:
        a script of a client can make any error, and must not lead us anywhere else."""
        cluster, protocol = self.cluster, upstream.protocol
        asking = line.startswith(b"-ASK ")
        cluster.route.count_redis("redirects_ask" if asking else "redirects_moved", 1)
        if call.attempts >= cluster.config.max_redirects:
            self.failed(call, TOO_MANY)
            return
        found = slots.parse_redirect(line)
        node = cluster.node(found[2] or upstream.node.host, found[3]) if found is not None else None
        if found is None or node is None:
            cluster.route.count_redis("refresh_wanted", 1)
            self.later(call, request, protocol, UNKNOWN_NODE, LAYOUT_SECONDS)
            return
        if not asking:
            redis_layout.move(cluster, found[1], node)
        delay = pause(call.attempts - AT_ONCE) if call.attempts >= AT_ONCE else 0.0
        call.attempts += 1
        self.queue(call, call.caller, call.slot, lambda: self.send(call, request, protocol, node, asking), delay)

    def later(self, call: Any, request: bytes, protocol: int, reply: bytes, least: float = 0.0) -> None:
        """Send the call again in a while. When its attempts are used up, its client gets `reply`."""
        cluster = self.cluster
        if call.attempts >= cluster.config.max_redirects:
            self.failed(call, reply)
            return
        cluster.route.count_redis("retries", 1)
        delay = max(least, pause(call.attempts))
        call.attempts += 1
        self.queue(call, call.caller, call.slot, lambda: self.send(call, request, protocol), delay)

    def lost(self, upstream: Any, reply: bytes, executed: bool) -> None:
        """Each call in flight on a lost connection gets exactly one answer: some another try, the others `reply`.

        Not `executed`: the node refused the connection itself.
        """
        log = upstream.log
        sent = log.size() - log.unsent() if upstream.ready else 0
        call, upstream.first, upstream.last = upstream.first, None, None
        torn = upstream.forwarded > 0
        offset = 0
        while call is not None:
            following, call.after = call.after, None
            end = offset + call.length
            if torn:
                torn = False
                self.tear(call)
            elif call.caller is None or call.slot == RAW or not upstream.shared or not executed:
                self.failed(call, reply)
            elif call.readonly or end > sent:
                self.later(call, log.peek(offset, call.length), upstream.protocol, reply)
            else:
                self.failed(call, reply)
            offset, call = end, following

    def tear(self, call: Any) -> None:
        """Half of its reply is out: nothing can be added that the client would understand."""
        if call.caller is not None:
            call.caller.abort()
        self.settled(call)

    # -- sending

    def send(self, call: Any, request: bytes, protocol: int, node: Any = None, asking: bool = False) -> None:
        """To this node, or where the slot is now. A read that failed twice goes to the master."""
        cluster = self.cluster
        if call.caller is None:
            self.settled(call)
            return
        if node is None and call.slot < 0:
            node = cluster.any_node()
        if node is not None:
            upstream = cluster.shared_of(node, protocol)
        else:
            upstream = cluster.shared_for(call.slot, protocol, call.readonly and call.attempts < 3)
        if upstream is None or upstream.full():
            self.later(call, request, protocol, unavailable(call.caller, call.slot, upstream))
            return
        if asking:
            upstream.send(Call(None, None, RAW, False, cluster.loop.now), ASKING)
        upstream.send(call, request)

    # -- in turn

    def queue(self, call: Any, session: Any, slot: int, send: Send, delay: float = 0.0) -> None:
        """`send` the call when every earlier one of its session and slot that is sent again is done, and after `delay`."""
        session.fence()
        if isinstance(call.gather, Witness):
            call.gather = call.gather.dismiss()
        if call not in self.turns:
            key = (session, slot)
            lane = self.lanes.get(key)
            if lane is not None:
                lane.waiting.append((call, send))
                return
            self.lanes[key] = self.turns[call] = Lane(key, call)
        self.turns[call].resting = delay > 0
        if delay:
            self.put_off(delay, call, send)
        else:
            send()

    def settled(self, call: Any) -> None:
        """The call was answered: the next of its lane has its turn."""
        lane = self.turns.pop(call, None)
        if lane is None:
            return
        while lane.waiting:
            following, send = lane.waiting.popleft()
            if following.caller is not None:
                self.turns[following] = lane
                lane.head, lane.resting = following, False
                send()
                return
        self.leave(lane)

    def leave(self, lane: Lane) -> None:
        del self.lanes[lane.key]
        if not self.lanes:
            self.sent.clear()

    def failed(self, call: Any, reply: bytes) -> None:
        """The call's attempts have come to nothing, and so would those of its lane: all get this reply."""
        lane = self.turns.pop(call, None)
        self.deliver(call, reply)
        if lane is not None:
            self.leave(lane)
            for following, _ in lane.waiting:
                self.deliver(following, reply)

    def doubt(self, call: Any, session: Any, slot: int, reply: bytes) -> None:
        """The call was put off for the first time: is anything on its way, behind it, that may be executed before it?"""
        lane = self.lanes.get((session, slot))
        if lane is None:
            return
        sent = self.sent.get(session)
        if sent is None or sent.last is not session.last:
            if len(self.sent) > 2 * len(self.lanes):  # of sessions that have none any more
                self.sent.clear()
            sent = self.sent[session] = Sent(session)
        lane.doubt(call, sent.slots.get(slot, []), reply, self)

    def overtaken(self, lane: Lane) -> None:
        """A later call may have been executed: it is too late for those of the lane that are not under way."""
        if self.lanes.get(lane.key) is not lane:
            return
        waiting, lane.waiting = lane.waiting, deque()
        if lane.resting:
            self.failed(lane.head, lane.reply)
        for call, _ in waiting:
            self.deliver(call, lane.reply)

    def deliver(self, call: Any, reply: bytes) -> None:
        """An answer that did not come off the wire as it is, or not now."""
        if call.gather is not None:
            collect(call, reply)
        elif call.caller is not None:
            call.caller.answer(call, reply)

    # -- a little later

    def put_off(self, seconds: float, call: Any, send: Send) -> None:
        due = self.cluster.loop.now + seconds
        heapq.heappush(self.delayed, (due, next(self.numbers), call, send))
        self.wake_at(due)

    def wake_at(self, due: float) -> None:
        """One timer serves all, for after a failure thousands of calls may wait. Those that were set for later are void."""
        if due < self.due:
            self.due = due
            self.cluster.schedule(max(0.0, due - self.cluster.loop.now), self.wake)

    def wake(self) -> None:
        """Send what is due."""
        if self.cluster.loop.now < self.due - EARLY:
            return
        try:
            while self.delayed and self.delayed[0][0] <= self.cluster.loop.now:
                _, _, call, send = heapq.heappop(self.delayed)
                lane = self.turns.get(call)
                if lane is None or call.caller is None:
                    self.settled(call)
                elif lane.doubts:
                    self.put_off(FIRST_RETRY, call, send)
                else:
                    lane.resting = False
                    send()
        finally:
            self.due = float("inf")
            if self.delayed:
                self.wake_at(max(self.delayed[0][0], self.cluster.loop.now + AFTERWARDS))
