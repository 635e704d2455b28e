"""What the tools give back: bounded, and the same data as text and as structured content."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import orjson

T = TypeVar("T")

# Claude Code hands at most about 25,000 tokens of a result to its model, Claude Desktop about 100,000 characters;
# the data goes over the wire twice (content and structuredContent).
MAX_RESULT_BYTES = 60_000
MAX_VALUE_BYTES = 200_000  # one value that is the whole result (storage_read, obj_get)
MAX_SEND_BYTES = 1_000_000  # one message or value sent by a tool
MAX_BATCH = 1000  # messages or ticks in one call
_SHORTEST = 10  # characters that a field of a very wide message is cut to


def json_size(value: Any) -> int:
    """The bytes of ``value`` as JSON."""
    try:
        return len(orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS))
    except (TypeError, orjson.JSONEncodeError):  # integers past 64 bits, lone surrogates
        return len(json.dumps(value, ensure_ascii=False, default=str).encode("utf-8", "replace"))


def fit(items: Iterable[T], budget: int = MAX_RESULT_BYTES) -> tuple[list[T], bool]:
    """The leading items that fit into ``budget`` bytes of JSON (the first always), and whether any was left out."""
    kept: list[T] = []
    used = 0
    for item in items:
        size = json_size(item) + 2
        if kept and used + size > budget:
            return kept, True
        kept.append(item)
        used += size
    return kept, False


def cut_text(text: str, limit: int) -> str:
    """``text``, or its beginning and a note of its length when it is longer than ``limit`` characters."""
    if len(text) <= limit:
        return text
    return f"{text[:limit]}… [cut: {len(text):,} characters in all]"


def fit_fields(data: Mapping[str, str], limit: int, budget: int = MAX_RESULT_BYTES) -> tuple[dict[str, str], int]:
    """Fields within ``budget`` bytes of JSON, and how many were left out.

    Names and values are cut to ``limit`` characters; when all of them together are still too long, to fewer, so that
    every field is seen. Only then the last ones are left out.
    """
    while True:
        shown = {cut_text(name, limit): cut_text(value, limit) for name, value in data.items()}
        if json_size(shown) <= budget:
            return shown, len(data) - len(shown)
        if limit <= _SHORTEST:
            kept, _ = fit(shown.items(), budget)
            return dict(kept), len(data) - len(kept)
        limit = max(_SHORTEST, limit // 4)
