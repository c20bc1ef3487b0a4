"""``edgekit predict-latency`` against a device whose true times are known: by multiply-adds, plus a start."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import mobilenet_v2

from edgekit.cli.main import cli
from edgekit.disk import json_file
from edgekit.latency import store
from edgekit.latency.model import LatencyModel, Measured, Subject, fit
from edgekit.prune.apply import apply
from edgekit.prune.cost import Cost
from edgekit.prune.groups import ChannelGraph
from edgekit.search.latency_session import gone, plan_of, random_plans
from edgekit.types import PrunePlan

BLOCKS = [[1, 8, 1, 1], [4, 16, 1, 2]]
RECIPE = f"""
[model]
name = "torchvision/mobilenet_v2"
weights = "none"
[model.options]
inverted_residual_setting = {BLOCKS}
[data]
source = "digits"
input = 16
[train]
epochs = 1
[quantize]
"""
DEVICE = '[reach]\nby = "ssh"\nhost = "nobody@nowhere.invalid"\n'
"""That cannot be reached."""
START, RATE = 0.02, 4e-7
"""Milliseconds, and milliseconds for a multiply-add."""


def truth(net: nn.Module) -> float:
    """Milliseconds; torch counts what it computes."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.zeros(1, 3, 16, 16))
    return START + RATE * int(counter.get_total_flops()) / 2


def network() -> nn.Module:
    torch.manual_seed(0)
    net: nn.Module = mobilenet_v2(num_classes=10, inverted_residual_setting=BLOCKS).eval()
    return net


def narrowed(plan: PrunePlan) -> nn.Module:
    net = copy.deepcopy(network())
    apply(net, plan, (3, 16, 16))
    return net


@pytest.fixture(scope="module")
def model() -> LatencyModel:
    net = network()
    groups = ChannelGraph(net, (3, 16, 16)).groups()
    cost = Cost(net, groups, (3, 16, 16))
    plans = [PrunePlan({}, {}), *random_plans(groups, 12)]
    whole, *others = (Measured(cost.shapes(gone(plan)), truth(narrowed(plan))) for plan in plans)
    family = store.family("torchvision/mobilenet_v2", whole.shapes)
    subject = Subject("my-pi", "Cortex-A76", "litert", "2.3.0", "tflite", "int8", 4, family, (3, 16, 16))
    return fit(subject, whole, others)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe whose data are read by the first test, and two devices."""
    folder = tmp_path_factory.mktemp("predict")
    (folder / "small.toml").write_text(RECIPE)
    for name in ("my-pi", "other"):
        (folder / f"{name}.toml").write_text(f'name = "{name}"\n{DEVICE}')
    return folder


@pytest.fixture
def here(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That folder, and no model kept."""
    monkeypatch.chdir(place)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return place


def run(*words: str, code: int = 0) -> Result:
    answer = CliRunner().invoke(cli, ["predict-latency", "small.toml", "--quiet", *words])
    assert answer.exit_code == code, answer.output
    return answer


def rows(*words: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(*words, "--device", "./my-pi.toml", "--json").stdout)
    return found


def test_whole_network_takes_what_it_is_known_to(here: Path, model: LatencyModel) -> None:
    store.save(model)
    answer = rows()
    (row,) = answer["predictions"]
    true = truth(network())
    assert row["low"] <= true <= row["high"]
    assert row["ms"] == pytest.approx(true, rel=0.03)
    assert answer["plan"] is None
    assert answer["macs"] == pytest.approx((true - START) / RATE)
    about = {"device": "my-pi", "cpu": "Cortex-A76", "engine": "litert", "engine_version": "2.3.0", "threads": 4}
    assert about.items() <= row.items()
    assert row["kind"] == "measured"
    assert row["held_out"] == {"networks": 12, "median": model.errors.median, "p90": model.errors.p90}


def test_plan_of_the_recipe_narrows_it(here: Path, model: LatencyModel, tmp_path: Path) -> None:
    store.save(model)
    groups = ChannelGraph(network(), (3, 16, 16)).groups()
    plan = plan_of(groups, {group.head: max(8, group.channels // 2) for group in groups})
    json_file.save(tmp_path / "plan.json", plan)
    answer = rows("--set", f"prune.plan={tmp_path / 'plan.json'}")
    (row,) = answer["predictions"]
    true = truth(narrowed(plan))
    assert true < 0.8 * truth(network())
    assert row["low"] <= true <= row["high"]
    assert row["ms"] == pytest.approx(true, rel=0.05)
    assert answer["macs"] == pytest.approx((true - START) / RATE)
    assert answer["plan"] == str(tmp_path / "plan.json")


def test_every_engine_is_shown_the_fastest_first(here: Path, model: LatencyModel) -> None:
    slow = replace(model, subject=replace(model.subject, engine="onnxruntime", format="onnx"))
    slow = replace(slow, whole=replace(model.whole, value=2 * model.whole.value), kind="estimated")
    counts = replace(model, subject=replace(model.subject, unit="instructions"))
    for each in (slow, model, counts):
        store.save(each)
    found = rows()["predictions"]
    assert [(row["engine"], row["kind"]) for row in found] == [("litert", "measured"), ("onnxruntime", "estimated")]
    assert found[1]["ms"] == pytest.approx(2 * found[0]["ms"], rel=1e-3)
    lines = run("--device", "./my-pi.toml").stdout.splitlines()
    for row, line in zip(found, lines[-2:], strict=True):
        for words in (
            f"{row['ms']:.3g}",
            f"{row['low']:.3g} to {row['high']:.3g}",
            row["engine"],
            "2.3.0",
            "Cortex-A76",
        ):
            assert words in line
        assert row["kind"] in line
        assert f"{model.errors.median:.1%}" in line


def test_without_a_model_it_says_what_makes_one(here: Path, model: LatencyModel) -> None:
    answer = run("--device", "./my-pi.toml", code=2)
    assert answer.stdout == ""
    (line,) = answer.stderr.splitlines()
    assert line.startswith("edgekit: predict-latency: my-pi has no latency model of torchvision/mobilenet_v2")
    assert "edgekit fit small.toml --device ./my-pi.toml --max-ms MS --dry-run" in line
    store.save(model)
    assert "other has no" in run("--device", "./my-pi.toml", "--device", "./other.toml", code=2).stderr


def test_models_of_other_networks_and_resolutions_are_not_used(here: Path, model: LatencyModel) -> None:
    store.save(model)
    wide = "model.options.inverted_residual_setting=[[1, 8, 1, 1], [4, 24, 1, 2]]"
    assert "has no latency model" in run("--device", "./my-pi.toml", "--set", wide, code=2).stderr
    other = run("--device", "./my-pi.toml", "--set", "data.input=32", code=2).stderr
    assert "at this resolution (there is one at 16 x 16)" in other


def test_a_device_has_to_be_named(here: Path) -> None:
    assert "--device NAME" in run(code=2).stderr


def test_unreadable_files_are_no_models(here: Path, model: LatencyModel) -> None:
    path = store.save(model)
    assert store.kept("my-pi", model.subject.family) == [model]
    assert store.kept("my-pi", "another") == store.kept("other", model.subject.family) == []
    path.with_name("broken.json").write_text("{")
    path.write_text(path.read_text()[:-20])
    assert store.kept("my-pi", model.subject.family) == []
