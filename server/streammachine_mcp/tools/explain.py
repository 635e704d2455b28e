"""explain: which tools, sinks and extras are off, why, and what turns them on."""

from typing import Annotated

from pydantic import Field
from typing_extensions import TypedDict

from streammachine_mcp.results import fit
from streammachine_mcp.tools.family import BRIEF, Family, tool


class OffRow(TypedDict):
    what: str
    names: list[str]
    why: str
    turn_on: str


class Explanation(TypedDict):
    off: list[Annotated[OffRow, BRIEF]]
    on: dict[str, list[str]]
    problem: str | None
    hint: str


class ExplainTools(Family):
    toolset = "health"

    @tool("explain", "What is off, and why", reads=True)
    async def explain(
        self, topic: Annotated[str, Field(description="Only what has to do with this word")] = ""
    ) -> Explanation:
        """Which tools, sinks and extras are off here, why, and what turns them on. Call it when
        a tool is missing, or says that something is not installed."""
        from streammachine_mcp.missing import missing, present

        settings = self.state.settings
        rows = [each for each in missing(settings) if each.is_about(topic)]
        kept, _ = fit(
            {"what": each.what, "names": list(each.names), "why": each.why, "turn_on": each.turn_on} for each in rows
        )
        hint = "Nothing is off." if not rows and not topic else ""
        if topic and not rows:
            hint = f"Nothing that has to do with {topic[:60]!r} is off. Leave topic out to see all that is."
        if rows:
            hint = (
                "A change is made where the server is started (its command line or environment), then it is restarted."
            )
        return {
            "off": kept,  # type: ignore[typeddict-item]
            "on": present(settings),
            "problem": str(self.state.problem) if self.state.problem is not None else None,
            "hint": hint,
        }
