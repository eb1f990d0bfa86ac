# SPDX-License-Identifier: GPL-2.0-or-later
"""Names of sockets that another user takes first, and sockets that another user knocks at."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.login import Login, until
from tests.slurm import forge
from tests.slurm.hostile import pod, waiting_step, words
from tests.slurm.processes import wrapper

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
    assert time.monotonic() - began < 40  # --max-wait is 60


def test_another_user_knocks_at_a_pod(alice: Login, bob: Login) -> None:
    """Its name is on its command line, and taken before it is there; who knocks is not heard."""
    step, _ = forge.vacated(alice, "sleep", "100")
    alice.popen("pycr", "restart", "--image-dir", ".", step, "--nodelist=n0")
    again = alice.step()
    pattern = "pycr-[0-9a-f]{16}"
    name = until("its name", lambda: [x for x in words(pod(alice)) if re.fullmatch(pattern, x)])[0]
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
    until("it to run", lambda: alice.pycr("create", again, "--image-dir", ".").returncode == 0)


RACE = """
import errno, os, re, socket, time
seen = {}
def name_of(pid):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return re.search(rb"\\0(pycr-[0-9a-f]{16})\\0", file.read())
    except OSError:
        return None
print("up", flush=True)
while not os.path.exists("stop"):
    for pid in os.listdir("/proc"):
        if not pid.isdigit():
            continue
        name = name_of(pid)
        if name and name[1] not in seen:
            with socket.socket(socket.AF_UNIX) as own:
                try:
                    own.bind(b"\\0" + name[1])
                    # Free it is too when the pod has ended since it was looked at.
                    seen[name[1]] = "BOUND" if name_of(pid) else "ENDED"
                except OSError as error:
                    seen[name[1]] = errno.errorcode[error.errno]
print(*sorted(seen.values()))
"""


def test_a_pods_name_is_taken_before_it_can_be_seen(alice: Login, bob: Login) -> None:
    """bob looks at every command line of the node without a pause, and binds what he finds; to
    guess a name is to guess 64 random bits."""
    step, _ = forge.vacated(alice, "python3", alice.victim("who.py"), ready="ready")
    (alice.place / "go").touch()
    racer = bob.popen("python3", "-c", RACE)
    assert racer.stdout and racer.stdout.readline() == "up\n"
    for _ in range(5):
        done = alice.pycr("restart", "--image-dir", ".", step, "--nodelist=n0")
        assert done.returncode == 0, done.stderr
    (bob.place / "stop").touch()
    out, err = racer.communicate(timeout=30)
    found = [each for each in out.split() if each != "ENDED"]
    assert len(found) >= 3, err  # a pod that lives for a moment may not be seen
    assert set(found) == {"EADDRINUSE"}


# ---- SLURM_SRUN_CR_SOCKET ---------------------------------------------------------------------

LISTEN = """
import os, socket, struct
server = socket.socket(socket.AF_UNIX)
server.bind("socket")
os.chmod("socket", 0o777)
server.listen()
print("up", flush=True)
peer, _ = server.accept()
data = b""
while piece := peer.recv(100):
    data += piece
print(struct.unpack("=IIi", data[:12]), data[12:], flush=True)
"""


def test_anothers_socket_in_the_variable(alice: Login, bob: Login) -> None:
    """alice's srun tells whoever listens there what squeue tells everybody, and runs as ever."""
    bob.place.chmod(0o755)
    listener = bob.popen("python3", "-c", LISTEN)
    assert listener.stdout and listener.stdout.readline() == "up\n"
    env = {"SLURM_SRUN_CR_SOCKET": f"{bob.dir}/socket"}
    done = alice.run("srun", "--cr", "-n1", "-w", "n0", "sh", "-c", "env; id -u; exit 3", env=env)
    assert done.returncode == 3, done.stderr
    assert done.stdout.splitlines()[-1] == "1001"
    assert "SLURM_SRUN_CR_SOCKET" not in done.stdout
    out, _ = listener.communicate(timeout=60)
    assert re.fullmatch(r"\(\d+, 0, 2\) b'n0\\x00'\n", out), out


def test_the_socket_of_anothers_srun_cr(alice: Login, bob: Login) -> None:
    """Its directory is closed; the srun does not mind, and the socket's owner hears nothing."""
    own = bob.popen("srun", "--cr", "-n1", "sleep", "60")
    path = socket_of(own)
    bob.step()
    done = alice.run("srun", "--cr", "-n1", "echo", "ran", env={"SLURM_SRUN_CR_SOCKET": path})
    assert (done.returncode, done.stdout) == (0, "ran\n"), done.stderr
    os.kill(wrapper(own)[0], signal.SIGTERM)
    assert "srun_cr: dropped" not in own.communicate(timeout=30)[1]


def test_who_gets_to_srun_crs_socket_is_not_heard(alice: Login, bob: Login) -> None:
    """Even where its user has opened the directory to all."""
    own = alice.popen("srun", "--cr", "-n1", "sleep", "60")
    path = socket_of(own)
    alice.step()
    assert alice.sh(f"chmod 755 {path.rpartition('/')[0]}; chmod 777 {path}").returncode == 0
    done = bob.run("python3", "-c", SEND, path)
    assert done.returncode == 0, done.stderr
    os.kill(wrapper(own)[0], signal.SIGTERM)
    said = [line for line in own.communicate(timeout=30)[1].splitlines() if "srun_cr:" in line]
    assert said == ["srun_cr: dropped a connection: it is of uid 1002"]


SEND = """
import socket, struct, sys
with socket.socket(socket.AF_UNIX) as peer:
    peer.connect(sys.argv[1])
    try:
        peer.sendall(struct.pack("=IIi", 1, 2, 2) + b"n0\\0")
        peer.shutdown(socket.SHUT_WR)
        peer.recv(1)
    except OSError:
        pass
"""


def socket_of(process: subprocess.Popen[str]) -> str:
    """Return the path that an srun below a Login.popen() has in its environment."""

    def look() -> str:
        try:
            text = Path(f"/proc/{wrapper(process)[1]}/environ").read_text()
        except OSError:
            return ""
        pairs = dict(each.partition("=")[::2] for each in text.split("\0"))
        return pairs.get("SLURM_SRUN_CR_SOCKET", "")

    return str(until("its socket", look))
