# SPDX-License-Identifier: GPL-2.0-or-later
"""Running a command on a node as if it had been started there: `sh`.

Owns: joining the node's namespaces, becoming the user, and being a faithful stand-in for the
command: signals go to it, its stop and its end become ours. The command stays in the caller's
control groups, not in slurmd's.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import signal
import sys
from pathlib import Path
from typing import NamedTuple, NoReturn, Union

from . import syscalls
from .state import ClusterError, State

NAMESPACES = {
    "cgroup": syscalls.CLONE_NEWCGROUP,
    "ipc": syscalls.CLONE_NEWIPC,
    "net": syscalls.CLONE_NEWNET,
    "uts": syscalls.CLONE_NEWUTS,
    "mnt": syscalls.CLONE_NEWNS,
}
# pycr's commands last: beside them is the python3 of their virtual environment.
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/opt/pycr/bin"
Signal = Union[int, signal.Signals]
PASSED = ("SLURM_", "SBATCH_", "SRUN_", "PYCR_")
SI_KERNEL = 0x80  # sigaction(2)

# A fault of our own is not held up by being blocked here (sigprocmask(2)).
FORWARDED = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}


class User(NamedTuple):
    """An account as the node has it."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str
    shell: str


def find_user(name: str, pid: int) -> User:
    """Return user NAME of the node whose init is PID."""

    def table(file: str) -> list[list[str]]:
        # Not pwd and grp: those would read the host's, or load the node's libraries into us.
        text = Path(f"/proc/{pid}/root/etc/{file}").read_text(encoding="utf-8")
        return [line.split(":") for line in text.splitlines()]

    for row in table("passwd"):
        if row[0] == name:
            gid = int(row[3])
            extra = {int(group[2]) for group in table("group") if name in group[3].split(",")}
            groups = tuple(sorted(extra | {gid}))
            return User(name, int(row[2]), gid, groups, row[5], row[6])
    raise ClusterError(f"no user {name} on the node")


def environment(user: User) -> dict[str, str]:
    """Return a login's environment for USER, with what the caller may pass on."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if key in ("TERM", "LANG") or key.startswith(PASSED)
    }
    account = {"HOME": user.home, "USER": user.name, "LOGNAME": user.name, "SHELL": user.shell}
    return {"LANG": "C.UTF-8", **kept, **account, "PATH": PATH}


def run(state: State, name: str, command: list[str], user_name: str = "root") -> NoReturn:
    """Run COMMAND on node NAME as USER_NAME and end as it ends."""
    pid = state.pid(name)
    if pid is None:
        raise ClusterError(f"node {name} is not up (python3 -m tests.cluster up)")
    user = find_user(user_name, pid)
    blocked = FORWARDED | {signal.SIGCHLD}
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    fds = [
        (os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY), NAMESPACES[kind]) for kind in NAMESPACES
    ]
    # Only children join a PID namespace (setns(2)); all else is for the command alone, since
    # this process could load nothing more of Python once it had the node's files.
    syscalls.setns(os.open(f"/proc/{pid}/ns/pid", os.O_RDONLY), syscalls.CLONE_NEWPID)
    child = os.fork()
    if child == 0:
        _command(fds, command, user, previous)
    _stand_in(child, blocked)


def _command(
    namespaces: list[tuple[int, int]], command: list[str], user: User, mask: set[Signal]
) -> NoReturn:
    status = 126
    try:
        for fd, flag in namespaces:
            syscalls.setns(fd, flag)
        _own_files()
        os.setgroups(user.groups)
        os.setgid(user.gid)
        os.setuid(user.uid)
        syscalls.die_with_parent()
        os.umask(0o022)
        os.chdir(user.home)
        # Python ignores these two, and raises for the third; a command must get them as any other.
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.execvpe(command[0], command, environment(user))
    except FileNotFoundError as error:
        status = 127
        print(f"cluster: {command[0]}: {error.strerror}", file=sys.stderr)
    except OSError as error:
        print(f"cluster: {command[0]}: {error}", file=sys.stderr)
    finally:
        sys.stderr.flush()
        os._exit(status)


def _own_files() -> None:
    """Leave the command as little of the host's files as we can: only what stdio is.

    CRIU cannot dump a task with a file open that is in no mount of the task's own namespace.
    """
    # Not os.closerange: RLIMIT_NOFILE may be a thousand million.
    for fd in [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]:
        if fd > 2:
            with contextlib.suppress(OSError):
                os.close(fd)
    for fd in range(3):
        with contextlib.suppress(OSError):
            if os.fstat(fd).st_rdev == os.makedev(1, 3):
                null = os.open("/dev/null", fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE)
                os.dup2(null, fd)
                os.close(null)


def _stand_in(child: int, blocked: set[signal.Signals]) -> NoReturn:
    while True:
        # Before waiting for the next signal: one SIGCHLD may stand for several changes.
        pid, status = os.waitpid(child, os.WNOHANG | os.WUNTRACED)
        if pid and os.WIFSTOPPED(status):
            # Let whoever controls us see the stop; when it continues us, continue the command.
            os.kill(os.getpid(), signal.SIGSTOP)
            os.kill(child, signal.SIGCONT)
            continue
        if pid:
            _end_like(status)
        info = signal.sigwaitinfo(blocked)
        # A terminal signals the whole process group: the command has its own already.
        if info.si_code == SI_KERNEL:
            continue
        if info.si_signo != signal.SIGCHLD:
            os.kill(child, info.si_signo)


def _end_like(status: int) -> NoReturn:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        # The command has dumped core if it was to: not this process as well.
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
        os.kill(os.getpid(), number)
        os._exit(128 + number)
    os._exit(os.WEXITSTATUS(status))


def split_command(arguments: list[str]) -> tuple[str | None, str | None, list[str]]:
    """Split `NODE [--user NAME] -- COMMAND...` into node, user and command.

    By hand: argparse would eat a second `--` of the command's own.
    """
    own, command = arguments, []
    if "--" in arguments:
        cut = arguments.index("--")
        own, command = arguments[:cut], arguments[cut + 1 :]
    node: str | None = None
    user: str | None = None
    rest = iter(own)
    for word in rest:
        if word == "--user":
            user = next(rest, None)
        elif word.startswith("--user="):
            user = word.partition("=")[2]
        elif node is None and not word.startswith("-"):
            node = word
        else:
            raise ClusterError(f"sh: unexpected {word!r} (sh NODE [--user NAME] -- COMMAND...)")
    return node, user, command
