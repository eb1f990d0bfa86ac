# SPDX-License-Identifier: GPL-2.0-or-later
"""`make demo`: the main job on a private cluster, told step by step.

First a step: four tasks on two nodes count; they are vacated midway and restarted on two others.
Then a batch job: a script that runs such steps in a loop is vacated in one of them, restarted
as a new job on two other nodes, and requeued in another. What was printed is put together, and
must be what an unbroken run would have printed: no number missing or twice.
"""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from pathlib import Path

from tests.cluster import Cluster
from tests.login import Login, until

TASKS, LINES, STATUS = 4, 60, 3
ROUNDS, PER_ROUND = 4, 60
SCRIPT = f"""#!/bin/bash
#SBATCH --cr --nodes=2 --ntasks={TASKS} --output=sweep.out
rounds=0
for name in {" ".join("abcdefgh"[:ROUNDS])}; do
    echo "round $name"
    srun ./count.py {PER_ROUND} || exit
    rounds=$((rounds + 1))
done
echo "$rounds rounds done"
test $rounds = {ROUNDS}
"""


def tell(text: str) -> None:
    print(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n{text}", flush=True)


def command(*words: str) -> None:
    print("alice@n0$ " + " ".join(words), flush=True)


def do(alice: Login, *words: str) -> bool:
    """Run a command and show it, with what it prints; tell whether it succeeded."""
    command(*words)
    done = alice.run(*words)
    print(done.stdout + done.stderr, end="", flush=True)
    return done.returncode == 0


def count(lines: list[str], wanted: list[str]) -> tuple[int, int]:
    """Return how many lines are missing, and how many too many or wrong."""
    found, right = Counter(lines), Counter(wanted)
    return (right - found).total(), (found - right).total()


def play_step(alice: Login) -> bool:
    """Vacate and restart a step; tell whether everything was as it should be."""
    tell(f"{TASKS} tasks on 2 nodes each count to {LINES}; task 0 will exit with {STATUS}")
    words = ["srun", "--cr", "-w", "n0,n1", f"-n{TASKS}", "./count.py", str(LINES), str(STATUS)]
    command(*words)
    job = alice.popen(*words)
    step = alice.step()
    print(alice.run("squeue", "-s").stdout, end="")

    tell("midway: checkpoint the step and end it")
    assert job.stdout is not None
    before = "".join(job.stdout.readline() for _ in range(TASKS * LINES // 3))
    vacated = do(alice, "pycr", "vacate", step)
    rest, errors = job.communicate(timeout=60)
    before += rest
    print(errors, end="")
    print(f"srun ended with {job.returncode}; {len(before.splitlines())} lines so far")
    do(alice, "pycr", "ls")

    tell("later, on other nodes: go on")
    words = ["pycr", "restart", step, "-w", "n2,n3"]
    command(*words)
    again = alice.popen(*words)
    new = until("the restarted step", lambda: [name for name in alice.steps() if name != step])
    print(alice.run("squeue", "-s").stdout, end="")
    after, errors = again.communicate(timeout=60)
    print(errors, end="")
    print(f"step {new[0]} ended with {again.returncode}; {len(after.splitlines())} lines more")

    wanted = [f"{task} {line}" for task in range(TASKS) for line in range(LINES)]
    missing, wrong = count((before + after).splitlines(), wanted)
    tell(f"numbers missing: {missing}; too many: {wrong}; exit status {again.returncode}")
    return vacated and not missing and not wrong and again.returncode == STATUS


def rounds(text: str) -> list[list[str]]:
    """Return the lines of a batch job's output, a list for each round; Slurm's own left out."""
    found: list[list[str]] = [[]]
    for line in text.splitlines():
        if line.startswith("round "):
            found.append([])
        if not re.match(r"slurmstepd-\w+: error: \*\*\* JOB ", line):
            found[-1].append(line)
    return found


def await_middle(alice: Login, number: int) -> None:
    """Wait until the middle of a round, the first being 1."""

    def is_there() -> bool:
        reached = rounds(alice.read("sweep.out"))
        return len(reached) > number and len(reached[number]) > TASKS * PER_ROUND // 3

    until(f"the middle of round {number}", is_there, 60)


def play_batch(alice: Login) -> bool:
    """Vacate, restart and requeue a batch job; tell whether everything was as it should be."""
    tell(f"a batch job: a script with a loop of {ROUNDS} steps")
    (alice.place / "sweep.sh").write_text(SCRIPT)
    print("".join(f"    {line}\n" for line in SCRIPT.splitlines()), end="")
    good = do(alice, "sbatch", "-w", "n0,n1", "sweep.sh")
    old = str(until("the job", alice.jobs)[0])

    tell("in the second round: checkpoint the whole job and end it")
    await_middle(alice, 2)
    good &= do(alice, "pycr", "vacate", old)

    tell("go on as a new job, on other nodes")
    good &= do(alice, "pycr", "restart", old, "-w", "n2,n3")
    new = str(until("the new job", alice.jobs)[0])
    await_middle(alice, 3)
    do(alice, "squeue", "-s")

    tell("in the third round: checkpoint it and put it back into the queue")
    good &= do(alice, "pycr", "requeue", new)
    do(alice, "squeue")
    until("its end", lambda: not alice.jobs(), 60)

    tell("the job at its end, and what it printed")
    facts = alice.run("scontrol", "show", "job", new).stdout
    state = re.findall(r"\b(?:JobState|Restarts|ExitCode|NodeList)=\S+", facts)
    print("  ".join(state))
    wanted = [[], *([f"round {name}"] for name in "abcdefgh"[:ROUNDS])]
    for each in wanted[1:]:
        each += [f"{task} {line}" for task in range(TASKS) for line in range(PER_ROUND)]
    wanted[-1].append(f"{ROUNDS} rounds done")
    found = rounds(alice.read("sweep.out"))
    for number, (lines, right) in enumerate(zip(found, wanted)):
        missing, wrong = count(lines, right)
        good &= not missing and not wrong
        if number:
            print(f"{lines[0]}: {len(lines)} lines; missing: {missing}; too many: {wrong}")
    return good and len(found) == len(wanted) and "JobState=COMPLETED" in state


def play(cluster: Cluster) -> bool:
    """Run the demo; tell whether everything was as it should be."""
    place = cluster.shared / "demo"
    place.mkdir(mode=0o755, exist_ok=True)
    os.chown(place, 1001, 1001)
    alice = Login(cluster, "alice", "n0", place)
    (place / "sweep.out").unlink(missing_ok=True)
    alice.victim("count.py")
    print(alice.run("sinfo").stdout, end="")
    try:
        return play_step(alice) & play_batch(alice)
    finally:
        alice.cancel_all()


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
