"""The system calls and the memory under the loop, called directly. `native.py` is its twin in plain Python.

Whatever goes wrong in a call comes back as the negative errno, because on these paths EAGAIN is an everyday answer
and an exception for it would cost more than the call.
"""

import _socket
import os

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.errno cimport EAGAIN, ECONNABORTED, EINPROGRESS, EINTR, EPERM, EPROTO, errno
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memmove, memset

COMPILED = True

cdef extern from "sys/epoll.h" nogil:
    int EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_DEL
    unsigned int EPOLLIN, EPOLLOUT, EPOLLRDHUP, EPOLLET
    int epoll_create1(int flags)
    int epoll_ctl(int epfd, int op, int fd, epoll_event *event)
    int epoll_wait(int epfd, epoll_event *events, int most, int timeout)

cdef extern from "sys/socket.h" nogil:
    cdef struct sockaddr:
        pass
    cdef struct linger:
        int l_onoff
        int l_linger
    int SOCK_STREAM, SOCK_NONBLOCK, SOCK_CLOEXEC, SOL_SOCKET, SO_ERROR, SO_KEEPALIVE, SO_LINGER, SHUT_WR
    int MSG_NOSIGNAL, AF_INET, AF_INET6, AF_UNIX
    int c_socket "socket"(int family, int type, int protocol)
    int c_connect "connect"(int fd, const sockaddr *address, socklen_t length)
    int accept4(int fd, sockaddr *address, socklen_t *length, int flags)
    ssize_t recv(int fd, void *data, size_t size, int flags)
    ssize_t send(int fd, const void *data, size_t size, int flags)
    int shutdown(int fd, int how)
    int getsockopt(int fd, int level, int name, void *value, socklen_t *length)
    int setsockopt(int fd, int level, int name, const void *value, socklen_t length)

cdef extern from "netinet/in.h" nogil:
    cdef struct in_addr:
        unsigned int s_addr
    cdef struct in6_addr:
        unsigned char s6_addr[16]
    cdef struct sockaddr_in:
        unsigned short sin_family
        unsigned short sin_port
        in_addr sin_addr
    cdef struct sockaddr_in6:
        unsigned short sin6_family
        unsigned short sin6_port
        in6_addr sin6_addr
    int IPPROTO_TCP
    unsigned short htons(unsigned short value)
    unsigned short ntohs(unsigned short value)

cdef extern from "netinet/tcp.h" nogil:
    int TCP_NODELAY, TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_USER_TIMEOUT

cdef extern from "arpa/inet.h" nogil:
    const char *inet_ntop(int family, const void *source, char *text, socklen_t size)
    int inet_pton(int family, const char *text, void *target)

cdef extern from "sys/un.h" nogil:
    cdef struct sockaddr_un:
        unsigned short sun_family
        char sun_path[108]

cdef extern from "unistd.h" nogil:
    int c_close "close"(int fd)

cdef extern from "Python.h":
    ctypedef struct PyInterpreterState:
        pass
    ctypedef struct PyThreadState:
        pass
    PyInterpreterState *PyInterpreterState_Get()
    PyThreadState *PyInterpreterState_ThreadHead(PyInterpreterState *interpreter)
    PyThreadState *PyThreadState_Next(PyThreadState *state)

cdef extern from "time.h" nogil:
    cdef struct timespec:
        long tv_sec
        long tv_nsec
    int CLOCK_MONOTONIC
    int clock_gettime(int clock, timespec *value)


@cython.freelist(64)
cdef class Buffer:
    """Bytes on their way: filled from one socket, drained into another. `data[start:end]` is what it holds."""

    def __cinit__(self):
        self.data = NULL
        self.start = self.sent = self.end = self.capacity = 0

    def __dealloc__(self):
        free(self.data)

    cdef int reserve(self, Py_ssize_t room) except -1:
        """Make at least `room` bytes free behind `end`."""
        cdef Py_ssize_t held = self.end - self.start
        cdef Py_ssize_t wanted
        cdef void *grown
        if self.capacity - self.end >= room:
            return 0
        if self.start:
            if held:
                memmove(self.data, self.data + self.start, held)
            self.sent = max(0, self.sent - self.start)
            self.start = 0
            self.end = held
            if self.capacity - held >= room:
                return 0
        wanted = max(held + room, min(self.capacity * 2, self.capacity + (1 << 20)))
        grown = realloc(self.data, wanted)
        if grown == NULL:
            raise MemoryError
        self.data = <unsigned char *>grown
        self.capacity = wanted
        return 0

    cpdef Py_ssize_t size(self) noexcept:
        return self.end - self.start

    cpdef Py_ssize_t fill(self, int fd, Py_ssize_t room) except -9999:
        """Receive at most `room` bytes behind what is held. Returns their count, 0 at end of file, or -errno."""
        cdef ssize_t got
        self.reserve(room)
        while True:
            got = recv(fd, self.data + self.end, room, 0)
            if got >= 0:
                self.end += got
                return got
            if errno != EINTR:
                return -errno

    cpdef Py_ssize_t drain(self, int fd) noexcept:
        """Send what is held and keep what the socket did not take. Returns the bytes sent or -errno."""
        cdef ssize_t sent
        while True:
            sent = send(fd, self.data + self.start, self.end - self.start, MSG_NOSIGNAL)
            if sent >= 0:
                self.start += sent
                if self.start == self.end:
                    self.start = self.end = 0
                return sent
            if errno != EINTR:
                return -errno

    cpdef int append(self, bytes data) except -1:
        cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
        self.reserve(size)
        memcpy(self.data + self.end, PyBytes_AS_STRING(data), size)
        self.end += size
        return 0

    cdef int extend(self, const unsigned char *data, Py_ssize_t offset, Py_ssize_t length) except -1:
        """Append data[offset:offset+length]."""
        self.reserve(length)
        memcpy(self.data + self.end, data + offset, length)
        self.end += length
        return 0

    cpdef Py_ssize_t push(self, int fd) noexcept:
        """Send what has not been sent, but keep it until it is `skip`ped. Returns the bytes sent or -errno."""
        cdef ssize_t sent
        while True:
            sent = send(fd, self.data + self.sent, self.end - self.sent, MSG_NOSIGNAL)
            if sent >= 0:
                self.sent += sent
                return sent
            if errno != EINTR:
                return -errno

    cpdef Py_ssize_t unsent(self) noexcept:
        return self.end - self.sent

    cpdef int skip(self, Py_ssize_t length) noexcept:
        """Let go of the first `length` bytes held; an empty buffer begins anew."""
        self.start += length
        if self.start == self.end:
            self.start = self.sent = self.end = 0
        elif self.sent < self.start:
            self.sent = self.start
        return 0

    cpdef bytes peek(self, Py_ssize_t offset, Py_ssize_t length):
        """A copy of `length` bytes, `offset` behind the first one held."""
        return PyBytes_FromStringAndSize(<char *>self.data + self.start + offset, length)

    cpdef Buffer split(self):
        """Move what is held into a buffer of its own, just large enough."""
        cdef Buffer other = Buffer.__new__(Buffer)
        cdef Py_ssize_t held = self.end - self.start
        other.reserve(held)
        memcpy(other.data, self.data + self.start, held)
        other.end = held
        self.start = self.end = 0
        return other

    cpdef bytes take(self):
        """All that is held, as bytes; the buffer is empty afterwards."""
        cdef bytes data = PyBytes_FromStringAndSize(<char *>self.data + self.start, self.end - self.start)
        self.start = self.end = 0
        return data


cdef class Poller:
    """One epoll set. Whoever adds an owner keeps it alive until its descriptor is closed and the current batch is done."""

    def __cinit__(self):
        self.descriptor = epoll_create1(EPOLL_CLOEXEC)
        if self.descriptor < 0:
            raise OSError(errno, "epoll_create1")

    cpdef int fileno(self) noexcept:
        return self.descriptor

    cpdef int add(self, int fd, object owner, bint edge) except -1:
        """Watch `fd` for `owner`: both directions by edge, or (a listener) input by level."""
        cdef epoll_event event
        event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET if edge else EPOLLIN
        event.data.ptr = <void *>owner
        if epoll_ctl(self.descriptor, EPOLL_CTL_ADD, fd, &event) < 0:
            raise OSError(errno, "epoll_ctl")
        return 0

    cpdef int remove(self, int fd) except -1:
        """Stop watching a descriptor that stays open (a listener that pauses)."""
        cdef epoll_event event
        if epoll_ctl(self.descriptor, EPOLL_CTL_DEL, fd, &event) < 0:
            raise OSError(errno, "epoll_ctl")
        return 0

    cpdef int poll(self, int milliseconds=0) except -1:
        """Collect what is ready, waiting for it no longer than that; returns how many, for `owner` and `events`.

        A signal ends the wait: it returns 0.
        """
        cdef int count, error = 0
        if milliseconds and PyThreadState_Next(PyInterpreterState_ThreadHead(PyInterpreterState_Get())) != NULL:
            with nogil:  # another thread, as of a resolver, may want it; alone we are quicker with it
                count = epoll_wait(self.descriptor, self.ready, 512, milliseconds)
                error = errno
        else:
            count = epoll_wait(self.descriptor, self.ready, 512, milliseconds)
            error = errno
        if count < 0:
            if error == EINTR:
                return 0
            raise OSError(error, "epoll_wait")
        return count

    cpdef object owner(self, int index):
        return <object>self.ready[index].data.ptr

    cpdef unsigned int events(self, int index) noexcept:
        return self.ready[index].events

    cpdef close(self):
        c_close(self.descriptor)


cdef inline void set_option(int fd, int level, int name, int value) noexcept:
    setsockopt(fd, level, name, &value, sizeof(int))


cdef inline void tune(int fd) noexcept:
    set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1)
    set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1)
    set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, 60)
    set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, 10)


cpdef int keep_alive(int fd, int patience=30000) noexcept:
    """Probe a silent peer after a minute. With `patience`, give up on one that takes none of our bytes for so many milliseconds:

    it may have vanished, but it may also be busy, for the kernel counts the time that it does not read (tcp(7)).
    """
    tune(fd)
    set_option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, patience)
    return 0


def tune_listener(int fd):
    """Have every connection that this listener accepts send small writes at once and probe a peer that may have vanished.

    The kernel copies a listener's options to what it accepts. No TCP_USER_TIMEOUT here: a client may take its time to read.
    """
    tune(fd)  # in vain for a Unix socket, and harmless


cdef class Endpoint:
    """A resolved address to connect to. Raises ValueError for a host that is not an IP address (or a path)."""

    def __cinit__(self, str host, int port, str path=""):
        cdef bytes text = (path or host).encode()
        cdef sockaddr_in *four = <sockaddr_in *>&self.address
        cdef sockaddr_in6 *six = <sockaddr_in6 *>&self.address
        cdef sockaddr_un *local = <sockaddr_un *>&self.address
        memset(&self.address, 0, sizeof(self.address))
        if path:
            if len(text) > 107:
                raise ValueError(f"{path}: the path is too long for a Unix socket")
            self.family, self.length = AF_UNIX, sizeof(sockaddr_un)
            memcpy(local.sun_path, PyBytes_AS_STRING(text), len(text))
        elif inet_pton(AF_INET, text, &four.sin_addr) == 1:
            self.family, self.length = AF_INET, sizeof(sockaddr_in)
            four.sin_port = htons(port)
        elif inet_pton(AF_INET6, text, &six.sin6_addr) == 1:
            self.family, self.length = AF_INET6, sizeof(sockaddr_in6)
            six.sin6_port = htons(port)
        else:
            raise ValueError(f"{host}: not an IP address")
        self.address.ss_family = self.family

    cpdef int connect(self) noexcept:
        """Begin a connection; returns its descriptor (it is usable once it reports writable), or -errno."""
        cdef int fd = c_socket(self.family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
        cdef int error
        if fd < 0:
            return -errno
        if self.family != AF_UNIX:
            set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1)
        if c_connect(fd, <sockaddr *>&self.address, self.length) < 0 and errno != EINPROGRESS:
            error = errno
            c_close(fd)
            return -error
        return fd


cdef str dotted(const unsigned char *octets):
    """An IPv4 address in text; inet_ntop goes through printf."""
    cdef char text[16]
    cdef int length = 0
    cdef int index, octet
    for index in range(4):
        octet = octets[index]
        if octet >= 100:
            text[length] = 48 + octet // 100
            length += 1
        if octet >= 10:
            text[length] = 48 + octet // 10 % 10
            length += 1
        text[length] = 48 + octet % 10
        text[length + 1] = 46  # "."
        length += 2
    return text[: length - 1].decode("ascii")


cpdef object accept(int fd):
    """The next waiting connection as (descriptor, host, port), None when nobody waits, or the negative errno.

    The descriptor is non-blocking and close-on-exec. A Unix socket's peer is ("unix", 0).
    """
    cdef sockaddr_storage address
    cdef socklen_t length = sizeof(address)
    cdef char text[64]
    cdef int accepted
    while True:
        accepted = accept4(fd, <sockaddr *>&address, &length, SOCK_NONBLOCK | SOCK_CLOEXEC)
        if accepted >= 0:
            break
        if errno == EAGAIN:
            return None
        if errno not in (EINTR, ECONNABORTED, EPROTO, EPERM):
            return -errno
    if address.ss_family == AF_INET:
        host = dotted(<const unsigned char *>&(<sockaddr_in *>&address).sin_addr)
        return accepted, host, ntohs((<sockaddr_in *>&address).sin_port)
    if address.ss_family == AF_INET6:
        inet_ntop(AF_INET6, &(<sockaddr_in6 *>&address).sin6_addr, text, sizeof(text))
        return accepted, (<bytes>text).decode("ascii"), ntohs((<sockaddr_in6 *>&address).sin6_port)
    return accepted, "unix", 0


cpdef int connect_error(int fd) noexcept:
    """How a connect that was in progress ended: 0, or its errno."""
    cdef int error = 0
    cdef socklen_t length = sizeof(int)
    if getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length) < 0:
        return errno
    return error


cpdef int send_bytes(int fd, bytes data) noexcept:
    """Send once; returns how many bytes the socket took, or -errno."""
    cdef ssize_t sent = send(fd, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), MSG_NOSIGNAL)
    return sent if sent >= 0 else -errno


def local_address(int fd):
    """The (host, port) a connection was made to; ("unix", 0) for a Unix socket."""
    handle = _socket.socket(fileno=fd)
    try:
        address = handle.getsockname()
    finally:
        handle.detach()
    return address[:2] if isinstance(address, tuple) else ("unix", 0)


def error_text(int error):
    """An errno in words."""
    return os.strerror(error)


cdef Py_ssize_t send_span(int fd, const unsigned char *data, Py_ssize_t start, Py_ssize_t length) noexcept:
    """Send data[start:start+length] once; returns how many bytes the socket took, or -errno."""
    cdef ssize_t sent = send(fd, data + start, length, MSG_NOSIGNAL)
    return sent if sent >= 0 else -errno


cpdef int shutdown_write(int fd) noexcept:
    return shutdown(fd, SHUT_WR)


cpdef int close_fd(int fd) noexcept:
    return c_close(fd)


cpdef int abort_fd(int fd) noexcept:
    """Close so that the peer sees a reset: it must not take what it got for complete."""
    cdef linger none
    none.l_onoff, none.l_linger = 1, 0
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &none, sizeof(none))
    return c_close(fd)


cpdef double now() noexcept:
    """Seconds of the monotonic clock."""
    cdef timespec value
    clock_gettime(CLOCK_MONOTONIC, &value)
    return value.tv_sec + value.tv_nsec * 1e-9
