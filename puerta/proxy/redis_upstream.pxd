cimport cython
from puerta.protocol.resp cimport Scan
from puerta.reactor.loop cimport Channel, Loop
from puerta.reactor.native cimport Buffer, send_span

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


cdef class Call:
    cdef public Caller caller
    cdef public Call next
    cdef public Call after
    cdef public object spec
    cdef public object gather
    cdef public object reply
    cdef public Py_ssize_t length
    cdef public double started
    cdef public int slot
    cdef public int attempts
    cdef public bint done
    cdef public bint muted
    cdef public bint readonly


cdef class Caller(Channel):
    cdef public Call first
    cdef public Call last
    cdef public Py_ssize_t pending
    cdef public Buffer out
    cdef public bint streaming
    cdef public bint hopeless
    cdef public Upstream waited_by
    cdef public Py_ssize_t held
    cdef public Py_ssize_t most
    cdef public int protocol
    cdef int enqueue(self, Call call) except -1
    cdef int answered(self, Call call, const unsigned char *data, Py_ssize_t start, Py_ssize_t length) except -1
    cdef int stream(self, Call call, const unsigned char *data, Py_ssize_t start, Py_ssize_t length) except -1
    @cython.locals(sent=cython.Py_ssize_t)
    cdef int put(self, const unsigned char *data, Py_ssize_t start, Py_ssize_t length) except -1
    cdef int went(self, Py_ssize_t size) except -1
    cpdef answer(self, Call call, bytes reply)
    @cython.locals(call=Call)
    cdef int advance(self) except -1
    cpdef drained(self)
    cpdef overflow(self)


cdef class Upstream(Channel):
    cdef public object node
    cdef public object cluster
    cdef public object pushes
    cdef public Buffer log
    cdef public Buffer input
    cdef public Scan scan
    cdef public Call first
    cdef public Call last
    cdef public Py_ssize_t in_flight
    cdef public Py_ssize_t forwarded
    cdef public Py_ssize_t room
    cdef public Py_ssize_t most
    cdef public Caller slow
    cdef public bint ready
    cdef public bint shared
    cdef public bint replica
    cdef public int protocol
    cdef public double since
    cdef int push_call(self, Call call) except -1
    cdef int append(self, Call call, const unsigned char *data, Py_ssize_t start, Py_ssize_t length) except -1
    cpdef send(self, Call call, bytes request)
    cpdef on_event(self, unsigned int events)
    cpdef on_again(self)
    @cython.locals(sent=cython.Py_ssize_t)
    cpdef on_turn_end(self)
    @cython.locals(room=cython.Py_ssize_t, got=cython.Py_ssize_t, _turn=cython.int)
    cdef int read(self) except -1
    @cython.locals(buffer=Buffer, status=cython.int, length=cython.Py_ssize_t)
    cdef int parse(self) except -1
    @cython.locals(call=Call)
    cdef int drop_first(self) except -1
    cpdef overflow(self)
    cpdef resume(self)
    @cython.locals(call=Call, data=cython.p_uchar, kind=cython.uchar, letter=cython.uchar)
    cdef int take_reply(self, Py_ssize_t start, Py_ssize_t length) except -1
    @cython.locals(buffer=Buffer, call=Call, caller=Caller, size=cython.Py_ssize_t, last=cython.Py_ssize_t)
    cdef int stream_head(self) except -1
