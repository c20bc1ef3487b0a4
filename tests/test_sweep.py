"""Sweeps: their parts, and real ones from end to end: shared stages, failures, kills, several workers, a cluster."""

from __future__ import annotations

import contextlib
import csv
import itertools
import json
import random
import socket
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from edgekit.cli.main import cli
from edgekit.config.recipe import Recipe
from edgekit.console import Console
from edgekit.device.file import Device
from edgekit.disk import json_file, locks
from edgekit.disk.run_directory import ORDER, RunDirectory
from edgekit.errors import InputError
from edgekit.pipeline.run import Job
from edgekit.sweep import cluster, flow, plan, space
from edgekit.sweep.flow import Sweep
from edgekit.sweep.plan import Phase
from edgekit.sweep.records import Progress
from edgekit.sweep.records import Result as Found
from tests import support, warm

TINY = """
[model]
name       = "torchvision/mobilenet_v2"
weights    = "none"
[model.options]
inverted_residual_setting = [[1, 16, 1, 1], [4, 24, 1, 2]]
width_mult = 0.5
[data]
source = "digits"
input  = 16
val    = 0.1
test   = 0.8
[train]
epochs = 1
batch  = 32
lr     = 1e-2
[lower]
measure = false
[quantize]
max_drop        = 100.0
calibration     = 8
sensitivity     = false
bias_correction = false
[export]
formats = ["onnx"]
[verify]
"""
SWEEP = """
[sweep]
train.lr       = [1e-2, 1e30]
quantize.range = ["minmax", "percentile"]
"""


def recipe(**tables: Any) -> Recipe:
    raw = {"model": {"name": "mobilenetv2_100"}, "data": {"source": "digits"}, "train": {}, **tables}
    return Recipe.model_validate(raw)


def written(folder: Path, sweep: str = SWEEP) -> Path:
    path = folder / "tiny.toml"
    path.write_text(TINY + sweep)
    return path


def run(*words: object, command: str = "sweep") -> Result:
    return CliRunner().invoke(cli, [command, "--quiet", *map(str, words)])


def times(out: Path) -> dict[Path, int]:
    return {file: file.stat().st_mtime_ns for file in out.glob("*/*-*/stage.json")}


# The combinations ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "values"),
    [
        ("data.input=128,160", [128, 160]),
        ("model.name=a_100, b/c", ["a_100", "b/c"]),
        ("prune.macs=none,0.5", ["none", 0.5]),
        ('train.augment=[],["flip", "random_crop"]', [[], ["flip", "random_crop"]]),
        ("train.augment=none,[1, 2]", ["none", [1, 2]]),
        ("data.input=[96, 160],128", [[96, 160], 128]),
    ],
)
def test_values_on_the_command_line(word: str, values: list[Any]) -> None:
    assert list(space.parsed([word]).values()) == [values]


@given(st.lists(st.integers(1, 3), min_size=1, max_size=3))
def test_every_combination_once_and_the_last_key_fastest(sizes: list[int]) -> None:
    values: dict[str, list[Any]] = {
        "train.epochs": [1, 2, 3],
        "data.input": [16, 24, 32],
        "quantize.range": ["minmax", "mse", "auto"],
    }
    listed = {key: values[key][:size] for key, size in zip(values, sizes, strict=False)}
    found = space.combinations(recipe(), listed)
    expected = [dict(zip(listed, row, strict=True)) for row in itertools.product(*listed.values())]
    assert [one.settings for one in found] == expected
    assert [one.number for one in found] == list(range(1, len(expected) + 1))
    assert len({one.folder for one in found}) == len(found)


def test_none_leaves_a_key_out_and_a_section_that_is_nothing_without_it() -> None:
    whole = recipe(prune={"macs": 0.5}, quantize={"calibration": 8})
    listed: dict[str, list[Any]] = {
        "prune.macs": ["none", 0.5],
        "prune.recover": [1, 2],
        "quantize.calibration": ["none"],
    }
    found = space.combinations(whole, listed)
    assert [one.why for one in found] == ["", "the same as 1", "", ""]
    made = [one.recipe for one in found if one.recipe]
    assert [(each.prune.macs, each.prune.recover) if each.prune else None for each in made] == [
        None, (0.5, 1), (0.5, 2),
    ]  # fmt: skip
    assert all(each.quantize and each.quantize.calibration is None for each in made)


def test_none_is_a_word_where_a_key_has_such_a_value() -> None:
    made = [one.recipe for one in space.combinations(recipe(), {"model.weights": ["pretrained", "none"]})]
    assert [each.model.weights for each in made if each] == ["pretrained", "none"]


def test_the_recipe_may_be_nothing_without_a_key_that_varies(tmp_path: Path) -> None:
    words = [written(tmp_path, "[prune]\nrecover = 1\n"), "--out", tmp_path / "out", "--dry-run", "--json"]
    answer = run(*words, "--vary", "prune.macs=none,0.5")
    assert answer.exit_code == 0, answer.output
    assert ["prune" in row["stages"] for row in json.loads(answer.stdout)["combinations"]] == [False, True]
    assert "give exactly one of macs" in run(*words, "--vary", "prune.score=l1,l2").stderr


def test_a_folder_depends_on_its_settings_alone() -> None:
    few = space.combinations(recipe(), {"data.input": [16, 32]})
    more = space.combinations(recipe(train={"lr": 1.0}), {"data.input": [24, 32, 16]})
    assert [one.folder for one in few] == [more[2].folder, more[1].folder]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], 'names no key to vary: give --vary KEY=VALUE,VALUE, or a [sweep] section'),
        (["--vary", "train.lrr=1,2"], '"train.lrr": no such key of a recipe; did you mean "train.lr"'),
        (["--vary", "lr=1,2"], 'did you mean "train.lr" or "prune.lr" or "quantize.qat.lr"?'),
        (["--vary", "tune.trials=1,2"], '"tune.trials": no such key'),
        (["--vary", "train.lr"], "expected section.key=value,value"),
        (["--vary", "train.lr="], "expected section.key=value,value"),
        (["--vary", "train.lr=1,1"], "is listed twice"),
        (["--vary", "train.lr=1", "--vary", "train.lr=2"], "comes twice"),
        (["--vary", "train.lr=-1,-2"], "no combination can run; the first: train.lr = -1"),
        (["--vary", "model.name.x=1"], "name is a value, not a section"),
        (["--vary", "train.seed=" + ",".join(map(str, range(200))), "--vary", "data.seed=" + ",".join(
            map(str, range(200)))], "40,000 combinations; at most 10,000"),
        (["--vary", "data.input=16,32", "--set", "export="], "the recipe has no [export] section"),
        (["--vary", "data.input=16,32", "--set", "verify="], "the recipe has no [verify] section"),
        (["--set", "sweep.train.lr=[]"], "the list is empty"),
        (["--set", "sweep.train.lr=3"], "give a list of values"),
    ],
)  # fmt: skip
def test_what_cannot_be_swept_is_refused(tmp_path: Path, words: list[str], said: str) -> None:
    answer = run(written(tmp_path, ""), "--out", tmp_path / "out", *words)
    assert answer.exit_code == 2, answer.output
    assert said in answer.stderr
    assert len(answer.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


# What is shared, and what takes times --------------------------------------------------------------------


def plans(folder: Path, devices: dict[str, Device], *recipes: Recipe) -> list[plan.Plan]:
    return [plan.plan(Job(each, folder, folder / str(place), devices)) for place, each in enumerate(recipes)]


def test_combinations_share_the_stages_whose_keys_are_the_same(tmp_path: Path) -> None:
    base: dict[str, Any] = {"quantize": {}, "export": {}, "verify": {}, "lower": {"measure": False}}
    made = plans(
        tmp_path,
        {},
        recipe(**base),
        recipe(**base | {"quantize": {"range": "mse"}}),
        recipe(**base, prune={"macs": 0.5}),
        recipe(**base, data={"source": "digits", "input": 32}),
    )
    shared = plan.shared(made)
    stages = ("data", "train", "quantize", "export", "verify", "bundle")
    assert shared[0] == dict.fromkeys(stages, 0)
    assert shared[1] == {"data": 0, "train": 0, **dict.fromkeys(stages[2:], 1)}
    assert shared[2] == {"data": 0, "train": 0, "prune": 2, **dict.fromkeys(stages[2:], 2)}
    assert shared[3] == {"data": 0, **dict.fromkeys(stages[1:], 3)}


def test_what_takes_times_here_is_done_alone(tmp_path: Path) -> None:
    here, there = Device(name="host"), Device.model_validate({"name": "pi", "reach": {"by": "ssh", "host": "pi"}})
    whole = recipe(quantize={}, export={}, verify={})
    aimed = recipe(quantize={}, export={}, verify={}, prune={"latency": 0.5})
    pinned = recipe(quantize={}, export={}, verify={}, lower={"rewrites": []})
    final = Phase("report", alone=True)
    assert plan.phases(plans(tmp_path, {}, whole)) == (Phase("bundle"), Phase("report"))
    assert plan.phases(plans(tmp_path, {"pi": there}, whole)) == (Phase("bundle"), final)
    assert plan.phases(plans(tmp_path, {"host": here}, pinned)) == (Phase("bundle"), final)
    lowered = Phase("lower", alone=True), Phase("quantize"), Phase("export", alone=True), Phase("bundle"), final
    assert plan.phases(plans(tmp_path, {"host": here}, whole)) == (Phase("train"), *lowered)
    assert plan.phases(plans(tmp_path, {"host": here}, whole, aimed)) == (
        Phase("train"), Phase("prune", alone=True), *lowered,
    )  # fmt: skip
    for devices, each, last in (({}, aimed, "bundle"), ({"pi": there}, whole, "prune"), ({"pi": there}, aimed, "train"),
                                ({"pi": there}, pinned, "bundle")):  # fmt: skip
        assert plan.anywhere(plans(tmp_path, devices, each)) == last


class Killed(BaseException):
    """What ends a worker without a word."""


@dataclass
class Pretence:
    """Stands for the pipeline: stages take no work, only a moment, and what runs at the same time is checked."""

    sweep: Sweep
    rounds: random.Random
    running: dict[str, Phase] = field(default_factory=dict)
    done: list[tuple[str, str]] = field(default_factory=list)
    kills: int = 5

    def __call__(self, job: Job, before: Progress, last: str, console: Console) -> Progress:
        (phase,) = [each for each in self.sweep.phases if each.last == last]
        name = job.out.name
        assert name not in self.running, "two workers in one folder"
        assert not any(each.alone or phase.alone for each in self.running.values()), "times are taken beside others"
        assert {each.last for each in self.running.values()} <= {last}, "a phase begins before the last one is over"
        self.running[name] = phase
        try:
            (one,) = [each for each in self.sweep.runnable if each.folder == name]
            for stage in self.sweep.plans[one.number].stages:
                folder = RunDirectory(job.out).folder(stage)
                if ORDER.index(stage) <= ORDER.index(last) and not folder.exists():
                    time.sleep(self.rounds.random() / 100)
                    if self.kills and self.rounds.random() < 0.1:
                        self.kills -= 1
                        raise Killed
                    folder.mkdir(parents=True)
                    (folder / "stage.json").touch()
        finally:
            del self.running[name]
        self.done.append((name, last))
        return replace(before, reached=last)


def test_phases_of_many_workers_that_die(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = recipe(quantize={}, export={}, verify={})
    listed: dict[str, list[Any]] = {"train.lr": [0.1, 0.2, 0.3], "quantize.range": ["mse", "auto"]}
    job = Job(whole, tmp_path, tmp_path / "out", {"host": Device(name="host")})
    first = Sweep(job, listed, Console(quiet=True))
    first.begin(retry=False)
    pretence = Pretence(first, random.Random(0))
    monkeypatch.setattr(flow, "attempt", pretence)
    monkeypatch.setattr(flow, "POLL", 0.002)
    wrong: list[BaseException] = []

    def worker() -> None:
        try:
            while True:
                with contextlib.suppress(Killed):
                    return Sweep(job, listed, Console(quiet=True)).work()
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=worker) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert pretence.kills < 5
    assert [phase.last for phase in first.phases] == ["train", "lower", "quantize", "export", "bundle", "report"]
    expected = [(one.folder, phase.last) for one in first.runnable for phase in first.phases]
    assert sorted(pretence.done) == sorted(expected)


def test_what_cannot_be_measured_says_nothing_of_others(tmp_path: Path) -> None:
    job = Job(recipe(quantize={}, export={}, verify={}), tmp_path, tmp_path / "out", {})
    sweep = Sweep(job, {"quantize.range": ["mse", "auto"]}, Console(quiet=True))
    sweep.begin(retry=False)
    first, second = sweep.runnable
    for stage, said in (("profile", ""), ("train", "as 1, which shares its train stage: why"), ("quantize", "")):
        (job.out / first.folder).mkdir(exist_ok=True)
        json_file.save(job.out / first.folder / flow.PROGRESS, replace(sweep.progress(first), why="why", stage=stage))
        assert sweep.same_failure(second) == said


# Real sweeps ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Result]:
    """A recipe, the folder of its sweep, and what the command said."""
    folder = tmp_path_factory.mktemp("swept")
    path = written(folder)
    return path, folder / "out", run(path, "--out", folder / "out", "--json")


def test_what_is_shared_is_done_once_and_a_failure_costs_only_itself(swept: tuple[Path, Path, Result]) -> None:
    _, out, answer = swept
    assert answer.exit_code == 0, answer.stderr
    found = json_file.load(out / "sweep.json", Found)
    printed = answer.stdout[answer.stdout.index("{\n") :]  # below what the exporter has said
    assert json.loads(printed) == json.loads((out / "sweep.json").read_text())
    assert [one.state for one in found.combinations] == ["done", "done", "failed", "failed"]
    first, second, third, fourth = found.combinations
    folders = [out / one.folder for one in (first, second)]
    assert (folders[0] / "2-train" / "model.safetensors").samefile(folders[1] / "2-train" / "model.safetensors")
    assert not (folders[0] / "6-export" / "model-int8.onnx").samefile(folders[1] / "6-export" / "model-int8.onnx")
    assert {name: of for name, of, _ in second.stages} == {
        "data": 1, "train": 1, "quantize": 2, "export": 2, "verify": 2, "bundle": 2,
    }  # fmt: skip
    assert "train once for 2 runs" in found.said
    assert "loss" in third.why
    assert fourth.why == f"as 3, which shares its train stage: {third.why}"
    assert not list((out / fourth.folder).glob("*-train*")), "nothing was trained for it"


def test_the_files_are_those_of_a_plain_run(swept: tuple[Path, Path, Result], tmp_path: Path) -> None:
    path, out, _ = swept
    one = json_file.load(out / "sweep.json", Found).combinations[1]
    answer = run(path, "--out", tmp_path / "one", "--set", "quantize.range=percentile", command="compress")
    assert answer.exit_code == 0, answer.stderr
    for name in ("6-export/model-fp32.onnx", "6-export/model-int8.onnx", "8-bundle/tiny.edgekit"):
        assert (out / one.folder / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


def test_the_reports_say_what_the_runs_say(swept: tuple[Path, Path, Result]) -> None:
    _, out, _ = swept
    found = json_file.load(out / "sweep.json", Found)
    assert [row.combination for row in found.rows] == [1, 2]
    for row, one in zip(found.rows, found.combinations, strict=False):
        scores = json.loads((out / one.folder / "7-verify" / "accuracy.json").read_text())
        (score,) = [each for each in scores if each["artifact"] == "onnx-int8"]
        assert (row.artifact, row.top1, row.images) == ("onnx-int8", score["top1"], score["images"])
        assert row.bytes == (out / one.folder / "6-export" / "model-int8.onnx").stat().st_size
        ends = binomtest(round(row.top1 * row.images), row.images).proportion_ci(method="wilson")
        assert row.top1_ci == pytest.approx((ends.low, ends.high))
        assert (row.kind, row.p50_ms) == (None, None)
    sheet = list(csv.DictReader((out / "sweep.csv").read_text().splitlines()))
    assert [(row["combination"], row["state"], row["top1"] != "") for row in sheet] == [
        ("1", "done", True), ("2", "done", True), ("3", "failed", False), ("4", "failed", False),
    ]  # fmt: skip
    page, text = (out / "sweep.html").read_text(), (out / "sweep.md").read_text()
    for words in ("nothing was measured", "which shares its train stage"):
        assert words in page
    assert "- 3 failed: " in text


def test_the_same_command_repeats_nothing_and_retries_when_asked(swept: tuple[Path, Path, Result]) -> None:
    path, out, _ = swept
    before, failed = times(out), next(out.glob("*/2-train.failed")).stat().st_mtime_ns
    assert run(path, "--out", out).exit_code == 0
    assert times(out) == before
    assert next(out.glob("*/2-train.failed")).stat().st_mtime_ns == failed
    assert run(path, "--out", out, "--retry").exit_code == 0
    assert times(out) == before
    assert next(out.glob("*/2-train.failed")).stat().st_mtime_ns > failed


def test_a_device_is_measured_last_by_one_process(swept: tuple[Path, Path, Result], tmp_path: Path) -> None:
    path, out, _ = swept
    before = times(out)
    device = tmp_path / "quick.toml"
    device.write_text(support.DEVICE)
    words = ["--device", device, "--set", "sweep.train.lr=[1e-2]", "--set", "profile.operators=false"]
    answer = run(path, "--out", out, *words)
    assert answer.exit_code == 0, answer.stderr
    changed = {file.parent.name for file, when in times(out).items() if before.get(file) != when}
    assert changed == {"9-profile", "10-report"}
    found = json_file.load(out / "sweep.json", Found)
    assert found.places == [("quick", "measured")]
    for row, one in zip(found.rows, found.combinations, strict=True):
        report = json.loads((out / one.folder / "10-report" / "report.json").read_text())
        (verdict,) = report["verdict"]
        (timing,) = [
            each for each in report["latency"]
            if (each["artifact"], each["engine"]) == (verdict["artifact"], verdict["engine"])
        ]  # fmt: skip
        assert (row.artifact, row.p50_ms, row.engine) == (verdict["artifact"], timing["p50_ms"], "onnxruntime")
    assert found.machines is not None
    assert found.machines["quick"].cpu in (out / "sweep.html").read_text()
    for place, row in enumerate(found.rows):
        own = (-row.top1, row.p50_ms or 0, row.bytes)
        others = [(rank, (-each.top1, each.p50_ms or 0, each.bytes)) for rank, each in enumerate(found.rows)]
        beaten = any(other != own and all(a <= b for a, b in zip(other, own, strict=True)) for _, other in others)
        twin = any(other == own and rank < place for rank, other in others)  # of equal ones, the first is enough
        assert row.front == (not beaten and not twin)


def test_a_dry_run_lists_and_runs_nothing(tmp_path: Path) -> None:
    path = written(tmp_path)
    answer = run(path, "--out", tmp_path / "out", "--dry-run", "--json")
    assert answer.exit_code == 0, answer.stderr
    rows = json.loads(answer.stdout)["combinations"]
    assert [row["stages"]["train"] for row in rows] == [1, 1, 3, 3]
    assert [row["stages"]["quantize"] for row in rows] == [1, 2, 3, 4]
    assert "as 1" in run(path, "--out", tmp_path / "out", "--dry-run").stdout
    assert not (tmp_path / "out").exists()


SLOW = "[sweep]\ntrain.lr = [1e-2, 2e-2]\ntrain.epochs = [8]\ntrain.batch = [2]\n"


def child(*words: object) -> warm.Child:
    return warm.Child(["-m", "edgekit", "sweep", *map(str, words)], support.environment())


def at_once(out: Path, driver: warm.Child) -> list[str]:
    """Wait until two combinations are run at the same time, and one of them has trained an epoch; their folders."""
    while driver.running:
        held = [file.name for file in out.glob(".locks/*-*") if is_held(file)]
        if len(held) == 2 and list(out.glob("*/.2-train.partial/last.pt")):
            return held
        time.sleep(0.2)
    pytest.fail(driver.wait().stderr)


def is_held(file: Path) -> bool:
    lock = locks.take(file)
    if lock is not None:
        lock.close()
    return lock is None


def test_of_two_workers_one_is_killed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = [written(tmp_path, SLOW), "--out", out, "--set", "export.precisions=['fp32']", "--set", "quantize="]
    killed, other = child(*words), child(*words)
    began = set(at_once(out, other))
    killed.kill()
    killed.wait()
    answer = other.wait()
    assert answer.returncode == 0, answer.stderr
    found = json_file.load(out / "sweep.json", Found)
    assert {one.folder for one in found.combinations} == began
    assert [one.state for one in found.combinations] == ["done", "done"]
    assert len({one.worker for one in found.combinations}) == 1
    assert len(list(out.glob("*/2-train/stage.json"))) == 2


# A cluster --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1:1", "nothing answers at 127.0.0.1:1 (Connection refused); start the cluster: ray start --head"),
        ("192.0.2.77", "give auto, or HOST:PORT of the cluster's head"),
        ("ray://127.0.0.1:10001", "give auto, or HOST:PORT of the cluster's head"),
        ("auto", "--ray auto: "),
    ],
)
def test_a_dead_cluster_is_one_line_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, said: str
) -> None:
    pytest.importorskip("ray")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("edgekit.sweep.cluster.CURRENT", tmp_path / "none")
    began = time.monotonic()
    answer = run(written(tmp_path), "--out", tmp_path / "out", "--ray", address)
    assert answer.exit_code == 2, answer.output
    assert said in answer.stderr
    assert len(answer.stderr.splitlines()) == 1
    assert time.monotonic() - began < 10
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 400 Bad Request"])
def test_what_is_no_cluster_is_told_at_once(tmp_path: Path, said: bytes) -> None:
    """What listens and says nothing, as a frozen head would, and what says something else."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(said)
                connection.recv(1000)
                time.sleep(0 if said else 5)

        thread = threading.Thread(target=answer)
        thread.start()
        began = time.monotonic()
        heard = run(written(tmp_path), "--out", tmp_path / "out", "--ray", f"127.0.0.1:{server.getsockname()[1]}")
        assert time.monotonic() - began < 10
        thread.join()
    assert heard.exit_code == 2
    assert ("is not the head of a Ray cluster" if said else "(timed out)") in heard.stderr
    assert len(heard.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, ""),
        ({"edgekit": "0.0.1"}, "node n has edgekit 0.0.1, this machine "),
        ({"packages": {}}, "node n has torch not installed, this machine 2."),
        ({"sees": False}, "node n does not see /shared/out: --out must be a folder that all nodes share"),
    ],
)
def test_a_node_that_cannot_take_part_is_named(changes: dict[str, Any], said: str) -> None:
    facts = {**cluster._facts("/nowhere"), "sees": True, **changes}
    with pytest.raises(InputError, match=said) if said else contextlib.nullcontext():
        cluster._compare("n", facts, Path("/shared/out/.locks/token"))


@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")  # Ray's processes, where an earlier test has loaded JAX
def test_a_lost_node_of_a_cluster_costs_only_its_combination(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two real nodes on this machine, one core each; the one that is lost is not the head."""
    pytest.importorskip("ray")
    for key, value in {"RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(support.ROOT)}.items():
        monkeypatch.setenv(key, value)
    nodes = Nodes()
    out = tmp_path / "out"
    try:
        words = [written(tmp_path, SLOW), "--out", out, "--set", "export.precisions=['fp32']", "--set", "quantize="]
        driver = child(*words, "--ray", nodes.address)
        began = set(at_once(out, driver))
        nodes.lose_one()
        answer = driver.wait()
    finally:
        nodes.stop()
    assert answer.returncode == 0, answer.stderr
    assert "2 runs on 2 nodes of the cluster" in answer.stderr
    found = json_file.load(out / "sweep.json", Found)
    assert [one.state for one in found.combinations] == ["done", "done"]
    assert {one.folder for one in found.combinations} == began
    assert len(list(out.glob("*/2-train/stage.json"))) == 2


class Nodes:
    """A Ray cluster of two nodes."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        small = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
        self._cluster = Cluster(initialize_head=True, head_node_args={**small, "include_dashboard": False})
        self._other = self._cluster.add_node(**small)
        self._cluster.wait_for_nodes()
        self.address = self._cluster.address

    def lose_one(self) -> None:
        self._cluster.remove_node(self._other, allow_graceful=False)

    def stop(self) -> None:
        self._cluster.shutdown()
