# SPDX-License-Identifier: GPL-2.0-or-later
"""`make bench`: what pycr costs, as ratios to plain srun and plain criu measured in the same run.

Ours and theirs run in turn, so that a ratio holds while the machine's speed drifts; the median of
the pairs is what counts. Nothing here passes or fails.
"""

from __future__ import annotations

import mmap
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.cluster import Cluster
from tests.login import Login, until

PAIRS = int(os.environ.get("PYCR_BENCH_PAIRS", "7"))
TASKS, MIB = 8, 128
CRIU = "criu {verb} --shell-job --manage-cgroups=ignore -v0 -D {dir}"


def timed(action: Callable[[], None]) -> float:
    began = time.monotonic()
    action()
    return time.monotonic() - began


def touch_memory() -> None:
    """Use most memory once and free it: a virtual machine's first use of a page is far dearer.

    A dump fills the page cache: ours would pay for that, and criu's, which gets the pages that
    it has just freed, would not.
    """
    text = Path("/proc/meminfo").read_text()
    available = next(line for line in text.splitlines() if line.startswith("MemAvailable"))
    size = int(available.split()[1]) * 1024 * 7 // 10
    child = os.fork()
    if child == 0:
        view = memoryview(mmap.mmap(-1, size))
        for offset in range(0, size, 4096):
            view[offset] = 1
        os._exit(0)
    os.waitpid(child, 0)


def report(name: str, pairs: list[tuple[float, float]], goal: str = "") -> None:
    """Print a line: medians of ours and theirs, and of their ratios."""
    ours, theirs = (statistics.median(column) for column in zip(*pairs))
    ratios = sorted(a / b for a, b in pairs)
    print(
        f"{name:<58} {ours * 1000:7.0f} ms {theirs * 1000:7.0f} ms"
        f"   {statistics.median(ratios):5.2f}  ({ratios[0]:.2f} to {ratios[-1]:.2f}){goal}",
        flush=True,
    )


class Bench:
    """The measurements, on one cluster of two nodes."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        place = cluster.shared / "bench"
        place.mkdir(mode=0o755, exist_ok=True)
        os.chown(place, 1001, 1001)
        self.alice = Login(cluster, "alice", "n0", place)
        self.root = Login(cluster, "root", "n0", place)
        self.victim = self.alice.victim("memory.py")

    def must(self, login: Login, script: str) -> float:
        """Run a script that times itself inside the node, so that the way there does not count."""
        body = f"s=$(date +%s%N); {script}; rc=$?; echo $(( $(date +%s%N) - s )) >&2; exit $rc"
        done = login.sh(body, timeout=300)
        if done.returncode:
            raise SystemExit(f"bench: {script}: {done.stdout}{done.stderr}")
        return int(done.stderr.split()[-1]) / 1e9

    def launch(self) -> None:
        """What --cr adds to the start of a step."""
        pairs = [
            (self.must(self.alice, "srun --cr true"), self.must(self.alice, "srun true"))
            for _ in range(PAIRS)
        ]
        report("srun --cr true / srun true", pairs, "   goal: at most 1.30")

    def in_script(self, ours: str, theirs: str) -> list[tuple[float, float]]:
        """Time two commands in turn in a batch script, where srun_cr is beside its srun."""
        script = self.alice.place / "pairs.sh"
        script.write_text(
            "#!/bin/bash\n#SBATCH -N2 -o pairs.out\n"
            "timed() { s=$(date +%s%N); eval $1; echo $(( $(date +%s%N) - s )) >> pairs; }\n"
            f"for i in $(seq {PAIRS}); do timed '{ours}'; timed '{theirs}'; done\n"
        )
        (self.alice.place / "pairs").unlink(missing_ok=True)
        self.must(self.alice, "sbatch -W pairs.sh >/dev/null")
        times = [int(word) / 1e9 for word in self.alice.read("pairs").split()]
        return list(zip(times[::2], times[1::2]))

    def scripts(self) -> None:
        """What --cr adds to a step of a batch script, and to its output."""
        report("the same in a batch script", self.in_script("srun --cr true", "srun true"))
        say = "srun{} -n1 -N1 head -c 64M /dev/zero > zeros; rm zeros"
        report("64 MiB of output to a file", self.in_script(say.format(" --cr"), say.format("")))

    def victims(self, start: Callable[[], object]) -> None:
        """Start victims and wait until all have their memory."""
        for old in self.alice.place.glob("ready.*"):
            old.unlink()
        (self.alice.place / "go").unlink(missing_ok=True)
        start()
        until("the victims", lambda: len(list(self.alice.place.glob("ready.*"))) == TASKS, 120)

    def checkpoint(self) -> None:
        """Create and restart of a step, against criu alone on the same memory."""
        words = f"{self.victim} {MIB} ready go"
        creates: list[tuple[float, float]] = []
        restarts: list[tuple[float, float]] = []
        for turn in range(PAIRS + 1):
            self.victims(lambda: self.alice.popen("srun", "-N2", f"-n{TASKS}", *words.split()))
            step = self.alice.step()
            ours = self.must(self.alice, f"pycr create {step} --image-dir . >/dev/null")
            self.alice.sh(f"pycr rm --image-dir . {step}")
            launch = self.must(self.alice, f"srun --overlap --jobid={step.split('.')[0]} -N2 true")
            self.must(self.alice, f"pycr vacate {step} --image-dir . >/dev/null")
            (self.alice.place / "go").touch()
            again = self.must(self.alice, f"pycr restart --image-dir . {step}")
            plain = self.must(self.alice, "srun -N2 true")
            self.alice.sh(f"pycr rm --image-dir . {step}")
            dump, restore = self.criu(words)
            if turn:  # the first is to warm up
                creates.append((ours, dump + launch))
                restarts.append((again, restore + plain))
        what = f"{TASKS} tasks of {MIB} MiB on 2 nodes"
        report(f"pycr create, {what} / criu dump + srun", creates)
        report(f"pycr restart, {what} / criu restore + srun", restarts)

    def criu(self, words: str) -> tuple[float, float]:
        """Dump and restore as many victims by criu alone, as many at a time as there are cores."""
        self.victims(
            lambda: self.root.sh(
                f"for i in $(seq {TASKS}); do SLURM_PROCID=$i setsid {words}"
                " </dev/null >/dev/null 2>&1 & done"
            )
        )
        pids = [path.read_text() for path in self.root.place.glob("ready.*")]
        for pid in pids:
            (self.root.place / f"images.{pid}").mkdir()
        each = "printf '%s\\n' " + " ".join(pids) + f" | xargs -P {os.cpu_count()} -I@ "
        dump = self.must(self.root, each + CRIU.format(verb="dump -t @", dir="images.@"))
        (self.root.place / "go").touch()
        restore = self.must(self.root, each + CRIU.format(verb="restore", dir="images.@"))
        self.root.sh("rm -rf images.*")
        return dump, restore


def main() -> int:
    """Measure everything."""
    kept = Cluster.is_up() or bool(os.environ.get("PYCR_KEEP_CLUSTER"))
    cluster = Cluster.up(nodes=2)
    try:
        print(f"{'medians of ' + str(PAIRS) + ' pairs':<58} {'ours':>10} {'theirs':>10}   ratio")
        touch_memory()
        bench = Bench(cluster)
        bench.launch()
        bench.scripts()
        bench.checkpoint()
    finally:
        if not kept:
            cluster.down()
    return 0


if __name__ == "__main__":
    assert Path("tests").is_dir()
    sys.exit(main())
