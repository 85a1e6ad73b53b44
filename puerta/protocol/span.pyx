"""Spans: places in a buffer, and what is found there without making an object of it. `span.py` is the twin in plain Python."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdlib cimport free, realloc
from libc.string cimport memchr, memcmp, memcpy

cdef unsigned short CRC[4][256]
"""CRC[n][byte]: what a byte is worth with n others behind it."""


cdef void make_crc_tables() noexcept:
    """CRC16/XMODEM, polynomial 0x1021 (Redis Cluster specification, appendix A)."""
    cdef int byte, bit, behind
    cdef unsigned int value
    for byte in range(256):
        value = byte << 8
        for bit in range(8):
            value = ((value << 1) ^ 0x1021 if value & 0x8000 else value << 1) & 0xFFFF
        CRC[0][byte] = value
    for behind in range(1, 4):
        for byte in range(256):
            value = CRC[behind - 1][byte]
            CRC[behind][byte] = ((value << 8) ^ CRC[0][value >> 8]) & 0xFFFF


make_crc_tables()


cdef class Spans:
    """A growing list of (offset, length)."""

    def __cinit__(self):
        self.offsets = self.lengths = NULL
        self.capacity = self.count = 0

    def __dealloc__(self):
        free(self.offsets)
        free(self.lengths)

    cpdef int clear(self) noexcept:
        self.count = 0
        return 0

    cpdef int push(self, Py_ssize_t offset, Py_ssize_t length) except -1:
        cdef Py_ssize_t wanted
        cdef Py_ssize_t *grown
        if self.count == self.capacity:
            wanted = max(16, self.capacity * 2)
            grown = <Py_ssize_t *>realloc(self.offsets, wanted * sizeof(Py_ssize_t))
            if grown == NULL:
                raise MemoryError
            self.offsets = grown
            grown = <Py_ssize_t *>realloc(self.lengths, wanted * sizeof(Py_ssize_t))
            if grown == NULL:
                raise MemoryError
            self.lengths = grown
            self.capacity = wanted
        self.offsets[self.count] = offset
        self.lengths[self.count] = length
        self.count += 1
        return 0

    cdef bint has(self, Py_ssize_t offset) noexcept:
        cdef Py_ssize_t index
        for index in range(self.count):
            if self.offsets[index] == offset:
                return True
        return False


cdef class Shape:
    """Where the words of a frame stand, and what is between them: most have the shape of the one before.

    `length` is that of the whole frame, 0 when no shape is known.
    """

    cdef int forget(self) noexcept:
        self.length = 0
        return 0

    cdef int learn(self, const unsigned char *data, Py_ssize_t start, Py_ssize_t length, Spans spans, Py_ssize_t first) noexcept:
        """This is the frame data[start:start+length] with its words `spans`, of which those from number `first` on may differ."""
        cdef Py_ssize_t at = 0
        cdef Py_ssize_t index
        self.count = self.kept = 0
        self.forget()
        if spans.count > MOST_WORDS:
            return 0
        for index in range(first, spans.count):
            if not self.keep(data + start, at, spans.offsets[index] - at):
                return 0
            at = spans.offsets[index] + spans.lengths[index]
        if at < length - 2 and not self.keep(data + start, at, length - at):
            return 0
        self.length = length
        return 0

    cdef bint keep(self, const unsigned char *frame, Py_ssize_t at, Py_ssize_t size) noexcept:
        """These bytes are to be the same; False: they are more than can be kept."""
        if size > MOST_KEPT - self.kept:
            return False
        memcpy(self.between + self.kept, frame + at, size)
        self.starts[self.count] = at
        self.sizes[self.count] = size
        self.count += 1
        self.kept += size
        return True

    cdef Py_ssize_t alike(self, const unsigned char *data, Py_ssize_t start, Py_ssize_t end, Py_ssize_t most) noexcept:
        """How many whole frames of this shape follow one another from data[start] on, or so many as that."""
        cdef Py_ssize_t found = 0
        if self.length:
            while found < most and self.length <= end - start and self.fits(data + start):
                found += 1
                start += self.length
        return found

    cdef inline bint fits(self, const unsigned char *frame) noexcept:
        cdef const unsigned char *between = self.between
        cdef Py_ssize_t index
        for index in range(self.count):
            if memcmp(frame + self.starts[index], between, self.sizes[index]):
                return False
            between += self.sizes[index]
        return True


cdef inline unsigned char upper(unsigned char byte) noexcept:
    return byte - 32 if 97 <= byte <= 122 else byte


cdef inline Py_ssize_t mix(const unsigned char *data, Py_ssize_t length) noexcept:
    """FNV-1a over the upper-cased name."""
    cdef unsigned int value = 2166136261u
    cdef Py_ssize_t index
    for index in range(length):
        value = (value ^ upper(data[index])) * 16777619u
    return value


cdef class NameIndex:
    """Upper-case names to values, found by any spelling in a buffer: open addressing, at most half full."""

    def __cinit__(self):
        self.mask = 63
        self.used = 0
        self.names = [None] * 64
        self.values = [None] * 64

    def add(self, bytes name, value):
        cdef Py_ssize_t at
        if self.used * 2 >= self.mask:
            self.grow()
        at = mix(<const unsigned char *>PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name)) & self.mask
        while self.names[at] is not None and self.names[at] != name:
            at = (at + 1) & self.mask
        self.used += self.names[at] is None
        self.names[at] = name
        self.values[at] = value

    def grow(self):
        known = [(name, value) for name, value in zip(self.names, self.values) if name is not None]
        self.mask = self.mask * 2 + 1
        self.used = 0
        self.names = [None] * (self.mask + 1)
        self.values = [None] * (self.mask + 1)
        for name, value in known:
            self.add(name, value)

    cdef object find(self, const unsigned char *data, Py_ssize_t offset, Py_ssize_t length):
        """The value of the name at data[offset:offset+length], or None."""
        cdef Py_ssize_t at = mix(data + offset, length) & self.mask
        cdef Py_ssize_t index
        cdef const unsigned char *name
        while True:
            known = self.names[at]
            if known is None:
                return None
            if PyBytes_GET_SIZE(known) == length:
                name = <const unsigned char *>PyBytes_AS_STRING(known)
                index = 0
                while index < length and name[index] == upper(data[offset + index]):
                    index += 1
                if index == length:
                    return self.values[at]
            at = (at + 1) & self.mask


cdef Py_ssize_t line_end(const unsigned char *data, Py_ssize_t at, Py_ssize_t end) noexcept:
    """Where the CR LF that ends the line at `at` begins, or -1 when it is not there yet."""
    cdef const unsigned char *found
    while at < end:
        found = <const unsigned char *>memchr(data + at, 13, end - at)
        if found == NULL:
            return -1
        at = found - data
        if at + 1 >= end:
            return -1
        if data[at + 1] == 10:
            return at
        at += 1
    return -1


cpdef int key_slot(const unsigned char *data, Py_ssize_t offset, Py_ssize_t length) noexcept:
    """The hash slot of a key (Redis Cluster specification, "Hash tags")."""
    cdef const unsigned char *key = data + offset
    cdef const unsigned char *opened = <const unsigned char *>memchr(key, 123, length)
    cdef const unsigned char *closed
    cdef unsigned short crc = 0
    cdef Py_ssize_t index
    if opened != NULL:
        closed = <const unsigned char *>memchr(opened + 1, 125, key + length - opened - 1)
        if closed != NULL and closed != opened + 1:
            key = opened + 1
            length = closed - key
    while length >= 4:  # four bytes at once: they do not wait for one another's look-up
        crc = CRC[3][(crc >> 8) ^ key[0]] ^ CRC[2][(crc & 255) ^ key[1]] ^ CRC[1][key[2]] ^ CRC[0][key[3]]
        key += 4
        length -= 4
    for index in range(length):
        crc = (crc << 8) ^ CRC[0][((crc >> 8) ^ key[index]) & 255]
    return crc & 16383
