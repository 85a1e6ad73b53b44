from puerta.proxy.redis_caller cimport Call


cdef class Gather:
    cdef public object session
    cdef public object combine
    cdef public bint tolerant
    cdef public list legs
    cdef public Py_ssize_t outstanding
    cdef public Py_ssize_t held
    cdef public Call main
    cpdef expect(self, Call leg)
    cpdef seal(self)
    cpdef settle(self)
    cpdef leg_answered(self, Call leg, bytes reply)
