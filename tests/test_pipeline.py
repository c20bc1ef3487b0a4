"""Which stages run again after which change. The stages' work is replaced; their inputs, order and files are real."""

from __future__ import annotations

import hashlib
import json
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from edgekit.config import recipe_file
from edgekit.console import Console
from edgekit.device import file as device_file
from edgekit.disk.run_directory import ORDER, Done
from edgekit.pipeline import provenance
from edgekit.pipeline import run as pipeline
from edgekit.pipeline.stages import report as report_stage
from tests.support import DEVICE

STAGES = list(ORDER)
AFTER = {name: STAGES[number:] for number, name in enumerate(STAGES)}
CHOOSE = ["lower", *AFTER["export"]]
"""Rewrites are timed again; where the same ones are chosen, the graph stays."""
UNMOVED: set[str] = set()
"""Stages that write the same files whatever their inputs are."""
LISTS = {"lower": "rewrites.json", "report": "verdict.json"}
"""Files that are read while the stages run."""
RECIPE = """
[model]
name    = "mobilenetv2_100"
weights = "mine.safetensors"
[data]
source = "image_folder"
path   = "images"
[train]
[prune]
macs = 0.5
[quantize]
[export]
[verify]
[profile]
devices = ["quick.toml"]
"""


@pytest.fixture(autouse=True)
def _stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each stage writes a digest of its inputs: other inputs, other files."""

    def stage(name: str, stage: Any, section: Any, state: Any, start: Any) -> Done:
        inputs = stage.inputs(state, section)

        def write(work: Path) -> None:
            digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
            (work / "result.txt").write_text("same" if name in UNMOVED else digest)
            if name in LISTS:
                (work / LISTS[name]).write_text("[]")

        done: Done = state.directory.stage(name, inputs, write)
        return done

    monkeypatch.setattr(pipeline, "_stage", stage)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A recipe with all that it names, run once."""
    (tmp_path / "mine.toml").write_text(RECIPE)
    (tmp_path / "quick.toml").write_text(DEVICE)
    (tmp_path / "other.toml").write_text(DEVICE.replace("quick", "other"))
    (tmp_path / "mine.safetensors").write_text("weights")
    for label in "ab":
        (tmp_path / "images" / label).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (4, 4), (number, ord(label), 0)).save(tmp_path / "images" / label / f"{number}.png")
    assert ran(tmp_path) == STAGES
    return tmp_path


def run(home: Path, *overrides: str, last: str = "report") -> pipeline.Outcome:
    loaded = recipe_file.load(home / "mine.toml", overrides)
    names = loaded.profile.devices if loaded.profile else []
    devices = {name: device_file.load(home / name) for name in names}
    return pipeline.run(pipeline.Job(loaded, home, home / "run", devices), Console(quiet=True), last)


def ran(home: Path, *overrides: str, last: str = "report") -> list[str]:
    """Names of the stages that were not taken from before."""
    return [row.name for row in run(home, *overrides, last=last).stages if not row.cached and not row.skipped]


def test_run_skips_every_stage_when_nothing_has_changed(home: Path) -> None:
    assert ran(home) == []
    assert all(row.seconds >= 0 and row.reason for row in run(home).stages)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("data.seed=1", AFTER["data"]),
        ("data.clean.leak=error", AFTER["data"]),
        ("data.input=64", AFTER["train"]),
        ("model.options={a = 1}", AFTER["train"]),
        ("train.epochs=3", AFTER["train"]),
        ("prune.macs=0.6", AFTER["prune"]),
        ("quantize.seed=1", AFTER["quantize"]),
        ("quantize.range=mse", AFTER["quantize"]),
        ("quantize.max_drop=3", AFTER["quantize"]),
        ('export.formats=["onnx"]', AFTER["lower"]),  # rungs of the ladder are tried in these
        ("lower.measure=false", AFTER["export"]),
        ('lower.rewrites=["silu"]', AFTER["quantize"]),
        ("verify.images=5", ["verify", "bundle", "report"]),
        ('profile.devices=["other.toml"]', CHOOSE),
        ("description=words", ["bundle", "report"]),
    ],
)
def test_run_does_again_only_what_depends_on_a_key(home: Path, override: str, expected: list[str]) -> None:
    assert ran(home, override) == expected
    assert ran(home, override) == []
    assert ran(home) == expected


def test_without_a_ladder_max_drop_matters_only_to_what_repeats_the_recipe(home: Path) -> None:
    ran(home, "quantize.rescue=[]")
    assert ran(home, "quantize.rescue=[]", "quantize.max_drop=3") == ["bundle", "report"]


def test_without_a_ladder_formats_leave_the_graph_alone(home: Path) -> None:
    ran(home, "quantize.rescue=[]")
    assert ran(home, "quantize.rescue=[]", 'export.formats=["onnx"]') == CHOOSE


@pytest.fixture
def unmoved(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same run, in which no stage's files ever differ: a stage runs again for what its own key holds, or not."""
    monkeypatch.setattr(f"{__name__}.UNMOVED", set(STAGES) - {"data", "report"})
    shutil.rmtree(home / "run")
    run(home)
    return home


def test_other_images_count_where_they_leave_the_network_and_the_files_alone(unmoved: Path) -> None:
    assert {"prune", "quantize", "verify", "bundle"} <= set(ran(unmoved, "data.seed=1"))


def test_images_calibrate_files_of_int16_activations(unmoved: Path) -> None:
    wanted = 'export.precisions=["fp32", "int16x8"]'
    run(unmoved, wanted)
    assert "export" in ran(unmoved, wanted, "data.seed=1")
    run(unmoved)
    assert "export" not in ran(unmoved, "data.seed=1")


def test_settings_of_training_count_for_the_recovery_of_a_pruned_network(unmoved: Path) -> None:
    assert {"train", "prune"} <= set(ran(unmoved, "train.batch=7"))


@pytest.mark.parametrize(
    ("package", "expected"),
    [
        ("pillow", ["data", "train", "prune", "quantize", "verify", "bundle", "report"]),
        ("torchao", ["lower", "quantize", "export", "verify", "bundle", "report"]),
        ("litert-torch", ["lower", "quantize", "export", "bundle", "report"]),
        ("ai-edge-litert", ["lower", "quantize", "export", "verify", "bundle", "profile", "report"]),
    ],
)
def test_other_packages_count_where_they_are_used(
    unmoved: Path, monkeypatch: pytest.MonkeyPatch, package: str, expected: list[str]
) -> None:
    version = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "0" if name == package else version(name))
    monkeypatch.setattr(f"{__name__}.UNMOVED", set(STAGES))
    provenance.versions.cache_clear()
    try:
        assert ran(unmoved) == expected
    finally:
        provenance.versions.cache_clear()


def test_the_first_device_decides_so_that_their_order_counts(home: Path) -> None:
    (home / "mine.toml").write_text(RECIPE.replace("macs = 0.5", "latency = 0.5"))
    both = 'profile.devices=["{}.toml", "{}.toml"]'
    run(home, both.format("quick", "other"))
    assert ran(home, both.format("other", "quick"))[:2] == ["prune", "lower"]


def test_layers_that_stay_float_count_where_pruning_is_timed(home: Path) -> None:
    (home / "mine.toml").write_text(RECIPE.replace("macs = 0.5", "latency = 0.5"))
    run(home)
    assert ran(home, 'quantize.keep_float=["classifier"]')[0] == "prune"


def test_the_bound_of_agreement_counts_for_scores_on_devices(home: Path) -> None:
    (home / "quick.toml").write_text(DEVICE + '[reach]\nby = "ssh"\nhost = "nowhere"\n')
    run(home)
    assert ran(home, "verify.agreement=0.9") == ["verify", "bundle", "profile", "report"]


def test_a_report_says_what_it_was_made_with_now(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "mine.toml").write_text(RECIPE.replace("[verify]\n", ""))  # no bundle
    run(home)
    monkeypatch.setattr(report_stage, "git_commit", lambda folder: "another")
    assert ran(home) == ["report"]


def _touch_image(home: Path) -> None:
    Image.new("RGB", (4, 4)).save(home / "images" / "a" / "0.png")


def _add_image(home: Path) -> None:
    Image.new("RGB", (4, 4)).save(home / "images" / "a" / "9.png")


def _change_weights(home: Path) -> None:
    (home / "mine.safetensors").write_text("others")


def _set_limits(home: Path) -> None:
    (home / "quick.toml").write_text(DEVICE + "[limits]\np90_ms = 1")


def _measure_longer(home: Path) -> None:
    (home / "quick.toml").write_text(DEVICE.replace("0.02", "0.03"))


def _comment(home: Path) -> None:
    (home / "mine.toml").write_text("# words\n" + RECIPE)


def _spoil_verify(home: Path) -> None:
    (home / "run" / "7-verify" / "result.txt").write_text("")


def _lose_quantize(home: Path) -> None:
    (home / "run" / "5-quantize" / "result.txt").unlink()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (_touch_image, AFTER["data"]),
        (_add_image, AFTER["data"]),
        (_change_weights, AFTER["train"]),
        (_set_limits, ["report"]),
        (_measure_longer, ["profile", "report"]),
        (_comment, []),
        (_spoil_verify, ["verify"]),
        (_lose_quantize, ["quantize"]),
    ],
)
def test_run_does_again_only_what_depends_on_a_file(home: Path, change: Any, expected: list[str]) -> None:
    """A stage that was harmed and gives the same files again leaves those after it alone."""
    change(home)
    assert ran(home) == expected
    assert ran(home) == []


@pytest.mark.parametrize(
    ("gone", "skipped"),
    [
        ((), []),
        (("train",), []),
        (("prune",), ["prune"]),
        (("quantize",), ["lower", "quantize"]),
        (("verify", "profile"), ["lower", "verify", "bundle", "profile"]),
        (("export",), ["lower", "export", "verify", "bundle", "profile"]),
        (("train", "prune", "quantize", "export", "verify", "profile"), list(ORDER[2:-1])),
    ],
)
def test_run_skips_what_the_recipe_leaves_out_and_says_why(
    home: Path, gone: tuple[str, ...], skipped: list[str]
) -> None:
    text = RECIPE
    for name in gone:
        head, _, tail = text.partition(f"[{name}]\n")
        text = head + tail.replace("macs = 0.5\n", "" if name == "prune" else "macs = 0.5\n").replace(
            'devices = ["quick.toml"]\n', "" if name == "profile" else 'devices = ["quick.toml"]\n'
        )
    (home / "mine.toml").write_text(text)
    rows = run(home).stages
    assert [row.name for row in rows] == list(ORDER)
    assert [row.name for row in rows if row.skipped] == skipped
    assert all(bool(row.reason) for row in rows if row.skipped)


def test_run_stops_after_the_last_stage_that_was_asked_for(home: Path) -> None:
    outcome = run(home, "train.epochs=2", last="quantize")
    assert [row.name for row in outcome.stages] == list(ORDER[: ORDER.index("quantize") + 1])
    assert outcome.report is None


def test_run_writes_the_recipe_so_that_the_directory_can_be_resumed(home: Path) -> None:
    run(home, "train.epochs=4")
    loaded, base = recipe_file.resume(home / "run" / "recipe.json")
    assert loaded == recipe_file.load(home / "mine.toml", ["train.epochs=4"])
    assert base == home
