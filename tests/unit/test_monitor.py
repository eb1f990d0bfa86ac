# SPDX-License-Identifier: GPL-2.0-or-later
"""The process beside srun in a job: a real one, around a stub of srun.

The stub is a shell script: what srun does is not under test, but what becomes of its output and its
end. srun_cr's part is played by OWNER, which starts the monitor as srun_cr does and repeats what it
hears of it.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from select import PIPE_BUF
from typing import Any

import pytest

from pycr import ask
from pycr.ask import Asked, Process
from pycr.engine import proc
from pycr.images import late
from pycr.srun_cr import monitor
from tests.login import until
from tests.unit.program import DEADLINE, ROOT, Program

COMM, ROLE = "pycr-monitor", "monitor"
# Says on descriptor REPORT what the monitor posts; gives it the letters that it reads itself.
OWNER = """
import json, os, select, signal, sys
from pycr.srun_cr.job import JobWrapper
report = int(sys.argv[1])
wrapper = JobWrapper("/bin/sh", ["-c", *sys.argv[2:]])
signal.signal(signal.SIGCHLD, signal.SIG_DFL)
wrapper.start()
os.set_inheritable(report, False)
while True:
    for descriptor in select.select([0, wrapper.mailbox.request], [], [])[0]:
        if descriptor == 0:
            data = os.read(0, 100).strip()
            if not data:
                sys.exit(0)
            wrapper.tell(data)
        else:
            for message in wrapper.mailbox.read():
                os.write(report, json.dumps(message).encode() + b"\\n")
"""
# As the plugin tells srun_cr of the step: 7.3 on n0.
FRAME = """python3 -c '
import os, socket, struct
s = socket.socket(socket.AF_UNIX)
s.connect(os.environ["SLURM_SRUN_CR_SOCKET"])
s.sendall((struct.pack("=IIi", 7, 3, 2) + b"n0\\0"){cut})
print("sent", flush=True)
{then}
'"""


class Job:
    """An owner, its monitor and the stub of srun."""

    def __init__(self, place: Path, script: str, **streams: Any) -> None:
        """script: what srun does; `$D` is the test's directory. streams: stdout, stderr."""
        read, write = os.pipe()
        self.place = place
        head = f'D={place}; echo "$SLURM_SRUN_CR_SOCKET" > $D/socket\n'
        # A gate to wait at until the test opens it, and a mark for the test to see.
        head += "at() { echo > $D/at-$1; while [ ! -e $D/go-$1 ]; do sleep 0.02; done; }\n"
        head += "at begin\n"
        environment = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]}
        self.owner = Program(
            OWNER, str(write), head + script, pass_fds=[write], env=environment, **streams
        )
        os.close(write)
        self.report = os.fdopen(read, "rb", 0)
        self.data = b""
        self.srun, self.pid = (int(word) for word in self.hear("started"))
        self.asked = Asked()
        self.open("begin")

    def next(self) -> dict[str, Any]:
        """Return what the owner hears next."""
        while b"\n" not in self.data:
            assert select.select([self.report], [], [], DEADLINE)[0], "nothing is heard"
            data = os.read(self.report.fileno(), 65536)
            assert data, "the owner has ended"
            self.data += data
        line, _, self.data = self.data.partition(b"\n")
        found: dict[str, Any] = json.loads(line)
        return found

    def hear(self, do: str) -> list[str]:
        """Return the words behind `do`, which must come next."""
        found = self.next()
        assert found["do"] == do, found
        words: list[str] = found["words"]
        return words

    def ended(self) -> int:
        """Wait for the monitor's last word; return srun's wait status."""
        (status,) = self.hear("ended")
        until("the monitor's end", lambda: not proc.alive(self.pid))
        return int(status)

    def mailbox(self) -> list[Process]:
        found = until("its mailbox", lambda: ask.find([self.pid]))
        assert [each.role for each in found] == [ROLE]
        return list(found)

    def hold(self, quiet: float = 0, most: float = 0) -> None:
        """Have it hold its output, as the dump helper of the script does."""
        answers = self.asked.ask(
            self.mailbox(), "hold", 10, dir=str(self.place), quiet=quiet, most=most
        )
        assert [each["event"] for each in answers.values()] == ["held"]

    def collect(self) -> None:
        answers = self.asked.ask(self.mailbox(), "collect", 10, dir=str(self.place))
        assert [each["event"] for each in answers.values()] == ["collected"]

    def late(self) -> dict[int, bytes]:
        return late.read(str(self.place), self.owner.pid)

    def at(self, gate: str) -> None:
        """Wait until srun is at a gate."""
        until(f"srun at {gate}", (self.place / f"at-{gate}").exists)

    def open(self, gate: str) -> None:
        (self.place / f"go-{gate}").touch()

    def state(self) -> str:
        """Return srun's state: T where it stands still."""
        return Path(f"/proc/{self.srun}/stat").read_text().rpartition(")")[2].split()[0]

    def close(self) -> None:
        self.asked.tell("go on")
        self.report.close()
        for pid in (self.pid, self.srun):
            if proc.comm(pid) in (COMM, "sh", "yes"):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.owner.kill()
        # A monitor that was killed has left its socket.
        socket = Path((self.place / "socket").read_text().strip())
        socket.unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            socket.parent.rmdir()


Start = Callable[..., Job]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    made: list[Job] = []

    def job(script: str, **streams: Any) -> Job:
        made.append(Job(tmp_path, script, **streams))
        return made[-1]

    yield job
    for each in made:
        each.close()


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    made.close()


class Pipe:
    """A pipe that srun's output goes to, and its reader."""

    def __init__(self) -> None:
        self.read_end, self.write_end = os.pipe()

    def read(self, size: int, deadline: float = DEADLINE) -> bytes:
        """Return that many bytes; fewer when it ends, or nothing more comes."""
        data = b""
        while len(data) < size:
            if not select.select([self.read_end], [], [], deadline)[0]:
                break
            got = os.read(self.read_end, size - len(data))
            data += got
            if not got:
                break
        return data

    def fills(self) -> None:
        """Wait until no more goes into it."""
        most = fcntl.fcntl(self.write_end, fcntl.F_GETPIPE_SZ) - PIPE_BUF
        until("a full pipe", lambda: self.waiting() >= most)

    def waiting(self) -> int:
        """Return how many bytes are there to be read."""
        found = fcntl.ioctl(self.read_end, termios.FIONREAD, bytes(4))
        return int.from_bytes(found, sys.byteorder)

    def sent(self) -> None:
        """Have no writing end here any more."""
        os.close(self.write_end)
        self.write_end = -1

    def close(self) -> None:
        for end in (self.read_end, self.write_end):
            if end >= 0:
                os.close(end)


# ---- the way of the output ----------------------------------------------------------------------


def test_one_stream_keeps_its_order(start: Start, pipe: Pipe) -> None:
    script = "i=0; while [ $i -lt 200 ]; do echo out $i; echo err $i >&2; i=$((i+1)); done"
    job = start(script, stdout=pipe.write_end, stderr=pipe.write_end)
    wanted = b"".join(b"out %d\nerr %d\n" % (each, each) for each in range(200))
    assert pipe.read(len(wanted)) == wanted
    assert job.ended() == 0


def test_two_streams_stay_two(start: Start, pipe: Pipe, tmp_path: Path) -> None:
    with (tmp_path / "err").open("w") as err:
        job = start("echo out; echo err >&2", stdout=pipe.write_end, stderr=err)
        assert pipe.read(4) == b"out\n"
        assert job.ended() == 0
    assert (tmp_path / "err").read_text() == "err\n"


def test_a_partial_line_is_not_kept_back(start: Start, pipe: Pipe) -> None:
    job = start("printf ab; at x; printf 'c\\nd'", stdout=pipe.write_end)
    assert pipe.read(2) == b"ab"
    job.at("x")
    job.open("x")
    assert pipe.read(3) == b"c\nd"
    assert job.ended() == 0


def test_the_reader_sees_the_end(start: Start, pipe: Pipe) -> None:
    """Neither the monitor nor what it was forked from keeps the pipe open."""
    job = start("echo a", stdout=pipe.write_end, stderr=pipe.write_end)
    pipe.sent()
    assert job.ended() == 0
    job.owner.process.stdin.close()  # type: ignore[union-attr]
    assert pipe.read(100) == b"a\n"


def test_a_reader_that_goes_away(start: Start, pipe: Pipe) -> None:
    """srun gets its SIGPIPE, as it would have without a monitor."""
    job = start("exec yes", stdout=pipe.write_end)
    pipe.sent()
    assert pipe.read(4) == b"y\ny\n"
    # The owner has the pipe too, but reads nothing from it.
    os.close(pipe.read_end)
    pipe.read_end = -1
    status = job.ended()
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGPIPE


def test_a_slow_reader_gets_everything(start: Start, pipe: Pipe) -> None:
    job = start("seq 100000; at x", stdout=pipe.write_end)
    wanted = b"".join(b"%d\n" % each for each in range(1, 100001))
    assert pipe.read(10) == wanted[:10]
    # It holds no more than its room: srun has to wait, and so do the tasks.
    assert not (job.place / "at-x").exists()
    assert pipe.read(len(wanted) - 10) == wanted[10:]
    job.at("x")
    job.open("x")
    assert job.ended() == 0


def test_a_file_keeps_its_offset(start: Start, tmp_path: Path) -> None:
    """As the script's: one open file, whose offset what comes before and after shares."""
    path = tmp_path / "out"
    path.write_bytes(b"0123456789")
    with path.open("r+b", buffering=0) as file:
        file.seek(3)
        job = start("echo ab", stdout=file)
        assert job.ended() == 0
        file.write(b"!")
    assert path.read_bytes() == b"012ab\n!789"


def test_a_file_that_is_full(start: Start) -> None:
    with open("/dev/full", "w") as full:
        job = start("echo a; at x", stdout=full)  # a device is srun's own, past the monitor
        job.at("x")
        assert os.readlink(f"/proc/{job.srun}/fd/1") == "/dev/full"
        job.open("x")
        assert job.ended() == 0


@pytest.mark.parametrize("which", [[1], [2], [1, 2]])
def test_closed_streams(start: Start, which: list[int], tmp_path: Path) -> None:
    closing = "".join(f"os.close({fd}); " for fd in which)
    code = OWNER.replace("wrapper = ", f"{closing}\nwrapper = ", 1)
    read, write = os.pipe()
    owner = Program(code, str(write), "exit 4", pass_fds=[write], stderr=-1)
    os.close(write)
    with os.fdopen(read) as report:
        found = [json.loads(report.readline()) for _ in range(2)]
    owner.kill()
    assert [each["do"] for each in found] == ["started", "ended"]
    assert found[1]["words"] == [str(4 << 8)]


# ---- srun's end ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "status"),
    [("exit 0", 0), ("exit 3", 3 << 8), ("kill -9 $$", 9), ("kill -15 $$", 15)],
)
def test_how_srun_ended(start: Start, pipe: Pipe, script: str, status: int) -> None:
    job = start(script, stdout=pipe.write_end)
    assert job.ended() == status


def test_the_end_comes_after_the_output(start: Start, pipe: Pipe) -> None:
    job = start("seq 20000; exit 3", stdout=pipe.write_end)
    assert select.select([job.report], [], [], 0.5)[0] == []  # it is not delivered yet
    size = sum(len(str(each)) + 1 for each in range(1, 20001))
    assert len(pipe.read(size)) == size
    assert job.ended() == 3 << 8


def test_a_child_of_sruns_that_stays_is_not_waited_for(start: Start, pipe: Pipe) -> None:
    job = start("sleep 60 & exit 0", stdout=pipe.write_end)
    assert job.ended() == 0


def test_nothing_is_left_behind(start: Start, pipe: Pipe) -> None:
    job = start("at x", stdout=pipe.write_end)
    job.at("x")
    socket = Path((job.place / "socket").read_text().strip())
    assert socket.is_socket()
    assert socket.parent.stat().st_mode & 0o7777 == 0o700
    assert socket.parent.name.startswith("srun_cr.")
    job.open("x")
    assert job.ended() == 0
    assert not socket.parent.exists()


def test_it_is_out_of_its_owners_tree(start: Start, pipe: Pipe) -> None:
    """And what a `kill 0` of the script's sends is not for it."""
    job = start("at x", stdout=pipe.write_end)
    job.at("x")
    assert proc.tree(job.owner.pid) == [job.owner.pid]
    assert proc.comm(job.pid) == COMM
    assert len({os.getsid(job.pid), os.getsid(job.owner.pid)}) == 2
    assert os.getpgid(job.srun) == job.srun
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGPIPE):
        os.kill(job.pid, number)
    job.open("x")
    assert job.ended() == 0


def test_it_keeps_no_descriptor_of_the_scripts(start: Start, pipe: Pipe) -> None:
    """A stray one would keep a pipe of the script's open."""
    job = start("at x", stdout=pipe.write_end, stderr=pipe.write_end)
    job.at("x")
    job.mailbox()[0].close()
    # Its mailbox (5), the owner's, control, the socket, srun's output, two to be woken by; 0 to 2.
    # It may be reading a module.
    until("14 descriptors", lambda: len(os.listdir(f"/proc/{job.pid}/fd")) == 14)
    assert os.readlink(f"/proc/{job.pid}/fd/0") == "/dev/null"
    wanted = os.readlink(f"/proc/self/fd/{pipe.write_end}")
    assert os.readlink(f"/proc/{job.pid}/fd/1") == wanted


# ---- hold, go on, collect -----------------------------------------------------------------------


def test_held_output_waits(start: Start, pipe: Pipe) -> None:
    job = start("echo 1; at x; echo 2; at y; echo 3", stdout=pipe.write_end)
    assert pipe.read(2) == b"1\n"
    job.at("x")
    job.hold()
    assert job.late() == {}
    job.open("x")
    job.at("y")
    assert pipe.read(1, 0.2) == b""
    job.asked.tell("go on")
    assert pipe.read(2) == b"2\n"
    job.open("y")
    assert pipe.read(2) == b"3\n"
    assert job.ended() == 0


def test_an_end_waits_too(start: Start, pipe: Pipe) -> None:
    job = start("at x; echo 2; exit 5", stdout=pipe.write_end)
    job.at("x")
    job.hold()
    job.open("x")
    until("srun's end", lambda: not proc.alive(job.srun))
    watched = [job.report.fileno(), pipe.read_end]
    assert select.select(watched, [], [], monitor.LINGER + 0.2)[0] == []
    job.asked.tell("go on")
    assert pipe.read(2) == b"2\n"
    assert job.ended() == 5 << 8


def test_it_holds_when_srun_is_quiet(start: Start, pipe: Pipe) -> None:
    job = start("while [ ! -e $D/go-x ]; do echo x; sleep 0.01; done; at y", stdout=pipe.write_end)
    assert pipe.read(2) == b"x\n"
    (held,) = job.mailbox()
    held.ask("hold", dir=str(job.place), quiet=1, most=60)
    assert not select.select([held.reply], [], [], 2)[0]
    job.open("x")
    assert until("held", held.answer)["event"] == "held"
    assert job.late() == {}
    held.tell("go on")
    held.close()


def test_it_waits_for_quiet_no_longer_than_it_is_told(start: Start, pipe: Pipe) -> None:
    job = start("while :; do echo x; sleep 0.01; done", stdout=pipe.write_end)
    assert pipe.read(2) == b"x\n"
    job.hold(quiet=5, most=0.3)


def test_what_was_not_delivered_is_kept(start: Start, pipe: Pipe, tmp_path: Path) -> None:
    """The reader has stopped reading: what has come that far is kept with the checkpoint."""
    err, no_err = os.pipe()
    job = start("seq 30000; at x", stdout=pipe.write_end, stderr=no_err)
    wanted = b"".join(b"%d\n" % each for each in range(1, 30001))
    assert pipe.read(10) == wanted[:10]
    pipe.fills()
    job.hold(quiet=0.3, most=3)
    late = job.late()
    assert list(late) == [1]
    # A restored script would have this from the pipe, and then what is kept.
    os.set_blocking(pipe.read_end, False)
    delivered = wanted[:10] + pipe.read(1 << 20, 0)
    whole = delivered + late[1]
    assert whole == wanted[: len(whole)]
    assert len(whole) > len(delivered) > 10
    # This one goes on, and has everything once.
    os.set_blocking(pipe.read_end, True)
    job.asked.tell("go on")
    rest = len(wanted) - len(delivered)
    assert pipe.read(rest) == wanted[-rest:]
    for end in (err, no_err):
        os.close(end)


def test_held_again(start: Start, pipe: Pipe) -> None:
    """An attempt that came to nothing leaves nothing behind for the next."""
    job = start("seq 30000; at x", stdout=pipe.write_end)
    assert pipe.read(1) == b"1"
    pipe.fills()
    job.hold(quiet=0.3, most=3)
    assert job.late()
    job.asked.tell("go on")
    size = sum(len(str(each)) + 1 for each in range(1, 30001)) - 1
    assert len(pipe.read(size)) == size
    job.at("x")
    job.hold(quiet=0.05, most=10)
    assert job.late() == {}


def test_collect(start: Start, pipe: Pipe, tmp_path: Path) -> None:
    """What tasks said before they were ended is kept, and what srun says of that is not."""
    with (tmp_path / "err").open("w") as err:
        job = start(
            "echo 1; at x; echo 2; printf half; echo error >&2\n"
            "echo 'srun: error: n1: task 0: Killed' >&2; echo more >&2\n"
            "echo 'slurmstepd-n1: error: *** STEP 7.0 ON n1 CANCELLED ***' >&2; kill -9 $$",
            stdout=pipe.write_end,
            stderr=err,
        )
        assert pipe.read(2) == b"1\n"
        job.at("x")
        job.hold()
        job.open("x")
        job.collect()
    assert job.late() == {1: b"2\nhalf", 2: b"error\nmore\n"}
    assert (tmp_path / "err").read_text() == ""
    assert pipe.read(1, 0) == b""
    # Its owner is told nothing: it is dumped, and its copy starts srun again.
    until("the monitor's end", lambda: not proc.alive(job.pid))
    assert select.select([job.report], [], [], 0)[0] == []


def test_collect_takes_more_than_its_room(start: Start, pipe: Pipe) -> None:
    job = start("at x; seq 50000", stdout=pipe.write_end)
    job.at("x")
    job.hold()
    job.open("x")
    job.collect()
    assert job.late()[1] == b"".join(b"%d\n" % each for each in range(1, 50001))


def test_collect_from_an_srun_that_has_ended(start: Start, pipe: Pipe) -> None:
    job = start("at x; echo 2", stdout=pipe.write_end)
    job.at("x")
    job.hold()
    job.open("x")
    until("srun's end", lambda: not proc.alive(job.srun))
    assert select.select([job.report], [], [], monitor.LINGER + 0.2)[0] == []
    job.collect()
    assert job.late() == {1: b"2\n"}


def test_collect_from_an_srun_that_does_not_end(start: Start, pipe: Pipe) -> None:
    """It is ended when it has said nothing for long; what it had said is kept."""
    job = start("at x; echo 2; exec sleep 1000", stdout=pipe.write_end)
    job.at("x")
    job.hold()
    job.open("x")
    words = {"dir": str(job.place)}
    answers = job.asked.ask(job.mailbox(), "collect", monitor.IDLE + DEADLINE, **words)
    assert [each["event"] for each in answers.values()] == ["collected"]
    assert job.late() == {1: b"2\n"}
    assert not proc.alive(job.srun)


# ---- pause --------------------------------------------------------------------------------------


def test_pause_and_resume(start: Start, pipe: Pipe) -> None:
    job = start("at x; echo 1", stdout=pipe.write_end)
    job.at("x")
    job.owner.tell("p")
    job.hear("paused")
    assert job.state() == "T"
    job.open("x")
    assert pipe.read(1, 0.2) == b""
    job.owner.tell("r")
    assert pipe.read(2) == b"1\n"
    assert job.ended() == 0


def test_no_pause_once_the_step_is_known(start: Start, pipe: Pipe) -> None:
    job = start(f"{FRAME.format(cut='', then='')}; at x", stdout=pipe.write_end)
    assert job.hear("step") == ["7", "3"]
    job.at("x")
    job.owner.tell("p")
    job.open("x")
    assert job.ended() == 0  # neither paused nor standing still


def test_no_pause_while_the_step_is_being_told(start: Start, pipe: Pipe) -> None:
    """srun has begun to send: its step is launched, or just being so."""
    then = 'import time\nwhile not os.path.exists(os.environ["GATE"]): time.sleep(0.02)'
    frame = FRAME.format(cut="[:5]", then=then)
    job = start(f"export GATE=$D/go-x; {frame} & at x; wait", stdout=pipe.write_end)
    assert pipe.read(5) == b"sent\n"
    job.owner.tell("p")
    until("it goes on", lambda: job.state() == "S")
    assert select.select([job.report], [], [], 0.3)[0] == []
    job.open("x")
    assert job.ended() == 0


def test_garbage_is_no_step(start: Start, pipe: Pipe) -> None:
    frame = FRAME.format(cut=" + bytes(9)", then="")
    job = start(f"{frame}; at x", stdout=pipe.write_end)
    job.at("x")
    job.owner.tell("p")
    job.hear("paused")
    job.owner.tell("r")
    job.open("x")
    assert job.ended() == 0


def test_a_dead_owner_leaves_no_paused_srun(start: Start, pipe: Pipe) -> None:
    job = start("at x; echo 1; at y", stdout=pipe.write_end)
    job.at("x")
    job.owner.tell("p")
    job.hear("paused")
    job.owner.kill()
    job.open("x")
    job.at("y")
    assert pipe.read(2) == b"1\n"
    job.open("y")
    until("the monitor's end", lambda: not proc.alive(job.pid))


def test_a_pause_that_comes_too_late(start: Start, pipe: Pipe) -> None:
    """srun has ended and a child of its goes on writing."""
    job = start("sleep 0.5 & exit 0", stdout=pipe.write_end)
    until("srun's end", lambda: not proc.alive(job.srun))
    job.owner.tell("p")
    assert job.ended() == 0


def test_srun_that_is_not_there(tmp_path: Path) -> None:
    read, write = os.pipe()
    code = OWNER.replace("/bin/sh", "/nonexistent/srun")
    owner = Program(code, str(write), "exit 0", pass_fds=[write], stderr=-1)
    os.close(write)
    with os.fdopen(read) as report:
        found = [json.loads(report.readline()) for _ in range(2)]
    assert [each["do"] for each in found] == ["started", "ended"]
    assert found[1]["words"] == [str(127 << 8)]
    assert owner.process.stderr is not None
    line = owner.process.stderr.readline()
    owner.kill()
    assert line == b"srun_cr: couldn't execute /nonexistent/srun: No such file or directory\n"


ASKED = """
import os
from pycr.srun_cr.job import JobWrapper
wrapper = JobWrapper("/bin/true", [])
wrapper.image = "/12.0/0001"
for message in (
    {"do": "checkpoint", "id": "a"},
    {"do": "step", "words": ["12", "3"]},
    {"do": "checkpoint", "id": "b"},
):
    wrapper.hear(message)
    if message["do"] == "checkpoint":
        print(os.read(wrapper.mailbox._reply_read, 4096).decode(), end="")
"""


def test_what_is_yet_to_go_on_from_an_image_is_not_dumped() -> None:
    """Restored, its srun_cr would know of no step, and begin it anew."""
    run = subprocess.run([sys.executable, "-c", ASKED], cwd=ROOT, capture_output=True, check=True)
    first, second = (json.loads(line) for line in run.stdout.splitlines())
    assert first["event"] == "later" and "/12.0/0001" in first["reason"]
    assert (second["event"], second["step"]) == ("ready", "12.3")
