"""Pauses between tries: they double, stay within bounds, and begin anew."""

from __future__ import annotations

from streammachine.backoff import Backoff


def test_pauses_double_up_to_the_last_and_are_jittered_within_their_upper_half() -> None:
    backoff = Backoff(0.5, 4.0)
    for upper in (0.5, 1.0, 2.0, 4.0, 4.0):
        assert backoff.seconds == upper
        assert upper / 2 <= backoff.pause() <= upper


def test_two_series_are_not_the_same() -> None:
    one, other = Backoff(1.0, 1.0), Backoff(1.0, 1.0)
    assert [one.pause() for _ in range(5)] != [other.pause() for _ in range(5)]


def test_reset_begins_anew() -> None:
    backoff = Backoff(0.5, 30.0)
    backoff.pause()
    backoff.pause()
    backoff.reset()
    assert backoff.seconds == 0.5
