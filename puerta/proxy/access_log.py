"""One line for each client connection, at its end. Lines are gathered and written together ten times a second."""

import contextlib
import json
import os
import time
from typing import Any

from puerta import log

MOST = 65536
"""Bytes of lines that may wait; then they are written at once."""


class AccessLog:
    """`enabled` follows `log.access`, `as_json` follows `log.format`."""

    def __init__(self, enabled: bool, as_json: bool) -> None:
        self.enabled, self.as_json = enabled, as_json
        self.pid = os.getpid()  # which worker served the client
        self.lines: list[str] = []
        self.size = 0

    def session(self, session: Any, reason: str) -> None:
        if not self.enabled:
            return
        values = {"pid": self.pid, **session.summary(reason)}
        at = log.timestamp(time.time())
        if self.as_json:
            line = json.dumps({"time": at, "level": "access", **values}) + "\n"
        else:
            fields = " ".join(f"{name}={'-' if value is None else value}" for name, value in values.items())
            line = f"{at} access  {fields}\n"
        self.lines.append(line)
        self.size += len(line)
        if self.size > MOST:
            self.flush()

    def flush(self) -> None:
        """Write what waits. A full disk or a closed pipe costs these lines, never a connection."""
        if self.lines:
            lines, self.lines, self.size = self.lines, [], 0
            with contextlib.suppress(OSError):
                log.write_lines("".join(lines))
