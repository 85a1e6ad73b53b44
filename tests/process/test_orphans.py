"""A master that is killed takes everybody with it and leaves its ports free."""

import signal

from tests.harness import free_port, is_listening, wait_for
from tests.process.server import Make


def test_nothing_outlives_the_master(make: Make) -> None:
    server = make(workers=3).start().wait_ready()
    assert len(server.session_pids()) == 5
    server.signal(signal.SIGKILL)
    server.wait()
    server.assert_gone()
    assert not is_listening(server.port)


def test_lingering_worker_goes_by_the_lifeline(make: Make) -> None:
    """TERM by the kernel alone would let it drain for a minute: end of file on the lifeline says that nobody waits."""
    server = make(
        stop="60s", extra=f"store: {{url: 'redis://127.0.0.1:1'}}\nadmin: {{listen: 127.0.0.1:{free_port()}}}"
    )
    server.tell("linger", 0)
    server.start().wait_ready()
    server.signal(signal.SIGKILL)
    server.wait()
    wait_for(lambda: not server.session_pids(), "nothing is left")
