cimport cython
from puerta.reactor.loop cimport Channel
from puerta.reactor.native cimport accept, close_fd


cdef class Acceptor(Channel):
    cdef public object route
    cdef public object seat
    cdef public object make
    cdef public Py_ssize_t most
    cdef public bint accepting
    cdef public double paused_until
    cdef public double complained
    cpdef on_event(self, unsigned int events)
