cimport cython
from puerta.protocol.resp cimport BAD, COMPLETE, INLINE, MALFORMED, MORE, number
from puerta.protocol.span cimport Shape, Spans, line_end
from puerta.protocol.spec cimport Spec


cdef class Request:
    cdef public Spans spans
    cdef public Shape shape
    cdef public Spec spec
    cdef public Py_ssize_t at
    cdef public Py_ssize_t seen
    cdef public Py_ssize_t total
    cdef public Py_ssize_t size
    cdef public Py_ssize_t run
    cdef public Py_ssize_t most
    cdef public Py_ssize_t biggest
    cdef public bint trusted
    cdef public bytes error
    cdef int begin(self, const unsigned char *data, Py_ssize_t start, Py_ssize_t end) except -1
    cpdef int forget(self) noexcept
    @cython.locals(other=Request)
    cpdef Request split(self)
    @cython.locals(status=cython.int)
    cdef int parse(self, const unsigned char *data, Py_ssize_t start, Py_ssize_t end) except -1
    @cython.locals(stop=cython.Py_ssize_t, total=cython.Py_ssize_t)
    cdef int header(self, const unsigned char *data, Py_ssize_t start, Py_ssize_t end) except -1
    @cython.locals(at=cython.Py_ssize_t, stop=cython.Py_ssize_t, size=cython.Py_ssize_t)
    cdef int argument(self, const unsigned char *data, Py_ssize_t start, Py_ssize_t end) except -1
    @cython.locals(at=cython.Py_ssize_t)
    cdef int inline_end(self, const unsigned char *data, Py_ssize_t start, Py_ssize_t end) except -1
