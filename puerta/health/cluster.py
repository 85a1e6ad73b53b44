"""Watches a Redis Cluster and tells the workers what it looks like.

Every node is checked by a thread of its own (`node`). One thread more decides when all of them look at the layout
together, makes one of what they saw (`topology`) and publishes it on the board; and likewise of the commands that the nodes
have (`learned`). Looks are never two at a time, however
many reasons there are for one: the workers met a redirect or lost a node, a check failed or saw signs of change, a slot
has no node, a master is down, or simply time.
"""

import threading
import time
from collections import deque
from collections.abc import Iterable

from puerta.board import NODES, Board
from puerta.config.schema import Address, RedisRoute
from puerta.errors import BoardFull
from puerta.health import topology
from puerta.health.learned import Learned
from puerta.health.node import HASTE, NodeWatch
from puerta.health.publish import Offer
from puerta.health.snapshot import Snapshot, node_states, state_of
from puerta.health.topology import Layout
from puerta.health.verdict import DOWN, STARTING, UP
from puerta.health.views import View
from puerta.log import logger

POLL = 0.05
"""Seconds between two looks at what the workers wish."""

TROUBLE = 0.25
"""Seconds between looks at a cluster with a slot that has no node, or with a master that does not answer."""

PATIENCE = 0.25
"""Seconds that a look waits for its last node; then it does without."""

REST = 1.0
"""Seconds of pause after a fault of our own."""


class Cells:
    """Which table of the board counts which address. A number is given out again as late as possible."""

    def __init__(self) -> None:
        self.given: dict[str, int] = {}
        self.free = deque(range(NODES))

    def take(self, address: str) -> None:
        if address not in self.given:
            self.given[address] = self.free.popleft() if self.free else -1

    def reserve(self, address: str, cell: int) -> None:
        """The address has that number already: an earlier supervisor gave it."""
        if cell in self.free:
            self.free.remove(cell)
            self.given[address] = cell

    def spare(self, cell: int) -> None:
        """What the number counted is of no use to us, but was read a moment ago: give it out last."""
        if cell in self.free:
            self.free.remove(cell)
            self.free.append(cell)

    def take_back(self, address: str) -> None:
        cell = self.given.pop(address, -1)
        if cell >= 0:
            self.free.append(cell)


class ClusterWatch:
    """The cluster of one route: its nodes, what they come to, and the thread that asks for it."""

    def __init__(self, route: RedisRoute, board: Board, offer: Offer) -> None:
        self.route, self.offer = route, offer
        self.seeds = [str(address) for address in route.cluster]
        self.blob, self.workers = board.topology(route.name), board.redis(route.name)
        self.wishes = self.workers.sum("refresh_wanted")
        self.layout, self.cells = Layout(), Cells()
        self.learned = Learned(route.name, board.commands(route.name))
        self.nodes: dict[str, NodeWatch] = {}
        self.published, self.version = b"", 0
        self.number, self.looking, self.looked = 0, False, float("-inf")
        self.seen = self.seen_from = 0.0  # when the look ended that the layout comes from, and when it began
        self.wanted, self.doubted = True, False
        self.news, self.stopped = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self._run, name=f"puerta-cluster {route.name}", daemon=True)
        self._restore()
        self._watch(self.route.cluster)

    # -- for others

    def start(self) -> None:
        self.thread.start()

    def stop(self) -> None:
        """End the checks soon; `threads` are to be joined."""
        self.stopped.set()
        self.news.set()
        for node in list(self.nodes.values()):
            node.stop()

    def threads(self) -> list[threading.Thread]:
        return [self.thread, *(node.thread for node in list(self.nodes.values()))]

    def want(self) -> None:
        """There is a reason to look at the cluster."""
        self.wanted = True
        self.news.set()

    def suspect(self, backend: str) -> None:
        """Another machine lost this node."""
        node = self.nodes.get(backend)
        if node is not None:
            node.suspect()

    def snapshot(self) -> Snapshot:
        layout = self.layout
        states = node_states(layout, dict(self.nodes), dict(self.cells.given))
        return Snapshot(states, layout.uncovered, layout.epoch, self.blob.version, self.seen)

    # -- the thread

    def _run(self) -> None:
        while not self.stopped.is_set():
            news = self.news.wait(POLL)
            self.news.clear()
            try:
                self.step(time.monotonic(), news)
            except Exception:  # a fault of ours must not leave the workers with an old layout for ever
                logger.exception("watching cluster %s", self.route.name)
                self.stopped.wait(REST)

    def step(self, now: float, news: bool) -> None:
        """Do what is due; `news`: a check was finished."""
        wishes = self.workers.sum("refresh_wanted")
        if wishes != self.wishes:
            self.wishes, self.wanted = wishes, True
        if self.looking and (self._is_complete() or now - self.looked >= PATIENCE):
            self.looking, news = False, True
            self._merge(now)
        if not self.looking and self._is_due(now):
            self._look(now)
        if news and self.layout.nodes:
            self._publish()
            self.learned.take(node.commands for node in self.nodes.values())

    def _is_due(self, now: float) -> bool:
        passed = now - self.looked
        if self.wanted and passed >= HASTE:
            return True
        return passed >= self._pause()

    def _pause(self) -> float:
        """Seconds between two looks that nobody asked for."""
        states = (state_of(node, self.nodes.get(str(node.address))) for node in self.layout.masters)
        if self.layout.uncovered or DOWN in states:
            return TROUBLE
        if any(node.failed or node.loading for node in self.layout.nodes):
            return min(self.route.health.every, self.route.topology_refresh)
        return self.route.topology_refresh

    def _look(self, now: float) -> None:
        self.looked, self.looking, self.wanted = now, True, False
        self.number += 1
        for node in self.nodes.values():
            node.look(self.number)
            if node.thread.ident is None:
                node.thread.start()

    def _is_complete(self) -> bool:
        """All have answered that can be expected to."""
        return all(node.done >= self.number or node.verdict.state == DOWN for node in self.nodes.values())

    def _merge(self, now: float) -> None:
        """Take over what the nodes saw. Slots that lost their owner are believed at the second look only: in between
        two nodes' answers, a slot may have moved from the one that was asked later to the one that was asked before."""
        views, looked = self._views()
        if not views:
            self._watch(self.route.cluster)
            return
        found = topology.choose(views)
        self.doubted = found.uncovered > self.layout.uncovered and not self.doubted and bool(self.layout.nodes)
        if self.doubted:
            self._watch(self.route.cluster)
            self.wanted = True
            return
        self.seen, self.seen_from = now, looked
        change = topology.describe(self.layout, found)
        if found != self.layout:
            self.layout = found
            self._follow()
        if change:
            logger.info("cluster %s: %s (epoch %d)", self.route.name, change, found.epoch)

    def _views(self) -> tuple[list[View], float]:
        """What this look saw, and when it began; if all nodes are too slow for it, what they saw last."""
        fresh = [node.view for node in self.nodes.values() if node.done >= self.number]
        found = [view for view in fresh if view is not None]
        if found:
            return found, self.looked
        return [node.view for node in self.nodes.values() if node.view is not None], self.seen_from

    def _follow(self) -> None:
        """Watch the nodes of the layout and no others."""
        addresses = {str(node.address): node.address for node in self.layout.nodes}
        for address in self.nodes.keys() - addresses.keys():
            self.nodes.pop(address).stop()
        for address in self.cells.given.keys() - addresses.keys():
            self.cells.take_back(address)
        for address in addresses:
            self.cells.take(address)
        self._watch(addresses.values())

    def _watch(self, addresses: Iterable[Address]) -> None:
        """Have these nodes watched from the next look on; seeds, while nobody else answers."""
        for address in addresses:
            if str(address) not in self.nodes:
                self.nodes[str(address)] = NodeWatch(self.route, address, self.offer, self.news.set, self.want)
                self.wanted = True

    def _publish(self) -> None:
        nodes = self.layout.nodes
        up = {
            node.id: state_of(node, self.nodes.get(str(node.address))) in (UP, STARTING) and not node.loading
            for node in nodes
        }
        cells = {node.id: self.cells.given[str(node.address)] for node in nodes}
        data = topology.dump(self.layout, up, cells, self.seeds)
        overtaken = self.blob.version != self.version  # by a supervisor that leaves
        if data == self.published and not overtaken:
            return
        self.published = data
        try:
            self.blob.publish(topology.dump(self.layout, up, cells, self.seeds, self.blob.version + 1, self.seen_from))
        except BoardFull as error:
            logger.error("cluster %s: its layout is too large to be published: %s", self.route.name, error)
        self.version = self.blob.version

    def _restore(self) -> None:
        """Begin with what an earlier supervisor published, verdicts and all, so that its end changes nothing."""
        found = self.blob.read(0)
        if found is None:
            return
        try:
            layout, up, cells, seeds = topology.load(found[1])
        except (ValueError, KeyError, TypeError) as error:
            logger.error("cluster %s: what was published can't be read: %r", self.route.name, error)
            return
        if {*seeds, *(str(node.address) for node in layout.nodes)}.isdisjoint(self.seeds):
            logger.info("cluster %s: the seeds are others now, so it is looked for anew", self.route.name)
            for cell in cells.values():
                self.cells.spare(cell)
            return
        self.layout = layout
        for node in layout.nodes:
            self.cells.reserve(str(node.address), cells[node.id])
        self._follow()
        for node in layout.nodes:
            self.nodes[str(node.address)].verdict.state = UP if up[node.id] else DOWN
        given = {node.id: self.cells.given[str(node.address)] for node in layout.nodes}
        self.published, self.version = topology.dump(layout, up, given, seeds), found[0]
