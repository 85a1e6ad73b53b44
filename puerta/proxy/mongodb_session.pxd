from puerta.proxy.session cimport Session


cdef class MongodbSession(Session):
    cdef public object first
    cpdef bint parse_first_message(self) except -1
    cpdef identify(self)
