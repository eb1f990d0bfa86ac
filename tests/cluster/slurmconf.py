# SPDX-License-Identifier: GPL-2.0-or-later
"""The configuration every node gets: slurm.conf, cgroup.conf, plugstack.conf, hosts, munge.key.

Owns: the text of these files and the choice of plugins, with its reasons for `status`.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path

from . import accounting, cgroups
from .install import PLUGIN
from .rootfs import Rootfs
from .state import State

SUBNET = "10.213.0"
CPUS_PER_NODE = 8
MEMORY_PER_NODE = 32768
USERS = {"alice": 1001, "bob": 1002}
COMMON_GROUP = ("lab", 1100)

SLURMDBD_CONF = "slurmdbd.conf"
PREEMPTION = """
# Jobs in the partition urgent preempt those in spare and spare-cancel, and no others.
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=DEFAULT Nodes=ALL MaxTime=INFINITE State=UP
PartitionName=spare PriorityTier=1 PreemptMode=REQUEUE GraceTime=30
PartitionName=spare-cancel PriorityTier=1 PreemptMode=CANCEL GraceTime=30
PartitionName=urgent PriorityTier=9 PreemptMode=OFF
"""


@dataclass(frozen=True)
class Plugins:
    """The Slurm plugins in force, and why these."""

    cgroup: str
    proctrack: str
    task: str
    jobacct: str
    why: str

    def as_dict(self) -> dict[str, str]:
        """Return the fields, for the record."""
        return asdict(self)


def choose_plugins(rootfs: Rootfs) -> Plugins:
    """Pick cgroup plugins where the machine and this Slurm let us, else the others."""
    able, why = cgroups.usable()
    if os.environ.get("PYCR_CGROUPS") == "no":
        able, why = False, "PYCR_CGROUPS=no"
    plugin = "usr/lib/*/slurm*/cgroup_v1.so"
    if able and not any(True for layer in rootfs.layers for _ in layer.glob(plugin)):
        able, why = False, "this Slurm has no cgroup/v1 plugin"
    if able:
        return Plugins(
            "cgroup/v1",
            "proctrack/cgroup",
            "task/cgroup,task/affinity",
            "jobacct_gather/cgroup",
            why,
        )
    return Plugins("disabled", "proctrack/linuxproc", "task/affinity", "jobacct_gather/linux", why)


def address(name: str) -> str:
    """Return node NAME's address."""
    return f"{SUBNET}.{int(name[1:]) + 10}"


def write(state: State, names: list[str], plugins: Plugins, accounts: bool) -> None:
    """Write the files into STATE's conf directory. accounts: with slurmdbd's."""
    conf = state.conf
    conf.mkdir(exist_ok=True)
    (conf / "slurm.conf").write_text(_slurm_conf(len(names), plugins, accounts))
    if accounts:
        (conf / SLURMDBD_CONF).write_text(accounting.SLURMDBD_CONF)
    (conf / "cgroup.conf").write_text(_cgroup_conf(plugins))
    (conf / "plugstack.conf").write_text(f"optional /{PLUGIN}\n")
    hosts = "".join(f"{address(name)} {name}\n" for name in names)
    (conf / "hosts").write_text(f"127.0.0.1 localhost\n{hosts}")
    key = conf / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(128))


def _cgroup_conf(plugins: Plugins) -> str:
    if plugins.cgroup == "disabled":
        return "CgroupPlugin=disabled\n"
    # A node claims CPUs the machine has not got, so no step can be confined to its own.
    return (
        f"CgroupPlugin={plugins.cgroup}\n"
        "CgroupMountpoint=/sys/fs/cgroup\n"
        "ConstrainCores=no\n"
        "ConstrainRAMSpace=yes\n"
        "ConstrainDevices=no\n"
    )


def _slurm_conf(nodes: int, plugins: Plugins, accounts: bool) -> str:
    rest = accounting.SLURM_CONF if accounts else PREEMPTION
    return f"""\
ClusterName=pycr
SlurmctldHost=n0
SlurmUser=slurm
# Also how long a requeued job must wait before it starts again: the default is 120 s.
AuthInfo=cred_expire=5
StateSaveLocation=/var/spool/slurmctld
SlurmdSpoolDir=/var/spool/slurmd
SlurmctldPidFile=/run/slurm/slurmctld.pid
SlurmdPidFile=/run/slurm/slurmd.pid
SlurmctldLogFile=/var/log/slurm/slurmctld.log
SlurmdLogFile=/var/log/slurm/slurmd.log
SlurmctldDebug=verbose
SlurmdDebug=debug

ProctrackType={plugins.proctrack}
TaskPlugin={plugins.task}
JobAcctGatherType={plugins.jobacct}
MpiDefault=none
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=2048

SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,bf_interval=1,sched_interval=1,sched_min_interval=0
JobRequeue=1
ReturnToService=2
InactiveLimit=0
KillWait=5
MinJobAge=300
UnkillableStepTimeout=60
SlurmctldTimeout=30
SlurmdTimeout=10

# Lets a node claim more CPUs and memory than the machine has.
SlurmdParameters=config_overrides
NodeName=n[0-{nodes - 1}] CPUs={CPUS_PER_NODE} Sockets=1 CoresPerSocket={CPUS_PER_NODE} \
ThreadsPerCore=1 RealMemory={MEMORY_PER_NODE} State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP PreemptMode=OFF
PartitionName=low Nodes=ALL MaxTime=INFINITE State=UP PreemptMode=OFF
{rest}"""


def add_users(root: Path) -> None:
    """Add the users to the account files of the node at ROOT."""
    group_name, group_id = COMMON_GROUP
    passwd = [f"{u}:x:{n}:{n}::/shared/home/{u}:/bin/bash" for u, n in USERS.items()]
    group = [f"{u}:x:{n}:" for u, n in USERS.items()]
    group.append(f"{group_name}:x:{group_id}:{','.join(USERS)}")
    shadow = [f"{u}:*:19000:0:99999:7:::" for u in USERS]
    ours = {*USERS, group_name}
    for name, lines in (("passwd", passwd), ("group", group), ("shadow", shadow)):
        path = root / "etc" / name
        old = path.read_text().splitlines() if path.exists() else []
        kept = [line for line in old if line.partition(":")[0] not in ours]
        path.write_text("\n".join(kept + lines) + "\n")


def owner(root: Path, user: str) -> tuple[int, int]:
    """Return USER's uid and gid according to the node at ROOT."""
    for line in (root / "etc/passwd").read_text().splitlines():
        fields = line.split(":")
        if fields[0] == user:
            return int(fields[2]), int(fields[3])
    raise LookupError(f"the root file system has no user {user}")
