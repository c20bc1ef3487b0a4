"""Latency of a network of any widths on one device, learnt from whole networks that were measured there.

The time of a layer is linear in a few sizes of it (`TERMS`): NetAdapt (Yang et al., 2018) and HALP (Shen et al., 2022)
sum such times, one lookup table a layer, into that of a network. Tables of single layers miss what surrounds them in a
network (caches, fusion, conversions), so here the *networks* are measured, and the layers' times inferred:

    time / time(whole) = before + sum over layers l and terms t of z_lt * (1 + c_kt + d_lt)

where z_lt is the prior: the share of the whole net's time that an operator profile gives to this term of this layer,
times how the term grows or shrinks with the widths. The corrections c (shared by all layers of a kind) and d (of one
layer) are small numbers around zero: Bayesian linear regression with Gaussian priors (Bishop, "Pattern Recognition and
Machine Learning", 2006, section 3.3). Errors are relative. How far corrections may go, the noise, and how many channels
a kernel handles at once (channels beyond a multiple cost as much as a whole one) are what makes the measurements most
probable (3.5). Each measured network is also predicted from the others (Rasmussen and Williams, "Gaussian Processes for
Machine Learning", 2006, section 5.4.2), and the error bars are stretched until they cover those errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Literal

import numpy as np
import numpy.typing as npt

from edgekit.errors import InputError, Shortfall
from edgekit.latency import _prior
from edgekit.latency._prior import TERMS, Prior, Tile
from edgekit.latency.shapes import KINDS, LayerShape
from edgekit.measurements import Kind, OperatorProfile

Array = npt.NDArray[np.float64]
Unit = Literal["ms", "instructions"]
TILES = tuple(Tile(*each) for each in product((1, 4, 8, 16, 32), (1, 4, 8, 16, 32), (1, 8, 16, 32), (1, 12)))
"""What the kernels may be like."""
SHARED, OWN, NOISE = (0.1, 0.2, 0.4, 0.8), (0.02, 0.05, 0.1, 0.2), (0.001, 0.003, 0.01, 0.03, 0.08)
"""Standard deviations to choose from: of the corrections c and d, and of a measurement (relative)."""
OTHER_SIZE = 0.03
"""Standard deviation added for images of another size, which no measured network had: instructions of MobileNetV2 at
96 to 224 px, learnt at 160, are 0 to 5 % off."""
LEAST = 4
"""Fewest networks to learn from, besides the whole one."""


@dataclass(frozen=True)
class Subject:
    """What a model is for; models of another are no use."""

    device: str
    cpu: str
    """`edgekit.measurements.Machine.cpu`."""
    engine: str
    engine_version: str
    format: str
    precision: str
    threads: int
    family: str
    """The network whose channels are removed."""
    size: tuple[int, int, int]
    """Shape of an image."""
    unit: Unit = "ms"


@dataclass(frozen=True)
class Prediction:
    """What a network will take, in the model's unit, with a 95 % interval."""

    ms: float
    low: float
    high: float


@dataclass(frozen=True)
class Measured:
    """A network that was measured."""

    shapes: tuple[LayerShape, ...]
    value: float
    """In the model's unit."""


@dataclass(frozen=True)
class HeldOut:
    """How far off a measured network is when it is predicted from the others."""

    widths: tuple[int, ...]
    """Output channels of each layer."""
    measured: float
    predicted: Prediction


@dataclass(frozen=True)
class Errors:
    """Absolute relative errors of held-out networks."""

    median: float
    p90: float


@dataclass(frozen=True)
class LatencyModel:
    """Predicts the latency of narrower versions of one network. Plain data: saved by `edgekit.disk.json_file`."""

    subject: Subject
    kind: Kind
    """Whether times were measured, or are estimates of an emulated device."""
    bar: float
    """How far off all times may be alike, relative: the error bar of an estimate. 0 if they were measured."""
    whole: Measured
    """The unpruned network."""
    prior: Prior
    tile: Tile
    """The most probable one."""
    spread: tuple[float, float, float]
    """The standard deviations that were chosen, of `SHARED`, `OWN` and `NOISE`."""
    corrections: tuple[float, ...]
    """The posterior mean: of each kind and term, then of each layer and term."""
    learnt: tuple[tuple[float, ...], ...]
    """The posterior covariance is diag(prior variances) - learnt^T learnt; [networks][corrections]."""
    stretch: float
    """What the error bars of the regression are multiplied by."""
    networks: tuple[HeldOut, ...]
    errors: Errors

    def predict(self, shapes: Sequence[LayerShape]) -> Prediction:
        """The latency of a network of the same layers with other widths, or for other images.

        Args:
            shapes: of its layers; some of the model's may be missing, but not the first.

        Raises:
            InputError: it has other layers than the model's network.
        """
        row, base = self._features.row(shapes)
        mean = base + float(row @ self._mean)
        variance = float(row * row @ self._variances) - float(np.square(self._learnt @ row).sum())
        known = shapes[0].in_pixels == self.whole.shapes[0].in_pixels
        noise = mean * np.hypot(self.spread[2], 0.0 if known else OTHER_SIZE)
        return self._bounds(mean, self.stretch * float(np.sqrt(max(variance, 0.0) + noise * noise)))

    def _bounds(self, mean: float, away: float) -> Prediction:
        low, high = max(mean - away, 0.0) * max(1 - self.bar, 0.0), (mean + away) * (1 + self.bar)
        return Prediction(mean * self.whole.value, low * self.whole.value, high * self.whole.value)

    @cached_property
    def _features(self) -> _Features:
        return _Features(self.whole.shapes, self.prior, self.tile)

    @cached_property
    def _mean(self) -> Array:
        return np.array(self.corrections)

    @cached_property
    def _learnt(self) -> Array:
        return np.array(self.learnt)

    @cached_property
    def _variances(self) -> Array:
        return self._features.variances(*self.spread[:2])


def fit(
    subject: Subject,
    whole: Measured,
    networks: Sequence[Measured],
    operators: OperatorProfile | None = None,
    kind: Kind = "measured",
    bar: float = 0.0,
) -> LatencyModel:
    """Learn from networks that were measured side by side with the whole one.

    Args:
        subject: what is measured.
        whole: the unpruned network.
        networks: narrower ones, of widths as random as possible; ten or more.
        operators: where the whole net's time goes; None, or one that makes the measurements less probable than usual
            costs of arithmetic and memory do, assumes those.
        kind: of the times.
        bar: see `LatencyModel.bar`.

    Raises:
        InputError: the networks do not have the same layers.
        Shortfall: there are too few, or a measurement is not positive.
    """
    if len(networks) < LEAST:
        raise Shortfall(f"a latency model needs at least {LEAST} measured networks, not {len(networks)}")
    if not all(0 < each.value < np.inf for each in (whole, *networks)):
        raise Shortfall(f"a latency model needs times above 0 ({subject.engine} on {subject.device})")
    ratios = np.array([each.value / whole.value for each in (whole, *networks)])
    sources = (operators, None) if operators else (None,)  # a disturbed profile is worse than none
    tries = [
        _Regression(whole.shapes, tile, source, [whole, *networks], ratios) for source in sources for tile in TILES
    ]
    best = max(tries, key=lambda each: each.evidence)
    features, rows, rest, gram, spread = best.features, best.rows, best.rest, best.gram, best.spread
    inverse = np.linalg.inv(gram)
    variances = features.variances(*spread[:2])
    away, sigma = inverse @ rest / np.diag(inverse), 1 / np.sqrt(np.diag(inverse))
    wrong = np.abs(away / sigma)[1:]
    stretch = max(float(wrong.max()), _student(len(networks)) * max(1.0, float(np.sqrt(np.square(wrong).mean()))))
    learnt = np.linalg.solve(np.linalg.cholesky(gram), rows * variances)
    model = LatencyModel(
        subject=subject,
        kind=kind,
        bar=bar,
        whole=whole,
        prior=features.prior,
        tile=features.tile,
        spread=spread,
        corrections=tuple(map(float, variances * (rows.T @ inverse @ rest))),
        learnt=tuple(tuple(map(float, row)) for row in learnt),
        stretch=stretch,
        networks=(),
        errors=Errors(0.0, 0.0),
    )
    held = tuple(
        HeldOut(
            tuple(shape.outputs for shape in each.shapes),
            each.value,
            model._bounds(ratio * (1 - off), stretch * sd * ratio),
        )
        for each, ratio, off, sd in zip(networks, ratios[1:], away[1:], sigma[1:], strict=True)
    )
    errors = np.abs(away[1:])
    summary = Errors(float(np.median(errors)), float(np.percentile(errors, 90)))
    return LatencyModel(**{**vars(model), "networks": held, "errors": summary})


class _Features:
    """The terms of networks, relative to those of the whole one and weighted by the prior."""

    def __init__(self, whole: Sequence[LayerShape], prior: Prior, tile: Tile) -> None:
        self.prior, self.tile = prior, tile
        self._whole = {shape.name: shape for shape in whole}
        self._names = list(self._whole)
        self._fixed = _prior.Fixed(whole)
        self._weights = np.array(prior.shares) / self._fixed.terms(whole, tile)
        self._pixels = whole[0].inputs * whole[0].in_pixels
        self._kinds = np.array([[shape.kind == kind for shape in whole] for kind in KINDS], float)

    def row(self, shapes: Sequence[LayerShape]) -> tuple[Array, float]:
        """What each correction adds (first those of kinds, then of layers), and the time without corrections."""
        given = {shape.name: shape for shape in shapes}
        if [name for name in self._names if name in given] != list(given) or self._names[0] not in given:
            raise InputError("a latency model was asked about a network with other layers than its own")
        each = self._fixed.terms([given.get(name, shape) for name, shape in self._whole.items()], self.tile)
        each *= self._weights
        if len(given) < len(self._names):
            each[[name not in given for name in self._names]] = 0.0
        before = self.prior.before * shapes[0].inputs * shapes[0].in_pixels / self._pixels
        return np.concatenate([(self._kinds @ each).ravel(), each.ravel()]), before + float(each.sum())

    def variances(self, shared: float, own: float) -> Array:
        """Of the corrections, a priori."""
        count = len(self._kinds) * len(TERMS)
        return np.repeat([shared**2, own**2], [count, len(self._names) * len(TERMS)])


class _Regression:
    """The corrections for one width of tile; their spread is the mean of those on the grid, by their evidence."""

    def __init__(
        self,
        whole: Sequence[LayerShape],
        tile: Tile,
        operators: OperatorProfile | None,
        networks: Sequence[Measured],
        ratios: Array,
    ) -> None:
        self.features = _Features(whole, _prior.prior(whole, tile, operators), tile)
        made = [self.features.row(each.shapes) for each in networks]
        self.rows = np.array([row for row, _ in made]) / ratios[:, None]
        self.rest = 1 - np.array([base for _, base in made]) / ratios  # relative errors: every target is 1
        shared, own = ((self.rows * self.features.variances(*on)) @ self.rows.T for on in ((1, 0), (0, 1)))
        self._parts = np.stack([shared, own, np.eye(len(ratios))])
        grid = np.array(list(product(SHARED, OWN, NOISE)))
        logs = _evidence(self._gram(grid), self.rest)
        weights = np.exp(logs - logs.max())
        self.evidence = float(logs.max() + np.log(weights.sum()))
        self.spread: tuple[float, float, float] = tuple(np.exp(weights @ np.log(grid) / weights.sum()).tolist())
        self.gram = self._gram(self.spread)

    def _gram(self, spread: Sequence[float] | Array) -> Array:
        """Covariance of the measurements, for one or many spreads."""
        gram: Array = np.tensordot(np.square(spread), self._parts, 1)
        return gram


def _evidence(grams: Array, rest: Array) -> Array:
    """Log probability of what was measured, up to a constant: [tries] for grams [tries, networks, networks]."""
    roots = np.linalg.cholesky(grams)
    white = np.linalg.solve(roots, np.broadcast_to(rest[:, None], (*grams.shape[:2], 1)))
    logs: Array = -0.5 * np.square(white).sum((1, 2)) - np.log(np.diagonal(roots, axis1=1, axis2=2)).sum(1)
    return logs


def _student(freedom: int) -> float:
    """97.5th percentile of Student's t (Abramowitz and Stegun, 26.7.5)."""
    z = 1.959964
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
