"""What a turn has to send, sent with one system call where the kernel lets us: through an io_uring (io_uring(7)).

Not for the calls that are saved. Whoever gets bytes is woken, and the kernel may let it run before our `send` returns; so a
worker that sends to twenty peers is interrupted up to twenty times, and each finds little to do. Sent together, all of them
are ready before the first one runs. `outbox.py` is the twin in plain Python, which sends one by one, as this does without a ring.

Every send is told not to wait, so it is over when the call returns: nothing is ever left in flight, and a socket that is full
says so with EAGAIN and by an event of epoll, as always.
"""

from libc.errno cimport EINTR, ENOMEM, EOPNOTSUPP, errno
from libc.stdlib cimport free, realloc
from libc.string cimport memset

from puerta.reactor.native cimport Buffer, close_fd

cdef extern from *:
    """
    #include <stdint.h>
    #include <sys/mman.h>
    #include <sys/socket.h>
    #include <unistd.h>

    /* The kernel's interface (io_uring_setup(2), io_uring_enter(2)), which never changes; not every system has its header. */
    struct ring_sq_offsets { uint32_t head, tail, ring_mask, ring_entries, flags, dropped, array, resv1; uint64_t user_addr; };
    struct ring_cq_offsets { uint32_t head, tail, ring_mask, ring_entries, overflow, cqes, flags, resv1; uint64_t user_addr; };
    struct ring_params {
        uint32_t sq_entries, cq_entries, flags, sq_thread_cpu, sq_thread_idle, features, wq_fd, resv[3];
        struct ring_sq_offsets sq_off;
        struct ring_cq_offsets cq_off;
    };
    struct ring_entry {
        uint8_t opcode, flags;
        uint16_t ioprio;
        int32_t fd;
        uint64_t off, addr;
        uint32_t len, msg_flags;
        uint64_t user_data, pad[3];
    };
    struct ring_completion { uint64_t user_data; int32_t res; uint32_t flags; };
    #define RING_SETUP 425
    #define RING_ENTER 426
    #define RING_OP_SEND 26
    #define RING_AT_SQ_ENTRIES 0x10000000
    #define RING_ENTER_GETEVENTS 1
    /* One mapping for both rings, and workers as of Linux 5.12: since then a ring counts against no limit of locked memory. */
    #define RING_FEATURES ((1u << 0) | (1u << 9))
    #define load_acquire(place) __atomic_load_n(place, __ATOMIC_ACQUIRE)
    #define store_release(place, value) __atomic_store_n(place, value, __ATOMIC_RELEASE)
    """
    cdef struct ring_sq_offsets:
        unsigned int head, tail, ring_mask, array
    cdef struct ring_cq_offsets:
        unsigned int head, tail, ring_mask, cqes
    cdef struct ring_params:
        unsigned int sq_entries, cq_entries, features
        ring_sq_offsets sq_off
        ring_cq_offsets cq_off
    cdef struct ring_entry:
        unsigned char opcode
        int fd
        unsigned long long addr, user_data
        unsigned int len, msg_flags
    cdef struct ring_completion:
        unsigned long long user_data
        int res
    long RING_SETUP, RING_ENTER
    unsigned int RING_FEATURES, RING_ENTER_GETEVENTS
    unsigned char RING_OP_SEND
    long RING_AT_SQ_ENTRIES
    unsigned int load_acquire(unsigned int *place) nogil
    void store_release(unsigned int *place, unsigned int value) nogil
    long syscall(long number, ...) nogil
    void *mmap(void *address, size_t length, int protection, int flags, int fd, long offset)
    int munmap(void *address, size_t length)
    ssize_t c_send "send"(int fd, const void *data, size_t size, int flags)
    int PROT_READ, PROT_WRITE, MAP_SHARED, MAP_POPULATE, MSG_NOSIGNAL, MSG_DONTWAIT
    void *MAP_FAILED


cdef Py_ssize_t send_one(Letter *letter) noexcept:
    cdef ssize_t sent
    while True:
        sent = c_send(letter.fd, letter.data, letter.size, MSG_NOSIGNAL | MSG_DONTWAIT)
        if sent >= 0:
            return sent
        if errno != EINTR:
            return -errno


cdef class Outbox:
    """Buffers, each for a socket. `refusal` is the errno for which there is no ring, or 0."""

    def __cinit__(self, bint together=True):
        self.letters = NULL
        self.count = self.room = 0
        self.ring = None
        self.refusal = 0
        if together:
            ring = Ring()
            self.refusal = ring.open()
            if self.refusal == 0:
                self.ring = ring

    def __dealloc__(self):
        free(self.letters)

    cpdef int add(self, int fd, Buffer buffer) except -1:
        """Send what the buffer holds and was not sent; None: nothing. Whoever adds it keeps it alive, and as it is, until `send`."""
        cdef Letter *letter
        if self.count == self.room:
            letter = <Letter *>realloc(self.letters, (self.room + ROOM) * sizeof(Letter))
            if letter == NULL:
                raise MemoryError
            self.letters = letter
            self.room += ROOM
        letter = &self.letters[self.count]
        self.count += 1
        letter.buffer = <void *>buffer
        if buffer is None:
            letter.fd, letter.data, letter.size = -1, NULL, 0
        else:
            letter.fd = fd
            letter.data = buffer.data + buffer.sent
            letter.size = buffer.end - buffer.sent
        return 0

    cpdef int send(self) noexcept:
        """Send everything, and begin anew; `result` then tells of each, in the order in which they were added."""
        cdef Py_ssize_t count = self.count
        cdef Py_ssize_t done = 0
        cdef Py_ssize_t taken = 1
        cdef Letter *letter
        self.count = 0
        if self.ring is not None and count > 1:
            while taken and done < count:
                taken = self.ring.send(self.letters + done, min(count - done, <Py_ssize_t>ROOM))
                done += taken
        while done < count:
            self.letters[done].result = send_one(&self.letters[done])
            done += 1
        for done in range(count):
            letter = &self.letters[done]
            if letter.result > 0:
                (<Buffer>letter.buffer).sent += letter.result
        return 0

    cpdef Py_ssize_t result(self, Py_ssize_t index) noexcept:
        """The bytes that the socket took, or -errno."""
        return self.letters[index].result

    cpdef close(self):
        if self.ring is not None:
            self.ring.close()
            self.ring = None


cdef class Ring:
    """One io_uring, for sends only."""

    def __cinit__(self):
        self.descriptor = -1
        self.rings = self.entries = NULL

    def __dealloc__(self):
        self.close()

    cdef int open(self) except -1:
        """Returns 0, or the errno for which there is none: ENOSYS, EPERM where it is forbidden, EOPNOTSUPP for an old kernel."""
        cdef ring_params params
        cdef unsigned int *array
        cdef unsigned int index
        memset(&params, 0, sizeof(params))
        self.descriptor = syscall(RING_SETUP, <unsigned int>ROOM, &params)
        if self.descriptor < 0:
            return errno
        if params.features & RING_FEATURES != RING_FEATURES:
            self.close()
            return EOPNOTSUPP
        self.rings_size = max(
            params.sq_off.array + params.sq_entries * sizeof(unsigned int),
            params.cq_off.cqes + params.cq_entries * sizeof(ring_completion),
        )
        self.entries_size = params.sq_entries * sizeof(ring_entry)
        self.rings = self.map(self.rings_size, 0)
        self.entries = self.map(self.entries_size, RING_AT_SQ_ENTRIES)
        if self.rings == NULL or self.entries == NULL:
            self.close()
            return ENOMEM
        self.sq_head = <unsigned int *>(<char *>self.rings + params.sq_off.head)
        self.sq_tail = <unsigned int *>(<char *>self.rings + params.sq_off.tail)
        self.sq_mask = (<unsigned int *>(<char *>self.rings + params.sq_off.ring_mask))[0]
        self.cq_head = <unsigned int *>(<char *>self.rings + params.cq_off.head)
        self.cq_tail = <unsigned int *>(<char *>self.rings + params.cq_off.tail)
        self.cq_mask = (<unsigned int *>(<char *>self.rings + params.cq_off.ring_mask))[0]
        self.completions = <char *>self.rings + params.cq_off.cqes
        array = <unsigned int *>(<char *>self.rings + params.sq_off.array)
        for index in range(params.sq_entries):
            array[index] = index
        return 0

    cdef void *map(self, size_t size, long what) noexcept:
        cdef void *place = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, self.descriptor, what)
        return NULL if place == MAP_FAILED else place

    cdef Py_ssize_t send(self, Letter *letters, Py_ssize_t count) noexcept:
        """Send up to ROOM letters and write their results. Returns how many, from the first on, the kernel took."""
        cdef unsigned int tail = self.sq_tail[0]
        cdef unsigned int begun = tail
        cdef ring_entry *entry
        cdef Py_ssize_t index, taken, answered
        for index in range(count):
            entry = <ring_entry *>self.entries + (tail & self.sq_mask)
            memset(entry, 0, sizeof(ring_entry))
            entry.opcode = RING_OP_SEND
            entry.fd = letters[index].fd
            entry.addr = <unsigned long long>letters[index].data
            entry.len = <unsigned int>min(letters[index].size, <size_t>MOST)
            entry.msg_flags = MSG_NOSIGNAL | MSG_DONTWAIT
            entry.user_data = index
            tail += 1
        store_release(self.sq_tail, tail)
        syscall(RING_ENTER, self.descriptor, <unsigned int>count, 0, 0, NULL, 0)
        taken = <int>(load_acquire(self.sq_head) - begun)  # modulo 2**32, as the counters are
        if taken < count:  # short of memory, or of something else: the rest is sent without a ring
            store_release(self.sq_tail, begun + taken)
        answered = self.reap(letters)
        while answered < taken:  # it has never been seen; but a result that is not there must not be made up
            syscall(RING_ENTER, self.descriptor, 0, <unsigned int>(taken - answered), RING_ENTER_GETEVENTS, NULL, 0)
            answered += self.reap(letters)
        return taken

    cdef Py_ssize_t reap(self, Letter *letters) noexcept:
        """Write the results that have come; returns how many."""
        cdef unsigned int head = self.cq_head[0]
        cdef unsigned int tail = load_acquire(self.cq_tail)
        cdef ring_completion *completion
        cdef Py_ssize_t count = 0
        while head != tail:
            completion = <ring_completion *>self.completions + (head & self.cq_mask)
            letters[completion.user_data].result = completion.res
            head += 1
            count += 1
        store_release(self.cq_head, head)
        return count

    cpdef close(self):
        if self.entries != NULL:
            munmap(self.entries, self.entries_size)
        if self.rings != NULL:
            munmap(self.rings, self.rings_size)
        self.entries = self.rings = NULL
        if self.descriptor >= 0:
            close_fd(self.descriptor)
        self.descriptor = -1
