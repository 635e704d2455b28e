"""``streams_to_dataframe_fast`` as it works where its native pass is not built."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pandas as pd

from streammachine.frames import convert


def by_columns(*arguments: Any, **options: Any) -> pd.DataFrame:
    with mock.patch.object(convert, "HAS_NATIVE", False):
        return convert.streams_to_dataframe_fast(*arguments, **options)
