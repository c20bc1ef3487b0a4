"""Run the same test images through torch and through every exported file in its engine.

The reference of a float file is the float network; that of an int8 file is the quantized graph in integer arithmetic
(`edgekit.graph.integer_arithmetic`); that of other precisions is a graph of `edgekit.export.sources`. A difference is
therefore the exporter's or the engine's, not the quantizer's. An int8 file with float operators passes, too, if each
layer agrees to one step on the file's own values. If a file fails, `edgekit.verify.diverge_int8` or
`edgekit.verify.diverge_float` names the first layer that differs.

One engine of each format is the judge of its files: `edgekit.types.HOST_ENGINES`. Others whose arithmetic is not exact
run them, too, held to a bound of their own (`edgekit.runtime.port.Engine.BOUND`): what misses it fails in that engine
alone, where it is not shipped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.fx import GraphModule

from edgekit.config.recipe import VerifySection
from edgekit.console import Console
from edgekit.data.dataset import ImageSet
from edgekit.errors import MissingPackage, Shortfall
from edgekit.graph.logits import classes
from edgekit.runtime import engine_menu, machine
from edgekit.runtime.errors import RuntimeFault
from edgekit.runtime.port import Bound, Session, dequantize, quantize
from edgekit.scores import Accuracy
from edgekit.train import metrics
from edgekit.types import HOST_ENGINES, ONE_STEP, TORCH_INT8, Artifact, Split
from edgekit.verdict import intervals
from edgekit.verify import diverge_float, diverge_int8

Array = npt.NDArray[np.float32]
DEVICE = "host"
MOST_CLASSES = 120
"""With more classes, per-class scores would fill most of the report, as would their confusion matrix."""


@dataclass(frozen=True)
class Reference:
    """A torch model that exported files are compared with."""

    name: str
    """``torch-<precision>``."""
    module: torch.nn.Module
    step: float | None = None
    """Real value of one output step; None if its outputs are compared as floats."""
    tolerance: float | None = None
    """Largest difference relative to the largest logit; None for the recipe's."""
    agreement: float | None = None
    """Least share of equal top-1 classes; None for the recipe's."""


@dataclass(frozen=True)
class _Case:
    """A file in an engine."""

    artifact: Artifact
    engine: str
    session: Session

    @property
    def bound(self) -> Bound | None:
        """What the engine is held to instead of one step; None: it is exact."""
        return engine_menu.bound(self.engine)


@dataclass(frozen=True)
class _Outputs:
    """One model over all images: logits of shape (images, classes)."""

    artifact: str
    engine: str
    version: str
    logits: Array


def verify(
    images: ImageSet,
    split: Split,
    labels: Sequence[str],
    float_model: Reference,
    quantized_model: Reference | None,
    artifacts: Sequence[Artifact],
    folder: Path,
    section: VerifySection,
    console: Console,
    others: Mapping[str, Reference] | None = None,
    engines: Sequence[str] = (),
) -> list[Accuracy]:
    """Score every model and compare every file with torch.

    Args:
        images: the split to run, evaluation transforms.
        split: its name.
        labels: class names.
        float_model: torch fp32.
        quantized_model: the integer graph, if there is one.
        artifacts: exported files.
        folder: where their paths start.
        section: how many images, and the tolerances.
        console: progress.
        others: references of other precisions, by precision.
        engines: those that are not exact and run the files, too.

    Returns:
        One row per model, the torch references first, `engines` last; `passed` and `problem` say which fell short.

    Raises:
        MissingPackage: an engine is not installed.
        Shortfall: an engine cannot load or run a file.
    """
    count = min(section.images or len(images), len(images))
    by_precision = {"int8": quantized_model, **(others or {})}
    references = [float_model, *(reference for reference in by_precision.values() if reference)]
    cases = [_Case(each, HOST_ENGINES[each.format], _open(each, folder)) for each in artifacts]
    cases += _more(artifacts, engines, folder, console)
    columns: list[list[Array]] = [[] for _ in (*references, *cases)]
    truth = []
    with console.bar("verify", count) as advance, torch.no_grad():
        for place in range(count):
            image, label = images[place]
            truth.append(label)
            batch = image.unsqueeze(0)
            for column, reference in zip(columns, references, strict=False):
                column.append(reference.module(batch).numpy())
            pixels = batch.numpy()
            for column, case in zip(columns[len(references) :], cases, strict=True):
                column.append(_infer(case.artifact, case.session, pixels))
            advance()
    names = [(reference.name, "torch", str(torch.__version__)) for reference in references]
    names += [(case.artifact.id, case.engine, engine_menu.engine(case.engine).version()) for case in cases]
    runs = [_Outputs(*name, np.concatenate(column)) for name, column in zip(names, columns, strict=True)]
    for case in cases:
        case.session.close()
    known = dict(zip(references, runs, strict=False))
    rows = [_score(run, known[float_model], np.array(truth), labels, split) for run in runs]
    judged = rows[: len(references)]
    for row, run, case in zip(rows[len(references) :], runs[len(references) :], cases, strict=True):
        artifact, session = case.artifact, case.session
        like = by_precision.get(artifact.precision) or float_model
        got, wanted = run.logits, known[like].logits
        row = _judge(row, got, wanted, like, section, case.bound)
        if not row.passed and case.bound is None:
            differences = np.abs(got - wanted).max(1)
            worst, best = int(differences.argmax()), int(differences.argmin())
            shown = _fed(images[worst][0], artifact, session)
            file = folder / artifact.path
            if like is not quantized_model:
                allowed, _ = _bound(like, "tolerance", section)
                where = diverge_float.first(artifact.format, file, like.module, shown.pixels, shown.fed, allowed)
                row = replace(row, diverges=f"{where} on image {worst + 1}")
            elif isinstance(like.module, GraphModule):
                agrees = like.step is not None and differences[best] < ONE_STEP * like.step
                guide = _fed(images[best][0], artifact, session) if agrees else None
                why = artifact.float_ops and diverge_int8.only_rounds(
                    artifact.format, file, like.module, shown, got[worst : worst + 1], section.tolerance, guide
                )
                if why:
                    row = replace(row, passed=True, problem="")
                where = why or diverge_int8.first(artifact.format, file, like.module, shown, guide)
                row = replace(row, diverges=f"{where} on image {worst + 1}")
        judged.append(row)
    return judged


def check(rows: Sequence[Accuracy]) -> None:
    """Raise Shortfall naming every file that is outside tolerance, and its first divergent layer where known.

    What fails in an engine that is not exact says nothing about the file.
    """
    failed = [
        f"{row.artifact} in {row.engine} {row.engine_version}: {row.problem}"
        + (f"; first divergent layer: {row.diverges}" if row.diverges else "")
        for row in rows
        if not row.passed and engine_menu.bound(row.engine) is None
    ]
    if failed:
        raise Shortfall("verify: " + "\n  ".join(failed))


def _open(artifact: Artifact, folder: Path, name: str | None = None) -> Session:
    engine = engine_menu.engine(name or HOST_ENGINES[artifact.format])
    try:
        engine.version()
    except RuntimeFault as fault:
        raise MissingPackage(f"verify: {artifact.id}: {fault}") from fault
    try:
        return engine.load(str(folder / artifact.path), threads=machine.cores())
    except RuntimeFault as fault:
        raise Shortfall(f"verify: {artifact.id}: {fault}") from fault


def _more(artifacts: Sequence[Artifact], engines: Sequence[str], folder: Path, console: Console) -> list[_Case]:
    """The files in other engines; those that an engine cannot load are left out there."""
    cases = []
    for name in engines:
        for artifact in (each for each in artifacts if each.format == engine_menu.engine(name).FORMAT):
            try:
                cases.append(_Case(artifact, name, _open(artifact, folder, name)))
            except Shortfall as trouble:
                console.say(f"  not in {name}: {str(trouble).removeprefix('verify: ')}")
    return cases


def _infer(artifact: Artifact, session: Session, pixels: Array) -> Array:
    """Logits (1, classes) in float32 for pixels (1, channels, H, W), for any input layout and dtype of the file."""
    try:
        return dequantize(session.run(feed(artifact, session, pixels)), session.output)
    except RuntimeFault as fault:
        raise Shortfall(f"verify: {artifact.id}: {fault}") from fault


def _fed(values: torch.Tensor, artifact: Artifact, session: Session) -> diverge_int8.Image:
    pixels = values.unsqueeze(0)
    return diverge_int8.Image(pixels, feed(artifact, session, pixels.numpy()))


def feed(artifact: Artifact, session: Session, pixels: Array) -> npt.NDArray[Any]:
    """Pixels (1, channels, H, W) in the layout and on the grid that a file takes."""
    fed = np.ascontiguousarray(pixels.transpose(0, 2, 3, 1)) if artifact.input.layout == "NHWC" else pixels
    return quantize(fed, session.input)


def _score(run: _Outputs, exact: _Outputs, truth: npt.NDArray[Any], labels: Sequence[str], split: Split) -> Accuracy:
    predicted, wanted = classes(run.logits), classes(exact.logits)
    scores = metrics.score(run.logits, truth, labels, split)
    lost = (wanted == truth).astype(np.int8) - (predicted == truth)
    return Accuracy(
        artifact=run.artifact,
        engine=run.engine,
        engine_version=run.version,
        device=DEVICE,
        split=split,
        images=len(truth),
        top1=scores.accuracy,
        agreement=float((predicted == wanted).mean()),
        lost=None if run is exact else intervals.difference(lost),
        metrics=scores if len(labels) <= MOST_CLASSES else replace(scores, per_class=(), confusion=()),
        sqnr_db=None if run is exact else _sqnr(exact.logits, run.logits),
    )


def _judge(
    row: Accuracy, got: Array, wanted: Array, reference: Reference, section: VerifySection, bound: Bound | None = None
) -> Accuracy:
    difference = np.abs(got - wanted)
    agreement = float((classes(got) == classes(wanted)).mean())
    row = replace(row, agreement_reference=agreement, max_difference=float(difference.max()))
    if not np.isfinite(got).all():
        return replace(row, passed=False, problem="NaN or infinite outputs")
    problems = []
    if reference.step is not None:
        steps = difference / reference.step
        within = float((steps < ONE_STEP).mean())
        row = replace(row, max_steps=float(steps.max()), within_one_step=within)
        if bound is not None:
            problem = bound.missed(row.engine, agreement, float(steps.max()), len(got))
            return replace(row, passed=not problem, problem=problem)
        if within < section.within_one_step:
            problems.append(
                f"{within:.2%} of outputs within one step of {TORCH_INT8}, "
                f"verify.within_one_step asks for {section.within_one_step:.2%}"
            )
    else:
        relative = float(difference.max() / max(float(np.abs(wanted).max()), 1e-12))
        allowed, rule = _bound(reference, "tolerance", section)
        if relative > allowed:
            problems.append(
                f"outputs differ from {reference.name} by {relative:.1e} of the largest logit, "
                f"{rule} allows {allowed:.1e}"
            )
    least, rule = _bound(reference, "agreement", section)
    if agreement < least:
        problems.append(f"{agreement:.2%} top-1 agreement with torch, {rule} asks for {least:.2%}")
    return replace(row, passed=not problems, problem="; ".join(problems))


def _bound(reference: Reference, name: str, section: VerifySection) -> tuple[float, str]:
    """A bound of the reference, else of the recipe, and a name for it."""
    own: float | None = getattr(reference, name)
    if own is None:
        return float(getattr(section, name)), f"verify.{name}"
    return own, f"the {name} of {reference.name.removeprefix('torch-')}"


def _sqnr(exact: Array, got: Array) -> float | None:
    """Signal to quantization noise ratio in dB; None if there is no noise."""
    noise = float(np.square(exact - got, dtype=np.float64).sum())
    return float(10 * np.log10(np.square(exact, dtype=np.float64).sum() / noise)) if noise else None
