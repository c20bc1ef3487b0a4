"""Reading checkpoints as other programs write them: which tensors are the network's, and that nothing is executed."""

from __future__ import annotations

import argparse
import collections
import contextlib
import io
import pickle
import re
import sys
import types
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.utils import CheckpointSaver, ModelEmaV3
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from edgekit import models
from edgekit.config.recipe import ModelSection
from edgekit.errors import InputError
from edgekit.weights import file as weights_file

NAME = "test_efficientnet"
STRANGE = "a_framework_that_is_not_installed"


def net(seed: int = 0, num_classes: int = 3, name: str = NAME) -> nn.Module:
    torch.manual_seed(seed)
    module: nn.Module = timm.create_model(name, num_classes=num_classes)
    for tensor in module.state_dict().values():  # statistics and biases differ from network to network, too
        if tensor.is_floating_point():
            tensor.add_(0.1 * torch.rand_like(tensor))
    return module


def equal(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def created(file: Path, name: str = NAME, num_classes: int = 3, swap: bool = False, **keys: Any) -> tuple[Any, str]:
    """State dict of the network that a recipe with this weights file gets, and what was said."""
    said: list[str] = []
    section = ModelSection(name=name, weights=str(file), **keys)
    module, _, _ = models.create(section, num_classes, 64, Path(), swap, tell=said.append)
    return module.state_dict(), "\n".join(said)


def prefixed(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in state.items()}


@pytest.fixture
def strange() -> Iterator[types.ModuleType]:
    """A module that can be imported while a file is written, and not when it is read."""
    module = types.ModuleType(STRANGE)
    sys.modules[STRANGE] = module
    for name, bases in (("AttributeDict", (dict,)), ("Items", (list,)), ("Config", ())):
        setattr(module, name, type(name, bases, {"__module__": STRANGE}))
    yield module
    sys.modules.pop(STRANGE, None)


def save(content: object, file: Path, **how: Any) -> Path:
    torch.save(content, file, **how)
    sys.modules.pop(STRANGE, None)
    return file


# Layouts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", ["safetensors", "plain", "before 1.6", "state_dict", "model", "model_state_dict", "net"]
)
def test_state_dict_is_found(kind: str, tmp_path: Path) -> None:
    state = net().state_dict()
    file = tmp_path / "w.bin"  # what it is, its content says
    if kind == "safetensors":
        save_file(state, file)
    elif kind in ("plain", "before 1.6"):
        torch.save(state, file, _use_new_zipfile_serialization=kind == "plain")
    else:
        optimizer = torch.optim.SGD(net().parameters(), momentum=0.9).state_dict()
        torch.save({"epoch": 3, "optimizer": optimizer, kind: state, "loss": torch.tensor(0.5)}, file)
    loaded, said = created(file)
    assert equal(loaded, state)
    assert said == ("" if kind in ("safetensors", "plain", "before 1.6") else f'weights of w.bin: entry "{kind}"')


@pytest.mark.parametrize(
    "prefix",
    ["module.", "_orig_mod.", "model.", "timm_model.", "module._orig_mod.", "_orig_mod.module.", "model.backbone.net."],
)
def test_prefix_is_cut_off_and_named(prefix: str, tmp_path: Path) -> None:
    state = net().state_dict()
    save_file(prefixed(state, prefix), tmp_path / "w.safetensors")
    loaded, said = created(tmp_path / "w.safetensors")
    assert equal(loaded, state)
    assert said == f'weights of w.safetensors: prefix "{prefix}"'


def test_real_wrappers_are_seen_through(tmp_path: Path) -> None:
    state = net().state_dict()

    class Compiled(nn.Module):  # what torch.compile returns, without its seconds
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self._orig_mod = module

    inner = net()
    inner.blocks = Compiled(inner.blocks)  # type: ignore[arg-type]
    for number, module in enumerate((nn.DataParallel(net()), Compiled(net()), nn.DataParallel(inner))):
        file = save(module.state_dict(), tmp_path / f"{number}.pth")
        loaded, said = created(file)
        assert equal(loaded, state)
        assert "module." in said or "_orig_mod." in said or "within" in said


def test_timm_train_gives_the_average_unless_the_recipe_says_otherwise(tmp_path: Path) -> None:
    """The file is written by timm's own saver, and timm's own loader is the judge."""
    module, average = net(1), ModelEmaV3(net(1))
    average.module.load_state_dict(net(2).state_dict())
    args = argparse.Namespace(model=NAME, lr=0.1, data=Path("/data"), aa=None, mean=(0.5, 0.5, 0.5))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    saver = CheckpointSaver(module, optimizer, args=args, model_ema=average, checkpoint_dir=str(tmp_path))
    saver.save_checkpoint(0, metric=np.float64(71.5))
    file = tmp_path / "last.pth.tar"
    judge = net(9)
    timm.models.load_checkpoint(judge, str(file), use_ema=True, weights_only=False)
    loaded, said = created(file)
    assert equal(loaded, judge.state_dict())
    assert equal(loaded, average.module.state_dict())
    assert 'entry "state_dict_ema", a moving average, before "state_dict" (model.weights_entry chooses)' in said
    plain, said = created(file, weights_entry="state_dict")
    assert equal(plain, module.state_dict())
    assert 'entry "state_dict"' in said
    with pytest.raises(InputError, match=r'weights_entry = "state_dic": no such entry; did you mean "state_dict"'):
        created(file, weights_entry="state_dic")


def test_lightning_module_with_its_hyperparameters(strange: Any, tmp_path: Path) -> None:
    state, config = net().state_dict(), strange.Config()
    config.__dict__.update(lr=0.1, nested={"a": [1]})
    hyper = strange.AttributeDict(
        lr=0.1, sizes=strange.Items([1, 2]), config=config, table=collections.defaultdict(int)
    )
    content = {
        "epoch": 4,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": {**prefixed(state, "model."), "criterion.weight": torch.ones(3), "train_acc.tp": torch.ones(3)},
        "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_score": torch.tensor(0.1)}},
        "optimizer_states": [torch.optim.Adam(net().parameters()).state_dict()],
        "hparams_name": "kwargs",
        "hyper_parameters": hyper,
    }
    loaded, said = created(save(content, tmp_path / "last.ckpt"))
    assert equal(loaded, state)
    assert said == (
        'weights of last.ckpt: entry "state_dict", prefix "model."; left aside: criterion.weight, train_acc.tp'
    )


@pytest.mark.parametrize("average", [False, True])
def test_torchvision_reference(average: bool, tmp_path: Path) -> None:
    module = net(1)
    ema = AveragedModel(net(2), device=torch.device("cpu"))  # as torchvision's ExponentialMovingAverage
    content = {"model": module.state_dict(), "epoch": 1, "args": argparse.Namespace(output_dir=Path("out"), lr=0.5)}
    content |= {"model_ema": ema.state_dict()} if average else {}
    loaded, said = created(save(content, tmp_path / "model_1.pth"))
    assert equal(loaded, ema.module.state_dict() if average else module.state_dict())
    assert ('entry "model_ema", prefix "module.", a moving average, before "model"' in said) == average
    assert ("left aside: n_averaged" in said) == average


def test_network_that_was_pickled_whole_gives_its_weights(strange: Any, tmp_path: Path) -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = net()
            self.register_buffer("scratch", torch.ones(2), persistent=False)

    Own.__module__, Own.__qualname__ = STRANGE, "Own"
    strange.Own = Own
    whole = Own()
    state = whole.model.state_dict()
    loaded, said = created(save({"model": whole, "epoch": 1}, tmp_path / "best.pt"))
    assert equal(loaded, state)
    assert said == 'weights of best.pt: entry "model", prefix "model."'


def test_half_precision_is_widened(tmp_path: Path) -> None:
    state = net().half().state_dict()
    loaded, _ = created(save({"model": state}, tmp_path / "w.pth"))
    assert all(torch.equal(loaded[key], value.to(loaded[key].dtype)) for key, value in state.items())


def test_two_networks_in_one_file_have_to_be_chosen_from(tmp_path: Path) -> None:
    student, teacher = net(1).state_dict(), net(2).state_dict()
    content = {"state_dict": prefixed(student, "student.") | prefixed(teacher, "teacher.")}
    file = save(content, tmp_path / "w.ckpt")
    with pytest.raises(
        InputError, match=r'"state_dict/student" and "state_dict/teacher"; choose with model.weights_entry'
    ):
        created(file)
    assert equal(created(file, weights_entry="state_dict/teacher")[0], teacher)
    # The same tensors under two names leave no choice to make.
    assert equal(created(save({"a": student, "b": dict(student)}, file))[0], student)


def test_average_within_a_module_is_preferred(tmp_path: Path) -> None:
    content = prefixed(net(1).state_dict(), "model.") | prefixed(net(2).state_dict(), "ema_model.module.")
    loaded, said = created(save({"state_dict": content}, tmp_path / "w.ckpt"))
    assert equal(loaded, net(2).state_dict())
    assert 'prefix "ema_model.module.", a moving average, before "state_dict/model"' in said


def test_head_is_left_where_it_may_be_swapped(tmp_path: Path) -> None:
    file = save({"model_state_dict": prefixed(net(1, 7).state_dict(), "module.")}, tmp_path / "w.pth")
    loaded, said = created(file, swap=True)
    assert torch.equal(loaded["conv_stem.weight"], net(1, 7).state_dict()["conv_stem.weight"])
    assert "without its head, which has 7 classes" in said
    with pytest.raises(InputError, match="its head has 7 classes, but the data has 3"):
        created(file)


# Names that differ ---------------------------------------------------------------------------------


def lukemelas(name: str, blocks: Mapping[str, int], first: set[str]) -> str:
    """A name of timm's EfficientNet as the package efficientnet-pytorch has it."""
    whole = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1", "classifier": "_fc"}
    found = re.fullmatch(r"blocks\.(\d+\.\d+)\.(\w+)\.(\w+)", name)
    if not found:
        part, leaf = name.split(".")
        return f"{whole[part]}.{leaf}"
    block, part, leaf = found.groups()
    parts = {"conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv", "bn2": "_bn1"}
    parts |= {"conv_pwl": "_project_conv", "bn3": "_bn2"}
    if block in first:  # a depthwise separable block has no expansion
        parts = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
    return f"_blocks.{blocks[block]}.{parts[part]}.{leaf}"


def test_other_names_are_offered_and_taken_by_order(tmp_path: Path) -> None:
    name = "tf_efficientnet_lite0"
    state = net(name=name).state_dict()
    keys = [key.split(".") for key in state if key.startswith("blocks")]
    blocks = {block: number for number, block in enumerate(dict.fromkeys(f"{key[1]}.{key[2]}" for key in keys))}
    first = set(blocks) - {f"{key[1]}.{key[2]}" for key in keys if key[3] == "conv_pwl"}
    theirs = {lukemelas(key, blocks, first): value for key, value in state.items()}
    assert len(theirs) == len(state)
    file = save(theirs, tmp_path / "efficientnet-lite0.pth")
    with pytest.raises(
        InputError, match=r'match in order and shape \(_conv_stem.weight for conv_stem.weight\).*"order"$'
    ):
        created(file, name)
    loaded, said = created(file, name, weights_match="order")
    assert equal(loaded, state)
    assert "matched in order and shape, not by name (_conv_stem.weight for conv_stem.weight)" in said
    # Alphabetical order says nothing, and neither does an order in which a variance stands where a mean should.
    save_file(theirs, tmp_path / "sorted.safetensors")
    with pytest.raises(InputError, match="safetensors files keep no order"):
        created(tmp_path / "sorted.safetensors", name, weights_match="order")
    for file in (tmp_path / "sorted.safetensors", save(dict(sorted(theirs.items())), tmp_path / "sorted.pth")):
        with pytest.raises(InputError, match=r"conv_stem.weight is missing; ") as caught:
            created(file, name)
        assert "order" not in str(caught.value)


def test_another_network_is_refused_with_the_entries_of_the_file(tmp_path: Path) -> None:
    state = net(name="mobilenetv2_050").state_dict()
    file = save({"state_dict": prefixed(state, "module."), "state_dict_ema": state}, tmp_path / "w.pth")
    loaded, said = created(file, "mobilenetv2_050")
    assert equal(loaded, state)
    assert 'entry "state_dict_ema", a moving average, before "state_dict" (model.weights_entry chooses)' in said
    with pytest.raises(InputError, match=r"does not fit the network: .* more; the file has the entries state_dict, "):
        created(file)
    with pytest.raises(InputError, match="do not match in order and shape either"):
        created(file, weights_match="order")


def test_section_refuses_a_choice_without_a_file() -> None:
    for key in ({"weights_entry": "state_dict_ema"}, {"weights_match": "order"}):
        with pytest.raises(ValueError, match="are for a weights file"):
            ModelSection.model_validate({"name": NAME, "weights": "pretrained", **key})


# Safety --------------------------------------------------------------------------------------------


class Exploit:
    def __init__(self, function: Any, *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


def reached(*args: Any) -> None:
    raise AssertionError("executed")


@pytest.mark.parametrize("old", [False, True])
def test_nothing_is_executed(old: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "w.pth"
    state = net().state_dict()
    for function in (print, eval, exec, __import__):
        save({"state_dict": state, "args": Exploit(function, "1")}, file, _use_new_zipfile_serialization=not old)
        with pytest.raises(InputError, match=f"asks to run 'builtins.{function.__name__}'.*nothing was run"):
            created(file)
    # A name that nobody suspects is not called either: its place is taken by something inert.
    save({"state_dict": state, "args": Exploit(reached, 1)}, file, _use_new_zipfile_serialization=not old)
    assert equal(created(file)[0], state)
    file.write_bytes(pickle.dumps(Exploit(print, "executed"), protocol=2))
    with pytest.raises(InputError, match="cannot be read as weights"):
        created(file)
    assert capsys.readouterr().out == ""


def test_nothing_is_imported(tmp_path: Path, strange: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / f"{STRANGE}.py").write_text("raise AssertionError('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    file = save({"model": net().state_dict(), "config": strange.Config()}, tmp_path / "w.pth")
    assert equal(created(file)[0], net().state_dict())
    assert STRANGE not in sys.modules


def torchscript(file: Path) -> None:
    with zipfile.ZipFile(file, "w") as archive:  # as torch.jit.save names its records
        for name in ("data.pkl", "constants.pkl", "code/__torch__.py"):
            archive.writestr(f"w/{name}", b"")


def cut_short(file: Path) -> None:
    torch.save(net().state_dict(), file)
    file.write_bytes(file.read_bytes()[:-5000])


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda file: file.write_bytes(b""), "neither a safetensors file nor one of torch.save"),
        (lambda file: file.write_bytes(b"not weights"), "neither a safetensors file nor one of torch.save"),
        (lambda file: file.write_bytes(pickle.dumps({"a": 1}, protocol=4)), "cannot be read as weights"),
        (lambda file: file.write_bytes(b"\x09\0\0\0\0\0\0\0{damaged}"), "cannot be read as weights: damaged"),
        (lambda file: torch.save([torch.ones(2)], file), "holds no state dict .* but a list"),
        (lambda file: torch.save({"epoch": 3}, file), "holds no state dict .* but the entries 'epoch'"),
        (lambda file: torch.save(argparse.Namespace(a=1), file), "a pickled 'argparse.Namespace', which is not loaded"),
        (lambda file: torch.save(net().state_dict(), file, pickle_protocol=4), "cannot be read as weights"),
        (torchscript, "TorchScript program"),
        (cut_short, "damaged or cut short"),
        (Path.mkdir, "is a folder"),
        (lambda file: None, "no such weights file"),
    ],
)
def test_file_is_refused_in_one_plain_line(make: Any, reason: str, tmp_path: Path) -> None:
    file = tmp_path / "w.pth"
    make(file)
    with pytest.raises(InputError, match=reason) as caught:
        weights_file.read(file)
    text = str(caught.value)
    assert text.isprintable()
    assert not any(word in text for word in ("weights_only", "add_safe_globals", "pytorch.org"))


def test_flipped_bits_never_get_past_the_reader(tmp_path: Path) -> None:
    """Whatever the damage: our own refusal, or whatever tensors are still there."""
    written, file = io.BytesIO(), tmp_path / "w.pth"
    small = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).state_dict()
    torch.save({"model": small, "args": argparse.Namespace(lr=0.1)}, written, _use_new_zipfile_serialization=False)
    generator = np.random.default_rng(0)
    for _ in range(60):
        data = bytearray(written.getvalue())
        data[generator.integers(len(data))] ^= 1 << int(generator.integers(8))
        file.write_bytes(data)
        with contextlib.suppress(InputError):
            weights_file.read(file)


def test_a_pickle_that_claims_a_string_of_terabytes_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(b"\x80\x04\x8d" + (1 << 45).to_bytes(8, "little") + b"abc.")
    with pytest.raises(InputError, match="damaged"):
        weights_file.read(tmp_path / "w.pth")
