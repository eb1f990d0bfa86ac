# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs that are not the user's alone: what they hold is not looked into, nor written down."""

from __future__ import annotations

import re
import subprocess

from tests.login import Login, until
from tests.slurm.hostile import all_of, in_step, named


def test_a_set_user_id_program(alice: Login) -> None:
    """su waits for a password, with root's memory: it is not looked into."""
    alice.popen("srun", "-n1", "-w", "n0", "su", stdin=subprocess.PIPE)
    step = alice.step()
    until("su", lambda: named(in_step(alice), "su"))
    done = alice.pycr("create", step, "--image-dir", ".")
    assert done.returncode == 9, done.stderr
    assert re.fullmatch(
        r"pycr: step .* task 0 on n0: process \d+ \(su\) of it has user id 0, which a restart could"
        r" not give it: a set-user-ID program or a container cannot be checkpointed\n",
        done.stderr,
    ), done.stderr
    assert not list(alice.place.glob("*/*"))


def test_a_set_user_id_child(alice: Login) -> None:
    script = "sleep 100 | su & touch ready; wait"
    alice.popen("srun", "-n1", "-w", "n0", "bash", "-c", script)
    step = alice.step()
    until("su", lambda: named(in_step(alice), "su"))
    done = alice.pycr("vacate", step, "--image-dir", ".")
    assert done.returncode == 9, done.stderr
    assert "(su) of it has user id 0" in done.stderr
    until("pycr's step to end", lambda: alice.steps() == [step])


def test_a_set_group_id_program(alice: Login) -> None:
    made = alice.sh("cp /bin/sleep waits && chgrp lab waits && chmod 2755 waits")
    assert made.returncode == 0, made.stderr
    alice.popen("srun", "-n1", "-w", "n0", "./waits", "100")
    step = alice.step()
    until("it", lambda: named(all_of(alice), "waits"))
    done = alice.pycr("create", step, "--image-dir", ".")
    assert done.returncode == 9, done.stderr
    assert "(waits) of it has group id 1100" in done.stderr


def test_a_container_of_the_users_own(alice: Login) -> None:
    alice.popen("srun", "-n1", "-w", "n0", "unshare", "-r", "sleep", "100")
    step = alice.step()
    until("it", lambda: named(all_of(alice), "sleep"))
    done = alice.pycr("create", step, "--image-dir", ".")
    assert done.returncode == 9, done.stderr
    assert "(sleep) of it has capabilities" in done.stderr
