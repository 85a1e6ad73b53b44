cdef class Spans:
    cdef Py_ssize_t *offsets
    cdef Py_ssize_t *lengths
    cdef Py_ssize_t capacity
    cdef readonly Py_ssize_t count
    cpdef int clear(self) noexcept
    cpdef int push(self, Py_ssize_t offset, Py_ssize_t length) except -1
    cdef bint has(self, Py_ssize_t offset) noexcept


cdef enum:
    MOST_WORDS = 32
    MOST_KEPT = 256


cdef class Shape:
    cdef public Py_ssize_t length
    cdef unsigned char between[MOST_KEPT]
    cdef Py_ssize_t starts[MOST_WORDS + 1]
    cdef Py_ssize_t sizes[MOST_WORDS + 1]
    cdef Py_ssize_t count
    cdef Py_ssize_t kept
    cdef int forget(self) noexcept
    cdef int learn(self, const unsigned char *data, Py_ssize_t start, Py_ssize_t length, Spans spans, Py_ssize_t first) noexcept
    cdef bint keep(self, const unsigned char *frame, Py_ssize_t at, Py_ssize_t size) noexcept
    cdef Py_ssize_t alike(self, const unsigned char *data, Py_ssize_t start, Py_ssize_t end, Py_ssize_t most) noexcept
    cdef bint fits(self, const unsigned char *frame) noexcept


cdef class NameIndex:
    cdef list names
    cdef list values
    cdef Py_ssize_t mask
    cdef Py_ssize_t used
    cdef object find(self, const unsigned char *data, Py_ssize_t offset, Py_ssize_t length)


cdef Py_ssize_t line_end(const unsigned char *data, Py_ssize_t at, Py_ssize_t end) noexcept
cpdef int key_slot(const unsigned char *data, Py_ssize_t offset, Py_ssize_t length) noexcept
