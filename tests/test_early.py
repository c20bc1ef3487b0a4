"""What is refused in the first seconds, and what a refusal leaves behind: everything as it was."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from edgekit import models
from edgekit.config import recipe_file
from edgekit.console import Console
from edgekit.data import index_file
from edgekit.device.file import Device
from edgekit.disk.run_directory import Done
from edgekit.errors import InputError, Shortfall, Unreached
from edgekit.pipeline import run as pipeline
from edgekit.pipeline.port import Skip
from edgekit.pipeline.stages import data as data_stage
from edgekit.pipeline.stages import quantize as quantize_stage
from edgekit.pipeline.stages import train as train_stage
from edgekit.types import Checkpoint

NET = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, num_classes, width=4):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3)
        self.head = nn.Linear(width, num_classes)

    def forward(self, x):
        return self.head(self.stem(x).mean((2, 3)))


def picky(num_classes):
    assert num_classes == 2, f"not {num_classes}"
    return Net(num_classes)
"""
RECIPE = """
[model]
name = "net.py:Net"
weights = "none"
[data]
source = "image_folder"
path = "images"
input = 16
val = 0.25
test = 0.25
[train]
epochs = 1
[quantize]
calibration = 4
[export]
formats = ["onnx"]
[verify]
"""
HERE = Device.model_validate({"name": "here", "run": {"seconds": 0.01, "engines": ["onnxruntime"]}})
DOWN = {"by": "ssh", "host": "127.0.0.1", "port": 1, "config": "/dev/null", "timeout": 3}


class Listener(Console):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A recipe with a small network of its own and eight images of each of two classes."""
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "mine.toml").write_text(RECIPE)
    for shift, label in enumerate("ab"):
        (tmp_path / "images" / label).mkdir(parents=True)
        for number in range(8):
            Image.new("RGB", (20, 20), (30 * number, 200 * shift, 90)).save(
                tmp_path / "images" / label / f"{number}.png"
            )
    return tmp_path


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the stages that did any work: data's is real, train's leaves an untrained network, others' nothing."""
    names: list[str] = []

    def stage(name: str, stage: Any, section: Any, state: Any, start: pipeline._Start) -> Done:
        def build(work: Path) -> None:
            names.append(name)
            if stage is data_stage:
                stage.build(state, section, work)
            if stage is train_stage:
                wanted, labels = state.recipe, index_file.load(state.done["data"].path).labels
                net, spec, given = models.create(wanted.model, len(labels), wanted.data.shape, state.job.base)
                models.save(work, net, Checkpoint(models.WEIGHTS, spec, given, labels, trained=False))
            (work / "result.txt").write_text(name)

        real = stage in (data_stage, train_stage, quantize_stage)
        inputs = stage.inputs(state, section) if real else {}
        done: Done = state.directory.stage(name, inputs, build, before=lambda: start.begin(name))
        return done

    monkeypatch.setattr(pipeline, "_stage", stage)
    return names


def run(home: Path, *overrides: str, devices: dict[str, Device] | None = None, last: str = "verify") -> list[str]:
    """Run the recipe, and return what was said."""
    listener = Listener()
    loaded = recipe_file.load(home / "mine.toml", overrides)
    pipeline.run(pipeline.Job(loaded, home, home / "run", devices or {}), listener, last)
    return listener.lines


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


BAD: list[tuple[str, str]] = [
    ("model.name=typo", 'model.name = "typo": no such timm model'),
    ("model.name=torchvision/typo", 'model.name = "typo": no such torchvision model'),
    ("model.name=gone.py:Net", "no such file"),
    ("model.name=net.py:Nte", 'net.py: "Nte": no such function; did you mean "Net"'),
    ("model.options={height = 1}", "model.options: "),
    ("model.weights=gone.safetensors", "gone.safetensors: no such weights file"),
    ("model.weights=net.py", "net.py: cannot be read as weights"),
    ("model.weights=pretrained", 'model.weights = "pretrained": '),
    ('quantize.keep_float=["stme"]', 'quantize.keep_float = "stme": no such layer; did you mean "stem"'),
    ('quantize.ranges={neck = "mse"}', 'quantize.ranges = "neck": no such layer'),
    ("data.label_offset=1", 'data.label_offset = 1: data.source = "image_folder" does not use it'),
    ("data.path=gone", 'data.path = "gone": no such file or folder'),
    ("data.labels=gone.txt", "gone.txt: "),
    ("prune.plan=gone.json", "gone.json: cannot be read"),
    ('distill={teacher = "mobilenetv2_10"}', 'distill.teacher = "mobilenetv2_10": no such timm model'),
    ('distill={teacher = "gone.onnx"}', "distill.teacher = gone.onnx: no such file or run directory"),
]


@pytest.mark.parametrize(("override", "message"), BAD)
def test_what_can_be_known_early_is_refused_before_any_stage(
    home: Path, begun: list[str], override: str, message: str
) -> None:
    with pytest.raises(InputError) as caught:
        run(home, override)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert begun == []
    assert not (home / "run" / "recipe.json").exists()


def test_a_refused_setting_does_not_stick(home: Path, begun: list[str]) -> None:
    run(home)
    before = contents(home / "run")
    for override, message in BAD:
        with pytest.raises(InputError) as caught:
            run(home, override)
        assert message in str(caught.value), override
        assert contents(home / "run") == before, override
    done, refused = begun[:5], begun[5:]
    assert done == ["data", "train", "quantize", "export", "verify"]
    assert set(refused) == {"train"}  # it builds the network before anything else
    run(home)
    assert len(begun) == len(done) + len(refused)


def test_int8_alone_needs_its_section(home: Path, begun: list[str]) -> None:
    with pytest.raises(InputError, match=r'export.precisions = \["int8"\]: int8 needs a \[quantize\] section'):
        run(home, "quantize=", 'export.precisions=["int8"]')
    assert begun == []


def test_too_few_images_are_known_before_training(home: Path, begun: list[str]) -> None:
    with pytest.raises(InputError, match=r"quantize.calibration = 1000: the training split has 8 images"):
        run(home, "quantize.calibration=1000")
    assert begun == ["data"]
    assert not (home / "run" / "recipe.json").exists()


def test_nothing_to_verify_with_is_known_before_training(home: Path, begun: list[str]) -> None:
    with pytest.raises(InputError, match="verify: the data has neither a test nor a validation split"):
        run(home, "data.val=0", "data.test=0")
    assert begun == ["data"]


def test_one_class_alone_is_known_before_training(home: Path, begun: list[str]) -> None:
    for label in "ab":
        (home / "new" / "train" / label).mkdir(parents=True)
        (home / "new" / "test" / label).mkdir(parents=True)
    (home / "new" / "train" / "b").rmdir()
    for number in range(8):
        shutil.copy(home / "images" / "a" / f"{number}.png", home / "new" / "train" / "a")
        shutil.copy(home / "images" / "b" / f"{number}.png", home / "new" / "test" / "b")
        Image.new("RGB", (9, 9), (number, 2, 3)).save(home / "new" / "test" / "a" / f"{number}.png")
    with pytest.raises(InputError, match='all training images are of class "a", but the data has 2 classes'):
        run(home, "data.path=new", "data.val=0")
    assert begun == ["data"]


def test_a_class_name_that_no_bundle_can_hold_is_refused_at_once(home: Path, begun: list[str]) -> None:
    for name, shown in (("b\nc", r"b\nc"), ("\x1b[31mred", r"\x1b[31mred"), ("b\u2028c", r"b\u2028c")):
        (home / "images" / "b").rename(home / "images" / name)
        with pytest.raises(InputError) as caught:
            run(home)
        assert f'data: the class name "{shown}" holds a control character' in str(caught.value)
        (home / "images" / name).rename(home / "images" / "b")
    (home / "names.txt").write_text("a\n\nb\n")
    with pytest.raises(InputError, match='data: the class name "" is empty; rename it'):
        run(home, "data.labels=names.txt")
    assert begun == []
    (home / "images" / "b").rename(home / "images" / "grüne Bohne 🫛")
    run(home, last="data")


def test_a_network_that_wants_to_know_its_classes_is_told(home: Path, begun: list[str]) -> None:
    run(home, "model.name=net.py:picky", last="train")
    (home / "images" / "c").mkdir()
    for number in range(4):
        Image.new("RGB", (20, 20), (number, 1, 2)).save(home / "images" / "c" / f"{number}.png")
    with pytest.raises(InputError, match=r"rejects .*: AssertionError: not 3"):
        run(home, "model.name=net.py:picky", last="train")


def test_a_network_is_not_called_while_its_classes_are_unknown(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise InputError("data.name: cannot be downloaded")

    monkeypatch.setattr(data_stage, "build", offline)
    words = ("data.source=torchvision", "data.path=", "data.name=MNIST", "train=", "quantize=", "export=", "verify=")
    with pytest.raises(InputError, match="cannot be downloaded"):
        run(home, *words, "model.name=net.py:picky")
    with pytest.raises(InputError, match='"pickie": no such function'):
        run(home, *words, "model.name=net.py:pickie")


@pytest.mark.parametrize(("override", "kept"), [("data.seed=1", False), ("train.epochs=2", True)])
def test_what_a_stage_refuses_after_all_sticks_only_where_something_was_trained_with_it(
    home: Path, begun: list[str], monkeypatch: pytest.MonkeyPatch, override: str, kept: bool
) -> None:
    run(home)
    before = (home / "run" / "recipe.json").read_bytes()

    def refuse(*_: object) -> Skip:
        raise InputError("no")

    monkeypatch.setattr(quantize_stage if kept else train_stage, "section", refuse)
    with pytest.raises(InputError, match="no"):
        run(home, override)
    assert begun[-1] == ("train" if kept else "data")
    assert ((home / "run" / "recipe.json").read_bytes() != before) == kept


def test_a_model_that_falls_short_keeps_its_recipe(
    home: Path, begun: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(home)

    def short(*_: object) -> Skip:
        raise Shortfall("too bad")

    monkeypatch.setattr(quantize_stage, "section", short)
    with pytest.raises(Shortfall, match="too bad"):
        run(home, "train.epochs=2")
    assert json.loads((home / "run" / "recipe.json").read_text())["recipe"]["train"]["epochs"] == 2


def test_a_setting_of_a_later_stage_is_remembered_where_nothing_runs(home: Path, begun: list[str]) -> None:
    run(home, last="train")
    run(home, "quantize.range=mse", last="train")
    assert begun == ["data", "train"]
    assert json.loads((home / "run" / "recipe.json").read_text())["recipe"]["quantize"]["range"] == "mse"


# Devices -------------------------------------------------------------------------------------------


@pytest.fixture
def down() -> Device:
    """A device at a port where nobody listens."""
    if shutil.which("ssh") is None:
        pytest.skip("no ssh (apt-get install openssh-client)")
    return Device.model_validate({"name": "pi", "reach": DOWN, "run": {"engines": ["onnxruntime"]}})


def test_devices_that_are_all_down_are_said_once_before_anything_runs(
    home: Path, begun: list[str], down: Device
) -> None:
    run(home)
    before, ran = contents(home / "run"), len(begun)
    start = time.monotonic()
    with pytest.raises(Unreached) as caught:
        run(home, "profile.operators=false", "train.epochs=2", devices={"pi": down}, last="profile")
    assert time.monotonic() - start < 30
    message = str(caught.value)
    assert message.startswith("pi: cannot be reached by ssh: ")
    assert message.count("cannot be reached") == 1
    assert "\n" not in message
    assert len(begun) == ran
    assert contents(home / "run") == before


def test_one_device_that_is_down_is_said_and_the_run_goes_on(home: Path, begun: list[str], down: Device) -> None:
    said = run(home, devices={"here": HERE, "pi": down}, last="profile")
    (line,) = [line for line in said if "cannot be reached" in line]
    assert line.startswith("pi: cannot be reached by ssh: ")
    assert line.endswith("; this run goes on without it")
    assert begun[-1] == "profile"


def test_a_device_is_not_asked_where_nothing_is_measured(home: Path, begun: list[str], down: Device) -> None:
    said = run(home, "lower.measure=false", devices={"pi": down})
    assert begun[-1] == "verify"
    assert not [line for line in said if "cannot be reached" in line]


def test_an_emulated_device_that_is_not_set_up_is_known_at_once(
    home: Path, begun: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "empty"))
    emulated = Device.model_validate({"name": "rpi5-emulated", "reach": {"by": "qemu", "cpu": "cortex-a76"}})
    with pytest.raises(Unreached, match="run: edgekit devices setup rpi5-emulated"):
        run(home, devices={"rpi5-emulated": emulated}, last="profile")
    assert begun == []


@pytest.mark.parametrize(
    ("overrides", "devices", "message"),
    [
        (("prune.latency=0.5",), {}, "prune.latency needs a device to measure on"),
        (
            ('export.formats=["tflite"]',),
            {"here": HERE},
            r"profile: no device runs tflite files \(here has onnxruntime\)",
        ),
    ],
)
def test_a_device_that_cannot_do_what_is_asked_is_known_at_once(
    home: Path, begun: list[str], overrides: tuple[str, ...], devices: dict[str, Device], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        run(home, *overrides, devices=devices, last="profile")
    assert begun == []


# Any recipe ----------------------------------------------------------------------------------------


CHANGES: list[st.SearchStrategy[str]] = [
    st.builds("model.options={}".format, st.sampled_from(["{}", "{width=-1}", "{width='a'}", "{w=[]}"])),
    st.builds("data.input={}".format, st.integers(7, 40)),
    st.builds("data.{}={}".format, st.sampled_from(["val", "test"]), st.floats(0, 1)),
    st.builds("data.{}={}".format, st.sampled_from(["path", "labels", "name"]), st.text(max_size=6)),
    st.builds("data.source={}".format, st.sampled_from(["csv_labels", "digits", "image_folder"])),
    st.builds("model.{}={}".format, st.sampled_from(["name", "weights"]), st.text(max_size=6)),
    st.builds("quantize.keep_float=[{!r}]".format, st.text("stem.head", max_size=5)),
    st.builds("quantize.calibration={}".format, st.integers(0, 20)),
    st.builds("{}=".format, st.sampled_from(["train", "quantize", "export", "verify", "data.path", "model.weights"])),
]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.one_of(CHANGES), min_size=1, max_size=3))
def test_any_recipe_runs_or_is_refused(home: Path, begun: list[str], overrides: list[str]) -> None:
    """Up to training, which is a stand-in: what the stages before it and the early checks say to any recipe."""
    shutil.rmtree(home / "run", ignore_errors=True)
    with contextlib.suppress(InputError):
        run(home, *overrides, "model.weights=none")
        assert (home / "run" / "recipe.json").is_file()
