# SPDX-License-Identifier: GPL-2.0-or-later
"""Batch scripts of many kinds: each is checkpointed at several moments and goes on elsewhere, and
leaves in the end exactly what a run of it leaves that nobody has broken.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from difflib import unified_diff
from typing import NamedTuple

import pytest

from tests.login import Login, until
from tests.victims.scripted import Left, Scripted


class Case(NamedTuple):
    """A script, and for each of its jobs the moments, one life after the other (scripted.py).

    ordered: whether one process at a time writes to its output.
    """

    text: str
    jobs: list[list[str]]
    options: tuple[str, ...] = ("-n1",)
    ordered: bool = True


CASES = {
    "loop of steps": Case(
        """#!/bin/bash
for i in a b c d; do
    echo "loop $i"
    srun_cr ./say.sh $i 6
done
srun_cr ./say.sh last 1
echo over
""",
        [
            ["vacate a.0 1", "vacate b.0 5", "vacate c.0 6"],
            ["vacate loop b", "vacate loop c"],
            ["create loop", "create b.0 1", "create c.0 2", "create d.0 1"],
        ],
        ("-N2", "-n2"),
        ordered=False,
    ),
    "two steps at once": Case(
        """#!/bin/bash
srun_cr --exact -n1 ./say.sh a 12 3 &
first=$!
srun_cr --exact -n1 ./say.sh b 9 4 &
wait $first; echo "first $?"
wait $!; echo "second $?"
srun_cr --exact -n1 ./say.sh last 6 & srun_cr --exact -n1 ./say.sh d 8 & wait
echo over
""",
        [
            ["vacate a.0 1", "vacate b.0 9", "vacate last.0 1"],
            ["vacate b.0 4", "vacate a.0 12", "vacate d.0 4"],
            ["create b.0 4", "vacate a.0 11", "create last.0 2", "create d.0 3"],
        ],
        ("-N1", "-n2"),
        ordered=False,
    ),
    "tee": Case(
        """#!/bin/bash
set -o pipefail
srun_cr ./say.sh a 8 6 | tee copy
echo "status $? ${PIPESTATUS[*]}"
srun_cr ./say.sh last 6 2>&1 | tee -a copy | sed -u 's/^/sed: /' | tee other
echo "status $?"
""",
        [
            ["vacate a.0 1", "vacate a.0 6", "vacate last.0 2"],
            ["vacate a.0 8", "vacate last.0 5"],
            ["create a.0 3", "create a.0 7", "create last.0 1"],
        ],
    ),
    "function in a subshell": Case(
        """#!/bin/bash
run() { local name=$1; mkdir $name; (cd $name || exit 9; srun_cr ../say.sh $name 9 "$2"; exit $?); }
( run a 5; echo "status $?" )
text=$(run b 0; echo "status $?" )
echo "$text" | tr a-z A-Z
run c 7 > file || echo "status $?"
cat file
srun_cr ./say.sh last 2
""",
        [
            ["vacate a.0 2", "vacate a.0 6", "vacate c.0 3"],
            ["vacate status 5", "vacate STATUS 0"],
            ["create a.0 2", "create status 5", "vacate a.0 6", "create c.0 1"],
        ],
    ),
    "here-documents": Case(
        """#!/bin/bash
name=world
cat <<END
hello $name
END
while read -r line; do echo "line $line"; sleep 0.2; done <<END
one
two $name
three
four
END
srun_cr bash <<'END'
for i in 1 2 3 4; do echo "a $i"; sleep 0.1; done
echo "a from $SLURM_PROCID"
END
srun_cr bash -c 'mapfile -t lines; for l in "${lines[@]}"; do echo "b $l"; sleep 0.1; done' <<END
one
$name
three
four
five
END
srun_cr cat <<< "here $name"
srun_cr ./say.sh last 2
""",
        [
            ["vacate line one", "vacate line three", "vacate a 1"],
            ["vacate a 3", "vacate b one", "vacate b four"],
            ["create line two", "create a 2", "create b world"],
        ],
    ),
    "traps and set -e": Case(
        """#!/bin/bash
set -eu
trap 'echo "line $LINENO: $?"' ERR
trap 'echo "exit $?"' EXIT
trap 'echo usr1' USR1
srun_cr ./say.sh a 4
kill -USR1 $$
srun_cr ./say.sh b 4 3 || echo "status $?"
if ! srun_cr ./say.sh c 4 3; then echo "not c"; fi
kill -USR1 $$
srun_cr ./say.sh last 6 5
echo never
""",
        [
            ["vacate a.0 2", "vacate b.0 3", "vacate last.0 2"],
            ["vacate a.0 4", "vacate c.0 1", "vacate last.0 3"],
            ["create a.0 1", "create b.0 4", "create last.0 3"],
        ],
    ),
    "arrays and a coprocess": Case(
        """#!/bin/bash
declare -A seen
list=("a x" "b y" "c z")
coproc { n=0; while read -r line; do echo "$((++n)): $line"; done; }
for each in "${list[@]}"; do
    read -r name rest <<< "$each"
    out=$(srun_cr ./say.sh "$name" 3 | tee "file.$name")
    echo "${out//$'\\n'/,}" >&"${COPROC[1]}"
    read -r answer <&"${COPROC[0]}"
    seen[$name]="$rest $answer"
    echo "${#seen[@]} $answer"
done
for name in a b c; do echo "$name: ${seen[$name]}"; done
srun_cr ./say.sh last 2
pid=$COPROC_PID
exec {COPROC[1]}>&-
wait "$pid"
echo "status $?"
""",
        [
            ["vacate a.0 1", "vacate a.0 3", "vacate c.0 2"],
            ["vacate 1 1:", "vacate b.0 2", "vacate 3 3:"],
            ["create a.0 2", "create 2 2:", "vacate c.0 3"],
        ],
    ),
    "Python": Case(
        """#!/usr/bin/env python3
import subprocess, sys, threading
def show(*words):
    print(*words, flush=True)
for name in "ab":
    done = subprocess.run(["srun_cr", "./say.sh", name, "4", "3"])
    show("status", done.returncode)
words = ["srun_cr", "-n1", "./say.sh", "c", "6"]
with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as c:
    for number, line in enumerate(c.stdout):
        show(number, line.rstrip())
found = []
def run(name):
    found.append((name, subprocess.getoutput(f"srun_cr --exact -n1 ./say.sh {name} 4")))
threads = [threading.Thread(target=run, args=(name,)) for name in ("d", "last")]
for each in threads: each.start()
show("threads")
for each in threads: each.join()
show(sorted(found))
sys.exit(9)
""",
        [
            ["vacate a.0 2", "vacate status 3", "vacate c.0 3", "vacate threads"],
            ["vacate b.0 1", "vacate c.0 6"],
            ["create a.0 2", "create c.0 3", "create threads"],
        ],
        ("-N1", "-n2"),
        ordered=False,
    ),
    "Perl": Case(
        """#!/usr/bin/perl
use strict; use warnings; $| = 1;
my %seen;
for my $name (qw(a b)) {
    system("srun_cr", "./say.sh", $name, 4, 3);
    print "status ", $? >> 8, "\\n";
    $seen{$name} = $?;
}
open(my $pipe, "-|", "srun_cr ./say.sh c 5") or die;
while (<$pipe>) { print "$.: $_" }
close($pipe);
my $text = `srun_cr ./say.sh last 4 2`;
print uc($text), $? >> 8, " ", join(",", map {"$_=$seen{$_}"} sort keys %seen), "\\n";
print while <DATA>;
exit 4;
__DATA__
the data of the script
""",
        [
            ["vacate a.0 2", "vacate b.0 3", "vacate 4: c"],
            ["vacate status", "vacate 1: c", "vacate 5: c"],
            ["create a.0 1", "create 2: c", "vacate 3: c"],
        ],
    ),
    "dash": Case(
        """#!/bin/dash
set -u
for name in a b; do
    srun_cr ./say.sh $name 4 2 || echo "status $?"
done
text=$(srun_cr ./say.sh c 4; echo "status $?")
printf '%s\\n' "$text" | while read -r first second; do echo "$second $first"; sleep 0.1; done
trap 'echo over' EXIT
srun_cr ./say.sh last 2
exit 6
""",
        [
            ["vacate a.0 2", "vacate b.0 4", "vacate 2 c.0"],
            ["vacate status", "vacate 4 c.0"],
            ["create a.0 3", "create b.0 1", "create 1 c.0"],
        ],
    ),
    "between steps": Case(
        """#!/bin/bash
srun_cr ./say.sh a 2
for ((i = 0; i < 12; i++)); do echo "first $i" | tee -a file; sleep 0.1; done
srun_cr ./say.sh b 2
i=0
while ((i < 60000)); do ((i++ % 6000)) || echo "busy $i"; done
(for j in 1 2 3 4 5 6 7 8; do echo "$j" >> background; sleep 0.1; done) &
sleep 0.6
echo slept
wait
srun_cr ./say.sh last 2
""",
        [
            ["vacate first 3", "vacate first 11", "vacate busy 6001"],
            ["vacate a.0 2", "vacate busy 1", "vacate slept"],
            ["create first 1", "create busy 1", "vacate slept", "create last.0 1"],
        ],
    ),
    "steps that start and end": Case(
        """#!/bin/bash
for ((i = 0; i < 24; i++)); do
    srun_cr sh -c "echo -n 'step '; echo $i; exit $((i % 3))" 2>> errors
    echo "status $?"
done
srun_cr ./say.sh last 1
""",
        [
            [f"vacate step {number}\n" for number in (2, 8, 14)],
            [f"vacate step {number}\nstatus 0" for number in (3, 9, 15)],
            [f"create step {number}\n" for number in (1, 7, 13, 18)],
        ],
    ),
    "a step that waits for another's CPU": Case(
        """#!/bin/bash
srun_cr --exact -n1 ./say.sh a 40 3 &
first=$!
until grep -q 'a.0 2' "$PWD/log"; do sleep 0.05; done
srun_cr --exact -n1 ./say.sh b 4 3
echo "second $?"
wait $first; echo "first $?"
srun_cr ./say.sh last 1
""",
        [
            ["vacate a.0 4", "vacate b.0 2"],
            ["create a.0 4", "create a.0 35", "vacate last.0 1"],
        ],
        ordered=False,
    ),
    "plain srun under sbatch --cr": Case(
        """#!/bin/bash
srun ./say.sh a 5 3
echo "status $?"
srun ./say.sh b 5 | tee file
srun sh -c './say.sh c 5; ./say.sh last 4 >&2'
""",
        [
            ["vacate a.0 2", "vacate b.0 3", "vacate c.0 4"],
            ["vacate a.0 5", "vacate last.0 2"],
            ["create a.0 3", "create b.0 2", "vacate c.0 5"],
        ],
        ("-n1", "--cr"),
    ),
}


def difference(moments: list[str], left: Left, wanted: Left) -> str:
    """Say how two outputs differ."""
    lines = unified_diff(wanted.log.splitlines(), left.log.splitlines(), lineterm="")
    return "\n".join([f"{moments}:", *lines])


@pytest.mark.parametrize("name", CASES)
def test_script_goes_on(alice: Login, name: str) -> None:
    """All its jobs leave what an unbroken one leaves."""
    case = CASES[name]
    jobs: list[list[str]] = [[], *case.jobs]
    # The halves of lines that several write at once may come in any order.
    env = {"HALVES": "1"} if case.ordered else {}
    names = [f"job{number}" for number in range(len(jobs))]
    runs = [Scripted(alice, each, case.text, *case.options, **env) for each in names]
    with ThreadPoolExecutor(len(jobs)) as pool:
        futures = [pool.submit(run.live, moments) for run, moments in zip(runs, jobs)]
        wanted, *found = [future.result() for future in futures]
    assert "\n" in wanted.log, wanted
    for left, moments in zip(found, case.jobs):
        if not case.ordered:
            left, wanted = left.by_source(), wanted.by_source()
        assert left.log == wanted.log, difference(moments, left, wanted)
        assert left == wanted, moments


TRUE_ID = """#!/bin/bash
for name in a last b; do
    srun bash -c 'echo "plain $SLURM_JOB_ID $SLURM_RESTART_COUNT"'
    srun_cr bash -c 'echo "wrapped $SLURM_JOB_ID $SLURM_RESTART_COUNT"'
    srun_cr ./say.sh $name 2
done
"""


def ids(left: Left) -> list[list[str]]:
    """Return what each pair of steps of TRUE_ID has said, which must be the same."""
    lines = [line.split() for line in left.log.splitlines()]
    plain = [words[1:] for words in lines if words[0] == "plain"]
    assert plain == [words[1:] for words in lines if words[0] == "wrapped"], left.log
    return plain


def test_steps_know_their_new_job(alice: Login) -> None:
    """What a restored script starts is in the job that it is in now, and finds that job's id."""
    run = Scripted(alice, "job", TRUE_ID)
    run.start()
    first = run.job_id
    for _ in range(2):
        run.pass_by("vacate last.0 1")
    left = run.finish()
    assert [words[0] for words in ids(left)] == [first, first, run.job_id]
    assert left.status == "0:0"


def test_requeue_keeps_the_job(alice: Login) -> None:
    """Twice: its id stays, its output is whole, and what it starts next finds the count."""
    wanted = Scripted(alice, "unbroken", CASES["loop of steps"].text, "-n1")
    again = Scripted(alice, "requeued", CASES["loop of steps"].text, "-n1")
    counts = Scripted(alice, "counts", TRUE_ID)
    runs = [(wanted, []), (again, ["requeue a.0 3", "requeue c.0 2"])]
    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(run.live, moments) for run, moments in runs]
        counted = pool.submit(counts.live, ["requeue last.0 1", "requeue last.0 2"]).result()
        unbroken, left = (future.result() for future in futures)
    assert left == unbroken, difference([], left, unbroken)
    assert [words[1:] for words in ids(counted)] == [[], [], ["2"]]
    assert {words[0] for words in ids(counted)} == {counts.job_id}


@pytest.mark.parametrize("who", ["alice", "root"])
def test_ended_job_goes_on_under_its_old_id(alice: Login, who: str) -> None:
    """Slurm remembers it for a while, and starts it again; its own user may ask for it too."""
    wanted = Scripted(alice, "unbroken", CASES["loop of steps"].text, "-n1")
    run = Scripted(alice, "job", CASES["loop of steps"].text, "-n1")
    wanted.start()
    run.start()
    run.until("b.0 2")
    assert run.login.pycr("vacate", run.job_id, "--image-dir", ".").returncode == 0
    until("its end", lambda: run.state()["JobState"] == "CANCELLED")
    asker = Login(alice.cluster, who, "n1", run.login.place)
    done = asker.pycr("restart", "--job-id", "--image-dir", ".", run.job_id)
    assert (done.returncode, done.stderr) == (0, "")
    assert run.finish() == wanted.finish()


def test_root_restarts_a_users_job(alice: Login) -> None:
    """The new job is the user's, and on the nodes it was on where that is asked for."""
    run = Scripted(alice, "job", CASES["loop of steps"].text, "-n1")
    run.start()
    run.until("b.0 2")
    nodes = run.state()["NodeList"]
    assert run.login.pycr("vacate", run.job_id, "--image-dir", ".").returncode == 0
    root = Login(alice.cluster, "root", "n1", run.login.place)
    done = root.pycr("restart", "--stick", "--image-dir", ".", run.job_id)
    assert done.returncode == 0, done.stderr
    run.job_id = done.stdout.split()[-1]
    run.until("c.0 2")
    state = run.state()
    assert (state["UserId"].split("(")[0], state["NodeList"]) == ("alice", nodes)
    assert run.finish().status == "0:0"
