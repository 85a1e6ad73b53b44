"""A relay before a real node that delivers its replies in pieces of any size, as a network might."""

import contextlib
import random
import socket
import threading

SIZES = (1, 1, 1, 2, 3, 5, 17, 100, 1400, 20_000, 70_000)


class Cutter:
    """Listens on `port` for connections to `target`, both on loopback. A context manager."""

    def __init__(self, port: int, target: int, seed: int) -> None:
        self.target, self.random = target, random.Random(seed)
        self.pieces = 0
        self.listener = socket.create_server(("127.0.0.1", port))
        self.ends: list[socket.socket] = []
        self.threads: list[threading.Thread] = []

    def __enter__(self) -> "Cutter":
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        for end in (self.listener, *self.ends):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        for thread in self.threads:
            thread.join()

    def _start(self, work: object, *ends: socket.socket) -> None:
        self.threads.append(threading.Thread(target=work, args=ends, daemon=True))  # type: ignore[arg-type]
        self.threads[-1].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self.listener.accept()
                far = socket.create_connection(("127.0.0.1", self.target))
                for end in (near, far):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    self.ends.append(end)
                self._start(self._whole, near, far)
                self._start(self._cut, far, near)

    def _whole(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def _cut(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 18):
                while data:
                    size = self.random.choice(SIZES)
                    sink.sendall(data[:size])
                    data = data[size:]
                    self.pieces += 1
            sink.shutdown(socket.SHUT_WR)
