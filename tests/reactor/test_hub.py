"""gevent's hub under the reactor: everything that greenlets wait for comes, and in time."""

import subprocess
import sys

import pytest

from tests.harness import ROOT

pytestmark = pytest.mark.dataplane

PROGRAM = """
from gevent import monkey
monkey.patch_all(aggressive=False)
import os, signal, socket, time
import gevent, gevent.event, gevent.hub
from puerta.reactor.hub import ReactorHub
from puerta.reactor.loop import Channel, Loop

ticks = []
loop = Loop(print)
gevent.hub.set_hub(ReactorHub(loop, lambda: ticks.append(time.monotonic()), 0.1))

def took(function, *arguments):
    began = time.monotonic()
    function(*arguments)
    return time.monotonic() - began

{body}
"""


def run(body: str) -> None:
    """The body in a process of its own, as a hub is for life."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(body=body)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr


def test_greenlets_sleep_as_long_as_they_want() -> None:
    run("""
for seconds in (0.0, 0.001, 0.015, 0.13):
    assert seconds <= took(gevent.sleep, seconds) < seconds + 0.05
time.sleep(0)
busy = time.monotonic() + 0.07
while time.monotonic() < busy: pass  # libev's own idea of now gets old
assert 0.03 <= took(gevent.sleep, 0.03) < 0.08
with gevent.Timeout(0.03, False):
    gevent.event.Event().wait()
    raise AssertionError
""")


def test_sockets_wake_their_greenlets_at_once() -> None:
    run("""
left, right = socket.socketpair()
def answer():
    while data := left.recv(10):
        left.sendall(data)
gevent.spawn(answer)
def ask():
    right.sendall(b"x")
    assert right.recv(10) == b"x"
assert took(lambda: [ask() for _ in range(1000)]) < 1.0
# Two that wake each other in turn, so that each wake-up starts a watcher anew.
events = [gevent.event.Event() for _ in range(200)]
def follow(one, other):
    one.wait()
    other.set()
for one, other in zip(events, events[1:]):
    gevent.spawn(follow, one, other)
events[0].set()
assert took(events[-1].wait) < 0.1
""")


def test_ticks_go_on_whatever_else_happens_and_a_failing_one_ends_nothing() -> None:
    run("""
gevent.sleep(0.55)
assert 4 <= len(ticks) <= 6, ticks
def spin():
    while True: gevent.sleep(0)
spinning = gevent.spawn(spin)
gevent.sleep(0.5)
assert 8 <= len(ticks) <= 11, ticks
class Busy(Channel):
    def on_again(self): self.loop.again(self)
left, right = os.pipe()
channel = Busy(loop, left)
loop.add(channel)
loop.again(channel)
gevent.sleep(0.5)
assert 12 <= len(ticks) <= 17, ticks
""")


def test_channels_are_served_while_greenlets_spin() -> None:
    run("""
class Count(Channel):
    calls = 0
    def on_event(self, events): Count.calls += 1
left, right = os.pipe()
loop.add(Count(loop, left), False)
os.write(right, b"x")
def spin():
    while True: gevent.sleep(0)
gevent.spawn(spin)
gevent.sleep(0.1)
assert Count.calls >= 10, Count.calls  # gevent lets callbacks have five milliseconds in a row
""")


def test_signals_and_other_threads_are_heard() -> None:
    run("""
heard = gevent.event.Event()
gevent.signal_handler(signal.SIGUSR1, heard.set)
gevent.spawn_later(0.05, os.kill, os.getpid(), signal.SIGUSR1)
assert took(heard.wait) < 0.25
gevent.get_hub().threadpool.apply(abs, (-1,))  # which starts the thread
assert took(lambda: [gevent.get_hub().threadpool.apply(abs, (-1,)) for _ in range(20)]) < 0.5, "not with the ticks"
""")
