"""Memory that nothing uses any more, given back to the kernel."""

import ctypes

_malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's own; other libraries give back by themselves


def trim() -> None:
    """Give back every free page of the heap (malloc_trim(3)).

    `free` shrinks the heap only from its end: after a burst, one small object that was made last would keep all the
    buffers below it, for as long as it lives. What comes next would pay for new pages, so this is for now and then.
    """
    if _malloc_trim is not None:
        _malloc_trim(ctypes.c_size_t(0))
