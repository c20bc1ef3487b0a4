"""The search for a budget: its parts against brute force and made-up trainings, and one real search from end to end."""

from __future__ import annotations

import itertools
import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit import checkpoint_file
from edgekit.config import recipe_file
from edgekit.config.fit_section import FitSection
from edgekit.config.recipe import PruneSection, QuantizeSection, Recipe
from edgekit.console import Console
from edgekit.data.listing import expand
from edgekit.device.file import Device
from edgekit.disk import json_file
from edgekit.disk.run_directory import RunDirectory
from edgekit.errors import InputError, Paused, Shortfall
from edgekit.fit import frozen, proof, rivals, rungs, timing, widths
from edgekit.fit.flow import Search
from edgekit.fit.networks import Workshop
from edgekit.fit.records import Candidate, Measurement, Net, Result
from edgekit.fit.widths import Budget
from edgekit.pipeline import run as pipeline
from edgekit.pipeline.run import Job
from edgekit.prune import _greedy
from edgekit.prune._greedy import Block
from edgekit.search.latency_target import corrected
from edgekit.types import Checkpoint, PrunePlan
from edgekit.weights import published
from tests import fit_job, support

QUIET = Console(quiet=True)
NET = Net("net", 32)


# Allocation ----------------------------------------------------------------------------------------


def blocks(values: Sequence[Sequence[float]]) -> dict[str, list[Block]]:
    return {
        str(group): [Block((value,), str(group), (place,), False, value) for place, value in enumerate(row)]
        for group, row in enumerate(values)
    }


@given(
    st.lists(st.integers(1, 10_000), min_size=4, max_size=16, unique=True),
    st.integers(1, 4),
    st.floats(0.1, 0.9),
)
def test_what_goes_is_what_matters_least_for_what_it_costs(ratios: list[int], groups: int, share: float) -> None:
    """Where costs add up, the blocks that go are the first ones in the order of value for each unit of cost."""
    prices = {str(group): 1.0 + group for group in range(groups)}
    rows = [sorted(ratios[group::groups]) for group in range(groups)]
    table = blocks([[ratio * (1.0 + group) for ratio in row] for group, row in enumerate(rows)])
    whole = sum(prices[head] * len(row) for head, row in table.items())
    wanted, left = set(), whole
    for ratio, head, place in sorted((ratio, str(g), n) for g, row in enumerate(rows) for n, ratio in enumerate(row)):
        if left <= share * whole:
            break
        left -= prices[head]
        wanted.add((head, place, ratio))

    def cost(gone: Mapping[str, int]) -> float:
        return float(whole) - sum(prices[head] * count for head, count in gone.items())

    drop = _greedy.by_value(table, dict.fromkeys(table, 0), cost, share * whole, {head: {head} for head in table})
    assert {(head, place) for head, places in drop.items() for place in places} == {(h, p) for h, p, _ in wanted}


def test_blocks_that_save_only_together_are_weighed_together() -> None:
    """A kernel's tile is two blocks wide: one block of "0" saves nothing, two save 4; "1" saves 1 for each."""
    table = blocks([[1.0, 1.0], [0.9, 0.9]])

    def cost(gone: Mapping[str, int]) -> float:
        return 10.0 - 4.0 * (gone.get("0", 0) // 2) - 1.0 * gone.get("1", 0)

    drop = _greedy.by_value(table, {"0": 0, "1": 0}, cost, 7.0, {"0": {"0"}, "1": {"1"}})
    assert drop == {"0": {0, 1}}  # 2 / 4 is less than 0.9 / 1


@given(st.floats(0.0, 0.5), st.floats(0.2, 0.9))
def test_a_plan_is_corrected_at_once_where_time_is_linear(fixed: float, aim: float) -> None:
    def measured(planned: float) -> float:
        return fixed + (1 - fixed) * planned

    if aim <= measured(0.3):
        return
    share = corrected(0.8, measured(0.8), aim)
    assert measured(share) == pytest.approx(max(aim, measured(0.8 / 3)), rel=1e-6)


def test_a_budget_is_the_worst_of_all_limits() -> None:
    section = FitSection(max_ms=10, max_mb=2, max_rss=100)
    row = Measurement("a", "cpu", "litert", "2", "tflite", "measured", 4.0, 5.0, 3.0, 50.0, 1.5)
    assert Budget(section, {}, 0.0).load([row]) == 0.75
    assert Budget(section, {}, 0.0).load([row, replace(row, device="b", high=9.0)]) == 0.9
    assert Budget(section, {}, 0.0).load([replace(row, rss_mb=120.0)]) == 1.2


def test_what_is_out_of_reach_names_the_limit() -> None:
    row = Measurement("a", "cpu", "litert", "2", "tflite", "measured", 4.0, 5.0, 3.0, 50.0, 1.5)
    least = replace(Candidate("narrowest", NET, "", None, 1, 1), measured=(row,))
    said = [
        (FitSection(max_ms=2), r"2 ms is out of reach on a: even the narrowest net .* --max-ms 5\.5"),
        (FitSection(max_ms=9, max_mb=1), r"--max-mb 1 is out of reach: .* 1\.5 MB; allow at least --max-mb 1\.65"),
        (
            FitSection(max_ms=9, max_rss=20),
            r"--max-rss 20 is out of reach: .* 50 MB; allow at least --max-rss 55",
        ),
    ]
    for section, pattern in said:
        assert re.search(pattern, rivals.out_of_reach([least], section, NET))
    assert rivals.out_of_reach([least], FitSection(max_ms=3.5), NET) == ""
    smaller = replace(least, measured=(replace(row, low=8.0, file_mb=0.5),))  # and slower
    assert rivals.out_of_reach([least, smaller], FitSection(max_ms=3.5, max_mb=1), NET) == ""


def test_lower_resolutions_that_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time follows the pixels here, and the whole network at 160 px takes the budget `times` over."""

    def sides(times: float, side: int = 160) -> list[Any]:
        monkeypatch.setattr(rivals, "Cost", lambda _, __, size: size)
        monkeypatch.setattr(widths.Budget, "of", lambda _, size: lambda gone: times * (size[1] / 160) ** 2)
        whole: Any = SimpleNamespace(
            net=replace(NET, side=side), module=None, spec=SimpleNamespace(shape=(3, side, side))
        )
        return [net.side for net in rivals.nets(whole, Budget(FitSection(max_ms=1.0), {}, 1.0))]

    assert sides(1 / 0.35) == [80, 96, 128]  # 0.97 of the budget allow up to 93 px
    assert sides(1 / 0.75) == [128, 144]
    assert sides(1.1) == [144]
    assert sides(100.0) == [64, 112]  # none is small enough
    assert sides(2.0, side=16) == []


def test_narrower_versions_with_published_weights_are_tried() -> None:
    """As timm 1.0 publishes them."""
    small = ["mobilenetv3_small_075", "mobilenetv3_small_050"]
    assert published.narrower("mobilenetv3_small_100") == small
    assert published.narrower("mobilenetv3_small_100.lamb_in1k") == small
    assert published.narrower("mobilenetv3_small_075") == small[1:]
    assert published.narrower("mobilenetv4_conv_small") == ["mobilenetv4_conv_small_050"]
    assert published.narrower("mobilenetv2_140") == ["mobilenetv2_100", "mobilenetv2_050"]  # 110d and 120d are deeper
    for name in ("resnet18", "torchvision/resnet18", "net.py:make", "mobilenetv2_050"):
        assert published.narrower(name) == []
    whole: Any = SimpleNamespace(net=Net("mobilenetv2_100", 160))
    narrow, named = Net("mobilenetv2_050", 160), Net("resnet18", 160)

    def nets(pretrained: bool, models: list[str] | None) -> list[Net]:
        section = FitSection(max_ms=1.0, resolutions=[], models=models)
        return rivals.nets(whole, Budget(section, {}, 1.0), pretrained)

    assert nets(True, None) == [narrow]
    assert nets(False, None) == nets(True, []) == []
    assert nets(True, ["resnet18"]) == nets(False, ["resnet18"]) == [named]


def test_what_int8_may_cost_at_the_end(tmp_path: Path) -> None:
    """No layers in float where there is no time for them, and no more accuracy than [fit] allows against the whole."""
    job = fit_job.make(tmp_path, {})
    fit = job.recipe.fit
    assert fit is not None

    def final(rescue: list[str], load: float, ahead: float = 0.0, max_drop: float = 1.0) -> QuantizeSection:
        quantize = QuantizeSection.model_validate({"rescue": rescue, "max_drop": 1.0})
        update = {"quantize": quantize, "fit": fit.model_copy(update={"max_drop": max_drop})}
        workshop = Workshop(replace(job, recipe=job.recipe.model_copy(update=update)), QUIET)
        made = workshop.final(candidates("a")[0], load, ahead).quantize
        assert made is not None
        return made

    assert final(["range", "keep_float", "qat"], 0.95).rescue == ["range", "qat"]
    assert final(["range", "keep_float", "qat"], 0.6).rescue == ["range", "keep_float", "qat"]
    assert final(["qat"], 0.95).rescue == ["qat"]
    assert final([], 0.9, ahead=0.3).max_drop == pytest.approx(1.3)
    assert final([], 0.9, ahead=-0.8).max_drop == 1.0
    assert final([], 0.9, ahead=-0.8, max_drop=3.0).max_drop == pytest.approx(2.2)
    assert final([], 0.9, ahead=2.0, max_drop=99.0).max_drop == 100.0
    fp32 = Workshop(replace(job, recipe=job.recipe.model_copy(update={"quantize": None})), QUIET)
    assert fp32.final(candidates("a")[0], 0.95, 0.0).quantize is None


# Rungs ---------------------------------------------------------------------------------------------


class Trainer:
    """Stands for the workshop: the score after an epoch is known beforehand."""

    def __init__(self, scores: dict[str, list[float]], folder: Path, recover: int = 20) -> None:
        self.scores, self.calls = scores, list[tuple[str, int]]()
        self.prune = PruneSection(macs=0.5, recover=recover)
        self.console, self.job = QUIET, SimpleNamespace(out=folder)

    def pruned(self, one: Candidate) -> str:
        return one.id

    def run(self, folder: Path, recipe: Any, last: str, net: Net, pause: int) -> None:
        self.calls.append((folder.name, pause))
        raise Paused(self.scores[folder.name][min(pause, len(self.scores[folder.name])) - 1], pause, 1.0)


def candidates(names: str) -> list[Candidate]:
    return [Candidate(name, NET, "", PrunePlan({}, {}), 1, 1) for name in names]


def test_the_weaker_half_goes_after_each_rung(tmp_path: Path) -> None:
    scores = {name: [0.5 + 0.01 * place] for place, name in enumerate("abcdef")}
    trainer = Trainer(scores, tmp_path)
    done = {one.id: one for one in rungs.halve(trainer, candidates("abcdef"), None, lambda now: None)}  # type: ignore[arg-type]
    assert trainer.calls == [
        *((name, 1) for name in "abcdef"),
        *((name, 3) for name in "fed"),
        *((name, 20) for name in "fe"),
    ]
    assert {name for name, one in done.items() if not one.dropped} == {"f", "e"}
    assert "50.0% after epoch 1, where 3 had at least 53.0%" in done["a"].dropped
    assert [each.epochs for each in done["f"].trained] == [1, 3, 20]


def test_a_search_that_goes_on_trains_nothing_twice(tmp_path: Path) -> None:
    scores = {name: [0.5 + 0.01 * place] for place, name in enumerate("abcd")}
    trainer, kept = Trainer(scores, tmp_path), list[Sequence[Candidate]]()

    def killed(now: Sequence[Candidate]) -> None:
        kept.append(now)
        if len(trainer.calls) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rungs.halve(trainer, candidates("abcd"), None, killed)  # type: ignore[arg-type]
    rungs.halve(trainer, kept[-1], None, lambda now: None)  # type: ignore[arg-type]
    assert len(trainer.calls) == len(set(trainer.calls))
    assert trainer.calls[-1][1] == 20


def test_time_that_is_spent_ends_a_rung_with_fewer(tmp_path: Path) -> None:
    trainer = Trainer({name: [0.5] for name in "abcd"}, tmp_path)
    done = rungs.halve(trainer, candidates("abcd"), 0.0, lambda now: None)  # type: ignore[arg-type]
    assert [one.dropped for one in done if one.id != "a"] == ["the time budget was spent"] * 3
    assert trainer.calls == [("a", 1), ("a", 3), ("a", 20)]
    again = rungs.halve(trainer, done, None, lambda now: None)  # type: ignore[arg-type]
    assert not any(one.dropped == rungs.SPENT for one in again)
    assert ("b", 1) in trainer.calls


def test_the_engine_is_the_one_that_is_fast_for_wide_and_narrow_networks() -> None:
    def row(artifact: str, engine: str, ms: float) -> Any:
        return SimpleNamespace(artifact=artifact, engine=engine, p50_ms=ms)

    wide = [row("whole onnx", "a", 0.7), row("whole tflite", "b", 0.75), row("whole tflite", "c", 0.5)]
    narrow = [row("narrowest onnx", "a", 0.46), row("narrowest tflite", "b", 0.13)]  # c failed
    assert timing._fastest([*wide, *narrow], 2) == ("tflite", "b")
    assert timing._fastest(wide, 2) is None


def test_styles_late_in_the_list_go_without_another_file_when_enough_were_timed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Plans and times are made up: every file is too slow, so that each style would try again."""

    slow = Measurement("a", "cpu", "litert", "2", "tflite", "measured", 200.0, 201.0, 199.0, 50.0, 1.5)

    class Timed:
        console, files = Console(quiet=True), widths.MOST_FILES - 7  # of the two ends and the model

        def __call__(self, files: Mapping[str, Any]) -> dict[str, tuple[Measurement, ...]]:
            self.files += len(files)
            return dict.fromkeys(files, (slow,))

    tries = itertools.count()
    monkeypatch.setattr(widths, "plan", lambda *_: PrunePlan({"conv": (next(tries),)}, {"conv": 1000}))
    monkeypatch.setattr(widths, "narrowed", lambda *_: None)
    monkeypatch.setattr(widths, "candidate", lambda _, name, how, plan, __: Candidate(name, NET, how, plan, 1, 1))
    monkeypatch.setattr(widths.Budget, "of", lambda *_: lambda gone: 1.0)
    monkeypatch.setattr(widths, "corrected", lambda *_: 0.5)
    whole: Any = SimpleNamespace(net=NET, planner=SimpleNamespace(cost=None), files=lambda *_: {})
    clock: Any = Timed()
    budget = Budget(FitSection(max_ms=100.0), {}, 1.0)
    found = widths.close(whole, widths.STYLES[:6], budget, clock, 2.0)
    assert clock.files == widths.MOST_FILES
    assert len(found) == 6
    assert all(one.dropped for one in found)
    for _ in range(3):  # other resolutions
        widths.close(whole, [widths.elsewhere(NET)], budget, clock, 2.0, widths.ALL_FILES)
    assert clock.files == widths.ALL_FILES


# A recipe that replays -----------------------------------------------------------------------------


def test_the_frozen_recipe_is_the_recipe_with_the_outcome(tmp_path: Path) -> None:
    base, out = tmp_path / "recipes", tmp_path / "runs" / "x"
    out.mkdir(parents=True)
    raw = {
        "name": "x",
        "model": {"name": "net.py:make", "weights": "${NOT_SET:-../w}/a.safetensors"},
        "data": {
            "source": "image_folder",
            "path": "../images",
            "input": 64,
            "relabel": "../fix.csv",
            "exclude": ["a/b.jpg"],
        },
        "prune": {"plan": "somewhere.json", "recover": 3},
        "fit": {"max_ms": 2.5},
    }
    recipe = Recipe.model_validate(raw)
    plan = PrunePlan({"conv": (0, 2)}, {"conv": 4})
    one = Candidate("per-ms", NET, "", plan, 1, 1)
    path = frozen.write(out, recipe, base, one, {"max_ms": 2.5}, "two\nlines")
    read = recipe_file.load(path)
    assert path.read_text().startswith("# two\n# lines\n")
    assert read.fit == FitSection(max_ms=2.5)
    assert read.prune is not None
    assert read.prune.recover == 3
    assert json_file.load(expand(str(read.prune.plan), out), PrunePlan) == plan
    for key, was in (("path", "../images"), ("weights", "${NOT_SET:-../w}/a.safetensors")):
        section = read.data if key == "path" else read.model
        assert expand(getattr(section, key), out).resolve() == expand(was, base).resolve()
    assert read.data.relabel is not None
    assert expand(read.data.relabel, out).resolve() == (base / "../fix.csv").resolve()
    assert read.data.exclude == ["a/b.jpg"]  # paths in the data, not on the disk
    assert (out / read.model.name.partition(":")[0]).resolve() == base / "net.py"
    assert tomllib.loads(path.read_text())["model"]["weights"].startswith("${NOT_SET:-")


# The whole search ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    host = {"name": "host", "run": {"engines": ["litert"], "threads": [1], "seconds": 0.2, "rounds": 4}}
    return fit_job.make(tmp_path_factory.mktemp("fit"), {"host": Device.model_validate(host)})


def at(job: Job, **keys: Any) -> Job:
    assert job.recipe.fit is not None
    fit = job.recipe.fit.model_copy(update=keys)
    return replace(job, recipe=job.recipe.model_copy(update={"fit": fit}))


@pytest.fixture(scope="module")
def dry(job: Job, tmp_path_factory: pytest.TempPathFactory) -> Result:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        return Search(job, QUIET, dry=True).run()


def test_a_dry_run_predicts_a_front_and_trains_nothing(job: Job, dry: Result) -> None:
    assert RunDirectory(job.out / "whole").find("train") is None
    assert dry.narrowest is not None
    whole, narrowest = dry.whole.measured[0], dry.narrowest.measured[0]
    assert narrowest.ms < whole.ms
    macs = [one.macs for one in dry.front]
    assert macs == sorted(macs, reverse=True)
    assert len(macs) >= 3
    for one in dry.front:
        assert one.plan is not None
        assert one.predicted[0].low <= one.predicted[0].ms <= one.predicted[0].high
    assert json_file.load(job.out / "fit.json", Result) == dry


def test_a_budget_below_the_narrowest_is_refused_before_anything_is_trained(job: Job, dry: Result) -> None:
    with pytest.raises(Shortfall, match=r"0\.001 ms is out of reach on host: even the narrowest .* --max-ms"):
        Search(at(job, max_ms=0.001), QUIET).run()
    assert RunDirectory(job.out / "whole").find("train") is None


@pytest.mark.parametrize(
    ("high", "drops", "chosen", "holds"),
    [
        ({"a": 0.9}, {}, "a", True),
        ({"a": 1.1, "b": 0.9}, {}, "b", True),
        ({"a": 1.1, "b": 1.2, "c": 1.3, "d": 0.9}, {}, "a", False),  # three are tried
        ({"a": 0.9, "b": 0.9}, {"a"}, "a", False),  # too inaccurate: the next would be more so
        ({"a": 1.1, "b": 0.9}, {"b"}, "a", False),
        ({"a": math.nan, "b": 0.9}, {}, "b", True),  # cannot be built
        ({"a": 1.1, "b": math.nan}, {}, "a", False),
    ],
)
def test_what_is_too_slow_at_the_end_gives_way_to_the_next(
    high: dict[str, float], drops: set[str], chosen: str, holds: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prove(_: Any, one: Candidate, __: Recipe, result: Result) -> Result:
        if math.isnan(high[one.id]):
            raise Shortfall("quantize: int8 loses 9 points")
        row = Measurement("host", "cpu", "litert", "2", "tflite", "measured", 0.8, high[one.id], 0.7, 1.0, 1.0)
        return replace(result, shipped=(row,), said=one.id, holds=high[one.id] <= 1 and one.id not in drops)

    monkeypatch.setattr(proof, "prove", prove)
    search = Search(at(fit_job.make(tmp_path, {}), max_ms=1.0), QUIET)
    within = Measurement("host", "cpu", "litert", "2", "tflite", "measured", 0.8, 0.9, 0.7, 1.0, 1.0)
    best = [replace(one, measured=(within,)) for one in candidates("".join(high))]
    done = search._settle(Result(1.0, 50, 100.0, best[0], None, candidates=tuple(best)), best)
    assert (done.chosen, done.said, done.holds) == (chosen, chosen, holds)
    assert f"# {chosen}" in (tmp_path / "out" / frozen.RECIPE).read_text()
    given = {one.id: one.dropped for one in done.candidates if one.dropped}
    why = "quantize: int8 loses 9 points" if math.isnan(high["a"]) else "too slow in the last measurement: 0.8 ms (at "
    assert given.keys() == ({"a"} if chosen == "b" else set())
    assert all(said.startswith(why) for said in given.values())
    for name in high:
        high[name] = math.nan
    with pytest.raises(Shortfall, match="int8 loses 9 points"):
        search._settle(done, best)


class Interrupting(Console):
    """Ctrl-C after the first rung."""

    def say(self, text: str) -> None:
        if "in rung 2" in text:
            raise KeyboardInterrupt


def test_a_search_ends_with_a_network_within_the_budget_that_is_replayed_without_a_device(
    job: Job, dry: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    # The file is what is too large: on a busy machine times of so small a network are too rough to rest on.
    whole = dry.whole.measured[0]
    wanted = at(job, max_ms=10 * whole.high, max_mb=0.6 * whole.file_mb, resolutions=[30])
    with pytest.raises(KeyboardInterrupt):
        Search(wanted, Interrupting(quiet=True)).run()
    kept = json_file.load(job.out / "fit.json", Result)
    assert kept.said == "interrupted: the same command goes on from here"
    assert kept.said in (job.out / "fit.html").read_text()
    begun = {one.id: one.trained for one in kept.candidates if one.trained}
    assert len(begun) >= 2
    result = Search(wanted, QUIET).run()
    assert {one.id: one.trained[:1] for one in result.candidates if one.id in begun} == begun
    assert result.chosen
    chosen = next(one for one in result.candidates if one.id == result.chosen)
    assert chosen.measured[0].high <= 10 * whole.high
    assert chosen.measured[0].file_mb <= 0.6 * whole.file_mb
    (lower,) = (one for one in result.candidates if one.net.side == 30)
    assert lower.id == "absolute-per-ms-30"
    assert lower.dropped or lower.trained
    (shallow,) = (one for one in result.candidates if one.id == "absolute-per-ms-shallow")
    assert shallow.plan is not None
    assert shallow.plan.dropped == ("4",)
    assert shallow.trained
    assert chosen.accuracy is not None
    assert chosen.accuracy > 0.5
    assert result.shipped[0].device == "host"
    assert result.top1[0] is not None
    wholes = [job.out / name / "2-train" for name in ("whole", "net.py:make-30")]
    seconds = [epoch.seconds for path in wholes for epoch in checkpoint_file.load(path).history]
    pruned = [one.trained[-1].seconds for one in result.candidates if one.trained]
    assert result.spent.training_seconds == pytest.approx(sum(seconds) + sum(pruned), abs=0.2)
    # the same command again trains and measures nothing
    stamps = {path: path.stat().st_mtime_ns for path in job.out.rglob("stage.json") if "profile" not in str(path)}
    again = Search(wanted, QUIET).run()
    assert (again.chosen, again.candidates) == (result.chosen, result.candidates)
    assert again.spent.training_seconds == result.spent.training_seconds
    assert {path: path.stat().st_mtime_ns for path in stamps if "report" not in str(path)} == {
        path: stamp for path, stamp in stamps.items() if "report" not in str(path)
    }
    # the frozen recipe, elsewhere and without a device
    replay = recipe_file.load(job.out / frozen.RECIPE)
    outcome = pipeline.run(Job(replay, job.out, tmp_path / "replay", {}), QUIET, "prune")
    checkpoint = outcome.results.checkpoint
    assert isinstance(checkpoint, Checkpoint)
    assert checkpoint.plan == chosen.plan
    assert checkpoint.macs == chosen.macs


def test_a_search_says_what_is_missing(job: Job) -> None:
    with pytest.raises(InputError, match="needs a device to measure on: --device NAME"):
        Search(replace(job, devices={}), QUIET).run()
    data = job.recipe.data.model_copy(update={"val": 0.0})
    unjudged = replace(job, out=job.out.parent / "other", recipe=job.recipe.model_copy(update={"data": data}))
    with pytest.raises(InputError, match=r"compared on validation images, but there are none: set data\.val"):
        Search(unjudged, QUIET).run()
    without = replace(job, recipe=job.recipe.model_copy(update={"train": None}))
    with pytest.raises(InputError, match=r"the recipe has no \[train\] section"):
        Search(without, QUIET).run()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "needs a budget: --max-ms MS"),
        (["--max-ms", "0"], "fit.max_ms"),
        (["--max-ms", "-3"], "fit.max_ms"),
        (["--max-ms", "nan"], "fit.max_ms"),
        (["--max-ms", "5", "--percentile", "75"], "fit.percentile"),
        (["--max-ms", "5", "--time-budget", "soon"], "fit.time_budget"),
        (["--max-ms", "5", "--resolutions", "128,big"], "fit.resolutions"),
    ],
)
def test_a_bad_request_is_one_line(flags: list[str], said: str, tmp_path: Path) -> None:
    assert said in support.complaint("fit", "digits", *flags, "--out", tmp_path / "out", code=2)
    assert not (tmp_path / "out").exists()
