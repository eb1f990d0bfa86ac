# SPDX-License-Identifier: GPL-2.0-or-later
"""`pycr report` of a real job: three forms, and JSON that is drawn where Slurm is not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from tests.login import Login, until

ROOT = Path(__file__).parents[2]
NEEDS_PILLOW = 7
SCRIPT = "#!/bin/bash\nsrun --cr {tick} > out 2>/dev/null\n"


def sums(life: dict[str, Any]) -> dict[str, float]:
    found: dict[str, float] = {}
    for each in life["segments"]:
        found[each["kind"]] = found.get(each["kind"], 0) + each["end"] - each["start"]
    return found


def test_report(alice: Login, bob: Login, tmp_path: Path) -> None:
    """Of a job that was checkpointed and then requeued, while it runs again and once it is gone."""
    script = SCRIPT.format(tick=alice.victim("tick.py"))
    done = alice.run("sbatch", "--parsable", "-n1", "-J", "<relax>", input=script)
    job = done.stdout.strip()
    until("it to count", lambda: "0 50" in alice.read("out"))
    frozen = sum(alice.pycr_json(verb, job)[0]["frozen"] for verb in ("create", "requeue"))
    size = len(alice.read("out"))
    until("it to go on", lambda: len(alice.read("out")) > size, 60)

    made = alice.pycr_json("report", job)
    first, second = made["lives"]
    assert [len(life["checkpoints"]) for life in (first, second)] == [2, 0]
    assert (first["why"], second["why"], second["end"]) == ("requeued", "RUNNING", None)
    slurm = alice.run("env", "SLURM_TIME_FORMAT=%s", "scontrol", "-o", "show", "job", job).stdout
    assert f" StartTime={second['start']:.0f} " in slurm
    was, now = sums(first), sums(second)
    assert was["run"] > 0.4 and was["frozen"] >= frozen and "lost" not in was
    # Slurm lets a requeued job wait as long as a credential is good for: here 5 s.
    assert 4 < now["queued"] < 60 and now["run"] > 0
    assert made["totals"]["checkpoints"] == 2 and made["totals"]["frozen"] == was["frozen"]

    text = alice.run("env", "LC_ALL=C.UTF-8", "COLUMNS=70", "pycr", "report", job).stdout
    lines = text.splitlines()
    assert max(map(len, lines)) <= 70 and lines[0].startswith(
        f"job {job} (<relax>), alice: 2 lives"
    )
    assert "│" in lines[1] and "█" in lines[1] and lines[2].endswith("runs"), text
    assert alice.run("env", "LC_ALL=C", "pycr", "report", job).stdout.isascii()

    again = alice.pycr_json("report", job, "-o", "r.svg")
    root = ElementTree.parse(alice.place / "r.svg").getroot()
    classes = [each.get("class") for each in root.iter("{http://www.w3.org/2000/svg}rect")]
    assert classes.count("frozen") == 3, "two, and the legend's"

    # The nodes have no Pillow: what they say is drawn elsewhere.
    done = alice.pycr("report", job, "-o", "r.png")
    assert (done.returncode, done.stderr.count("\n")) == (NEEDS_PILLOW, 1)
    assert "--from" in done.stderr and not (alice.place / "r.png").exists()
    (tmp_path / "r.json").write_text(json.dumps(again))
    command = [sys.executable, "-m", "pycr.cli", "report", "--from", str(tmp_path / "r.json")]
    subprocess.run([*command, "-o", str(tmp_path / "r.png")], check=True, cwd=ROOT)
    data = (tmp_path / "r.png").read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) > 5000
    assert int.from_bytes(data[16:20], "big") == 1920

    refused(alice, bob, job)
    alice.run("scancel", job)
    until("its end", lambda: not alice.jobs())
    assert [life["why"] for life in alice.pycr_json("report", job)["lives"]] == [
        "requeued", "CANCELLED",
    ]  # fmt: skip


def refused(alice: Login, bob: Login, job: str) -> None:
    """It is its owner's, and root's, who reads it as the owner and writes as root."""
    done = bob.pycr("report", job)
    assert (done.returncode, done.stderr) == (4, f"pycr: job {job}: it is alice's, not yours\n")
    root = Login(alice.cluster, "root", "n1", alice.place)
    (alice.place / "link.svg").symlink_to("/etc/passwd")
    assert root.pycr("report", job, "-o", "link.svg").returncode == 0
    assert not (alice.place / "link.svg").is_symlink()
    assert len(root.pycr_json("report", job)["lives"]) == 2
    for words, status in ((("99999",), 3), ((job, "-o", "no/x.svg"), 8)):
        done = alice.pycr("report", *words)
        assert done.returncode == status and done.stderr, (words, done)
    assert root.pycr("report", "99999", "--image-dir", ".").returncode == 3
