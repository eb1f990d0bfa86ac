# SPDX-License-Identifier: GPL-2.0-or-later
"""srun as a process: how it is started as the shell would have, and how to end as it did.

What command.py and job.py have in common. Only built-in modules are imported here, as in
command.py.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def say(text: str) -> None:
    """Print one line of srun_cr's own; a closed stderr is no reason to fail."""
    try:
        os.write(2, f"srun_cr: {text}\n".encode(errors="replace"))
    except OSError:
        pass


def dispositions() -> tuple[set[int], set[int]]:
    """Return the signals that the shell gave blocked, and those that it gave ignored."""
    import _signal

    ignored = {
        number
        for number in _signal.valid_signals() - _own_signals()
        if _signal.getsignal(number) == _signal.SIG_IGN
    }
    return _signal.pthread_sigmask(_signal.SIG_BLOCK, ()), ignored


def _own_signals() -> set[int]:
    """Return what Python ignores for itself, whatever the shell gave."""
    import _signal

    return {_signal.SIGPIPE, _signal.SIGXFSZ}


def exec_srun(
    srun: str, argv: list[str], environment: dict[str, str], mask: set[int], ignored: set[int]
) -> NoReturn:
    """Become srun, with the signals that the shell gave."""
    import _signal

    try:
        for number in _own_signals() | {_signal.SIGINT} - ignored:
            _signal.signal(number, _signal.SIG_DFL)
        for number in ignored:
            _signal.signal(number, _signal.SIG_IGN)
        _signal.pthread_sigmask(_signal.SIG_SETMASK, mask)
        os.execve(srun, ["srun", *argv], environment)
    except OSError as error:
        say(f"couldn't execute {srun}: {error.strerror}")
    finally:
        os._exit(127)


def look_for_plugin() -> None:
    """Say that the plugin is missing, if it is."""
    from pycr import config
    from pycr.errors import PycrError

    try:
        site = config.site()
    except (PycrError, OSError):
        return
    if site.plugin is None:
        say(
            f"the spank_cr plugin is not enabled ({site.plugstack}): the step runs, but it"
            " cannot be checkpointed or restarted"
        )


def which(name: str) -> str:
    """Return the path of a program in PATH, or the name itself."""
    for place in os.environ.get("PATH", "/usr/bin:/bin").split(":"):
        path = f"{place or '.'}/{name}"
        if os.access(path, os.X_OK) and os.path.isfile(path):
            return path
    return name


def end_as(status: int, terminal: bool = False) -> NoReturn:
    """End as srun did: with its status, or by its signal, without a core of this process's."""
    if os.WIFSIGNALED(status):
        import resource
        import signal

        number = os.WTERMSIG(status)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.set_wakeup_fd(-1)
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_DFL)
        if terminal and number == signal.SIGINT:
            # A Ctrl-C went to srun alone; without srun_cr all of this group would have had it.
            os.killpg(os.getpgrp(), number)
        os.kill(os.getpid(), number)
        os._exit(128 + number)
    os._exit(os.WEXITSTATUS(status))
