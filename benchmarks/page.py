"""Write the tables of one run into docs/speed.md, which then shows that run whole.

    make bench | tee run.txt && python -m benchmarks.page run.txt

Each ``<!-- run: SUBJECT -->`` of the page gets what that subject printed, ``<!-- run: targets -->`` what was to be
reached of all subjects, ``<!-- run: machine -->`` the last line. A subject that the run left out is an error, so that
no table of another run stays.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "speed.md"
PLACE = re.compile(r"(<!-- run: (\w+) -->\n).*?(<!-- /run -->)", re.DOTALL)
HEAD = re.compile(r"^== .* \(benchmarks/(\w+)\.py\) ==$", re.MULTILINE)
TARGETS = re.compile(r"^target +wanted\b.*?(?:\n\n|\Z)", re.MULTILINE | re.DOTALL)


def parts(output: str) -> dict[str, str]:
    """What a run printed, by subject, with the targets of all and the machine beside them."""
    body, _, machine = output.rpartition("\nMeasured on ")
    pieces = HEAD.split(body)
    found = {name: text.strip("\n") for name, text in zip(pieces[1::2], pieces[2::2], strict=True)}
    reached = "\n\n".join(
        f"{name}\n{table.group().rstrip()}" for name, text in found.items() for table in TARGETS.finditer(f"{text}\n")
    )
    without = {name: TARGETS.sub("", f"{text}\n").strip("\n") for name, text in found.items()}
    return without | {"targets": reached, "machine": f"Measured on {machine}".strip()}


def written(page: str, found: Mapping[str, str]) -> str:
    """The page with its places filled."""

    def filled(place: re.Match[str]) -> str:
        return f"{place[1]}```text\n{found[place[2]]}\n```\n{place[3]}"

    return PLACE.sub(filled, page)


def main(file: str) -> None:
    """Fill the page from a file that holds the output."""
    output = Path(file).read_text(encoding="utf-8")
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), parts(output)), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
