cimport cython
from puerta.protocol.span cimport Spans
from puerta.proxy.redis_caller cimport Call
from puerta.proxy.redis_latencies cimport Latencies
from puerta.proxy.redis_slots cimport SlotMap
from puerta.proxy.redis_upstream cimport Tally, Upstream


cdef class Node:
    cdef public str id
    cdef public str host
    cdef public int port
    cdef public object endpoint
    cdef public Upstream resp2
    cdef public Upstream resp3
    cdef public bint replica
    cdef public list heirs
    cdef public list replicas
    cdef public list idle
    cdef public double failed_until
    cdef public double backoff
    cdef public double complained
    cdef public double deposed
    cdef public double gone
    cdef public Py_ssize_t turn
    cdef public int cell
    cdef public Py_ssize_t connections
    cdef public Py_ssize_t in_flight
    cdef public Tally tally


cdef class Cluster:
    cdef public SlotMap slots
    cdef public dict nodes
    cdef public object found_masters
    cdef public dict learned
    cdef public Spans found
    cdef public object loop
    cdef public object route
    cdef public object config
    cdef public Latencies latencies
    cdef public Py_ssize_t most
    cdef public bint reads_replicas
    cdef public set connections
    cdef public object schedule
    cdef public object resolve
    cdef public object again
    cdef public Py_ssize_t ticks
    cdef public Py_ssize_t shared_resp2
    cdef public Py_ssize_t shared_resp3
    @cython.locals(node=Node, upstream=Upstream)
    cdef Upstream shared(self, int slot, int protocol, bint readonly)
    cdef Upstream shared_reader(self, Node master, int protocol)
    cpdef open(self, Node node, int protocol)
    cpdef measure(self, Call call)
