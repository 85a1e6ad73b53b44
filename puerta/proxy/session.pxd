cimport cython
from puerta.proxy.affinity cimport Affinity
from puerta.proxy.backend cimport Backend, candidates
from puerta.proxy.route cimport Route
from puerta.reactor.native cimport Buffer
from puerta.reactor.relay cimport Owner, Side, join


cdef enum:
    BROKEN = 0x18  # EPOLLERR | EPOLLHUP
    READABLE = 0x2019  # EPOLLIN | EPOLLRDHUP | BROKEN
    ENDING = 0x2010  # EPOLLRDHUP | EPOLLHUP
    AGAIN = -11  # -EAGAIN
    EPOLLERR = 0x8


cdef class Session(Owner):
    cdef public Route route
    cdef public Backend backend
    cdef public bytes key
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
    cpdef begin(self)
    cpdef bint expects_proxy_header(self) except -1
    cpdef on_event(self, Side side, unsigned int events)
    @cython.locals(scratch=Buffer, room=cython.Py_ssize_t, got=cython.Py_ssize_t)
    cpdef read_head(self, bint ending)
    cpdef parse_head(self)
    cpdef bint parse_proxy_header(self) except -1
    cpdef bint parse_first_message(self) except -1
    cpdef identify(self)
    @cython.locals(known=dict, who=tuple, key=bytes)
    cpdef bytes affinity_key(self, bytes application, bytes server_name)
    @cython.locals(affinity=Affinity, backend=Backend)
    cpdef place(self)
    cpdef Backend without_affinity(self)
    cpdef on_placed(self, Backend backend, str found)
    @cython.locals(route=Route, now=cython.double, fd=cython.int, upstream=Side)
    cpdef dial(self, Backend backend)
    cpdef on_dialled(self, unsigned int events)
    cpdef bint may_stay(self) except -1
    cpdef drop_upstream(self)
    cpdef connect_failed(self, int error)
    cpdef place_again(self, double now)
    @cython.locals(route=Route, backend=Backend, upstream=Side, head=bytes)
    cpdef start_relay(self)
    cpdef bytes proxy_header(self)
    cpdef on_half(self, Side side)
    cpdef on_end(self, Side side, int error)
    @cython.locals(route=Route, backend=Backend, upstream=Side)
    cpdef end(self, str reason)
    @cython.locals(side=Side)
    cdef let_go(self, Side side)
