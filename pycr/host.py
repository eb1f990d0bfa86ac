# SPDX-License-Identifier: GPL-2.0-or-later
"""What a node is: kernel, machine, CPU, CRIU; whether it can make a checkpoint, and whether an
image of another node can run on it.

All judging is by pure functions of what was read, since no one machine shows every case.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

YAMA = "/proc/sys/kernel/yama/ptrace_scope"
CAP_SYS_PTRACE, CAP_CHECKPOINT_RESTORE = 19, 40
SHOWN = 6  # features named in a message

# What compilers generate, and libraries choose by, on x86 (cpuid; GCC's -march). A program that has
# begun to use one goes on to: the dynamic linker its xsavec, a BLAS its avx512f. What is left out
# is the kernel's own, or a name for a bug, a clock or a hypervisor: such flags differ between like
# CPUs, and between kernels on one.
X86_WORDS = """
    cmov cx8 cx16 fxsr mmx mmxext sse sse2 pni ssse3 sse4a sse4_1 sse4_2 3dnow 3dnowext lahf_lm
    popcnt abm movbe bmi1 bmi2 tbm lwp adx rdrand rdseed aes pclmulqdq sha_ni sha512 sm3 sm4 gfni
    vaes vpclmulqdq avx avx2 f16c fma fma4 xop avx_vnni avx_vnni_int8 avx_vnni_int16 avx_ifma
    avx_ne_convert xsave xsaveopt xsavec xgetbv1 fsgsbase rdtscp rdpid rtm clflushopt clwb
    cldemote movdiri movdir64b serialize waitpkg ospke amx_tile amx_int8 amx_bf16 amx_fp16
    cmpccxadd
"""
X86 = frozenset(X86_WORDS.split())
X86_FAMILIES = ("avx512", "avx10", "apx")
# On arm64 the line is of hwcaps, that programs read as well; these two are the kernel's services.
ARM64_SERVICES = frozenset(("evtstrm", "cpuid"))


def facts(criu: Sequence[int], slurm: str) -> dict[str, str]:
    """Return what a manifest says of this node. criu: CRIU's version."""
    info = cpuinfo()
    machine = os.uname().machine
    return {
        "kernel": os.uname().release,
        "machine": machine,
        "cpu": field(info, "model name"),
        "features": " ".join(features(info, machine)),
        "criu": dotted(criu),
        "slurm": slurm,
    }


def cpuinfo() -> str:
    """Return what /proc/cpuinfo says of the first processor, "" where it says nothing."""
    found = ""
    with suppress(OSError), open("/proc/cpuinfo", errors="replace") as file:
        for line in file:
            if not line.strip():
                break
            found += line
    return found


def field(info: str, name: str) -> str:
    """Return a field of cpuinfo()'s text, "" where there is none (model name: some machines)."""
    match = re.search(rf"^{name}\s*:(.*)$", info, re.M)
    return match.group(1).strip() if match else ""


def features(info: str, machine: str) -> list[str]:
    """Return the CPU's extensions that programs use; none of a machine that is not known here."""
    if machine in ("x86_64", "i686"):
        words = set(field(info, "flags").split())
        return sorted(word for word in words if word in X86 or word.startswith(X86_FAMILIES))
    if machine == "aarch64":
        return sorted(set(field(info, "Features").split()) - ARM64_SERVICES)
    return []


def unfit(image: dict[str, str], here: dict[str, str]) -> str:
    """Return why an image made on one node cannot run on another, "" where it can.

    Both are as facts() has them. What either does not say is no reason; the image's is its owner's
    to write, and is only ever quoted in part.
    """
    of, on = str(image.get("machine", "")), str(here.get("machine", ""))
    if of and on and of != on:
        return f"its image is of architecture {_quoted(of)}, and this machine is {on}"
    if not here.get("features"):
        return ""
    words = re.findall(r"[a-z0-9_.]{1,30}", str(image.get("features", "")))
    lacking = sorted(set(words) - set(here["features"].split()))
    if not lacking:
        return ""
    named = ", ".join(lacking[:SHOWN]) + (" ..." if len(lacking) > SHOWN else "")
    return (
        f"its image is of a CPU with {named} ({_quoted(image.get('cpu'))}), which this one"
        f" ({_quoted(here.get('cpu'))}) has not: restart it on nodes that have"
    )


def _quoted(name: object) -> str:
    """Return a name from a manifest, fit for a message."""
    return re.sub(r"[^ -~]", "?", str(name or "not named"))[:60]


def dotted(version: Iterable[int]) -> str:
    """Return a version as people write it."""
    return ".".join(str(part) for part in version)


def release(kernel: str) -> tuple[int, int]:
    """Return a kernel's major and minor version, (0, 0) where it has none."""
    match = re.match(r"(\d+)\.(\d+)", kernel)
    return (int(match.group(1)), int(match.group(2))) if match else (0, 0)


def old_criu(version: Sequence[int], kernel: str) -> str:
    """Return which CRIU a kernel needs, and why, where this one will not do."""
    if tuple(version) < (3, 18):
        return "3.18 or later: the first that runs unprivileged"
    if tuple(version) < (4, 1) and release(kernel) >= (6, 13):
        return "4.1 or later: older ones fail on kernels from 6.13"
    return ""


def no_internet_sockets(version: Sequence[int], kernel: str) -> str:
    """Return which CRIU a kernel needs for TCP and UDP sockets, where this one will not do."""
    if tuple(version) < (4, 2) and release(kernel) >= (6, 16):
        return "TCP and UDP sockets need 4.2 on kernels from 6.16"
    return ""


def ptrace_scope() -> int:
    """Return yama's ptrace_scope, 0 where the kernel has no yama."""
    with suppress(OSError, ValueError):
        return int(Path(YAMA).read_text())
    return 0


def yama(scope: int, capable: bool, pod: bool = False) -> str:
    """Return what to do about yama where it keeps a helper, or a pod, from tracing tasks.

    capable: whether it has CAP_SYS_PTRACE: a helper by ptrace=yes, a pod never. See ptrace(2),
    ptrace_scope.
    """
    if scope >= 3:
        return "kernel.yama.ptrace_scope 3 forbids every dump: 2 or less, which takes a reboot"
    if scope >= 1 and pod and not capable:
        return "kernel.yama.ptrace_scope to 0: ptrace=yes is for tasks that were never restored"
    if scope >= 1 and not capable:
        return "set ptrace=yes in plugstack.conf, or kernel.yama.ptrace_scope to 0"
    return ""
