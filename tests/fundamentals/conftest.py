"""What the tutorial stands on: a Valkey of the run's own. ``redis`` is an open connection to it, emptied before each
chapter; ``settings`` names it. In your own program neither is needed: without arguments everything finds its server.
"""

from __future__ import annotations

import pytest

from streammachine import App
from streammachine.settings import Settings


@pytest.fixture
def app(redis: object, settings: Settings) -> App:
    """An App on the chapter's empty server. In your program: ``app = App(name="tutorial")``."""
    return App(name="tutorial", to_scan=False, settings=settings)
