# SPDX-License-Identifier: GPL-2.0-or-later
"""What a user may not get by writing their own image.

Each test rewrites a good checkpoint as its owner can, checksums included, restarts it, and sees
that nothing of it ran. Where CRIU itself fails for want of a privilege, its words are what the user
gets.
"""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path

import pytest

from pycr.engine import rpc
from tests.login import Login, until
from tests.slurm import forge
from tests.slurm.hostile import below, pod
from tests.slurm.processes import state

CORE = re.compile(r"core-(\d+)\.img")
ROOT_FILE = "/etc/shadow"


@pytest.fixture
def made(alice: Login) -> tuple[Login, str, Path]:
    """A checkpoint of who.py, which may end as soon as it is restarted, and shows that it runs."""
    program = alice.victim("who.py")
    step, generation = forge.vacated(alice, "python3", program, ready="ready")
    (alice.place / "go").touch()
    return alice, step, generation / "task.0"


def cores(images: Path) -> list[Path]:
    """Return the images of the first process's main thread, its other thread, and its child."""
    pids = forge.manifest_of(images.parent).tasks[0].pids
    names = {int(found[1]): path for path in images.iterdir() if (found := CORE.match(path.name))}
    thread = next(tid for tid in sorted(names) if tid not in pids)
    return [names[pids[0]], names[thread], names[pids[1]]]


def refused(user: Login, step: str, images: Path, words: str) -> None:
    """Restart what was forged: it must not run, and its user is told why."""
    forge.seal(images.parent)
    status, out, err = forge.restart(user, step)
    assert status == 125, err
    assert out == "", "it ran"
    told = [line for line in err.splitlines() if line.startswith("pycr: ")]
    assert len(told) == 1, err
    assert re.search(words, told[0]), err
    until("the step to go", lambda: not user.steps())


def test_as_it_is_it_runs_and_has_nothing(made: tuple[Login, str, Path]) -> None:
    alice, step, images = made
    forge.seal(images.parent)
    status, out, err = forge.restart(alice, step)
    assert status == 0, err
    assert out.splitlines()[:2] == ["Uid: 1001 1001 1001 1001", "Gid: 1001 1001 1001 1001"]
    assert {line.split()[1] for line in out.splitlines() if line[:3] == "Cap"} == {"0" * 16}
    assert "file # SPDX" in out


CAPABILITY = dict.fromkeys(("CAP_INH", "CAP_PRM", "CAP_EFF"), forge.CHECKPOINT_RESTORE)
ROOT: list[rpc.Value] = [0]
CLAIMS: dict[str, tuple[dict[str, list[rpc.Value]], str]] = {
    "capability": (CAPABILITY, "capabilities"),
    "inheritable": ({"CAP_INH": forge.CHECKPOINT_RESTORE}, "capabilities"),
    "packed": ({"CAP_PRM": [b"\0\x80\x02"]}, "capabilities"),
    "every capability": (
        {name: [0xFFFFFFFF, 0x1FF] for name in ("CAP_INH", "CAP_PRM", "CAP_EFF")},
        "capabilities",
    ),
    "securebits": ({"SECBITS": [0x15]}, "securebits"),
    "uid": ({"UID": ROOT}, "user id 0"),
    "euid": ({"EUID": ROOT, "FSUID": ROOT}, "user id 0"),
    "saved uid": ({"SUID": ROOT}, "user id 0"),
    "fsuid": ({"FSUID": ROOT}, "user id 0"),
    "fsuid said twice": ({"FSUID": [1001, 0]}, "user id 0"),
    "bob": ({n: [1002] for n in ("UID", "EUID", "SUID", "FSUID")}, "user id 1002"),
    "gid": ({"GID": ROOT}, "group id 0"),
    "saved gid": ({"SGID": [1100]}, "group id 1100"),
    "fsgid": ({"FSGID": ROOT}, "group id 0"),
    "groups": ({"GROUPS": [0, 1001, 1100]}, "supplementary group 0"),
    "another group": ({"GROUPS": [42]}, "supplementary group 42"),
}


@pytest.mark.parametrize("which", [0, 1, 2], ids=["process", "thread", "child"])
@pytest.mark.parametrize("claim", CLAIMS)
def test_claim(made: tuple[Login, str, Path], claim: str, which: int) -> None:
    alice, step, images = made
    claims, words = CLAIMS[claim]
    forge.creds(cores(images)[which], **claims)
    refused(alice, step, images, f"its image asks for {words}: it was tampered with$")


# ---- what else an image can claim ---------------------------------------------------------------


def replace_name(images: Path, old: str, new: str) -> None:
    """Have an image's open and mapped file be another: file_entry.reg (3), its name (6)."""
    done = 0

    def change(reg: forge.Message) -> None:
        nonlocal done
        if reg.get(6) == [old.encode()]:
            reg[6] = [new.encode()]
            done += 1

    forge.edit(images / "files.img", lambda entry: forge.inner(entry, 3, change))
    assert done, "nothing was forged"


@pytest.mark.parametrize("who", ["root", "bob"])
def test_a_file_that_its_user_may_not_read(
    made: tuple[Login, str, Path], bob: Login, who: str
) -> None:
    """Open and mapped: the restored program would print its first line."""
    alice, step, images = made
    secret = ROOT_FILE
    if who == "bob":
        secret = f"{bob.dir}/secret"
        bob.place.chmod(0o755)
        assert bob.sh("umask 077; echo secret > secret").returncode == 0
    replace_name(images, f"{alice.dir}/who.py", secret)
    refused(
        alice, step, images, f"Can't open file {secret.lstrip('/')} on restore: Permission denied "
    )


def test_a_file_of_its_own_can_be_another(made: tuple[Login, str, Path]) -> None:
    """The forgery itself works: with a file that its user may read the program reads that."""
    alice, step, images = made
    copy = (alice.place / "who.py").read_text().replace("# SPDX", "# FORGED")
    copy = copy[: (alice.place / "who.py").stat().st_size]
    other = alice.place / "other.py"
    other.write_text(copy.ljust((alice.place / "who.py").stat().st_size, "#"))
    size = (alice.place / "who.py").stat().st_size
    other.write_bytes(other.read_bytes()[:size])
    other.chmod(0o755)
    replace_name(images, f"{alice.dir}/who.py", f"{alice.dir}/other.py")
    forge.seal(images.parent)
    status, out, err = forge.restart(alice, step)
    assert (status, "FORGED" in out) == (0, True), err


def test_another_root_directory(made: tuple[Login, str, Path]) -> None:
    """fs_entry: cwd_id (1) in place of root_id (2), which would need CAP_SYS_CHROOT."""
    alice, step, images = made
    pid = forge.manifest_of(images.parent).tasks[0].pids[0]

    def change(fs: forge.Message) -> None:
        assert fs[2] != fs[1]
        fs[2] = list(fs[1])

    forge.edit(images / f"fs-{pid}.img", change)
    refused(alice, step, images, "Can't change root: Operation not permitted ")


def test_a_pid_that_is_the_pods(made: tuple[Login, str, Path]) -> None:
    """pstree_entry: pid (1), of the first process 1, which is PID 1 of the pod."""
    alice, step, images = made
    pid = forge.manifest_of(images.parent).tasks[0].pids[0]

    def change(entry: forge.Message) -> None:
        for field in (1, 2, 3, 4, 5):
            entry[field] = [1 if each == pid else each for each in entry.get(field, [])]

    forge.edit(images / "pstree.img", change)
    for path in list(images.glob(f"*-{pid}.img")):
        path.rename(path.with_name(path.name.replace(f"-{pid}.", "-1.")))
    refused(alice, step, images, r"Current sid 1 intersects with pid \(1\) in images ")


@pytest.mark.parametrize(
    ("field", "why"),
    [
        (5, r"Can't restore sub-task in NS \(cflags 20000000\) "),
        (6, "Can't unshare net-namespace: Operation not permitted "),
        (9, "mnt: No root found for tree "),
        (10, r"Can't restore sub-task in NS \(cflags 10000000\) "),
    ],
    ids=["pid", "net", "mnt", "user"],
)
def test_a_namespace_of_its_own(made: tuple[Login, str, Path], field: int, why: str) -> None:
    """task_kobj_ids_entry: *_ns_id (5 to 10), with the inventory's left as they are."""
    alice, step, images = made
    pid = forge.manifest_of(images.parent).tasks[0].pids[0]

    def change(ids: forge.Message) -> None:
        ids[field] = [4242]

    forge.edit(images / f"ids-{pid}.img", change)
    core = images / f"core-{pid}.img"
    forge.edit(core, lambda entry: forge.inner(entry, 4, change))
    refused(alice, step, images, why)


def thread(core: Path, **claims: list[rpc.Value]) -> None:
    """Rewrite fields of a core image's thread_core_entry."""

    def change(entry: forge.Message) -> None:
        for name, values in claims.items():
            entry[getattr(forge, name)] = values

    forge.edit(core, lambda entry: forge.inner(entry, forge.THREAD_CORE, change))


NOT_ROOTS = "suspending seccomp failed: Operation not permitted "
NO_LSM = "can't render profile .* for lsmtype 0 "
OTHER_LSM = "mismatched lsm types and lsm profile specified "
PROFILE: list[rpc.Value] = [b"unconfined"]
LABEL: list[rpc.Value] = [b"system_u:system_r:init_t:s0"]


@pytest.mark.parametrize(("mode", "why"), [(2, "seccomp: Corrupted filter index "), (9, NOT_ROOTS)])
def test_seccomp(made: tuple[Login, str, Path], mode: int, why: str) -> None:
    """A mode that CRIU would have to suspend while it restores, or a filter that is not there."""
    alice, step, images = made
    thread(cores(images)[0], SECCOMP_MODE=[mode], SECCOMP_FILTER=[7])
    refused(alice, step, images, why)


def test_strict_seccomp(made: tuple[Login, str, Path]) -> None:
    """The kernel ends the process while criu works in it; criu waits, and scancel is heard."""
    alice, step, images = made
    thread(cores(images)[0], SECCOMP_MODE=[1])
    forge.seal(images.parent)
    restart = alice.popen("pycr", "restart", "--image-dir", ".", step)
    first = pod(alice)
    until("it to be killed", lambda: "Z" in [state(pid) for pid in below(first)])
    alice.run("scancel", "-u", "alice")
    out, _ = restart.communicate(timeout=60)
    assert out == "", "it ran"
    until("the pod to end", lambda: not state(first))


@pytest.mark.parametrize(
    ("lsm", "claims", "why"),
    [
        (0, {"LSM_PROFILE": PROFILE}, NO_LSM),
        (1, {"LSM_PROFILE": LABEL}, OTHER_LSM),
        (2, {"LSM_PROFILE": PROFILE}, OTHER_LSM),
        (0, {"LSM_SOCKCREATE": LABEL}, NO_LSM),
        (1, {"LSM_SOCKCREATE": LABEL}, OTHER_LSM),
    ],
)
def test_lsm_profile(
    made: tuple[Login, str, Path], lsm: int, claims: dict[str, list[rpc.Value]], why: str
) -> None:
    """inventory_entry: lsmtype (6). This machine has neither SELinux nor AppArmor in force."""
    alice, step, images = made
    forge.creds(cores(images)[0], **claims)
    forge.inventory(images, 6, lsm)
    refused(alice, step, images, why)


def test_no_new_privs_is_a_bound_that_an_image_may_add(made: tuple[Login, str, Path]) -> None:
    alice, step, images = made
    forge.creds(cores(images)[0], NO_NEW_PRIVS=[1])
    forge.seal(images.parent)
    status, out, err = forge.restart(alice, step)
    assert (status, "NoNewPrivs: 1" in out) == (0, True), err
    assert {line.split()[1] for line in out.splitlines() if line[:3] == "Cap"} == {"0" * 16}


@pytest.mark.parametrize("name", ["pages-1.img", "core-{pid}.img", "pipes-data.img"])
@pytest.mark.parametrize("kind", ["fifo", "socket", "symlink", "device", "hard link"])
def test_what_is_no_file(made: tuple[Login, str, Path], bob: Login, kind: str, name: str) -> None:
    """In place of an image file: nothing hangs, and nothing is read through it."""
    alice, step, images = made
    path = images / name.format(pid=forge.manifest_of(images.parent).tasks[0].pids[0])
    generation = images.parent
    manifest = forge.manifest_of(generation)
    data = path.read_bytes()
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path, 0o666)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            os.chdir(images)
            server.bind(path.name)
            os.chdir("/")
    elif kind == "symlink":
        path.symlink_to("/etc/hostname")
    elif kind == "device":
        os.mknod(path, 0o666 | 0o020000, os.makedev(1, 5))
    else:
        target = alice.place / "linked"
        target.write_bytes(data)
        os.link(target, path)
    if kind != "hard link":
        manifest.tasks[0].files[path.name] = (0, EMPTY)
    (generation / "manifest.json").write_bytes(manifest.dumps())
    status, out, err = forge.restart(alice, step)
    if kind == "hard link":  # to a file of one's own: as good as any
        assert status == 0, err
        return
    assert (status, out) == (10, ""), err
    assert len(err.splitlines()) == 1
    assert re.search(r"not a regular file|No such device|symbolic link", err), err


EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
