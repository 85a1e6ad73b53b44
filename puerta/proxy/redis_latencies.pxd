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
    cdef Spec spec
    cdef double started
    cdef double ended
    cdef double seconds
    cdef long long microseconds
    cdef Py_ssize_t sum
    cdef Py_ssize_t cell
    cdef Py_ssize_t count
    @cython.locals(spec=Spec)
    cpdef int measure(self, Call call, double now) except -1
    cpdef int flush(self) except -1
    @cython.locals(bucket=cython.Py_ssize_t, command=cython.Py_ssize_t)
    cdef int find(self, Spec spec, double started, double ended) except -1
