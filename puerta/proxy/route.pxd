from puerta.proxy.affinity cimport Affinity
from puerta.proxy.backend cimport Backend
from puerta.proxy.deadlines cimport Deadlines
from puerta.reactor.loop cimport Loop
from puerta.reactor.relay cimport Meter


cdef class Route:
    cdef public object config
    cdef public Loop loop
    cdef public object access
    cdef public object name
    cdef public object limits
    cdef public list backends
    cdef public Affinity affinity
    cdef public set sessions
    cdef public dict first_messages
    cdef public dict keys
    cdef public object announcers
    cdef public object announces
    cdef public Py_ssize_t accepted
    cdef public dict ended
    cdef public dict found
    cdef public Meter bytes_in
    cdef public Meter bytes_out
    cdef public Deadlines handshakes
    cdef public Deadlines connects
    cdef public Deadlines young
    cdef public object cells
    cdef public object table
    cdef public object at
    cdef public Py_ssize_t others
    cdef public Py_ssize_t most
    cdef public Py_ssize_t read_most
    cdef public double swept
    cpdef bint full(self) except -1
    cpdef opened(self, object session)
    cpdef closed(self, object session, str reason)
