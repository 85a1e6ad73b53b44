"""Going into the background with an honest exit status: the command returns when the server serves, or says why not."""

import contextlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

_READY = b"\x00ready"


class Readiness:
    """The background's end of a pipe to the command in the foreground, which exits as soon as it hears."""

    def __init__(self, *descriptors: int) -> None:
        self.descriptors: Sequence[int] = descriptors
        """What children must close: while one of them held it, the command would wait. None in the foreground."""

    def tell(self, problem: str = "") -> None:
        """Say that the server is ready, or what kept it from starting. Only the first word counts."""
        for descriptor in self.descriptors:
            with contextlib.suppress(BrokenPipeError):  # somebody killed the waiting command
                os.write(descriptor, problem.encode()[:4000] if problem else _READY)
            os.close(descriptor)
        self.descriptors = ()


def daemonize() -> Readiness:
    """Fork twice, lead a session of our own, and let go of the terminal. Returns in the background process only.

    To be called before any socket or the board is made. The working directory stays, so relative paths in the
    configuration keep their meaning on a reload.
    """
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    if os.fork():
        os.close(writer)
        _await(reader)
    os.close(reader)
    os.setsid()
    if os.fork():
        os._exit(0)  # only now it is no session leader and can't get a terminal by opening one
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    os.close(null)
    return Readiness(writer)


def _await(reader: int) -> NoReturn:
    with os.fdopen(reader, "rb") as pipe:
        word = pipe.read()
    if word == _READY:
        os._exit(0)
    os.write(2, (word or b"the server died while it started; see its log") + b"\n")
    os._exit(1)
