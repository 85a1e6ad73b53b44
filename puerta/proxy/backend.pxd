from puerta.reactor.native cimport Endpoint


cdef class Backend:
    cdef public object cells
    cdef public object connect_us
    cdef public object connections
    cdef public Py_ssize_t dialling
    cdef public object downs
    cdef public Endpoint endpoint
    cdef public object failures
    cdef public str id
    cdef public Py_ssize_t made
    cdef public double making
    cdef public Py_ssize_t others
    cdef public object resolved
    cdef public set sessions
    cdef public double share
    cdef public int state
    cdef public double suspect_until
    cdef public object table
    cdef public object total
    cdef public double turn
    cdef public object verdict
    cdef public object weight
    cpdef reached(self, double seconds)
    cpdef bint usable(self, double now) except -1
    cpdef bint open_to_new(self, double now) except -1


cpdef list candidates(list backends, double now, tuple tried=*)
