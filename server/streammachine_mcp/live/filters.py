"""CEL filters over messages, as declared agents have them: bounded, and outside the server's loop."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from streammachine.redis.streams import Entry

if TYPE_CHECKING:
    from streammachine.runtime.declared.agents import Expressions
    from streammachine.runtime.declared.evaluator import Evaluator

log = logging.getLogger(__name__)

MOST_KEPT = 100  # filters that are kept compiled


class Filters:
    """Evaluates filters; what costs more than a moment does so in one child process that all of them share."""

    def __init__(self) -> None:
        self._evaluator: Evaluator | None = None
        self._kept: dict[str, Expressions] = {}

    async def check(self, text: str) -> None:
        """Refuse a filter that is none.

        Raises:
            ExpressionError: says what is wrong and where.
        """
        await self._prepared(text)

    async def passes(self, text: str, stream: str, entry: Entry) -> bool:
        """Whether a message passes; one on which the filter fails does not."""
        from streammachine.runtime.declared.expressions import ExpressionFailed
        from streammachine.runtime.model.message import Message

        try:
            expressions = await self._prepared(text)
            return await expressions.transform(Message(stream, entry.id, data=entry.raw)) is not None
        except ExpressionFailed as error:
            log.debug("The filter %s on %s of %s: %s", text, entry.id, stream, error)
            return False

    async def close(self) -> None:
        """End the child processes."""
        for expressions in self._kept.values():
            await expressions.close()
        self._kept.clear()
        if self._evaluator is not None:
            await self._evaluator.close()

    async def _prepared(self, text: str) -> Expressions:
        from streammachine.runtime.declared.agents import DeclaredAgent, Expressions
        from streammachine.runtime.declared.evaluator import Evaluator

        if text not in self._kept:
            if self._evaluator is None:
                self._evaluator = Evaluator()
            expressions = Expressions(DeclaredAgent("event", "messages", "events", filter=text), self._evaluator)
            await expressions.prepare()
            while len(self._kept) >= MOST_KEPT:
                await self._kept.pop(next(iter(self._kept))).close()
            self._kept[text] = expressions
        return self._kept[text]
