"""Hyper-parameter search: its parts against brute force and killed workers, and real searches from end to end."""

from __future__ import annotations

import itertools
import json
import os
import random
import subprocess
import threading
import time
import tomllib
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import optuna
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna import Study
from optuna.trial import FrozenTrial, TrialState

from edgekit.cli.main import cli
from edgekit.config import recipe_file
from edgekit.config.recipe import Recipe
from edgekit.config.tune_section import TuneSection
from edgekit.console import Console
from edgekit.disk import json_file
from edgekit.errors import InputError, Shortfall
from edgekit.measurements import Timing
from edgekit.pipeline.results import Results
from edgekit.pipeline.run import Job
from edgekit.tune import findings, storage
from edgekit.tune.flow import Search, _mixed
from edgekit.tune.leases import Locks
from edgekit.tune.objectives import accuracy, latency, size
from edgekit.tune.port import Asked
from edgekit.tune.records import Result as Found
from edgekit.tune.records import Target, Trial
from edgekit.tune.samplers import grid
from edgekit.tune.slots import ERROR, SLOT, Queue, slots
from edgekit.tune.space import Space
from edgekit.types import Artifact, Checkpoint, TensorSpec
from tests import postgres, support, warm

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
"""
SPACE = """
[tune]
sampler = "random"
trials  = 3
[tune.space]
"train.lr"      = { low = 1e-3, high = 1e-1, log = true }
train.optimizer = ["adamw", "sgd"]
train.augment   = [[], ["random_crop"]]
"""


def recipe(**tables: Any) -> Recipe:
    raw = {"model": {"name": "mobilenetv2_100"}, "data": {"source": "digits"}, "train": {}, **tables}
    return Recipe.model_validate(raw)


def written(folder: Path, tune: str = SPACE) -> Path:
    path = folder / "tiny.toml"
    path.write_text(TINY + tune)
    return path


def run(*words: object) -> Result:
    return CliRunner().invoke(cli, ["tune", "--quiet", *map(str, words)])


# The space ------------------------------------------------------------------------------------------


def test_keys_may_be_quoted_or_not() -> None:
    quoted = TuneSection.model_validate(tomllib.loads('space = {"train.lr" = [1.0, 2.0], "prune.macs" = [0.5]}'))
    nested = TuneSection.model_validate(tomllib.loads("[space]\nprune.macs = [0.5]\ntrain.lr = [1.0, 2.0]"))
    assert quoted.space == nested.space == {"prune.macs": [0.5], "train.lr": [1.0, 2.0]}


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ({}, "nothing to vary"),
        ({"train.lr": 3}, "give a list of values, or a range"),
        ({"train.lr": []}, "the list is empty"),
        ({"train.lr": [0.1, 0.1]}, "0.1 is listed twice"),
        ({"train.lr": {"low": 1, "hi": 2}}, 'a range has no "hi"'),
        ({"train.lr": {"low": 1}}, "needs low and high"),
        ({"train.lr": {"low": "1", "high": 2}}, "are numbers"),
        ({"train.lr": {"low": 1, "high": 2, "log": 1}}, "log is true or false"),
        ({"train.lr": {"low": 2, "high": 2}}, "low = 2 must be less than high = 2"),
        ({"train.lr": {"low": 0, "high": 2, "log": True}}, "log needs low > 0"),
        ({"train.lr": {"low": 1, "high": 2, "step": 0}}, "step = 0 must be more than 0 and at most high - low = 1"),
        ({"train.lr": {"low": 1, "high": 2, "step": 3}}, "step = 3 must be more than 0 and at most high - low = 1"),
        ({"train.lr": {"low": 1, "high": 2, "step": 1, "log": True}}, "log or step, not both"),
    ],
)
def test_an_impossible_range_is_refused(space: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match="space") as error:
        TuneSection.model_validate({"space": space})
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ({"train.lrr": [1.0]}, '"train.lrr": no such key of a recipe; did you mean "train.lr"'),
        ({"lr": [1.0]}, '"lr": no such key of a recipe; did you mean "train.lr" or "prune.lr" or "quantize.qat.lr"?'),
        ({"tune.trials": [1, 2]}, '"tune.trials": no such key'),
        ({"train.lr": [0.1, -1.0]}, "train.lr = -1.0: input should be greater than 0"),
        ({"train.lr": {"low": 0.1, "high": 1.0}, "train.ema": {"low": 0.5, "high": 2.0}}, "train.ema = 2.0: input"),
        ({"train.epochs": {"low": 1.5, "high": 3}}, "train.epochs = 1.5: input should be a valid integer"),
        ({"train.batch_norm": ["train", "frosen"]}, 'did you mean "frozen"?'),
        ({"prune.score": ["l1", "l2"]}, "give exactly one of macs"),
        ({"model.name.x": [1]}, "name is a value, not a section"),
    ],
)
def test_a_key_or_value_that_no_run_could_have_is_refused(space: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=r"^tune\.space: ") as error:
        Space(recipe(model={"name": "mobilenetv2_100"}), space)
    assert said in str(error.value)


def test_values_are_drawn_as_the_key_takes_them() -> None:
    asked = {
        "train.epochs": {"low": 2, "high": 9, "step": 3},
        "prune.macs": {"low": 0.25, "high": 0.75, "step": 0.25},
        "prune.distill": {"low": 0, "high": 1},
        "train.augment": [[], ["flip"], ["flip", "random_crop"]],
        "model.options.dropout": [0.0, 0.1],
    }
    space = Space(recipe(), asked)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    rows = [space.settings(space.drawn(study.ask())) for _ in range(60)]
    assert {row["train.epochs"] for row in rows} == {2, 5, 8}
    assert {row["prune.macs"] for row in rows} == {0.25, 0.5, 0.75}
    assert len({row["prune.distill"] for row in rows}) == 60, "integers at the ends of a real key do not make it one"
    made = [space.made(row) for row in rows]
    assert {len(each.train.augment) for each in made if each.train} == {0, 1, 2}
    assert {each.model.options["dropout"] for each in made} == {0.0, 0.1}
    assert all(each.prune and each.prune.macs == row["prune.macs"] for each, row in zip(made, rows, strict=True))


@given(st.integers(1, 4), st.integers(1, 3), st.integers(0, 5), st.integers(1, 3))
def test_a_grid_has_every_combination_once(words: int, flags: int, low: int, step: int) -> None:
    ranges = ["minmax", "mse", "auto", "entropy"][:words]
    lists: dict[str, list[Any]] = {"train.optimizer": ["adamw", "sgd"], "quantize.range": ranges}
    lists["train.ema"] = [0.1, 0.2, 0.3][:flags]
    values = list(range(low, low + 3, step)) if step < 3 else [low]
    asked: dict[str, Any] = dict(sorted({**lists, "train.frozen": {"low": low, "high": low + 2, "step": step}}.items()))
    if step > 2:
        asked["train.frozen"] = [low]
    space = Space(recipe(), asked)
    by_key = {**lists, "train.frozen": values}
    expected = [dict(zip(asked, row, strict=True)) for row in itertools.product(*(by_key[key] for key in asked))]
    assert [grid.fixed(space, number) for number in range(grid.count(space))] == expected


def test_a_grid_needs_steps() -> None:
    with pytest.raises(InputError, match=r'"train\.lr": a grid needs a list of values, or a range with a step'):
        grid.count(Space(recipe(), {"train.lr": {"low": 0.1, "high": 1.0}}))


# Every trial exactly once -------------------------------------------------------------------------------


storage.silence()


class Killed(BaseException):
    """What SIGKILL does, as far as the storage can see: nothing is written any more."""


class Worker:
    """One worker without training, which dies at a write to the storage.

    Args:
        journal: the file that all share.
        count: trials of the search.
        dies: after so many writes; None: never.
    """

    def __init__(self, journal: Path, count: int, dies: int | None) -> None:
        made = storage.journal(journal)
        backend: Any = made._backend
        append, left = backend.append_logs, [dies]

        def counted(logs: list[dict[str, Any]]) -> None:
            if left[0] == 0:
                raise Killed
            if left[0] is not None:
                left[0] -= 1
            append(logs)

        sampler = optuna.samplers.RandomSampler()
        self.study = optuna.create_study(storage=made, study_name="s", load_if_exists=True, sampler=sampler)
        backend.append_logs = counted
        self.lease = Locks(journal.with_suffix(".workers"))
        self.distributions = {"x": optuna.distributions.FloatDistribution(0, 1)}
        self.queue = Queue(self.study, count, self.lease, self.distributions, lambda number: {})

    def work(self, trials: int | None = None) -> None:
        """Take trials until there are none, or so many were taken."""
        try:
            while trials != 0 and not self.queue.over:
                trial = self.queue.take()
                if trial is None:
                    time.sleep(0.001)
                    continue
                x = trial.suggest_float("x", 0, 1)
                if not self.study.trials[trial.number].intermediate_values:
                    trial.report(x, 1)
                self.study.tell(trial, trial.params["x"])
                trials = None if trials is None else trials - 1
            self.lease.close()
        except Killed:
            self.die()

    def die(self) -> None:
        """What the kernel does then."""
        assert self.lease._file is not None
        self.lease._file.close()


def check(study: Study, count: int) -> None:
    """Each slot has one result, with the values that the first worker drew for it."""
    for number in range(count):
        mine = [one for one in study.trials if one.user_attrs.get(SLOT) == number]
        assert sum(one.state == TrialState.COMPLETE for one in mine) == 1
        assert len({one.params["x"] for one in mine if one.params}) == 1


@settings(max_examples=15)
@given(st.lists(st.integers(0, 30), max_size=8), st.integers(1, 4))
def test_a_kill_at_any_write_loses_and_doubles_nothing(
    tmp_path_factory: pytest.TempPathFactory, kills: list[int], count: int
) -> None:
    journal = tmp_path_factory.mktemp("kills") / "trials.journal"
    monkey = pytest.MonkeyPatch()
    monkey.setattr("edgekit.tune.leases.UNSIGNED", 0.0)
    with monkey.context():
        for dies in kills:
            Worker(journal, count, dies).work()
        last = Worker(journal, count, None)
        last.work()
    check(last.study, count)


def test_workers_that_run_and_die_at_the_same_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekit.tune.leases.UNSIGNED", 0.5)
    journal, count, chance = tmp_path / "trials.journal", 20, random.Random(0)

    def one(dies: list[int | None]) -> None:
        for each in dies:
            Worker(journal, count, each).work()

    plans: list[list[int | None]] = [[*(chance.randrange(40) for _ in range(4)), None] for _ in range(4)]
    threads = [threading.Thread(target=one, args=(plan,)) for plan in plans]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    last = Worker(journal, count, None)
    last.work()
    check(last.study, count)


def test_a_slot_that_two_opened_keeps_what_the_first_drew(tmp_path: Path) -> None:
    """The second attempt was made before the first drew its values, and is taken up after the first one's death."""
    first, second = (Worker(tmp_path / "trials.journal", 1, None) for _ in range(2))
    unseen = slots(first.study, 1)
    for worker in (first, second):
        assert worker.queue._open(unseen)
    trial = first.queue.take()
    assert trial is not None
    trial.suggest_float("x", 0, 1)
    first.die()
    second.work()
    check(second.study, 1)


def test_a_search_can_be_made_longer_or_shorter(tmp_path: Path) -> None:
    journal = tmp_path / "trials.journal"
    Worker(journal, 2, None).work()
    longer = Worker(journal, 5, None)
    longer.work(2)  # and this worker lives on
    Worker(journal, 3, None).work()
    assert sum(slot.result is not None for slot in slots(longer.study, 5)) == 4
    longer.work()
    check(longer.study, 5)


def test_a_result_that_comes_after_the_funeral_does_not_count(tmp_path: Path) -> None:
    """A frozen worker is taken for dead; another one does its trial, and then the first wakes up."""
    frozen, other = (Worker(tmp_path / "trials.journal", 1, None) for _ in range(2))
    trial = frozen.queue.take()
    assert trial is not None
    trial.suggest_float("x", 0, 1)
    frozen.die()
    other.work()
    with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
        trial.set_user_attr(ERROR, "late")
    told = frozen.study.tell(trial, 0.5, skip_if_finished=True)
    assert told.state == TrialState.FAIL
    check(other.study, 1)


def test_a_line_that_a_kill_cut_short_is_dropped(tmp_path: Path) -> None:
    journal = tmp_path / "trials.journal"
    Worker(journal, 1, None).work()
    whole = journal.read_bytes()
    with journal.open("ab") as file:
        file.write(b'{"op_code":4,"work')
    again = Worker(journal, 2, None)
    again.work()
    check(again.study, 2)
    assert journal.read_bytes().startswith(whole + b'{"')
    assert all(json.loads(line) for line in journal.read_text().splitlines())


# Real searches ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Result]:
    """A recipe, the folder of its search, and what the command said."""
    folder = tmp_path_factory.mktemp("searched")
    path = written(folder)
    return path, folder / "out", run(path, "--out", folder / "out", "--json")


def test_what_is_found_is_what_the_runs_say(searched: tuple[Path, Path, Result]) -> None:
    path, out, answer = searched
    assert answer.exit_code == 0, answer.stderr
    found = json_file.load(out / "tune.json", Found)
    assert json.loads(answer.stdout) == json.loads((out / "tune.json").read_text())
    assert [one.state for one in found.trials] == ["complete"] * 3
    for one in found.trials:
        folder = out / f"trial-{one.number:04}"
        checkpoint = json_file.load(folder / "2-train" / "checkpoint.json", Checkpoint)
        (score,) = [metrics for metrics in checkpoint.metrics if metrics.split == "val"]
        assert one.values == (score.accuracy,)
        assert one.of == (f"float network in torch, {score.images} validation images",)
        ran = json.loads((folder / "recipe.json").read_text())["recipe"]
        assert {key: ran["train"][key.removeprefix("train.")] for key in one.settings} == one.settings
    best = max(found.trials, key=lambda one: one.values)
    assert found.front == (best.number,)
    replayed = recipe_file.load(out / "best.toml")
    assert replayed.train is not None
    assert replayed.train.lr == best.settings["train.lr"]
    assert replayed.model_copy(update={"train": None, "name": "tiny"}) == recipe_file.load(path).model_copy(
        update={"train": None, "tune": None}
    )
    assert f"trial {best.number}" in (out / "tune.html").read_text()
    assert f"| **{best.number}** |" in (out / "tune.md").read_text()


def test_the_same_command_goes_on(searched: tuple[Path, Path, Result]) -> None:
    path, out, _ = searched
    before = json_file.load(out / "tune.json", Found)
    made = {file: file.stat().st_mtime_ns for file in out.glob("trial-*/2-train/stage.json")}
    answer = run(path, "--out", out, "--trials", 4)
    assert answer.exit_code == 0, answer.stderr
    found = json_file.load(out / "tune.json", Found)
    assert found.trials[:3] == before.trials
    assert found.settled == 4
    assert {file: file.stat().st_mtime_ns for file in made} == made


@pytest.mark.parametrize(
    ("word", "said"),
    [
        (
            'tune.space={"train.lr"=[0.1, 0.2]}',
            'tune.space."train.augment" was [[], ["random_crop"]], and is not there',
        ),
        ("train.epochs=2", "train.epochs was 1, and is 2"),
        ("tune.sampler=tpe", 'tune.sampler was "random", and is "tpe"'),
    ],
)
def test_a_study_is_not_mixed_with_another(searched: tuple[Path, Path, Result], word: str, said: str) -> None:
    path, out, _ = searched
    answer = run(path, "--out", out, "--set", word)
    assert answer.exit_code == 2
    assert said in answer.stderr
    assert "begin another: --study NAME, and another --out" in answer.stderr


def test_what_a_worker_draws_does_not_depend_on_who_else_works(searched: tuple[Path, Path, Result]) -> None:
    """Of a random search: the seed and a trial's number decide."""
    path, out, _ = searched
    found = json_file.load(out / "tune.json", Found)
    job = Job(recipe_file.load(path), path.parent, out.parent / "other", {})
    job.out.mkdir()
    search = Search(job, Console(quiet=True))
    second = search.study.ask()
    search.study.sampler = search._sampler.sampler(_mixed(0, 1))
    assert search.space.settings(search.space.drawn(second)) == found.trials[1].settings
    search._lease.close()


def test_a_poor_trial_is_stopped_and_a_good_one_is_not(tmp_path: Path) -> None:
    space = '[tune]\nsampler = "grid"\npruner = "halving"\n[tune.space]\ntrain.lr = [1e-2, 1e-8]\ntrain.epochs = [2]\n'
    more = ["--set", "train.batch=4"]
    answer = run(written(tmp_path, space), "--out", tmp_path / "out", *more)
    assert answer.exit_code == 0, answer.stderr
    good, poor = json_file.load(tmp_path / "out" / "tune.json", Found).trials
    assert (good.state, list(good.epochs)) == ("complete", [1, 2])
    assert (poor.state, list(poor.epochs), poor.values) == ("pruned", [1], ())
    assert poor.epochs[1] < good.epochs[1]
    assert (tmp_path / "out" / "trial-0001" / ".2-train.partial" / "last.pt").is_file(), "its last checkpoint is kept"


def test_what_varies_later_does_not_train_again(tmp_path: Path) -> None:
    """Two trials that differ in the int8 graph alone share data and network, and are told apart by it."""
    space = (
        "[quantize]\nmax_drop = 100.0\ncalibration = 8\nsensitivity = false\nbias_correction = false\n"
        '[tune]\nsampler = "grid"\n[tune.space]\nquantize.range = ["minmax", "percentile"]\n'
    )
    out = tmp_path / "out"
    answer = run(written(tmp_path, space), "--out", out, "--json")
    assert answer.exit_code == 0, answer.stderr
    found = json_file.load(out / "tune.json", Found)
    assert found.settled == 2
    for one in found.trials:
        rungs = json.loads((out / f"trial-{one.number:04}" / "5-quantize" / "quantization.json").read_text())["rungs"]
        assert one.values == (next(rung["accuracy"] for rung in rungs if rung["chosen"]),)
        assert one.of == ("int8 graph in torch, 180 validation images",)
    first, second = (out / f"trial-{number:04}" / "2-train" / "model.safetensors" for number in (0, 1))
    assert first.samefile(second)


def test_what_is_weighed_is_what_is_timed() -> None:
    """The fastest int8 file on the first device; without a device the smallest."""

    def file(name: str, precision: str, count: int) -> Artifact:
        spec = TensorSpec("x", (1,), "float32", "")
        return Artifact(f"{name}-{precision}", name, precision, name, "", count, 0, (), spec, spec)  # type: ignore[arg-type]

    def row(artifact: str, device: str, p50: float) -> Timing:
        numbers = {"load_ms": 1.0, "first_ms": 1.0, "min_ms": 1.0, "mean_ms": 1.0, "p90_ms": None, "p99_ms": None}
        rest = {"warmup": 1, "rounds": 1, "rss_bytes": 0, "load_average": 0.0, "samples": (), **numbers}
        return Timing(artifact, "litert", "2.3", "cpu", device, 1, 1, "measured", p50_ms=p50, **rest)  # type: ignore[arg-type]

    files = (file("onnx", "int8", 100), file("tflite", "int8", 120), file("onnx", "fp32", 50))
    rows = (row("onnx-int8", "a", 3.0), row("tflite-int8", "a", 2.0), row("onnx-fp32", "a", 1.0),
            row("onnx-int8", "b", 4.0))  # fmt: skip
    results = Results(artifacts=files, latency=rows)
    whole = recipe(quantize={}, export={"formats": ["onnx", "tflite"]})
    both = Asked(whole, (), ("latency", "size"), ("a", "b"))
    assert latency.names(both) == ["latency on a", "latency on b"]
    assert [value.value for value in latency.values(both, results, Path())] == [2.0, 4.0]
    assert latency.values(both, results, Path())[0].of == "measured p50 of tflite-int8 in litert 2.3, 1 thread, on a"
    assert size.values(both, results, Path()) == [(120.0, "tflite-int8")]
    assert size.values(Asked(whole, (), ("size",), ()), results, Path()) == [(100.0, "onnx-int8")]
    with pytest.raises(Shortfall, match="no int8 file was timed on c"):
        latency.values(Asked(whole, (), ("latency",), ("c",)), results, Path())


@pytest.mark.parametrize(
    ("tables", "sections", "objectives", "stage"),
    [
        ({"prune": {"macs": 0.5}, "quantize": {}}, ("train",), ("accuracy",), "train"),
        ({"prune": {"macs": 0.5}}, ("prune",), ("accuracy",), "prune"),
        ({"prune": {"macs": 0.5}, "quantize": {}}, ("prune",), ("accuracy",), "quantize"),
        ({"quantize": {}, "export": {}}, ("train",), ("accuracy", "size"), "quantize"),
        ({"quantize": {}, "export": {"precisions": ["fp32"]}}, ("train",), ("accuracy", "size"), "train"),
    ],
)
def test_accuracy_is_that_of_what_the_trials_differ_in(
    tables: dict[str, Any], sections: tuple[str, ...], objectives: tuple[str, ...], stage: str
) -> None:
    assert accuracy.stage(Asked(recipe(**tables), sections, objectives, ())) == stage


@pytest.mark.parametrize(
    ("names", "code", "states"),
    [(["none", "missing.pth"], 0, ["complete", "failed"]), (["missing.pth", "none"], 2, ["open"])],
)
def test_a_trial_that_cannot_run_is_a_result_once_another_has_run(
    tmp_path: Path, names: list[str], code: int, states: list[str]
) -> None:
    space = f'[tune]\nsampler = "grid"\n[tune.space]\nmodel.weights = {json.dumps(names)}\n'
    answer = run(written(tmp_path, space), "--out", tmp_path / "out")
    assert answer.exit_code == code, answer.stderr
    assert ("missing.pth" in answer.stderr) == bool(code)
    assert [one.state for one in json_file.load(tmp_path / "out" / "tune.json", Found).trials] == states


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--sampler", "tpee"], 'did you mean "tpe"?'),
        (["--objective", "latency"], '"latency" is that of a file, but the recipe has no [export] section'),
        (["--objective", "latency", "--set", "export.formats=['onnx']"], '"latency" needs a device'),
        (
            ["--objective", "accuracy,size", "--pruner", "median", "--set", "export.on_failure=skip"],
            "accuracy and size",
        ),
        (["--set", "train=", "--set", 'tune.space={"model.crop"=[0.5]}'], "the recipe has no [train] section"),
        (["--set", "quantize.rescue=[]", "--set", 'tune.space={"quantize.range"=["mse"]}'], "quantize.rescue is empty"),
        (["--storage", "postgresql://me:secret@127.0.0.1:1/x"], "me:***@127.0.0.1:1/x: cannot be reached: "),
        (["--storage", "what://x"], "SQLAlchemy has no such kind of database"),
        (["--storage", "x/y/z"], "there is no folder"),
        (["--storage", __file__], "is not a journal of Optuna"),
    ],
)
def test_what_cannot_be_done_is_refused_before_any_trial(tmp_path: Path, words: list[str], said: str) -> None:
    answer = run(written(tmp_path), "--out", tmp_path / "out", *words)
    assert answer.exit_code == 2
    assert said in answer.stderr
    assert "secret" not in answer.stderr
    assert not list(tmp_path.glob("out/trial-*"))


@pytest.mark.parametrize("kind", ["journal", "postgres"])
def test_a_killed_worker_loses_no_trial(tmp_path: Path, kind: str) -> None:
    if kind == "postgres" and postgres.programs() is None:
        pytest.skip("no PostgreSQL server here: apt-get install postgresql")
    with postgres.server() if kind == "postgres" else nullcontext() as server:
        word = server.url if server else str(tmp_path / "trials.journal")
        path = written(tmp_path, SPACE.replace("[tune]", "[tune]\ngrace = 3").replace("trials  = 3", "trials  = 2"))
        words = [path, "--out", tmp_path / "out", "--storage", word, "--set", "train.epochs=4"]
        child = warm.Child(["-m", "edgekit", "tune", *map(str, words)], support.environment())
        killed = _in_the_middle(word)
        child.kill()
        child.wait()
        answer = run(*words)
    assert answer.exit_code == 0, answer.stderr
    found = json_file.load(tmp_path / "out" / "tune.json", Found)
    assert [one.state for one in found.trials] == ["complete"] * 2
    again = found.trials[killed.user_attrs[SLOT]]
    assert again.attempts == 2
    assert again.settings["train.lr"] == killed.params["train.lr"]
    assert list(again.epochs) == [1, 2, 3, 4]
    assert "secret" not in (tmp_path / "out" / "tune.json").read_text()


def test_sigterm_ends_all_workers(tmp_path: Path) -> None:
    word = str(tmp_path / "trials.journal")
    path = written(tmp_path, SPACE.replace("trials  = 3", "trials  = 100"))
    words: list[str | Path] = ["tune", path, "--out", tmp_path / "out", "--storage", word, "--workers", "2"]
    with subprocess.Popen(
        support.command(*words), env=support.environment(), stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        _in_the_middle(word)
        assert (tmp_path / "out" / "worker-2.log").exists()
        process.terminate()
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.endswith("edgekit: interrupted; run the same command again to resume\n")
    assert "worker" not in said
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)  # its group is empty


def _in_the_middle(word: str) -> FrozenTrial:
    """Wait for a trial that is being trained, as Optuna itself sees it."""
    if "://" in word:
        made: Any = optuna.storages.RDBStorage(word.replace("postgresql:", "postgresql+psycopg:"))
    else:
        made = storage.journal(Path(word))
    study = optuna.create_study(study_name="tiny", storage=made, direction="maximize", load_if_exists=True)
    while not (found := [one for one in study.get_trials(states=(TrialState.RUNNING,)) if one.intermediate_values]):
        time.sleep(0.05)
    if "://" in word:
        made.remove_session()
        made.engine.dispose()
    return found[0]


# The front --------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=12))
def test_nothing_on_the_front_is_beaten(values: list[tuple[int, int]]) -> None:
    targets = (Target("accuracy", "accuracy", "share", True), Target("size", "size", "bytes", False))
    trials = [Trial(number, "complete", {}, (float(a), float(b))) for number, (a, b) in enumerate(values)]
    front = {one.number for one in findings._front(trials, targets)}
    for one in trials:
        better = [
            o
            for o in trials
            if o.values != one.values and o.values[0] >= one.values[0] and o.values[1] <= one.values[1]
        ]
        twin = any(o.values == one.values and o.number < one.number for o in trials)
        assert (one.number in front) == (not better and not twin)
