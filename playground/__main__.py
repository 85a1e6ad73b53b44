"""`make demo`: real servers, Puerta in front of them under etc/puerta.yaml, real clients, and what went where.

Then everything stays up until ^C, so that a guest can look at the status page or connect; with `--once` it ends. Exit
status: 0 when everything was as it should be, 1 when it was not, 130 when it was interrupted before it could tell.
"""

import argparse
import contextlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from playground.front import Failed, Front
from playground.mongodb import MongodbShow
from playground.redis import RedisShow
from playground.servers import Server, accepts
from playground.show import Show
from puerta.config.load import load
from puerta.config.schema import Config
from puerta.errors import ConfigError

CONFIG = "etc/puerta.yaml"
INTERRUPTED = 130

SHOWS: Mapping[str, Callable[[Any], Show]] = {"mongodb": MongodbShow, "redis": RedisShow}
"""By a route's mode."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="playground", description="Puerta with real servers and real clients.")
    parser.add_argument("--once", action="store_true", help="end after the show instead of staying up")
    parser.add_argument("-c", "--config", metavar="FILE", default=CONFIG, help=f"default: {CONFIG}")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, interrupt)
    try:
        with tempfile.TemporaryDirectory(prefix="puerta-demo-") as directory:
            run(arguments.config, Path(directory), arguments.once)
    except (Failed, ConfigError, TimeoutError, RuntimeError) as error:
        print(f"\nthe demo failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def run(path: str, directory: Path, once: bool) -> None:
    """Raises Failed, ConfigError, or KeyboardInterrupt when that came before the end of the show."""
    os.environ["PUERTA_RUN_DIR"] = str(directory)
    config = load(path, os.environ)
    shows = [SHOWS[route.mode](route) for route in config.routes if route.mode in SHOWS]
    servers = [server for show in shows for server in show.servers]
    front = Front(path, config, directory)
    with contextlib.ExitStack() as cleanup:
        for server in servers:
            cleanup.callback(server.stop)
        cleanup.callback(front.stop)
        cleanup.callback(be_deaf)
        demand_free_ports(path, config, servers)
        for server in servers:
            server.launch()
        for server in servers:
            server.wait()
        for show in shows:
            show.prepare()
        print(f"servers  {', '.join(server.address for server in servers)}")
        front.start()
        listens = ", ".join(str(address) for route in config.routes for address in route.listen)
        print(f"Puerta   {listens} with {len(front.seats())} workers, process {front.pid}, configuration {path}")
        for show in shows:
            with showing_log(front):
                show.play(front)
        print("\nall as it should be", flush=True)
        if not once:
            stay(front, shows)


@contextlib.contextmanager
def showing_log(front: Front) -> Iterator[None]:
    """Show the end of Puerta's log when a show fails: it is gone afterwards."""
    try:
        yield
    except Exception:
        print(f"\nthe end of Puerta's log:\n{front.tail()}", file=sys.stderr)
        raise


def be_deaf() -> None:
    """From here on everything is stopped in its order, and no second ^C may keep us from that."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def stay(front: Front, shows: list[Show]) -> None:
    """Until ^C: everything is there to be looked at. (One that comes just before `pause` would be lost: so sleep.)"""
    with contextlib.suppress(KeyboardInterrupt):
        print(f"status page {front.url}/   log {front.log}")
        for show in shows:
            print(f"try   {show.guide}")
        print("^C ends everything", flush=True)
        while True:
            time.sleep(0.5)


def demand_free_ports(path: str, config: Config, servers: Sequence[Server]) -> None:
    """Raises Failed for the first port that somebody else has, saying what to do about it."""
    first = config.routes[0].listen[0]
    for what, host, port in places(config, servers):
        if not accepts(host, port):
            continue
        here = (host, port) == (first.host, first.port)
        way = f"PORT={port + 10000} make demo" if here else f"make demo CONFIG=FILE with a changed copy of {path}"
        raise Failed(
            f"port {port} is in use, and {what} needs it. Stop the program that has it "
            f"(ss -ltnp 'sport = :{port}' names it), or take another port: {way}"
        )


def places(config: Config, servers: Sequence[Server]) -> Iterator[tuple[str, str, int]]:
    """Every port the demo listens on, and for whom."""
    named = [(f"Puerta's route {route.name}", address) for route in config.routes for address in route.listen]
    if config.admin.listen is not None:
        named.append(("Puerta's status page", config.admin.listen))
    for what, address in named:
        if not address.path:
            yield what, address.host, address.port
    for server in servers:
        yield "one of the servers behind Puerta", server.host, server.port


if __name__ == "__main__":
    sys.exit(main())
