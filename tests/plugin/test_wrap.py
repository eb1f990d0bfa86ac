# SPDX-License-Identifier: GPL-2.0-or-later
"""srun --cr: going under srun_cr, with what the shell gave srun, once."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from .driver import Host

# Says how it was executed; the interpreter's own start changes SIGPIPE and SIGXFSZ alone.
WRAPPER = """#!/bin/sh
printf 'wrapper\\n'
tr '\\0' '\\n' < /proc/self/environ > "${0%/*}/environ"
for word; do printf '%s\\0' "$word"; done > "${0%/*}/argv"
grep -E '^Sig(Blk|Ign)' /proc/$$/status > "${0%/*}/signals"
exit 5
"""
HOOKS = ["call init", "option cr", "call init_post_opt"]


@pytest.fixture
def wrapper(tmp_path: Path) -> Path:
    path = tmp_path / "srun_cr"
    path.write_text(WRAPPER, encoding="ascii")
    path.chmod(0o755)
    return path


def script(wrapper: Path, context: str = "local", *first: str) -> list[str]:
    return [*first, f"context {context}", f"arg srun_cr={wrapper}", *HOOKS]


def signals(wrapper: Path) -> dict[str, int]:
    lines = (wrapper.parent / "signals").read_text(encoding="ascii").splitlines()
    return {line[:6]: int(line.split()[1], 16) for line in lines}


def bits(*numbers: int) -> int:
    return sum(1 << (number - 1) for number in numbers)


def test_executes_the_wrapper_with_the_shells_words(host: Host, wrapper: Path) -> None:
    words = ["--cr", "-n", "2", "", "a b", "ends\nhere", "*", "--", "\udcff"]
    run = host.run(script(wrapper), args=words, env={"A": "1", "B": "x\ty"})
    assert run.returncode == 5
    assert run.lines[-1] == "wrapper"
    given = (wrapper.parent / "argv").read_bytes().split(b"\0")[:-1]
    assert given == [str(host.plugin).encode()] + [
        word.encode("utf-8", "surrogateescape") for word in words
    ]


@pytest.mark.parametrize("count", [1, 5000])
def test_gives_the_shells_environment(host: Host, wrapper: Path, count: int) -> None:
    """Also one larger than the buffer it is first read into; not what srun has added since."""
    env = {f"V{number}": "x" * 20 for number in range(count)}
    run = host.run(script(wrapper, "local", "setenv SRUNS_OWN=1", "unsetenv V0"), env=env)
    assert run.returncode == 5
    found = (wrapper.parent / "environ").read_text(encoding="ascii").splitlines()
    assert sorted(found) == sorted(
        [f"{key}={value}" for key, value in env.items()]
        + [f"CR_SRUN={host.program}", "CR_IGNORED=" + "0" * 64]
    )


def test_an_empty_environment_is_no_hindrance(host: Host, wrapper: Path) -> None:
    """As in `env -i /usr/bin/srun --cr ...`."""
    assert host.run(script(wrapper), env={}).returncode == 5


def test_gives_the_shells_signals(host: Host, wrapper: Path) -> None:
    """Those that srun blocks for itself are not the shell's; ignored ones are, and are told."""
    ignored = (signal.SIGHUP, signal.SIGXFSZ)
    blocked = (signal.SIGTSTP, signal.SIGRTMIN)
    sruns = (signal.SIGINT, signal.SIGQUIT, signal.SIGCONT, signal.SIGTERM, signal.SIGHUP)
    sruns += (signal.SIGALRM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE, signal.SIGWINCH)
    first = [f"ignore {each.value}" for each in ignored]
    first += [f"block {each.value}" for each in (*blocked, *sruns)]
    later = [f"ignore {signal.SIGUSR1.value}", f"block {signal.SIGUSR2.value}"]
    lines = script(wrapper, "local", *first)
    run = host.run([*lines[:-1], *later, lines[-1]], env={"A": "1"})
    assert run.returncode == 5
    assert signals(wrapper) == {"SigBlk": bits(*blocked), "SigIgn": bits(*ignored)}
    found = (wrapper.parent / "environ").read_text(encoding="ascii").splitlines()
    told = [line for line in found if line.startswith("CR_IGNORED=")]
    flags = "".join("1" if number in ignored else "0" for number in range(1, 65))
    assert told == [f"CR_IGNORED={flags}"]


def test_under_srun_cr_srun_goes_on(host: Host, wrapper: Path) -> None:
    run = host.run(script(wrapper), env={"SLURM_SRUN_CR_SOCKET": "/s", "CR_SRUN": "/usr/bin/srun"})
    assert run.all("return") == ["init 0", "init_post_opt 0"]
    assert not run.errors


def test_without_cr_srun_goes_on(host: Host, wrapper: Path) -> None:
    run = host.run([line for line in script(wrapper) if line != "option cr"])
    assert run.all("return") == ["init 0", "init_post_opt 0"]


def test_refuses_to_go_round_in_circles(host: Host, wrapper: Path) -> None:
    run = host.run(script(wrapper), env={"CR_SRUN": "/usr/bin/srun"})
    assert run.refused() == "cr: --cr: srun_cr started srun without SLURM_SRUN_CR_SOCKET"


def test_says_that_the_wrapper_is_missing(host: Host, tmp_path: Path) -> None:
    run = host.run(script(tmp_path / "gone"), env={"A": "1"})
    assert run.refused() == f"cr: couldn't execute {tmp_path}/gone: No such file or directory"


def test_says_that_the_wrapper_is_not_executable(host: Host, wrapper: Path) -> None:
    wrapper.chmod(0o644)
    run = host.run(script(wrapper), env={"A": "1"})
    assert run.refused() == f"cr: couldn't execute {wrapper}: Permission denied"


def test_the_wrapper_is_found_beside_the_plugin(host: Host) -> None:
    """PREFIX/lib/slurm/spank_cr.so has PREFIX/bin/srun_cr."""
    prefix = host.plugin.parents[2]
    run = host.run(["context local", *HOOKS], env={"A": "1"})
    assert run.refused() == f"cr: couldn't execute {prefix}/bin/srun_cr: No such file or directory"


@pytest.mark.parametrize("name", ["sbatch", "salloc"])
def test_sbatch_and_salloc_do_not_wrap(host: Host, wrapper: Path, name: str) -> None:
    run = host.run(script(wrapper, "allocator"), name=name)
    assert run.all("return") == ["init 0", "init_post_opt 0"]
    assert not run.errors
