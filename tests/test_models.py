"""Building networks, loading weights, and checkpoints."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from edgekit import checkpoint_file, models
from edgekit.config.recipe import ModelSection
from edgekit.errors import InputError
from edgekit.types import Checkpoint, Epoch, InputSpec, ModelSpec

USER_FILE = """
from torch import nn

def build(num_classes, width=4):
    return nn.Sequential(
        nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(width, num_classes),
    )

def wrong(num_classes):
    return 3

def narrow(num_classes):
    return build(num_classes - 1)
"""
SMALL = "test_efficientnet"


@pytest.fixture
def user(tmp_path: Path) -> Path:
    (tmp_path / "net.py").write_text(USER_FILE)
    return tmp_path


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """Refuse every connection and hide caches; the list holds the attempts."""
    attempts: list[Any] = []

    def refuse(*address: Any, **_: Any) -> Any:
        attempts.append(address)
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return attempts


def section(name: str, weights: str = "none", **rest: Any) -> ModelSection:
    return ModelSection(name=name, weights=weights, **rest)


def small(num_classes: int = 3) -> nn.Module:
    return timm.create_model(SMALL, num_classes=num_classes)  # type: ignore[no-any-return]


def equal(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def checkpoint(spec: ModelSpec) -> Checkpoint:
    labels = tuple(str(number) for number in range(spec.num_classes))
    history = (Epoch(1, "all", 1e-3, 0.5, 0.8, None, None, 1.5),)
    return Checkpoint(
        models.WEIGHTS, spec, InputSpec(64, (0.5,) * 3, (0.5,) * 3), labels, trained=True, history=history
    )


@pytest.mark.parametrize(
    "name", ["test_efficientnet", "mobilenetv3_small_050", "torchvision/mobilenet_v3_small", "net.py:build"]
)
def test_create_gives_one_output_a_class(name: str, user: Path, no_network: list[Any]) -> None:
    module, spec, preprocessing = models.create(section(name), 5, 64, user)
    with torch.no_grad():
        assert module(torch.zeros(2, 3, 64, 64)).shape == (2, 5)
    assert spec.num_classes == 5
    assert preprocessing == InputSpec(64, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert not module.training
    assert not no_network


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "torchvision/mobilenet_v2"])
def test_create_says_one_line_when_offline(name: str, no_network: list[Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"could not be downloaded.*or \"none\"$") as caught:
        models.create(ModelSection(name=name), 5, 64, tmp_path)
    assert "\n" not in str(caught.value)
    assert no_network


def test_create_refuses_pretrained_when_none_are_published(user: Path, no_network: list[Any]) -> None:
    for name in ("net.py:build", "mobilenetv3_large_075"):
        with pytest.raises(InputError, match="pretrained"):
            models.create(ModelSection(name=name), 5, 64, user)
    assert not no_network


def test_create_expands_variables_in_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file(small().state_dict(), tmp_path / "w.safetensors")
    monkeypatch.setenv("SOMEWHERE", str(tmp_path))
    for path in ("${SOMEWHERE}/w.safetensors", f"${{NOWHERE_SET:-{tmp_path}}}/w.safetensors"):
        models.create(section(SMALL, path), 3, 64, Path("/"))


def test_create_swaps_head_alone_when_classes_differ(tmp_path: Path) -> None:
    state = small(7).state_dict()
    save_file(state, tmp_path / "w.safetensors")
    module, _, _ = models.create(section(SMALL, "w.safetensors"), 3, 64, tmp_path)
    own = module.state_dict()
    swapped = {key for key in own if own[key].shape != state[key].shape}
    assert swapped == {"classifier.weight", "classifier.bias"}
    assert equal(
        {k: v for k, v in own.items() if k not in swapped}, {k: v for k, v in state.items() if k not in swapped}
    )


def test_create_refuses_other_head_when_it_may_not_swap(tmp_path: Path) -> None:
    save_file(small(7).state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(InputError, match="head has 7 classes, but the data has 3"):
        models.create(section(SMALL, "w.safetensors"), 3, 64, tmp_path, swap=False)


def test_create_names_keys_and_shapes_when_weights_do_not_fit(tmp_path: Path) -> None:
    state = small().state_dict()
    state["conv_stem.weight"] = torch.zeros(8, 3, 3, 3)
    del state["bn1.bias"]
    state["surprise"] = torch.zeros(1)
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(InputError) as caught:
        models.create(section(SMALL, "w.safetensors"), 3, 64, tmp_path)
    for part in ("conv_stem.weight is 8x3x3x3, the network's 24x3x3x3", "bn1.bias is missing", "surprise is not in"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mobilenetv2_1000", '"mobilenetv2_100"'),
        ("torchvision/mobilenet_v22", '"mobilenet_v2"'),
        ("mobilenetv2_100.nonsense", "ra_in1k"),
        ("nowhere.py:build", "no such file"),
        ("net.py:bild", '"build"'),
        ("net.py:wrong", "int, not a torch.nn.Module"),
        ("net.py:narrow", r"output is \(1, 4\), expected \(1, 5\)"),
    ],
)
def test_create_helps_when_name_is_wrong(name: str, expected: str, user: Path) -> None:
    with pytest.raises(InputError, match=expected) as caught:
        models.create(section(name), 5, 64, user)
    assert len(str(caught.value)) < 400


def test_create_names_option_that_constructor_refuses(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no_such_option"):
        models.create(section(SMALL, options={"no_such_option": 1}), 5, 64, tmp_path)
    with pytest.raises(InputError, match="num_classes = 10: the data has 5"):
        models.create(section(SMALL, options={"num_classes": 10}), 5, 64, tmp_path)


def test_create_takes_preprocessing_of_weights_over(tmp_path: Path) -> None:
    save_file(small().state_dict(), tmp_path / "w.safetensors")
    config = timm.get_pretrained_cfg(SMALL)
    _, _, found = models.create(section(SMALL, "w.safetensors"), 3, 64, tmp_path)
    assert found == InputSpec(64, config.mean, config.std, config.crop_pct, config.interpolation)
    chosen = section(SMALL, "w.safetensors", mean=[0.0, 0.1, 0.2], std=[1.0] * 3, crop=0.5, interpolation="bilinear")
    _, _, found = models.create(chosen, 3, 64, tmp_path)
    assert found == InputSpec(64, (0.0, 0.1, 0.2), (1.0, 1.0, 1.0), 0.5, "bilinear")


def test_create_keeps_head_of_real_weights_when_classes_are_theirs(shared: Path, tmp_path: Path) -> None:
    file = shared / "weights/mobilenetv2_100_imagenet1001.safetensors"
    options = {"pad_type": "same", "num_classes": 1001}
    module, spec, _ = models.create(section("mobilenetv2_100", str(file), options=options), 1001, 96, tmp_path, False)
    assert equal(module.state_dict(), load_file(file))
    assert spec == ModelSpec("mobilenetv2_100", 1001, {"pad_type": "same"})


def test_load_gives_back_what_save_wrote(user: Path, tmp_path: Path) -> None:
    module, spec, _ = models.create(section("net.py:build", options={"width": 6}), 5, 32, user)
    run = tmp_path / "elsewhere"
    run.mkdir()
    models.save(run, module, checkpoint(spec))
    loaded, read = models.load(run)
    assert read == checkpoint(spec)
    assert equal(loaded.state_dict(), module.state_dict())
    assert not loaded.training


def test_save_gives_equal_bytes_when_memory_format_differs(tmp_path: Path) -> None:
    module = small()
    written = []
    for form in (torch.contiguous_format, torch.channels_last):
        models.save(tmp_path, module.to(memory_format=form), checkpoint(ModelSpec(SMALL, 3)))
        written.append([(tmp_path / name).read_bytes() for name in (models.WEIGHTS, checkpoint_file.NAME)])
    assert written[0] == written[1]


def test_load_refuses_folder_when_it_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no checkpoint here"):
        models.load(tmp_path)
    (tmp_path / checkpoint_file.NAME).write_text("{}")
    with pytest.raises(InputError, match="not a checkpoint"):
        models.load(tmp_path)


def test_count_agrees_with_counting_by_hand() -> None:
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),  # 8 * 3 * 9 multiply-adds at each of 10 x 10 places
        nn.Conv2d(8, 8, 3, padding=1, stride=2, groups=8),  # 8 * 9 at 5 x 5
        nn.Flatten(),
        nn.Linear(200, 4),
    )
    assert models.count(module, 10) == (8 * 27 + 8 + 8 * 9 + 8 + 804, 8 * 27 * 100 + 8 * 9 * 25 + 800)


@pytest.mark.parametrize(
    "name", ["mobilenetv4_conv_small_035", "torchvision/mobilenet_v3_small", "torchvision/squeezenet1_1"]
)
def test_head_has_one_row_a_class(name: str, tmp_path: Path) -> None:
    module, _, _ = models.create(section(name), 5, 64, tmp_path)
    assert next(models.head(module).parameters()).shape[0] == 5
