cimport cython


cdef class SlotMap:
    cdef list nodes
    cdef unsigned short numbers[16384]
    cdef unsigned short blocks[256]
    @cython.locals(number=cython.int)
    cpdef object owner(self, int slot)
    @cython.locals(number=cython.int, slot=cython.int, block=cython.int)
    cpdef int put(self, int first, int last, object node) except -1
