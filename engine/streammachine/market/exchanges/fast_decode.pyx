# cython: language_level=3, wraparound=False, initializedcheck=False
"""Klines of rows that are as they usually are: the same checks and the same Kline as the validator's, without it.

A row that is odd in any way (another type than usual, a value out of its bounds) goes to the validator, which says what
is wrong with it, or takes it all the same. So nothing is accepted here that it would not accept; and without a
compiler it does all the work (``wire.kline_maker``).

To find a value can run code of a row's key, which may change the row: what is found is used, or held, before the next
one is looked up.
"""

from cpython.dict cimport PyDict_Copy, PyDict_GetItem, PyDict_GetItemWithError, PyDict_SetItem
from cpython.exc cimport PyErr_Clear, PyErr_Occurred
from cpython.float cimport PyFloat_AS_DOUBLE
from cpython.long cimport PyLong_AsLongLongAndOverflow
from cpython.object cimport PyObject, PyTypeObject
from cpython.ref cimport Py_INCREF
from cpython.unicode cimport PyUnicode_GET_LENGTH

cdef extern from "Python.h":
    int PyUnicode_IS_COMPACT_ASCII(object text)
    void* PyUnicode_DATA(object text)
    Py_ssize_t PyUnicode_Tailmatch(
        object text, object part, Py_ssize_t start, Py_ssize_t end, int direction
    ) except -1
    int PyObject_GenericSetDict(object thing, object value, void* context) except -1
    object PyType_GenericAlloc(PyTypeObject* kind, Py_ssize_t items)

cdef extern from *:
    """
    #if PY_VERSION_HEX >= 0x030C0000
    #define SM_OBJECT Py_T_OBJECT_EX
    #else
    #include "structmember.h"
    #define SM_OBJECT T_OBJECT_EX
    #endif
    /* The offset of a slot that holds any object; 0: it is no such slot, or belongs to another kind of object. */
    static Py_ssize_t sm_offset(PyObject *slot, PyTypeObject *kind) {
        PyMemberDescrObject *found = (PyMemberDescrObject *)slot;
        if (!Py_IS_TYPE(slot, &PyMemberDescr_Type) || !PyType_IsSubtype(kind, PyDescr_TYPE(found)))
            return 0;
        return found->d_member->type == SM_OBJECT ? found->d_member->offset : 0;
    }
    static PyObject **sm_at(PyObject *thing, Py_ssize_t offset) {
        return (PyObject **)((char *)thing + offset);
    }
    """
    Py_ssize_t sm_offset(PyObject* slot, PyTypeObject* kind)
    PyObject** sm_at(PyObject* thing, Py_ssize_t offset)

cdef extern from *:
    """
    static const double sm_tens[] = {1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14,
        1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
    """
    const double sm_tens[23]

cdef enum:
    EXACT_DIGITS = 19  # decimal digits that a 64 bit integer always holds
    MOST_NAMES = 4096  # symbols whose name is kept

cdef long long LATEST = 253_402_300_799_999  # wire.LATEST
cdef unsigned long long EXACT = 1 << 53  # integers up to it are doubles
cdef double HUGE_PRICE = 1e18
cdef double HUGE_VOLUME = 1e30
cdef double ODD = -1.0  # not a number of the usual form


cdef class Maker:
    """Makes models of their fields, which were checked: what pydantic does behind its checks.

    What it keeps beside the values stands in slots of BaseModel. A new object's are empty, so they are written in
    place: the descriptor of a slot, which is asked for its offset once, would check the same things each time. The
    models are frozen, so one set of fields does for all.
    """

    cdef object model, fields_set
    cdef Py_ssize_t set_slot, extra_slot, private_slot

    def __init__(self, model):
        self.model = model
        self.fields_set = set(model.model_fields)
        self.set_slot = _slot(model, "__pydantic_fields_set__")
        self.extra_slot = _slot(model, "__pydantic_extra__")
        self.private_slot = _slot(model, "__pydantic_private__")

    cdef inline object made(self, dict fields):
        thing = PyType_GenericAlloc(<PyTypeObject*>self.model, 0)
        PyObject_GenericSetDict(thing, fields, NULL)
        _put_slot(thing, self.set_slot, self.fields_set)
        _put_slot(thing, self.extra_slot, None)
        _put_slot(thing, self.private_slot, None)
        return thing


cdef Py_ssize_t _slot(model, name) except -1:
    """Where objects of the model have a slot."""
    cdef Py_ssize_t found
    for one in model.__mro__:
        if name in one.__dict__:
            found = sm_offset(<PyObject*>one.__dict__[name], <PyTypeObject*>model)
            if found > 0:
                return found
    raise TypeError(f"{model.__name__} has no slot {name}")


cdef inline void _put_slot(object thing, Py_ssize_t offset, object value):
    Py_INCREF(value)
    sm_at(<PyObject*>thing, offset)[0] = <PyObject*>value


cdef class UsualKlines:
    """Makes Klines of the rows (dicts) of one exchange and kind.

    Args:
        model: Kline. source, estimated, origin: of every row. keys: Kline's fields to the rows' keys; fields that it
            does not name are read under their own names, and quote_volume, vwap, n_trades and is_closed not at all.
        grid: each timeframe to the step that a start is a multiple of, milliseconds.
        otherwise: makes the Klines of other rows, or says what is wrong with them.
        weighted: the key of a vwap from which the quote volume is estimated.
    """

    cdef object otherwise
    cdef Maker maker
    cdef dict grid, same
    cdef object symbol, timeframe, open_ts, end_ts, open, high, low, close, volume
    cdef object quote_volume, vwap, n_trades, is_closed, weighted  # None: not in these rows

    def __init__(self, model, source, keys, dict grid, otherwise, *, estimated, origin, weighted=None):
        self.otherwise = otherwise
        self.maker = Maker(model)
        self.grid = grid
        # In the order of the fields; what differs from row to row is put in its place.
        self.same = dict.fromkeys(model.model_fields) | {
            "source": source, "is_complete": True, "estimated": estimated, "origin": origin
        }
        self.symbol = keys.get("symbol", "symbol")
        self.timeframe = keys.get("timeframe", "timeframe")
        self.open_ts = keys.get("open_ts", "open_ts")
        self.end_ts = keys.get("end_ts", "end_ts")
        self.open = keys.get("open", "open")
        self.high = keys.get("high", "high")
        self.low = keys.get("low", "low")
        self.close = keys.get("close", "close")
        self.volume = keys.get("volume", "volume")
        self.quote_volume = keys.get("quote_volume")
        self.vwap = keys.get("vwap")
        self.n_trades = keys.get("n_trades")
        self.is_closed = keys.get("is_closed")
        self.weighted = weighted

    def made(self, row):
        """The Kline of a row."""
        cdef object symbol, timeframe, start, end
        kline = None
        if type(row) is dict:
            start = _held(row, self.open_ts)
            end = _held(row, self.end_ts)
            symbol = _held(row, self.symbol)
            timeframe = _held(row, self.timeframe)
            kline = self.usual(row, symbol, timeframe, start, end)
        return self.otherwise(row) if kline is None else kline

    def placed(self, row, tuple place not None):
        """The Kline of a row that does not say these itself: (symbol, timeframe, open_ts, end_ts)."""
        kline = self.usual(row, place[0], place[1], place[2], place[3]) if type(row) is dict else None
        return self.otherwise(row, place) if kline is None else kline

    def listed(self, row, symbol, timeframe):
        """The Kline of [start, open, high, low, close, volume]; what else may follow."""
        kline = self.usual_list(row, symbol, timeframe)
        return self.otherwise(row, symbol, timeframe) if kline is None else kline

    cdef object usual_list(self, row, symbol, timeframe):
        """The Kline; None: the row is not as usual."""
        if type(row) is not list or len(<list>row) < 6 or not _is_name(symbol) or not _is_name(timeframe):
            return None
        cdef list values = row
        cdef PyObject* found = PyDict_GetItem(self.grid, timeframe)
        if found is NULL:
            return None
        cdef long long step = <object>found
        cdef long long start = _whole(values[0], LATEST)
        if start < 0 or step <= 1 or start % step or start + step - 1 > LATEST:
            return None
        cdef double first = _number(<PyObject*>values[1])
        cdef double high = _number(<PyObject*>values[2])
        cdef double low = _number(<PyObject*>values[3])
        cdef double last = _number(<PyObject*>values[4])
        cdef double volume = _number(<PyObject*>values[5])
        if not (0 < low <= high < HUGE_PRICE and 0 < first < HUGE_PRICE and 0 < last < HUGE_PRICE):
            return None
        if not 0 <= volume < HUGE_VOLUME:
            return None
        fields = PyDict_Copy(self.same)
        PyDict_SetItem(fields, "symbol", symbol)
        PyDict_SetItem(fields, "timeframe", timeframe)
        PyDict_SetItem(fields, "open_ts", values[0])
        PyDict_SetItem(fields, "end_ts", start + step - 1)
        PyDict_SetItem(fields, "open", first)
        PyDict_SetItem(fields, "high", high)
        PyDict_SetItem(fields, "low", low)
        PyDict_SetItem(fields, "close", last)
        PyDict_SetItem(fields, "volume", volume)
        return self.maker.made(fields)

    cdef object usual(self, dict row, symbol, timeframe, open_ts, end_ts):
        """The Kline; None: the row is not as usual."""
        if not _is_name(symbol) or not _is_name(timeframe):
            return None
        cdef PyObject* found = PyDict_GetItem(self.grid, timeframe)
        if found is NULL:
            return None
        cdef long long step = <object>found
        cdef long long start = _whole(open_ts, LATEST)
        cdef long long end = _whole(end_ts, LATEST)
        if start < 0 or end <= start or start % step or end != start + step - 1:
            return None
        cdef double first = _number(PyDict_GetItem(row, self.open))
        cdef double high = _number(PyDict_GetItem(row, self.high))
        cdef double low = _number(PyDict_GetItem(row, self.low))
        cdef double last = _number(PyDict_GetItem(row, self.close))
        if not (0 < low <= high < HUGE_PRICE and 0 < first < HUGE_PRICE and 0 < last < HUGE_PRICE):
            return None
        cdef double volume = _number(PyDict_GetItem(row, self.volume))
        if not 0 <= volume < HUGE_VOLUME:
            return None
        fields = PyDict_Copy(self.same)
        cdef double value
        if self.weighted is not None:
            value = _number(PyDict_GetItem(row, self.weighted))
            if not (0 < volume and 0 <= value < HUGE_VOLUME and volume * value < HUGE_VOLUME):
                return None
            PyDict_SetItem(fields, "vwap", value)
            PyDict_SetItem(fields, "quote_volume", volume * value)
        if not _put_amount(fields, "quote_volume", row, self.quote_volume):
            return None
        if not _put_amount(fields, "vwap", row, self.vwap):
            return None
        if self.n_trades is not None:
            found = PyDict_GetItem(row, self.n_trades)
            if found is NULL:
                return None
            if <object>found is not None:
                if _whole(<object>found, EXACT - 1) < 0:
                    return None
                PyDict_SetItem(fields, "n_trades", <object>found)
        if self.is_closed is not None:
            found = PyDict_GetItem(row, self.is_closed)
            if found is NULL:
                return None
            if <object>found is True or <object>found is False:
                PyDict_SetItem(fields, "is_closed", <object>found)
            elif type(<object>found) is str and <object>found == "0":
                PyDict_SetItem(fields, "is_closed", False)
            elif type(<object>found) is str and <object>found == "1":
                PyDict_SetItem(fields, "is_closed", True)
            elif <object>found is not None:
                return None
        PyDict_SetItem(fields, "symbol", symbol)
        PyDict_SetItem(fields, "timeframe", timeframe)
        PyDict_SetItem(fields, "open_ts", open_ts)
        PyDict_SetItem(fields, "end_ts", end_ts)
        PyDict_SetItem(fields, "open", first)
        PyDict_SetItem(fields, "high", high)
        PyDict_SetItem(fields, "low", low)
        PyDict_SetItem(fields, "close", last)
        PyDict_SetItem(fields, "volume", volume)
        return self.maker.made(fields)


def number(text):
    """The float that a row's value stands for, None where it is not of the usual form. For tests."""
    cdef double found = _number(<PyObject*>text)
    return None if found < 0 else found


cdef inline bint _put_amount(dict fields, name, dict row, key):
    """Put a number that is not below 0, or a null, into its field; False: the row holds neither."""
    if key is None:
        return True
    cdef PyObject* found = PyDict_GetItem(row, key)
    if found is NULL:
        return False
    if <object>found is None:
        return True
    cdef double value = _number(found)
    if not 0 <= value < HUGE_VOLUME:
        return False
    PyDict_SetItem(fields, name, value)
    return True


cdef inline object _held(dict row, key):
    """The value, None where there is none: either is odd."""
    cdef PyObject* found = PyDict_GetItemWithError(row, key)
    if found is NULL:
        if PyErr_Occurred():  # of another key's comparison
            PyErr_Clear()
        return None
    return <object>found


cdef inline bint _is_name(object text):
    """A text of 1 to 64 characters."""
    return type(text) is str and 0 < PyUnicode_GET_LENGTH(text) <= 64


cdef inline long long _whole(object value, long long most) except -2:
    """An integer of 0 to ``most``, else -1."""
    if type(value) is not int:
        return -1
    cdef int is_over = 0
    cdef long long found = PyLong_AsLongLongAndOverflow(value, &is_over)
    return -1 if is_over or found < 0 or found > most else found


cdef inline double _number(PyObject* found):
    """A decimal text (digits, with a point between them or without), or a float or integer; else, or below 0, ODD."""
    if found is NULL:
        return ODD
    cdef double value
    if type(<object>found) is str:
        return _decimal(<object>found)
    if type(<object>found) is float:
        value = PyFloat_AS_DOUBLE(<object>found)
        return value if value >= 0 else ODD  # nan is not
    if type(<object>found) is int:
        try:
            value = <object>found
        except OverflowError:
            return ODD
        return value if value >= 0 else ODD
    return ODD


cdef double _decimal(object text):
    """The double nearest to a decimal text.

    Up to 2**53 the digits are a double, and so is the power of ten up to 10**22: their quotient, rounded once, is the
    nearest one (W. D. Clinger, How to Read Floating Point Numbers Accurately, 1990). Longer ones go to ``float``.
    """
    if not PyUnicode_IS_COMPACT_ASCII(text):
        return ODD
    cdef const unsigned char* data = <const unsigned char*>PyUnicode_DATA(text)
    cdef Py_ssize_t length = PyUnicode_GET_LENGTH(text)
    cdef Py_ssize_t place, point = -1, digits = 0
    cdef unsigned long long mantissa = 0
    cdef unsigned char one
    if length == 0 or length > 64:
        return ODD
    for place in range(length):
        one = data[place] - 48
        if one <= 9:
            digits += 1
            if digits <= EXACT_DIGITS:
                mantissa = mantissa * 10 + one
        elif data[place] == 46 and point < 0 and 0 < place < length - 1:
            point = place
        else:
            return ODD
    cdef Py_ssize_t behind = length - 1 - point if point >= 0 else 0
    if digits <= EXACT_DIGITS and mantissa <= EXACT and behind <= 22:
        return <double>mantissa / sm_tens[behind]
    return float(text)


include "native/quotes.pxi"
include "native/times.pxi"
