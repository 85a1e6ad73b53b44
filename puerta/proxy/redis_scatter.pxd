cimport cython
from puerta.protocol.resp cimport Request
from puerta.protocol.spec cimport Spec
from puerta.protocol.span cimport Spans, key_slot, line_end
from puerta.proxy.redis_caller cimport Call, Caller, new_call
from puerta.proxy.redis_cluster cimport Cluster
from puerta.proxy.redis_gather cimport Gather
from puerta.proxy.redis_upstream cimport Upstream
from puerta.reactor.native cimport Buffer


@cython.locals(
    spans=Spans, step=cython.Py_ssize_t, name_at=cython.Py_ssize_t, name=bytes, head=bytes, found=Spans, gather=Gather,
    number=cython.Py_ssize_t, leg=Call, upstream=Upstream, before=cython.Py_ssize_t, groups=dict, group=list,
    index=cython.Py_ssize_t, slot=cython.int,
)
cdef int scatter(Caller session, Cluster cluster, Spec spec, Request request, const unsigned char *data, Py_ssize_t start) except -1
@cython.locals(upstream=Upstream)
cdef Upstream way(Cluster cluster, Gather gather, Call leg)
@cython.locals(index=cython.Py_ssize_t, before=cython.Py_ssize_t, slot=cython.int)
cdef int are_apart(Spans found, Spans spans, Py_ssize_t step, const unsigned char *data, Py_ssize_t start) except -1
@cython.locals(groups=dict, index=cython.Py_ssize_t)
cdef dict by_slot(Spans spans, Py_ssize_t step, const unsigned char *data, Py_ssize_t start)
@cython.locals(at=cython.Py_ssize_t, end=cython.Py_ssize_t)
cdef int put_key(Buffer log, Spans spans, Py_ssize_t index, Py_ssize_t step, const unsigned char *data, Py_ssize_t start) except -1
