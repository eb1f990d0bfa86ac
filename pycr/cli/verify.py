# SPDX-License-Identifier: GPL-2.0-or-later
"""`pycr verify`: whether a checkpoint is whole, and could be restarted; nothing is started.

It reads every file of the checkpoint, and looks at this node as a restart here would: at its
processor, its CRIU and the files that the tasks had open. Of other nodes it tells what Slurm knows,
or has each look for itself (--ask): by this same command, in a step of one task.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from pycr import config, host
from pycr.cli import count, size, verb_parser
from pycr.cli.find import add_image_dir, target
from pycr.cli.progress import Line
from pycr.engine import criu
from pycr.errors import (
    ImageError,
    NotSupported,
    PycrError,
    SlurmError,
    UsageError,
    printable,
)
from pycr.images import image
from pycr.images.manifest import Manifest, TaskImage
from pycr.pod import files
from pycr.slurm import commands
from pycr.slurm.api import slurm

ASKED = 8  # nodes at a time
IMMEDIATE = 10  # seconds that a node may take to begin to look
# Of a node's state, as scontrol has it: IDLE+DRAIN, DOWN*. What is POWERED_DOWN Slurm starts.
BAD = {"DOWN", "DRAIN", "DRAINED", "DRAINING", "FAIL", "FAILED", "FAILING", "UNKNOWN"}


class Image(NamedTuple):
    """A file of the checkpoint. why: what is the matter with it, "" where nothing is."""

    path: str
    size: int
    sha256: str
    why: str


class Node(NamedTuple):
    """A node. why: why it could not restart the checkpoint, "" where it could."""

    node: str
    why: str


def run(verb: str, argv: list[str]) -> int:
    """Run the verb with its arguments; return the exit status."""
    parser = verb_parser(verb)
    parser.add_argument("checkpoint", metavar="DIR|JOB[.STEP]")
    add_image_dir(parser)
    parser.add_argument(
        "--files", choices=files.POLICIES, default=files.CUT, help="as a restart would be told"
    )
    parser.add_argument("--partition", metavar="NAME", help="of its nodes too, what Slurm knows")
    parser.add_argument("--ask", action="store_true", help="have each of them look for itself")
    parser.add_argument(
        "--quick", action="store_true", help="compare the checkpoint's sizes alone, not checksums"
    )
    parser.add_argument("--long", action="store_true", help="name every file, and its checksum")
    parser.add_argument("--json", action="store_true", help="print it all as JSON")
    arguments = parser.parse_args(argv)
    generation = image.resolve(target(arguments.checkpoint, arguments.image_dir))
    every = parts(generation)
    if arguments.ask and not arguments.partition:
        raise UsageError("--ask goes with --partition")
    line = Line()
    try:
        images = list(look_at_images(every, line, arguments.quick))
    finally:
        line.close()
    verdicts = list(look_at_files(every, arguments.files))
    nodes = [Node(os.uname().nodename, here(every))]
    if arguments.partition:
        others = list(in_partition(arguments.partition, every, nodes[0]))
        nodes += ask(others, generation, arguments) if arguments.ask else others
    report = {
        "path": str(generation),
        "whole": not any(each.why for each in images),
        "images": [each._asdict() for each in images],
        "files": [row(task, each) for task, each in verdicts],
        "nodes": [each._asdict() for each in nodes],
    }
    if arguments.json:
        print(json.dumps(report, indent=1))
    else:
        show(generation, images, verdicts, nodes, arguments)
    if any(each.why for each in images):
        return ImageError.exit_status
    refused = any(each.action == files.REFUSE for _, each in verdicts)
    return NotSupported.exit_status if refused or all(each.why for each in nodes) else 0


def parts(generation: Path) -> list[tuple[Path, Manifest]]:
    """Return a generation and the steps in it, each with its manifest. Raises ImageError."""
    own, *inside = image.load_all(generation)
    return [(generation, own), *((generation / name(each), each) for each in inside)]


def name(manifest: Manifest) -> str:
    """Return a step's name."""
    return image.step_name(manifest.job_id, manifest.step_id)


def tasks(every: list[tuple[Path, Manifest]]) -> Iterator[tuple[Path, str, TaskImage]]:
    """Yield every task: its directory, what to call it, and what the manifest has of it."""
    for generation, manifest in every:
        for task in manifest.tasks:
            title = f"{name(manifest)} task {task.task_id}"
            yield (
                generation / image.task_name(task.task_id),
                f"job {manifest.job_id}: its script" if manifest.batch else title,
                task,
            )


def look_at_images(
    every: list[tuple[Path, Manifest]], progress: Callable[[str, int, int], None], quick: bool
) -> Iterator[Image]:
    """Read every file of a checkpoint and compare its size and, unless quick, its checksum."""
    total = sum(len(task.files) for _, _, task in tasks(every))
    done = 0
    for place, _, task in tasks(every):
        whole = ""
        try:
            directory = image.check_task(place.parent, task)
        except PycrError as error:
            whole, directory = str(error), -1
        for each, (wanted, digest) in sorted(task.files.items()):
            progress("reading the checkpoint", done, total)
            why = whole
            if directory >= 0 and not quick:
                one = task._replace(files={each: (wanted, digest)})
                try:
                    image.check_sums(directory, place, one)
                except PycrError as error:
                    why = str(error)
            done += 1
            yield Image(str(place / each), wanted, digest, why)
        if directory >= 0:
            os.close(directory)


def look_at_files(
    every: list[tuple[Path, Manifest]], policy: str
) -> Iterator[tuple[str, files.Verdict]]:
    """Say of each file that the tasks had what a restart here would do about it."""
    for place, title, _ in tasks(every):
        try:
            directory = image.open_owned(place)
        except OSError:
            continue  # it is said of the images
        try:
            for verdict in files.look(files.load(directory, place), policy):
                yield title, verdict
        except ImageError:
            continue
        finally:
            os.close(directory)


def row(task: str, verdict: files.Verdict) -> dict[str, Any]:
    """Return a file as --json has it."""
    old, change = verdict.file, verdict.change
    return {
        "task": task,
        **old._asdict(),
        "change": change.kind,
        "size_now": change.size,
        "action": verdict.action,
        "why": verdict.why,
    }


def here(every: list[tuple[Path, Manifest]]) -> str:
    """Return why this node could not restart a checkpoint, "" where it could."""
    try:
        version = criu.version(criu.find(config.site().criu))
    except PycrError as error:
        return str(error)
    old = host.old_criu(version, os.uname().release)
    if old:
        return f"CRIU is too old here: install {old}"
    return unfit(every, host.facts(version, ""))


def unfit(every: list[tuple[Path, Manifest]], facts: dict[str, str]) -> str:
    """Return why a node of these facts could not run a checkpoint, "" where it could."""
    of = [each for _, manifest in every for each in manifest.hosts.values()]
    return next(filter(None, (host.unfit(each, facts) for each in of)), "")


def in_partition(partition: str, every: list[tuple[Path, Manifest]], own: Node) -> Iterator[Node]:
    """Yield the other nodes of a partition, as far as Slurm knows them. Raises SlurmError."""
    found = slurm().nodes(partition)
    if not found:
        raise SlurmError(f"partition {partition}: Slurm knows none of that name, or no node in it")
    for node, facts in found.items():
        if node == own.node:
            continue
        state = facts.get("State", "")
        why = f"Slurm says it is {state}" if is_out(state) else ""
        yield Node(node, why or unfit(every, {"machine": facts.get("Arch", "")}))


def ask(nodes: list[Node], generation: Path, arguments: argparse.Namespace) -> list[Node]:
    """Have nodes look for themselves, those that could restart it as far as Slurm knows."""

    def one(node: Node) -> Node:
        if node.why:
            return node
        own = [sys.executable, "-m", "pycr.cli", "verify", "--quick", "--json"]
        done = subprocess.run(
            [
                commands.program("srun"),
                f"--partition={arguments.partition}",
                f"--nodelist={node.node}",
                "--nodes=1",
                "--ntasks=1",
                f"--immediate={IMMEDIATE}",
                "--job-name=pycr-verify",
                "--input=none",
                "--quiet",
                *own,
                f"--files={arguments.files}",
                str(generation),
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            env=commands.environment(),
            check=False,
        )
        try:
            found = json.loads(done.stdout)
            refused = [each for each in found["files"] if each["action"] == files.REFUSE]
            why = found["nodes"][0]["why"] or "".join(
                f"{each['path']}: {each['why']}" for each in refused[:1]
            )
        except (ValueError, KeyError, IndexError, TypeError):
            said = [line for line in done.stderr.splitlines() if line.strip()]
            why = f"could not be asked: {said[-1].strip() if said else 'it said nothing'}"
        return Node(node.node, why)

    with ThreadPoolExecutor(ASKED) as pool:
        return list(pool.map(one, nodes))


def is_out(state: str) -> bool:
    """Tell whether a node of this state starts no jobs."""
    return not BAD.isdisjoint(re.split(r"[+*]", state))


def show(
    generation: Path,
    images: list[Image],
    verdicts: list[tuple[str, files.Verdict]],
    nodes: list[Node],
    arguments: argparse.Namespace,
) -> None:
    """Print it for people."""
    bad = [each for each in images if each.why]
    total = size(sum(each.size for each in images))
    whole = "DAMAGED" if bad else "whole"
    say(f"{generation}: {whole}, {count(len(images), 'file')}, {total}")
    for why in dict.fromkeys(each.why for each in bad):
        say(f"  {why}")
    if arguments.long:
        for each in images:
            say(f"  {each.sha256}  {each.size:>12}  {each.path}")
    for task, verdict in verdicts:
        doing = {
            files.OK: "",
            files.TAKE: "taken as it is",
            files.CUT: "will be cut back",
            files.REFUSE: "REFUSED",
        }[verdict.action]
        if verdict.why or arguments.long:
            words = ": ".join(filter(None, (verdict.why, doing))) or "as it was"
            say(f"{task}: {verdict.file.path} ({verdict.file.size} bytes): {words}")
    for node in nodes:
        say(f"{node.node}: {node.why or 'could restart it'}")


def say(text: str) -> None:
    """Print a line: file names in it may be hostile."""
    print(printable(text))
