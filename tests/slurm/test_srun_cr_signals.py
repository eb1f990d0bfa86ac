# SPDX-License-Identifier: GPL-2.0-or-later
"""Signals to srun_cr do to srun what they do without it; stops stop both."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable

import pytest

from tests.login import Login, until
from tests.slurm.processes import children, go_on, state, status, wrapper
from tests.victims.ticking import gapless

# A program in srun's place that notes every signal it gets, once it can be told any.
FAKE_SRUN = """#!/usr/bin/python3
import os, signal, sys
out = open(os.environ["OUT"], "a", buffering=1)
every = signal.valid_signals()
signal.pthread_sigmask(signal.SIG_BLOCK, every)
out.write(f"ready {os.getpid() == os.getpgrp()}\\n")
while True:
    out.write(f"{signal.sigwait(every):d}\\n")
"""
ONE_MORE = "one more within 1 sec to abort"
TRAPS = """
trap 'echo usr1' USR1; trap 'echo usr2' USR2; trap 'echo int' INT
echo go
until test -e stop; do sleep 0.05; done
exit 9
"""


def has(alice: Login, mark: str) -> Callable[[], bool]:
    return lambda: mark in alice.read("out")


def twice(alice: Login, pid: int, mark: str) -> Callable[[], bool]:
    """Press Ctrl-C again whenever srun asks for one more: what comes too late is a first again."""
    pressed = 0

    def look() -> bool:
        nonlocal pressed
        if alice.read("out").count(ONE_MORE) > pressed:
            pressed += 1
            os.kill(pid, signal.SIGINT)
        return mark in alice.read("out")

    return look


def has_lines(alice: Login, count: int) -> Callable[[], bool]:
    return lambda: len(alice.read("out").splitlines()) == count


def test_every_catchable_signal_is_forwarded(alice: Login) -> None:
    fake = alice.place / "srun"
    fake.write_text(FAKE_SRUN)
    fake.chmod(0o755)
    path = f"{alice.dir}:/usr/bin:/bin:/opt/pycr/bin"
    env = {"PATH": path, "OUT": f"{alice.dir}/out"}
    process = alice.popen(
        "env", *(f"{key}={value}" for key, value in env.items()), "srun_cr", own_group=True
    )
    until("srun to be ready", lambda: alice.read("out").startswith("ready"))
    assert alice.read("out") == "ready True\n", "srun is not in a process group of its own"
    (pid,) = children(process.pid)
    (child,) = children(pid)
    until("srun_cr's handlers", lambda: not int(status(pid, "SigBlk"), 16))
    stops = {signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
    catchable = set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}
    seen = 1
    for number in sorted(catchable - stops - {signal.SIGCONT}):
        os.kill(pid, number)
        seen += 1
        until(f"signal {number}", has_lines(alice, seen))
    for number in sorted(stops):
        os.kill(pid, number)
        until("srun_cr to stop", lambda: state(pid) == "T")
        until(f"signal {number}", has(alice, f"\n{number:d}\n"))
        go_on(process)
        until("srun_cr to go on", lambda: state(pid) == "S")
    got = [int(line) for line in alice.read("out").splitlines()[1:]]
    assert set(got) == {int(number) for number in catchable}
    assert sorted(number for number in got if number != signal.SIGCONT) == sorted(
        int(number) for number in catchable - {signal.SIGCONT}
    )
    os.kill(child, signal.SIGKILL)
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    ("signals", "said"),
    [
        (["USR1"], "usr1"),
        (["USR2"], "usr2"),
        (["TERM"], "forcing job termination"),
        (["HUP"], "forcing job termination"),
        (["QUIT"], "Quit"),
        (["INT"], ONE_MORE),
        (["INT", "INT"], "sending Ctrl-C to StepId"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_signals_do_to_srun_what_they_do_without(
    alice: Login, signals: list[str], said: str
) -> None:
    ends, texts = [], []
    for option in ([], ["--cr"]):
        (alice.place / "stop").unlink(missing_ok=True)
        with (alice.place / "out").open("w") as out:
            process = alice.popen(
                "srun", *option, "-n1", "bash", "-c", TRAPS, stdout=out, stderr=out
            )
        until("the task to run", lambda: "go\n" in alice.read("out"))
        pid = wrapper(process)[0] if option else children(process.pid)[0]
        os.kill(pid, signal.Signals[f"SIG{signals[0]}"])
        heeded = twice(alice, pid, said) if len(signals) == 2 else has(alice, said)
        until(f"srun to heed {signals}", heeded)
        if signals in (["USR1"], ["USR2"], ["INT"]):
            (alice.place / "stop").touch()  # the others end the step by themselves
        ends.append(process.wait(30))
        text = re.sub(r"\d+\.0|\d{4}-\d\d-\d\dT[\d:]+", "", alice.read("out"))
        # "Running" is what a task is called once srun has been told of its start.
        text = text.replace("task 0: unknown", "task 0: running")
        # Whether an aborted task still says what it got, and what srun calls it, is a matter of ms.
        by_chance = re.compile("int$|.*(abort|Force Terminated)")
        lines = [line for line in text.splitlines() if not by_chance.match(line)]
        texts.append(sorted(lines))
    assert ends[0] == ends[1]
    assert texts[0] == texts[1]


def test_stop_stops_both_and_continue_continues_both(alice: Login) -> None:
    command = ["srun", "--cr", "-n1", "-e", "/dev/null", alice.victim("tick.py"), "3"]
    process = alice.popen(*command, own_group=True)
    pid, srun = wrapper(process)
    until("it to tick", lambda: (alice.place / "beat.0").exists())
    os.kill(pid, signal.SIGTSTP)
    until("both to stop", lambda: (state(pid), state(srun)) == ("T", "T"))
    go_on(process)
    until("both to go on", lambda: "T" not in (state(pid), state(srun)))
    (alice.place / "stop").touch()
    out, err = process.communicate(timeout=30)
    gapless(out, 1)
    assert out.splitlines()[-1].startswith("pause 0 ")
    assert process.returncode == 3, err


def test_what_the_shell_ignores_stays_ignored(alice: Login) -> None:
    script = (
        "trap '' HUP; exec nohup srun --cr -n1 bash -c 'until test -e stop; do sleep .05; done'"
    )
    process = alice.popen("bash", "-c", script)
    pid = wrapper(process)[0]
    assert int(status(pid, "SigIgn"), 16) & 1 << signal.SIGHUP - 1
    alice.step()
    os.kill(pid, signal.SIGHUP)
    os.kill(pid, signal.SIGUSR1)  # forwarded, so a SIGHUP before it would have been too
    (alice.place / "stop").touch()
    assert "forcing" not in process.communicate(timeout=20)[1]


def test_signal_mask_and_dispositions_reach_srun_as_the_shell_gave_them(alice: Login) -> None:
    fake = alice.place / "srun"
    fake.write_text("#!/bin/sh\nexec grep -E '^Sig(Ign|Blk)' /proc/self/status\n")
    fake.chmod(0o755)
    start = (
        "import os, signal, sys\n"
        "signal.signal(signal.SIGUSR2, signal.SIG_IGN)\n"
        "signal.signal(signal.SIGPIPE, signal.SIG_DFL)\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_DFL)\n"
        "signal.pthread_sigmask(signal.SIG_SETMASK, [signal.SIGUSR1])\n"
        "os.execvp(sys.argv[1], sys.argv[1:])\n"
    )
    path = f"{alice.dir}:/usr/bin:/bin:/opt/pycr/bin"
    shown = [
        alice.run("python3", "-c", start, name, env={"PATH": path}).stdout
        for name in ("srun", "srun_cr")
    ]
    assert shown[0] == shown[1] != ""
