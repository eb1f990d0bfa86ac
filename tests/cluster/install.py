# SPDX-License-Identifier: GPL-2.0-or-later
"""pycr's own layer: /opt/pycr as a user would install it, built from this checkout.

Owns: which sources count, the hash that names the layer, building it, and forgetting old ones.
PYCR_SOURCE names another source tree than the checkout's.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from .layers import SUFFIX, build_layer, cache_dir, sweep
from .pyslurm_wheel import PLACE as WHEELS
from .rootfs import Rootfs
from .state import CHECKOUT, ClusterError, base_dir, say

PREFIX = "opt/pycr"
PLUGIN = PREFIX + "/lib/slurm/spank_cr.so"

TREES = ("spank_cr", "pycr", "docs/man")

# The order of a user's own install: a wheel from the sources, then the wheel into the prefix, and
# PySlurm's beside it where the release has one.
SCRIPT = f"""
rm -rf /{PREFIX}
python3 -m venv --without-pip /{PREFIX}
cd /src
python3 -m pip wheel --no-build-isolation --no-deps --no-index -w /tmp/wheel /src
python3 -m pip --python /{PREFIX}/bin/python3 install --no-deps --no-index \
    /tmp/wheel/*.whl $(ls /{WHEELS}/*.whl 2>/dev/null)
test -f /{PLUGIN} || {{ echo "the wheel did not install /{PLUGIN}"; exit 1; }}
"""

KEPT_LAYERS = 3


def source_dir() -> Path:
    """Return the source tree to install: the checkout, or PYCR_SOURCE."""
    return Path(os.environ.get("PYCR_SOURCE") or CHECKOUT).resolve()


def _sources(tree: Path) -> Iterator[Path]:
    # Whatever lies at the top may be named in setup.py; of the documents only the README is.
    for path in sorted(tree.iterdir()):
        visible = not path.name.startswith(".")
        if path.is_file() and visible and (path.suffix != ".md" or path.name == "README.md"):
            yield path
    for name in TREES:
        for directory, subdirs, files in os.walk(tree / name):
            # Not what a build in the checkout leaves behind: it would change the hash.
            subdirs[:] = sorted(d for d in subdirs if d not in ("__pycache__", "build"))
            for file in sorted(files):
                path = Path(directory, file)
                generated = path.suffix == ".c" and path.with_suffix(".pyx").exists()
                if not generated and path.suffix not in (".pyc", ".o", ".so"):
                    yield path


def layer_name(rootfs: Rootfs) -> str:
    """Return the name of the layer for the sources as they are now, on ROOTFS."""
    tree = source_dir()
    if not (tree / "setup.py").is_file() and not (tree / "pyproject.toml").is_file():
        raise ClusterError(f"nothing to install: {tree} has no setup.py or pyproject.toml")
    digest = hashlib.sha256(SCRIPT.encode())
    for path in _sources(tree):
        digest.update(f"{path.relative_to(tree)}\0{path.stat().st_mode & 0o111}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return f"pycr-{rootfs.identity}-{digest.hexdigest()[:12]}"


def prepare(rootfs: Rootfs, name: str) -> Path:
    """Return the layer NAME (see layer_name) for ROOTFS, building it if need be."""
    layer = cache_dir() / name
    if not layer.exists():
        tree = source_dir()
        say(f"installing pycr from {tree} into {layer}")
        build_layer(
            name,
            rootfs.layers,
            SCRIPT,
            what="installing pycr",
            sources={str(path.relative_to(tree)): path for path in _sources(tree)},
            keep=PREFIX,
        )
        if layer_name(rootfs) != name:
            # Its name would promise content that it may not have.
            layer.rename(layer.with_name(layer.name + SUFFIX))
            sweep()
            raise ClusterError("the sources changed while they were installed: run up again")
    os.utime(layer)
    return layer


def forget_old(rootfs: Rootfs) -> None:
    """Delete all but the newest layers for ROOTFS and those a cluster is using."""
    layers = []
    for path in cache_dir().glob(f"pycr-{rootfs.identity}-*"):
        with contextlib.suppress(FileNotFoundError):
            if path.suffix not in (SUFFIX, ".lock"):
                layers.append((path.stat().st_mtime, path))
    records = [path.read_text() for path in base_dir().glob("*/cluster.json")]
    for _, layer in sorted(layers, reverse=True)[KEPT_LAYERS:]:
        if not any(layer.name in record for record in records):
            # Out of sight by one rename: a half-deleted layer must not be found by its name.
            with contextlib.suppress(FileNotFoundError):
                layer.rename(layer.with_name(layer.name + SUFFIX))
    sweep()
