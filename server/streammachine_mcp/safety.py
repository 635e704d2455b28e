"""Destructive calls are confirmed, and wrong calls are answered with words that the model can act on.

Confirming, in this order: ``confirm=true`` goes ahead; a client that can ask its user is asked by
elicitation; every other client gets a plan of what would happen and a ``confirm_token`` for it: bound to the names
and the values (or versions) that would be deleted, good for five minutes and for one call.
An elicitation that nobody answers in time falls back to the plan: some clients declare it and never show it.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
import time
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import anyio
import pydantic
from fastmcp import Context
from fastmcp.exceptions import DisabledError, NotFoundError, ToolError, ValidationError
from fastmcp.server.middleware import CallNext, Middleware, MiddlewareContext
from fastmcp.tools.base import ToolResult
from mcp.shared.exceptions import MCPError
from mcp_types import (
    CallToolRequestParams,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    InputRequiredResult,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from typing_extensions import TypedDict

from streammachine.redis.streams import nearest

TOKEN_LIFE = 300  # seconds a confirm_token is good for
_MOST_PROBLEMS = 4  # of a call's arguments that one error names
ASK_TIMEOUT = 40.0  # seconds for the user's answer, below the tool's own 45 s

# The two arguments of every tool that is confirmed.
Confirm = Annotated[bool, pydantic.Field(description="Only if the user has agreed")]
ConfirmToken = Annotated[str | None, pydantic.Field(description="Of the plan agreed to")]

_QUESTION: dict[str, Any] = {
    "type": "object",
    "properties": {"confirm": {"type": "boolean", "title": "Delete?", "default": False}},
    "required": ["confirm"],
}
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """What a destructive call would do: the operation, how many things it hits, and a text that pins them down, with
    their values or versions."""

    operation: str
    count: int
    fingerprint: str
    text: str

    @property
    def state(self) -> str:
        """What a confirmation is bound to: the operation, and the things it hits."""
        return f"{self.operation}\n{self.fingerprint}"


class Unconfirmed(TypedDict, total=False):
    """What a destructive tool gives back when nothing was done: the plan and the token to go ahead with it."""

    confirmed: bool
    plan: str
    count: int
    confirm_token: str
    expires_in_s: int
    hint: str


class Confirmer:
    """Decides whether a destructive call goes ahead. One per server; its tokens die with the process."""

    def __init__(self) -> None:
        self._secret = secrets.token_bytes(32)
        self._used: dict[str, float] = {}  # tokens that were used, and when they expire

    async def decide(
        self, ctx: Context, plan: Plan, *, confirm: bool, token: str | None
    ) -> Literal[True] | Unconfirmed | InputRequiredResult:
        """True to go ahead; else what the tool gives back: the plan with a token, or the question to the user.

        Raises:
            ToolError: the token is wrong, expired or for another plan; or the user said no.
        """
        if confirm:
            return True
        if token is not None:
            self.take(plan, token)
            return True
        answer = await _ask(ctx, plan, self)
        if isinstance(answer, InputRequiredResult):
            return answer
        if answer is None:
            return self._proposal(plan)
        if not answer:
            raise _refusal(f"The user did not confirm, so nothing was deleted ({plan.text}).")
        return True

    def _proposal(self, plan: Plan) -> Unconfirmed:
        return {
            "confirmed": False,
            "plan": plan.text,
            "count": plan.count,
            "confirm_token": self.token(plan),
            "expires_in_s": TOKEN_LIFE,
            "hint": "Nothing was deleted. Ask the user; if they agree, call again with this confirm_token.",
        }

    def token(self, plan: Plan) -> str:
        """A token for this plan."""
        facts = f"{int(time.time()) + TOKEN_LIFE}.{secrets.token_hex(8)}"
        return f"{facts}.{self._sign(plan, facts)}"

    def take(self, plan: Plan, token: str) -> None:
        """Check a token, and use it up.

        Raises:
            ToolError: it is wrong, expired, used, or for another plan.
        """
        facts, _, signature = token.rpartition(".")
        if not hmac.compare_digest(signature.encode("utf-8", "replace"), self._sign(plan, facts).encode()):
            raise _refusal(
                "This confirm_token does not fit: it is wrong, or what would be deleted has changed since. "
                f"Nothing was deleted. Call again without it for a new plan (now: {plan.text})."
            )
        now, expires = time.time(), int(facts.partition(".")[0])
        if now > expires:
            raise _refusal("This confirm_token has expired. Nothing was deleted. Call again without it for a new one.")
        self._used = {used: end for used, end in self._used.items() if end >= now}
        if token in self._used:
            raise _refusal(
                "This confirm_token was used before; each is for one call. Nothing was deleted. Call again without it."
            )
        self._used[token] = expires

    def _sign(self, plan: Plan, facts: str) -> str:
        text = f"{plan.state}\n{facts}"
        return hmac.new(self._secret, text.encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()[:32]


def _refusal(text: str) -> ToolError:
    return ToolError(text, log_level=logging.INFO)


async def _ask(ctx: Context, plan: Plan, confirmer: Confirmer) -> bool | InputRequiredResult | None:
    """Ask the client's user; None where the client cannot ask, or did not."""
    if not _can_ask(ctx):
        return None
    params = ElicitRequestFormParams(message=f"{plan.text}. Go ahead?", requested_schema=_QUESTION)
    request = ctx.request_context
    if request is not None and request.protocol_version in MODERN_PROTOCOL_VERSIONS:
        if not ctx.input_responses or "confirm" not in ctx.input_responses:
            return InputRequiredResult(
                result_type="input_required",
                request_state=confirmer.token(plan),
                input_requests={"confirm": ElicitRequest(method="elicitation/create", params=params)},
            )
        answer = ctx.input_responses["confirm"]
        agreed = isinstance(answer, ElicitResult) and _agreed(answer)
        if agreed:
            confirmer.take(plan, ctx.request_state or "")
        return agreed
    try:
        with anyio.move_on_after(ASK_TIMEOUT):
            return _agreed(
                await ctx.session.elicit(
                    message=params.message, requested_schema=_QUESTION, related_request_id=ctx.request_id
                )
            )
    except MCPError as error:
        log.info("The client declares elicitation and refuses to ask its user: %s", error)
    except pydantic.ValidationError:
        raise _refusal(
            "The client's answer to the question is none (accept, decline or cancel), so nothing was deleted "
            f"({plan.text}). Call again with confirm=true once the user has agreed."
        ) from None
    return None


def _can_ask(ctx: Context) -> bool:
    """Whether the client declares elicitation by form; ``{}`` means that, too."""
    capabilities = ctx.session.client_capabilities
    elicitation = capabilities.elicitation if capabilities is not None else None
    return elicitation is not None and (elicitation.form is not None or elicitation.url is None)


def _agreed(answer: ElicitResult) -> bool:
    """Whether the user agreed; a client may send "false" as text, so nothing but ``true`` counts."""
    return answer.action == "accept" and (answer.content or {}).get("confirm") is True


class ToolMiddleware(Middleware):
    """Middleware of tool calls: one goes to ``on_call_tool`` at once, not through hooks that nobody uses."""

    async def __call__(self, context: MiddlewareContext[Any], call_next: CallNext[Any, Any]) -> Any:
        """Serve one message. One that is no good call is a plain mapping still, and for FastMCP's other hooks."""
        if isinstance(context.message, CallToolRequestParams):
            return await self.on_call_tool(context, call_next)
        return await super().__call__(context, call_next)


class FriendlyErrors(ToolMiddleware):
    """Wrong arguments and unknown tools, in words that say what to do: no traceback, no library's URL."""

    async def on_call_tool(
        self, context: MiddlewareContext[CallToolRequestParams], call_next: CallNext[CallToolRequestParams, ToolResult]
    ) -> ToolResult:
        name = context.message.name
        try:
            return await call_next(context)
        except (ValidationError, pydantic.ValidationError) as error:
            cause = error if isinstance(error, pydantic.ValidationError) else error.__cause__
            if not isinstance(cause, pydantic.ValidationError):
                raise
            known = await _parameters(context, name)
            raise ToolError(
                f"Invalid arguments for {name}: {_problems(cause)}. Its parameters are: {', '.join(known)}.",
                log_level=logging.INFO,
            ) from None
        except (NotFoundError, DisabledError):
            names = await _tool_names(context)
            raise ToolError(
                f"There is no tool {name!r}.{nearest(name, names)} A tool may also be switched off by --read-only or "
                "--toolsets: explain says what is off.",
                log_level=logging.INFO,
            ) from None


async def _tool_names(context: MiddlewareContext[Any]) -> list[str]:
    assert context.fastmcp_context is not None
    return [tool.name for tool in await context.fastmcp_context.fastmcp.list_tools(run_middleware=False)]


async def _parameters(context: MiddlewareContext[Any], name: str) -> list[str]:
    assert context.fastmcp_context is not None
    tool = await context.fastmcp_context.fastmcp.get_tool(name)
    return list(tool.parameters.get("properties", ())) if tool is not None else []


def _problems(error: pydantic.ValidationError) -> str:
    parts = []
    problems = error.errors(include_url=False, include_input=False)
    for problem in problems[:_MOST_PROBLEMS]:
        place = ".".join(str(part) for part in problem["loc"])
        text = problem["msg"].removeprefix("Value error, ").removesuffix(".")
        parts.append(f"{place}: {text}" if place else text)
    if len(problems) > _MOST_PROBLEMS:
        parts.append(f"and {len(problems) - _MOST_PROBLEMS} more")
    return "; ".join(parts)
