"""Holds idle connections: `python -m bench.holder PORT COUNT KEY`, a process of its own for bench/load.py.

Opens COUNT connections one after the other, does one GET on each, says `held COUNT` and waits. At the line `check` it
does another GET on each and says `alive COUNT`. It ends with its input.
"""

import socket
import sys

TIMEOUT = 10.0


def get(peer: socket.socket, request: bytes) -> None:
    """One round trip. Raises OSError when the reply is not a value."""
    peer.sendall(request)
    reply = b""
    while not reply.endswith(b"\r\n") or reply.count(b"\r\n") < 2:
        piece = peer.recv(4096)
        if not piece:
            raise ConnectionResetError("closed")
        reply += piece
        if not reply.startswith(b"$") or reply.startswith(b"$-"):
            raise OSError(f"answered {reply[:60]!r}")


def main() -> None:
    port, count, key = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3].encode()
    request = b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n" % (len(key), key)
    peers: list[socket.socket] = []
    try:
        for _ in range(count):
            peers.append(socket.create_connection(("127.0.0.1", port), TIMEOUT))
            get(peers[-1], request)
        print(f"held {count}", flush=True)
        for line in sys.stdin:
            if line.strip() == "check":
                for peer in peers:
                    get(peer, request)
                print(f"alive {count}", flush=True)
    except OSError as error:
        print(f"connection {len(peers)} of {count}: {error}", flush=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
