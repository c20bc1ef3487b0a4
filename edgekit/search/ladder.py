"""The rescue ladder: from the recipe's own choices to costlier ones, up to the first that loses at most `max_drop`.

The loss of a rung is measured on the validation split with the graph's exact integer arithmetic. Each rung builds on
the best one so far, so that what helped is kept; only quantization-aware training starts from the float network, with
the best ranges.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgekit.config.recipe import QuantizeSection, VerifySection
from edgekit.console import Console
from edgekit.data.dataset import ImageSet
from edgekit.device.file import Device
from edgekit.errors import Shortfall
from edgekit.export.port import exporter
from edgekit.graph import integer_arithmetic
from edgekit.graph.exported_program import output_scale
from edgekit.graph.kernels import float_layers
from edgekit.graph.logits import per_class
from edgekit.lower.reparameterize import joined
from edgekit.profile.run import profile
from edgekit.quantize import ptq
from edgekit.quantize.calibration_images import Images
from edgekit.quantize.gains import gains
from edgekit.quantize.sensitivity import sensitivity
from edgekit.search._judge import Judge
from edgekit.search._settings import as_line, as_toml
from edgekit.train import qat
from edgekit.types import TORCH_FP32, TORCH_INT8, Artifact, Gain, Rung, Sensitivity, Size, Symmetry
from edgekit.verify import files as verify

RANGES = ("mse", "auto")
"""Rules that the rung `range` tries."""
KEPT = (1, 2, 4, 8)
"""How many layers the rung `keep_float` leaves in float."""
PROBES = 16
"""Calibration images that rank layers by their sensitivity."""
FILES = 32
"""Validation images on which files with float layers are compared with their graph."""
SECONDS = 1.0
"""Measured time of each exported file and engine."""


@dataclass(frozen=True)
class Material:
    """What every rung is made from."""

    module: nn.Module
    """The float network, in eval mode."""
    size: Size
    images: Images
    """The calibration images."""
    pixels: Tensor
    """Every value that the input can take."""
    train: ImageSet
    """For quantization-aware training, augmented or not."""
    val: ImageSet | None
    rewrites: Collection[str] | None
    """Which modules of ``edgekit/lower/rewrites`` may change the graph; None allows all."""
    formats: Sequence[str]
    """Formats that the graph will be exported to; rungs are timed in these."""
    folder: Path
    """For exported files that are timed; empty at first."""
    console: Console
    teacher: nn.Module | None = None
    """Of quantization-aware training; None: the float network."""
    held_out: Iterable[Tensor] = ()
    """Training images, float32 (3, H, W), on which the gain of single choices is measured."""


@dataclass(frozen=True)
class Climb:
    """Where the climb ended."""

    result: ptq.Result
    section: QuantizeSection
    """The settings that produced it."""
    rungs: tuple[Rung, ...]
    """In the order they were tried; empty if none was judged."""
    sensitivity: tuple[Sensitivity, ...]
    """The layers with these settings, the most harmful first; empty if the recipe does not ask for it."""
    note: str = ""
    """What the rungs were judged on, or why none was."""
    shortfall: str = ""
    """If no rung holds: by how much, which layer hurts most, and the next move."""
    gains: tuple[Gain, ...] = ()
    """Gains of single choices, on `Material.held_out`."""
    symmetry: Symmetry | None = None
    """What symmetric activations cost, if the recipe has them."""


def climb(material: Material, section: QuantizeSection) -> Climb:
    """Quantize as the recipe says, then climb the rungs that it allows while more than `max_drop` is lost.

    Raises:
        InputError: as `ptq.quantize` and `qat.train`.
        Shortfall: the recipe's own choices cannot be carried out; for later rungs this becomes `Rung.problem`.
    """
    workshop = _Workshop(material)
    if not section.rescue or material.val is None:
        why = "the data has no validation split" if material.val is None else "quantize.rescue is empty"
        note = f"{why}: max_drop was not judged here"
        result = workshop.make(section)
        gained, cost = _gains(workshop, section, result), _symmetry(workshop, section, result, None)
        return Climb(result, section, (), _layers(workshop, section), note, gains=gained, symmetry=cost)
    judge = Judge.on_validation(material.module, material.val)
    name = "qat" if section.method == "qat" else "plain"
    began = time.perf_counter()
    first = _Tried(name, section, workshop.make(section))
    tried = [first.judged(judge, section, began, material.console)]
    for name in section.rescue if section.method == "ptq" else ():
        for settings in _settings(name, section, tried, workshop):
            if any(one.rung.holds for one in tried):
                break
            tried.append(_try(name, settings, section, workshop, judge, tried))
    return _close(material, section, workshop, judge, tried)


@dataclass
class _Tried:
    """One rung, what it gave, and the files that it was timed in."""

    name: str
    section: QuantizeSection
    result: ptq.Result | None
    rung: Rung = field(default_factory=lambda: Rung("", "", None, None, None, 0.0, False, False))
    artifacts: tuple[Artifact, ...] = ()

    @property
    def rank(self) -> tuple[float, float]:
        """Higher is better; a rung that could not be finished ranks below all others."""
        if self.rung.problem or self.rung.accuracy is None or self.rung.agreement is None:
            return -1.0, -1.0
        return self.rung.accuracy, self.rung.agreement

    @property
    def floats(self) -> list[str]:
        """Layers that stay float, the only operators in which the rungs' files differ."""
        return float_layers(self.result.program.module()) if self.result else []

    def judged(self, judge: Judge, recipe: QuantizeSection, began: float, console: Console) -> _Tried:
        """A copy with its rung filled in."""
        assert self.result is not None
        accuracy, agreement = judge.score(self.result)
        drop = 100 * (judge.accuracy - accuracy)
        holds = drop <= recipe.max_drop + 1e-9
        seconds = round(time.perf_counter() - began, 3)
        settings = as_toml(self.section, recipe)
        self.rung = Rung(self.name, settings, accuracy, agreement, drop, seconds, holds, False)
        console.say(
            f"  {self.name:<11} top-1 {accuracy:.1%} (float {judge.accuracy:.1%}), agrees with float {agreement:.1%}"
            f"{', holds' if holds else ''}  {seconds:.0f} s" + (f"  {as_line(settings)}" if settings else "")
        )
        return self


def _untrained(section: QuantizeSection) -> QuantizeSection:
    """What quantization-aware training starts from."""
    return section.model_copy(update={"method": "ptq", "equalize": False, "rounding": "nearest"})


class _Workshop:
    """Makes quantized graphs; calibration results are reused by rungs with the same calibration."""

    def __init__(self, material: Material) -> None:
        self.material = material
        self._observed: dict[Any, ptq.Observed] = {}
        self._rankings: dict[str, tuple[Sensitivity, ...]] = {}

    def make(self, section: QuantizeSection) -> ptq.Result:
        """The graph with these settings, independent of what was made before."""
        if section.method == "ptq":
            return ptq.decide(self.observed(section), section)
        plain = _untrained(section)
        given = self.material
        return qat.train(
            given.module,
            given.size,
            self.make(plain).program.module(),
            given.train,
            given.val,
            given.pixels,
            section,
            given.console,
            given.rewrites,
            given.teacher,
        )

    def observed(self, section: QuantizeSection) -> ptq.Observed:
        """Calibration results with these settings."""
        key = (tuple(section.keep_float), section.symmetric, section.equalize, section.rounding)
        wide = (*key[:3], "adaptive")  # records all that "nearest" needs
        if wide in self._observed:
            return self._observed[wide]
        if key not in self._observed:
            given = self.material
            with given.console.bar("calibrate", len(given.images)) as advance:
                images = Images(given.images.root, given.images.samples, given.images.spec, advance)
                self._observed[key] = ptq.observe(
                    given.module, given.size, images, given.pixels, section, given.rewrites
                )
        return self._observed[key]

    def ranking(self, section: QuantizeSection) -> tuple[Sensitivity, ...]:
        """The layers, most harmful first, each quantized alone and rounded to nearest."""
        plain = section.model_copy(update={"method": "ptq", "rounding": "nearest"})
        key = plain.model_dump_json()
        if key not in self._rankings:
            observed = self.observed(plain)
            quantized = ptq.decide(observed, plain).program.module()
            self._rankings[key] = sensitivity(observed.prepared, quantized, list(islice(self.material.images, PROBES)))
        return self._rankings[key]


def _settings(
    name: str, recipe: QuantizeSection, tried: Sequence[_Tried], workshop: _Workshop
) -> Iterator[dict[str, Any]]:
    """What a rung changes in the best settings so far, cheapest first; nothing if they already include it."""
    base = max(tried, key=lambda one: one.rank).section
    if name == "range":
        yield from ({"range": rule} for rule in RANGES if rule != base.range)
    elif name == "corrections" and not (base.equalize and base.bias_correction):
        yield {"equalize": True, "bias_correction": True}
    elif name == "rounding" and base.rounding != "adaptive":
        yield {"rounding": "adaptive"}
    elif name == "keep_float" and not recipe.symmetric:  # with symmetric activations, the engine chooses
        given = workshop.material
        known = {layer for layer, _ in joined(given.module, given.size).named_modules()}  # a recipe can name only these
        worst = [row.layer for row in workshop.ranking(base) if row.layer in known]
        yield from ({"keep_float": [*base.keep_float, *worst[:count]]} for count in KEPT if count <= len(worst))
    elif name == "qat":  # no float layers: training recovers the accuracy without their cost
        yield {"method": "qat", "keep_float": recipe.keep_float, "equalize": False, "rounding": "nearest"}


def _try(
    name: str,
    settings: dict[str, Any],
    recipe: QuantizeSection,
    workshop: _Workshop,
    judge: Judge,
    tried: Sequence[_Tried],
) -> _Tried:
    """Try one rung; if it fails, the reason is recorded and the climb continues."""
    began, given = time.perf_counter(), workshop.material
    best = max(tried, key=lambda one: one.rank)
    one = _Tried(name, best.section.model_copy(update=settings), None)
    try:
        one.result = workshop.make(one.section)
        one.judged(judge, recipe, began, given.console)
        if one.rank > best.rank and one.floats != tried[0].floats:
            one.artifacts = _export(one, given, len(tried))
            _agree(one, given)
    except Shortfall as trouble:
        seconds = round(time.perf_counter() - began, 3)
        one.rung = replace(
            one.rung,
            name=name,
            settings=as_toml(one.section, recipe),
            seconds=seconds,
            holds=False,
            problem=str(trouble).splitlines()[0],
        )
        given.console.say(f"  {name:<11} {one.rung.problem}")
    return one


# The end of the climb ------------------------------------------------------------------------------


def _close(
    material: Material, recipe: QuantizeSection, workshop: _Workshop, judge: Judge, tried: list[_Tried]
) -> Climb:
    held = [one for one in tried if one.rung.holds]
    best = held[0] if held else max(tried, key=lambda one: one.rank)
    best.rung = replace(best.rung, chosen=True)
    note = f"judged on {judge.said}; float top-1 {judge.accuracy:.2%}"
    if len(tried) > 1 and material.formats:
        note += _time(tried, material)
    if recipe.symmetric and len(tried) > 1 and "keep_float" in recipe.rescue:
        note += "; the rung keep_float is left out: activations are symmetric"
    assert best.result is not None
    rungs = tuple(one.rung for one in tried)
    shortfall = "" if held else _shortfall(best, recipe, workshop, judge, len(tried))
    gained = _gains(workshop, best.section, best.result)
    cost = _symmetry(workshop, best.section, best.result, judge)
    return Climb(best.result, best.section, rungs, _layers(workshop, best.section), note, shortfall, gained, cost)


def _symmetry(
    workshop: _Workshop, section: QuantizeSection, result: ptq.Result, judge: Judge | None
) -> Symmetry | None:
    """The cost of symmetric activations. Training is not repeated with affine ones: both are scored before it."""
    if not section.symmetric:
        return None
    judge, note = judge or _judge(workshop.material), ""
    if section.method == "qat":
        section, note = _untrained(section), ", before quantization-aware training"
        result = workshop.make(section)
    affine = judge.score(workshop.make(section.model_copy(update={"activations": "affine"})))
    (accuracy, agreement), said = zip(affine, judge.score(result), strict=True), judge.said + note
    workshop.material.console.say(
        f"  symmetric activations: top-1 {accuracy[1]:.1%} (affine {accuracy[0]:.1%}), "
        f"agree with float {agreement[1]:.1%} (affine {agreement[0]:.1%}), on the same {said}"
    )
    return Symmetry(said, accuracy, agreement)


def _judge(material: Material) -> Judge:
    """On the validation split; without one, on training images, if possible on those that did not calibrate."""
    if material.val is not None:
        return Judge.on_validation(material.module, material.val)
    images, kind = material.images, "calibration images"
    if isinstance(material.held_out, Images) and material.held_out.samples:
        images, kind = material.held_out, "training images not used for calibration"
    labels = [sample.label for sample in images.samples]
    return Judge(material.module, lambda: images, labels, f"{len(images)} {kind}")


def _gains(workshop: _Workshop, section: QuantizeSection, result: ptq.Result) -> tuple[Gain, ...]:
    material = workshop.material
    if section.method == "qat":  # its ranges and weights are trained
        return ()
    return gains(material.module, section, result, workshop.make, material.held_out)


def _layers(workshop: _Workshop, section: QuantizeSection) -> tuple[Sensitivity, ...]:
    return workshop.ranking(section) if section.sensitivity else ()


def _shortfall(best: _Tried, recipe: QuantizeSection, workshop: _Workshop, judge: Judge, count: int) -> str:
    rung = best.rung
    worst = workshop.ranking(best.section)[0]
    left = [name for name in ("range", "corrections", "rounding", "keep_float", "qat") if name not in recipe.rescue]
    left = [name for name in left if name != "keep_float" or not recipe.symmetric]
    if recipe.method == "qat" or not left:
        move = "train longer with quantize.qat.epochs, or raise quantize.max_drop"
    else:
        move = f"add {left[-1]!r} to quantize.rescue, or raise quantize.max_drop".replace("'", '"')
    settings = f" ({as_line(rung.settings)})" if rung.settings else ""
    return (
        f"quantize: int8 loses {rung.drop:.2f} points of top-1 on {judge.said}, but quantize.max_drop allows "
        f"{recipe.max_drop:g}; the best of {count} rungs is kept: {rung.name}{settings}; layer {worst.layer} hurts "
        f"most ({worst.sqnr_db:.1f} dB with it alone quantized); {move}"
    )


def _export(one: _Tried, material: Material, place: int) -> tuple[Artifact, ...]:
    """Export the graph to each format, which also proves that the converters accept it."""
    assert one.result is not None
    folder = material.folder / str(place)
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for name in material.formats:
        artifact = exporter(name).export(
            one.result.program.module(), material.size, "int8", folder, keep_float=one.section.may_be_float
        )
        made.append(replace(artifact, id=f"{place} {name}", path=f"{place}/{artifact.path}"))
    return tuple(made)


def _agree(one: _Tried, material: Material) -> None:
    """Float layers round differently in each engine: files that the verify stage would refuse must not be chosen.

    Raises:
        Shortfall: they differ from the graph by more than that stage allows by default.
    """
    assert one.result is not None
    assert material.val is not None
    graph = one.result.program.module()
    reference = verify.Reference(TORCH_INT8, integer_arithmetic.integer_graph(graph), output_scale(graph))
    exact = verify.Reference(TORCH_FP32, material.module)
    section = VerifySection(images=FILES)
    with torch.no_grad():
        logits = per_class(material.module(material.val[0][0].unsqueeze(0)))
    names = [str(number) for number in range(logits.shape[1])]
    rows = verify.verify(
        material.val, "val", names, exact, reference, one.artifacts, material.folder, section, material.console
    )
    verify.check(rows)


def _time(tried: list[_Tried], material: Material) -> str:
    """Time the files of the first rung and of those with other float layers, interleaved; returns a note on it."""
    first = tried[0]
    try:
        first.artifacts = _export(first, material, 0)
    except Shortfall as trouble:
        return f"; latency not measured: {str(trouble).splitlines()[0]}"
    host = Device.model_validate({"name": "host", "run": {"seconds": SECONDS, "threads": [1]}})
    artifacts = [artifact for one in tried for artifact in one.artifacts]
    try:
        timings = profile(artifacts, material.folder, {"host": host}, material.console).timings
    except Shortfall as trouble:
        return f"; latency not measured: {trouble}"
    for one in tried:
        mine = {artifact.id: artifact.format for artifact in one.artifacts}
        latency = {f"{mine[row.artifact]} on {row.engine}": row.p50_ms for row in timings if row.artifact in mine}
        if latency:
            one.rung = replace(one.rung, latency_ms=latency)
        elif one.result is not None and one.floats == first.floats:
            one.rung = replace(one.rung, latency_ms=dict(first.rung.latency_ms), latency_of=first.name)
    return f"; latency: p50 on {host.name}, one thread, interleaved"
