cdef class Spec:
    cdef public bytes name
    cdef public Py_ssize_t index
    cdef public int kind
    cdef public Py_ssize_t arity
    cdef public Py_ssize_t first
    cdef public Py_ssize_t last
    cdef public Py_ssize_t step
    cdef public bint readonly
    cdef public bint write
    cdef public bint blocking
    cdef public object finder
    cdef public bytes handler
    cdef public int aggregate
    cdef public bytes reason
    cdef public dict subcommands
