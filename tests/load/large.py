# SPDX-License-Identifier: GPL-2.0-or-later
"""A task of 6 GiB: created, vacated, restarted; it sees itself that its memory is what it was.

LOAD_GIB in the environment: another size.
"""

from __future__ import annotations

import os
from pathlib import Path

from tests.login import Login, until

from .bed import PLENTY, Bed, must, timed

GIB = int(os.environ.get("LOAD_GIB", "6"))
DUMP = "criu dump --shell-job --manage-cgroups=ignore -v0 -t @ -D images && sync"


def large() -> Bed:
    """Checkpoint and restart a task of many gigabytes."""
    bed = Bed("large", 1)
    try:
        check_room(bed.cluster.shared)
        alice = bed.login("alice")
        root = bed.login("root")
        words = [alice.victim("memory.py"), str(GIB << 10), "ready", "go"]
        options = ["-n1", f"--mem={(GIB + 2) << 10}", "--time=60"]
        process = alice.popen("srun", *options, *words, env={"CHECK": "1"})
        ready = alice.place.glob
        until("its memory", lambda: process.poll() is not None or [*ready("ready.*")], PLENTY)
        assert process.poll() is None, process.communicate()
        step = alice.step()
        created = timed(lambda: must(alice, "pycr", "create", step, "--image-dir", "."))
        must(alice, "pycr", "rm", step, "--image-dir", ".")
        gone = timed(
            lambda: must(alice, "pycr", "vacate", step, "--image-dir", ".", "--max-wait", "600")
        )
        process.communicate(timeout=PLENTY)
        theirs = raw(root)
        bed.ratio(f"{GIB} GiB: pycr create / criu dump and sync", created, theirs)
        bed.ratio(f"{GIB} GiB: pycr vacate / criu dump and sync", gone, theirs)
        (alice.place / "go").touch()
        again = timed(lambda: must(alice, "pycr", "restart", "--image-dir", ".", step))
        bed.ratio(f"{GIB} GiB: pycr restart, with its own check / vacate", again, gone)
    finally:
        bed.close()
    return bed


def raw(login: Login) -> float:
    """Dump a plain victim of the same size by criu alone; return the seconds."""
    victim = login.victim("memory.py")
    login.sh(f"mkdir images; setsid {victim} {GIB << 10} ready go </dev/null >/dev/null 2>&1 &")
    until("its memory", lambda: [*login.place.glob("ready.*")], PLENTY)
    pid = next(login.place.glob("ready.*")).read_text()
    took = timed(lambda: must(login, "sh", "-c", DUMP.replace("@", pid)))
    login.sh("rm -rf images")
    return took


def check_room(place: Path) -> None:
    """Refuse to begin where memory or disk would not do."""
    text = Path("/proc/meminfo").read_text()
    free = next(line for line in text.splitlines() if line.startswith("MemAvailable"))
    if int(free.split()[1]) >> 20 < GIB + 4:
        raise SystemExit(f"load: {GIB} GiB of memory and 4 more are needed: {free}")
    disk = os.statvfs(place)
    if disk.f_bavail * disk.f_frsize >> 30 < 3 * GIB:
        raise SystemExit(f"load: {3 * GIB} GiB of disk are needed below {place}")
