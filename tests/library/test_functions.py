# SPDX-License-Identifier: GPL-2.0-or-later
"""What each function has pycr do, and what becomes of its answer and its exit status."""

from __future__ import annotations

import ctypes
import errno
import os
import pwd
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pycr import errors

from .conftest import LIBRARY, Prefix

NO_VAL, BATCH_SCRIPT, EXTERN = 0xFFFFFFFE, 0xFFFFFFFB, 0xFFFFFFFC
INVALID_JOB_ID, NOT_SUPPORTED, WRITING, DISABLED, OTHER, NOT_UNDERSTOOD = (
    2017, 2036, 2019, 2037, -1, 1000,
)  # fmt: skip
U16, U32, TEXT, TIME = ctypes.c_uint16, ctypes.c_uint32, ctypes.c_char_p, ctypes.c_long
ARGUMENTS: dict[str, list[Any]] = {
    "able": [U32, U32, ctypes.POINTER(TIME)],
    "complete": [U32, U32, TIME, U32, TEXT],
    "create": [U32, U32, U16, TEXT],
    "disable": [U32, U32],
    "enable": [U32, U32],
    "error": [U32, U32, ctypes.POINTER(U32), ctypes.POINTER(TEXT)],
    "requeue": [U32, U16, TEXT],
    "restart": [U32, U32, U16, TEXT],
    "tasks": [U32, U32, TIME, TEXT, U16, TEXT],
    "vacate": [U32, U32, U16, TEXT],
}
# A hostile image directory and message: nothing of them is more than one word.
DIR, SAID = b"--help; rm -rf $HOME\n\xff`id`", b"-x 'a\tb' \xc3\xa4"

Call = Callable[..., int]


def load(prefix: Prefix) -> Call:
    """Return a function that calls one of the library's; it returns the error number."""
    library = ctypes.CDLL(str(prefix.path / LIBRARY), use_errno=True)

    def call(name: str, *arguments: Any) -> int:
        function = library[f"slurm_checkpoint_{name}"]
        function.argtypes = ARGUMENTS[name]
        ctypes.set_errno(77)
        rc = function(*arguments)
        number = ctypes.get_errno()
        assert rc == (0 if number == 77 else -1)
        return 0 if number == 77 else number

    return call


@pytest.fixture
def call(prefix: Prefix) -> Call:
    return load(prefix)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """What a program may have in its environment; ctypes' own is left alone."""
    for name, value in {
        "PATH": f".:/nowhere:{os.environ['PATH']}",
        "LD_PRELOAD": "/tmp/evil.so",
        "PYTHONPATH": "/tmp/evil",
        "SLURM_CHECKPOINT_DIR": "/tmp/elsewhere",
        "SLURM_JOB_ID": "12",
        "SLURM_CONF": "/etc/slurm/other.conf",
        "IFS": "/",
        "HOME": "/tmp/evil",
        "LC_ALL": "de_DE.UTF-8",
    }.items():
        monkeypatch.setenv(name, value)
    yield monkeypatch


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (["able", 7, 0, None], "able 7.0"),
        (["able", 7, NO_VAL, None], "able 7"),
        (["disable", 7, BATCH_SCRIPT], "disable 7.batch"),
        (["enable", 999999999, 3], "enable 999999999.3"),
        (["create", 7, 1, 0, None], "create 7.1"),
        (["create", 7, 1, 0, b""], "create 7.1"),
        (["create", 7, 1, 65535, DIR], "create --image-dir=@DIR --max-wait=65535 7.1"),
        (["vacate", 7, NO_VAL, 9, b"d"], "vacate --image-dir=d --max-wait=9 7"),
        (["requeue", 7, 9, b"d"], "requeue --image-dir=d --max-wait=9 7"),
        (["restart", 7, NO_VAL, 0, None], "restart 7.batch"),
        (["restart", 7, BATCH_SCRIPT, 1, b"d"], "restart --image-dir=d --stick 7.batch"),
        (["error", 7, 0, None, None], "error 7.0"),
        (["complete", 7, 0, 0, 0, None], "complete 7.0"),
        (
            ["complete", 7, 0, 1700000000, 4294967295, SAID],
            "complete --begin-time=1700000000 --error-code=4294967295 --error-msg=@SAID 7.0",
        ),
        (
            ["tasks", 7, 0, 1700000000, b"d", 5, b"n[1-2],n4"],
            "tasks --begin-time=1700000000 --image-dir=d --max-wait=5 --nodelist=n[1-2],n4 7.0",
        ),
        (["tasks", 7, 0, 0, None, 0, None], "tasks 7.0"),
    ],
)
def test_command_line(call: Call, prefix: Prefix, given: list[Any], wanted: str) -> None:
    """The step comes last: what follows it `pycr restart` gives to sbatch."""
    answer = {"able": "Yes\n", "error": "error(0): \n"}.get(given[0], "ignored\n")
    prefix.plan("exit 0", answer)
    assert call(*given) == 0
    texts = {"@DIR": os.fsdecode(DIR), "@SAID": os.fsdecode(SAID)}
    words = wanted.split()
    for name, text in texts.items():
        words = [word.replace(name, text) for word in words]
    assert prefix.words("cmdline") == [str(prefix.path / "bin/pycr"), *words]


def test_environment_is_made_from_nothing(
    call: Call, prefix: Prefix, environment: pytest.MonkeyPatch
) -> None:
    prefix.plan("exit 0")
    assert call("disable", 7, 0) == 0
    entry = pwd.getpwuid(os.getuid())
    system = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"
    wanted = {
        "PATH": system,
        "HOME": entry.pw_dir,
        "USER": entry.pw_name,
        "LOGNAME": entry.pw_name,
        "SLURM_CONF": "/etc/slurm/other.conf",
        "LC_ALL": "C",
        "SLURM_TIME_FORMAT": "%s",
    }
    found = dict(word.split("=", 1) for word in prefix.words("environ"))
    assert found == wanted


def test_slurm_that_only_the_path_leads_to(
    call: Call, prefix: Prefix, environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It comes last: nothing in that directory stands for what the system has."""
    if any(os.access(f"{place}/scontrol", os.X_OK) for place in ("/usr/bin", "/usr/local/bin")):
        pytest.skip("expected: Slurm's commands are among the system's here")
    (tmp_path / "scontrol").touch(mode=0o755)
    environment.setenv("PATH", f".::relative:{tmp_path}:/nowhere")
    prefix.plan("exit 0")
    assert call("disable", 7, 0) == 0
    found = dict(word.split("=", 1) for word in prefix.words("environ"))
    assert found["PATH"].split(":")[-2:] == ["/sbin", str(tmp_path)]


def classes(base: type[errors.PycrError] = errors.PycrError) -> Iterator[type[errors.PycrError]]:
    yield base
    for each in base.__subclasses__():
        yield from classes(each)


def test_exit_statuses(call: Call, prefix: Prefix) -> None:
    """Those with a number of Slurm's have that, whichever errors pycr has; see the man page."""
    others = {
        errors.UsageError: errno.EINVAL,
        errors.DirectoryError: WRITING,
        errors.ImageError: errno.ENOENT,
        errors.TimedOut: errno.ETIMEDOUT,
    }
    own = [each for each in classes() if "exit_status" in vars(each)]
    wanted = {each.exit_status: each.eslurm or others.get(each, OTHER) for each in own}
    wanted |= {16: DISABLED, 126: OTHER, 130: errno.EINTR, 255: OTHER}
    for status, number in wanted.items():
        prefix.plan(f"exit {status}")
        assert call("vacate", 7, 0, 0, None) == number, status
    for signo in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        prefix.plan(f"kill {signo:d}")
        assert call("vacate", 7, 0, 0, None) == errno.EINTR
    prefix.plan(f"kill {signal.SIGKILL:d}")
    assert call("vacate", 7, 0, 0, None) == OTHER


@pytest.mark.parametrize(
    ("text", "number", "began"),
    [
        ("Yes\n", 0, 0),
        ("No\n", DISABLED, 0),
        ("Began at 1700000000\n", 0, 1700000000),
        ("", NOT_UNDERSTOOD, 0),
        ("Perhaps\n", NOT_UNDERSTOOD, 0),
    ],
)
def test_able(call: Call, prefix: Prefix, text: str, number: int, began: int) -> None:
    prefix.plan("exit 0", text)
    time = TIME(5)
    assert call("able", 7, 0, ctypes.byref(time)) == number
    assert time.value == began
    assert call("able", 7, 0, None) == number


@pytest.mark.parametrize(
    ("text", "number", "code", "message"),
    [
        ("error(0): \n", 0, 0, b""),
        ("error(0):\n", 0, 0, b""),
        ("error(4294967295): a) b: c\n", 0, 4294967295, b"a) b: c"),
        ("error(7): two\nlines\n", 0, 7, b"two\nlines"),
        ("error(7): no end", 0, 7, b"no end"),
        # What is too long is cut, and a pycr that prints without end blocks nothing.
        ("error(7): " + "x" * 1000000, 0, 7, b"x" * (16383 - len("error(7): "))),
        ("error(7", NOT_UNDERSTOOD, 0, None),
        ("", NOT_UNDERSTOOD, 0, None),
    ],
)
def test_error(
    call: Call, prefix: Prefix, text: str, number: int, code: int, message: bytes | None
) -> None:
    prefix.plan("exit 0", text)
    free = ctypes.CDLL(None).free
    found, said = U32(5), TEXT(b"before")
    assert call("error", 7, 0, ctypes.byref(found), ctypes.byref(said)) == number
    assert (found.value, said.value) == (code, message)
    free(said)
    assert call("error", 7, 0, None, None) == number
    prefix.plan("exit 3", text)
    assert call("error", 7, 0, ctypes.byref(found), ctypes.byref(said)) == INVALID_JOB_ID
    assert (found.value, said.value) == (0, None)


def test_refused_without_pycr(call: Call, prefix: Prefix) -> None:
    prefix.plan("exit 0")
    assert call("disable", 0, 0) == INVALID_JOB_ID
    assert call("disable", NO_VAL, 0) == INVALID_JOB_ID
    assert call("disable", 7, EXTERN) == INVALID_JOB_ID
    assert call("restart", 7, 0, 0, None) == NOT_SUPPORTED
    assert call("create", 7, 0, 0, b"d" * 200000) == errno.E2BIG
    assert not (prefix.path / "report/cmdline").exists()


def test_long_message_is_cut(call: Call, prefix: Prefix) -> None:
    prefix.plan("exit 0")
    assert call("complete", 7, 0, 0, 1, b"x" * 300000) == 0
    assert prefix.words("cmdline")[-2] == "--error-msg=" + "x" * 4096


def test_no_pycr_beside_the_library(call: Call, prefix: Prefix) -> None:
    there = prefix.path / "bin/pycr"
    aside = there.rename(there.with_name("aside"))
    try:
        assert call("disable", 7, 0) == NOT_SUPPORTED
    finally:
        aside.rename(there)
