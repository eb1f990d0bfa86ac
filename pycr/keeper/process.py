# SPDX-License-Identifier: GPL-2.0-or-later
"""The keeper as a process: it waits for what is due, has it done, and says what came of it.

look at the job --> due: before its end, on preemption --> vacate or requeue, again if it fails
                `-> due: start + k * interval ----------> create
"""

from __future__ import annotations

import os
import select
import signal
import time
from contextlib import suppress

from pycr import config, errors, keeper
from pycr.coordinator import batch, record, step
from pycr.errors import PycrError
from pycr.keeper import ask, back, failures, plan
from pycr.keeper.command import Command
from pycr.keeper.diary import Diary
from pycr.settings import AUTO, NEVER, Settings
from pycr.slurm import commands

GUESS = (5.0, 15.0)  # seconds that the tasks stand still, and all, before one was measured
FIRST = 300.0  # seconds until the first checkpoint where none was measured: to measure it
LAST = 3.0  # seconds before the end at which nothing is waited for any more
GONE = (errors.NoSuchJob, errors.AlreadyDone, errors.JobPending)


class Keeper:
    """One, of a step or of a batch job."""

    def __init__(self, target: str, watch: str, settings: Settings, generation: str = "") -> None:
        """target: "4711.0" or "4711.batch". watch: see pycr/keeper/__init__.py."""
        self.target, self.settings, self.generation = target, settings, generation
        self.job_id = int(target.partition(".")[0])
        self.is_batch = target.endswith(".batch")
        self.name = str(self.job_id) if self.is_batch else target
        self.parent = watch == keeper.PARENT
        self.watched = 0 if self.parent else os.pidfd_open(int(watch))
        self.wake = -1
        self.gone = 0.0  # since when what it looks after is
        self.over = ""  # why it ends
        self.command: Command | None = None
        self.final = False  # whether that is the last one
        self.final_since = 0.0  # when the first that was to be it began: seconds since the epoch
        self.attempts = self.failures = 0
        self.given_up = 0.0  # the end for which no checkpoint could be made
        self.told = False  # to end the step, by its srun_cr
        self.requeue_at = 0.0  # at the latest; 0: not vacated yet
        self.interval = self.chosen_for = 0.0

    def begin(self) -> bool:
        """Learn what is to be done; tell whether anything is. Raises PycrError, OSError."""
        with open("/proc/self/comm", "w") as file:
            file.write(keeper.COMM)
        self.site = config.site()
        self.job = commands.job(self.job_id)
        self.facts, self.since = ask.facts(self.job), record.since(self.job)
        self.diary = Diary(self.target, record.of_job(self.site, self.job_id))
        self.before_end = self.settings.before_end
        if self.before_end == 0:
            self.before_end = AUTO if self.is_batch and self.facts.requeue else NEVER
        if not self.job.running or (self.before_end == NEVER and not self.settings.checkpoint):
            return False
        if self.is_batch:
            batch.check(self.job, requeue=False)
        facts = self.facts
        self.grace = ask.grace(facts.partition, facts.qos) if self.before_end != NEVER else 0.0
        self.ahead = ask.signal_ahead(self.job_id) if self.job.is_batch else 0.0
        self.max_wait = float(self.site.max_wait or step.MAX_WAIT)
        self.start = self.now = time.monotonic()
        self.retry_at, self.look_at = 0.0, float("inf")
        self.took = [float(each["seconds"]) for each in self.diary.past()]
        self.take_end()
        if self.settings.checkpoint == AUTO:
            self.choose_interval()
        elif self.settings.checkpoint:
            self.take_interval(float(self.settings.checkpoint))
        self.tick = self.start + self.interval if self.interval else float("inf")
        if self.settings.checkpoint == AUTO and not self.took:
            self.tick = self.start + min(self.interval, FIRST)
        self.tell_life()
        if self.tick < self.start + self.interval:
            self.tell_next()
        return True

    def tell_next(self) -> None:
        self.diary.write("next", since=self.since, at=time.time() + self.tick - self.now)

    def tell_life(self) -> None:
        self.diary.write(
            "life",
            since=self.since,
            nodes=self.facts.nodelist,
            end=self.facts.end,
            interval=self.interval,
            before_end=self.margin if self.before_end != NEVER else None,
            generation=self.generation,
        )

    def choose_interval(self) -> None:
        """Choose the interval by what a checkpoint costs and how often nodes fail; say why."""
        last = self.diary.past()[-1:]
        frozen = float(last[0].get("frozen", GUESS[0])) if last else GUESS[0]
        total = self.took[-1] if self.took else GUESS[1]
        cost = max(frozen, total / plan.TENTH)
        if self.chosen_for and not plan.has_changed(cost, self.chosen_for):
            return
        self.chosen_for = cost
        interval, why = failures.choose(frozen, total, self.facts.partition, self.facts.nodes)
        self.take_interval(interval, silent=True)
        how = "measured" if last else "a guess before the first"
        self.diary.note(
            f"{self.target}: a checkpoint every {plan.spell(self.interval)}: one stops it for"
            f" {frozen:.2f} s and takes {total:.1f} s ({how}); {why}"
        )

    def take_interval(self, wanted: float, silent: bool = False) -> None:
        """Take an interval; it is not below the site's."""
        self.interval = max(wanted, float(self.site.min_interval))
        if self.interval > wanted and not silent:
            self.diary.note(
                f"{self.target}: a checkpoint every {plan.spell(self.interval)}, not every"
                f" {plan.spell(wanted)}: the site's min_interval"
            )

    def take_end(self) -> None:
        """Work out by what the job's end is when the last checkpoint is due."""
        facts = self.facts
        self.end = float("inf")
        self.duration = plan.expected(self.took, GUESS[1])
        wanted = float(self.before_end) if self.before_end > 0 else 0.0
        self.margin = plan.margin(self.duration, facts.slot, wanted, self.ahead)
        self.due = float("inf")
        if facts.end is not None:
            self.end = time.monotonic() + facts.end - time.time()
        if self.before_end != NEVER and self.facts.running:
            self.due = self.now if facts.preempted or self.told else self.end - self.margin
        if self.given_up and self.given_up == facts.end:
            self.due = float("inf")
        elif self.due > self.now:
            self.attempts = 0
        self.look_at = min(self.look_at, self.now + plan.poll_in(self.now, self.due, self.grace))

    def look(self) -> None:
        """Look at the job: its end may have moved, or it is no more."""
        self.look_at = float("inf")
        try:
            self.job = commands.job(self.job_id)
        except errors.NoSuchJob:
            self.over = "done"
        except PycrError:
            self.look_at = self.now + plan.POLL  # slurmctld is down: later
        else:
            before, self.facts = self.facts, ask.facts(self.job)
            if self.facts.start != before.start:
                self.over = "requeued"  # this is its next life
            elif not self.job.running or self.job.state == "COMPLETING":
                self.over = "done"
            if self.facts.preempted and not before.preempted:
                left = (self.facts.end or time.time()) - time.time()
                self.diary.note(
                    f"{self.target}: the job is preempted: {plan.spell(max(0, left))} are left"
                )
            self.take_end()

    def run(self) -> None:
        """Look after it until it has ended."""
        self.wake, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        for name in ("TERM", "INT", "HUP", "USR1", "USR2"):
            signal.signal(signal.Signals[f"SIG{name}"], lambda *_: None)
        while True:
            self.now = time.monotonic()
            try:
                self.act()
            except OSError as error:  # no process or no memory now: there may be later
                self.diary.note(f"{self.target}: {error}", "fault")
                pause = plan.retry_in(max(1, self.attempts), self.end - self.now)
                self.final, self.retry_at = False, self.now + pause
                self.look_at = min(self.look_at, self.now + plan.POLL)
            if self.over and self.command is None:
                break
            self.wait()
        # Of a job that is vacated whole the checkpoint itself has written it: this may be too late.
        if not (self.is_batch and self.final_since and self.diary.vacated(self.final_since)):
            self.diary.end(self.over)

    def act(self) -> None:
        """Do what is due."""
        if self.command is not None:
            if self.command.over():
                self.concluded(self.command)
            elif self.gone and self.now - self.gone > back.LINGER:
                self.over, self.command = self.over or "done", None
            return
        if self.requeue_at:
            back.put_back(self)
            return
        if self.gone or self.over:
            self.over = self.over or "done"
            return
        if self.now >= self.look_at:
            self.look()
        if self.over:
            return
        if self.now >= self.due:
            if self.now >= self.retry_at:
                self.last()
        elif self.now >= self.tick:
            self.periodic()

    def tell_parent(self, word: bytes) -> None:
        if self.parent:
            with suppress(OSError):
                os.write(1, word)

    def wait(self) -> None:
        """Wait for the next that is due, or for news."""
        poll = select.poll()
        poll.register(self.wake, select.POLLIN)
        if not self.gone:
            poll.register(self.watched, select.POLLIN)
        if self.command is not None:
            poll.register(self.command.descriptor, select.POLLIN)
            until = self.gone + back.LINGER if self.gone else float("inf")
        elif self.requeue_at:
            until = self.now + back.OTHERS
        else:
            until = min(max(self.due, self.retry_at), self.tick, self.look_at)
        left = max(0.0, until - time.monotonic())
        ready = {each for each, _ in poll.poll(None if left > 1e6 else left * 1000 + 1)}
        if self.wake in ready:
            os.read(self.wake, 4096)
        if self.watched in ready:
            self.hear()

    def hear(self) -> None:
        """Take in what its parent says, or that what it looks after is gone."""
        if self.parent:
            said = os.read(0, 64)
            if keeper.TERM in said and not self.told:
                self.told = True
                self.due, self.retry_at = self.now, 0.0
            if said:
                return
            null = os.open("/dev/null", os.O_WRONLY)
            os.dup2(null, 2)  # who reads it waits for its end
            os.close(null)
        self.gone = time.monotonic()

    def periodic(self) -> None:
        """Have a checkpoint made."""
        self.tick = plan.next_tick(self.start, self.interval, self.now)
        if self.now + self.duration > self.due:
            return  # the last one is as good as due
        most = min(self.max_wait, self.due - self.now)
        self.command = Command("create", self.name, most, self.settings.keep or self.site.keep)

    def last(self) -> None:
        """Have it checkpointed and ended."""
        left = self.end - self.now
        if self.attempts and not plan.worth_trying(left, self.duration):
            back.last_resort(self)
            return
        if not self.attempts:
            self.final_since = time.time()
            self.diary.note(f"{self.target}: {self.why(left)}: checkpointed, and {self.what()}")
        self.attempts += 1
        self.final = True
        if self.back():
            self.tell_parent(keeper.HOLD)
        verb = "requeue" if self.is_batch and self.facts.requeue else "vacate"
        most = min(self.max_wait, max(self.duration, left - LAST))
        self.command = Command(verb, self.name, most)

    def back(self) -> bool:
        """Tell whether the job is to be put back into the queue."""
        return self.facts.is_batch and self.facts.requeue

    def why(self, left: float) -> str:
        if self.told:
            return "a SIGTERM came"
        if self.facts.preempted:
            return f"preempted, with {plan.spell(max(0.0, left))} left"
        how = "" if self.before_end > 0 else f", where one takes {plan.spell(self.duration)}"
        return f"{plan.spell(max(0.0, left))} before its end{how}"

    def what(self) -> str:
        ended = f"ended; go on with: pycr restart {self.target}"
        return "put back into the queue" if self.back() else ended

    def concluded(self, command: Command) -> None:
        """See what came of a checkpoint."""
        self.command = None
        status, reason = command.status, command.reason()
        final, self.final = self.final, False
        if status == 0:
            self.failures = 0
            self.took.append(command.took - plan.STARTUP)
            self.duration = plan.expected(self.took, GUESS[1])
            self.diary.said = {"slow": self.diary.said.get("slow", "")}
        command.close()
        if status in {each.exit_status for each in GONE} and not (final and self.attempts > 1):
            self.look_at = self.now  # it may have ended; if not, its next checkpoint is on time
        if final:
            self.last_concluded(status, reason)
            return
        if status == 0:
            over = plan.missed(self.start, self.interval, command.began, self.now)
            if over:
                skipped = f"{over} that were due are skipped" if over > 1 else "the next is skipped"
                self.diary.note(
                    f"{self.target}: a checkpoint took {command.took:.0f} s: {skipped}", "slow"
                )
            if self.settings.checkpoint == AUTO:
                before = self.interval
                self.choose_interval()
                if self.interval != before:
                    self.tell_life()
                    self.start = self.now
            self.take_end()
        elif status in (errors.Disabled.exit_status, errors.Busy.exit_status):
            self.diary.note(f"periodic checkpoint skipped: {reason}", "skipped")
        elif not self.gone:
            self.failures += 1
            self.diary.note(f"periodic checkpoint failed: {reason}", "failed")
        self.tick = plan.tick_after(self.start, self.interval, self.now, self.failures)
        if self.failures:
            self.tell_next()

    def last_concluded(self, status: int, reason: str) -> None:
        """See what came of the last checkpoint."""
        if status == 0:
            if self.is_batch or not self.back():
                self.over = "requeued" if self.back() else "vacated"
            else:
                self.diary.write("ended", why="vacated, for a requeue")
                self.requeue_at = max(self.now, min(self.end - LAST, self.now + back.LINGER))
            return
        if self.gone:
            self.over = "done"
            return
        if self.told:
            self.diary.note(
                f"{self.target}: no checkpoint for the SIGTERM, which goes on: {reason}"
            )
            self.told, self.attempts = False, 0
            self.tell_parent(keeper.FAILED)
            self.take_end()
            return
        if self.back():
            self.tell_parent(keeper.FAILED)
        self.retry_at = self.now + plan.retry_in(self.attempts, self.end - self.now)
        self.diary.note(
            f"{self.target}: the last checkpoint failed, it is tried again: {reason}", "last"
        )
