"""The examples of CONTRIBUTING.md, each put on its menu and used as a user would."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from torch import nn

from edgekit import choices
from edgekit.config import recipe_file
from edgekit.config.recipe import DataSection, PruneSection, QuantizeSection, Recipe, VerifySection
from edgekit.console import Console
from edgekit.data import index_file
from edgekit.data.port import Source
from edgekit.datacheck import flow
from edgekit.datacheck.port import Check
from edgekit.device import probe
from edgekit.device.file import Device
from edgekit.disk import json_file, run_directory
from edgekit.disk.run_directory import Done, RunDirectory
from edgekit.export.port import Exporter, exporter
from edgekit.lower.port import GraphRewrite
from edgekit.pipeline import port as pipeline_port
from edgekit.pipeline import run as pipeline
from edgekit.pipeline.state import Job, Run
from edgekit.prune import planning
from edgekit.prune.aim import counted
from edgekit.prune.port import Score
from edgekit.quantize import ptq
from edgekit.quantize.port import Rule
from edgekit.reach.port import Reach
from edgekit.report import files
from edgekit.report.port import Format
from edgekit.runtime import engine_menu
from edgekit.runtime.port import Engine
from edgekit.verify import robustness
from edgekit.verify.port import Corruption
from tests import nets, report_sample

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"```python\n# (edgekit/\S+\.py)\n(.*?)```", PAGE, re.DOTALL))
CONTRACTS: dict[str, type] = {
    "data/sources/named_files": Source,
    "datacheck/checks/portrait": Check,
    "export/formats/pt2": Exporter,
    "lower/rewrites/dropout": GraphRewrite,
    "pipeline/stages/sizes": pipeline_port.Stage,
    "prune/scores/largest": Score,
    "quantize/ranges/symmetric": Rule,
    "reach/ways/nice": Reach,
    "report/formats/text": Format,
    "runtime/engines/reference": Engine,
    "verify/corruptions/dark": Corruption,
}


@pytest.fixture(autouse=True)
def _added(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every example as a module of its menu."""
    root = tmp_path_factory.mktemp("examples")
    names = []
    for path, text in EXAMPLES.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        names.append(path.removesuffix(".py").replace("/", "."))
        package = importlib.import_module(names[-1].rpartition(".")[0])
        if str(file.parent) not in package.__path__:
            monkeypatch.setattr(package, "__path__", [*package.__path__, str(file.parent)])
    importlib.invalidate_caches()
    yield
    for name in names:
        sys.modules.pop(name, None)


def test_there_is_an_example_for_each_menu() -> None:
    assert sorted(EXAMPLES) == sorted(f"edgekit/{name}.py" for name in CONTRACTS)
    for path in re.findall(r"`(edgekit/[\w/]+(?:\.py)?)`", PAGE):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize(("name", "contract"), CONTRACTS.items())
def test_an_example_offers_what_its_contract_says(name: str, contract: type) -> None:
    menu, _, word = name.replace("/", ".").rpartition(".")
    module = choices.pick(f"edgekit.{menu}", word, "")
    for owner in contract.__mro__:
        for wanted in vars(owner).get("__annotations__", {}) if owner is not object else ():
            assert hasattr(module, wanted)
        for wanted, function in vars(owner).items():
            if inspect.isfunction(function) and not wanted.startswith("_"):
                _, *expected = inspect.signature(function).parameters
                assert list(inspect.signature(getattr(module, wanted)).parameters) == expected


def small() -> nn.Module:
    return nets.settled(
        nets.Net(
            lambda net, x: net.head(net.drop(net.stem(x))),
            stem=nets.conv(3, 16, 3),
            drop=nn.Dropout(),
            head=nets.head(16),
        )
    )


def test_the_range_rule_decides_ranges() -> None:
    section = QuantizeSection(range="symmetric")
    made = ptq.quantize(small(), nets.SIZE, nets.images(4), nets.LEVELS, section)
    zero_points = [node.args[2] for node in made.program.graph.nodes if "quantize_per_tensor" in str(node.target)]
    assert sum(abs(int(zero)) <= 1 for zero in zero_points) > 0


def test_the_score_prunes() -> None:
    plan = planning.decide(
        small(), nets.SIZE, PruneSection(score="largest", macs=0.6), lambda: (), counted("macs", 0.6)
    )
    assert plan.kept


def test_the_source_is_listed_and_split(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for label in ("cat", "dog"):
        for number in range(6):
            Image.new("RGB", (8, 8), (number, ord(label[0]), 0)).save(tmp_path / "images" / f"{label}-{number}.png")
    index = index_file.build(DataSection(source="named_files", path="images"), tmp_path, tmp_path, Console(quiet=True))
    assert index.labels == ("cat", "dog")
    assert len(index.samples) == 12


def test_the_check_finds(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        (tmp_path / "images" / label).mkdir(parents=True)
        for number in range(6):
            size = (8, 10 if (label, number) == ("cat", 3) else 8)
            Image.new("RGB", size, (number, ord(label[0]), 0)).save(tmp_path / "images" / label / f"{number}.png")
    raw = {"model": {"name": "x", "weights": "none"}, "data": {"source": "image_folder", "path": "images"}}
    result = flow.run(Recipe.model_validate(raw), tmp_path, tmp_path / "out", Console(quiet=True))
    assert [found.detail for found in result.kinds["portrait"]] == ["cat/3.png"]


def test_the_corruption_corrupts() -> None:
    assert VerifySection(corruptions=["dark"]).corruptions == ["dark"]
    pixels = np.full((4, 4, 3), 100, np.uint8)
    assert robustness.corrupted(pixels, "dark", 3, (0, 0)).max() == 20


def test_the_rewrite_is_applied(monkeypatch: pytest.MonkeyPatch) -> None:
    dropout: Any = choices.pick("edgekit.lower.rewrites", "dropout", "")
    monkeypatch.setattr(ptq, "FLOAT_REWRITES", (*ptq.FLOAT_REWRITES, dropout))
    graph, counts = ptq.float_graph(small(), nets.SIZE)
    assert counts["dropout"] == 1
    assert not dropout.matches(graph)


def test_the_exporter_writes_what_computes_the_same(tmp_path: Path) -> None:
    net, images = small(), nets.images(1)
    artifact = exporter("pt2").export(net, nets.SIZE, "fp32", tmp_path)
    program = torch.export.load(tmp_path / artifact.path).module()
    torch.testing.assert_close(nets.run(program, images), nets.run(net, images))


def test_the_way_reaches_this_machine() -> None:
    device = Device.model_validate({"name": "desk", "reach": {"by": "nice"}})
    assert probe.facts(device)["cores"] >= 1


def test_the_report_format_is_written_beside_the_others(tmp_path: Path) -> None:
    files.write(report_sample.report(), tmp_path)
    lines = (tmp_path / "report.txt").read_text().splitlines()
    assert len(lines) == len(report_sample.report().latency)
    assert (tmp_path / "report.html").is_file()


def test_the_stage_runs_and_says_something(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_directory, "ORDER", (*run_directory.ORDER, "sizes"))
    (tmp_path / "some.toml").write_text('[model]\nname = "x"\n[data]\nsource = "digits"\n[export]\n')
    state = Run(
        Job(recipe_file.load(tmp_path / "some.toml"), tmp_path, tmp_path, {}),
        RunDirectory(tmp_path),
        Console(quiet=True),
    )
    json_file.save(tmp_path / "artifacts.json", list(report_sample.ARTIFACTS))
    state.done["export"] = Done("export", tmp_path, "", 0.0, False)
    start = pipeline._Start(state, "report")
    start.accept()
    pipeline._do("sizes", pipeline_port.stage("sizes"), state, start)
    sizes = state.read("sizes", "sizes.json", dict[str, int])
    assert sizes == {artifact.id: artifact.bytes for artifact in report_sample.ARTIFACTS}
    assert state.rows[-1].reason == f"{sum(sizes.values())} bytes"


def test_the_engine_runs_a_file(tmp_path: Path) -> None:
    port = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 4])
    out = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 4])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Neg", ["x"], ["y"])], "g", [port], [out])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "neg.onnx")
    session = engine_menu.engine("reference").load(str(tmp_path / "neg.onnx"))
    assert session.run(np.ones((1, 4), np.float32)).tolist() == [[-1.0] * 4]
    session.close()
