"""The part of a sweep that does not depend on the machine, as tasks on the nodes of a Ray cluster.

One task runs one combination. All nodes see the folder of the sweep under the same path: the results are in it, not in
Ray. A task whose node is lost is begun again by Ray elsewhere, and finds there what has been done.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit import __version__
from edgekit.console import Console
from edgekit.disk import json_file, locks
from edgekit.disk.run_directory import ORDER
from edgekit.errors import DiskFull, InputError, Shortfall, need
from edgekit.pipeline.provenance import PACKAGES, versions
from edgekit.pipeline.run import Job
from edgekit.sweep import flow, plan
from edgekit.sweep.flow import POLL, Sweep, attempt
from edgekit.sweep.plan import Phase
from edgekit.sweep.records import Progress

if TYPE_CHECKING:
    from edgekit.sweep.space import Combination

CONNECT = 3.0
"""Seconds that an address has to answer."""
ANSWER = 60.0
"""Seconds that a node has to start a process and import edgekit."""
EMPTY_SETTINGS = b"\0\0\0\4\0\0\0\0\0"
"""A frame of HTTP/2; its fourth byte says which kind."""
RETRIES = 5
"""How often a task is begun again after its node or process was lost."""
CURRENT = Path("/tmp/ray/ray_current_cluster")  # noqa: S108
"""Where Ray notes the address of the cluster that this machine is part of."""


@contextlib.contextmanager
def connected(address: str) -> Iterator[Cluster]:
    """A connection to a running cluster.

    Args:
        address: of its head, ``host:port``, or ``auto``: the cluster that this machine is part of.

    Raises:
        InputError: nothing answers there, or not Ray.
        MissingPackage: Ray is not installed.
    """
    place = _place(address)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray = need("ray", extra="cluster", purpose="edgekit sweep --ray")
    try:
        ray.init(address=place, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False)
    except Exception as error:  # Ray has no common one
        raise InputError(f"--ray {address}: {_line(error)}; check that {place} is the head of a Ray cluster") from error
    try:
        yield Cluster(address)
    finally:
        ray.shutdown()


@dataclass(frozen=True)
class Cluster:
    """A connected cluster.

    Args:
        address: as the user gave it, for messages.
    """

    address: str

    def work(self, sweep: Sweep) -> None:
        """Run all combinations as far as their results do not depend on the machine.

        Raises:
            InputError: a node has another edgekit or other packages, or does not see the folder.
            DiskFull: there is no room for more files.
            Shortfall: a run was lost again and again, or the whole cluster was.
        """
        last = plan.anywhere(list(sweep.plans.values()))
        phase = Phase(last)
        left = sweep.left(phase)
        if not left:
            return
        count = self._check(sweep.job.out)
        if last != plan.LAST:
            later = ORDER[ORDER.index(last) + 1]
            sweep.console.say(f"sweep: from {later} on, runs go on here: what they choose is timed on a device")
        sweep.console.say(f"sweep: {len(left)} runs on {count} node{'' if count == 1 else 's'} of the cluster")
        from ray.exceptions import RayError

        try:
            self._run_all(sweep, phase)
        except RayError as error:
            again = "run the same command again to go on"
            raise Shortfall(f"--ray {self.address}: a run was lost: {_line(error)}; {again}") from error

    def _run_all(self, sweep: Sweep, phase: Phase) -> None:
        import ray

        task = ray.remote(_run).options(num_cpus=_cores(), max_retries=RETRIES)
        running: dict[Any, Combination] = {}
        tried: set[int] = set()
        while True:
            busy = list(running.values())
            waiting = [one for one in sweep.left(phase) if one not in busy and one.number not in tried]
            if not waiting and not running:
                return
            for one in self._startable(sweep, waiting, busy, phase):
                tried.add(one.number)
                job, before = sweep.plans[one.number].job, sweep.progress(one)
                running[task.remote(_absolute(job), before, phase.last)] = one
            done, _ = ray.wait(list(running), timeout=POLL) if running else ([], [])
            for reference in done:
                del running[reference]
                if full := ray.get(reference):
                    raise DiskFull(full)

    def _startable(
        self, sweep: Sweep, waiting: Sequence[Combination], running: Sequence[Combination], phase: Phase
    ) -> list[Combination]:
        """Those to begin now: each that would not wait for a stage that another one is doing."""
        begun: list[Combination] = []
        for one in waiting:
            if why := sweep.same_failure(one):
                sweep.fail(one, why)
            elif sweep.ready([one], [*running, *begun], phase):
                begun.append(one)
        return begun

    def _check(self, folder: Path) -> int:
        """Ask each node what it sees; returns how many there are.

        Raises:
            InputError: one cannot take part.
        """
        import ray
        from ray.exceptions import GetTimeoutError, RayError
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        token = folder.resolve() / flow.LOCKS / f"token-{secrets.token_hex(4)}"
        token.write_text(token.name)
        nodes = {node["NodeID"]: node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]}
        asked = {
            ray.remote(_facts)
            .options(num_cpus=0, max_retries=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False))
            .remote(str(token)): name
            for node, name in nodes.items()
        }
        try:
            for reference, name in asked.items():
                try:
                    _compare(name, ray.get(reference, timeout=ANSWER), token)
                except GetTimeoutError as error:
                    raise InputError(f"--ray {self.address}: node {name} has not answered in {ANSWER:.0f} s") from error
                except RayError as error:
                    raise InputError(
                        f"--ray {self.address}: node {name} cannot run edgekit: {_line(error)}; install edgekit "
                        f"{__version__} with the same extras on every node"
                    ) from error
        finally:
            token.unlink()
        return len(nodes)


def _run(job: Job, before: Progress, last: str) -> str:
    """The task: run one combination, and write down in its folder how it ended.

    Returns:
        That the disk is full, if it is.
    """
    file = job.out.parent / flow.LOCKS / job.out.name
    while (lock := locks.take(file)) is None:  # the process of a lost node may live a little longer
        time.sleep(POLL)
    with lock, locks.shared(file.with_name(flow.COMPUTING)):
        try:
            progress = attempt(job, before, last, Console(quiet=True))
        except DiskFull as error:
            return str(error)
        job.out.mkdir(exist_ok=True)
        json_file.save(job.out / flow.PROGRESS, progress)
    return ""


def _facts(token: str) -> dict[str, Any]:
    """What a node says of itself: its edgekit and packages, and whether it sees a file of the sweep."""
    return {"edgekit": __version__, "packages": versions(*PACKAGES), "sees": Path(token).is_file()}


def _compare(name: str, facts: dict[str, Any], token: Path) -> None:
    """Refuse a node that would make other files, or put them elsewhere."""
    if facts["edgekit"] != __version__:
        raise InputError(f"--ray: node {name} has edgekit {facts['edgekit']}, this machine {__version__}: use one")
    here, there = versions(*PACKAGES), facts["packages"]
    for package in PACKAGES:
        if here.get(package) != there.get(package):
            raise InputError(
                f"--ray: node {name} has {package} {there.get(package, 'not installed')}, this machine "
                f"{here.get(package, 'not installed')}: install the same on every node"
            )
    if not facts["sees"]:
        raise InputError(
            f"--ray: node {name} does not see {token.parents[1]}: --out must be a folder that all nodes share under "
            "the same path, and so must the recipe and its data"
        )


def _absolute(job: Job) -> Job:
    """The same job for a process in another working directory."""
    from dataclasses import replace

    out = job.out.resolve()
    return replace(job, base=job.base.resolve(), out=out, beside=out.parent)


def _cores() -> int:
    """Of the cluster, that a run takes: as many as it has threads."""
    words = os.environ.get("OMP_NUM_THREADS", "1")
    return int(words) if words.isdigit() and int(words) else 1


def _place(address: str) -> str:
    """``host:port`` of the head, at which something answers.

    Raises:
        InputError: no such address, or nothing does.
    """
    place = address
    if address == "auto":
        place = os.environ.get("RAY_ADDRESS", "")
        if not place and CURRENT.is_file():
            place = CURRENT.read_text(encoding="utf-8").strip()
        if not place:
            raise InputError("--ray auto: this machine is in no Ray cluster: ray start --head, or give HOST:PORT")
    host, colon, port = place.rpartition(":")
    if not colon or not host or not port.isdigit() or "/" in host or not 0 < int(port) < 65536:
        raise InputError(f"--ray {address}: give auto, or HOST:PORT of the cluster's head, e.g. 10.0.0.1:6379")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), CONNECT) as connection:
            answers = _answers(connection)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(
            f"--ray {address}: nothing answers at {place} ({reason}); start the cluster: ray start --head, or check "
            "the address"
        ) from error
    if not answers:
        raise InputError(f"--ray {address}: what answers at {place} is not the head of a Ray cluster")
    return place


def _answers(connection: socket.socket) -> bool:
    """Whether the other end speaks gRPC, as Ray does: Ray itself would wait for minutes.

    It is greeted with the preface of HTTP/2 (RFC 9113, section 3.4), and has to answer with its settings.
    """
    if os.environ.get("RAY_USE_TLS") == "1":
        return True
    connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + EMPTY_SETTINGS)
    return connection.recv(len(EMPTY_SETTINGS))[3:4] == EMPTY_SETTINGS[3:4]


def _line(error: BaseException) -> str:
    """The last line of what Ray says: before it is where."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
