cimport cython
from puerta.protocol.request cimport Request
from puerta.protocol.spec cimport Spec
from puerta.protocol.span cimport NameIndex, Spans
from puerta.proxy.redis_caller cimport Call, Caller
from puerta.proxy.redis_cluster cimport Cluster
from puerta.proxy.redis_keyed cimport SPLIT, forward_run, usual
from puerta.proxy.redis_scatter cimport scatter
from puerta.reactor.native cimport Buffer
from puerta.reactor.relay cimport Meter

cdef extern from "sys/epoll.h" nogil:
    const unsigned int EPOLLIN
    const unsigned int EPOLLOUT
    const unsigned int EPOLLERR

cdef enum:
    HANGUP = 0x2010  # EPOLLRDHUP | EPOLLHUP
    BROKEN = 0x18  # EPOLLERR | EPOLLHUP
    AGAIN = -11  # -EAGAIN
    MORE = 0
    COMPLETE = 1
    INLINE = 2


cdef class RedisSession(Caller):
    cdef public object route
    cdef public Cluster cluster
    cdef public NameIndex index
    cdef public Meter meter_in
    cdef public Meter taken
    cdef public str host
    cdef public int port
    cdef public Buffer input
    cdef public Request scratch
    cdef public Request request
    cdef public Py_ssize_t limit
    cdef public bint special
    cdef public bint fenced
    cdef public bint consuming
    cdef public bint paused
    cdef public bint unread
    cdef public bint hung
    cdef public bint over
    cdef public object state
    cdef public double opened
    cdef public long long received
    cdef public long long commands
    @cython.locals(buffer=Buffer, got=cython.Py_ssize_t, large=cython.bint)
    cdef int read(self) except -1
    cdef int consume(self, Buffer buffer) except -1
    @cython.locals(request=Request, status=cython.int, at=cython.Py_ssize_t, length=cython.Py_ssize_t, share=cython.Py_ssize_t, taken=cython.Py_ssize_t)
    cdef int take_commands(self, Buffer buffer) except -1
    @cython.locals(spec=Spec)
    cdef Py_ssize_t dispatch(self, Request request, const unsigned char *data, Py_ssize_t start, Py_ssize_t run) except -1
    @cython.locals(spans=Spans, at=cython.Py_ssize_t, index=cython.Py_ssize_t)
    cdef int command(self, Request request, const unsigned char *data, Py_ssize_t start) except -1
    @cython.locals(call=Call, following=Call)
    cpdef end(self, str reason)
    cpdef fence(self)
    cdef int nothing_read(self, Py_ssize_t got) except -1
    cdef bint blocked(self)
    cpdef resume(self)
    cpdef on_event(self, unsigned int events)
    cpdef on_again(self)
    cpdef drained(self)
    cpdef overflow(self)
