"""Bytes in shared memory that one process publishes and all others read, without a lock: the board's way to say more
than a number."""

import zlib

from puerta.errors import BoardFull


class Blob:
    """Bytes that one process publishes for all others, without a lock: two halves, of which one is always whole.

    A half holds its version, its length, a checksum over both and the bytes, then the bytes. The writer fills the half
    that nobody is pointed to and moves the pointer last. A reader that was overtaken by two publications sees a half
    that does not agree with its checksum, and reads again.
    """

    __slots__ = ("base", "bytes", "cells", "half", "size")

    HEAD = 3
    TRIES = 100

    def __init__(self, cells: "memoryview[int]", base: int, size: int) -> None:
        self.cells, self.base, self.size = cells, base, size
        self.half = self.HEAD + -(-size // 8)
        self.bytes = cells.cast("B")

    @staticmethod
    def need(size: int) -> int:
        """Cells that a blob of `size` bytes takes."""
        return 1 + 2 * (Blob.HEAD + -(-size // 8))

    @property
    def version(self) -> int:
        """Of what is published now; 0 before the first time. One cell: the cheap way to see that nothing is new."""
        return self.cells[self.base]

    def publish(self, data: bytes) -> int:
        """Make `data` what readers see and return its version. Raises BoardFull when it is longer than `size`."""
        if len(data) > self.size:
            raise BoardFull(f"{len(data)} bytes don't fit in a blob of {self.size}")
        version = self.version + 1
        head = self._head(version)
        start = (head + self.HEAD) * 8
        self.bytes[start : start + len(data)] = data
        self.cells[head + 1] = len(data)
        self.cells[head + 2] = self._sum(version, data)
        self.cells[head] = version
        self.cells[self.base] = version
        return version

    def read(self, version: int) -> tuple[int, bytes] | None:
        """The version and the bytes that are published now; None if it is `version`, or nothing was published yet.

        None, too, in the unlikely case that publications kept overtaking us: the next look will find the newest.
        """
        for _ in range(self.TRIES):
            latest = self.version
            if latest in (0, version):
                return None
            data = self._take(latest)
            if data is not None:
                return latest, data
        return None

    def _take(self, version: int) -> bytes | None:
        head = self._head(version)
        found, length, checksum = self.cells[head : head + self.HEAD]
        if found != version or not 0 <= length <= self.size:
            return None
        start = (head + self.HEAD) * 8
        data = bytes(self.bytes[start : start + length])
        return data if checksum == self._sum(version, data) else None

    def _head(self, version: int) -> int:
        return self.base + 1 + (version & 1) * self.half

    @staticmethod
    def _sum(version: int, data: bytes) -> int:
        return zlib.crc32(data, zlib.crc32(b"%d %d" % (version, len(data))))
