cdef class Spans:
    cdef Py_ssize_t *offsets
    cdef Py_ssize_t *lengths
    cdef Py_ssize_t capacity
    cdef readonly Py_ssize_t count
    cpdef int clear(self) noexcept
    cpdef int push(self, Py_ssize_t offset, Py_ssize_t length) except -1


cdef class NameIndex:
    cdef list names
    cdef list values
    cdef Py_ssize_t mask
    cdef Py_ssize_t used
    cdef object find(self, const unsigned char *data, Py_ssize_t offset, Py_ssize_t length)


cdef Py_ssize_t line_end(const unsigned char *data, Py_ssize_t at, Py_ssize_t end) noexcept
cpdef int key_slot(const unsigned char *data, Py_ssize_t offset, Py_ssize_t length) noexcept
