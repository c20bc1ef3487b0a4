"""What [train] offers, each against torch's, timm's or scikit-learn's own, or numbers worked out by hand."""

# mypy: disable-error-code="arg-type, index, operator, type-var"
from __future__ import annotations

import csv
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from sklearn.utils.class_weight import compute_class_weight
from timm.optim import param_groups_layer_decay
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import lr_scheduler

from edgekit import choices, models
from edgekit.config.train_section import TrainSection
from edgekit.console import Console
from edgekit.data.dataset import ImageSet, groups
from edgekit.data.transforms import augmenter
from edgekit.errors import InputError
from edgekit.train import balance, gradients, mixing, optim
from edgekit.train.crew import Crew
from edgekit.train.epoch import Done, Trainer, loss_of, precision
from edgekit.train.loader import Loader, Pace
from edgekit.train.loop import start
from edgekit.train.record import FILE, Record
from edgekit.types import Epoch, Index, InputSpec, ModelSpec
from tests.colours import LABELS, write_images
from tests.support import environment

QUIET = Console(quiet=True)
SPEC = InputSpec(16, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
WEIGHT = nn.Parameter(torch.zeros(1))
Factor = Callable[..., float]


def schedule(name: str) -> Factor:
    factor: Factor = choices.pick("edgekit.train.schedules", name, "train.schedule").factor
    return factor


def of_torch(scheduler: Any, solver: torch.optim.Optimizer, steps: int) -> list[float]:
    rates = []
    for _ in range(steps):
        rates.append(solver.param_groups[0]["lr"])
        solver.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("warmup", [0.1, 0.3])
def test_one_cycle_is_that_of_torch(warmup: float) -> None:
    solver = torch.optim.SGD([WEIGHT], lr=1.0)
    theirs = of_torch(
        lr_scheduler.OneCycleLR(solver, 1.0, total_steps=41, pct_start=warmup, cycle_momentum=False), solver, 40
    )
    section = TrainSection(schedule="one_cycle", warmup=warmup)
    ours = [schedule("one_cycle")(section, step, 41) for step in range(40)]
    assert ours == pytest.approx(theirs, rel=1e-9)


def test_step_and_constant_are_those_of_torch() -> None:
    solver = torch.optim.SGD([WEIGHT], lr=1.0)
    theirs = of_torch(lr_scheduler.MultiStepLR(solver, [10, 25], gamma=0.3), solver, 40)
    section = TrainSection(schedule="step", warmup=0.0, milestones=[0.25, 0.625], gamma=0.3)
    assert [schedule("step")(section, step, 40) for step in range(40)] == pytest.approx(theirs)
    solver = torch.optim.SGD([WEIGHT], lr=1.0)
    theirs = of_torch(lr_scheduler.LinearLR(solver, 1 / 5, 1.0, total_iters=4), solver, 40)
    section = TrainSection(schedule="constant", warmup=0.1)
    assert [schedule("constant")(section, step, 40) for step in range(40)] == pytest.approx(theirs)


@given(st.lists(st.floats(0.1, 2.0), min_size=1, max_size=25), st.integers(0, 3))
def test_plateau_is_that_of_torch(losses: list[float], patience: int) -> None:
    solver = torch.optim.SGD([WEIGHT], lr=1.0)
    theirs = lr_scheduler.ReduceLROnPlateau(solver, factor=0.5, patience=patience, eps=0.0)
    section = TrainSection(schedule="plateau", warmup=0.0, gamma=0.5, plateau=patience)
    for epoch, loss in enumerate(losses, 1):
        theirs.step(loss)
        ours = schedule("plateau")(section, epoch, len(losses) + 1, losses[:epoch])
        assert ours == pytest.approx(solver.param_groups[0]["lr"])


OPTIMIZERS: dict[str, Callable[[list[Tensor]], torch.optim.Optimizer]] = {
    "adam": lambda weights: torch.optim.Adam(weights, lr=0.1),
    "rmsprop": lambda weights: torch.optim.RMSprop(weights, lr=0.1, alpha=0.9, momentum=0.8),
    "adagrad": lambda weights: torch.optim.Adagrad(weights, lr=0.1, eps=1e-8),
    "sgd": lambda weights: torch.optim.SGD(weights, lr=0.1, momentum=0.8, nesterov=True),
    "radam": lambda weights: torch.optim.RAdam(weights, lr=0.1),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_by_name_steps_as_torchs(name: str) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 3))
    section = TrainSection(optimizer=name, lr=0.1, momentum=0.8, weight_decay=0.0)
    ours = optim.optimizer(module, section)
    twin = [weight.detach().clone().requires_grad_() for weight in module.parameters()]
    theirs = OPTIMIZERS[name](twin)
    for step in range(3):
        for weight, other in zip(module.parameters(), twin, strict=True):
            weight.grad = torch.cos(weight.detach() + step)
            other.grad = weight.grad.clone()
        ours.step()
        theirs.step()
    for weight, other in zip(module.parameters(), twin, strict=True):
        torch.testing.assert_close(weight.detach(), other.detach(), rtol=1e-4, atol=1e-5)


def test_an_unknown_optimizer_is_refused_with_near_names() -> None:
    with pytest.raises(InputError, match=r'^train.optimizer: "adamv": no such optimizer; did you mean "adam"'):
        optim.optimizer(nn.Sequential(nn.Linear(2, 2)), TrainSection(optimizer="adamv"))


def test_rates_by_layer_are_those_of_timm() -> None:
    module = timm.create_model("mobilenetv3_small_050", num_classes=4)
    solver = optim.optimizer(module, TrainSection(lr=0.1, layer_decay=0.7))
    ours = {id(weight): group["peak"] for group in solver.param_groups for weight in group["params"]}
    theirs = {
        id(weight): 0.1 * group["lr_scale"]
        for group in param_groups_layer_decay(module, layer_decay=0.7)
        for weight in group["params"]
    }
    assert ours.keys() == theirs.keys()
    assert [ours[key] for key in ours] == pytest.approx([theirs[key] for key in ours])


def test_layers_of_a_plain_network_are_ordered_as_they_are_written() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.Flatten(), nn.Linear(4, 2))
    assert optim.depths(module) == {
        "0.weight": 0, "0.bias": 0, "1.weight": 1, "1.bias": 1, "2.weight": 2, "2.bias": 2, "4.weight": 3, "4.bias": 3,
    }  # fmt: skip
    assert optim.unfrozen(module, 2) == {"2.weight", "2.bias", "4.weight", "4.bias"}


@pytest.mark.parametrize(
    ("kind", "spread"), [("kaiming", math.sqrt(2 / (64 * 9))), ("xavier", math.sqrt(2 / (96 * 9)))]
)
def test_layers_are_initialised_with_the_spread_of_their_papers(kind: str, spread: float) -> None:
    torch.manual_seed(0)
    part = nn.Conv2d(32, 64, 3)
    optim.initialise([part], kind)
    assert float(part.weight.detach().std()) == pytest.approx(spread, rel=0.03)
    assert part.bias is not None
    assert not part.bias.any()


# Losses and classes --------------------------------------------------------------------------------


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    labels = [0] * 60 + [1] * 30 + [2] * 10
    found = balance.weights(TrainSection(class_weights="balanced"), labels, LABELS)
    theirs = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    assert found is not None
    assert found.tolist() == pytest.approx(theirs.tolist())
    given_ = balance.weights(TrainSection(class_weights={"green": 3.0}), labels, LABELS)
    assert given_ is not None
    assert given_.tolist() == pytest.approx([1 / 1.6, 3 / 1.6, 1 / 1.6])  # their mean over the images is 1
    with pytest.raises(InputError, match=r'^train.class_weights: "gren": no such class; did you mean "green"'):
        balance.weights(TrainSection(class_weights={"gren": 2.0}), labels, LABELS)


@pytest.mark.parametrize("loss", ["cross_entropy", "focal"])
def test_a_loss_with_weights_is_the_mean_of_weighted_images(loss: str) -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(8, 3), torch.tensor([0, 0, 0, 0, 1, 1, 2, 2])
    section = TrainSection(loss=loss, class_weights="balanced", focal_gamma=1.5)
    got = loss_of(section, labels.tolist(), LABELS)(logits, logits, labels)
    weights = {0: 8 / (3 * 4), 1: 8 / (3 * 2), 2: 8 / (3 * 2)}
    total = 0.0
    for row, label in zip(logits, labels.tolist(), strict=True):
        p = float(row.exp()[label] / row.exp().sum())
        total += weights[label] * -math.log(p) * ((1 - p) ** 1.5 if loss == "focal" else 1.0)
    assert float(got) == pytest.approx(total / 8, rel=1e-5)


def test_focal_loss_without_focus_is_cross_entropy() -> None:
    logits, labels = torch.randn(8, 3), torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
    section = TrainSection(loss="focal", focal_gamma=0.0, label_smoothing=0.2)
    got = loss_of(section, labels.tolist(), LABELS)(logits, logits, labels)
    torch.testing.assert_close(got, functional.cross_entropy(logits, labels, label_smoothing=0.2))


def test_a_balanced_sampler_draws_every_class_as_often() -> None:
    labels = [0] * 900 + [1] * 90 + [2] * 10
    drawn = np.array([labels[place] for epoch in range(5) for place in balance.balanced_order(labels, 0, epoch)])
    shares = np.bincount(drawn) / len(drawn)
    assert shares == pytest.approx(1 / 3, abs=0.03)
    assert balance.balanced_order(labels, 0, 1) == balance.balanced_order(labels, 0, 1)
    assert balance.balanced_order(labels, 0, 1) != balance.balanced_order(labels, 0, 2)


@pytest.mark.parametrize(
    "section", [TrainSection(mixup=0.4), TrainSection(cutmix=1.0), TrainSection(mixup=0.4, cutmix=1.0)]
)
def test_targets_are_the_shares_of_what_is_in_a_mixed_image(section: TrainSection) -> None:
    labels = torch.arange(3).repeat(4)
    images = functional.one_hot(labels, 3).float()[:, :, None, None].expand(-1, -1, 32, 32).clone()
    mix = mixing.mixer(section, 3)
    assert mix is not None
    torch.manual_seed(0)
    mixed, targets = mix(images, labels)
    torch.testing.assert_close(mixed.mean((2, 3)), targets, atol=1e-5, rtol=0)
    assert mixing.mixer(TrainSection(), 3) is None


def test_a_section_that_contradicts_itself_is_refused() -> None:
    with pytest.raises(ValidationError, match="choose one"):
        TrainSection(sampler="balanced", class_weights="balanced")
    with pytest.raises(ValidationError, match="rising order"):
        TrainSection(milestones=[0.7, 0.5])


def test_new_keys_are_not_in_the_records_of_recipes_that_do_not_use_them() -> None:
    assert "schedule" not in TrainSection().model_dump()
    assert TrainSection(schedule="step").model_dump()["schedule"] == "step"
    again = TrainSection.model_validate(TrainSection(schedule="step", clip=1.0).model_dump())
    assert (again.schedule, again.clip) == ("step", 1.0)


# Epochs --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    return write_images(tmp_path_factory.mktemp("colours"))


def plain(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)
    )


def epoch(index: Index, section: TrainSection, module: nn.Module, number: int = 1, size: int = 1) -> Done:
    images = ImageSet(index, Path(index.root), "train", SPEC, section.augment, section.seed)
    state = start(module, section)
    state.precision = precision(section, module, SPEC.shape)
    criterion = loss_of(section, [sample.label for sample in images.samples], index.labels)
    crew = Crew()
    return Trainer(state, section, Loader(images, section, crew), criterion, crew, 3).epoch(number, QUIET)


SGD = {"optimizer": "sgd", "schedule": "constant", "warmup": 0.0, "lr": 0.1, "weight_decay": 0.0}


def test_accumulated_batches_make_the_step_of_one_large_batch(index: Index) -> None:
    one, parts = plain(), plain()
    epoch(index, TrainSection(batch=50, **SGD), one)  # 120 images: 50, 50, 20
    epoch(index, TrainSection(batch=10, accumulate=5, **SGD), parts)
    for a, b in zip(one.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_clipping_bounds_the_step(index: Index) -> None:
    module = plain()
    before = [weight.detach().clone() for weight in module.parameters()]
    section = TrainSection(batch=120, clip=1e-3, momentum=0.0, **SGD)
    epoch(index, section, module)
    moved = torch.cat([(a.detach() - b).flatten() for a, b in zip(module.parameters(), before, strict=True)])
    assert float(moved.norm()) == pytest.approx(0.1 * 1e-3, rel=1e-3)


def test_layers_are_unfrozen_from_the_head_backwards(index: Index) -> None:
    section = TrainSection(batch=40, unfreeze=2, batch_norm="train", **SGD)
    for number, moving in (
        (1, {"4.weight", "4.bias"}),
        (2, {"4.weight", "4.bias"}),
        (3, set(dict(plain().named_parameters()))),
    ):
        module = plain()
        epoch(index, section, module, number)
        now, before = dict(module.named_parameters()), dict(plain().named_parameters())
        assert {name for name in now if not torch.equal(now[name], before[name])} == moving
        assert all(weight.requires_grad for weight in now.values())


@pytest.mark.parametrize("changes", [{"precision": "bf16"}, {"precision": "auto"}, {"mixup": 0.2}, {"loss": "focal"}])
def test_a_network_learns_with(index: Index, changes: dict[str, Any]) -> None:
    module = plain()
    done = [
        epoch(index, TrainSection(batch=20, epochs=50, lr=0.02, **changes), module, number) for number in (10, 11, 12)
    ]
    assert done[-1].accuracy > (0.55 if "mixup" in changes else 0.8)  # a mixed image counts as the first of the two
    assert done[-1].gradient is not None


def test_half_precision_is_refused_on_a_cpu() -> None:
    with pytest.raises(InputError, match='"fp16" is for GPUs'):
        precision(TrainSection(precision="fp16"), plain(), SPEC.shape)


BESIDE = """
import multiprocessing
import sys
from contextlib import nullcontext
from pathlib import Path

import torch

from edgekit.config.train_section import TrainSection
from edgekit.data.dataset import ImageSet
from edgekit.train.crew import Crew
from edgekit.train.loader import Loader
from edgekit.types import InputSpec
from tests.colours import write_images

folder = Path(sys.argv[1])
spec = InputSpec(16, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
images = ImageSet(write_images(folder), folder, "train", spec, ["random_crop", "flip", "random_erasing"], 3)
runs = []
for workers in (0, 2):
    for early in (False, True):
        loader = Loader(images, TrainSection(batch=30, workers=workers), Crew())
        with loader.started() if early else nullcontext():
            begun = multiprocessing.active_children()
            assert len(begun) == (workers if early else 0)
            next(loader.epoch(3, loader.groups(3)))  # an epoch that is left early
            runs.append([batch for epoch in (4, 5) for batch in loader.epoch(epoch, loader.groups(epoch))])
            assert (loader.pace.workers, loader.pace.images) == (workers, 120)
            assert 0 <= loader.pace.wait <= 1
            assert not early or multiprocessing.active_children() == begun  # they stay from epoch to epoch
        del loader
        assert not multiprocessing.active_children()
for (a, labels), (b, others), *more in zip(*runs, strict=True):
    assert all(torch.equal(a, c) and torch.equal(labels, d) for c, d in more)
    assert torch.equal(a, b)
    assert torch.equal(labels, others)
print("the same")
"""


def test_processes_beside_the_training_prepare_the_same_images(tmp_path: Path) -> None:
    """In a process of its own: where an exporter was used before, none are forked."""
    command = [sys.executable, "-W", "error", "-c", BESIDE, str(tmp_path)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert done.stdout == "the same\n", done.stderr


def test_processes_beside_the_training_go_only_where_they_clearly_slow_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "jax", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    loader = Loader(None, TrainSection(), Crew())
    assert loader._workers() == 0
    loader._paces.append(Pace(0, images=100, seconds=10.0, waited=4.0))
    tried = loader._workers()
    assert tried == 1
    loader._paces.append(Pace(tried, images=100, seconds=12.0, waited=0.1))
    assert loader._workers() == 0
    for faster_or_as_fast in (7.0, 10.4):
        loader._paces[1].seconds = faster_or_as_fast
        assert loader._workers() == tried
    monkeypatch.setitem(sys.modules, "jax", sys)
    assert loader._workers() == 0


@settings(max_examples=50)
@given(st.integers(2, 300), st.integers(1, 70), st.integers(1, 4))
def test_batches_hold_each_image_once_and_enough_for_every_part(images: int, batch: int, parts: int) -> None:
    found = groups(list(range(images)), batch, parts)
    assert [place for group in found for place in group] == list(range(images))
    if len(found) > 1:
        assert len(found[-1]) >= 2 * parts or batch < 2 * parts
    shares = [Crew(rank, parts).own(group) for group in found for rank in range(parts)]
    assert sorted(place for share in shares for place in share) == list(range(images))


def test_erased_parts_have_the_mean_colour() -> None:
    from PIL import Image

    augment = augmenter(["random_erasing"], SPEC)
    white = Image.new("RGB", (16, 16), (255, 255, 255))
    torch.manual_seed(0)
    seen = [augment(white) for _ in range(80)]
    assert {float(value) for values in seen for value in np.unique(values)} == {0.0, 1.0}
    erased = sum(bool((values == 0).any()) for values in seen)
    assert 10 <= erased <= 32  # a quarter of 80


# Watching ------------------------------------------------------------------------------------------


def test_layers_whose_gradients_vanish_or_explode_are_named() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    watch = gradients.Watch(module, 4)
    for place, size in enumerate((1e-12, 0.1, 1e3)):
        weight = module[place].weight
        weight.grad = torch.full_like(weight, size)
    watch.look()
    small, large = watch.warnings()
    assert small.startswith("gradients vanish in 0: ")
    assert large.startswith("gradients explode in 2: ")
    assert watch.norm == pytest.approx(math.sqrt(16 * (1e6 + 0.01)), rel=1e-4)
    assert gradients.first_broken(module) is None
    module[1].weight.grad[0, 0] = math.nan
    assert gradients.first_broken(module) == "1.weight"


HISTORY = [Epoch(number, "all", 0.1, 1.0 / number, 0.5, 0.9, 0.6, 2.0) for number in (1, 2, 3)]


def test_every_epoch_is_a_row_and_a_killed_run_keeps_its_rows(tmp_path: Path) -> None:
    record = Record(tmp_path, [], {})
    record.add(HISTORY[0], Done(1.0, 0.5, 0.1, 0.25), Pace(0, 50, 2.0, 0.5))
    again = Record(tmp_path, [], {})
    again.resume(HISTORY[:2])  # the process was killed between saving the second epoch and writing its row
    again.add(HISTORY[2])
    with (tmp_path / FILE).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert [float(row["train_loss"]) for row in rows] == pytest.approx([1, 1 / 2, 1 / 3])
    assert (rows[0]["images_per_second"], rows[0]["image_wait"], rows[0]["gradient_norm"]) == ("25.0", "0.25", "0.25")
    assert rows[1]["images_per_second"] == ""


def test_waiting_for_images_is_said_once(tmp_path: Path) -> None:
    record = Record(tmp_path, [], {})
    slow = Pace(1, 1000, 20.0, 5.0)
    assert record.add(HISTORY[0], None, slow).startswith("25% of the time was spent waiting for images (50 images/s)")
    assert not record.add(HISTORY[1], None, slow)


def test_tensorboard_reads_what_was_logged(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    record = Record(tmp_path, ["tensorboard"], {"name": "colours"})
    for each in HISTORY:
        record.add(each)
    record.close()
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [round(event.value, 4) for event in events.Scalars("train_loss")] == [1.0, 0.5, 0.3333]


def test_a_logger_that_is_not_installed_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(InputError, match=r"pip install 'edgekit\[mlflow\]'"):
        Record(tmp_path, ["mlflow"], {})


def test_trackio_gets_the_numbers_and_prints_nothing_among_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Trackio is a stand-in, which prints as the real one does: that one wants an older Pillow."""
    sent: list[Any] = []

    def call(*args: Any, **keywords: Any) -> None:
        print("* Trackio is talking")
        sent.append((args, keywords))

    package = ModuleType("trackio")
    vars(package).update(init=call, log=call, finish=call)
    monkeypatch.setitem(sys.modules, "trackio", package)
    record = Record(tmp_path, ["trackio"], {"name": "colours"})
    record.add(Epoch(3, "all", 0.1, 1.5, 0.25, None, None, 2.0))
    record.close()
    (_, begun), ((values,), at), _ = sent
    assert begun["name"] == "colours"
    assert (values["train_loss"], values["train_accuracy"], at) == (1.5, 0.25, {"step": 3})
    assert "val_loss" not in values
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("talking") == 3


def test_dropout_and_stochastic_depth_are_options_of_the_model() -> None:
    module = models.build(ModelSpec("mobilenetv2_050", 3, {"drop_rate": 0.3, "drop_path_rate": 0.2}), Path())
    drops = [part.drop_prob for part in module.modules() if type(part).__name__ == "DropPath"]
    assert max(drops) > 0.15
    assert module.drop_rate == 0.3
