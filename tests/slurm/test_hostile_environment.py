# SPDX-License-Identifier: GPL-2.0-or-later
"""What a job's environment may not do to the programs that run with a capability.

A canary is laid in it: a library and scripts that leave a file with the words of whatever program
loads them. The task itself loads them, which shows that they work; helper, criu and pod do not.
"""

from __future__ import annotations

import os
from pathlib import Path

from tests.login import Login, until
from tests.slurm.hostile import running

LIBRARY = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <fcntl.h>
#include <unistd.h>
static void sing(void)
{
    char line[4096] = "", path[4200];
    int fd = open("/proc/self/cmdline", O_RDONLY), out;
    long got = fd < 0 ? 0 : read(fd, line, sizeof(line) - 2);
    for (long i = 0; i + 1 < got; i++) if (!line[i]) line[i] = ' ';
    strcat(line, "\n");
    snprintf(path, sizeof(path), "%s/heard", DIR);
    out = open(path, O_WRONLY | O_CREAT | O_APPEND, 0666);
    if (out >= 0 && write(out, line, strlen(line)) < 0) _exit(9);
    close(out);
    close(fd);
}
__attribute__((constructor)) static void loaded(void) { sing(); }
unsigned int la_version(unsigned int version) { sing(); return version; }
int gconv_init(void *step) { (void) step; sing(); return 1; }
"""
PYTHON = """
import sys
with open("{dir}/heard", "a") as file:
    print(*sys.orig_argv, file=file)
"""
SHELL = 'tr "\\0" " " < /proc/$$/cmdline >> {dir}/heard; echo >> {dir}/heard\n'


def lay(user: Login) -> dict[str, str]:
    """Lay every canary in the user's directory; return the environment that names them."""
    place, there = user.place, user.dir
    (place / "canary.c").write_text(LIBRARY)
    built = user.sh(f"gcc -shared -fPIC -DDIR='\"{there}\"' -o canary.so canary.c")
    assert built.returncode == 0, built.stderr
    for name in ("sitecustomize.py", "usercustomize.py", "startup.py"):
        (place / name).write_text(PYTHON.format(dir=there))
    for name in ("shell.sh", ".bashrc", ".profile"):
        (place / name).write_text(SHELL.format(dir=there))
    (place / "bin").mkdir()
    for name in ("criu", "python3", "scontrol", "scancel", "sh", "srun"):
        program = place / "bin" / name
        program.write_text("#!/bin/bash\n" + SHELL.format(dir=there))
        program.chmod(0o755)
    (place / ".criu").mkdir()
    (place / ".criu/default.conf").write_text(f"action-script {there}/bin/criu\n")
    (place / "default.conf").write_text(f"action-script {there}/bin/criu\n")
    (place / "criu.kdat").write_bytes(b"\1" * 4096)
    (place / "gconv-modules").write_text("module CANARY// INTERNAL canary 1\n")
    for path in place.rglob("*"):
        os.chown(path, place.stat().st_uid, place.stat().st_gid)
    return {
        "PYTHONPATH": there,
        "PYTHONSTARTUP": f"{there}/startup.py",
        "PYTHONINSPECT": "1",
        "PYTHONWARNINGS": "always",
        "PYTHONUSERBASE": there,
        "LD_PRELOAD": f"{there}/canary.so",
        "LD_AUDIT": f"{there}/canary.so",
        "LD_LIBRARY_PATH": there,
        "GCONV_PATH": there,
        "LOCPATH": there,
        "NLSPATH": f"{there}/%N",
        "GLIBC_TUNABLES": "glibc.malloc.check=3",
        "BASH_ENV": f"{there}/shell.sh",
        "ENV": f"{there}/shell.sh",
        "XDG_RUNTIME_DIR": there,
        "XDG_CONFIG_HOME": there,
        "CRIU_CONFIG_FILE": f"{there}/default.conf",
        "CRIU_LIBS_DIR": there,
        "HOME": there,
        "IFS": "/",
    }


def exported(environment: dict[str, str], *command: str) -> list[str]:
    return ["env", *(f"{name}={value}" for name, value in environment.items()), *command]


def environ(pid: int) -> list[str]:
    return sorted(Path(f"/proc/{pid}/environ").read_text().split("\0")[:-1])


def test_each_canary_alone_sings(alice: Login) -> None:
    """In the other tests LD_PRELOAD sings in every program, and would hide one that is mute."""
    laid = lay(alice)
    for name, command in (
        ("LD_PRELOAD", ["true"]),
        ("LD_AUDIT", ["true"]),
        ("GCONV_PATH", ["iconv", "-f", "CANARY", "-t", "UTF-8", "/dev/null"]),
        ("PYTHONPATH", ["python3", "-c", ""]),
        ("BASH_ENV", ["bash", "-c", ""]),
    ):
        (alice.place / "heard").unlink(missing_ok=True)
        alice.run("srun", "-n1", "env", f"{name}={laid[name]}", *command)
        assert command[0] in alice.read("heard"), f"{name}: the canary does not sing"


TRUSTED = ("pycr.node", "pycr.pod", "criu", "scontrol listpids", "scontrol show config")


def test_no_canary_sings_where_a_capability_is(alice: Login) -> None:
    laid = lay(alice)
    task = ["bash", "-c", 'python3 -c "" ; touch ready; until test -e go; do sleep 0.1; done']
    # The caller has all of it too, its PATH but for pycr's own sake.
    job = alice.popen(*exported(laid, "srun", "-n1", *task))
    step = alice.step()
    until("the task to be there", lambda: (alice.place / "ready").exists())
    heard = alice.read("heard")
    for canary in ("bash -c", "python3 -c"):
        assert canary in heard, "the canary does not sing where it should"
    assert (alice.place / "heard").exists()
    (alice.place / "heard").unlink()

    for name in ("PYTHONINSPECT", "PYTHONWARNINGS"):
        del laid[name]  # of the caller's pycr these change the end, as of any program
    done = alice.run(*exported(laid, "pycr", "create", step, "--image-dir", "."))
    assert done.returncode == 0, done.stderr
    done = alice.run(*exported(laid, "pycr", "vacate", step, "--image-dir", "."))
    assert done.returncode == 0, done.stderr
    job.communicate(timeout=30)
    restart = alice.popen(*exported(laid, "pycr", "restart", "--image-dir", ".", step))
    again = alice.step()
    until("its pod", lambda: running(alice, "pycr.pod"))
    until("it to run", lambda: alice.pycr("create", again, "--image-dir", ".").returncode == 0)
    # What slurmstepd starts has an environment made from nothing.
    for pid in running(alice, "pycr.pod"):
        names = {each.split("=")[0] for each in environ(pid)}
        assert names in ({"LC_ALL", "PATH"}, {"LC_ALL", "PATH", "SLURM_CONF"})
        assert str(alice.dir) not in " ".join(environ(pid))
    (alice.place / "go").touch()
    restart.communicate(timeout=30)
    assert restart.returncode == 0

    # The caller's own programs, without a capability, are the caller's to break.
    for line in alice.read("heard").splitlines():
        assert not any(word in line for word in TRUSTED) or " srun" in line, line
    assert "pycr create" in alice.read("heard")  # there it sang


def test_a_path_of_the_callers_is_not_the_helpers(alice: Login) -> None:
    """criu, scontrol and python3 of the task's own PATH are never run by the helper or the pod."""
    laid = lay(alice)
    path = f"{alice.dir}/bin:/opt/pycr/bin:/usr/sbin:/usr/bin"
    job = alice.popen(
        "env", f"PATH={path}", "/usr/bin/srun", "-n1", "/bin/bash", "-c",
        "criu; touch ready; until test -e go; do /bin/sleep 0.1; done",
    )  # fmt: skip
    step = alice.step()
    until("the task to be there", lambda: (alice.place / "ready").exists())
    assert "bin/criu" in alice.read("heard"), "the canary does not sing where it should"
    (alice.place / "heard").unlink()
    assert laid
    done = alice.pycr("vacate", step, "--image-dir", ".")
    assert done.returncode == 0, done.stderr
    job.communicate(timeout=30)
    (alice.place / "go").touch()
    done = alice.run("env", f"HOME={alice.dir}", "pycr", "restart", "--image-dir", ".", step)
    assert done.returncode == 0, done.stderr
    assert alice.read("heard") == ""
