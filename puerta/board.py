"""The board: shared memory in which processes tell each other numbers.

One anonymous mapping, made by the master before its first fork and inherited by every child. It holds named
*tables*; a table has named columns and a fixed number of rows; a cell is one signed 64-bit integer.
**Every cell has exactly one writer**, so there are no locks, and a reader sees either the old or the new value
(an aligned 8-byte store is atomic on the machines we run on):

| table                    | a row is                  | written by     |
|--------------------------|---------------------------|----------------|
| `master`                 | the master (1 row)        | master         |
| `children`               | one child process         | master         |
| `adoptions`              | a seat                    | master         |
| `workers`                | a worker's own report     | that worker    |
| `route NAME`             | a worker's counters       | that worker    |
| `backend ROUTE BACKEND`  | a worker's counters       | that worker    |
| `verdict ROUTE BACKEND`  | the supervisor's verdict  | supervisor     |
| `redis ROUTE`            | a worker's counters       | that worker    |
| `node ROUTE CELL`        | a worker's counters       | that worker    |

A route of mode redis has two more things here: *histograms* of how long each command took (`latency ROUTE`, a row for
each worker), and two *blobs* in which the supervisor tells the workers, in bytes, what the cluster looks like
(`topology ROUTE`), and which commands it has that Puerta does not know by itself (`commands ROUTE`). Its nodes are
not known before the fork, so their tables are made in advance, and the topology says which node has which.

A worker's row number is not its seat: while a reload hands a seat over, its old and its new worker live side by
side and each writes a row of its own. Rows are handed out by the master and reused after a child was reaped:
counters (`_total` and the like) go on from where the last holder left them, so sums never go down; the master sets a
reaped row's gauges to zero. Tables are found by name, so a reload keeps the cells of everything it keeps.
"""

import mmap
from collections.abc import Iterable
from pathlib import Path

from puerta.blob import Blob
from puerta.errors import BoardFull

ROWS = 512
"""Workers alive at one time, those that still drain included."""

SIZE, LEAST = 4 << 30, 512 << 20
"""Bytes of address space, of which pages that nobody touched cost nothing; less where the system does not give that much (it
may count them all, vm.overcommit_memory). A Redis route takes 81 MiB, any other 0.1 and as much for each backend, and
what a route had stays taken until the next restart."""

MAP_NORESERVE = 0x4000
"""Linux' flag (mmap(2)) that the mmap module does not name: don't count pages before they are touched."""

TOPOLOGY_BYTES = 256 << 10
"""Room for a cluster of hundreds of nodes, or one whose every slot is a range of its own."""

COMMANDS_BYTES = 256 << 10
"""Room for as many commands as a table takes, each described in 150 bytes."""

NODES = 256
"""Nodes of one cluster that are counted one by one."""

COMMANDS = 600
"""Latency histograms of a Redis route: one for each command by its number, the last one for all beyond together."""

BUCKETS = 28
"""Of a latency histogram: bucket i counts what took from 2**i to 2**(i+1) microseconds, the last one all above too."""

MASTER = ("pid", "generation", "state", "started_ns", "seats", "reload_ok", "reloaded_s")
CHILDREN = ("pid", "role", "seat", "row", "generation", "state", "restarts", "since_ns")
ADOPTIONS = ("row_plus_one", "restarts")
WORKERS = (
    "beat_ns", "ready", "state", "connections", "store_up", "store_latency_us", "loop_lag_us", "health_age_ms", "batch",
)  # fmt: skip
VERDICT = ("state", "ok", "latency_us", "checked_ns", "downs", "since_ns", "weight_milli")

CLOSE_REASONS = (
    "client_closed", "backend_closed", "client_reset", "backend_reset", "idle_timeout", "handshake_timeout",
    "connect_failed", "no_backend", "protocol_error", "limit", "backend_down", "moved", "drained", "killed", "stopped",
    "output_limit", "internal_error",
)  # fmt: skip
"""Why a client connection ended: the access log's and the metrics' fixed list."""

FOUND = ("hit", "claimed", "moved", "hash", "none")
"""How a client's backend was found: in the worker's LRU, claimed in the store, moved there, by the hash alone, no affinity."""

ROUTE = (
    "connections", "connections_total", "bytes_in", "bytes_out", "commands_total",
    *("closed_" + reason for reason in CLOSE_REASONS),
    *("found_" + found for found in FOUND),
)  # fmt: skip
REDIS = (
    "refresh_wanted", "redirects_moved", "redirects_ask", "tryagain", "upstream_connections", "upstream_failures",
    "pinned", "pinned_pool", "timeouts", "retries", "slow_calls", "topology_version", "shared_resp2", "shared_resp3",
)  # fmt: skip
"""`refresh_wanted` is a counter: each time a worker raises its cell, the supervisor looks at the cluster anew."""

BACKEND = ("connections", "connections_total", "connect_failures", "connect_us")
NODE = (*BACKEND, "lost", "in_flight", "commands_total", "errors", "timeouts")
"""Of a Redis node: also connections that were lost, calls in flight, requests sent, error replies, calls not answered in time."""

GAUGES = frozenset({
    "connections", "loop_lag_us", "store_up", "store_latency_us", "ready", "state", "beat_ns", "batch", "health_age_ms",
    "upstream_connections", "pinned", "pinned_pool", "topology_version", "shared_resp2", "shared_resp3", "in_flight",
})  # fmt: skip
"""Columns that describe the present: zeroed when their row's process is gone."""

BACKEND_STATES = ("starting", "up", "down", "drain", "maint")
"""A verdict's `state` cell is an index into this list; `starting` is "not yet checked"."""

CHILD_STATES = ("none", "starting", "up", "draining", "backoff", "broken", "hung")
ROLES = ("none", "worker", "supervisor", "store")
MASTER_STATES = ("booting", "running", "draining", "stopping")


class Table:
    """Named columns of 64-bit cells. `cells[table.base + row * table.width + table.column[name]]` is the fast way in."""

    __slots__ = ("base", "cells", "column", "columns", "rows", "width")

    def __init__(self, cells: "memoryview[int]", base: int, columns: tuple[str, ...], rows: int) -> None:
        self.cells, self.base, self.columns, self.rows = cells, base, columns, rows
        self.width = len(columns)
        self.column = {name: index for index, name in enumerate(columns)}

    def index(self, row: int, name: str) -> int:
        """The position of a cell in `cells`, for those who read or write it often."""
        return self.base + row * self.width + self.column[name]

    def get(self, row: int, name: str) -> int:
        return self.cells[self.index(row, name)]

    def set(self, row: int, name: str, value: int) -> None:
        self.cells[self.index(row, name)] = value

    def add(self, row: int, name: str, amount: int = 1) -> None:
        self.cells[self.index(row, name)] += amount

    def sum(self, name: str) -> int:
        """A column's total over all rows: what every worker, alive or gone, counted."""
        first = self.base + self.column[name]
        return sum(self.cells[first : first + self.rows * self.width : self.width])

    def row(self, row: int) -> dict[str, int]:
        first = self.base + row * self.width
        return dict(zip(self.columns, self.cells[first : first + self.width], strict=True))

    def clear(self, row: int, names: Iterable[str]) -> None:
        for name in names:
            if name in self.column:
                self.set(row, name, 0)


class Histograms:
    """Latency histograms: in each row `BUCKETS` counts of each command, and then each command's sum in microseconds.

    A table of that many columns would cost more in names than in cells.
    """

    __slots__ = ("base", "buckets", "cells", "commands", "rows", "stride")

    def __init__(self, cells: "memoryview[int]", base: int, commands: int, rows: int) -> None:
        self.cells, self.base, self.commands, self.buckets, self.rows = cells, base, commands, BUCKETS, rows
        self.stride = commands * (BUCKETS + 1)

    def index(self, row: int, command: int) -> int:
        """The position in `cells` of the command's first bucket; the next command's is `buckets` further."""
        return self.base + row * self.stride + command * BUCKETS

    def sum_index(self, row: int, command: int) -> int:
        """The position in `cells` of the microseconds that the command's calls took together."""
        return self.base + row * self.stride + self.commands * BUCKETS + command

    def totals(self, rows: Iterable[int]) -> dict[int, tuple[list[int], int]]:
        """Counts and microseconds over `rows`, by command, of those that were called. Other rows stay untouched."""
        totals = [0] * self.stride
        for row in rows:
            first = self.index(row, 0)
            totals = [total + cell for total, cell in zip(totals, self.cells[first : first + self.stride], strict=True)]
        found = {}
        for command, microseconds in enumerate(totals[self.commands * BUCKETS :]):
            counts = totals[command * BUCKETS : (command + 1) * BUCKETS]
            if any(counts):
                found[command] = (counts, microseconds)
        return found


def is_counted() -> bool:
    """Whether the system counts memory that nobody touched, MAP_NORESERVE or not (proc_sys_vm(5), overcommit_memory)."""
    try:
        return Path("/proc/sys/vm/overcommit_memory").read_text().strip() == "2"
    except OSError:
        return False


class Board:
    """The shared mapping and the directory of its tables. Only the master adds tables, and only before a fork."""

    def __init__(self, size: int = SIZE) -> None:
        flags = mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | MAP_NORESERVE
        try:
            self.memory = mmap.mmap(-1, min(size, LEAST) if is_counted() else size, flags)
        except OSError:
            self.memory = mmap.mmap(-1, min(size, LEAST), flags)
        self.cells = memoryview(self.memory).cast("q")
        self.tables: dict[str, Table] = {}
        self.histograms: dict[str, Histograms] = {}
        self.blobs: dict[str, Blob] = {}
        self.used = 0
        self.master = self.table("master", MASTER, 1)
        self.children = self.table("children", CHILDREN, ROWS)
        self.adoptions = self.table("adoptions", ADOPTIONS, ROWS)
        self.workers = self.table("workers", WORKERS, ROWS)

    def table(self, name: str, columns: tuple[str, ...], rows: int) -> Table:
        """The table called `name`, made if it is new. Raises BoardFull when the mapping has no room for it."""
        known = self.tables.get(name)
        if known is not None:
            return known
        made = self.tables[name] = Table(self.cells, self._take(name, len(columns) * rows), columns, rows)
        return made

    def blob(self, name: str, size: int) -> Blob:
        """The blob called `name`, made if it is new; `size` is the most bytes it can hold. Raises BoardFull."""
        known = self.blobs.get(name)
        if known is not None:
            return known
        made = self.blobs[name] = Blob(self.cells, self._take(name, Blob.need(size)), size)
        return made

    def _take(self, name: str, need: int) -> int:
        base = self.used
        if base + need > len(self.cells):
            raise BoardFull(f"the board has no room for {name} (fewer routes, or after many reloads a restart)")
        self.used += need
        return base

    def route(self, route: str) -> Table:
        return self.table(f"route {route}", ROUTE, ROWS)

    def backend(self, route: str, backend: str) -> Table:
        return self.table(f"backend {route} {backend}", BACKEND, ROWS)

    def verdict(self, route: str, backend: str) -> Table:
        return self.table(f"verdict {route} {backend}", VERDICT, 1)

    def redis(self, route: str) -> Table:
        return self.table(f"redis {route}", REDIS, ROWS)

    def node(self, route: str, cell: int) -> Table:
        """What workers count about the node to which the topology gave this number."""
        return self.table(f"node {route} {cell}", NODE, ROWS)

    def latency(self, route: str) -> Histograms:
        known = self.histograms.get(route)
        if known is not None:
            return known
        base = self._take(f"latency {route}", ROWS * COMMANDS * (BUCKETS + 1))
        made = self.histograms[route] = Histograms(self.cells, base, COMMANDS, ROWS)
        return made

    def topology(self, route: str) -> Blob:
        return self.blob(f"topology {route}", TOPOLOGY_BYTES)

    def commands(self, route: str) -> Blob:
        """Commands that a cluster has besides the built-in ones; the list grows at its end only."""
        return self.blob(f"commands {route}", COMMANDS_BYTES)

    def lay_out(self, routes: Iterable[tuple[str, Iterable[str]]], redis: Iterable[str] = ()) -> None:
        """Make the tables of every route and its backends, so that children inherit a directory with all of them.

        `redis` are the names of the routes of mode redis; their nodes come and go without tables of their own.
        """
        for route, backends in routes:
            self.route(route)
            for backend in backends:
                self.backend(route, backend)
                self.verdict(route, backend)
        for route in redis:
            self.route(route)
            self.redis(route)
            self.latency(route)
            self.topology(route)
            self.commands(route)
            for cell in range(NODES):
                self.node(route, cell)

    def release(self, row: int) -> None:
        """The process that held this row is gone: its gauges describe nothing any more. Master only."""
        for name, table in self.tables.items():
            if name == "workers" or name.startswith(("route ", "backend ", "redis ", "node ")):
                table.clear(row, GAUGES)
