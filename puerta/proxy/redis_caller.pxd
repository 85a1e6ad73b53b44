cimport cython
from puerta.reactor.loop cimport Channel
from puerta.reactor.native cimport Buffer, send_span
from puerta.reactor.relay cimport Meter

cdef enum:
    AGAIN = -11  # -EAGAIN


@cython.freelist(1024)
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


@cython.locals(call=Call)
cdef Call new_call(Caller caller, object spec, int slot, bint readonly, double started)


cdef class Caller(Channel):
    cdef public Call first
    cdef public Call last
    cdef public Py_ssize_t pending
    cdef public Buffer out
    cdef public bint streaming
    cdef public bint silent
    cdef public bint starved
    cdef public bint hopeless
    cdef public object waited_by
    cdef public Py_ssize_t held
    cdef public Py_ssize_t most
    cdef public Py_ssize_t low
    cdef public int protocol
    cdef public bint ended
    cdef public bint leaving
    cdef public str farewell
    cdef public Meter meter_out
    cdef public long long sent
    cdef public double active
    cdef public double first_byte
    cdef int enqueue(self, Call call) except -1
    cpdef reply(self, bytes data)
    cdef int answered(self, Call call, const unsigned char *data, Py_ssize_t start, Py_ssize_t length) except -1
    cdef int hold(self, Py_ssize_t length) except -1
    cdef int stream(self, Call call, const unsigned char *data, Py_ssize_t start, Py_ssize_t length) except -1
    @cython.locals(sent=cython.Py_ssize_t)
    cdef int put(self, const unsigned char *data, Py_ssize_t start, Py_ssize_t length) except -1
    cdef int went(self, Py_ssize_t size) except -1
    cpdef answer(self, Call call, bytes reply)
    @cython.locals(call=Call)
    cdef int advance(self) except -1
    cpdef resume(self)
    cpdef fence(self)
    cpdef drained(self)
    cpdef overflow(self)
    cpdef push(self, bytes data)
    cpdef on_turn_end(self)
    cpdef on_released(self)
    cpdef flush(self)
    @cython.locals(out=Buffer, left=cython.Py_ssize_t)
    cpdef on_sent(self, Py_ssize_t sent)
    cpdef end(self, str reason)
