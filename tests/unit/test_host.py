# SPDX-License-Identifier: GPL-2.0-or-later
"""What a node is and what it can run: the cases that no one machine shows."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest

from pycr import host

X86 = """processor\t: 0
model name\t: Some CPU @ 2.00GHz
flags\t\t: fpu vme sse2 avx2 avx512f avx512_bf16 amx_tile xsavec constant_tsc nopl hypervisor \
tsc_known_freq ibrs md_clear pti xsaves smep arch_capabilities
bugs\t\t: spectre_v1
"""
ARM64 = """processor\t: 0
BogoMIPS\t: 50.00
Features\t: fp asimd evtstrm aes atomics cpuid sve sve2 paca
CPU implementer\t: 0x41
"""


def test_features_are_those_that_programs_use() -> None:
    wanted = ["amx_tile", "avx2", "avx512_bf16", "avx512f", "sse2", "xsavec"]
    assert host.features(X86, "x86_64") == wanted
    wanted = ["aes", "asimd", "atomics", "fp", "paca", "sve", "sve2"]
    assert host.features(ARM64, "aarch64") == wanted
    assert host.features("Features: x", "s390x") == []
    assert host.field(X86, "model name") == "Some CPU @ 2.00GHz"
    assert host.field(ARM64, "model name") == ""


def test_facts_of_this_machine() -> None:
    facts = host.facts((4, 1, 1), "24.11.5")
    assert facts["machine"] == platform.machine()
    assert facts["kernel"] == os.uname().release
    assert (facts["criu"], facts["slurm"]) == ("4.1.1", "24.11.5")
    assert all(isinstance(value, str) for value in facts.values())
    if facts["machine"] in ("x86_64", "aarch64"):
        words = set(facts["features"].split())
        assert words <= set(Path("/proc/cpuinfo").read_text().split())
        assert words & {"sse2", "fp"}
    assert host.unfit(facts, facts) == ""


@pytest.mark.parametrize(
    ("image", "here", "reason"),
    [
        ({}, {}, ""),
        ({"machine": "x86_64"}, {}, ""),
        ({"machine": "x86_64", "features": "avx2 sse2"}, {"machine": "x86_64"}, ""),
        ({"features": "sse2"}, {"features": "avx2 sse2"}, ""),
        ({"features": "avx2 sse2", "cpu": "A"}, {"features": "sse2", "cpu": "B"}, "avx2 (A)"),
        ({"features": "a b c d e f g h"}, {"features": "z"}, "with a, b, c, d, e, f ... (not"),
        ({"machine": "aarch64"}, {"machine": "x86_64"}, "aarch64, and this machine is x86_64"),
        ({"machine": "a\x1b[31m\n" + "b" * 999}, {"machine": "x86_64"}, "architecture a?[31m?bb"),
        (
            {"features": 7, "machine": ["x"]},
            {"features": "a", "machine": "x"},
            "architecture ['x']",
        ),
    ],
)
def test_unfit(image: dict[str, str], here: dict[str, str], reason: str) -> None:
    said = host.unfit(image, here)
    assert (said == "") == (reason == "")
    assert reason in said
    assert len(said) < 300
    assert said.isprintable()


@pytest.mark.parametrize(
    ("version", "kernel", "words"),
    [
        ((3, 17, 1), "5.10.0-38-amd64", "3.18 or later"),
        ((3, 18), "6.12.9", ""),
        ((3, 19), "6.13.0-rc1", "4.1 or later"),
        ((4, 0), "6.18.44", "4.1 or later"),
        ((4, 1), "6.18.44", ""),
        ((4, 1, 1), "7.0", ""),
        ((3, 18), "no version", ""),
    ],
)
def test_criu_too_old(version: tuple[int, ...], kernel: str, words: str) -> None:
    said = host.old_criu(version, kernel)
    assert said.startswith(words)
    assert bool(said) == bool(words)


def test_internet_sockets() -> None:
    assert host.no_internet_sockets((4, 1, 1), "6.16.0")
    assert not host.no_internet_sockets((4, 2), "6.16.0")
    assert not host.no_internet_sockets((4, 1, 1), "6.15.9")


@pytest.mark.parametrize(
    ("scope", "capable", "words"),
    [
        (0, False, ""),
        (1, False, "ptrace=yes"),
        (1, True, ""),
        (2, False, "ptrace=yes"),
        (2, True, ""),
        (3, True, "2 or less"),
        (3, False, "2 or less"),
    ],
)
def test_yama(scope: int, capable: bool, words: str) -> None:
    said = host.yama(scope, capable)
    assert words in said
    assert bool(said) == bool(words)


def test_yama_and_pods() -> None:
    """They never have the capability, so that the setting is no remedy."""
    assert "ptrace_scope to 0: ptrace=yes is for" in host.yama(1, False, pod=True)
    assert host.yama(0, False, pod=True) == ""


def test_scope_of_this_kernel() -> None:
    path = Path(host.YAMA)
    assert host.ptrace_scope() == (int(path.read_text()) if path.exists() else 0)
