# SPDX-License-Identifier: GPL-2.0-or-later
"""`make demo`: the main job on a private cluster, told step by step.

Four tasks on two nodes count; they are vacated midway and restarted on two other nodes; what both
runs printed is put together, and no number may be missing or twice.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path

from tests.cluster import Cluster
from tests.login import Login, until

TASKS, LINES, STATUS = 4, 60, 3


def tell(text: str) -> None:
    print(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n{text}", flush=True)


def command(*words: str) -> None:
    print("alice@n0$ " + " ".join(words), flush=True)


def play(cluster: Cluster) -> bool:
    """Run the demo; tell whether everything was as it should be."""
    place = cluster.shared / "demo"
    place.mkdir(mode=0o755, exist_ok=True)
    os.chown(place, 1001, 1001)
    alice = Login(cluster, "alice", "n0", place)
    victim = alice.victim("count.py")
    print(alice.run("sinfo").stdout, end="")

    tell(f"{TASKS} tasks on 2 nodes each count to {LINES}; task 0 will exit with {STATUS}")
    words = ["srun", "--cr", "-w", "n0,n1", f"-n{TASKS}", victim, str(LINES), str(STATUS)]
    command(*words)
    job = alice.popen(*words)
    step = alice.step()
    print(alice.run("squeue", "-s").stdout, end="")

    tell("midway: checkpoint the step and end it")
    assert job.stdout is not None
    before = "".join(job.stdout.readline() for _ in range(TASKS * LINES // 3))
    command("pycr", "vacate", step)
    vacated = alice.pycr("vacate", step)
    print(vacated.stdout + vacated.stderr, end="")
    rest, errors = job.communicate(timeout=60)
    before += rest
    print(errors, end="")
    print(f"srun ended with {job.returncode}; {len(before.splitlines())} lines so far")
    command("pycr", "ls")
    print(alice.pycr("ls").stdout, end="")

    tell("later, on other nodes: go on")
    words = ["pycr", "restart", step, "-w", "n2,n3"]
    command(*words)
    again = alice.popen(*words)
    new = until("the restarted step", lambda: [name for name in alice.steps() if name != step])
    print(alice.run("squeue", "-s").stdout, end="")
    after, errors = again.communicate(timeout=60)
    print(errors, end="")
    print(f"step {new[0]} ended with {again.returncode}; {len(after.splitlines())} lines more")

    counted = Counter((before + after).splitlines())
    wanted = [f"{task} {line}" for task in range(TASKS) for line in range(LINES)]
    missing = [line for line in wanted if counted[line] == 0]
    twice = [line for line in counted if counted[line] > 1]
    tell(f"numbers missing: {len(missing)}; twice: {len(twice)}; exit status {again.returncode}")
    return (
        vacated.returncode == 0
        and not missing
        and not twice
        and len(counted) == len(wanted)
        and again.returncode == STATUS
    )


def main() -> int:
    """Bring a cluster up, play, and take it down."""
    tell("a private Slurm cluster of four nodes on this machine")
    kept = Cluster.is_up() or bool(os.environ.get("PYCR_KEEP_CLUSTER"))
    cluster = Cluster.up(nodes=4)
    try:
        good = play(cluster)
    finally:
        if not kept:
            cluster.down()
    print("all is as if nothing had happened" if good else "FAILED")
    print(f"\nto try it yourself: cd {Path.cwd()}; python3 -m tests.cluster up")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
