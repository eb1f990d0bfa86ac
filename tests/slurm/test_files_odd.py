# SPDX-License-Identifier: GPL-2.0-or-later
"""Files that are odd at a restart: of another kind or mode by now, sparse, others' caches."""

from __future__ import annotations

import pytest

from tests.login import Login, until
from tests.slurm.test_files import Writing, refused

MAPS = """import mmap, os, sys, time
file = open(sys.argv[1], "rb")
memory = mmap.mmap(file.fileno(), 0, mmap.MAP_SHARED, mmap.PROT_READ)
open("ready", "w").close()
while not os.path.exists("stop"):
    time.sleep(0.01)
print("pass", memory[0])
"""

ODD = r"""import time
file = open(b"caf\351\nx (y).log", "wb", 0)
file.write(b"some")
open("ready", "w").close()
time.sleep(100)
"""


@pytest.mark.parametrize("change", ["chmod 600 written.0", "chmod 640 appended.0 shared"])
def test_what_has_grown_may_have_another_mode(alice: Login, change: str) -> None:
    writing = Writing(alice)
    writing.create()
    writing.kill()
    alice.sh(change)
    status, out, err = writing.end(writing.restart())
    assert (status, out) == (7, "pass\n"), err


@pytest.mark.parametrize("policy", ["cut", "keep"])
def test_a_fifo_in_a_files_place_is_refused(alice: Login, policy: str) -> None:
    writing = Writing(alice)
    writing.create()
    writing.kill()
    alice.sh("rm written.0; mkfifo written.0")
    line = refused(writing, f"--files={policy}")
    assert f"{alice.dir}/written.0: it is of another kind: put it back as it was" in line


@pytest.mark.parametrize("cache", ["/var/lib/sss/mc/passwd", "/var/cache/nscd/passwd"])
def test_a_name_services_cache_may_have_changed(alice: Login, cache: str) -> None:
    nodes = [alice.cluster.node(name) for name in ("n0", "n1")]
    for node in nodes:
        made = "mkdir -p ${0%/*}; hostname > $0; truncate -s 8M $0; chmod 644 $0"
        node.run(["sh", "-c", made, cache], check=True)
    try:
        (alice.place / "maps.py").write_text(MAPS)
        job = alice.popen("srun", "-n1", "-w", "n0", "python3", "maps.py", cache)
        until("it to map", lambda: (alice.place / "ready").exists())
        step = alice.step()
        assert alice.pycr("vacate", step, "--image-dir", ".").returncode == 0
        job.communicate(timeout=30)
        nodes[0].run(["sh", "-c", "printf more | dd of=$0 conv=notrunc", cache])
        for node in ("n0", "n1"):
            (alice.place / "stop").unlink(missing_ok=True)
            again = alice.popen("pycr", "restart", "--image-dir", ".", step, "-w", node)
            (alice.place / "stop").touch()
            out, err = again.communicate(timeout=60)
            assert out.startswith("pass"), err
    finally:
        for node in nodes:
            node.run(["rm", cache])


def listed(user: Login) -> str:
    """Return the list of what a restart has cut off."""
    return "".join(path.read_text() for path in user.place.glob("*/cut-*/task.0"))


def test_a_name_of_two_lines_is_told_in_one(alice: Login) -> None:
    (alice.place / "odd.py").write_text(ODD)
    job = alice.popen("srun", "-n1", "python3", "odd.py")
    until("it to write", lambda: (alice.place / "ready").exists())
    step = alice.step()
    assert alice.pycr("vacate", step, "--image-dir", ".").returncode == 0
    job.communicate(timeout=30)
    alice.sh("echo more >> caf*")
    done = alice.pycr("verify", "--image-dir", ".", step, env={"LC_ALL": "C.UTF-8"})
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 3
    assert r"/caf\udce9\nx (y).log (" in done.stdout
    alice.popen("pycr", "restart", "--image-dir", ".", step)
    until("it to be listed", lambda: "\n" in listed(alice))  # what fails later takes it back
    made = listed(alice).splitlines()
    assert len(made) == 1
    assert made[0].endswith(r"/caf\udce9\nx (y).log")
