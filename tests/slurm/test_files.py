# SPDX-License-Identifier: GPL-2.0-or-later
"""What becomes of a task's files at a restart: cut back, kept, refused; nothing of them is lost."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.login import Login, until


class Writing:
    """A step of writes.py: `tasks` tasks on as many nodes."""

    def __init__(self, alice: Login, tasks: int = 1, *options: str) -> None:
        self.alice, self.tasks = alice, tasks
        self.victim = alice.victim("writes.py")
        self.process = alice.popen("srun", f"-N{tasks}", f"-n{tasks}", *options, self.victim)
        self.step = alice.step()
        self.begun()

    def begun(self) -> None:
        until("all to write", lambda: all(self.file("ready", t).exists() for t in self.ranks()))

    def ranks(self) -> range:
        return range(self.tasks)

    def file(self, name: str, rank: int = 0) -> Path:
        return self.alice.place / f"{name}.{rank}"

    def create(self) -> Path:
        """Checkpoint it; return the generation."""
        done = self.alice.pycr("create", self.step, "--image-dir", ".")
        assert done.returncode == 0, done.stderr
        return self.alice.place / self.step / "0001"

    def go_on(self) -> None:
        """Wait until every file has grown by some lines."""
        sizes = [self.file(name, rank).stat().st_size for name, rank in self.files()]
        until(
            "all to go on",
            lambda: all(
                self.file(name, rank).stat().st_size > before + 30
                for (name, rank), before in zip(self.files(), sizes)
            ),
        )

    def files(self) -> list[tuple[str, int]]:
        return [(n, r) for n in ("appended", "written", "updated") for r in self.ranks()]

    def kill(self) -> None:
        """End it with no warning, when it has gone on after its checkpoint."""
        self.go_on()
        self.alice.run("scancel", "-s", "KILL", self.step)
        self.process.communicate(timeout=30)

    def restart(self, *options: str) -> subprocess.Popen[str]:
        return self.alice.popen("pycr", "restart", "--image-dir", ".", *options, self.step)

    def end(self, process: subprocess.Popen[str]) -> tuple[int, str, str]:
        """Let a restarted one write on, then end; return its status, output and complaints."""
        self.go_on()
        (self.alice.place / "stop").touch()
        out, err = process.communicate(timeout=40)
        return process.returncode, out, err


def refused(writing: Writing, *options: str) -> str:
    """See that a restart is refused, in one line, and return that."""
    done = writing.alice.pycr("restart", "--image-dir", ".", *options, writing.step, timeout=60)
    assert done.returncode == 125, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("pycr: ")]
    assert len(lines) == 1, done.stderr
    until("the step to go", lambda: not writing.alice.steps())
    return lines[0]


def contents(writing: Writing) -> dict[str, bytes]:
    """Return all that the tasks have written."""
    names = [f"{name}.{rank}" for name, rank in writing.files()] + ["shared"]
    return {name: (writing.alice.place / name).read_bytes() for name in names}


def test_what_has_grown_is_cut_back_and_kept(alice: Login) -> None:
    writing = Writing(alice, 2)
    made = writing.create()
    writing.kill()
    before = contents(writing)
    status, out, err = writing.end(writing.restart())
    assert (status, sorted(out.split())) == (7, ["pass", "pass"]), (out, err)
    # What was cut off is kept, and with what was left makes the whole again.
    kept = next(made.parent.glob("cut-*"))
    assert oct(kept.stat().st_mode & 0o777) == "0o700"
    after = contents(writing)
    for name in before:
        pieces = [path for path in kept.iterdir() if f".{name}@" in path.name]
        assert pieces, name
        longest = max(pieces, key=lambda path: path.stat().st_size)
        size = int(longest.name.split("@")[1].split(".")[0])
        whole = after[name][:size] + longest.read_bytes()
        if not name.startswith("updated"):  # its first line is rewritten
            assert whole == before[name], name
        assert f"{size} bytes, as at the checkpoint; what was cut is in {alice.dir}" in err
        assert f" {longest.name} {alice.dir}/{name}\n" in "".join(
            (kept / f"task.{rank}").read_text() for rank in writing.ranks()
        )
    assert "updated.0: its beginning was overwritten: what was overwritten is not in" in err


def test_twice_from_the_same_checkpoint(alice: Login) -> None:
    writing = Writing(alice)
    writing.create()
    writing.kill()
    writing.restart()
    until("it to run", lambda: alice.steps())
    writing.go_on()
    alice.cancel_all()
    status, out, err = writing.end(writing.restart())
    assert (status, out) == (7, "pass\n"), err


def test_kept_as_they_are(alice: Login) -> None:
    writing = Writing(alice)
    writing.create()
    writing.kill()
    before = contents(writing)
    status, out, err = writing.end(writing.restart("--files=keep"))
    # It wrote on at its old places, over what had come since; the log has that twice.
    assert status == 1
    assert out.startswith("fail: 0: appended: "), err
    assert "appended.0: it had" in err
    assert "taken as it is" in err
    assert contents(writing)["appended.0"].startswith(before["appended.0"])
    assert not list((alice.place / writing.step).glob("cut-*"))


@pytest.mark.parametrize("how", ["option", "srun"])
def test_refused_when_asked_for(alice: Login, how: str) -> None:
    writing = Writing(alice)
    made = writing.create()
    writing.kill()
    before = contents(writing)
    if how == "option":
        line = refused(writing, "--files=refuse")
    else:
        image = f"{alice.dir}/{writing.step}/{made.name}"
        done = alice.run("srun", "-n1", f"--restart-dir={image}", "--files=refuse", "true")
        assert done.returncode == 125
        line = next(line for line in done.stderr.splitlines() if line.startswith("pycr: "))
    assert "appended.0: it had" in line
    assert "(--files=refuse) (and " in line
    assert contents(writing) == before
    assert not list(made.parent.glob("cut-*"))


def test_nothing_is_cut_where_one_file_is_refused(alice: Login) -> None:
    writing = Writing(alice)
    made = writing.create()
    writing.kill()
    (alice.place / "written.0").rename(alice.place / "away")
    before = alice.read("appended.0")
    line = refused(writing)
    assert "written.0: No such file or directory: put it back as it was" in line
    assert alice.read("appended.0") == before
    assert not list(made.parent.glob("cut-*"))


def test_cut_comes_back_where_the_restore_fails(alice: Login) -> None:
    writing = Writing(alice)
    made = writing.create()
    writing.kill()
    before = contents(writing)
    pages = made / "task.0" / "pages-1.img"
    data = bytearray(pages.read_bytes())
    data[len(data) // 2] ^= 1
    pages.write_bytes(data)
    assert "pages-1.img: changed: its checksum is not the manifest's" in refused(writing)
    assert contents(writing) == before
    assert not list(made.parent.glob("cut-*"))


def test_another_task_that_fails_undoes_it_too(alice: Login) -> None:
    writing = Writing(alice, 2)
    made = writing.create()
    writing.kill()
    before = contents(writing)
    (alice.place / "written.1").unlink()
    assert "task 1 on " in refused(writing)
    del before["written.1"]
    assert {name: (alice.place / name).read_bytes() for name in before} == before
    assert not list(made.parent.glob("cut-*"))


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("written.0", "truncate -s 3", "it had {size} bytes and has 3: put it back"),
        ("written.0", "rm", "No such file or directory: put it back as it was"),
        ("appended.0", "rm", "No such file or directory"),
        ("written.0", "chmod 400", "you may not write it any more"),
        ("written.0", "replace", "it is another file now: put it back as it was; --files=keep"),
        ("input", "truncate -s 1", "bytes and has 1: put it back as it was; --files=keep"),
        ("input", "overwrite", "its beginning was overwritten: put it back as it was"),
        ("input", "chmod 000", "you may not read it any more"),
    ],
)
def test_files_that_a_restart_cannot_go_on_with(
    alice: Login, name: str, change: str, words: str
) -> None:
    alice.run("bash", "-c", "seq 1000 > input")
    writing = Writing(alice)
    writing.create()
    size = next(
        each["size"]
        for each in alice.pycr_json("verify", "--image-dir", ".", writing.step)["files"]
        if each["path"] == f"{alice.dir}/{name}"
    )
    writing.kill()
    path = f"{alice.dir}/{name}"
    if change == "replace":
        alice.sh(f"cp {path} new; tr 0-9 a-j < new > {path}.new; mv {path}.new {path}")
    elif change == "overwrite":
        alice.sh(f"printf x | dd of={path} conv=notrunc status=none")
    else:
        alice.sh(f"{change} {path}")
    line = refused(writing)
    assert "task 0 on n" in line
    assert f"{path}: " in line
    assert words.format(size=size) in line


def test_input_that_has_grown_is_read_on(alice: Login) -> None:
    alice.run("bash", "-c", "seq 1000 > input")
    writing = Writing(alice)
    writing.create()
    writing.kill()
    alice.run("bash", "-c", "seq 1000 >> input")
    alice.run("chmod", "g+w", "input")
    status, out, err = writing.end(writing.restart())
    assert (status, out) == (7, "pass\n"), err


def test_program_that_was_built_anew(alice: Login) -> None:
    source = "#include <unistd.h>\nint main(void) { for (;;) usleep(VALUE); }\n"
    (alice.place / "a.c").write_text(source)
    (alice.place / "b.c").write_text(source.replace("usleep", "usleep (1) ; usleep"))
    for name in "ab":
        built = subprocess.run(
            ["gcc", "-DVALUE=1000", "-Wl,--build-id", "-o", alice.place / name, f"{name}.c"],
            cwd=alice.place,
            check=False,
        )
        assert built.returncode == 0
    alice.sh("cp a program")
    job = alice.popen("srun", "-n1", f"{alice.dir}/program")
    step = alice.step()
    assert alice.pycr("vacate", step, "--image-dir", ".").returncode == 0
    job.communicate(timeout=30)
    alice.sh("cp b program.new; mv program.new program")
    for policy in ("cut", "keep"):
        done = alice.pycr("restart", "--image-dir", ".", f"--files={policy}", step)
        assert done.returncode == 125
        assert f"{alice.dir}/program: it was built anew (build id " in done.stderr
        assert "put the old one back" in done.stderr
    alice.sh("cp a program.new; mv program.new program")
    again = alice.popen("pycr", "restart", "--image-dir", ".", step)
    until("it to run again", lambda: alice.steps())
    alice.cancel_all()
    again.communicate(timeout=30)


def test_directory_that_is_gone(alice: Login) -> None:
    alice.sh("mkdir work")
    job = alice.popen("srun", "-n1", "--chdir", f"{alice.dir}/work", "sleep", "100")
    step = alice.step()
    assert alice.pycr("vacate", step, "--image-dir", ".").returncode == 0
    job.communicate(timeout=30)
    alice.sh("rmdir work")
    done = alice.pycr("restart", "--image-dir", ".", step, "-wn0")
    assert done.returncode == 125
    assert f"task 0 on n0: {alice.dir}/work: No such file or directory: put it back" in done.stderr
