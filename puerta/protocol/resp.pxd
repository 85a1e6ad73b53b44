cimport cython
from puerta.protocol.span cimport Spans, line_end

cdef enum:
    MORE = 0
    COMPLETE = 1
    INLINE = 2
    BAD = 3


cdef class Scan:
    cdef public Py_ssize_t at
    cdef public Py_ssize_t left
    cdef int reset(self) noexcept
    @cython.locals(at=cython.Py_ssize_t, left=cython.Py_ssize_t, size=cython.Py_ssize_t, stop=cython.Py_ssize_t, kind=cython.uchar)
    cdef int advance(self, const unsigned char *data, Py_ssize_t start, Py_ssize_t end) except -1


cdef class Request:
    cdef public Spans spans
    cdef public Py_ssize_t at
    cdef public Py_ssize_t seen
    cdef public Py_ssize_t total
    cdef public Py_ssize_t size
    cdef public Py_ssize_t biggest
    cdef public bint trusted
    cdef public bytes error
    cdef int reset(self) noexcept
    @cython.locals(status=cython.int)
    cdef int parse(self, const unsigned char *data, Py_ssize_t start, Py_ssize_t end) except -1
    @cython.locals(stop=cython.Py_ssize_t, total=cython.Py_ssize_t)
    cdef int header(self, const unsigned char *data, Py_ssize_t start, Py_ssize_t end) except -1
    @cython.locals(at=cython.Py_ssize_t, stop=cython.Py_ssize_t, size=cython.Py_ssize_t)
    cdef int argument(self, const unsigned char *data, Py_ssize_t start, Py_ssize_t end) except -1
    @cython.locals(at=cython.Py_ssize_t)
    cdef int inline_end(self, const unsigned char *data, Py_ssize_t start, Py_ssize_t end) except -1


@cython.locals(negative=cython.bint, value=cython.Py_ssize_t, digit=cython.int)
cdef Py_ssize_t number(const unsigned char *data, Py_ssize_t at, Py_ssize_t end) noexcept
cdef bytes head(Py_ssize_t values)
