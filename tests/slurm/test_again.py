# SPDX-License-Identifier: GPL-2.0-or-later
"""Jobs that Slurm starts again: by `scontrol requeue`, or because a node was lost. Each goes on by
itself, and leaves what an unbroken one leaves, whatever became of its newest checkpoint.
"""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from tests.login import Login, until
from tests.victims.scripted import Left, Scripted

# A step: numbers into a file of its own, which a restart cuts back; at PAUSE it waits for a file;
# then, where it has more than HOLD lines, for another; then its status.
COUNT = """#!/bin/bash
COUNT='exec 3>>$0${SLURM_PROCID#0}.out
for ((n = 1; n <= $1; n++)); do echo $n >&3; sleep .1
    until [ $n != "$PAUSE" ] || [ -e on.$0 ]; do sleep .05; done
done
until [ -e go.$0 ] || [ $(wc -l < $0.out) -le ${HOLD:-0} ]; do sleep .05; done
exit ${2:-0}'
"""
SKIPPED = "srun_cr: the step had ended with 0 before the job was requeued: skipped"


class Job(Scripted):
    """A job on whichever node is free, whose images are in its own directory."""

    def __init__(self, login: Login, name: str, text: str, *options: str) -> None:
        super().__init__(login, name, text, "-N1", "-n1", "--checkpoint-dir=.", *options)
        self.start()

    def _nodes(self) -> list[str]:
        return []

    def go(self, *names: str) -> None:
        """Let steps end."""
        for name in names:
            (self.login.place / f"go.{name}").touch()

    def has(self, name: str, lines: int) -> None:
        """Wait until a file has so many lines."""
        until(f"{lines} lines in {name}", lambda: self.login.read(name).count("\n") >= lines, 60)

    def create(self, what: str = "", *words: str) -> Path:
        """Checkpoint a step of it, or all of it; return the generation as this machine sees it."""
        done = self.login.pycr("create", what or self.job_id, *words)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        (path,) = re.findall(r"(\S+/\d{4})\b", done.stdout)
        return self.login.place / Path(path).relative_to(self.login.dir)

    def step(self) -> str:
        """Return the step that runs."""

        def look() -> str | None:
            found = [each for each in self.login.steps() if each.startswith(f"{self.job_id}.")]
            return found[-1] if found else None

        return str(until(f"a step of job {self.job_id}", look))

    def requeue(self) -> None:
        """Have Slurm start it again, and wait until it has."""
        done = self.login.run("scontrol", "requeue", self.job_id)
        assert done.returncode == 0, done.stderr
        self.again(1)

    def again(self, times: int) -> None:
        """Wait until it was started again so many times."""
        wanted = {"Restarts": str(times), "JobState": "RUNNING"}
        until(f"start {times} of it", lambda: wanted.items() <= self.state().items(), 90)

    def journal(self) -> list[dict[str, Any]]:
        """Return the events of its journal."""
        text = self.login.sh(f"cat ~/checkpoint/.journal/{self.job_id}").stdout
        return [json.loads(line) for line in text.splitlines()]

    def notes(self) -> str:
        return "\n".join(each["text"] for each in self.journal() if each["event"] == "note")


def damage(generation: Path) -> None:
    """Flip a byte of the memory in an image; its size stays."""
    pages = max(generation.glob("**/pages-*.img"), key=lambda each: each.stat().st_size)
    with pages.open("r+b") as file:
        first = file.read(1)[0]
        file.seek(0)
        file.write(bytes([first ^ 1]))


def out(*counts: int) -> str:
    """Return what steps have written that count so far, one after the other."""
    return "".join(f"{number}\n" for count in counts for number in range(1, count + 1))


LOOP = f"""{COUNT}
export HOLD=20 PAUSE=25
for i in 1 2; do
    srun --cr bash -c "$COUNT" a 10
    srun_cr --cr-name=main bash -c "$COUNT" b $((i * 20))
done
echo over
"""


def loop(alice: Login) -> None:
    """Steps in a loop: what had ended is not run again, the fourth goes on, told by its name; then
    in the life after that too."""
    job = Job(alice, "loop", LOOP, "--cr-skip-done")
    job.has("b.out", 20 + 25)
    first = job.create(job.step())
    (job.login.place / "on.b").touch()
    job.has("b.out", 20 + 30)
    job.requeue()
    job.go("b")
    left = job.end()
    assert left.files["a.out"] == out(10, 10)
    assert left.files["b.out"] == out(20, 40)
    *skipped, cut, last = left.log.splitlines()
    assert (skipped, last) == (3 * [SKIPPED], "over")
    assert "b.out was cut back from" in cut
    assert left.status == "0:0"
    assert json.loads((first / "manifest.json").read_text())["manifest"]["tasks"][0][
        "environment"
    ] == {"SLURM_CR_STEP": ["@main.1"]}
    restored = [each for each in job.journal() if each["event"] == "restored"]
    assert [Path(each["path"]).name for each in restored] == ["0001"]


def order(alice: Login) -> None:
    """Equal steps: the second has a checkpoint, of which the journal alone knows where it is; the
    first has one of the whole job, which was not submitted with --cr: it runs again, and says so.
    """
    text = f"""{COUNT}
for i in 1 2; do
    srun --cr bash -c "$COUNT" a 20
    [ $SLURM_RESTART_COUNT ] || rm -f go.a
done
"""
    job = Job(alice, "order", text, "--open-mode=append")
    job.has("a.out", 5)
    job.create()
    job.go("a")
    job.has("a.out", 20 + 1)
    assert job.login.run("mkdir", "elsewhere").returncode == 0
    job.create(job.step(), "--image-dir", "elsewhere")
    job.requeue()
    job.go("a")
    left = job.end()
    # It was cut back to what it was at the checkpoint, with all that the first had written twice.
    assert left.files["a.out"] == out(20, 20)
    assert left.log.count("srun_cr: the step begins anew: it is in ") == 1
    assert left.status == "0:0"


def damaged(alice: Login) -> None:
    """A byte of the newest is another: it is set aside, and the one before does. And a status 125
    of the task's own is no failed restore."""
    text = f'{COUNT}srun --cr -n2 -O bash -c "$COUNT" a 40 125; echo status $?\n'
    job = Job(alice, "damaged", text)
    job.has("a.out", 5)
    older = job.create(job.step())
    job.has("a.out", 15)
    newest = job.create(job.step())
    damage(newest)
    job.has("a.out", 20)
    job.requeue()
    job.go("a")
    left = job.end()
    assert left.files["a.out"] == left.files["a1.out"] == out(40), left
    assert "status 125" in left.log
    assert f"/{newest.name} is set aside: task " in left.log
    assert "its checksum is not the manifest's" in left.log
    rows = job.login.pycr_json("ls", ".")
    assert [bool(row["set_aside"]) for row in rows] == [True, False]
    assert "its checksum is not the manifest's" in rows[0]["set_aside"]
    assert "set aside" in job.login.pycr("ls", ".").stdout
    assert "is set aside" in job.notes()
    shown = job.login.pycr_json("show", older.parent.name, "--image-dir", ".")
    assert shown["path"].endswith(older.name)
    assert not list(job.login.place.glob("*/.failed-*"))


def none_left(alice: Login) -> None:
    """All damaged: by default the step fails, with --cr-fallback=fresh it begins anew; one that
    never had a checkpoint runs."""
    text = f"""{COUNT}
srun --cr bash -c "$COUNT" a 20; echo first $?
srun --cr --cr-fallback=fresh bash -c "$COUNT" b 20; echo second $?
srun --cr bash -c "$COUNT" c 3; echo third $?
"""
    job = Job(alice, "none", text)
    job.has("a.out", 5)
    damage(job.create(job.step()))
    job.go("a", "c")
    job.has("b.out", 5)
    half = job.create(job.step())
    (half / "task.0" / "files.json").write_text("[")
    job.requeue()
    job.go("b")
    left = job.end()
    assert "none of the step's 1 checkpoints can be restored, and it does not begin" in left.log
    assert "first 125" in left.log
    assert "none of the step's 1 checkpoints can be restored: it begins anew" in left.log
    assert left.log.endswith("second 0\nthird 0\n"), left.log
    assert left.files["a.out"].count("\n") <= 20
    assert left.files["b.out"].endswith(out(20))
    assert left.files["c.out"] == out(3)


def number_again(alice: Login, *options: str) -> None:
    """An earlier job had its number: put back before it has a checkpoint, it begins anew, where
    that one's would be restored otherwise."""
    text = f'{COUNT}srun --cr --cr-name=x bash -c "$COUNT" a 20; echo status $?\n'
    name = "".join(options).strip("-")
    options = (*options, f"--checkpoint-dir={alice.dir}/numbers{name}")
    assert alice.run("mkdir", f"numbers{name}").returncode == 0
    old = Job(alice, f"old{name}", text, *options)
    old.has("a.out", 5)
    step = f"{old.job_id}.batch" if name else old.step()
    assert old.login.pycr("create", step).returncode == 0
    old.go("a")
    old.end()
    job = Job(alice, f"new{name}", text, "--hold", *options)
    renamed = step.replace(old.job_id, job.job_id)
    done = job.login.sh(
        f"cd ~/checkpoint/.journal && mv {old.job_id} {job.job_id} &&"
        f" cd {alice.dir}/numbers{name} && mv {step} {renamed} && sed -i 's|/{step}/|/{renamed}/|'"
        f" ~/checkpoint/.journal/{job.job_id} $(find . -name newest)"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert job.login.run("scontrol", "release", job.job_id).returncode == 0
    job.has("a.out", 5)
    job.requeue()
    job.go("a")
    ended = job.end()
    assert ended.status == "0:0" and ended.files["a.out"].endswith(out(20)), ended
    assert ended.files["a.out"].count("\n") >= 20 + 5
    events = [each["event"] for each in job.journal()]
    assert "committed" in events and "first" in events and "restored" not in events, events


def nothing_counted(login: Login) -> bool:
    return login.sh("ls /tmp/srun_cr-steps.*").stdout == ""


def test_steps_go_on(alice: Login) -> None:
    cases = (loop, order, damaged, none_left)
    with ThreadPoolExecutor(len(cases) + 2) as pool:
        found = [pool.submit(case, alice) for case in cases]
        found += [pool.submit(number_again, alice, *each) for each in ((), ("--cr",))]
        for future in found:
            future.result()
    for node in ("n0", "n1", "n2", "n3"):
        login = Login(alice.cluster, "alice", node, alice.place)
        until("the count of steps to go", partial(nothing_counted, login))


SCRIPT = """#!/bin/bash
for i in a b; do
    echo "turn $i"
    srun --cr bash -c './say.sh $0 30; until [ -e go.$0 ]; do sleep .05; done' $i
    for n in {1..5}; do echo "between $n"; sleep 0.1; done
done
srun_cr ./say.sh last 2
"""


def unbroken(alice: Login) -> Left:
    job = Job(alice, "unbroken", SCRIPT, "--cr", "--exclude=n[2-3]")
    job.go("a", "b")
    return job.finish()


def script_goes_on(alice: Login) -> Left:
    """sbatch --cr: by scontrol requeue, and when its node is lost."""
    job = Job(alice, "script", SCRIPT, "--cr", "--requeue", "--exclude=n[0-1]")
    job.until("a.0 10\n")
    job.create()
    job.until("a.0 14\n")
    job.requeue()
    job.go("a")
    job.until("b.0 5\n")
    job.create()
    job.until("b.0 8\n")
    node = job.state()["BatchHost"]
    alice.cluster.kill_node(node)
    try:
        job.again(2)
        job.go("b")
        left = job.finish()
    finally:
        alice.cluster.start_node(node)
    restored = [each for each in job.journal() if each["event"] == "restored"]
    assert [Path(each["path"]).name for each in restored] == ["0001", "0002"]
    return left


def script_damaged(alice: Login) -> Left:
    """A byte of the newest one's step is another: the one before."""
    job = Job(alice, "script-damaged", SCRIPT, "--cr", "--requeue", "--exclude=n[2-3]")
    job.until("a.0 10\n")
    job.create()
    job.until("a.0 20\n")
    newest = job.create()
    damage(newest / f"{job.job_id}.0")
    job.requeue()
    job.go("a", "b")
    left = job.finish()
    rows = job.login.pycr_json("ls", ".")
    assert [bool(row["set_aside"]) for row in rows] == [True, False]
    return left


def script_none_left(alice: Login, fallback: str) -> None:
    """The only one is damaged: it fails, or begins anew, from its beginning."""
    options = [f"--cr-fallback={fallback}"] if fallback else []
    job = Job(
        alice, f"script-none{fallback}", SCRIPT, "--cr", "--requeue", "--exclude=n[2-3]", *options
    )
    job.until("a.0 5\n")
    damage(job.create())
    job.go("a", "b")
    done = job.login.run("scontrol", "requeue", job.job_id)
    assert done.returncode == 0, done.stderr
    if not fallback:
        left = job.end()
        assert left.status == "125:0"
        assert "no checkpoint is left to go on from, and the job is not started afresh" in left.log
        return
    job.again(2)
    left = job.finish()
    assert left.log.startswith("turn a\na.0 1\na.0 2\n"), left.log
    assert left.status == "0:0"
    assert "the job is requeued to begin anew" in job.notes()


def test_script_goes_on(alice: Login) -> None:
    with ThreadPoolExecutor(5) as pool:
        wanted = pool.submit(unbroken, alice)
        found = [pool.submit(each, alice) for each in (script_goes_on, script_damaged)]
        others = [pool.submit(script_none_left, alice, each) for each in ("", "fresh")]
        for future in found:
            assert future.result() == wanted.result()
        for other in others:
            other.result()
