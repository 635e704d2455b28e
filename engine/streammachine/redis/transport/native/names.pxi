# Symbols by their bytes. Uses: nothing of the other rooms.

cdef extern from *:
    """
    static inline unsigned long long sm_mixed(unsigned long long a, unsigned long long b) {
    #ifdef __SIZEOF_INT128__
        unsigned __int128 product = (unsigned __int128)a * b;
        return (unsigned long long)product ^ (unsigned long long)(product >> 64);
    #else
        a = (a ^ b) * 0x9E3779B97F4A7C15ULL;
        return a ^ (a >> 29);
    #endif
    }
    """
    uint64_t mixed "sm_mixed"(uint64_t a, uint64_t b) noexcept

cdef struct Name:  # a symbol in the table
    uint64_t hash
    Py_ssize_t at
    Py_ssize_t size
    int32_t index  # -1: a free place


cdef class _Bytes:
    """Bytes that grow at the end."""

    cdef char* data
    cdef Py_ssize_t size
    cdef Py_ssize_t room

    def __dealloc__(self):
        PyMem_Free(self.data)

    cdef int put(self, const char* data, Py_ssize_t size) except -1:
        cdef Py_ssize_t room = self.room if self.room else 1024
        cdef char* grown
        if self.size + size > self.room:
            while room < self.size + size:
                room *= 2
            grown = <char*>PyMem_Realloc(self.data, room)
            if grown is NULL:
                raise MemoryError
            self.data = grown
            self.room = room
        if size:
            memcpy(self.data + self.size, data, size)
            self.size += size
        return 0


cdef class _Names:
    """Symbols by their bytes: each has one index, and the list ``names`` has them in order."""

    cdef readonly list names
    cdef _Bytes texts
    cdef Name* table
    cdef Py_ssize_t places  # a power of two
    cdef uint64_t seed

    def __cinit__(self):
        self.names = []
        self.texts = _Bytes()
        self.seed = int.from_bytes(os.urandom(8), "little") | 1  # nobody can choose symbols that collide
        self.widen(1024)

    def __dealloc__(self):
        PyMem_Free(self.table)

    cdef inline uint64_t hashed(self, const char* text, Py_ssize_t size) noexcept:
        cdef uint64_t found = self.seed ^ <uint64_t>size, block
        while size >= 8:
            memcpy(&block, text, 8)
            found = mixed(found ^ block, 0x9E3779B97F4A7C15ULL ^ self.seed)
            text += 8
            size -= 8
        block = 0
        memcpy(&block, text, size)
        found = mixed(found ^ block, 0xD6E8FEB86659FD93ULL ^ self.seed)
        return found

    cdef int32_t index(self, const char* text, Py_ssize_t size) except -1:
        cdef uint64_t hash = self.hashed(text, size)
        cdef Py_ssize_t place = <Py_ssize_t>(hash & <uint64_t>(self.places - 1))
        cdef Name* name
        while True:
            name = &self.table[place]
            if name.index < 0:
                return self.add(text, size, hash)
            if name.hash == hash and name.size == size and memcmp(self.texts.data + name.at, text, size) == 0:
                return name.index
            place = (place + 1) & (self.places - 1)

    cdef int32_t add(self, const char* text, Py_ssize_t size, uint64_t hash) except -1:
        cdef Py_ssize_t count = len(self.names), at = self.texts.size
        if 2 * (count + 1) > self.places:
            self.widen(2 * self.places)
        self.texts.put(text, size)
        self.names.append(PyBytes_FromStringAndSize(text, size))
        self.settle(Name(hash, at, size, <int32_t>count))
        return <int32_t>count

    cdef void settle(self, Name name) noexcept:
        cdef Py_ssize_t place = <Py_ssize_t>(name.hash & <uint64_t>(self.places - 1))
        while self.table[place].index >= 0:
            place = (place + 1) & (self.places - 1)
        self.table[place] = name

    cdef int widen(self, Py_ssize_t places) except -1:
        cdef Name* old = self.table
        cdef Name* made = <Name*>PyMem_Malloc(places * sizeof(Name))
        cdef Py_ssize_t count = self.places, at
        if made is NULL:
            raise MemoryError
        for at in range(places):
            made[at].index = -1
        self.table = made
        self.places = places
        for at in range(count):
            if old[at].index >= 0:
                self.settle(old[at])
        PyMem_Free(old)
        return 0
