# SPDX-License-Identifier: GPL-2.0-or-later
"""What Slurm's checkpoint support had in the environment, in and out, its old names of images, and
the program that runs after a checkpoint; of first runs and restored ones."""

from __future__ import annotations

from typing import Any

from tests.login import Login, until
from tests.slurm.test_failures import PLUGIN, assert_fails, plugstack

SHOW = 'echo "${SLURM_CHECKPOINT_IMAGE_DIR-none} ${SLURM_RESTART_COUNT-none}"'
TELL = """
import os, time
import pycr
names = ("SLURM_JOB_ID", "SLURM_CHECKPOINT_IMAGE_DIR", "SLURM_RESTART_COUNT")
def tell(*_):
    with open("told", "a") as file:
        print(*(os.environ.get(name, "none") for name in names), file=file)
pycr.on_checkpoint(restarted=tell)
tell()
while True:
    time.sleep(0.1)
"""


def home(alice: Login) -> str:
    return alice.sh("echo ~").stdout.strip()


def test_image_directory_in_tasks(alice: Login) -> None:
    """Where checkpoint/restart was asked for, by an option or a variable; elsewhere nothing."""
    alice.sh("mkdir a b")
    default, there = f"{home(alice)}/checkpoint", alice.dir
    cases = [
        ([], {}, "none"),
        (["--cr"], {}, default),
        (["--checkpoint=30"], {}, default),
        ([], {"SLURM_CHECKPOINT": "30"}, default),
        (["--checkpoint-dir=a"], {}, f"{there}/a"),
        ([], {"SLURM_CHECKPOINT_DIR": f"{there}/b"}, f"{there}/b"),
        (["--checkpoint-dir=a"], {"SLURM_CHECKPOINT_DIR": f"{there}/b"}, f"{there}/a"),
    ]
    for options, env, wanted in cases:
        done = alice.run("srun", "-n1", *options, "sh", "-c", SHOW, env=env)
        assert (done.stdout, done.returncode) == (f"{wanted} none\n", 0), (options, env)
    # A batch script, and each srun in it.
    (alice.place / "job.sh").write_text(f"#!/bin/bash\n{SHOW}\nsrun -n1 sh -c '{SHOW}'\n")
    for env, wanted in (
        ({}, "none"),
        ({"SBATCH_CHECKPOINT": "1:00:00"}, default),
        ({"SBATCH_CHECKPOINT_DIR": f"{there}/b"}, f"{there}/b"),
    ):
        done = alice.run("sbatch", "-Wn1", "-oout", "job.sh", env=env)
        assert done.returncode == 0, done.stderr
        assert alice.read("out") == f"{wanted} none\n" * 2, env
    for name in ("SLURM_CHECKPOINT", "SBATCH_CHECKPOINT"):
        command = "srun" if name[1] == "L" else "sbatch"
        done = alice.run(command, "-n1", "job.sh", env={name: "soon"})
        assert done.returncode != 0
        assert "cr: --checkpoint=soon is not a time" in done.stderr


def test_restored_tasks_and_old_names(alice: Login, cluster: Any) -> None:
    """A step that is restarted twice counts it, and SLURM_RESTART_DIR may name an old image."""
    python = "/opt/pycr/bin/python3"
    (alice.place / "tell.py").write_text(TELL)
    default = f"{home(alice)}/checkpoint"
    (alice.place / "images").mkdir()
    alice.run("true")
    cluster.node("n0").run(["chown", "alice:", f"{alice.dir}/images"], check=True)

    def told(count: int) -> list[str]:
        return list(
            until("it to tell", lambda: alice.read("told").splitlines()[count - 1 :])[0].split()
        )

    job = alice.popen("srun", "-n1", "--checkpoint-dir=images", python, "tell.py")
    step = alice.step()
    assert told(1) == [step.split(".")[0], f"{alice.dir}/images", "none"]
    assert alice.pycr("vacate", step).returncode == 0
    job.communicate(timeout=30)
    # The directory of the first step is the first step's; a checkpoint of the next goes elsewhere.
    old = f"images/{step}/task.0.ckpt"
    for name in (old, f"images/{step}.ckpt"):
        assert f"/{step}/0001\n" in alice.pycr("show", name).stdout
        assert alice.pycr("verify", "--quick", name).returncode == 0
    assert [each["step"] for each in alice.pycr_json("ls", old)] == [step]
    job = alice.popen("srun", "-n1", "/bin/false", env={"SLURM_RESTART_DIR": old})
    again = until("the restart", lambda: [each for each in alice.steps() if each != step])[0]
    assert told(2) == [again.split(".")[0], default, "1"]
    assert alice.pycr("vacate", again).returncode == 0
    job.communicate(timeout=30)
    job = alice.popen("pycr", "restart", f"{default}/{again}/task.0.ckpt")
    last = until("the restart", lambda: [each for each in alice.steps() if each != again])[0]
    assert told(3) == [last.split(".")[0], default, "2"]
    alice.run("scancel", last.split(".")[0])
    job.communicate(timeout=30)
    assert alice.pycr("rm", again).returncode == 0


def test_old_names_of_a_batch_job(alice: Login) -> None:
    """DIR/12/script.ckpt and DIR/12 are DIR/12.batch; a real image of BLCR's is refused."""
    head = "#!/bin/bash\ntouch up; until [ -e end ]; do sleep 0.1; done"
    (alice.place / "job.sh").write_text(f"{head}\n{SHOW}\nsrun sh -c '{SHOW}'")
    words = ["--parsable", "--cr", "-n1", "-oout", "job.sh"]
    job = alice.run("sbatch", *words).stdout.strip()
    until("it to run", (alice.place / "up").exists)
    made = alice.pycr("vacate", job, "--image-dir", ".")
    assert made.returncode == 0, made.stderr
    for old in (f"{alice.dir}/{job}", f"{alice.dir}/{job}.ckpt", f"{job}/script.ckpt"):
        assert f"/{job}.batch/0001\n" in alice.pycr("show", old).stdout, old
    until("its end", lambda: not alice.jobs())
    done = alice.run("sbatch", "--restart-dir", f"{job}/script.ckpt", *words)
    assert done.returncode == 0, done.stderr
    alice.sh("touch end")
    until("its end", lambda: not alice.jobs())
    # The script's own memory is the old job's; its srun is told (inside.pxi).
    assert alice.read("out").splitlines()[-1].endswith(" 1")
    alice.sh("mkdir 7.0 7; echo blcr | tee 7.0/task.0.ckpt > 7/script.ckpt")
    said = "an image of BLCR, which CRIU cannot read"
    for path in ("7.0/task.0.ckpt", "7/script.ckpt"):
        for verb in ("restart", "show", "verify", "rm"):
            assert_fails(alice.pycr(verb, path), 10, path, said)
        done = alice.run("srun", f"--restart-dir={path}", "true")
        assert done.returncode == 1
        assert f"cr: --restart-dir={path}: {said}" in done.stderr
    assert_fails(alice.pycr("restart", "./7.0"), 10, "task.0.ckpt in it is", said)


def test_program_after_a_checkpoint(alice: Login, cluster: Any) -> None:
    """Of a step, of a batch job and of a failure; as the user; that it fails is a warning."""
    program = f"/tmp/{alice.place.name[-30:]}"
    text = f'#!/bin/sh\necho "$(id -un) $*" >> {alice.dir}/ran\nexit 3\n'
    alice.run("tee", program, input=text)
    alice.run("chmod", "755", program)
    (alice.place / "job.sh").write_text("#!/bin/bash\nsrun --cr -n1 sleep 1000\n")
    job = alice.run("sbatch", "--parsable", "--cr", "-n1", "job.sh").stdout.strip()
    until("its step", lambda: f"{job}.0" in alice.steps())
    batch = "4294967294"
    with plugstack(cluster, "n0", f"{PLUGIN} after_checkpoint={program}"):
        refused = alice.pycr("create", f"{job}.0", "--image-dir", "/none")
        assert (refused.returncode, refused.stdout) == (8, "")
        for words in (["create", f"{job}.0"], ["create", job], ["vacate", job]):
            done = alice.pycr(*words, "--image-dir", alice.dir)
            assert done.returncode == 0, done.stderr
            assert (
                f"warning: after_checkpoint (plugstack.conf): {program}: exit status 3"
                in done.stderr
            )
    lines = alice.read("ran").splitlines()
    assert lines == [
        f"alice {job} 0 1 /none/{job}.0",
        f"alice {job} 0 0 {alice.dir}/{job}.0/0001",
        f"alice {job} {batch} 0 {alice.dir}/{job}.batch/0001",
        f"alice {job} {batch} 0 {alice.dir}/{job}.batch/0002",
    ]
