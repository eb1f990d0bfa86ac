# SPDX-License-Identifier: GPL-2.0-or-later
"""`pycr verify`: whether a checkpoint is whole and could be restarted, with nothing started."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pycr.images.manifest import Manifest
from tests.login import Login, until
from tests.slurm.test_files import Writing


def made(alice: Login) -> tuple[Writing, Path]:
    """Return a step of two tasks that has gone on after its checkpoint, and that."""
    writing = Writing(alice, 2)
    generation = writing.create()
    writing.kill()
    return writing, generation


def state(place: Path) -> dict[Path, tuple[int, int, int]]:
    """Return size, mode and time of all that is below a directory."""
    every = {path: path.stat() for path in place.rglob("*")}
    return {path: (s.st_size, s.st_mode, s.st_mtime_ns) for path, s in every.items()}


def verify(alice: Login, step: str, *options: str) -> tuple[int, list[str]]:
    """Verify it; return the status and the lines it prints."""
    done = alice.pycr("verify", "--image-dir", ".", *options, step)
    assert done.stderr == ""
    until("its steps to go", lambda: not alice.steps())
    return done.returncode, done.stdout.splitlines()


def test_what_would_be_done(alice: Login) -> None:
    writing, generation = made(alice)
    before = state(alice.place)
    status, lines = verify(alice, writing.step)
    assert status == 0
    assert lines[0].startswith(f"{alice.dir}/{writing.step}/0001: whole, ")
    report = alice.pycr_json("verify", "--image-dir", ".", writing.step)
    sizes = {each["path"]: (each["size"], each["size_now"]) for each in report["files"]}
    for name, rank in writing.files():
        if name == "updated":  # its first line is rewritten too
            continue
        path = f"{alice.dir}/{name}.{rank}"
        old, now = sizes[path]
        line = f"{writing.step} task {rank}: {path} ({old} bytes): it had {old} bytes and has {now}"
        assert f"{line}: will be cut back" in lines
    assert lines[-1] == "n0: could restart it"
    # Nothing was changed.
    assert state(alice.place) == before

    status, lines = verify(alice, writing.step, "--files=refuse")
    assert status == 7
    assert any(line.endswith("(--files=refuse): REFUSED") for line in lines)
    status, lines = verify(alice, writing.step, "--files=keep")
    assert status == 0
    assert any(line.endswith(": taken as it is") for line in lines)
    assert generation.exists()


def test_every_file_with_its_size_and_checksum(alice: Login) -> None:
    writing, generation = made(alice)
    manifest = Manifest.loads((generation / "manifest.json").read_bytes(), "")
    status, lines = verify(alice, writing.step, "--long")
    assert status == 0
    for task in manifest.tasks:
        for name, (size, digest) in task.files.items():
            path = f"{alice.dir}/{writing.step}/0001/task.{task.task_id}/{name}"
            assert f"  {digest}  {size:>12}  {path}" in lines
    assert any("libc.so.6 (" in line and line.endswith(": as it was") for line in lines)
    report = alice.pycr_json("verify", "--image-dir", ".", writing.step)
    assert report["whole"]
    assert len(report["images"]) == sum(len(task.files) for task in manifest.tasks)


def test_damaged(alice: Login) -> None:
    writing, generation = made(alice)
    pages = generation / "task.1" / "pages-1.img"
    data = bytearray(pages.read_bytes())
    data[100] ^= 1
    pages.write_bytes(data)
    status, lines = verify(alice, writing.step)
    assert status == 10
    assert "DAMAGED" in lines[0]
    assert lines[1].endswith("task.1/pages-1.img: changed: its checksum is not the manifest's")
    (generation / "task.0" / "core-1.img").write_bytes(b"")
    status, lines = verify(alice, writing.step)
    assert status == 10
    assert any(line.endswith("task.0/core-1.img: not in the manifest") for line in lines)


def test_a_file_that_is_gone(alice: Login) -> None:
    writing, _ = made(alice)
    (alice.place / "written.1").unlink()
    status, lines = verify(alice, writing.step)
    assert status == 7
    words = "No such file or directory: put it back as it was: REFUSED"
    assert any(f"{alice.dir}/written.1 (" in line and line.endswith(words) for line in lines)


def test_nodes_of_a_partition(alice: Login) -> None:
    writing, generation = made(alice)
    status, lines = verify(alice, writing.step, "--partition=low")
    assert status == 0
    assert lines[-4:] == [f"n{node}: could restart it" for node in range(4)]
    done = alice.pycr("verify", "--image-dir", ".", "--partition=none", writing.step)
    assert done.returncode == 14
    assert "partition none: Slurm knows none of that name" in done.stderr
    # Of another architecture no node would do.
    path = generation / "manifest.json"
    manifest = Manifest.loads(path.read_bytes(), "")
    for host in manifest.hosts.values():
        host["machine"] = "aarch64"
    path.write_bytes(manifest.dumps())
    status, lines = verify(alice, writing.step, "--partition=low")
    assert status == 7
    assert all("its image is of architecture aarch64" in line for line in lines[-4:])


def test_nodes_look_for_themselves(alice: Login, cluster: Any) -> None:
    """A file in a node's own /tmp is on that node alone."""
    path = f"/tmp/{alice.place.name[-30:]}"
    alice.run("cp", "/bin/sleep", path)
    job = alice.popen("srun", "-n1", "-wn0", path, "100")
    step = alice.step()
    until("it to run it", lambda: cluster.node("n0").run(["pgrep", "-fx", f"{path} 100"]).stdout)
    assert alice.pycr("vacate", step, "--image-dir", ".").returncode == 0
    job.communicate(timeout=30)
    status, lines = verify(alice, step, "--partition=debug", "--ask", "--quick")
    alice.run("rm", path)
    assert status == 0
    gone = f"{path}: No such file or directory: put it back as it was"
    assert lines[-4:] == [
        "n0: could restart it",
        *(f"n{node}: {gone}" for node in (1, 2, 3)),
    ]
    done = alice.pycr("verify", "--image-dir", ".", "--ask", step)
    assert done.returncode == 2
    assert done.stderr == "pycr: --ask goes with --partition\n"


def test_node_that_is_down(alice: Login, cluster: Any) -> None:
    writing, _ = made(alice)
    run = cluster.node("n0").run
    run(["scontrol", "update", "nodename=n3", "state=drain", "reason=test"], check=True)
    try:
        until("n3 to drain", lambda: "DRAIN" in run(["scontrol", "show", "node", "n3"]).stdout)
        lines = verify(alice, writing.step, "--partition=low")[1]
        assert any(line.startswith("n3: Slurm says it is IDLE+DRAIN") for line in lines)
    finally:
        run(["scontrol", "update", "nodename=n3", "state=resume"], check=True)


def test_a_batch_job_with_its_steps(alice: Login) -> None:
    alice.victim("count.py")
    script = f"#!/bin/bash\nexec 3>log\necho a >&3\nsrun --cr {alice.dir}/count.py 100000\n"
    (alice.place / "job.sh").write_text(script)
    job = alice.run("sbatch", "--parsable", "--cr", "-n1", "job.sh").stdout.strip()
    until("it to count", lambda: "0 2" in alice.read(f"slurm-{job}.out"))
    assert alice.pycr("vacate", job, "--image-dir", ".").returncode == 0
    status, lines = verify(alice, job, "--long")
    assert status == 0, lines
    assert any(f"job {job}: its script: {alice.dir}/log (" in line for line in lines)
    assert any(f"{job}.0 task 0: " in line for line in lines)
