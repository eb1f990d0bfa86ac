# SPDX-License-Identifier: GPL-2.0-or-later
"""`python3 -m tests.faults`: run rounds, a line each, and print the table."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from tests.cluster import Cluster
from tests.cluster.state import CHECKOUT
from tests.faults import plan
from tests.faults.faults import FAULTS
from tests.faults.round import Result, Round

KEPT = CHECKOUT / "build" / "faults"
HEAD = ("fault", "rounds", "hit", "made", "ran on", "restarted", "left", "wrong")


def run(cluster: Any, wanted: plan.Plan, more: str) -> Result:
    """Run one round and print its line. more: the options that have it drawn again."""
    keep = KEPT / f"{wanted.seed}-{wanted.number}"
    result = Round(cluster, wanted).run(keep)
    words = result.words.strip().replace("\n", " / ")
    print(
        f"{wanted}: {result.hit or 'nothing was there to be hit'}; pycr {result.status}"
        f"{f' ({words})' if words else ''}; {'made' if result.made else 'not made'},"
        f" {'ran on' if result.ran_on else 'ended'},"
        f" {'restarted' if result.restarted else 'not restarted'}"
        f"{''.join(f', {note}' for note in result.notes)}; {result.seconds:.1f} s:"
        f" {'WRONG' if result.problems else 'right'}",
        flush=True,
    )
    for problem in result.problems:
        print(f"    {problem}")
    if result.problems:
        print(
            f"    again: python3 -m tests.faults --seed {wanted.seed} --only {wanted.number}{more}"
        )
        print(f"    kept: {keep}", flush=True)
    return result


def table(results: list[tuple[plan.Plan, Result]]) -> str:
    """Return the table by fault, as Markdown."""
    rows = [HEAD, tuple("---" for _ in HEAD)]
    for name in [*FAULTS, "all"]:
        own = [result for each, result in results if name in (each.fault, "all")]
        if own:
            counts = (
                len(own),
                sum(bool(each.hit) for each in own),
                sum(each.made for each in own),
                sum(each.ran_on for each in own),
                sum(each.restarted for each in own),
                sum(bool(each.left) for each in own),
                sum(bool(each.problems) for each in own),
            )
            rows.append((name, *map(str, counts)))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> int:
    """Run what the command line asks for; the status says whether every promise was kept."""
    parser = argparse.ArgumentParser(prog="python3 -m tests.faults", description=__doc__)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--fault", action="append", default=[], choices=sorted(FAULTS))
    parser.add_argument("--only", type=int, metavar="ROUND", help="this round of the seed alone")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all results there")
    arguments = parser.parse_args()
    names = plan.names(arguments.fault)
    numbers = range(arguments.rounds) if arguments.only is None else [arguments.only]
    cluster = Cluster.up(nodes=len(plan.NODES))
    more = "".join(f" --fault {name}" for name in arguments.fault)
    results = []
    for number in numbers:
        wanted = plan.draw(arguments.seed, number, names)
        results.append((wanted, run(cluster, wanted, more)))
    print(table(results))
    if arguments.json:
        rows = [{**each._asdict(), **result._asdict()} for each, result in results]
        arguments.json.write_text(json.dumps(rows, indent=1))
    return int(any(result.problems for _, result in results))


if __name__ == "__main__":
    sys.exit(main())
