# SPDX-License-Identifier: GPL-2.0-or-later
"""The root file system the nodes share: built once and cached, or given with --rootfs.

Owns: the package list, the cache of built roots, and the layer of packages a given root lacks.
The result is a list of read-only overlay layers; what is put on top of them is install.py's, and
PySlurm's wheel pyslurm_wheel.py's.
"""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from . import pyslurm_wheel
from .layers import build_layer, building, cache_dir, run_build
from .state import ClusterError, say

RELEASES = ("trixie", "forky")

RUNTIME = (
    "slurm-wlm munge criu python3 python3-venv python3-numpy iproute2 procps passwd "
    "util-linux strace"
)
BUILD = "gcc libc6-dev libslurm-dev python3-dev python3-pip python3-setuptools python3-wheel"
PACKAGES = sorted((RUNTIME + " " + BUILD + " cython3 make").split())

# A release that is still being made may carry a Release file past its date.
APT_OPTION = 'Acquire::Check-Valid-Until "false"'


@dataclass(frozen=True)
class Rootfs:
    """The layers of a node's root, lowest last, and a name for just this content."""

    layers: tuple[Path, ...]
    identity: str
    label: str


def prepare(release: str, given: str | None) -> Rootfs:
    """Return the root for RELEASE, or the one at GIVEN, building what is missing."""
    return _given(Path(given)) if given else _built(release)


def _built(release: str) -> Rootfs:
    key = hashlib.sha256(" ".join(PACKAGES).encode()).hexdigest()[:10]
    name = f"rootfs-{release}-{key}"
    target = cache_dir() / name
    if not target.exists():
        _mmdebstrap(release, target)
    wheel = pyslurm_wheel.prepare(release, target, name)
    if wheel is None:
        return Rootfs((target,), name, release)
    return Rootfs((wheel, target), wheel.name, release)


def _mmdebstrap(release: str, target: Path) -> None:
    if shutil.which("mmdebstrap") is None:
        raise ClusterError("mmdebstrap is not installed: apt install mmdebstrap, or give --rootfs")
    with building(target) as directory:
        if directory is None:
            return
        say(f"building the {release} root file system, about a minute (once): {target}")
        run_build(
            [
                "mmdebstrap",
                "--variant=minbase",
                f"--aptopt={APT_OPTION}",
                f"--include={','.join(PACKAGES)}",
                release,
                str(directory),
            ],
            what=f"building the {release} root file system",
        )
        # mmdebstrap makes it for root alone, which would lock the nodes' users out of their root.
        directory.chmod(0o755)
        directory.rename(target)


def _given(root: Path) -> Rootfs:
    root = root.resolve()
    status = root / "var/lib/dpkg/status"
    if not status.is_file():
        raise ClusterError(f"--rootfs {root}: not a Debian root (no var/lib/dpkg/status)")
    inode, mtime = root.stat().st_ino, status.stat().st_mtime_ns
    key = hashlib.sha256(f"{root} {inode} {mtime} {PACKAGES}".encode()).hexdigest()[:10]
    missing = sorted(set(PACKAGES) - _installed(status))
    if not missing:
        return Rootfs((root,), f"given-{key}", str(root))
    name = f"packages-{key}"
    if not (cache_dir() / name).exists():
        say(f"adding to {root} what it lacks (once): {' '.join(missing)}")
    script = install_script(" ".join(missing))
    layer = build_layer(name, (root,), script, what=f"adding packages to {root}", network=True)
    return Rootfs((layer, root), name, str(root))


def install_script(packages: str) -> str:
    """Return the shell commands that add PACKAGES to a root, from where it came from itself."""
    return (
        "export DEBIAN_FRONTEND=noninteractive; "
        "printf '#!/bin/sh\\nexit 101\\n' >/usr/sbin/policy-rc.d; "
        "chmod 755 /usr/sbin/policy-rc.d; "
        f"apt-get -o '{APT_OPTION.replace(' ', '=', 1).replace(chr(34), '')}' update; "
        f"apt-get install -y --no-install-recommends {packages}; "
        "apt-get clean; rm -rf /var/lib/apt/lists/* /usr/sbin/policy-rc.d"
    )


def _installed(status: Path) -> set[str]:
    """Return the names of the packages dpkg's STATUS file has as installed."""
    found = set()
    for stanza in status.read_text(errors="replace").split("\n\n"):
        fields = dict(
            line.split(": ", 1)
            for line in stanza.splitlines()
            if ": " in line and not line.startswith(" ")
        )
        if fields.get("Status", "").endswith(" ok installed"):
            found.add(fields["Package"])
            # cython3 and its like are virtual in some releases.
            for provided in fields.get("Provides", "").split(","):
                found.add(provided.split("(")[0].strip())
    return found
