"""The published streammachine 0.1.0 as a consumer of ``benchmarks/app.py``: it finds top-level handlers only.

python benchmarks/consumers/published.py published COUNT
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from roles import GROUP, STREAM, Counter

from streammachine import App

app: Any = App(name="bench", dashboard_enabled=False)
counter = Counter(int(sys.argv[2]))


@app.agent(STREAM, group=GROUP)
async def single(message: Any) -> None:
    """Count it."""
    counter.one()


app.start()
