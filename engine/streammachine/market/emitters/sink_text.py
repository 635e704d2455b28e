"""Sinks by their text form, as command lines and tools name them; which there are stands in ``registry``."""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from streammachine.errors import EmitterError
from streammachine.market.emitters.base import DataEmitter
from streammachine.market.emitters.registry import BY_WORD, SinkEntry, accepted_text
from streammachine.masking import HIDDEN, mask_url

ACCEPTED: Final = accepted_text()
SIMULATED: Final = "simulated:"  # begins the names of Redis streams of made-up candles


@dataclass(frozen=True, slots=True)
class SinkText:
    """A sink's text, taken apart for the module that makes its emitter.

    Attributes:
        word: before the first colon, in lower case. rest: behind it. given: the whole.
        prefix: begins the names of what is made, where candles are simulated; else empty.
    """

    word: str
    rest: str
    given: str
    prefix: str = ""

    @property
    def url(self) -> str:
        """The rest as a URL, whether it has a scheme of its own (postgres:postgresql://) or the word is that."""
        return f"{self.word}:{self.rest}" if self.rest.startswith("//") else self.rest

    def refused(self, form: str) -> EmitterError:
        """The error for a text that lacks a part; ``form`` shows how it is written."""
        return EmitterError(f"the sink {shown(self.given)!r} is not accepted: write {form}")


def emitter_for(text: str, *, simulated: bool = False) -> DataEmitter:
    """The emitter that a text means; ``simulated``: Redis streams of its own, that no real candle has to follow.

    ``log`` · ``csv:out.csv`` · ``parquet:folder`` · ``redis`` (the server that is configured, or the embedded one) ·
    ``redis://host:6379/0`` · ``postgres:postgresql://user@host/db#table`` (also without the first ``postgres:``) ·
    ``kafka:host:9092,host2:9092/topic``; all that there are: ``ACCEPTED``.

    Raises:
        EmitterError: the text is none of them, or lacks a part; the message shows the form.
    """
    word, colon, rest = text.strip().partition(":")
    word, rest = word.lower(), rest.strip()
    entry = BY_WORD.get(word)
    if entry is None or (colon and entry.rest == "none"):
        raise unknown(text)
    if not rest and entry.rest == "needed":
        raise EmitterError(f"the sink {shown(text)!r} lacks what follows {word}:...: give one of {ACCEPTED}")
    made: DataEmitter = module_of(entry).from_text(SinkText(word, rest, text, SIMULATED if simulated else ""))
    return made


def module_of(entry: SinkEntry) -> Any:
    """The module of a sink, loaded now; see ``registry`` for what it gives."""
    return importlib.import_module(entry.home)


def emitters_for(texts: Sequence[str], *, simulated: bool = False) -> list[DataEmitter]:
    """The emitters that texts mean; ``simulated``: see ``emitter_for``.

    Raises:
        EmitterError: as ``emitter_for``, or two mean the same place, which would get every row twice.
    """
    emitters = [emitter_for(text, simulated=simulated) for text in texts]
    places: set[object] = set()
    for text, emitter in zip(texts, emitters, strict=True):
        place = getattr(emitter, "target", type(emitter))
        if place in places:
            raise EmitterError(f"the sink {shown(text)!r} is given twice: name each place once")
        places.add(place)
    names = [emitter.name for emitter in emitters]
    for text, emitter in zip(texts, emitters, strict=True):
        if names.count(emitter.name) > 1:
            emitter.name = shown(text)  # which of them is meant
    return emitters


def shown(text: str) -> str:
    """The text of a sink without what is, or may be, a password."""
    word, colon, rest = text.partition(":")
    entry = BY_WORD.get(word.strip().lower())
    if entry is not None and not entry.may_hold_password:
        return text
    if entry is not None and entry.path_is_secret:
        scheme, mark, place = rest.strip().partition("://")
        host = re.split(r"[/?#]", place.rpartition("@")[2], maxsplit=1)[0] if mark and scheme.isalpha() else ""
        return f"{word}:{scheme}://{host}/{HIDDEN}" if re.fullmatch(r"[\w.:\[\]-]+", host) else f"{word}:{HIDDEN}"
    if rest.startswith("//"):
        return mask_url(text)
    if "://" not in text and "@" in text:
        return mask_url(text.rpartition("@")[2])
    return f"{word}:{mask_url(rest)}" if colon else mask_url(text)


def unknown(text: str) -> EmitterError:
    """The error for a text that names no sink."""
    return EmitterError(f"there is no sink {mask_url(text.partition(':')[0])!r}: give one of {ACCEPTED}")
