cimport cython
from puerta.proxy.backend cimport Backend, candidates


cdef class Binding:
    cdef public Backend backend
    cdef public object confirmed
    cdef public set sessions


cdef class Affinity:
    cdef public object route
    cdef public list backends
    cdef public double ttl
    cdef public Py_ssize_t cache
    cdef public object store
    cdef public dict by_id
    cdef public object propose
    cdef public dict live
    cdef public dict idle
    cdef public dict asking
    cdef public dict overtaken
    cdef public object touched
    cdef public list due
    cdef public double next_look
    cdef public object doubted
    cdef public object clock
    @cython.locals(binding=Binding)
    cpdef Backend find(self, bytes key)
    cpdef Binding known(self, bytes key)
    @cython.locals(binding=Binding)
    cpdef bint attach(self, bytes key, object session, Backend backend) except -1
    @cython.locals(binding=Binding)
    cpdef detach(self, bytes key, object session)
