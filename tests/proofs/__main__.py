# SPDX-License-Identifier: GPL-2.0-or-later
"""`python -m tests.proofs [NAME...]`: the named proofs, or all; a line each on stdout.

A proof's module has a run(), and CLUSTER where its cluster is to be another: words for Cluster.up.
Exit status: how many have failed.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import shutil
import sys
import time
import traceback
from pathlib import Path
from types import ModuleType

from tests import proofs
from tests.cluster import Cluster
from tests.login import Login

NODES = 4
ROOT = Path(__file__).parents[2]


def find() -> dict[str, ModuleType]:
    """Return the proofs that there are: the modules beside this one that have a run()."""
    found: dict[str, ModuleType] = {}
    for each in pkgutil.iter_modules(proofs.__path__):
        if each.name == "__main__":
            continue
        module = importlib.import_module(f"{proofs.__name__}.{each.name}")
        if hasattr(module, "run"):
            found[each.name] = module
    return found


def fresh(name: str, proof: ModuleType) -> tuple[Login, Path]:
    """Bring up its cluster; return a user with an empty directory, and one for what is kept."""
    cluster = Cluster.up(nodes=NODES, **getattr(proof, "CLUSTER", {}))
    place = cluster.shared / "proofs" / f"{name}-{time.monotonic_ns()}"
    place.mkdir(mode=0o700, parents=True)
    place.parent.chmod(0o755)
    user_id = int(cluster.node("n0").run(["id", "-u", "alice"]).stdout)
    os.chown(place, user_id, user_id)
    out = ROOT / "build" / "proofs" / name
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    return Login(cluster, "alice", "n0", place), out


def main(names: list[str]) -> int:
    """Run the named proofs, or all; return how many failed."""
    there = find()
    unknown = set(names) - set(there)
    if unknown:
        raise SystemExit(f"proofs: no proof {min(unknown)}: there are {', '.join(there)}")
    failed = 0
    for name in names or there:
        alice, out = fresh(name, there[name])
        began = time.monotonic()
        try:
            said = there[name].run(alice, out)
        except Exception:
            traceback.print_exc()
            said, failed = "FAILED", failed + 1
        finally:
            alice.cancel_all()
        line = f"{name}: {said} ({time.monotonic() - began:.0f} s)"
        (out / "summary").write_text(f"{line}\n")
        print(line, flush=True)
        if said != "FAILED":
            shutil.rmtree(alice.place, ignore_errors=True)
    if not os.environ.get("PYCR_KEEP_CLUSTER"):
        Cluster().down()
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
