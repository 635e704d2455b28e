# Arguments of a script, written without an object for each value. Uses: values.

cdef enum:
    KEPT_ROOM = 4_194_304  # bytes


@cython.final
cdef class Encoded:
    """Bytes that grow at the end. ``text``, ``integer`` and ``real`` write strings of MessagePack (its specification:
    https://github.com/msgpack/msgpack/blob/master/spec.md), ``argument`` a RESP bulk string: ``$3 CR LF abc CR LF``."""

    cdef char* data
    cdef Py_ssize_t size
    cdef Py_ssize_t room

    def __dealloc__(self):
        PyMem_Free(self.data)

    cdef bytes taken(self):
        """The bytes; it is empty then, and holds no more than ``KEPT_ROOM``."""
        cdef bytes found = PyBytes_FromStringAndSize(self.data, self.size)
        self.size = 0
        if self.room > KEPT_ROOM:
            PyMem_Free(self.data)
            self.data = NULL
            self.room = 0
        return found

    cdef int reserve(self, Py_ssize_t more) except -1:
        cdef Py_ssize_t room = self.room if self.room else 4096
        cdef void* data
        if self.size + more <= self.room:
            return 0
        while room < self.size + more:
            room *= 2
        data = PyMem_Realloc(self.data, room)
        if data is NULL:
            raise MemoryError
        self.data = <char*>data
        self.room = room
        return 0

    cdef int argument(self, Encoded value) except -1:
        """What stands in another one, which is empty then."""
        cdef char* end
        self.reserve(value.size + 32)
        end = self.data + self.size
        end[0] = c"$"
        end = decimal(end + 1, <uint64_t>value.size)
        end[0] = c"\r"
        end[1] = c"\n"
        memcpy(end + 2, value.data, value.size)
        end += 2 + value.size
        end[0] = c"\r"
        end[1] = c"\n"
        self.size = end + 2 - self.data
        value.size = 0
        return 0

    cdef int head(self, Py_ssize_t size) except -1:
        """What stands before a string of that size."""
        cdef unsigned char* end
        cdef int shift
        self.reserve(size + 8)
        end = <unsigned char*>self.data + self.size
        if size < 32:
            end[0] = <unsigned char>(0xA0 | size)
            self.size += 1
            return 0
        shift = 8 if size < 65_536 else 24
        end[0] = 0xDA if shift == 8 else 0xDB
        self.size += 1
        while shift >= 0:
            end += 1
            end[0] = <unsigned char>((size >> shift) & 0xFF)
            self.size += 1
            shift -= 8
        return 0

    cdef char* room_for(self, Py_ssize_t more) except NULL:
        """The place behind the end, with room for so many bytes."""
        self.reserve(more)
        return self.data + self.size

    cdef int raw(self, const char* text, Py_ssize_t size) except -1:
        self.reserve(size)
        memcpy(self.data + self.size, text, size)
        self.size += size
        return 0

    cdef int text(self, const char* text, Py_ssize_t size) except -1:
        self.head(size)
        return self.raw(text, size)

    cdef int bytes(self, bytes value) except -1:
        return self.text(PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value))

    cdef int integer(self, int64_t number) except -1:
        cdef char[24] text
        cdef char* end = text
        if number < 0:
            end[0] = c"-"
            end = decimal(end + 1, 0 - <uint64_t>number)
        else:
            end = decimal(end, <uint64_t>number)
        return self.text(text, end - text)

    cdef int real(self, double number) except -1:
        """A plain decimal that ``float()`` reads back exactly: the shortest one, never with an exponent."""
        cdef char[40] text
        cdef char* printed
        cdef Py_ssize_t size = short_decimal(number, text)
        if size:
            return self.text(text, size)
        printed = PyOS_double_to_string(number, c"r", 0, Py_DTSF_ADD_DOT_0, NULL)
        try:
            size = <Py_ssize_t>strlen(printed)
            if memchr(printed, c"e", size) is NULL:
                return self.text(printed, size)
            plain = format(Decimal((<bytes>printed).decode()), "f").encode()
        finally:
            PyMem_Free(printed)
        return self.bytes(plain)


cdef char* decimal(char* end, uint64_t number) noexcept:
    """Writes the number; returns the place behind it. At most 20 bytes."""
    cdef char[20] text
    cdef int at = 20
    while True:
        at -= 1
        text[at] = <char>(c"0" + number % 10)
        number //= 10
        if not number:
            break
    memcpy(end, text + at, 20 - at)
    return end + 20 - at


cdef uint64_t LONG_DECIMAL = 1_000_000_000_000_000


cdef Py_ssize_t short_decimal(double number, char* text) noexcept:
    """The shortest text of a number that has at most 15 digits, 8 of them behind the point; 0: it is not so short.

    Two decimals of up to 15 digits are never the same double, so one that reads back as the number is the only one of
    its length or shorter; digits and power are exact, so the division rounds as reading does (Clinger 1990).
    """
    cdef double size = fabs(number), scaled
    cdef uint64_t digits, power = 1, part
    cdef int places = 0, at
    cdef char* end = text
    if not size < 1e15:
        return 0
    while True:
        scaled = size * POWERS[places]
        if not scaled < 1e15:
            return 0
        digits = <uint64_t>(scaled + 0.5)
        # The product is off by less than one part in 2**52: what is not nearly whole is not divided.
        if fabs(scaled - <double>digits) < 0.3 and <double>digits / POWERS[places] == size and digits < LONG_DECIMAL:
            break
        if places == 8:
            return 0
        places += 1
        power *= 10
    if signbit(number):
        end[0] = c"-"
        end += 1
    end = decimal(end, digits // power)
    end[0] = c"."
    if not places:
        end[1] = c"0"
        return end + 2 - text
    part = digits % power
    for at in range(places, 0, -1):
        end[at] = <char>(c"0" + part % 10)
        part //= 10
    return end + places + 1 - text
