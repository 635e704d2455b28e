import numpy as np
from numpy.typing import NDArray

ENDED: int
FULL: int
ODD: int

def read_lines(
    data: bytes | bytearray | memoryview,
    at: int,
    step: int,
    volume: int,
    quote: int,
    starts: NDArray[np.int64],
    numbers: NDArray[np.float64],
    trades: NDArray[np.int64],
    places: NDArray[np.int64],
) -> tuple[int, int, int]: ...
def joined(columns: list[bytes | tuple[bytes]], count: int, separator: bytes, end: bytes) -> bytes: ...
