from puerta.reactor.relay cimport Side


cdef class Session:
    cdef public object route
    cdef public object backend
    cdef public object key
    cdef public Side client
    cdef public Side upstream
    cdef public Side first_to_end
    cdef public str host
    cdef public str found
    cdef public object policy
    cdef public object server
    cdef public bytes head
    cdef public tuple tried
    cdef public int port
    cdef public bint announced
    cdef public bint relaying
    cdef public bint ended
    cdef public bint placing
    cdef public double opened
    cdef public double placed_at
    cdef public double dialled
    cdef public double connected
