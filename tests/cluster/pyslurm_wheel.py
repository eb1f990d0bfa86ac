# SPDX-License-Identifier: GPL-2.0-or-later
"""PySlurm for the releases that have a Slurm it builds with: a cached layer that holds its wheel.

Owns: which PySlurm for which release, fetching its sources with this machine's own pip, and the
build in the release's root, as docs/install.md tells a site to do it. install.py puts the wheel
into /opt/pycr's venv. A release that is not named here has none, and pycr there does without.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

from .layers import build_layer, cache_dir
from .state import ClusterError, say

# release -> the PySlurm that is built there, and for which Slurm: its setup.py compares the headers
RELEASES = {"forky": ("25.11.2", "26.5")}
PLACE = "opt/wheels"

# What Slurm 26.05 has renamed or dropped since 25.11, and the version: PySlurm builds for the Slurm
# that it names. -O1 -g0: a minute instead of two.
SCRIPT = rf"""
cd /tmp
tar xf /src/pyslurm.tar.gz
cd pyslurm-*
sed -i "s/^__version__ = .*/__version__ = \"$FOR+from$VERSION\"/" pyslurm/version.py
SLURM_LIB_DIR=$(dirname $(find /usr/lib -name libslurmfull.so))
CFLAGS="-O1 -g0 -DSLURM_BACKWARD_COMPAT -Dslurm_free_ctl_conf=slurm_free_conf"
CFLAGS="$CFLAGS -DESLURM_ERROR_ON_DESC_TO_RECORD_COPY=0"
export SLURM_LIB_DIR CFLAGS PYSLURM_BUILD_JOBS=2
mkdir -p /{PLACE}
python3 -m pip wheel --no-build-isolation --no-deps --no-index -w /{PLACE} .
"""


def prepare(release: str, root: Path, identity: str) -> Path | None:
    """Return the layer with PySlurm's wheel for RELEASE on ROOT, None where there is none."""
    if release not in RELEASES:
        return None
    version, slurm = RELEASES[release]
    script = f"FOR={slurm} VERSION={version}\n{SCRIPT}"
    name = f"pyslurm-{identity}-{hashlib.sha256(script.encode()).hexdigest()[:6]}"
    layer = cache_dir() / name
    if layer.exists():
        return layer
    say(f"building PySlurm {version} for {release}, about a minute (once): {layer}")
    with tempfile.TemporaryDirectory() as directory:
        return build_layer(
            name,
            (root,),
            script,
            what=f"building PySlurm {version}",
            sources={"pyslurm.tar.gz": _download(version, Path(directory))},
            keep=PLACE,
        )


def _download(version: str, directory: Path) -> Path:
    """Fetch PySlurm's sources: outside, as pip's settings and proxies are this machine's."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"),
            *("--no-deps", "--no-binary=pyslurm", f"--dest={directory}", f"pyslurm=={version}"),
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    found = list(directory.glob("pyslurm-*.tar.gz"))
    if done.returncode or not found:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:] or ["no such file"]
        raise ClusterError(f"couldn't fetch PySlurm {version} with pip: {said[0]}")
    return found[0]
