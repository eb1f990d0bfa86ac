# SPDX-License-Identifier: GPL-2.0-or-later
"""`pycr show`: everything about one checkpoint."""

from __future__ import annotations

import json
import shlex
import time

from pycr.cli import count, size, totals, verb_parser
from pycr.cli.find import add_image_dir, target
from pycr.cli.when import age, moment, span
from pycr.images import image


def run(verb: str, argv: list[str]) -> int:
    """Run the verb with its arguments; return the exit status."""
    parser = verb_parser(verb)
    parser.add_argument("checkpoint", metavar="DIR|JOB[.STEP]")
    add_image_dir(parser)
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    arguments = parser.parse_args(argv)
    generation = image.resolve(target(arguments.checkpoint, arguments.image_dir))
    every = image.load_all(generation)
    manifest, *inside = every
    if arguments.json:
        steps = {"steps": [each.json() for each in inside]} if manifest.batch else {}
        print(json.dumps({"path": str(generation), **manifest.json(), **steps}, indent=1))
        return 0
    whole = totals(every)
    made = f"{moment(manifest.created)}, {age(time.time() - manifest.created)} ago"
    what = "job" if manifest.batch else "step"
    after = "went on running" if manifest.kept_running else "was ended"
    saves = f"{span(manifest.work)} of the {what}'s work" if manifest.work else "not known"
    wanted = ", ".join(f"{name} {value}" for name, value in manifest.geometry.items() if value)
    lines = [
        ("Checkpoint", str(generation)),
        ("Step", f"{image.step_name(manifest.job_id, manifest.step_id)} of {manifest.user}"),
        ("Command", shlex.join(manifest.command)),
        ("Directory", manifest.cwd),
        ("Made", f"{made}; the {what} {after}"),
        ("A restart saves", saves),
        ("Size", f"{size(whole['size'])}, frozen {whole['frozen']:.3f} s"),
        ("Geometry", wanted),
        ("Written by", ", ".join(f"{name} {value}" for name, value in manifest.versions.items())),
    ]
    for each in inside:
        name = image.step_name(each.job_id, each.step_id)
        ran = f", ran for {span(each.work)}" if each.work else ""
        lines.append((f"Step {name}", f"{count(len(each.tasks), 'task')}, {size(each.size)}{ran}"))
    for node, host in sorted(manifest.hosts.items()):
        facts = ", ".join(f"{name} {value}" for name, value in host.items())
        lines.append((f"Node {node}", facts))
    for each in every:
        for task in each.tasks:
            name = f"Task {task.task_id}"
            if manifest.batch:
                name = (
                    "Script" if each.batch else f"{each.job_id}.{each.step_id} task {task.task_id}"
                )
            lines.append(
                (
                    name,
                    f"{task.node}, {count(len(task.pids), 'process')}, {size(task.size)},"
                    f" frozen {task.frozen:.3f} s, {shlex.join(task.args)}",
                )
            )
    width = max(len(name) for name, _ in lines)
    for name, value in lines:
        print(f"{name:<{width}}  {value}")
    return 0
