cimport cython
from puerta.reactor.native cimport Buffer, Poller, abort_fd, close_fd, now
from puerta.reactor.outbox cimport Outbox


cdef class Channel:
    cdef public int fd
    cdef public bint closed
    cdef public bint queued
    cdef public bint holding
    cdef public bint resets
    cdef public Loop loop
    cdef public Buffer letter
    cpdef on_event(self, unsigned int events)
    cpdef on_again(self)
    cpdef on_turn_end(self)
    cpdef on_released(self)
    cpdef on_sent(self, Py_ssize_t sent)
    cpdef close(self)
    cpdef abort(self)


cdef class Loop:
    cdef public Poller poller
    cdef public Outbox outbox
    cdef public bint together
    cdef public Buffer scratch
    cdef public double now
    cdef public set channels
    cdef public dict pending
    cdef public list grave
    cdef public list dirty
    cdef public list posted
    cdef public list held
    cdef public double held_until
    cdef public bint interrupted
    cdef public object on_error
    cpdef add(self, Channel channel, bint edge=*)
    cpdef remove(self, Channel channel)
    cpdef again(self, Channel channel)
    cpdef later(self, Channel channel)
    cpdef post(self, Channel channel, Buffer buffer)
    cpdef hold(self, Channel channel)
    @cython.locals(count=cython.int, more=cython.int, milliseconds=cython.int, _round=cython.int)
    cpdef int turn(self, double patience=*) except -1
    @cython.locals(channel=Channel, index=cython.int)
    cdef int handle(self, int count) except -1
    @cython.locals(until=cython.double, count=cython.int)
    cpdef run(self, double deadline, list timers, object callbacks)
    @cython.locals(channel=Channel, dirty=list)
    cpdef end_turn(self)
    @cython.locals(channel=Channel, posted=list, outbox=Outbox, index=cython.Py_ssize_t)
    cdef int mail(self) except -1
    @cython.locals(channel=Channel, held=list)
    cpdef release(self)
    @cython.locals(channel=Channel)
    cpdef run_pending(self)
    @cython.locals(channel=Channel)
    cpdef int bury(self) except -1
