"""The demo of a `mode: mongodb` route: clients with cursors and transactions, and what becomes of them when a server dies.

What it prints is checked, and from three sides: the clients' errors, Puerta's access log, and the servers themselves.
These share no data, so the one that holds a client's documents is the one that got its connections.
"""

import time
from collections.abc import Mapping, Sequence

from playground.clients import SPLIT, THREADS, Clients, direct, split_by_hand
from playground.front import Failed, Front
from playground.servers import Mongo
from playground.table import table
from puerta.config.schema import TcpRoute
from puerta.protocol.identity import affinity_key

NAMES = ("orders", "reports", "cart", "search", "catalog", "checkout")
"""The clients: so many processes of an application would be, each with its own application name."""

ROUNDS = 10
LOAD_SECONDS = 0.5
"""Of work before the kill, and again after it was noticed."""

Lines = Mapping[str, Sequence[Mapping[str, str]]]
"""The access log's lines of each client."""

Errors = Mapping[str, int]
"""What a client met, by kind."""


class MongodbShow:
    """Three acts: everybody at its own server; a server is killed; it comes back."""

    def __init__(self, route: TcpRoute) -> None:
        self.route = route
        self.host, self.port = route.listen[0].host, route.listen[0].port
        self.servers = [Mongo(backend.address.port, backend.address.host) for backend in route.backends]
        self.guide = f"mongosh 'mongodb://{self.host}:{self.port}/?appName=you'"
        self.home: dict[str, str] = {}

    def prepare(self) -> None:
        """Nothing: each server is what it is."""

    def play(self, front: Front) -> None:
        self.work(front)
        victim = self.kill_one(front)
        if victim is not None:
            self.restart(front, victim)

    # -- act 1

    def work(self, front: Front) -> None:
        print(
            f"\n{len(NAMES)} pymongo clients of {THREADS} threads each, with cursors of many batches and transactions"
        )
        if len(self.servers) > 1:
            first, second = self.servers[:2]
            error = split_by_hand((first.host, first.port), (second.host, second.port))
            print(f"  (a cursor begun on one server and continued on another, without Puerta: {error})")
        seats, since = front.seats(), front.mark(self.route.name)
        with self.clients() as clients:
            clients.work(ROUNDS)
            holders = self.holders(clients)
        lines = self.lines(front.access(self.route.name, since))
        for client in clients:
            self.home[client.name] = self.only_backend(client.name, lines, holders)
        print(self.table_of_work(clients, lines, seats))
        self.demand_no_errors(clients)

    def table_of_work(self, clients: Clients, lines: Lines, seats: Mapping[str, int]) -> str:
        workers = sorted(set(seats.values()))
        heads = ["client", "went to", "connections", *(f"by worker {seat}" for seat in workers)]
        heads += ["cursors", "transactions", *SPLIT.values()]
        rows = []
        for client in clients:
            through = [seats[line["pid"]] for line in lines[client.name]]
            counts = [client.tally[what] for what in ("cursors", "transactions", *SPLIT.values())]
            rows.append([client.name, self.home[client.name], len(through), *map(through.count, workers), *counts])
        return table(heads, rows)

    # -- act 2

    def kill_one(self, front: Front) -> Mongo | None:
        """The busiest server dies while everybody works; its clients must go on, each of them in one piece."""
        if len(self.servers) < 2:
            return None
        victim = max(self.servers, key=lambda server: list(self.home.values()).count(server.address))
        print(f"\nkill -9 {victim.pid}: {victim.address} dies while everybody works")
        since = front.mark(self.route.name)
        with self.clients() as clients:
            for client in clients:
                client.seed()
            for client in clients:
                client.start(rounds=None)
            time.sleep(LOAD_SECONDS)
            victim.kill()
            killed = time.monotonic()
            front.wait_backend(self.route.name, victim.address, "down")
            print(f"  (Puerta's verdict after {time.monotonic() - killed:.1f} s: down; nobody waited for it)")
            time.sleep(LOAD_SECONDS)
            clients.finish(now=True)
            met = {client.name: client.errors for client in clients}
            clients.work(ROUNDS)
            holders = self.holders(clients)
        lines = self.lines(front.access(self.route.name, since))
        before = dict(self.home)
        for client in clients:
            self.home[client.name] = self.only_backend(client.name, lines, holders, but=victim.address)
        print(self.table_of_moves(before, lines, met, victim.address))
        self.demand_no_errors(clients)
        self.demand_the_others_unharmed(before, met, victim.address)
        return victim

    def table_of_moves(self, before: Mapping[str, str], lines: Lines, met: Mapping[str, Errors], victim: str) -> str:
        rows = []
        for name, home in self.home.items():
            lost = sum(line["backend"] == victim for line in lines[name])
            kept = sum(line["backend"] == home for line in lines[name])
            rows.append([name, before[name], home, lost, kept, sum(met[name].values())])
        return table(
            ["client", "was at", "is at", "connections lost", "connections there", "threads that noticed"], rows
        )

    def demand_the_others_unharmed(self, before: Mapping[str, str], met: Mapping[str, Errors], victim: str) -> None:
        for name, home in before.items():
            if home != victim and (met[name] or self.home[name] != home):
                raise Failed(f"{name} was at {home}, which lives, but is at {self.home[name]} and met {met[name]}")

    # -- act 3

    def restart(self, front: Front, victim: Mongo) -> None:
        """The server comes back; nobody is moved for it, because everybody's cursors are where they are."""
        print(f"\n{victim.address} comes back: clients stay where they are, newcomers may go there")
        victim.start()
        front.wait_backend(self.route.name, victim.address, "up")
        since = front.mark(self.route.name)
        with self.clients() as clients:
            clients.work(ROUNDS // 2)
            holders = self.holders(clients)
        lines = self.lines(front.access(self.route.name, since))
        rows = []
        for client in clients:
            home = self.only_backend(client.name, lines, holders)
            if home != self.home[client.name]:
                raise Failed(f"{client.name} was moved from {self.home[client.name]} to {home} for nothing")
            rows.append([client.name, home, len(lines[client.name])])
        print(table(["client", "is still at", "connections"], rows))
        self.demand_no_errors(clients)

    # -- what all acts need

    def clients(self) -> Clients:
        return Clients(NAMES, self.host, self.port)

    def key(self, name: str) -> str:
        """A client's affinity key, as Puerta's log has it."""
        affinity = self.route.affinity
        key = affinity_key(
            affinity.by, address=self.host, application=name.encode(), server_name=None, proxy_identity=None,
            session_pattern=affinity.session_pattern,
        )  # fmt: skip
        return "-" if key is None else key.hex()

    def lines(self, by_key: Lines) -> Lines:
        return {name: by_key.get(self.key(name), []) for name in NAMES}

    def holders(self, clients: Clients) -> dict[str, set[str]]:
        """The servers that have each client's documents, asked past Puerta."""
        found: dict[str, set[str]] = {client.name: set() for client in clients}
        for server in self.servers:
            if server.process is None or server.process.poll() is not None:
                continue
            with direct(server.host, server.port) as mongo:
                there = mongo.list_database_names()
            for client in clients:
                if client.database.name in there:
                    found[client.name].add(server.address)
        return found

    @staticmethod
    def only_backend(name: str, lines: Lines, holders: Mapping[str, set[str]], but: str = "-") -> str:
        """Where a client went with all of its connections, save those that a dead backend lost."""
        logged = {line["backend"] for line in lines[name]} - {but, "-"}
        if len(logged) != 1 or holders[name] != logged:
            raise Failed(f"{name} is split: connections to {sorted(logged)}, documents on {sorted(holders[name])}")
        return logged.pop()

    @staticmethod
    def demand_no_errors(clients: Clients) -> None:
        for client in clients:
            if client.errors:
                raise Failed(f"{client.name} met {client.errors}, first of all {client.first_error}")
