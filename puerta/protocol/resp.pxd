cimport cython
from puerta.protocol.span cimport MOST_WORDS, Shape, Spans, line_end

cdef enum:
    MORE = 0
    COMPLETE = 1
    INLINE = 2
    BAD = 3

cdef Py_ssize_t MALFORMED


cdef class Scan:
    cdef public Py_ssize_t at
    cdef public Py_ssize_t left
    cdef public Py_ssize_t length
    cdef public Py_ssize_t run
    cdef public Py_ssize_t searched
    cdef Shape shape
    cdef Spans spans
    @cython.locals(at=cython.Py_ssize_t, left=cython.Py_ssize_t, size=cython.Py_ssize_t, stop=cython.Py_ssize_t, kind=cython.uchar, fresh=cython.bint)
    cdef int advance(self, const unsigned char *data, Py_ssize_t start, Py_ssize_t end) except -1


@cython.locals(negative=cython.bint, value=cython.Py_ssize_t, digit=cython.int)
cdef Py_ssize_t number(const unsigned char *data, Py_ssize_t at, Py_ssize_t end) noexcept
cdef bytes head(Py_ssize_t values)
