# SPDX-License-Identifier: GPL-2.0-or-later
"""The helper step as the coordinator has it: start it, tell it, hear it, and know when it is lost.

srun does the fan-out: what is written to it reaches the helper on every node (node/), and what
they print comes back. protocol.py has what is said; step.py decides what is said when.
"""

from __future__ import annotations

import os
import re
import selectors
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from pycr import protocol
from pycr.errors import AlreadyDone, NotSupported, PycrError, SlurmError, TimedOut
from pycr.images.manifest import TaskImage
from pycr.slurm import Layout, Step, commands

# Seconds for helpers to let go after a failure before they are reported as stuck: they kill a criu
# that does not give up (node/task.py), but not one that waits in the kernel for its file system.
LET_GO = 120
LAST_WORD = 10  # seconds in which a helper that still is says that it ends
NOTHING_HELD = 2  # the same, where none was told to freeze anything
SLURM_ANSWERS = 3.0  # seconds to wait for Slurm to end helpers
# Seconds for last words, which srun brings by another way than the end itself: before the others
# are let go, and after.
LATE, HEAR_OUT = 1.0, 3.0
# What srun says when a helper has ended, or could not begin.
END = re.compile(r"tasks? [\d,\-]+: |[Nn]ode failure|unrecognized option|aborting")
# What slurmctld says of a step that wants no memory where one of its nodes has not yet answered it
# (stepmgr.c, _pick_step_nodes: it is not in up_node_bitmap): after its own start, for seconds.
NOT_BACK = re.compile(r"nable to create step .*Memory required by task is not available")
BACK = 60.0  # seconds in which a node will have answered, or is down
PAUSE = 1.0


class Helpers:
    """The helper step: srun, what it was told and what came back."""

    def __init__(self, step: Step, layout: Layout, deadline: float) -> None:
        """Start a helper on each node of the step. deadline: by time.monotonic()."""
        self.step, self.layout, self.deadline = step, layout, deadline
        self.node_of = {task: node for node, tasks in layout.items() for task in tasks}
        self.ready: dict[str, protocol.Object] = {}
        self.seen: dict[str, dict[int, protocol.Object]] = {}
        self.complaints: list[str] = []
        self.failures: dict[str, PycrError] = {}  # of each node's helper, the first
        self.ending: set[str] = set()  # nodes whose helper has begun to let go
        self.ended: set[str] = set()  # and those where it has
        self._over = False
        self._told_dump = False
        self.let_all_go = self.let_go  # and those of the same command, where there are others
        self._joiner = protocol.Joiner()
        self._buffers = {"out": b"", "err": b""}
        # Its own, by which it is found where none of it has said its number yet.
        self.name = f"{protocol.HELPER_NAME}-{os.urandom(4).hex()}"
        self._told: list[bytes] = []  # until the first is ready
        self._back = time.monotonic() + BACK
        self._selector = selectors.DefaultSelector()
        self._start()

    def _start(self) -> None:
        self.process = subprocess.Popen(
            [
                commands.program("srun"),
                f"--jobid={self.step.job_id}",
                "--overlap",
                f"--nodes={len(self.layout)}",
                f"--nodelist={','.join(self.layout)}",
                f"--ntasks={len(self.layout)}",
                "--ntasks-per-node=1",
                "--mem=0",
                "--gres=none",
                "--cpu-bind=none",
                "--mpi=none",
                "--input=all",
                "--wait=0",
                "--kill-on-bad-exit=0",
                "--chdir=/",
                f"--job-name={self.name}",
                f"--cr-helper={self.step.name}",
                "/bin/false",  # what runs, and fails, where the plugin is not
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=commands.environment(),
            start_new_session=True,  # a Ctrl-C is for this process, which then lets go in order
        )
        assert self.process.stdin and self.process.stdout and self.process.stderr
        self.stdin = self.process.stdin
        self._selector.register(self.process.stdout, selectors.EVENT_READ, "out")
        self._selector.register(self.process.stderr, selectors.EVENT_READ, "err")

    def tell(self, **value: Any) -> None:
        """Send a command to every helper."""
        self._told_dump = self._told_dump or value["do"] == "dump"
        line = protocol.parse_line(value)
        if not self.ready:
            self._told.append(line)
        self._write(line)

    def _write(self, line: bytes) -> None:
        if self.stdin.closed:
            return
        with suppress(BrokenPipeError):  # its end is seen, with its reason, when reading
            self.stdin.write(line)
            self.stdin.flush()

    def _again(self) -> bool:
        """Start it again, where it could not be as slurmctld has just started; tell whether."""
        until = min(self._back, self.deadline) - PAUSE
        words = " ".join(self.complaints)
        if self.ready or self.stdin.closed or time.monotonic() > until:
            return False
        if not NOT_BACK.search(words):
            return False
        self.process.communicate()
        time.sleep(PAUSE)
        self.complaints.clear()
        self._buffers = {"out": b"", "err": b""}
        self._start()
        for line in self._told:
            self._write(line)
        return True

    def events(self, name: str) -> dict[int, protocol.Object]:
        """Return what has come of an event, by task."""
        return self.seen.setdefault(name, {})

    def forget(self, *names: str) -> None:
        """Forget events, so that they can come again."""
        for name in names:
            self.seen.pop(name, None)

    def images(self, tasks: int) -> list[TaskImage]:
        """Return what they have said of each task's image, for the manifest."""
        return [self._image(task) for task in range(tasks)]

    def _image(self, task: int) -> TaskImage:
        node = self.node_of[task]
        facts = dict(self.ready[node]["tasks"][str(task)])
        facts.update(self.events("frozen").get(task, {}))  # what it was then is in the image
        dumped = self.events("dumped")[task]
        # A vacated task was frozen until its end: what counts is how long its dump froze it.
        times = self.events("released").get(task, dumped)
        return TaskImage(
            task_id=task,
            node=node,
            pids=facts["pids"],
            # Some of these may have ended before all stood still.
            max_pid=max(dumped["max_pid"], *facts["pids"]),
            exe=facts["exe"],
            args=facts["args"],
            cwd=facts["cwd"],
            streams=facts["streams"],
            began=dumped["began"],
            frozen=times["frozen"],
            seconds=times["seconds"] if "seconds" in times else dumped["frozen"],
            files=self.events("sealed")[task]["files"],
            environment=facts["environment"],
        )

    def until(self, done: Callable[[], bool], what: str, tick: Callable[[], None]) -> None:
        """Take in what the helpers say until done() holds.

        Raises TimedOut, and what the helpers report or their end implies.
        """
        while not done():
            left = self.deadline - time.monotonic()
            if left <= 0:
                raise TimedOut(
                    f"{self.step.title}: {what} took longer than --max-wait: given up, the"
                    f" tasks run on{self._behind(what)}"
                )
            self.take(min(left, 0.5))
            tick()

    def take(self, timeout: float) -> bool:
        """Read what is there, for timeout seconds at most; tell whether the helpers still are."""
        if not (self._selector.get_map() or self._over):
            raise self.lost()
        for key, _ in self._selector.select(timeout):
            data = os.read(key.fd, 65536)
            if not data:
                self._selector.unregister(key.fileobj)
                if not self._selector.get_map() and not self._over and not self._again():
                    raise self.lost()
                continue
            *lines, rest = (self._buffers[key.data] + data).split(b"\n")
            self._buffers[key.data] = rest
            texts = [line.decode("utf-8", "replace") for line in lines]
            if key.data == "out":
                self._hear_all(texts)
            else:
                self._complain(texts)
        return bool(self._selector.get_map())

    def _hear_all(self, lines: list[str]) -> None:
        """Take in lines that came at once: a failure does not hide what is behind it."""
        failure: PycrError | None = None
        for line in lines:
            try:
                self._hear(line)
            except PycrError as error:
                failure = failure or error
        if failure:
            raise failure

    def _hear(self, line: str) -> None:
        try:
            whole = self._joiner.feed(line)
        except ValueError as error:
            raise SlurmError(f"{self.step.title}: {error}") from error
        if whole is None:
            return
        node, value = whole
        event = value.get("event")
        if event == "ready":
            self.ready[node] = value
        elif event in ("ending", "ended"):
            (self.ending if event == "ending" else self.ended).add(node)
        elif event == "error":
            raise self._raised(node, f"{self.step.title}: node {node}", value)
        elif event == "failed":
            raise self._raised(node, self.step.where(value.get("task"), node), value)
        else:
            self.events(str(event))[int(value["task"])] = value

    def _raised(self, node: str, where: str, value: protocol.Object) -> PycrError:
        error = protocol.error_class(value)(f"{where}: {value.get('reason')}")
        self.failures.setdefault(node, error)
        return error

    def _complain(self, lines: list[str]) -> None:
        lines = [line for line in lines if line.strip()]
        self.complaints += lines
        if self._over:
            return
        # One helper's end does not end srun: the others wait for commands.
        ends = [line for line in lines if END.search(line)]
        if not ends:
            return
        self.failures.clear()
        if all("exit code" in line for line in ends):  # it has mostly said why, or slurmstepd does
            self._hear_out(LATE, lambda: self.failures or self._own_words())
            for failure in self.failures.values():
                raise failure
        self.let_all_go()
        self._hear_out(HEAR_OUT, lambda: False)
        rest, self._buffers["err"] = self._buffers["err"], b""
        self.complaints += [rest.decode("utf-8", "replace")] if rest else []
        raise self.lost()

    def _own_words(self) -> list[str]:
        """Return what the plugin has said."""
        return [line for line in self.complaints if " cr: " in line]

    def _hear_out(self, seconds: float, enough: Callable[[], object]) -> None:
        """Take in what comes behind srun's line, by other ways: what a helper has said of its end,
        and slurmstepd."""
        give_up = time.monotonic() + seconds
        self._over = True
        while not enough() and self._selector.get_map():
            left = give_up - time.monotonic()
            if left <= 0:
                break
            with suppress(PycrError):
                self.take(left)
        self._over = False

    def lost(self) -> PycrError:
        """Say why the helpers, or one of them, are no more; the others let go."""
        # Before Slurm is asked anything: with slurmctld down its answer takes minutes.
        self.let_all_go()
        with suppress(SlurmError):
            job = commands.job(self.step.job_id)
            if not job.running or job.state == "COMPLETING":
                return AlreadyDone(f"{self.step.title}: the job has ended ({job.state})")
        words = " ".join(self.complaints)
        if "unrecognized option" in words or "unknown option" in words:
            return NotSupported(
                f"{self.step.title}: srun here does not know --cr-helper: the spank_cr plugin"
                f" is not enabled on this host ({os.uname().nodename}): add it to plugstack.conf"
            )
        ends = (re.search(r"error: (\S+): tasks? [\d,\-]+: (.*)", line) for line in self.complaints)
        match = next((end for end in ends if end), None)
        if match and match.group(1) in self.failures:
            return self.failures[match.group(1)]
        node = f"node {match.group(1)}: " if match else ""
        if "Out Of Memory" in words:
            return SlurmError(
                f"{self.step.title}: {node}the helper did not get the memory that it needs; the"
                " tasks run on: the job's limit must leave 64 MiB a node for a checkpoint"
            )
        own = self._own_words()
        if own:
            return NotSupported(f"{self.step.title}: {node}{own[0].split(' cr: ', 1)[1]}")
        failed = re.search(r"[Nn]ode failure on (\S+)", words)
        if failed:  # srun ends the others: it is not their nodes' fault
            return SlurmError(
                f"{self.step.title}: node {failed.group(1)} has failed: see sinfo -R; no checkpoint"
                " was made"
            )
        missing = sorted(set(self.layout) - set(self.ready))
        # /bin/false fails where there is no plugin; what was killed did run.
        if missing and match and match.group(1) in missing and "exit code" in match.group(2):
            return NotSupported(
                f"{self.step.title}: node {match.group(1)}: the helper did not start"
                f" ({match.group(2)}): is the spank_cr plugin enabled there (plugstack.conf)?"
            )
        if NOT_BACK.search(words):
            return SlurmError(
                f"{self.step.title}: Slurm does not answer for all its nodes: is one down (sinfo)?"
            )
        last = self.complaints[-1] if self.complaints else "srun ended without a word"
        return SlurmError(f"{self.step.title}: the helpers were lost: {last}")

    def _behind(self, what: str) -> str:
        """Say what was still waited for."""
        event = {
            "freezing the tasks": "frozen",
            "the dump": "dumped",
            "making it durable": "sealed",
        }.get(what)
        if event is None:
            nodes = sorted(set(self.layout) - set(self.ready))
            waiting = [f"node {node}" for node in nodes]
        else:
            done = self.events(event)
            left = sorted(task for task in self.node_of if task not in done)
            waiting = [f"task {task} on {self.node_of[task]}" for task in left]
        if not waiting:
            return ""
        last = f"; {self.complaints[-1]}" if self.complaints else ""
        return f" (waited for {waiting[0]}{last})"

    def let_go(self) -> None:
        """Have the helpers let go of what they hold, and end: by the end of their input."""
        with suppress(OSError):
            self.stdin.close()

    def end(self) -> None:
        """Let the helpers end and wait until they have. Raises TimedOut when they do not.

        One that does not say that it ends is lost, with its node or its slurmstepd, and srun would
        wait for it for ever: it is not waited for. Its tasks are let go by its own end.
        """
        self._over = True
        self.let_go()
        if self.process.poll() not in (None, 0):
            # srun is gone and slurmstepd does not tell its helpers; on SIGTERM they let go.
            self._cancel("TERM")
        began = time.monotonic()
        while self._selector.get_map() and time.monotonic() - began < LET_GO:
            with suppress(PycrError):
                self.take(0.5)
            patience = LAST_WORD if self._told_dump else NOTHING_HELD
            if time.monotonic() - began > patience and self.ending <= self.ended:
                break
        try:
            self.process.wait(0.1 if self._selector.get_map() else LET_GO)
        except subprocess.TimeoutExpired as error:
            stuck = sorted(self.ending - self.ended)
            if stuck:
                raise TimedOut(
                    f"{self.step.title}: its helper on node {stuck[0]} does not end: look at it"
                    f" with squeue -s -j {self.step.job_id}"
                ) from error
            self.process.kill()
            self._cancel("KILL")
            self.process.wait()

    def _cancel(self, signal: str) -> None:
        """Have Slurm send the helpers a signal; where it does not answer, nobody waits for it."""
        asking = threading.Thread(target=self._scancel, args=(signal,), daemon=True)
        asking.start()
        asking.join(SLURM_ANSWERS)

    def _scancel(self, signal: str) -> None:
        with suppress(PycrError):
            every = commands.steps(commands.job(self.step.job_id))
            for name in (each.name for each in every if each.fields.get("Name") == self.name):
                commands.run("scancel", f"--signal={signal}", name)
