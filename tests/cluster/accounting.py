# SPDX-License-Identifier: GPL-2.0-or-later
"""Slurm's accounting for a cluster that asks for it: slurmdbd and its MariaDB, both on n0.

Owns: the layer with their packages and an empty database, what slurm.conf and slurmdbd.conf say of
it, and the account, users and QOS that it begins with. init.py starts the daemons. Preemption goes
by QOS there, and these are named as the partitions that it goes by elsewhere.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from .layers import build_layer, cache_dir
from .rootfs import Rootfs, install_script
from .state import say, wait_until

if TYPE_CHECKING:
    from .api import Node

PACKAGES = "mariadb-client-core mariadb-server-core slurm-wlm-mysql-plugin slurmdbd"
DATA = "/var/lib/mysql"
GRACE = 30  # seconds
USERS = ("alice", "bob")
TIMEOUT = 30  # seconds for slurmctld to learn what sacctmgr has added

# The database is slurm's: its user comes in by the socket, and nobody by any other way.
SCRIPT = f"""{install_script(PACKAGES)}
rm -rf {DATA}
install -d -o slurm -g slurm -m 0700 {DATA}
mariadb-install-db --no-defaults --user=slurm --datadir={DATA} --skip-test-db \
    --innodb-log-file-size=16M \
    --auth-root-authentication-method=socket --auth-root-socket-user=slurm
"""

SLURMDBD_CONF = """\
DbdHost=n0
SlurmUser=slurm
PidFile=/run/slurm/slurmdbd.pid
LogFile=/var/log/slurm/slurmdbd.log
DebugLevel=verbose
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=slurm
StorageLoc=slurm_acct_db
"""

SLURM_CONF = """
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=n0
AccountingStorageEnforce=associations,qos

# Jobs with the QOS urgent preempt those with spare and spare-cancel, and no others.
PreemptType=preempt/qos
PreemptMode=REQUEUE
"""

QOS = f"""
set -eu
sacctmgr -iQ add qos spare set PreemptMode=requeue GraceTime={GRACE}
sacctmgr -iQ add qos spare-cancel set PreemptMode=cancel GraceTime={GRACE}
sacctmgr -iQ add qos urgent set Preempt=spare,spare-cancel
sacctmgr -iQ add account lab
sacctmgr -iQ add user {",".join(USERS)} account=lab set \
    qos=normal,spare,spare-cancel,urgent defaultqos=normal
"""


def prepare(root: Rootfs) -> Path:
    """Return the layer with slurmdbd and MariaDB for ROOT, building it if need be."""
    name = f"accounting-{root.identity}-{hashlib.sha256(SCRIPT.encode()).hexdigest()[:6]}"
    if not (cache_dir() / name).exists():
        say(f"adding slurmdbd and MariaDB to {root.label}, half a minute (once)")
    return build_layer(name, root.layers, SCRIPT, what="adding slurmdbd and MariaDB", network=True)


def populate(node: Node) -> None:
    """Add the account, the users and the QOS, and wait until slurmctld, on NODE, knows them."""
    done = node.run(["sacctmgr", "-n", "-P", "show", "user", "format=user"], check=True)
    if USERS[0] not in done.stdout.split():
        node.run(["sh", "-c", QOS], check=True)
    command = ["scontrol", "show", "assoc_mgr", f"users={USERS[-1]}", "flags=assoc"]
    wait_until(
        "slurmctld to know the users",
        lambda: f"UserName={USERS[-1]}(" in node.run(command).stdout,
        TIMEOUT,
    )
