# Bounds of the values, and the layout of a dump. Uses: nothing of the other rooms.

cdef extern from *:  # as values.py has them; constants for the compiler
    """
    #define SM_MAX_MS 9000000000000000LL
    #define SM_EARLIEST_MS 946684800000LL
    #define SM_LATEST_MS 4133980799999LL
    #define SM_MAX_COUNT (1LL << 53)
    """
    const int64_t MAX_MS "SM_MAX_MS"
    const int64_t EARLIEST_MS "SM_EARLIEST_MS"
    const int64_t LATEST_MS "SM_LATEST_MS"
    const int64_t MAX_COUNT "SM_MAX_COUNT"

assert (MAX_MS, EARLIEST_MS, LATEST_MS, MAX_COUNT) == (
    _values.MAX_MS, _values.EARLIEST_MS, _values.LATEST_MS, _values.MAX_COUNT
)

cdef int MAX_NESTING = _values.MAX_NESTING
cdef int64_t WEEK_MS = 604_800_000
cdef int64_t MONDAY_SHIFT_MS = 259_200_000  # epoch day 0 is a Thursday, three days into a week
cdef int64_t NO_MARK = INT64_MIN

cdef enum:
    ALIASES = 512  # a power of two; bounds the symbol objects remembered by identity

cdef enum:  # what became of a tick
    ACCEPTED = 1
    LATE = 2

MAGIC = b"SMOHLC"
VERSION = 1
HEAD = struct.Struct("<6sHqqqqI")  # magic, version, max_candles, tick, late and dropped counts, intervals
SLOT = struct.Struct("<qBI")  # watermark, pending, candles
I64 = struct.Struct("<q")
U32 = struct.Struct("<I")

cdef bytes MAGIC_BYTES = MAGIC
cdef enum:
    HEAD_SIZE = 44
    SLOT_SIZE = 13
assert HEAD.size == HEAD_SIZE and SLOT.size == SLOT_SIZE
