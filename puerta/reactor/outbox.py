"""What a turn has to send, in plain Python: the twin of `outbox.pyx`, one system call for each."""

import errno

from puerta.reactor.native import Buffer


class Outbox:
    """Buffers, each for a socket. `refusal` is the errno for which they are not sent by one call, or 0."""

    __slots__ = ("letters", "refusal", "results")

    def __init__(self, together: bool = True) -> None:
        self.refusal = errno.ENOSYS if together else 0
        self.letters: list[tuple[int, Buffer | None]] = []
        self.results: list[int] = []

    def add(self, fd: int, buffer: Buffer | None) -> int:
        """Send what the buffer holds and was not sent; None: nothing. Whoever adds it keeps it as it is until `send`."""
        self.letters.append((fd, buffer))
        return 0

    def send(self) -> int:
        """Send everything, and begin anew; `result` then tells of each, in the order in which they were added."""
        self.results = [-errno.EBADF if buffer is None else buffer.push(fd) for fd, buffer in self.letters]
        self.letters.clear()
        return 0

    def result(self, index: int) -> int:
        """The bytes that the socket took, or -errno."""
        return self.results[index]

    def close(self) -> None:
        """There is nothing to give back."""
