cimport cython
from puerta.protocol.resp cimport Scan
from puerta.proxy.redis_caller cimport Call, Caller
from puerta.proxy.redis_gather cimport collect
from puerta.proxy.redis_latencies cimport Latencies
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


cdef class Tally:
    cdef public long long opened
    cdef public long long connect_us
    cdef public long long failures
    cdef public long long losses
    cdef public long long calls
    cdef public long long errors
    cdef public long long timeouts


cdef class Upstream(Channel):
    cdef public object node
    cdef public Tally tally
    cdef public Latencies latencies
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
    cdef public Py_ssize_t high
    cdef public Py_ssize_t most
    cdef public Caller slow
    cdef public bint ready
    cdef public bint shared
    cdef public bint replica
    cdef public bint hung
    cdef public bint asked
    cdef public int protocol
    cdef public double born
    cdef public double since
    cdef public double heard
    cdef public double patience
    cdef public double patient_from
    cpdef bint full(self)
    cdef int push_call(self, Call call) except -1
    cdef int append(self, Call call, const unsigned char *data, Py_ssize_t start, Py_ssize_t length) except -1
    cpdef send(self, Call call, bytes request)
    cpdef on_event(self, unsigned int events)
    cpdef on_again(self)
    cpdef on_turn_end(self)
    cpdef on_released(self)
    cpdef flush(self)
    cpdef on_sent(self, Py_ssize_t sent)
    cpdef close(self)
    @cython.locals(call=Call, following=Call)
    cpdef abandon(self)
    @cython.locals(room=cython.Py_ssize_t, got=cython.Py_ssize_t, _turn=cython.int)
    cdef int read(self) except -1
    @cython.locals(buffer=Buffer, status=cython.int, at=cython.Py_ssize_t, length=cython.Py_ssize_t, taken=cython.Py_ssize_t)
    cdef int parse(self) except -1
    cdef int drop(self, Call call) except -1
    @cython.locals(call=Call, line=bytes)
    cdef int refused(self, const unsigned char *data, Py_ssize_t start, Py_ssize_t length) except -1
    cpdef overflow(self)
    cpdef wait_for(self, Caller caller)
    cpdef resume(self)
    cpdef give_up_waiting(self)
    @cython.locals(call=Call)
    cpdef fence_slots(self, set moved)
    @cython.locals(call=Call, data=cython.p_uchar, kind=cython.uchar, taken=cython.Py_ssize_t)
    cdef Py_ssize_t take_replies(self, Py_ssize_t start, Py_ssize_t length, Py_ssize_t count) except -1
    @cython.locals(buffer=Buffer, call=Call, caller=Caller, size=cython.Py_ssize_t, last=cython.Py_ssize_t)
    cdef int stream_head(self) except -1
