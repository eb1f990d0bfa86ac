# SPDX-License-Identifier: GPL-2.0-or-later
"""A node's PID 1: starts munged, slurmctld and what accounting there is (on n0), and slurmd; then
reaps whatever is orphaned.

boot.py copies this one file into the node, where the node's own Python runs it: it imports
nothing of the package. When it dies the kernel kills the whole node with it (pid_namespaces(7)).
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

CONTROLLER = ("n0", 6817)
DBD = ("n0", 6819)
DBD_CONF = Path("/etc/slurm/slurmdbd.conf")
SOCKET = Path("/run/mysqld/mysqld.sock")
# Only this node's slurmdbd asks it, and at `down` all of it goes: it need not fsync.
MARIADBD = [
    "/usr/sbin/mariadbd",
    "--no-defaults",
    "--user=slurm",
    "--datadir=/var/lib/mysql",
    f"--socket={SOCKET}",
    "--skip-networking",
    "--innodb-log-file-size=16M",
    "--innodb-flush-method=fsync",
    "--innodb-flush-log-at-trx-commit=0",
    "--innodb-lock-wait-timeout=900",
]


def log(text: str) -> None:
    """Add a line to the node's init.log."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def poll(what: str, ready: Callable[[], bool], seconds: float) -> bool:
    """Wait until READY is true, for SECONDS at most, and tell whether it is."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if ready():
            return True
        time.sleep(0.01)
    log(f"gave up after {seconds:.0f} s waiting for {what}")
    return False


def network_is_up() -> bool:
    """Tell whether the host has wired our interface."""
    try:
        return Path("/sys/class/net/eth0/operstate").read_text().strip() == "up"
    except OSError:
        return False


def answers(address: tuple[str, int]) -> bool:
    """Tell whether slurmctld, or slurmdbd, takes connections."""
    try:
        with socket.create_connection(address, timeout=1):
            return True
    except OSError:
        return False


def start(command: list[str], output: str) -> int:
    """Start a daemon in the foreground, its stderr in OUTPUT, and return its PID."""
    with Path("/var/log/slurm", output).open("ab") as stream:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True
        )
    log(f"started {' '.join(command)}: pid {process.pid}")
    return process.pid


def main() -> None:
    """Run the node until it is killed."""
    with Path("/var/log/slurm/init.log").open("ab", buffering=0) as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    with Path("/dev/null").open("rb") as null:
        os.dup2(null.fileno(), 0)
    _, _, name, role = sys.argv
    log(f"{name} ({role}) starts")
    poll("the network", network_is_up, 30)
    munged = ["setpriv", "--reuid=munge", "--regid=munge", "--init-groups", "/usr/sbin/munged"]
    status = subprocess.call(munged)
    log(f"munged: exit status {status}")
    daemons = {}
    if role == "controller" and DBD_CONF.exists():
        daemons[start(MARIADBD, "mariadbd.err")] = "mariadbd"
        poll("mariadbd", SOCKET.exists, 60)
        daemons[start(["/usr/sbin/slurmdbd", "-D"], "slurmdbd.err")] = "slurmdbd"
        # Without it slurmctld does not know who may submit what.
        poll("slurmdbd", lambda: answers(DBD), 60)
    if role == "controller":
        daemons[start(["/usr/sbin/slurmctld", "-D"], "slurmctld.err")] = "slurmctld"
    # A slurmd that cannot register at once tries again only after a second.
    poll("slurmctld", lambda: answers(CONTROLLER), 60)
    daemons[start(["/usr/sbin/slurmd", "-D"], "slurmd.err")] = "slurmd"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    while True:
        try:
            pid, status = os.wait()
        except ChildProcessError:
            time.sleep(0.1)  # Orphans may still come: poll for them.
            continue
        if pid in daemons:
            log(f"{daemons.pop(pid)} died, wait status {status:#x}")


if __name__ == "__main__":
    main()
