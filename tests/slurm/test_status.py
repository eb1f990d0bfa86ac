# SPDX-License-Identifier: GPL-2.0-or-later
"""`pycr status`, and what ls and show say of the work that a restart saves."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.faults.processes import Processes, look
from tests.login import Login, until

LARGE, SMALL = 200, 4  # MiB of memory of the tasks
MIB = 1 << 20


def pids() -> set[int]:
    return {int(name) for name in os.listdir("/proc") if name.isdigit()}


def await_criu(alice: Login, old: set[int], go_on: Callable[[], bool]) -> int:
    """Return the criu that dumps a task on n0, as soon as it calls itself so; 0 where none does.

    Then its command line is "criu: dump --rpc -t 2151 -D ...", and no longer "criu ... swrk".
    """
    init = Processes(alice.cluster.state).pid("n0")
    nodes = {os.readlink(f"/proc/{init}/ns/uts"): "n0"}
    young: dict[int, float] = {}
    while go_on():
        now = time.monotonic()
        for pid in pids() - old:
            if young.setdefault(pid, now) < now - 2.0:
                old.add(pid)
                continue
            process = look(pid, nodes)
            if process is not None and process.words[0].startswith("criu: dump "):
                return pid
    return 0


def written(place: Path) -> int:
    """Return how much of task 0's memory is written to an unfinished generation."""
    total = 0
    for path in place.glob(".new-*/task.0/pages-*.img"):
        with suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def stopped_midway(alice: Login, step: str) -> tuple[subprocess.Popen[str], int]:
    """Start a checkpoint and stop the criu that writes task 0, somewhere in the middle."""
    command = ("pycr", "create", step, "--image-dir", ".", "--max-wait", "300")

    def attempt() -> tuple[subprocess.Popen[str], int] | None:
        old = pids()
        making = alice.popen(*command, stdout=subprocess.PIPE)
        criu = await_criu(alice, old, lambda: making.poll() is None)
        with suppress(ProcessLookupError):
            while criu and written(alice.place / step) < 8 * MIB:
                os.kill(criu, signal.SIGCONT)
                time.sleep(0.003)  # of its work
                os.kill(criu, signal.SIGSTOP)
            if criu and written(alice.place / step) < LARGE * MIB:
                return making, criu
            if criu:
                os.kill(criu, signal.SIGCONT)  # it was too late: another one
        making.communicate(timeout=60)
        return None

    found: tuple[subprocess.Popen[str], int] = until("a checkpoint to be held midway", attempt, 120)
    return found


def test_status(alice: Login, login: Callable[..., Login], bob: Login) -> None:
    memory = alice.victim("memory.py")
    program = f"exec {memory} $((SLURM_PROCID ? {SMALL} : {LARGE})) ready go"
    run = ("srun", "-N2", "-n2", "-wn0,n1", "-Jlarge", "--cr", "bash", "-c", program)
    job = alice.popen(*run)
    step = alice.step()
    job_id = step.split(".")[0]
    until("the tasks", lambda: len(list(alice.place.glob("ready.*"))) == 2, 60)

    done = alice.pycr("status", job_id)
    assert done.returncode == 0, done.stderr
    assert re.match(rf"Job {job_id} \(large\) of alice: RUNNING for .*enabled\n", done.stdout)
    assert "no checkpoint yet" in done.stdout
    assert "2 tasks on 2 nodes" in done.stdout
    denied = bob.pycr("status", job_id)
    assert (denied.returncode, denied.stderr.count("\n")) == (4, 1), denied.stderr
    assert f"pycr: job {job_id}: it is alice's, not yours" in denied.stderr
    assert alice.pycr("status", "999999").returncode == 3

    making, criu = stopped_midway(alice, step)
    watching = alice.popen("pycr", "status", job_id, "--watch=0.2", stdout=subprocess.PIPE)

    def midway() -> Any:
        found = alice.pycr_json("status", step)["steps"][0]["running"]
        node = found["nodes"]["n1"]
        whole = node["written"] >= node["needs"] and found["phase"] == "writing"
        return found if whole else None

    running = until("the other node to be done", midway)
    assert 8 * MIB < running["nodes"]["n0"]["written"] < running["nodes"]["n0"]["needs"]
    root = login("root").pycr("status", step)
    assert re.search(r"running +writing, for \d+ s: [\d.]+ MiB of 2\d\d MiB\n", root.stdout)
    assert re.search(r"n0 +\[#*-+\] +\d?\d %", root.stdout)
    assert re.search(r"n1 +\[#{24}\] 100 %", root.stdout)
    at_a_terminal(alice, job_id)
    os.kill(criu, signal.SIGCONT)
    assert making.wait(120) == 0

    last = alice.pycr_json("status", job_id)["steps"][0]["last"]
    rows = alice.pycr_json("ls", ".", "--sort=age")
    assert (last["path"], last["why"]) == (rows[0]["path"], "")
    assert last["work"] == rows[0]["work"] > 0
    assert "A restart saves  " in alice.pycr("show", rows[0]["path"]).stdout
    for verb in ("status", "create", "tasks"):  # these are parsed in two ways
        completed = alice.run("pycr", "--complete", "fish", verb, "").stdout.splitlines()
        assert completed == [f"{job_id}\tjob large", f"{step}\tstep large"]
    shown = alice.run("pycr", "--complete", "zsh", "show", "--image-dir=.", "").stdout
    assert shown.startswith(f"{step}\tin .\n")

    alice.run("scancel", job_id)
    job.communicate(timeout=60)
    shown, _ = watching.communicate(timeout=60)
    assert watching.returncode == 0
    blocks = shown.split("\n\n")
    assert re.search(r"n0 +\[", blocks[0])
    assert f"last        {last['path']}" in blocks[-1]
    assert f"Job {job_id} (large) of alice: CANCELLED" in blocks[-1]

    adds_up(alice, last)


def at_a_terminal(alice: Login, job_id: str) -> None:
    """Look at a job on a terminal, which is redrawn, and leave it with Ctrl-C."""
    watch = f"pycr status {job_id} --watch=0.1"
    shown = alice.popen(
        "script", "-qefc", watch, "/dev/null", stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert shown.stdout is not None and shown.stdin is not None
    seen = ""
    while seen.count("\033[H") < 3:
        line = shown.stdout.readline()
        assert line, f"it ended: {seen}"
        seen += line
    assert "RUNNING" in seen
    shown.stdin.write("\x03")
    shown.stdin.flush()
    shown.communicate(timeout=30)
    assert shown.returncode == 130


def adds_up(alice: Login, last: dict[str, Any]) -> None:
    """Restart a checkpoint: the work of the next one is that of both lives."""
    again = alice.popen("pycr", "restart", last["path"])
    step = alice.step()
    made = until("the restarted step", lambda: alice.pycr("create", step, "--json").stdout, 60)
    manifest = json.loads(alice.pycr("show", json.loads(made)[0]["path"], "--json").stdout)
    text = alice.run("scontrol", "show", "step", step, env={"SLURM_TIME_FORMAT": "%s"}).stdout
    started = int(re.findall(r"StartTime=(\d+)", text)[0])
    since = min(task["began"] for task in manifest["tasks"]) - started
    assert manifest["work"] == pytest.approx(last["work"] + since, abs=0.01)
    (alice.place / "go").touch()
    again.communicate(timeout=60)
    assert again.returncode == 0


def test_status_of_a_batch_job(alice: Login) -> None:
    count = alice.victim("count.py")
    (alice.place / "job.sh").write_text(f"#!/bin/sh\nsrun --cr {count} 100000\n")
    job_id = alice.run("sbatch", "--parsable", "-n2", "job.sh").stdout.strip()
    until("the step", alice.steps)
    made = until("a checkpoint", lambda: alice.pycr("create", job_id, "--json").stdout, 60)
    path = json.loads(made)[0]["path"]
    found = alice.pycr_json("status", job_id)
    assert [each["step"] for each in found["steps"]] == [f"{job_id}.batch", f"{job_id}.0"]
    assert [each["last"]["path"] for each in found["steps"]] == [path, path]
    assert alice.pycr_json("ls", job_id)[0]["work"] == found["steps"][0]["last"]["work"] > 0
    text = alice.pycr("show", path).stdout
    assert re.search(
        rf"A restart saves +\d+ s of the job's work\n(.*\n)*Step {job_id}\.0 +2 tasks", text
    )
    done = alice.pycr("ls", "999999")
    assert done.returncode == 10
    assert "999999: no checkpoint of it in " in done.stderr
    installed = alice.cluster.node("n0").run(["ls", "/opt/pycr/share/fish/vendor_completions.d"])
    assert installed.stdout == "pycr.fish\n"
