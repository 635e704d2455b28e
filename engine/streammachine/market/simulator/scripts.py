"""Random fault scripts (placeholder)."""

from __future__ import annotations

from streammachine.market.simulator.faults import Script


def random_script(seed: int, **arguments: object) -> Script:
    """x"""
    return Script(())
