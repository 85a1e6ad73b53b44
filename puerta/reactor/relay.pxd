cimport cython
from puerta.reactor.loop cimport Channel, Loop
from puerta.reactor.native cimport Buffer, connect_error, send_bytes, shutdown_write


cdef extern from "sys/epoll.h" nogil:
    const unsigned int EPOLLOUT
    const unsigned int EPOLLERR

cdef enum:
    READABLE = 0x2019  # EPOLLIN | EPOLLERR | EPOLLRDHUP | EPOLLHUP
    HANGUP = 0x2010  # EPOLLRDHUP | EPOLLHUP
    AGAIN = -11  # -EAGAIN


cdef class Side


cdef class Meter:
    cdef public long long total


cdef class Owner:
    cpdef on_event(self, Side side, unsigned int events)
    cpdef on_half(self, Side side)
    cpdef on_end(self, Side side, int error)


cdef class Side(Channel):
    cdef public Owner session
    cdef public Side peer
    cdef public Buffer out
    cdef public Meter meter
    cdef public bint ended
    cdef public bint waiting
    cdef public bint unread
    cdef public bint hung_up
    cdef public bint shut
    cdef public bint finishing
    cdef public Py_ssize_t room
    cdef public Py_ssize_t most
    cdef public long long received
    cdef public double first
    cdef public double active
    @cython.locals(session=Owner)
    cpdef on_event(self, unsigned int events)
    cpdef on_again(self)
    @cython.locals(session=Owner, peer=Side, scratch=Buffer, out=Buffer, got=cython.Py_ssize_t, sent=cython.Py_ssize_t, room=cython.Py_ssize_t, at_once=cython.bint, _turn=cython.int)
    cdef int pump(self, bint to_the_end) except -1
    cpdef on_sent(self, Py_ssize_t sent)
    cdef int flush(self) except -1
    @cython.locals(session=Owner, out=Buffer)
    cdef bint went(self, Py_ssize_t sent) except -1
    @cython.locals(session=Owner)
    cdef int stop(self, Py_ssize_t got) except -1
    @cython.locals(session=Owner)
    cdef int finish_writing(self) except -1
    @cython.locals(session=Owner, sent=cython.Py_ssize_t)
    cpdef send(self, bytes data)


cpdef join(Side client, Side upstream)
