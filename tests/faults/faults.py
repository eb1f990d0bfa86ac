# SPDX-License-Identifier: GPL-2.0-or-later
"""The faults: for each what it does, to which victims, and what must become of them.

A fault's function says what it has hit, or "" where its moment came too late for anything to be
there: such a round must end like one without a fault.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import NamedTuple

from pycr.coordinator.helpers import LAST_WORD
from pycr.coordinator.step import END_WAIT
from tests.faults import places
from tests.faults.processes import step_of, without_children
from tests.faults.scene import Scene
from tests.login import until

ON, ENDS, EITHER = "runs on", "ends", "either"
STEPS = ("step", "restored")
ALL = ("step", "restored", "batch")


class Fault(NamedTuple):
    """One of them.

    then: what must become of a victim whose checkpoint was not made. target: the kind of process
    (processes.py) that has to be there before the moment is counted; span: how long after it, in
    seconds, the moment may be; without a target it may be at any time of the checkpoint. prepare:
    done before the victim starts. short: whether `make test` has it.
    """

    inject: Callable[[Scene], str]
    then: str = ON
    victims: tuple[str, ...] = ALL
    verbs: tuple[str, ...] = ("create", "vacate")
    target: str = ""
    span: float = 0.0
    prepare: Callable[[Scene], None] | None = None
    one_node: bool = False
    short: bool = True
    max_wait: int = 6
    loses_step: bool = False  # the victim's step may end; a batch script runs on without it
    stop: float = 0.0  # the longest stop in seconds, where it must be less than --max-wait
    slow: float = 0.0  # seconds beyond --max-wait that pycr may wait for what is lost
    silent: bool = False  # helpers may learn of it only by silence: max_wait and 30 s


def _to(kind: str, number: signal.Signals) -> Callable[[Scene], str]:
    return lambda scene: scene.strike(without_children(scene.processes.find(kind)), number)


def criu_killed(scene: Scene) -> str:
    """Whichever criu is next seen, a little later, so that all its phases are met."""
    while scene.under_way():
        found = scene.processes.await_kind("criu", scene.under_way)
        scene.wait(scene.dice.choice((0.0, 0.005, 0.01, 0.02, 0.04)))
        said = scene.strike(found, signal.SIGKILL)
        if said:
            return said
    return ""


def _restart_daemon(scene: Scene, node: str, name: str) -> None:
    """Start slurmd or slurmctld again, and wait until the node is of use."""
    if not [p for p in scene.processes.find(name) if p.node == node]:
        scene.root(node, "sh", "-c", f"exec setsid /usr/sbin/{name} </dev/null >/dev/null 2>&1")
    until("the nodes to be back", lambda: _nodes_up(scene))


def _nodes_up(scene: Scene) -> bool:
    words = scene.root("n0", "sinfo", "-h", "-N", "-p", "debug", "-o", "%T", check=False).split()
    return bool(words) and not any(
        bad in word for word in words for bad in ("down", "*", "unk", "drain")
    )


def slurmd_killed(scene: Scene) -> str:
    node = scene.dice.choice(scene.victim.shape.nodes)
    found = [p for p in scene.processes.find("slurmd") if p.node == node]
    scene.later(lambda: _restart_daemon(scene, node, "slurmd"))
    return scene.strike(found, signal.SIGKILL)


def slurmctld_stopped(scene: Scene) -> str:
    """In order: killed outright it would forget the jobs of the last seconds."""
    said = scene.strike(scene.processes.find("slurmctld"), signal.SIGTERM)
    until("slurmctld to end", lambda: not scene.processes.find("slurmctld"))
    scene.wait(scene.dice.choice((0.5, 2.0, 5.0)))
    _restart_daemon(scene, "n0", "slurmctld")
    return f"{said}, started again"


def slurmctld_hung(scene: Scene) -> str:
    found = scene.processes.find("slurmctld")
    said = scene.strike(found, signal.SIGSTOP)
    scene.wait(scene.dice.choice((0.5, 2.0, 5.0)))
    scene.strike(found, signal.SIGCONT)
    return f"{said}, and SIGCONT"


def helper_killed_blind(scene: Scene) -> str:
    """A helper is killed while slurmctld answers nobody: the other nodes' tasks must not wait."""
    control = scene.processes.find("slurmctld")
    scene.strike(control, signal.SIGSTOP)
    said = scene.strike(scene.processes.find("helper"), signal.SIGKILL)
    scene.wait(8.0)
    scene.strike(control, signal.SIGCONT)
    return said and f"{said}, slurmctld hung"


def slurmstepd_killed(scene: Scene) -> str:
    """Slurm does not tell the step's srun: it is there until the user cancels the job."""
    job = scene.victim.name.partition(".")[0]
    scene.later(lambda: scene.user("scancel", job))
    return scene.strike(scene.processes.step_daemons(scene.victim.step), signal.SIGKILL)


def helpers_slurmstepd_killed(scene: Scene) -> str:
    own = {scene.victim.step}
    helpers = {p.node for p in scene.processes.find("helper")}
    job = scene.victim.name.partition(".")[0]
    found = [
        p
        for p in scene.processes.find("slurmstepd")
        if p.node in helpers
        and step_of(p).startswith(f"{job}.")
        and step_of(p) not in {*own, f"{job}.batch", f"{job}.extern"}
    ]
    return scene.strike(found, signal.SIGKILL)


def all_lost(scene: Scene) -> str:
    """The coordinator and its srun at once, as when their node is lost."""
    both = scene.processes.find("coordinator") + scene.processes.find("helper srun")
    said = [scene.strike([each], signal.SIGKILL) for each in both]
    return ", ".join(each for each in said if each)


def step_cancelled(scene: Scene) -> str:
    scene.user("scancel", scene.victim.step)
    return f"scancel {scene.victim.step}"


def job_cancelled(scene: Scene) -> str:
    job = scene.victim.name.partition(".")[0]
    scene.user("scancel", job)
    return f"scancel {job}"


def time_limit(scene: Scene) -> str:
    """Slurm's clock for this has turns of 30 s: the checkpoint is made again until the job ends."""
    job = scene.victim.name.partition(".")[0]
    scene.root("n0", "scontrol", "update", f"jobid={job}", "endtime=now")
    return f"job {job}: its time is over"


def killed_at_commit(scene: Scene) -> str:
    """The coordinator, as soon as the generation can be seen."""
    folder = scene.host("n0", scene.images)
    before = set(folder.glob("*/[0-9]*"))
    coordinator = scene.processes.await_kind("coordinator", scene.under_way)
    while scene.under_way():
        if set(folder.glob("*/[0-9]*")) - before:
            return scene.strike(coordinator, signal.SIGKILL)
    return ""


def second_checkpoint(scene: Scene) -> str:
    victim = scene.victim
    scene.second = victim.login.popen(
        "pycr", "create", victim.name, "--image-dir", scene.images, "--max-wait", "6"
    )
    return "a second pycr create"


def node_gone(scene: Scene) -> str:
    node = scene.dice.choice(scene.victim.shape.nodes)
    scene.cluster.kill_node(node)
    scene.later(lambda: scene.cluster.start_node(node))
    return f"{node} is gone"


def clock_stepped(scene: Scene) -> str:
    """An hour on, and back: for the whole machine."""
    scene.root("n0", "date", "-s", "+1 hour")
    scene.later(lambda: scene.root("n0", "date", "-s", "-1 hour"))
    return "the clock an hour on, and back"


KILL, TERM, INT = signal.SIGKILL, signal.SIGTERM, signal.SIGINT
NOT_N0 = ("step", "restored")

FAULTS: dict[str, Fault] = {
    "none": Fault(lambda scene: "nothing", short=False),
    "helper_kill": Fault(_to("helper", KILL), target="helper", span=0.5),
    "helper_term": Fault(_to("helper", TERM), target="helper", span=0.5),
    "criu_kill": Fault(criu_killed, target="helper", span=0.15),
    "coordinator_kill": Fault(_to("coordinator", KILL)),
    "coordinator_kill_at_commit": Fault(killed_at_commit, target="coordinator"),
    "coordinator_term": Fault(_to("coordinator", TERM)),
    "coordinator_int": Fault(_to("coordinator", INT)),
    "helper_srun_kill": Fault(_to("helper srun", KILL), target="helper srun", span=0.5),
    "srun_cr_kill": Fault(
        _to("srun_cr", KILL), then=EITHER, victims=("step", "batch"), loses_step=True
    ),
    "srun_kill": Fault(_to("srun", KILL), then=EITHER, loses_step=True),
    "slurmd_kill": Fault(slurmd_killed, short=False, slow=END_WAIT),
    "slurmctld_restart": Fault(slurmctld_stopped, max_wait=10),
    "slurmctld_hung": Fault(slurmctld_hung, max_wait=10),
    "helper_kill_blind": Fault(
        helper_killed_blind, target="helper", span=0.5, stop=5.0, slow=10.0, max_wait=10
    ),
    "slurmstepd_kill": Fault(slurmstepd_killed, then=ENDS, slow=END_WAIT),
    "helper_slurmstepd_kill": Fault(
        helpers_slurmstepd_killed, target="helper", span=0.4, slow=LAST_WORD, short=False
    ),
    "pod_kill": Fault(_to("pod", KILL), then=ENDS, victims=("restored",)),
    "pod_parent_kill": Fault(_to("pod's parent", KILL), then=ENDS, victims=("restored",)),
    "step_cancelled": Fault(step_cancelled, then=ENDS, loses_step=True),
    "job_cancelled": Fault(job_cancelled, then=ENDS),
    "second_checkpoint": Fault(second_checkpoint),
    "dir_full": Fault(places.fill, prepare=places.small, one_node=True, victims=STEPS),
    "dir_read_only": Fault(places.read_only, prepare=places.small, one_node=True, victims=STEPS),
    "dir_removed": Fault(places.remove, prepare=places.small, one_node=True, victims=STEPS),
    "dir_hung": Fault(
        places.freeze, prepare=places.disk, one_node=True, victims=STEPS, short=False
    ),
    "all_lost": Fault(all_lost, target="criu", span=0.25, silent=True, short=False, max_wait=3),
    "node_gone": Fault(node_gone, then=ENDS, short=False, slow=END_WAIT + LAST_WORD),
    "time_limit": Fault(time_limit, then=ENDS, short=False),
    "clock_stepped": Fault(clock_stepped, short=False),
}
# Steps the clock of the machine, and so of everything else on it: only when asked for by name.
BY_NAME_ONLY = ("clock_stepped",)
