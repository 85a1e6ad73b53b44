cimport cython
from puerta.protocol.request cimport Request
from puerta.protocol.span cimport NameIndex, Spans, key_slot
from puerta.protocol.spec cimport Spec
from puerta.proxy.redis_caller cimport Call, Caller, new_call
from puerta.proxy.redis_cluster cimport Cluster
from puerta.proxy.redis_upstream cimport Upstream

cdef enum:
    KEYED = 0
    SPLIT = 1


@cython.locals(spec=Spec, arity=cython.Py_ssize_t)
cdef Spec usual(NameIndex index, Spans spans, const unsigned char *data, Py_ssize_t start)
@cython.locals(
    spans=Spans, length=cython.Py_ssize_t, offset=cython.Py_ssize_t, size=cython.Py_ssize_t, taken=cython.Py_ssize_t,
    slot=cython.int, upstream=Upstream, call=Call,
)
cdef Py_ssize_t forward_run(
    Caller session, Cluster cluster, Spec spec, Request request, const unsigned char *data, Py_ssize_t start, Py_ssize_t run
) except -1
@cython.locals(at=cython.Py_ssize_t, last=cython.Py_ssize_t)
cdef bint in_one(int slot, Spec spec, Spans spans, const unsigned char *data, Py_ssize_t start)
