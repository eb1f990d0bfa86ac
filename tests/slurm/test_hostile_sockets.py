# SPDX-License-Identifier: GPL-2.0-or-later
"""Names of sockets that another user takes first, and sockets that another user knocks at."""

from __future__ import annotations

import re
import time

import pytest

from tests.login import Login
from tests.slurm import forge
from tests.slurm.hostile import pod, waiting_step, words

BIND = """
import socket, sys, time
held = socket.socket(socket.AF_UNIX)
held.bind("\\0" + sys.argv[1])
if sys.argv[2] != "deaf":
    held.listen(0)
    full = [socket.socket(socket.AF_UNIX) for _ in range(3)]
    for each in full:
        each.setblocking(False)
        try:
            each.connect("\\0" + sys.argv[1])
        except OSError:
            pass
print("bound", flush=True)
time.sleep(100)
"""


@pytest.mark.parametrize("how", ["deaf", "full"])
def test_another_user_takes_the_claims_name(alice: Login, bob: Login, how: str) -> None:
    waiting = waiting_step(alice)
    holder = bob.popen("python3", "-c", BIND, f"pycr-dump-1001-{waiting}", how)
    assert holder.stdout and holder.stdout.readline() == "bound\n"
    began = time.monotonic()
    done = alice.pycr("create", waiting, "--image-dir", ".")
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began < 20


def test_another_user_knocks_at_a_pod(alice: Login, bob: Login) -> None:
    """Its name is on its command line, and taken before it is there; who knocks is not heard."""
    step, _ = forge.vacated(alice, "sleep", "100")
    alice.popen("pycr", "restart", "--image-dir", ".", step)
    again = alice.step()
    name = next(word for word in words(pod(alice)) if re.fullmatch("pycr-[0-9a-f]{16}", word))
    assert bob.run("python3", "-c", BIND, name, "deaf").returncode != 0  # at any moment
    knock = f"""
import socket
for _ in range(200):
    with socket.socket(socket.AF_UNIX) as pod:
        pod.connect("\\0{name}")
        try:
            pod.sendall(b'{{"do":"describe"}}\\n')
            assert pod.recv(100) == b""
        except OSError:
            pass
"""
    done = bob.run("python3", "-c", knock)
    assert done.returncode == 0, done.stderr
    assert alice.pycr("create", again, "--image-dir", ".").returncode == 0
