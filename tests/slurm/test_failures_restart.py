# SPDX-License-Identifier: GPL-2.0-or-later
"""What a user meets when a restart cannot be: one line, its exit status, no step left behind.

What `pycr restart` can see for itself it says before it asks Slurm for anything, with the statuses
of pycr/errors.py; what only the nodes can see ends the step, and srun with 125.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pycr.images import manifest
from tests.login import VICTIMS, Login, until

CONF = "/etc/slurm/plugstack.conf"
PLUGIN = "optional /opt/pycr/lib/slurm/spank_cr.so"


@pytest.fixture(scope="module")
def whole(cluster: Any) -> Callable[[Login], Path]:
    """Give a Login its own copy of a good generation of two tasks; it is made once."""
    made: list[Path] = []

    def make(alice: Login) -> Path:
        if not made:
            home = cluster.shared / "home" / "alice"  # outlives the test
            shutil.copy(VICTIMS / "count.py", home)
            (home / "count.py").chmod(0o755)
            run = ("srun", "-N2", "-n2", "--chdir=/shared/home/alice")
            job = alice.popen(*run, "./count.py", "100000")
            step = alice.step()
            done = alice.pycr("vacate", step, "--image-dir", ".")
            assert done.returncode == 0, done.stderr
            job.communicate(timeout=60)
            until("the job to end", lambda: not alice.jobs())
            keep = cluster.shared / "tests" / "whole"
            shutil.rmtree(keep, ignore_errors=True)
            shutil.copytree(alice.place / step, keep / step)
            made.append(keep / step)
        copy = alice.place / "images" / made[0].name
        shutil.copytree(made[0], copy, dirs_exist_ok=True)
        give(alice.place / "images", alice)
        return copy / "0001"

    return make


def give(path: Path, login: Login) -> None:
    """Make a tree the user's."""
    user_id = login.place.stat().st_uid
    for each in (path, *path.rglob("*")):
        os.lchown(each, user_id, user_id)


def inside(alice: Login, path: Path) -> str:
    return f"{alice.dir}/{path.relative_to(alice.place)}"


def assert_refused(done: subprocess.CompletedProcess[str], status: int, *words: str) -> None:
    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1, done.stderr
    for word in ("pycr: ", *words):
        assert word in done.stderr


def nothing_left(alice: Login) -> None:
    until("the step to be gone", lambda: not alice.steps())
    for node in ("n0", "n1"):
        until("its processes to be gone", partial(nothing_runs, alice, node))


def nothing_runs(alice: Login, node: str) -> bool:
    words = ["pgrep", "-u", alice.user, "-af", "pycr|count.py"]
    return str(alice.cluster.node(node).run(words).stdout) == ""


def largest(generation: Path) -> Path:
    return max((generation / "task.1").iterdir(), key=lambda path: path.stat().st_size)


def remove_file(generation: Path) -> str:
    path = largest(generation)
    path.unlink()
    return f"task.1/{path.name}: No such file"


def truncate(generation: Path) -> str:
    path = largest(generation)
    os.truncate(path, path.stat().st_size - 1)
    return f"{path.name}: changed: {path.stat().st_size} bytes, the manifest says"


def remove_task(generation: Path) -> str:
    shutil.rmtree(generation / "task.1")
    return "task.1: No such file"


def add_file(generation: Path) -> str:
    (generation / "task.1" / "core-1.img").write_bytes(b"x")
    return "core-1.img: not in the manifest"


def link_file(generation: Path) -> str:
    path = largest(generation)
    path.rename(generation.parent / "elsewhere")
    path.symlink_to("../../elsewhere")
    return f"{path.name}: Too many levels of symbolic links"


def edit_manifest(generation: Path) -> str:
    path = generation / "manifest.json"
    path.write_text(path.read_text().replace('"n1"', '"n9"'))
    return "manifest.json: damaged: its checksum does not match"


def empty_manifest(generation: Path) -> str:
    (generation / "manifest.json").write_bytes(b"")
    return "manifest.json: damaged: not a whole manifest"


def remove_manifest(generation: Path) -> str:
    (generation / "manifest.json").unlink()
    return "no whole checkpoint in it"


def remove_generation(generation: Path) -> str:
    shutil.rmtree(generation)
    return "0001: no such directory"


DAMAGES = [
    remove_file,
    truncate,
    remove_task,
    add_file,
    link_file,
    edit_manifest,
    empty_manifest,
    remove_manifest,
    remove_generation,
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda each: each.__name__)
def test_damaged_image(
    alice: Login, whole: Callable[[Login], Path], damage: Callable[[Path], str]
) -> None:
    generation = whole(alice)
    before = alice.jobs()
    said = damage(generation)
    give(generation.parent, alice)
    done = alice.pycr("restart", inside(alice, generation))
    assert_refused(done, 10, inside(alice, generation), said)
    assert alice.jobs() == before


def test_flipped_byte_is_found_by_the_node(alice: Login, whole: Callable[[Login], Path]) -> None:
    generation = whole(alice)
    path = largest(generation)
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    done = alice.pycr("restart", inside(alice, generation), "-w", "n0,n1")
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if line.startswith("pycr: ")]
    assert len(said) == 1, done.stderr
    assert said[0].startswith("pycr: couldn't restart: task 1 on n1: ")
    assert f"{path.name}: changed: its checksum is not the manifest's" in said[0]
    nothing_left(alice)


def test_remains_of_a_crashed_writer(alice: Login, whole: Callable[[Login], Path]) -> None:
    generation = whole(alice)
    half = generation.with_name(".new-0001-5f1c9a70")
    generation.rename(half)
    (half / "manifest.json").rename(half / "manifest")
    done = alice.pycr("restart", inside(alice, half.parent))
    assert_refused(done, 10, "no whole checkpoint in it", "only the remains of one (.new-0001-")
    assert_refused(alice.pycr("restart", inside(alice, half)), 10, "the remains of")
    # Beside a whole one they are passed over.
    shutil.copytree(half, generation)
    (generation / "manifest").rename(generation / "manifest.json")
    give(generation, alice)
    done = alice.pycr("restart", "--dry-run", inside(alice, half.parent))
    assert done.returncode == 0, done.stderr
    assert f"--restart-dir={inside(alice, generation)}" in done.stdout


def test_uncommitted_generation_with_its_manifest_is_no_checkpoint(
    alice: Login, whole: Callable[[Login], Path]
) -> None:
    """A writer that died between writing the manifest and the rename."""
    generation = whole(alice)
    half = generation.with_name(".new-0001-5f1c9a70")
    generation.rename(half)
    assert_refused(alice.pycr("restart", inside(alice, half)), 10, "the remains of")


def test_wrong_number_of_tasks(alice: Login, whole: Callable[[Login], Path]) -> None:
    generation = whole(alice)
    for tasks in ("1", "3"):
        done = alice.run("srun", f"--restart-dir={inside(alice, generation)}", f"-n{tasks}", "true")
        assert done.returncode == 125, done.stderr
        said = [line for line in done.stderr.splitlines() if line.startswith("pycr: ")]
        assert len(said) == 1, done.stderr
        assert f"holds 2 tasks and this step has {tasks}" in said[0]
        assert "--ntasks=2" in said[0]
        nothing_left(alice)


def test_another_users_image(alice: Login, bob: Login, whole: Callable[[Login], Path]) -> None:
    generation = whole(alice)
    theirs = bob.place / "images"
    shutil.copytree(generation.parent.parent, theirs)
    give(theirs, alice)
    for path in (theirs, *theirs.rglob("*")):
        path.chmod(0o755)
    done = bob.pycr("restart", f"images/{generation.parent.name}")
    assert_refused(done, 4, "0001", "another user's")
    done = bob.run(
        "srun", "-n2", f"--restart-dir={inside(bob, theirs)}/{generation.parent.name}", "true"
    )
    assert done.returncode != 0
    assert "another user's" in done.stderr
    nothing_left(bob)


def test_manifest_of_another_user(alice: Login, whole: Callable[[Login], Path]) -> None:
    generation = whole(alice)
    path = generation / "manifest.json"
    body = json.loads(path.read_text())["manifest"]
    body["uid"] = 1002
    body["user"] = "bob"
    path.write_bytes(manifest.seal(json.dumps(body, indent=1).encode()))
    done = alice.pycr("restart", inside(alice, generation))
    assert_refused(done, 4, "it is a checkpoint of bob's step, not yours")


def test_no_such_checkpoint(alice: Login) -> None:
    assert_refused(alice.pycr("restart", "nowhere"), 10, "nowhere: no such directory")
    assert_refused(alice.pycr("restart", "9.9"), 10, "9.9: no checkpoint of it in", "--image-dir")
    assert_refused(alice.pycr("restart", "./gone"), 10, "gone: no such directory")
    assert_refused(alice.pycr("show", "nowhere"), 10, "nowhere: no such directory")
    assert_refused(alice.pycr("rm", "nowhere"), 10, "nowhere: no such directory")


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ("python=/usr/local/bin/theirs", "/usr/local/bin/theirs: does not belong to root"),
        ("bogus=1", "unknown key: bogus=1"),
    ],
)
def test_node_that_cannot_restore(
    alice: Login, cluster: Any, whole: Callable[[Login], Path], settings: str, why: str
) -> None:
    generation, run = whole(alice), cluster.node("n1").run
    run(["cp", "/bin/true", "/usr/local/bin/theirs"], check=True)
    run(["chown", "bob", "/usr/local/bin/theirs"], check=True)
    run(["tee", CONF], input=f"{PLUGIN} {settings}\n", check=True)
    try:
        done = alice.pycr("restart", inside(alice, generation), "-w", "n0,n1")
    finally:
        run(["tee", CONF], input=f"{PLUGIN}\n", check=True)
        alice.cancel_all()
    assert done.returncode != 0
    assert "n1" in done.stderr
    assert why in done.stderr
    nothing_left(alice)


def test_node_without_the_plugin_runs_nothing_in_the_tasks_place(
    alice: Login, cluster: Any, whole: Callable[[Login], Path]
) -> None:
    generation, run = whole(alice), cluster.node("n1").run
    run(["tee", CONF], input=f"# {PLUGIN}\n", check=True)
    try:
        done = alice.pycr("restart", inside(alice, generation), "-w", "n0,n1")
    finally:
        run(["tee", CONF], input=f"{PLUGIN}\n", check=True)
        alice.cancel_all()
    assert done.returncode != 0
    assert "n1" in done.stderr
    nothing_left(alice)


def test_image_not_visible_on_a_node(alice: Login, whole: Callable[[Login], Path]) -> None:
    generation = whole(alice)
    local = f"/tmp/{alice.place.name}"
    alice.run("cp", "-a", inside(alice, generation.parent.parent), local)
    name = f"{local}/{generation.parent.name}"
    done = alice.pycr("restart", name, "-w", "n0,n1")
    alice.run("rm", "-r", local)
    assert done.returncode != 0
    assert f"task 1 on n1: {name}/0001: No such file or directory" in done.stderr
    nothing_left(alice)
