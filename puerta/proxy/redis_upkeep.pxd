cimport cython
from puerta.proxy.redis_caller cimport Call
from puerta.proxy.redis_cluster cimport Cluster, Node
from puerta.proxy.redis_upstream cimport Upstream


@cython.locals(upstream=Upstream)
cpdef tick(Cluster cluster, double now)

@cython.locals(node=Node, upstream=Upstream)
cpdef look_over(Cluster cluster)

@cython.locals(call=Call)
cdef time_out(Cluster cluster, Upstream upstream, double now)

@cython.locals(node=Node, call=Call)
cdef time_out_pinned(Cluster cluster, Upstream upstream, double now)
