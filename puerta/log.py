"""Records for people and machines: one line each, on stderr or in a file that USR1 reopens.

Nothing that a peer sent reaches a line unescaped: control characters (CR, LF, ESC and the rest) are written as `\\xNN`.
"""

import json
import logging
import os
import sys
import time
from typing import Any

FORMATS = ("text", "json")
LEVELS = ("debug", "info", "warning", "error")

logger = logging.getLogger("puerta")

_UNPRINTABLE = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))} | {
    0x2028: "\\u2028",
    0x2029: "\\u2029",
}


def escape(text: str) -> str:
    """`text` with everything that could forge a line or drive a terminal made visible."""
    return text.translate(_UNPRINTABLE)


def timestamp(at: float) -> str:
    """RFC 3339 in UTC with milliseconds."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at)) + f".{int(at * 1000) % 1000:03d}Z"


class TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = escape(record.getMessage())
        if record.exc_info:
            text += " | " + escape(self.formatException(record.exc_info).replace("\n", " / "))
        return f"{timestamp(record.created)} {record.levelname.lower():7} [{os.getpid()}] {text}"


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": timestamp(record.created),
            "level": record.levelname.lower(),
            "pid": os.getpid(),
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry)


class ReopeningHandler(logging.StreamHandler[Any]):
    """Writes to stderr, or to a file that `reopen` opens again after somebody moved it away (logrotate, USR1).

    `all_of_it`: what Python or the C library writes to stderr (a crash, dumped stacks) lands in that file as well.
    """

    def __init__(self, path: str | None, all_of_it: bool) -> None:
        self.path, self.all_of_it = path, all_of_it
        super().__init__(self._open())
        self._take_all()

    def _open(self) -> Any:
        if self.path is None:
            return sys.stderr
        return open(self.path, "a", encoding="utf-8", errors="backslashreplace", buffering=1)

    def _take_all(self) -> None:
        if self.all_of_it and self.path is not None:
            os.dup2(self.stream.fileno(), 2)

    def reopen(self) -> None:
        if self.path is not None:
            old, self.stream = self.stream, self._open()
            self._take_all()
            old.close()

    def write(self, text: str) -> None:
        """Whole lines, past the formatter: the access log's way in."""
        self.stream.write(text)
        self.stream.flush()


handler: ReopeningHandler | None = None


def setup(level: str, fmt: str, path: str | None = None, all_of_it: bool = False) -> None:
    """Point the logger at stderr or `path`; called once a process, and again after a reload changed `log`."""
    global handler
    handler = ReopeningHandler(path, all_of_it)
    handler.setFormatter(JsonFormatter() if fmt == "json" else TextFormatter())
    logger.handlers[:] = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False


def reopen() -> None:
    """The log file was moved away: begin another under its name, or complain of it in the old one."""
    if handler is not None:
        try:
            handler.reopen()
        except OSError as error:
            logger.error("can't reopen the log: %s; it goes on in the old file", error.strerror)


def write_lines(text: str) -> None:
    """Write ready-made lines (each ends in a newline) where the records go."""
    if handler is not None:
        handler.write(text)
