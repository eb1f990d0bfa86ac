# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line: `python3 -m tests.cluster up|sh|status|down`."""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn

from . import enter
from .state import ClusterError, State


class Signalled(BaseException):
    """A signal that ends an `up` in an orderly way."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _raise_signalled(number: int, _frame: object) -> NoReturn:
    # One is enough: a second one must not stop the cleaning up.
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    raise Signalled(number)


def _sh(arguments: list[str]) -> NoReturn:
    node, user, command = enter.split_command(arguments)
    if node is None:
        raise ClusterError("sh: which node? (sh NODE [--user NAME] -- COMMAND...)")
    enter.run(State(), node, command or ["/bin/bash"], user or "root")


def _manage(arguments: list[str]) -> int:
    from . import cli

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _raise_signalled)
    return cli.main(arguments)


def main() -> int:
    """Run one command; a ClusterError is one message and exit status 1."""
    arguments = sys.argv[1:]
    try:
        if arguments[:1] == ["sh"]:
            _sh(arguments[1:])
        return _manage(arguments)
    except ClusterError as error:
        print(f"cluster: {error}", file=sys.stderr)
        # As ssh does: not to be taken for the command's own.
        return 255 if arguments[:1] == ["sh"] else 1
    except Signalled as error:
        signal.signal(error.number, signal.SIG_DFL)
        os.kill(os.getpid(), error.number)
        return 128 + error.number


if __name__ == "__main__":
    sys.exit(main())
