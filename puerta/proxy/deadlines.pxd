cdef class Deadlines:
    cdef public object expire
    cdef public double seconds
    cdef public dict waiting
    cpdef start(self, object item, double now)
    cpdef stop(self, object item)
