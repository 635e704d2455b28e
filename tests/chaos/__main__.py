"""The long form: ``python -m tests.chaos [--messages 100000] [--kills 50] [--cuts 2500] [--seed 1] [--runs 1]``."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
for place in ("tests", "engine"):
    sys.path.insert(0, str(ROOT / place))

from chaos.driver import Chaos, Plan  # noqa: E402


def main() -> int:
    """Run it as often as asked; 1 when something was lost or repeated."""
    parser = argparse.ArgumentParser(description="Kill, freeze and restart while messages flow.")
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--zombies", type=int, default=Plan.zombies)
    parser.add_argument("--seed", type=int, default=Plan.seed)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="a folder for the logs, instead of a temporary one")
    parser.add_argument("--cuts", type=int, default=2500, help="cuts of the network")
    options = parser.parse_args()
    failed = False
    for seed in range(options.seed, options.seed + options.runs):
        plan = Plan(
            messages=options.messages, kills=options.kills, zombies=options.zombies, cuts=options.cuts, seed=seed
        )
        with tempfile.TemporaryDirectory(prefix="sm-chaos-") as temporary:
            folder = Path(temporary) if options.keep is None else options.keep / str(seed)
            folder.mkdir(parents=True, exist_ok=True)
            report = Chaos(plan, folder, say=lambda text: print(f"  {text}", flush=True)).run()
        print(report, flush=True)
        failed = failed or bool(report.problems())
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
