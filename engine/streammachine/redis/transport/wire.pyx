# cython: language_level=3, wraparound=False, initializedcheck=False, cdivision=True
"""The RESP codec in C: the fast twin of ``wire_reference.py``, with the same names and the same results.

That module documents each name; this one says only how it is made fast.

- Encoding walks each dict with the C API and writes into one growing buffer: no list of parts, no bytes object per value.
- No code of a value runs while a dict is walked (numbers are printed by the interpreter's own C routines, subclasses
  included), and what is looked at is held: an error's making can run the garbage collector, and so anything.
- Keys that are not plain bytes or text, and subclasses of list, have code of their own: they go to the twin.
- The parser keeps its own byte buffer and a stack of open aggregates, so it never reads a byte twice for want of the next.
- Refusals and rare types (doubles, big numbers, pushes) go to the twin's helpers: one text, one behaviour.

Built by the ext-modules entry of pyproject.toml, or in place with ``cythonize -i -3``. It needs no headers but Python's.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_Next
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc
from cpython.object cimport PyObject
from cpython.unicode cimport PyUnicode_DecodeUTF8, PyUnicode_FromObject
from libc.string cimport memchr, memcpy, memmove, strlen

from streammachine.redis.transport import wire_reference as _twin
from streammachine.redis.transport.wire_reference import (
    MAX_BULK, MAX_DEPTH, MAX_LINE, NEED_MORE, NeedMore, ProtocolError, Push, RespError
)

cdef extern from "Python.h":
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL
    long long PyLong_AsLongLongAndOverflow(object number, int* overflow) except? -1
    double PyFloat_AS_DOUBLE(object number)
    char* PyOS_double_to_string(double number, char form, int precision, int flags, int* kind) except NULL
    int Py_DTSF_ADD_DOT_0

cdef Py_ssize_t _MAX_BULK = MAX_BULK
cdef Py_ssize_t _MAX_LINE = MAX_LINE
cdef object _MAX_INT64 = _twin._MAX_INT64
cdef object _ProtocolError = ProtocolError
cdef object _NEED_MORE = NEED_MORE
cdef object _int_text = int.__repr__

# Deepest stack of open aggregates; the twin's limit, which check_aggregate holds, must fit.
cdef enum:
    STACK = 32
assert MAX_DEPTH == STACK


# --- fields ------------------------------------------------------------------------------------------------------

cdef inline str _decode(object value):
    if isinstance(value, bytes):
        return PyUnicode_DecodeUTF8(PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value), "backslashreplace")
    if isinstance(value, str):
        return PyUnicode_FromObject(value)  # a plain str of a subclass's
    raise _twin.not_text(value)


def decode_dict_bytes_to_utf8(fields):
    """The fields of a stream entry as text; a byte that is not UTF-8 becomes ``\\xNN``."""
    cdef PyObject* name
    cdef PyObject* value
    cdef Py_ssize_t at = 0
    cdef str text
    cdef object raw_name, raw_value
    cdef dict decoded = {}
    if type(fields) is dict:  # an OrderedDict may be ordered otherwise than its dict
        while PyDict_Next(fields, &at, &name, &value):
            raw_name, raw_value = <object>name, <object>value
            # The name first, as in the twin: of two errors both report the same one.
            text = _decode(raw_name)
            decoded[text] = _decode(raw_value)
        return decoded
    return _twin.decode_dict_bytes_to_utf8(fields)


def encode_fields(record):
    """One record as the bytes to write. Raises FieldError."""
    cdef PyObject* name
    cdef PyObject* value
    cdef Py_ssize_t at = 0
    cdef bint text_names = False, byte_names = False
    cdef dict encoded = {}
    cdef object raw_name, raw_value, name_bytes, value_bytes
    if type(record) is not dict or not record:
        return _twin.encode_fields(record)
    while PyDict_Next(record, &at, &name, &value):
        raw_name, raw_value = <object>name, <object>value
        if isinstance(raw_name, str):
            text_names = True
        else:
            byte_names = True
        name_bytes = _text_bytes(raw_name)
        if name_bytes is None or PyBytes_GET_SIZE(name_bytes) == 0:
            raise _twin.refuse_name(raw_name, None)
        value_bytes = _value_bytes(raw_value)
        if value_bytes is None:
            raise _twin.refuse_value(raw_name, raw_value, None)
        encoded[name_bytes] = value_bytes
    if text_names and byte_names:
        _twin.check_names_differ(record, None)
    return encoded


cdef object _text_bytes(object value):
    """The bytes of a str or bytes; None for anything else, and for what no server takes."""
    cdef const char* data
    cdef Py_ssize_t size
    if isinstance(value, str):
        try:
            data = PyUnicode_AsUTF8AndSize(value, &size)
        except UnicodeEncodeError:
            return None
        return PyBytes_FromStringAndSize(data, size) if size <= _MAX_BULK else None
    if isinstance(value, bytes):
        size = PyBytes_GET_SIZE(value)
        if size > _MAX_BULK:
            return None
        return value if type(value) is bytes else PyBytes_FromStringAndSize(PyBytes_AS_STRING(value), size)
    return None


cdef object _value_bytes(object value):
    cdef char* printed
    if isinstance(value, str) or isinstance(value, bytes):
        return _text_bytes(value)
    if value is True:
        return b"true"
    if value is False:
        return b"false"
    if isinstance(value, float):
        printed = PyOS_double_to_string(PyFloat_AS_DOUBLE(value), c"r", 0, Py_DTSF_ADD_DOT_0, NULL)
        try:
            return <bytes>printed
        finally:
            PyMem_Free(printed)
    if isinstance(value, int):
        try:
            return _int_text(value).encode()
        except ValueError:
            return None
    return None


# --- RESP out ----------------------------------------------------------------------------------------------------

cdef class _Buffer:
    """Bytes that grow at the end."""

    cdef char* data
    cdef Py_ssize_t size
    cdef Py_ssize_t room

    def __cinit__(self):
        self.room = 4096
        self.data = <char*>PyMem_Malloc(self.room)
        if self.data == NULL:
            raise MemoryError

    def __dealloc__(self):
        PyMem_Free(self.data)

    cdef int reserve(self, Py_ssize_t more) except -1:
        cdef Py_ssize_t room = self.room
        cdef char* data
        if self.size + more <= room:
            return 0
        while room < self.size + more:
            room *= 2
        data = <char*>PyMem_Realloc(self.data, room)
        if data == NULL:
            raise MemoryError
        self.data = data
        self.room = room
        return 0

    cdef int raw(self, const char* data, Py_ssize_t size) except -1:
        self.reserve(size)
        memcpy(self.data + self.size, data, size)
        self.size += size
        return 0

    cdef int bulk(self, const char* data, Py_ssize_t size) except -1:
        """``$<size> CR LF <data> CR LF``."""
        cdef char* end
        self.reserve(size + 32)
        end = self.data + self.size
        end[0] = c"$"
        end = _digits(end + 1, size)
        end[0] = c"\r"
        end[1] = c"\n"
        memcpy(end + 2, data, size)
        end += 2 + size
        end[0] = c"\r"
        end[1] = c"\n"
        self.size = end + 2 - self.data
        return 0


cdef inline char* _digits(char* end, unsigned long long number) noexcept nogil:
    """Writes the number in decimal; returns the place behind it. At most 20 bytes."""
    cdef char text[20]
    cdef int at = 20
    if number < 10:
        end[0] = <char>(c"0" + number)
        return end + 1
    while number:
        at -= 1
        text[at] = <char>(c"0" + number % 10)
        number //= 10
    memcpy(end, text + at, 20 - at)
    return end + 20 - at


cdef int _put_text(_Buffer out, object value, Py_ssize_t shortest) except -1:
    """Writes a str or bytes; 0 where it is neither, shorter than that, or longer than a server takes."""
    cdef const char* data
    cdef Py_ssize_t size
    if isinstance(value, str):
        try:
            data = PyUnicode_AsUTF8AndSize(value, &size)
        except UnicodeEncodeError:
            return 0
    elif isinstance(value, bytes):
        data = PyBytes_AS_STRING(value)
        size = PyBytes_GET_SIZE(value)
    else:
        return 0
    if size < shortest or size > _MAX_BULK:
        return 0
    out.bulk(data, size)
    return 1


cdef int _put_value(_Buffer out, object value) except -1:
    """Writes a field's value; 0 where the rule refuses it."""
    cdef char* printed
    cdef char text[24]
    cdef char* end
    cdef long long number
    cdef int overflow = 0
    if isinstance(value, str) or isinstance(value, bytes):
        return _put_text(out, value, 0)
    if isinstance(value, float):
        printed = PyOS_double_to_string(PyFloat_AS_DOUBLE(value), c"r", 0, Py_DTSF_ADD_DOT_0, NULL)
        try:
            out.bulk(printed, strlen(printed))
        finally:
            PyMem_Free(printed)
        return 1
    if value is True:
        out.raw(b"$4\r\ntrue\r\n", 10)
        return 1
    if value is False:
        out.raw(b"$5\r\nfalse\r\n", 11)
        return 1
    if isinstance(value, int):
        number = PyLong_AsLongLongAndOverflow(value, &overflow)
        if overflow:
            try:
                return _put_text(out, _int_text(value), 0)
            except ValueError:
                return 0
        end = text
        if number < 0:
            end[0] = c"-"
            # 0 - x in unsigned arithmetic: the smallest number has no positive twin in signed.
            end = _digits(end + 1, 0 - <unsigned long long>number)
        else:
            end = _digits(end, <unsigned long long>number)
        out.bulk(text, end - text)
        return 1
    return 0


def encode_xadd_batch(key, records, maxlen=0, approximate=True):
    """One buffer with an XADD command for each record. Raises FieldError, TypeError and ValueError."""
    cdef _Buffer head = _Buffer()
    cdef _Buffer out = _Buffer()
    cdef Py_ssize_t index = 0
    cdef int fixed = 6 if maxlen else 3
    cdef bytes argument
    for argument in _twin.xadd_arguments(key, maxlen, approximate):
        head.bulk(PyBytes_AS_STRING(argument), PyBytes_GET_SIZE(argument))
    for record in records:
        if type(record) is not dict or not record:
            record = _twin.checked_fields(record, index)
        _put_command(out, head, fixed, record, index)
        index += 1
    return PyBytes_FromStringAndSize(out.data, out.size)


cdef int _put_command(_Buffer out, _Buffer head, int fixed, dict record, Py_ssize_t index) except -1:
    cdef PyObject* name
    cdef PyObject* value
    cdef Py_ssize_t at = 0
    cdef bint text_names = False, byte_names = False
    cdef object raw_name, raw_value
    cdef char* end
    out.reserve(32)
    end = out.data + out.size
    end[0] = c"*"
    end = _digits(end + 1, fixed + 2 * len(record))
    end[0] = c"\r"
    end[1] = c"\n"
    out.size = end + 2 - out.data
    out.raw(head.data, head.size)
    while PyDict_Next(record, &at, &name, &value):
        raw_name, raw_value = <object>name, <object>value
        if isinstance(raw_name, str):
            text_names = True
        else:
            byte_names = True
        if not _put_text(out, raw_name, 1):
            raise _twin.refuse_name(raw_name, index)
        if not _put_value(out, raw_value):
            raise _twin.refuse_value(raw_name, raw_value, index)
    if text_names and byte_names:
        _twin.check_names_differ(record, index)
    return 0


# --- RESP in -----------------------------------------------------------------------------------------------------

cdef class ReplyParser:
    """Turns the bytes of a connection into replies, in whatever portions they come."""

    cdef char* data
    cdef Py_ssize_t room
    cdef Py_ssize_t begin  # first byte not yet read
    cdef Py_ssize_t end  # behind the last byte fed
    cdef int depth  # open aggregates
    cdef char[STACK] kinds
    cdef Py_ssize_t[STACK] missing
    cdef list open
    cdef list top  # the elements of the innermost open aggregate
    cdef str broken
    cdef bint busy  # a get is under way

    def __cinit__(self):
        self.open = []
        self.top = None
        self.broken = ""

    def __dealloc__(self):
        PyMem_Free(self.data)

    def feed(self, data):
        """Adds received bytes. They are copied."""
        cdef const unsigned char[::1] view
        cdef Py_ssize_t size
        if self.busy:
            raise _twin.parser_is_busy()
        if self.broken:
            raise _ProtocolError(self.broken)
        if type(data) is bytes:
            size = PyBytes_GET_SIZE(data)
            self._make_room(size)
            memcpy(self.data + self.end, PyBytes_AS_STRING(data), size)
            self.end += size
            return
        with memoryview(data) as whole, whole.cast("B") as flat:
            size = len(flat)
            if size:
                view = flat
                self._make_room(size)
                memcpy(self.data + self.end, &view[0], size)
                self.end += size
                view = None

    def get(self):
        """The next whole reply, or ``NEED_MORE``. Raises ProtocolError."""
        if self.busy:
            raise _twin.parser_is_busy()
        if self.broken:
            raise _ProtocolError(self.broken)
        self.busy = True
        try:
            reply = self._next()
        except _ProtocolError as error:
            self.broken = str(error)
            PyMem_Free(self.data)
            self.data = NULL
            self.room = self.begin = self.end = 0
            self.depth = 0
            self.open = []
            self.top = None
            raise
        finally:
            self.busy = False
        if self.begin == self.end:
            self.begin = self.end = 0
            if self.room > 1 << 20:
                # One large reply must not hold its memory for the connection's life.
                PyMem_Free(self.data)
                self.data = NULL
                self.room = 0
        return reply

    cdef int _make_room(self, Py_ssize_t more) except -1:
        cdef Py_ssize_t held = self.end - self.begin
        cdef Py_ssize_t room
        cdef char* data
        if self.end + more <= self.room:
            return 0
        if self.begin and held + more <= self.room // 2:
            # Moving costs at most what was read since the last move.
            memmove(self.data, self.data + self.begin, held)
        else:
            room = self.room if self.room else 16384
            while room < held + more:
                room *= 2
            data = <char*>PyMem_Malloc(room)
            if data == NULL:
                raise MemoryError
            if held:
                memcpy(data, self.data + self.begin, held)
            PyMem_Free(self.data)
            self.data = data
            self.room = room
        self.begin = 0
        self.end = held
        return 0

    cdef object _next(self):
        cdef Py_ssize_t at, behind, size, count, line_size
        cdef char kind
        cdef char* line
        cdef char* found
        cdef object value
        while True:
            at = self.begin
            if at >= self.end:
                return _NEED_MORE
            kind = self.data[at]
            if not _is_type(kind):
                raise _twin.unknown_type(<unsigned char>kind)
            line = self.data + at + 1
            size = self.end - at - 1
            found = <char*>memchr(line, c"\r", size if size <= _MAX_LINE else _MAX_LINE + 1)
            if found == NULL:
                if size > _MAX_LINE:
                    raise _twin.line_too_long()
                return _NEED_MORE
            line_size = found - line
            behind = at + line_size + 3
            if behind > self.end:
                return _NEED_MORE
            if found[1] != c"\n":
                raise _twin.bad_line_end()

            if kind == c"$" or kind == c"=" or kind == c"!":
                size = _length(line, line_size, kind)
                if size < 0:
                    value = None
                else:
                    if size > _MAX_BULK:
                        raise _twin.string_too_long(size)
                    if self.end - behind < size + 2:
                        return _NEED_MORE
                    if self.data[behind + size] != c"\r" or self.data[behind + size + 1] != c"\n":
                        raise _twin.bad_line_end()
                    value = PyBytes_FromStringAndSize(self.data + behind, size)
                    if kind != c"$":
                        value = _twin.string_value(<unsigned char>kind, value)
                    behind += size + 2
            elif kind == c"*" or kind == c"%" or kind == c"~" or kind == c"|" or kind == c">":
                count = _length(line, line_size, kind)
                if count < 0:
                    value = None
                else:
                    _twin_check(kind, count, self.depth)
                    if kind == c"%" or kind == c"|":
                        count *= 2
                    self.begin = behind
                    if count:
                        self.top = []
                        self.open.append(self.top)
                        self.kinds[self.depth] = kind
                        self.missing[self.depth] = count
                        self.depth += 1
                        continue
                    if kind == c"|":
                        continue
                    value = _finished(kind, [])
            else:
                value = _scalar(kind, line, line_size)
            self.begin = behind

            while self.depth:
                self.top.append(value)
                self.missing[self.depth - 1] -= 1
                if self.missing[self.depth - 1]:
                    break
                self.depth -= 1
                kind = self.kinds[self.depth]
                value = self.open.pop()
                self.top = <list>self.open[self.depth - 1] if self.depth else None
                if kind == c"|":
                    break
                value = _finished(kind, <list>value)
            else:
                return value


cdef inline bint _is_type(char kind) noexcept:
    return memchr(b"$*:+-_#,(!=%~|>", kind, 15) != NULL


cdef inline int _twin_check(char kind, Py_ssize_t count, int depth) except -1:
    if count > 1 << 24 or depth >= STACK or kind == c">":
        _twin.check_aggregate(<unsigned char>kind, count, depth)
    return 0


cdef inline object _finished(char kind, list items):
    if kind == c"*":
        return items
    return _twin.aggregate_value(<unsigned char>kind, items)


cdef Py_ssize_t _length(char* line, Py_ssize_t size, char kind) except -2:
    """The length in a header; -1 for null."""
    cdef Py_ssize_t number = 0, at
    if 0 < size < 19:
        for at in range(size):
            if not c"0" <= line[at] <= c"9":
                break
            number = number * 10 + (line[at] - c"0")
        else:
            return number
    # Null, a length of 19 digits (or one that no size_t holds: refused here, as it would be later), or nonsense.
    length = _twin.length_of(PyBytes_FromStringAndSize(line, size), <unsigned char>kind)
    if length > _MAX_INT64:
        raise _twin.length_too_large(<unsigned char>kind, length)
    return length


cdef object _scalar(char kind, char* line, Py_ssize_t size):
    cdef Py_ssize_t at, first
    cdef long long number = 0
    if kind == c"+":
        return PyBytes_FromStringAndSize(line, size)
    if kind == c":":
        first = 1 if size and line[0] == c"-" else 0
        if first < size < 19:
            for at in range(first, size):
                if not c"0" <= line[at] <= c"9":
                    break
                number = number * 10 + (line[at] - c"0")
            else:
                return -number if first else number
    return _twin.line_value(<unsigned char>kind, PyBytes_FromStringAndSize(line, size))


def parse_stream_reply(reply):
    """The reply of XREAD or XREADGROUP as ``{stream: [(id, {field: value}), ...]}``. Raises ProtocolError."""
    cdef dict streams = {}
    if reply is None:
        return streams
    if isinstance(reply, dict):
        return {name: parse_entries(entries) for name, entries in reply.items()}
    if type(reply) is not list:
        return _twin.parse_stream_reply(reply)
    for pair in <list>reply:
        if not isinstance(pair, list) or len(pair) != 2:
            raise _twin.not_a_stream_reply(pair)
        streams[pair[0]] = parse_entries(pair[1])
    return streams


def parse_entries(reply):
    """The entries of one stream as ``[(id, {field: value}), ...]``. Raises ProtocolError."""
    cdef list entries = []
    if reply is None:
        return entries
    if type(reply) is not list:
        return _twin.parse_entries(reply)
    for item in <list>reply:
        if item is not None:
            entries.append(_entry(item))
    return entries


cdef tuple _entry(object item):
    """An entry whose fields' names are plain bytes or text runs no code of theirs; any other goes to the twin."""
    cdef object fields, name
    cdef dict named
    cdef Py_ssize_t at
    if type(item) is not list or PyList_GET_SIZE(item) < 2:
        return _twin._entry(item)
    fields = <object>PyList_GET_ITEM(item, 1)
    if fields is None or isinstance(fields, dict):
        return <object>PyList_GET_ITEM(item, 0), fields
    if type(fields) is not list or PyList_GET_SIZE(fields) % 2:
        return _twin._entry(item)
    named = {}
    for at in range(0, PyList_GET_SIZE(fields), 2):
        name = <object>PyList_GET_ITEM(fields, at)
        if type(name) is not bytes and type(name) is not str:
            return _twin._entry(item)
        named[name] = <object>PyList_GET_ITEM(fields, at + 1)
    return <object>PyList_GET_ITEM(item, 0), named
