# SPDX-License-Identifier: GPL-2.0-or-later
"""Files that a batch job's script and steps have in common: none cuts off what another wrote."""

from __future__ import annotations

import pytest

from tests.login import Login, until
from tests.slurm.test_batch_hard import goes_on
from tests.slurm.test_failures_batch import Batch

LINES = 150
# Appends its lines to a file that others have too, and waits halfway to be checkpointed.
APPENDS = f"""
import os, sys, time
file = os.open("common", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
for number in range({LINES}):
    os.write(file, b"%s %d\\n" % (sys.argv[1].encode(), number))
    if number == 20:
        open("ready." + sys.argv[1], "w").close()
        while not os.path.exists("go"):
            time.sleep(0.01)
    time.sleep(0.005)
"""
SCRIPT = f"""
srun --cr --exact --mem=0 -n1 -c1 python3 appends.py a &
srun --cr --exact --mem=0 -n1 -c1 python3 appends.py b &
while [ ! -e go ]; do sleep 0.01; done
for number in $(seq 0 {LINES - 1}); do echo c $number >> common; done
wait
"""


@pytest.mark.parametrize("verb", ["vacate", "create"])
def test_one_file_of_two_steps_and_the_script(alice: Login, verb: str) -> None:
    (alice.place / "appends.py").write_text(APPENDS)
    batch = Batch(alice, SCRIPT, "-c2")
    until("both to write", lambda: all((alice.place / f"ready.{each}").exists() for each in "ab"))
    done = batch.pycr(verb)
    assert done.returncode == 0, done.stderr
    (alice.place / "go").touch()
    if verb == "create":
        batch.ended()
    # One core: the second step starts when the first has ended.
    goes_on(batch, "--cpus-per-task=1")
    assert batch.ended() == "COMPLETED 0:0", alice.read("log")
    for each in "abc":
        found = [line for line in alice.read("common").splitlines() if line.startswith(each)]
        assert found == [f"{each} {number}" for number in range(LINES)]
