cimport cython
from puerta.protocol.request cimport Request
from puerta.protocol.resp cimport head
from puerta.protocol.spec cimport Spec
from puerta.protocol.span cimport Spans, key_slot, line_end
from puerta.proxy.redis_caller cimport Call, Caller, new_call
from puerta.proxy.redis_cluster cimport Cluster
from puerta.proxy.redis_gather cimport Gather, new_gather
from puerta.proxy.redis_upstream cimport Upstream
from puerta.reactor.native cimport Buffer


@cython.locals(
    spans=Spans, step=cython.Py_ssize_t, found=Spans, apart=cython.bint, positions=list, gather=Gather, number=cython.Py_ssize_t,
    after=cython.Py_ssize_t, slot=cython.int, leg=Call, upstream=Upstream, length=cython.Py_ssize_t,
    words=cython.Py_ssize_t, begun=bytes, index=cython.Py_ssize_t, at=cython.Py_ssize_t,
)
cdef int scatter(Caller session, Cluster cluster, Spec spec, Request request, const unsigned char *data, Py_ssize_t start) except -1
@cython.locals(data=bytes, request=Request)
cpdef int split(Caller session, Spec spec, list arguments) except -1
@cython.locals(index=cython.Py_ssize_t, slot=cython.int)
cdef int are_apart(Spans found, Spans spans, Py_ssize_t step, const unsigned char *data, Py_ssize_t start) except -1
@cython.locals(groups=dict, index=cython.Py_ssize_t, slot=cython.int, group=list)
cdef int by_slot(Spans found, Spans spans, Py_ssize_t step, const unsigned char *data, Py_ssize_t start) except -1
@cython.locals(at=cython.Py_ssize_t)
cdef bytes beginning(Spans spans, Py_ssize_t words, const unsigned char *data, Py_ssize_t start)
