cimport cython
from puerta.protocol.resp cimport head
from puerta.protocol.spec cimport Spec
from puerta.proxy.redis_caller cimport Call, Caller, new_call
from puerta.proxy.redis_latencies cimport Latencies
from puerta.reactor.native cimport Buffer


cdef class Gather:
    cdef public Caller session
    cdef public Latencies latencies
    cdef public object combine
    cdef public bint tolerant
    cdef public list legs
    cdef public Py_ssize_t outstanding
    cdef public Py_ssize_t held
    cdef public Py_ssize_t failures
    cdef public Call main
    @cython.locals(main=Call)
    cdef int begin(self, Caller session, Spec spec, object combine, bint tolerant) except -1
    cpdef expect(self, Call leg)
    cpdef seal(self)
    @cython.locals(session=Caller)
    cpdef leg_answered(self, Call leg, bytes reply)
    cpdef settle(self)
    @cython.locals(main=Call, leg=Call, legs=list, session=Caller)
    cpdef finish(self)


@cython.locals(whole=Buffer, reply=bytes)
cpdef bytes one_each(list replies)

@cython.locals(gather=Gather)
cdef Gather new_gather(Caller session, Spec spec, object combine)

@cython.locals(whole=Gather)
cpdef collect(Call call, bytes reply)
