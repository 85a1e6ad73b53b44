cimport cython
from libc.math cimport log2
from puerta.protocol.spec cimport Spec
from puerta.proxy.redis_caller cimport Call


cdef class Latencies:
    cdef long long[::1] cells
    cdef Py_ssize_t base
    cdef Py_ssize_t sums
    cdef Py_ssize_t buckets
    cdef Py_ssize_t commands
    cdef double slow
    cdef object on_slow
    @cython.locals(seconds=cython.double, spec=Spec)
    cpdef int measure(self, Call call, double now) except -1
    @cython.locals(microseconds=cython.longlong, bucket=cython.Py_ssize_t)
    cdef int add(self, Py_ssize_t command, double seconds) except -1
