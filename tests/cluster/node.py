# SPDX-License-Identifier: GPL-2.0-or-later
"""Starting and stopping nodes, seen from the host: boot.py's processes and the cables.

Owns: the switch (a bridge in a network namespace of its own, so that the host and another
checkout's cluster see nothing of it) and each node's link to it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

from . import cgroups
from .slurmconf import SUBNET, address
from .state import CHECKOUT, ClusterError, State, start_time, wait_until

SWITCH = "switch"


def begin(state: State, name: str) -> subprocess.Popen[bytes]:
    """Start making node NAME (or the switch); finish() waits for it."""
    directory = state.node(name)
    for part in ("upper", "work", "root"):
        (directory / part).mkdir(parents=True, exist_ok=True)
    (directory / "upper").chmod(0o755)
    state.log(name).mkdir(parents=True, exist_ok=True)
    with (state.log(name) / "init.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.cluster.boot", state.marker, name, str(os.getpid())],
            cwd=CHECKOUT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def finish(state: State, name: str, process: subprocess.Popen[bytes]) -> None:
    """Wait until NAME's init exists, and connect a node to the switch."""
    if process.wait(timeout=60) != 0 or state.pid(name) is None:
        raise ClusterError(f"{name} did not start:\n{log_tail(state, name)}")
    if name == SWITCH:
        _ip(state, SWITCH, ["link add br0 type bridge", "link set br0 up", "link set lo up"])
        return
    pid = state.pid(name)
    _ip(
        state,
        SWITCH,
        [
            f"link add {name} type veth peer name eth0 netns {pid}",
            f"link set {name} master br0 up",
        ],
    )
    _ip(
        state,
        name,
        ["link set lo up", f"addr add {address(name)}/24 dev eth0", "link set eth0 up"],
    )

    def is_init() -> bool:
        if state.pid(name) is None:
            raise ClusterError(f"{name} died while starting:\n{log_tail(state, name)}")
        return b"/run/pycr-init.py" in Path(f"/proc/{pid}/cmdline").read_bytes()

    # Until then its root is still the host's.
    wait_until(f"{name}'s init to start", is_init, 30, step=0.005)


def crash(state: State, name: str) -> None:
    """Let node NAME die as in a power cut: first the network, then every process.

    The other way round its kernel would still say goodbye to the others' connections.
    """
    pid = state.pid(name)
    if pid is None:
        return
    with contextlib.suppress(ClusterError):
        _ip(state, SWITCH, [f"link del {name}"])
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    wait_until(f"{name} to die", lambda: start_time(pid) is None, 30)
    cgroups.remove(state, name)


def _ip(state: State, name: str, commands: list[str]) -> None:
    """Run ip(8) commands in the network namespace of node NAME."""
    pid = state.pid(name)
    if pid is None:
        raise ClusterError(f"{name} died:\n{log_tail(state, name)}")
    done = subprocess.run(
        ["nsenter", f"--net=/proc/{pid}/ns/net", "ip", "-batch", "-"],
        input="".join(command + "\n" for command in commands),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if done.returncode != 0:
        raise ClusterError(f"cannot connect {name} ({SUBNET}.0/24): {done.stdout.strip()}")


def log_tail(state: State, name: str, lines: int = 40) -> str:
    """Return the last LINES of each of node NAME's logs, with their names above."""
    parts = []
    for path in sorted(state.log(name).glob("**/*")):
        if path.is_file() and path.stat().st_size:
            tail = path.read_text(errors="replace").splitlines()[-lines:]
            parts.append("\n".join([f"==> {path} <==", *tail]))
    return "\n".join(parts)
