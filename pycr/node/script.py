# SPDX-License-Identifier: GPL-2.0-or-later
"""The dump helper of a batch script: beside what dumper.py does for tasks, what only a script has.

    slurmstepd -- the script's tree: bash, srun_cr, tee, ...     dumped
    (orphans)     pycr-monitor -- srun                           held: their output waits
                  pycr-keeper -- pycr                            left alone

It refuses a plain srun, has each srun_cr say which step it waits for, holds the output of their
sruns (srun_cr/monitor.py), and keeps with the image the script's file, which Slurm deletes with the
job.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from pycr import ask, keeper, mailbox, protocol
from pycr.ask import Asked, Process
from pycr.engine import proc
from pycr.errors import Later, PycrError, TaskError
from pycr.images import image
from pycr.node import task
from pycr.node.dumper import Helper
from pycr.protocol import Object
from pycr.slurm import commands, preemption

QUIET = 0.05  # seconds without output after which none is on its way any more
DRAIN = 2.0  # seconds to wait for that
COLLECT = 60.0  # seconds that a vacated step's srun may take to end
HOLD = 10.0  # seconds that monitors may take to answer
# These talk to Slurm's daemons over connections that cannot be dumped, and end soon.
COMMANDS = {"sacct", "salloc", "sattach", "sbatch", "sbcast", "scancel", "scontrol", "sinfo"}
COMMANDS |= {"sprio", "squeue", "sreport", "sshare", "sstat", "strigger"}
CHUNK = 1 << 20
YOUNG = 2.0  # seconds in which an srun may become srun_cr, if it was started with --cr


class ScriptHelper(Helper):
    """The helper for the one task that is a batch script."""

    def __init__(self, argv: list[str]) -> None:
        super().__init__(argv)
        self.monitors = Asked()
        self.root = 0  # the script's own first process, as it is here
        self.script = ""
        self.streams: list[Object] = []
        self.told: set[int] = set()
        self.watched = self.killed = 0  # steps with a monitor; monitors that are gone
        self.outputs = False
        self.sizes: dict[int, int] = {}  # of its streams' files, when it stood still
        self.job_end: Callable[[int], None] | None = None  # what is still to be done to the job

    def describe(self, task_id: int, leader: int) -> Object:
        """Say what the script is. Raises TaskError."""
        found = super().describe(task_id, leader)
        self.root = self.find_root(leader, found["pids"][0])
        self.streams = found["streams"]
        self.script = self.find_script(leader)
        try:
            with open(self.script, "rb"):
                pass
        except OSError as error:
            raise TaskError(
                f"its script file {self.script} cannot be read: {error.strerror}"
            ) from error
        with suppress(Later):  # it is looked at again when it stands still
            self.refuse_srun()
        return {**found, "script": self.script}

    def find_root(self, leader: int, own_pid: int) -> int:
        """Return the script's first process; a restored one's is below its pod."""
        if proc.comm(leader) != protocol.POD_COMM:
            return leader
        for pid in proc.tree(leader):
            if proc.own_pid(pid) == own_pid and pid != leader:
                return pid
        raise TaskError("it has just ended")

    def find_script(self, leader: int) -> str:
        """Return the path of the file that Slurm made of the script."""
        if proc.comm(leader) == protocol.POD_COMM:
            return protocol.pod_script(self.pod(leader)[1])
        for word in proc.cmdline(leader):
            if re.search(rf"/job0*{self.target_job}/slurm_script$", word):
                return word
        spool = commands.configuration().get("SlurmdSpoolDir", "/var/spool/slurmd")
        spool = spool.replace("%n", self.node).replace("%h", os.uname().nodename)
        return f"{spool}/job{self.target_job:05}/slurm_script"

    def addresses(self) -> list[str]:
        """Return the restored script's pod's, whom an srun asks for its variables (inside.pxi)."""
        return [protocol.pod_address(self.pod(self.leaders[each])[1]) for each in self.pods]

    def refuse_whole(self, found: Object, inside: set[int]) -> None:
        """Refuse processes that are neither the script's nor a monitor's or the keeper's."""
        if "reason" in found["0"] or self.pods:
            return
        monitors = {pid for pid in self.every if proc.comm(pid) == mailbox.MONITOR_COMM}
        keepers = {pid for pid in self.every if keeper.MODULE in proc.cmdline(pid)[1:4]}
        strays = proc.outside(self.every - inside, {self.root, os.getpid(), *monitors, *keepers})
        try:
            task.refuse(self.root, strays)
        except PycrError as error:
            found["0"] = protocol.failure(error)

    def refuse_srun(self) -> None:
        """Refuse a plain srun in the script's tree, and wait for Slurm's other commands.

        Raises TaskError, Later.
        """
        for pid in proc.tree(self.root):
            name = proc.comm(pid)
            if name in COMMANDS:
                raise Later(f"a {name} of it has not ended")
            if name != "srun":
                continue
            words = proc.cmdline(pid)
            if any(word.startswith("--cr-helper=") for word in words):
                raise TaskError("a job's script cannot be checkpointed from itself")
            try:
                if proc.age(pid) < YOUNG:
                    raise Later("an srun of its has just started")
            except OSError:
                continue
            line = " ".join(words)
            raise TaskError(
                f"process {proc.own_pid(pid)} of it is a plain srun ({line:.60}), which cannot be"
                " checkpointed: start it with --cr"
            )

    def ask(self, patience: float) -> None:
        """Ask the script's processes; report the steps that its srun_cr processes wait for."""
        self.monitors.tell("go on")  # of an attempt that came to nothing
        found = ask.find(proc.tree(self.root))
        own = [each for each in found if each.role != mailbox.MONITOR]
        answers = self.asked.ask(own, "checkpoint", patience)
        # Where Slurm follows processes by their parents it does not know the monitors for its own.
        self.told = {int(answer["monitor"]) for answer in answers.values() if "monitor" in answer}
        runs = [each for each in answers.values() if each.get("step")]
        self.watched = sum(bool(each.get("monitor")) for each in runs)
        self.report({"event": "asked", "task": 0, "steps": [each["step"] for each in runs]})

    def command(self, value: Object) -> None:
        """Do one of the coordinator's commands."""
        if value["do"] == "collect":
            held = list(self.monitors.processes.values())
            answers = self.monitors.ask(held, "collect", COLLECT, dir=value["dir"])
            reasons = [each["reason"] for each in answers.values() if each.get("reason")]
            lost = sum(str(each.pid) not in answers for each in held)
            lost = max(lost, self.killed)
            if lost:
                reasons.append(f"what {lost} of its monitors held, which were killed")
            self.report({"event": "collected", "task": 0, "reasons": reasons})
        elif value["do"] == "committed":
            self.committed = True
            self.job_end = preemption.requeue if value["requeue"] else commands.cancel
        else:
            if value["do"] == "release":
                self.job_end = None  # the coordinator has done it
            super().command(value)

    def dump(self, value: Object) -> None:
        """Hold the sruns' output, then freeze the script."""
        self.outputs = bool(value["outputs"])
        self.let_go_again(Path(value["dir"]) / image.task_name(0))
        _, every = commands.pids(self.target_job, self.target_step)
        every.update(pid for leader in self.leaders.values() for pid in proc.tree(leader))
        if not self.pods:
            every |= self.told
        held = [each for each in ask.find(every) if each.role == mailbox.MONITOR]
        quiet = {"quiet": QUIET, "most": DRAIN} if value["keep"] else {"quiet": 0, "most": 0}
        answers = self.monitors.ask(held, "hold", HOLD, dir=value["dir"], **quiet)
        # What one had in its hands that was killed before this, or meanwhile, is nowhere.
        self.killed = self.watched - len(answers)
        super().dump(value)

    def let_go_again(self, directory: Path) -> None:
        """Make place for another attempt."""
        for dump in self.dumps.values():
            dump.release(False)
            dump.finish()
        if self.dumps:
            for task_id, pod in self.pods.items():
                pod.close()  # it serves one dump
                self.pods[task_id] = self.connect(self.leaders[task_id])
        self.dumps.clear()
        try:
            generation = image.open_inside(directory.parent)
            try:
                image.remove_tree(f"/proc/self/fd/{generation}/{image.LATE}")
                images = image.open_owned(directory.name, generation)
            finally:
                os.close(generation)
            try:
                self.keep_script(images)
            finally:
                os.close(images)
        except OSError as error:
            name = error.filename if isinstance(error.filename, str) else ""
            raise image.directory_error(directory / name, error) from error

    def keep_script(self, images: int) -> None:
        """Have nothing but the script's file in the directory of its image. Raises OSError."""
        for name in os.listdir(images):
            os.unlink(name, dir_fd=images)
        copy = image.create(image.SCRIPT, images)
        with open(self.script, "rb") as file, os.fdopen(copy, "wb") as target:
            shutil.copyfileobj(file, target)

    def prepare(self, dump: task.Dump) -> None:
        """Have the script looked at when it stands still."""
        dump.look = self.look
        dump.spared = (self.script,)

    def look(self) -> Object:
        """See that nothing has begun in the script since it was asked; say how far it was read.

        Raises Later, TaskError.
        """
        tree = proc.tree(self.root)
        found: list[Process] = ask.find(tree)
        self.asked.refuse_others(found)
        self.streams = [stream.json() for stream in proc.streams(self.root)]
        self.refuse_srun()
        try:
            task.refuse_holding(self.root, lambda: self.version, self.ghost_limit)
        except TaskError as error:
            if any(address in str(error) for address in self.addresses()):
                raise Later("an srun of its has just started, and asks its pod") from error
            raise
        for stream in self.streams:
            if stream["kind"] == "file":
                fd = stream["fd"]
                self.sizes[fd] = os.stat(f"/proc/{self.root}/fd/{fd}").st_size
        offsets = [proc.offset(pid, self.script) for pid in tree]
        return {"offset": next((each for each in offsets if each >= 0), -1)}

    def let_go(self, commit: bool) -> None:
        """Release the script, and its sruns' output where it goes on."""
        if self.job_end is not None:
            # The coordinator was lost when the checkpoint was made and the job still to be ended.
            with suppress(PycrError):
                self.job_end(self.target_job)
        super().let_go(commit)
        if self.keep or not commit:
            self.monitors.tell("go on")

    def seal_task(self, task_id: int) -> None:
        """Keep what Slurm will truncate, then do as for a task."""
        assert self.directory is not None
        if self.outputs:
            directory = self.directory / image.task_name(task_id)
            try:
                images = image.open_inside(directory)
                try:
                    self.keep_outputs(images)
                finally:
                    os.close(images)
            except OSError as error:
                raise image.directory_error(directory, error) from error
        super().seal_task(task_id)

    def keep_outputs(self, images: int) -> None:
        """Copy the files that the script's streams are into its image, as far as they went when it
        stood still: it may run on by now. Raises OSError."""
        done: set[str] = set()
        for stream in self.streams:
            name = image.OUTPUTS.get(stream["fd"])
            if name and stream["kind"] == "file" and stream["name"] not in done:
                done.add(stream["name"])
                copy = image.create(name, images)
                path = f"/proc/{self.root}/fd/{stream['fd']}"
                left = self.sizes.get(stream["fd"], 0)
                with open(path, "rb") as file, os.fdopen(copy, "wb") as target:
                    while left > 0 and (data := file.read(min(left, CHUNK))):
                        target.write(data)
                        left -= len(data)
