"""Plays the master for a real supervisor process: forks it, answers questions about the board, ends when told to.

Run with a JSON object as its argument; each line on stdin is a command, answered by one JSON line.
"""

import json
import logging
import os
import signal
import socket
import sys
import time

from puerta import log, supervisor
from puerta.board import BACKEND_STATES, CHILD_STATES, MASTER_STATES, ROLES, Board
from puerta.config.schema import Address, Affinity, Backend, Config, Health, Limits, ProxyProtocol, TcpRoute
from puerta.role import Listener, Role

ROW = 2


def make_role(options: dict[str, object], board: Board, lifeline: int, listeners: list[Listener]) -> Role:
    route = TcpRoute(
        "mongo", "tcp", (Address("127.0.0.1", 1),), (Backend(Address("127.0.0.1", int(str(options["backend"])))),),
        "rendezvous", Affinity(), Health(every=0.2, timeout=1.0, rise=1, fall=1), 0.0, Limits(), ProxyProtocol(),
    )  # fmt: skip
    board.lay_out([("mongo", [route.backends[0].id])])
    return Role(
        "supervisor", -1, ROW, 1, Config(routes=(route,)), "", board, str(options["store"]), lifeline, listeners
    )


def fork(role: Role, write_end: int) -> int:
    pid = os.fork()
    if pid:
        return pid
    os.close(write_end)
    status = 70
    try:
        status = supervisor.main(role)
    finally:
        logging.shutdown()
        os._exit(status)


def main() -> None:
    options = json.loads(sys.argv[1])
    log.setup("info", "text", options["log"])
    board = Board(1 << 20)
    read_end, write_end = os.pipe()
    listeners = [socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_UNIX)]
    listeners[1].bind(options["socket"])
    listeners[1].listen()
    role = make_role(options, board, read_end, [Listener("admin", "", -1, each) for each in listeners])
    board.master.set(0, "pid", os.getpid())
    board.master.set(0, "state", MASTER_STATES.index("running"))
    board.children.set(0, "pid", 1)
    board.children.set(0, "role", ROLES.index("worker"))
    board.children.set(0, "state", CHILD_STATES.index("up"))
    signal.signal(signal.SIGTERM, lambda *_: None)  # a handler of ours, for the child to get rid of
    pid = fork(role, write_end)
    print(json.dumps({"pid": pid, "port": listeners[0].getsockname()[1]}), flush=True)
    for line in sys.stdin:
        if line.startswith("wait"):
            _, status = os.waitpid(pid, 0)
            answer: object = os.waitstatus_to_exitcode(status)
        elif line.startswith("again"):
            pid = fork(role, write_end)
            answer = pid
        else:
            backend = board.verdict("mongo", role.config.routes[0].backends[0].id).row(0)
            own = board.workers.row(ROW)
            age = (time.monotonic_ns() - own["beat_ns"]) / 1e9
            answer = {
                "state": BACKEND_STATES[backend["state"]],
                "ready": own["ready"],
                "age": age,
                "downs": backend["downs"],
            }
        print(json.dumps(answer), flush=True)


main()
