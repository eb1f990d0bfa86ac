# SPDX-License-Identifier: GPL-2.0-or-later
"""`pycr status`: how a job's checkpoints stand, and how far a running one is; --watch redraws it.

What is known is read by pycr/coordinator/status.py. --watch ends with 0 when the job has, with 130
on Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import os
import pwd
import shutil
import sys
import time

from pycr.cli import count, size, step_id, verb_parser
from pycr.cli.when import age, moment, span
from pycr.coordinator.status import Of, Part, Progress, Reader, Status
from pycr.errors import AccessDenied, NoSuchJob, SlurmError, printable
from pycr.slurm import Job, commands

EVERY = 2.0  # seconds between two looks of --watch
BAR = 24  # characters
HOME, REST, CLEAR = "\033[H", "\033[J", "\033[K"  # of a terminal: to the top; wipe below; wipe line
INTERRUPTED = 130
LABEL = 12  # characters of a label, and the blanks behind it


def run(verb: str, argv: list[str]) -> int:
    """Run the verb with its arguments; return the exit status."""
    parser = verb_parser(verb)
    parser.add_argument("step", metavar="JOB[.STEP]")
    parser.add_argument(
        "--watch",
        nargs="?",
        const=EVERY,
        type=interval,
        metavar="SECONDS",
        help=f"show it again and again, every {EVERY:.0f} seconds by default, until the job ends",
    )
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    # Its value is never the next word: that is the job.
    argv = [f"--watch={EVERY}" if word == "--watch" else word for word in argv]
    arguments = parser.parse_args(argv)
    job_id, wanted = step_id(arguments.step)
    name = f"{'job' if wanted is None else 'step'} {arguments.step}"
    reader = Reader(become_owner(commands.job(job_id), name), wanted)
    if arguments.watch is None:
        show(reader.read(), arguments.json)
        return 0
    try:
        watch(reader, arguments.watch, arguments.json)
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def interval(text: str) -> float:
    """Parse --watch's value."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.1 <= value <= 86400:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds from 0.1 on")
    return value


def become_owner(job: Job, name: str) -> Job:
    """As root, be the job's owner from now on: what is read is the user's. Raises AccessDenied."""
    if os.getuid() == 0 and job.uid != 0:
        try:
            entry = pwd.getpwuid(job.uid)
        except KeyError as error:
            raise AccessDenied(f"{name}: its owner, uid {job.uid}, is not known here") from error
        os.initgroups(entry.pw_name, entry.pw_gid)
        os.setgid(entry.pw_gid)
        os.setuid(job.uid)
    if job.uid != os.getuid():
        raise AccessDenied(f"{name}: it is {job.user}'s, not yours")
    return job


def watch(reader: Reader, every: float, as_json: bool) -> None:
    """Show the status every so often until the job has ended."""
    redraw = sys.stdout.isatty() and not as_json
    first = True
    while True:
        trouble = ""
        try:
            status = reader.read()
        except NoSuchJob:
            return
        except SlurmError as error:
            if first:
                raise
            trouble = str(error)  # slurmctld may be restarted: it is asked again
        if trouble:
            print(f"pycr: {printable(trouble)}", file=sys.stderr, flush=True)
        elif as_json:
            print(json.dumps(status.json()), flush=True)
        elif redraw:
            draw(text(status, time.time()), first)
        else:
            separator = "" if first else "\n"
            print(separator + "\n".join(text(status, time.time())), flush=True)
        first = False
        if not trouble and not going_on(status):
            return
        time.sleep(every)


def going_on(status: Status) -> bool:
    """Tell whether the job still runs, or will: one that is requeued goes on."""
    return status.state in (
        "RUNNING",
        "PENDING",
        "CONFIGURING",
        "COMPLETING",
        "SUSPENDED",
        "REQUEUED",
        "REQUEUE_HOLD",
    )


def draw(lines: list[str], first: bool) -> None:
    """Put lines in the place of those that are on the terminal."""
    columns, rows = shutil.get_terminal_size()
    shown = [line[: columns - 1] + CLEAR for line in lines[: rows - 1]]
    start = HOME + REST if first else HOME
    sys.stdout.write(start + "\n".join(shown) + "\n" + REST)
    sys.stdout.flush()


def show(status: Status, as_json: bool) -> None:
    """Print the status once."""
    if as_json:
        print(json.dumps(status.json(), indent=1))
    else:
        print("\n".join(text(status, time.time())))


def text(status: Status, now: float) -> list[str]:
    """Return the status as lines for people."""
    parts = [status.state]
    if status.started and status.state == "RUNNING":
        parts[0] += f" for {span(now - status.started)}"
        if status.ends > now:
            parts.append(f"{span(status.ends - now)} left")
    if status.restarts:
        parts.append(f"started again {count(status.restarts, 'time')}")
    if going_on(status) or status.disabled:
        parts.append(enabled(status.disabled))
    title = f"Job {status.job_id} ({status.name}) of {status.user}: {', '.join(parts)}"
    lines = [printable(title)]
    seen: set[str] = set()
    for each in status.steps:
        lines += of_step(each, now, seen)
    return lines


def enabled(disabled: int) -> str:
    """Say whether checkpoints are enabled, and how often they were disabled."""
    more = f", {disabled} times" if disabled > 1 else ""
    return f"checkpoints disabled{more}" if disabled else "checkpoints enabled"


def of_step(each: Of, now: float, seen: set[str]) -> list[str]:
    """Return the lines of a step. seen: the running checkpoints that were shown already."""
    size_of = f", {count(each.tasks, 'task')} on {count(each.nodes, 'node')}" if each.tasks else ""
    what = f" ({each.name})" if each.name else ""
    state = f"{each.state}{size_of}"
    if each.tasks and each.state == "RUNNING":
        state += f", {enabled(each.disabled)}"
    rows = [("state", state)]
    periodic = kept(each, now)
    if periodic:
        rows.append(("periodic", periodic))
    rows.append(("last", last(each, now)))
    if each.error_code:
        rows.append(("last error", f"{each.error_code}: {each.error_msg}"))
    if each.running is not None and each.running.id in seen:
        rows.append(("running", f"with {each.running.steps[-1]}"))
    elif each.running is not None:
        seen.add(each.running.id)
        rows += running(each.running, now)
    head = "Script" if each.step.endswith(".batch") else "Step"
    return [
        printable(f"{head} {each.step}{what}"),
        *(printable(f"  {label:<{LABEL}}{value}") for label, value in rows),
    ]


def kept(each: Of, now: float) -> str:
    """Say when checkpoints are made by themselves, "" where none are."""
    keeping = each.keeping
    parts = []
    if keeping.interval:
        parts.append(f"every {span(keeping.interval)}")
    if keeping.before_end:
        parts.append(f"{span(keeping.before_end)} before the job's end")
    if parts and keeping.next:
        left = keeping.next - now
        when = f"in {span(left)} ({moment(keeping.next)})" if left >= 1 else "now"
        parts.append(f"next {when}")
    return ", ".join(parts)


def last(each: Of, now: float) -> str:
    """Say what the last checkpoint is."""
    found = each.last
    if found is None:
        return "no checkpoint yet"
    parts = [found.path, f"{age(now - found.created)} ago", size(found.size)]
    parts.append(f"frozen {found.frozen:.2f} s")
    if found.work:
        parts.append(f"saves {span(found.work)}")
    if found.why:
        parts.append(found.why)
    return ", ".join(parts)


PHASES = {
    "freezing": "waiting until all stand still",
    "writing": "writing",
    "durable": "making it durable",
    "ending": "ending",
}


def running(progress: Progress, now: float) -> list[tuple[str, str]]:
    """Return the rows of a running checkpoint: how far it is, and how far each node is."""
    whole = progress.whole
    rows = [
        ("running", f"{PHASES[progress.phase]}, for {span(now - progress.began)}: {amount(whole)}")
    ]
    for node, part in progress.nodes.items():
        rows.append((f"  {node}", f"{bar(part.share)} {percent(part.share):>3} %  {amount(part)}"))
    return rows


def amount(part: Part) -> str:
    """Say how much is written of how much."""
    return f"{size(min(part.written, part.needs))} of {size(part.needs)}"


def percent(share: float) -> int:
    """Return a share in percent: 100 only when it is all."""
    return int(share * 100)


def bar(share: float) -> str:
    """Return a progress bar."""
    full = int(share * BAR)
    return f"[{'#' * full}{'-' * (BAR - full)}]"
