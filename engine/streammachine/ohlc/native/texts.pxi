# Texts of a column by their bytes: each distinct one gets a number, in the order in which they come. Uses: nothing of
# the other rooms.

cdef extern from *:
    """
    #define SM_MIX 0x9E3779B97F4A7C15ULL
    """
    const uint64_t MIX "SM_MIX"  # 2**64 over the golden ratio, made odd


cdef enum:
    NEAR = 1024  # a power of two


cdef struct Text:
    const char* data  # in the column's own memory
    Py_ssize_t size
    uint64_t hash
    uint64_t head  # the first and the last 8 bytes: of up to 16 bytes they are all there is
    uint64_t tail
    Py_ssize_t row  # where it was met first


cdef inline uint64_t word(const char* data, Py_ssize_t size) noexcept nogil:
    """Up to 8 bytes as a number."""
    cdef uint64_t whole = 0
    cdef uint32_t low, high
    if size >= 8:
        memcpy(&whole, data, 8)
        return whole
    if size >= 4:
        memcpy(&low, data, 4)
        memcpy(&high, data + size - 4, 4)
        return low | (<uint64_t>high << 32)
    if size > 0:
        return (
            <uint64_t><uint8_t>data[0] | (<uint64_t><uint8_t>data[size >> 1] << 8)
            | (<uint64_t><uint8_t>data[size - 1] << 16)
        )
    return 0


cdef inline uint64_t mixed(uint64_t value, uint64_t more) noexcept nogil:
    """One multiplication: the highest bits depend on all bits of both."""
    value = (value ^ more) * MIX
    return value ^ (value >> 32)


cdef inline bint same_bytes(const char* one, const char* other, Py_ssize_t size) noexcept nogil:
    """For more than 16 bytes: what stands between the first and the last 8, which are known to be equal."""
    cdef Py_ssize_t at = 8
    while at < size - 8:
        if word(one + at, 8) != word(other + at, 8):
            return False
        at += 8
    return True


@cython.final
@cython.no_gc
cdef class TextTable:
    """Numbers for distinct texts. The texts stay where they are and must outlive it."""

    cdef Text* texts
    cdef Py_ssize_t count
    cdef Py_ssize_t capacity
    cdef int32_t* slots  # open addressing; -1: free
    cdef uint64_t mask
    cdef int32_t[NEAR] near  # numbers by a quick hash, whatever was there last; -1: none
    cdef int shift  # a slot is the highest bits of the hash: they depend on all of the text

    def __cinit__(self):
        memset(self.near, 0xFF, sizeof(self.near))
        if self.grow() < 0:
            raise MemoryError

    def __dealloc__(self):
        PyMem_RawFree(self.texts)
        PyMem_RawFree(self.slots)

    cdef int grow(self) noexcept nogil:
        """Room for twice as many; slots are half full at most."""
        cdef Py_ssize_t capacity = self.capacity * 2 if self.capacity else 256
        cdef Py_ssize_t k
        cdef uint64_t at, mask = <uint64_t>capacity * 2 - 1
        cdef int shift = self.shift - 1 if self.capacity else 55  # 64 less the bits of the mask: 512 slots at first
        cdef void* texts
        cdef int32_t* slots
        if capacity > INT32_MAX:
            return -1
        texts = PyMem_RawRealloc(self.texts, capacity * sizeof(Text))
        if texts is NULL:
            return -1
        self.texts = <Text*>texts
        slots = <int32_t*>PyMem_RawMalloc(<size_t>(mask + 1) * sizeof(int32_t))
        if slots is NULL:
            return -1
        memset(slots, 0xFF, <size_t>(mask + 1) * sizeof(int32_t))
        for k in range(self.count):
            at = self.texts[k].hash >> shift
            while slots[at] >= 0:
                at = (at + 1) & mask
            slots[at] = <int32_t>k
        PyMem_RawFree(self.slots)
        self.slots = slots
        self.mask = mask
        self.shift = shift
        self.capacity = capacity
        return 0

    cdef inline int32_t place(self, const char* data, Py_ssize_t size, Py_ssize_t row) noexcept nogil:
        """The number of a text; -1: no memory. A text is mostly one that stands where its ends lead to at once."""
        cdef uint64_t head = word(data, size), tail = word(data + size - 8, 8) if size > 8 else head
        cdef uint64_t at = ((head ^ (tail << 1)) * MIX) >> 54
        cdef int32_t number = self.near[at]
        cdef Text* text
        if number >= 0:
            text = &self.texts[number]
            if text.head == head and text.tail == tail and text.size == size:
                if size <= 16 or same_bytes(text.data, data, size):
                    return number
        number = self.search(data, size, row, head, tail)
        if number >= 0:
            self.near[at] = number
        return number

    cdef int32_t search(
        self, const char* data, Py_ssize_t size, Py_ssize_t row, uint64_t head, uint64_t tail
    ) noexcept nogil:
        cdef uint64_t hash, slot
        cdef Py_ssize_t at = 8
        cdef Text* text
        hash = mixed(head, <uint64_t>size)
        if size > 8:
            hash = mixed(hash, tail)
            while at < size - 8:
                hash = mixed(hash, word(data + at, 8))
                at += 8
        slot = hash >> self.shift
        while self.slots[slot] >= 0:
            text = &self.texts[self.slots[slot]]
            if text.hash == hash and text.head == head and text.tail == tail and text.size == size:
                if size <= 16 or same_bytes(text.data, data, size):
                    return self.slots[slot]
            slot = (slot + 1) & self.mask
        return self.add(data, size, row, hash)

    cdef int32_t add(self, const char* data, Py_ssize_t size, Py_ssize_t row, uint64_t hash) noexcept nogil:
        cdef uint64_t slot
        cdef Text* text
        if self.count == self.capacity and self.grow() < 0:
            return -1
        text = &self.texts[self.count]
        text.data, text.size, text.hash, text.row = data, size, hash, row
        text.head = word(data, size)
        text.tail = word(data + size - 8, 8) if size > 8 else text.head
        slot = hash >> self.shift
        while self.slots[slot] >= 0:
            slot = (slot + 1) & self.mask
        self.slots[slot] = <int32_t>self.count
        self.count += 1
        return <int32_t>(self.count - 1)
