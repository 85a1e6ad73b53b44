from puerta.reactor.native cimport Buffer


cdef enum:
    ROOM = 128  # sends in one system call
    MOST = 1 << 30  # bytes of one of them: the kernel's own limit is a little under 2 GiB


cdef struct Letter:
    int fd
    Py_ssize_t result
    void *buffer
    const unsigned char *data
    size_t size


cdef class Outbox:
    cdef Ring ring
    cdef Letter *letters
    cdef Py_ssize_t count
    cdef Py_ssize_t room
    cdef readonly int refusal
    cpdef int add(self, int fd, Buffer buffer) except -1
    cpdef int send(self) noexcept
    cpdef Py_ssize_t result(self, Py_ssize_t index) noexcept
    cpdef close(self)


cdef class Ring:
    cdef int descriptor
    cdef void *rings
    cdef size_t rings_size
    cdef void *entries
    cdef size_t entries_size
    cdef unsigned int *sq_head
    cdef unsigned int *sq_tail
    cdef unsigned int sq_mask
    cdef unsigned int *cq_head
    cdef unsigned int *cq_tail
    cdef unsigned int cq_mask
    cdef void *completions
    cdef int open(self) except -1
    cdef void *map(self, size_t size, long what) noexcept
    cdef Py_ssize_t send(self, Letter *letters, Py_ssize_t count) noexcept
    cdef Py_ssize_t reap(self, Letter *letters) noexcept
    cpdef close(self)
