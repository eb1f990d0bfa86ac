# SPDX-License-Identifier: GPL-2.0-or-later
"""What every test has: the real cluster, a place on it, and its daemons' logs when one fails.

Owns the fixtures `cluster` (one for the session), `alice` and `bob` (a Login each, on n0, with a
fresh directory on the shared file system), and the header with versions.
"""

from __future__ import annotations

import os
import platform
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import Cluster
from tests.login import Login

RELEASE = os.environ.get("PYCR_RELEASE", "trixie")
NODES = 4


def pytest_configure() -> None:
    # Run by nohup or in the background, what the tests start would ignore these too.
    for number in (signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header() -> str:
    return f"cluster: {RELEASE}, {NODES} nodes; kernel {platform.release()}"


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """A running cluster of four nodes, with pycr as it is in this checkout."""
    if os.geteuid() != 0:
        pytest.skip("a cluster needs root, to make namespaces")
    kept = Cluster.is_up() or bool(os.environ.get("PYCR_KEEP_CLUSTER"))
    made = Cluster.up(nodes=NODES, release=RELEASE)
    yield made
    if not kept:
        made.down()


@pytest.fixture
def login(cluster: Any, request: pytest.FixtureRequest) -> Iterator[Callable[[str], Login]]:
    """Make Logins; what their jobs left is cancelled and their directories removed."""
    made: list[Login] = []

    def make(user: str, node: str = "n0") -> Login:
        name = f"{user}-{request.node.name[:40].replace('/', '_')}-{time.monotonic_ns()}"
        place = cluster.shared / "tests" / "".join(c if c.isalnum() else "-" for c in name)
        place.parent.mkdir(mode=0o777, exist_ok=True)
        place.parent.chmod(0o1777)
        place.mkdir(mode=0o700)
        user_id = int(cluster.node(node).run(["id", "-u", user]).stdout)
        os.chown(place, user_id, user_id)
        made.append(Login(cluster, user, node, place))
        return made[-1]

    yield make
    for each in made:
        each.cancel_all()
        shutil.rmtree(each.place, ignore_errors=True)


@pytest.fixture
def alice(login: Callable[[str], Login]) -> Login:
    return login("alice")


@pytest.fixture
def bob(login: Callable[[str], Login]) -> Login:
    return login("bob")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    report = yield
    if report.when == "call" and report.failed:
        running = getattr(item, "funcargs", {}).get("cluster")
        if running is not None:
            for name, tail in running.logs().items():
                report.sections.append((f"log {name}", tail[-4000:]))
    return report


@pytest.fixture(scope="session")
def victims() -> Path:
    """The folder of programs that are checkpointed."""
    return Path(__file__).parent / "victims"


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI a skip is a failure, but for those whose reason says that it is expected there."""
    reporter: Any = session.config.pluginmanager.get_plugin("terminalreporter")
    if not os.environ.get("CI") or reporter is None:
        return
    for report in reporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
        if "expected:" not in reason:
            print(f"\nskipped in CI: {report.nodeid}: {reason}")
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
