"""The shared suite runs over both implementations."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

import pytest

NATIVE_BUILT = importlib.util.find_spec("streammachine.ohlc.fast") is not None


def native() -> ModuleType:
    if not NATIVE_BUILT:
        pytest.skip("streammachine.ohlc.fast is not built here (no C compiler): only the plain-Python twin is tested")
    return importlib.import_module("streammachine.ohlc.fast")


def twin() -> ModuleType:
    return importlib.import_module("streammachine.ohlc.reference")


@pytest.fixture(params=["native", "twin"], scope="session")
def engine(request: pytest.FixtureRequest) -> ModuleType:
    """A module with FastOHLC and CandleData."""
    return native() if request.param == "native" else twin()


@pytest.fixture(scope="session")
def both() -> tuple[ModuleType, ModuleType]:
    """The native module and its twin."""
    return native(), twin()
