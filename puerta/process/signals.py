"""The signals the master takes, once: number, what it does, and the words of docs/signals.md.

There are no handlers. The signals are blocked and the loop takes them one at a time with sigwaitinfo, so nothing ever
runs between two lines of the master. Two equal signals that wait are one, SIGCHLD too: the loop reaps all it finds.

A timer's SIGALRM ends the wait, not sigtimedwait: when a stop and continue (^Z, fg) interrupts that beyond its deadline,
CPython 3.11 returns the uninitialised memory of a signal that never came.
"""

import signal
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Signal:
    """`action` names the method of Master that is called; `master` and `child` say what it means to each of them."""

    number: signal.Signals
    action: str
    master: str
    child: str

    @property
    def name(self) -> str:
        return self.number.name.removeprefix("SIG")


_IGNORED = "ignored: the master decides"

SIGNALS = (
    Signal(
        signal.SIGTERM,
        "drain",
        "Drain: workers finish what they have for `stop_timeout`, the admin interface stays until they are gone, the "
        "embedded store stops last. A second TERM: now.",
        "drain, then exit",
    ),
    Signal(signal.SIGINT, "stop", "Stop now.", "ignored: a terminal's ^C goes to all, and the master decides"),
    Signal(signal.SIGQUIT, "stop", "Stop now.", "exit now"),
    Signal(
        signal.SIGHUP,
        "reload",
        "Reload the configuration: a bad one is refused and logged, a good one starts a new generation, seat by seat.",
        _IGNORED,
    ),
    Signal(signal.SIGUSR1, "reopen", "Reopen the log file; passed on to the children.", "reopen the log file"),
    Signal(signal.SIGUSR2, "upgrade", "Upgrade: not available in this version, logged and refused.", _IGNORED),
    Signal(signal.SIGTTIN, "add_worker", "One worker more (128 at most).", _IGNORED),
    Signal(signal.SIGTTOU, "remove_worker", "One worker less (1 at least); another worker adopts its seat.", _IGNORED),
    Signal(
        signal.SIGWINCH,
        "retire_workers",
        "As a daemon: retire all workers but keep the master and its listeners; HUP brings them back, TTIN one of "
        "them. In the foreground: ignored, a terminal sends it when its window changes.",
        _IGNORED,
    ),
    Signal(signal.SIGCHLD, "note_child", "A child ended: reap it, and respawn it if it was not asked to.", "default"),
)

_BY_NUMBER = {int(entry.number): entry for entry in SIGNALS}
_NUMBERS = frozenset({signal.SIGALRM, *(entry.number for entry in SIGNALS)})


@dataclass(frozen=True, slots=True)
class Received:
    signal: Signal
    sender: int
    """Process id of who sent it; 0 = a terminal, or somebody outside our container."""


def block() -> None:
    """From here on the table's signals wait until `wait` takes them. A fork inherits that, see restore_in_child."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _NUMBERS)


def wait(timeout: float) -> Received | None:
    """The next signal, or None after `timeout` seconds."""
    signal.setitimer(signal.ITIMER_REAL, max(timeout, 0.001))  # 0 would disarm it
    info = signal.sigwaitinfo(_NUMBERS)
    signal.setitimer(signal.ITIMER_REAL, 0)
    entry = _BY_NUMBER.get(info.si_signo)
    return None if entry is None else Received(entry, info.si_pid)


def restore_in_child() -> None:
    """Give a new child its own dispositions, then unblock.

    What ends a child (TERM, QUIT) has its default effect until the role installs handlers; everything else that a
    terminal or an operator may send is ignored. But USR1 waits, blocked, until the role takes it: a log that is moved
    while a child is still importing must be reopened by that one as well.
    """
    for number in _NUMBERS:
        default = number in (signal.SIGTERM, signal.SIGQUIT, signal.SIGCHLD, signal.SIGALRM, signal.SIGUSR1)
        signal.signal(number, signal.SIG_DFL if default else signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _NUMBERS - {signal.SIGUSR1})


def table() -> str:
    """The table in docs/signals.md."""
    lines = ["| signal | the master | a child |", "|---|---|---|"]
    lines += [f"| {entry.name} | {entry.master} | {entry.child} |" for entry in SIGNALS]
    return "\n".join(lines) + "\n"
