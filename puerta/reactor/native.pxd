cdef extern from "sys/epoll.h" nogil:
    ctypedef union epoll_data_t:
        void *ptr
    cdef struct epoll_event:
        unsigned int events
        epoll_data_t data

cdef extern from "sys/socket.h" nogil:
    cdef struct sockaddr_storage:
        unsigned short ss_family
    ctypedef unsigned int socklen_t


cdef class Buffer:
    cdef unsigned char *data
    cdef Py_ssize_t start
    cdef Py_ssize_t sent
    cdef Py_ssize_t end
    cdef Py_ssize_t capacity
    cdef int reserve(self, Py_ssize_t room) except -1
    cpdef Py_ssize_t size(self) noexcept
    cpdef Py_ssize_t fill(self, int fd, Py_ssize_t room) except -9999
    cpdef Py_ssize_t drain(self, int fd) noexcept
    cpdef int append(self, bytes data) except -1
    cdef int extend(self, const unsigned char *data, Py_ssize_t offset, Py_ssize_t length) except -1
    cpdef Py_ssize_t push(self, int fd) noexcept
    cpdef Py_ssize_t unsent(self) noexcept
    cpdef int skip(self, Py_ssize_t length) noexcept
    cpdef bytes peek(self, Py_ssize_t offset, Py_ssize_t length)
    cpdef Buffer split(self)
    cpdef bytes take(self)


cdef class Poller:
    cdef int descriptor
    cdef epoll_event ready[512]
    cpdef int fileno(self) noexcept
    cpdef int add(self, int fd, object owner, bint edge) except -1
    cpdef int remove(self, int fd) except -1
    cpdef int poll(self, int milliseconds=*) except -1
    cpdef object owner(self, int index)
    cpdef unsigned int events(self, int index) noexcept
    cpdef close(self)


cdef class Endpoint:
    cdef sockaddr_storage address
    cdef socklen_t length
    cdef int family
    cpdef int connect(self) noexcept


cpdef object accept(int fd)
cpdef int connect_error(int fd) noexcept
cpdef int keep_alive(int fd, int patience=*) noexcept
cpdef int send_bytes(int fd, bytes data) noexcept
cdef Py_ssize_t send_span(int fd, const unsigned char *data, Py_ssize_t start, Py_ssize_t length) noexcept
cpdef int shutdown_write(int fd) noexcept
cpdef int close_fd(int fd) noexcept
cpdef int abort_fd(int fd) noexcept
cpdef double now() noexcept
