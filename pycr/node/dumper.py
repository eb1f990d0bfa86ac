# SPDX-License-Identifier: GPL-2.0-or-later
"""The dump helper's work: one a node, in a helper step, with capabilities; dumps its node's tasks.

Whatever it is told comes from the user whose job it is in: it takes a step of its own job and a
directory, and nothing that could run as anything but CRIU. Its order of work is protocol.py's
diagram; __main__.py starts it; script.py has what is particular about a batch script.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from pycr import ask, host, identity, protocol
from pycr.ask import Asked
from pycr.coordinator import slots
from pycr.engine import criu, holds, proc
from pycr.errors import UNDER_WAY, Busy, DirectoryError, NotSupported, PycrError, TaskError
from pycr.images import image
from pycr.node import task
from pycr.node.relay import PodDump
from pycr.protocol import Object
from pycr.slurm import BATCH, commands

MIB = 1 << 20
# Seconds of silence after which the coordinator is taken for lost: slurmstepd gives a helper no end
# of input when its srun is killed or srun's host is gone. BEFORE it has said how long it may take,
# nothing is held.
BEFORE = 60.0
GRACE = 30.0
POD_STARTING = 10.0  # seconds that a pod may take to restore its task and listen
CLAIM = 1.0  # seconds that the helper of a pycr that was killed may take to end
LOOK = 0.05  # seconds between looks for tasks that are being started


class Helper:
    """This node's part in a checkpoint."""

    def __init__(self, argv: list[str]) -> None:
        self.job_id, self.step_id = int(argv[0]), int(argv[1])
        self.node = argv[5]
        self.criu = argv[6]
        self.parallel = int(argv[7]) or len(os.sched_getaffinity(0))
        self.ghost_limit = int(argv[8]) * MIB
        self.target = argv[9]
        job, _, step = self.target.partition(".")
        self.target_job, self.target_step = int(job), BATCH if step == "batch" else int(step)
        self.asked = Asked()
        self.leaders: dict[int, int] = {}
        self.every: set[int] = set()
        self.pods: dict[int, socket.socket] = {}
        self.version: tuple[int, ...] = ()  # CRIU's
        self.asking: set[int] = set()  # tasks with processes that want to be asked
        self.dumps: dict[int, task.Dump] = {}
        self.directory: Path | None = None
        self.patience = BEFORE
        self.slot: socket.socket | None = None  # one of this node's, while it is held
        self.keep = True
        self.committed = False  # whether the end of this helper is the end of what it holds
        self._out = threading.Lock()

    def report(self, value: Object) -> None:
        """Send an object to the coordinator."""
        with self._out:
            for piece in protocol.pieces(self.node, value):
                sys.stdout.write(piece)
            sys.stdout.flush()

    def run(self) -> int:
        """Serve the coordinator until it ends; return the exit status."""
        try:
            for line in self.lines():
                self.command(protocol.parse(line))
        except (PycrError, ValueError, KeyError, TypeError, OverflowError) as error:
            self.report({"event": "error", "kind": type(error).__name__, "reason": str(error)})
            return 1
        finally:
            self.last_word("ending")
            self.let_go(commit=self.committed)
            self.last_word("ended")
        return 0

    def last_word(self, event: str) -> None:
        """Tell the coordinator, where there still is one, that this is no helper lost."""
        with suppress(OSError):
            self.report({"event": event})

    def lines(self) -> Iterator[bytes]:
        """Yield the coordinator's lines until it ends, or has been silent for too long."""
        rest = b""
        while select.select([0], [], [], self.patience)[0]:
            data = os.read(0, 65536)
            if not data:
                return
            *lines, rest = (rest + data).split(b"\n")
            yield from lines

    def find(self, expected: list[int], wait: float) -> None:
        """Find the tasks, waiting for those that are just being started. Raises PycrError."""
        if self.target_job != self.job_id:
            raise NotSupported(f"a helper in job {self.job_id} cannot reach {self.target_job}")
        give_up = time.monotonic() + wait
        while True:
            self.leaders, self.every = commands.pids(self.target_job, self.target_step)
            late = set(expected) - set(self.leaders)
            late.update(task for task, pid in self.leaders.items() if not proc.executed(pid))
            if not late or time.monotonic() > give_up:
                return
            time.sleep(LOOK)
            if not commands.is_running(self.target_job, self.target_step):
                return

    def ready(self) -> None:
        """Say what the tasks are."""
        self.criu = criu.find(self.criu)
        self.version = criu.version(self.criu)
        old = host.old_criu(self.version, os.uname().release)
        if old:
            what = f"{self.criu} is version {host.dotted(self.version)}"
            raise NotSupported(f"its CRIU is too old: {what}: install {old}")
        self.claim()
        found: Object = {}
        inside: set[int] = set()
        for task_id, leader in sorted(self.leaders.items()):
            inside.update(proc.tree(leader))
            try:
                found[str(task_id)] = self.describe(task_id, leader)
            except PycrError as error:
                found[str(task_id)] = protocol.failure(error)
        self.refuse_whole(found, inside)
        wish = ""
        goes_on = False
        for task_id, leader in self.leaders.items():
            told = found[str(task_id)].pop("image_dir", "")
            wish = told or proc.environ(leader, "SLURM_CHECKPOINT_IMAGE_DIR") or ""
            told = found[str(task_id)].pop("goes_on", None)
            goes_on = proc.environ(leader, identity.GOES_ON) is not None if told is None else told
        self.report(
            {
                "event": "ready",
                "step": self.step_id,
                "tasks": found,
                "host": host.facts(self.version, commands.version()),
                "image_dir": wish,
                "goes_on": goes_on,
            }
        )

    def refuse_whole(self, found: Object, inside: set[int]) -> None:
        """Refuse what is seen only of all tasks together."""
        strays = proc.outside(self.every - inside, {*self.leaders.values(), os.getpid()})
        for task_id, leader in self.leaders.items():
            if "reason" not in found[str(task_id)] and task_id not in self.pods:
                try:
                    task.refuse(leader, strays)
                    if task_id not in self.asking:
                        task.refuse_holding(leader, lambda: self.version, self.ghost_limit)
                except PycrError as error:
                    found[str(task_id)] = protocol.failure(error)
        self.refuse_sharing(found)

    def refuse_sharing(self, found: Object) -> None:
        """Refuse tasks that share memory with others: restored, each would have its own."""
        owner: dict[str, int] = {}
        names: dict[str, str] = {}
        for task_id, leader in sorted(self.leaders.items()):
            for key, name in holds.shared(leader).items():
                names[key] = name
                other = owner.setdefault(key, task_id)
                if other != task_id:
                    reason = (
                        f"it shares memory with task {other} ({name}): only tasks that share none"
                        " can be checkpointed (MPI: one task a node, ranks inside it)"
                    )
                    found[str(task_id)] = protocol.failure(TaskError(reason))
        ours = {pid for leader in self.leaders.values() for pid in proc.tree(leader)}
        for key, pid in holds.sharers(set(owner), ours).items():
            # What a task has forked since is its own too.
            if not proc.outside({pid}, set(self.leaders.values())):
                continue
            error: PycrError = TaskError(
                f"it shares memory ({names[key]}) with process {pid} ({proc.comm(pid)}), which is"
                " not of the task: restored, each would have its own"
            )
            if proc.comm(pid) == "criu":  # CRIU shares what it works with, while it dumps
                error = Busy(UNDER_WAY)
            found[str(owner[key])] = protocol.failure(error)

    def claim(self) -> None:
        """Be the only checkpoint of this step, whichever directory the others write to.

        Where task 0 is decides for all nodes. The claim is an abstract socket's name, which ends
        with this process. Raises Busy.
        """
        if 0 not in self.leaders:
            return
        name = f"\0pycr-dump-{os.getuid()}-{self.target_job}.{self.target_step}"
        self.claimed = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        give_up = time.monotonic() + CLAIM
        while self.is_claimed(name):
            if time.monotonic() > give_up:
                raise Busy(UNDER_WAY)
            time.sleep(LOOK)

    def is_claimed(self, name: str) -> bool:
        """Take the claim's name; tell whether another helper of this user's has it."""
        try:
            self.claimed.bind(name)
            self.claimed.listen()
        except OSError:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other, suppress(OSError):
                other.setblocking(False)  # another user may have taken the name, and not listen
                other.connect(name)
                return protocol.peer_uid(other) == os.getuid()
        return False

    def describe(self, task_id: int, leader: int) -> Object:
        """Say what a task is; a restored one's pod does it."""
        task.refuse_stopped(leader, self.target)
        waiting = ask.find(proc.tree(leader))
        for process in waiting:
            process.close()
        if waiting:
            self.asking.add(task_id)
        return {**self._describe(task_id, leader), "callbacks": len(waiting)}

    def _describe(self, task_id: int, leader: int) -> Object:
        if proc.comm(leader) != protocol.POD_COMM:
            found = task.describe(leader)
            key = proc.environ(leader, identity.VARIABLE)
            if key is not None and self.target_step != BATCH:
                found["environment"] = {identity.VARIABLE: [key]}
            return found
        connection = self.connect(leader)
        connection.settimeout(POD_STARTING)
        # A script is looked at when it stands still: an srun that starts now holds what does not
        # stay (spank_cr/inside.pxi).
        ready = task_id not in self.asking and self.target_step != BATCH
        try:
            answer = self.tell(connection, {"do": "describe", "ready": ready})
        except OSError as error:
            connection.close()
            raise TaskError(f"its pod is not ready: {error}") from error
        connection.settimeout(None)
        self.pods[task_id] = connection
        return answer

    def tell(self, connection: socket.socket, request: Object) -> Object:
        """Have a pod answer a request. Raises PycrError: what the pod does, or that it is gone."""
        with connection.makefile("rw", encoding="utf-8") as pod:
            protocol.say(pod, request)
            answer = protocol.parse(pod.readline() or "{}")
        if not answer or "reason" in answer:
            why = answer.get("reason", "its pod does not answer")
            raise protocol.error_class(answer)(str(why))
        return answer

    def pod(self, leader: int) -> tuple[int, list[str]]:
        """Return the pod's PID 1 below a leader, and its command line. Raises TaskError."""
        for pid in proc.children(leader):
            words = proc.cmdline(pid)
            if protocol.is_pod(words):
                return pid, words
        raise TaskError("its pod has ended")

    def connect(self, leader: int) -> socket.socket:
        """Connect to the pod below a leader. Raises TaskError."""
        pid, words = self.pod(leader)
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        give_up = time.monotonic() + POD_STARTING
        while True:
            try:
                connection.connect("\0" + protocol.pod_address(words))
                break
            except ConnectionRefusedError as error:
                if time.monotonic() > give_up or not proc.alive(pid):
                    connection.close()
                    raise TaskError(f"its pod is not ready: {error}") from error
                time.sleep(LOOK)
            except (OSError, ValueError, IndexError) as error:
                connection.close()
                raise TaskError(f"its pod is not ready: {error}") from error
        if protocol.peer_uid(connection) != os.getuid():
            connection.close()
            raise TaskError("its pod is another user's")
        return connection

    def command(self, value: Object) -> None:
        """Do one of the coordinator's commands."""
        verb = value["do"]
        if verb == "find":
            self.patience = float(value["patience"]) + GRACE
            self.find([int(each) for each in value["tasks"][self.node]], float(value["wait"]))
            self.ready()
        elif verb == "slot":
            self.take_slot(self.node in value["nodes"], int(value["slots"]))
        elif verb == "ask":
            self.ask(float(value["patience"]))
        elif verb == "dump":
            self.dump(value)
        elif verb == "write":
            for dump in self.dumps.values():
                dump.write()
        elif verb == "release":
            self.let_go(commit=True)
        elif verb == "seal":
            self.seal()
        else:
            raise ValueError(f"no such command: {verb!r:.40}")

    def take_slot(self, wanted: bool, count: int) -> None:
        """Give this node's slot back; take one, where one is wanted, and report.

        What a slot is: coordinator/slots.py.
        """
        if self.slot is not None:
            self.slot.close()
            self.slot = None
        if wanted:
            self.slot = slots.bind(count)
            got = self.slot is not None
            self.report({"event": "slot", "task": min(self.leaders), "got": got})

    def ask(self, patience: float) -> None:
        """Ask the tasks' processes that want to be asked, and report. Raises PycrError."""
        found = ask.find(pid for leader in self.leaders.values() for pid in proc.tree(leader))
        answers = self.asked.ask(found, "checkpoint", patience)
        if any(answer.get("step") for answer in answers.values()):
            raise TaskError("a task of it runs `srun --cr` itself: only a batch script may")
        for task_id, leader in self.leaders.items():
            try:
                # Only now: what it closes for a checkpoint is no reason to refuse it.
                if task_id in self.asking and task_id in self.pods:
                    self.tell(self.pods[task_id], {"do": "look"})
                elif task_id in self.asking:
                    task.refuse_holding(leader, lambda: self.version, self.ghost_limit)
                self.report({"event": "asked", "task": task_id})
            except PycrError as error:
                self.report({"event": "failed", "task": task_id, **protocol.failure(error)})

    def dump(self, value: Object) -> None:
        """Start the dumps: all freeze; as many at a time as there are cores are then written."""
        self.directory = Path(value["dir"])
        try:
            os.close(image.open_inside(self.directory))
        except OSError as error:
            raise DirectoryError(
                f"image directory {self.directory} is not visible here: {error.strerror}:"
                " use one on a file system that every node of the job has"
            ) from error
        self.keep = bool(value["keep"])
        limits = task.Limits(self.criu, self.ghost_limit, int(value["timeout"]))
        at_once = threading.Semaphore(self.parallel)
        for task_id, leader in sorted(self.leaders.items()):
            kind = PodDump if task_id in self.pods else task.Dump
            dump = kind(
                task_id,
                leader,
                self.directory / image.task_name(task_id),
                limits,
                at_once,
                self.report,
                keep=self.keep,
                hold=bool(value["hold"]),
            )
            if isinstance(dump, PodDump):
                dump.pod = self.pods[task_id]
            self.prepare(dump)
            self.dumps[task_id] = dump
        for dump in self.dumps.values():
            dump.start()

    def prepare(self, dump: task.Dump) -> None:
        """See to what is particular about a dump before it starts."""

    def let_go(self, commit: bool) -> None:
        """Release every task and wait until CRIU has."""
        for dump in self.dumps.values():
            dump.release(commit)
        for dump in self.dumps.values():
            dump.finish()
        if self.keep or not commit:
            self.asked.tell("go on")

    def seal(self) -> None:
        """Make the images durable and report their files, side by side as they were dumped."""
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(self.parallel) as pool:
            list(pool.map(self.seal_task, self.dumps))

    def seal_task(self, task_id: int) -> None:
        """Make one task's image durable and report its files. Raises DirectoryError."""
        assert self.directory is not None
        try:
            directory = image.open_inside(self.directory / image.task_name(task_id))
            files = {name: [size, digest] for name, size, digest in image.seal_task(directory)}
            os.close(directory)
        except OSError as error:
            raise image.directory_error(self.directory, error) from error
        self.report({"event": "sealed", "task": task_id, "files": files})
