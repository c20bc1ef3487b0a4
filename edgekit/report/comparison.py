"""What changed between two reports, and which changes are statistically significant.

Two rows match if they have the same device, artifact, engine, threads, batch and kind. Different kinds are never
compared. Rows that differ in engine version, machine, governor or threads are compared with a warning that names the
difference; of these, only rows with a new engine version can count as regressions, as the others change the conditions.
Reports on different networks or data sets are compared with a warning, too; top-1 of different data is not.

p50 has changed if the interval of the ratio excludes 1 (`edgekit.verdict.stats.ratio`), top-1 if the interval of the
difference excludes 0 (Newcombe, "Interval Estimation for the Difference Between Independent Proportions", 1998, method
10: conservative here, as the images are the same), sizes and instruction counts if they differ at all. The p50 of an
estimate never counts as changed: it follows from its instructions. References (PyTorch) are left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from edgekit.measurements import Kind, Machine, Timing
from edgekit.report.reader import Results
from edgekit.verdict import noise, stats
from edgekit.verdict.intervals import share

State = Literal["worse", "better", "same"]
_SIDES = ("old", "new")


@dataclass(frozen=True)
class Change:
    """One quantity of one row."""

    quantity: Literal["p50", "top-1", "size", "instructions"]
    old: float
    """In milliseconds, 0..1, bytes or a count, depending on `quantity`."""
    new: float
    relative: float
    """Ratio of new to old, minus 1."""
    ci: tuple[float, float] | None
    """95 % interval of `relative`; None if it is unknown (too few samples) or not needed (sizes, counts)."""
    state: State
    """``same`` if chance can explain the change."""
    unclear: bool = False
    """Whether chance could hide a change as well: the interval includes none, and a noticeable one
    (`edgekit.verdict.noise`)."""

    @property
    def loss(self) -> float:
        """By how much it got worse, relative; negative if it got better."""
        return -self.relative if self.quantity == "top-1" else self.relative


@dataclass(frozen=True)
class Row:
    """One row that is in both reports."""

    device: str
    artifact: str
    engine: str
    threads: int
    """Threads in the new report."""
    kind: Kind
    changes: tuple[Change, ...]
    differs: tuple[str, ...] = ()
    """Other differences, in words; empty if the rows are like for like."""
    counts: bool = True
    """False if the conditions differ, so that a change says nothing about the model."""


@dataclass(frozen=True)
class Comparison:
    """Everything that `compare` found."""

    old: str
    new: str
    rows: tuple[Row, ...]
    not_compared: tuple[str, ...]
    """Rows whose kinds differ, in words."""
    only_old: tuple[str, ...]
    only_new: tuple[str, ...]
    differs: tuple[str, ...] = ()
    """How the networks or the data sets differ, in words."""

    def regressions(self, above: float = 0.0) -> tuple[tuple[Row, Change], ...]:
        """Significant changes for the worse, larger than `above` (relative), in rows that count."""
        pairs = ((row, change) for row in self.rows if row.counts for change in row.changes)
        return tuple((row, change) for row, change in pairs if change.state == "worse" and change.loss > above)

    @property
    def unclear(self) -> tuple[Row, ...]:
        """Rows that count, but whose times were too uncertain to tell whether they have changed."""
        return tuple(row for row in self.rows if row.counts and any(change.unclear for change in row.changes))


def compare(old: Results, new: Results) -> Comparison:
    """Compare two reports row by row; see the module's docstring for the rules."""
    before, after = ({_key(t): t for t in each.latency if not t.reference} for each in (old, new))
    pairs = [(before[key], after[key]) for key in before if key in after]
    left, right = ([t for key, t in a.items() if key not in b] for a, b in ((before, after), (after, before)))
    not_compared = []
    for t in list(left):
        others = [u for u in right if _place(u) == _place(t)]
        alike = [u for u in others if u.kind == t.kind]
        if len(alike) == 1 and sum(_place(v) == _place(t) and v.kind == t.kind for v in left) == 1:
            pairs.append((t, alike[0]))  # the threads differ
        elif others and others[0].kind != t.kind and others[0].threads == t.threads:
            alike = others[:1]
            not_compared.append(f"{_words(t)}: {t.kind} then, {others[0].kind} now; kinds are never compared")
        else:
            continue
        left.remove(t)
        right.remove(alike[0])
    return Comparison(
        old=_title(old),
        new=_title(new),
        rows=tuple(_row(a, b, old, new) for a, b in pairs),
        not_compared=tuple(not_compared),
        only_old=tuple(map(_words, left)),
        only_new=tuple(map(_words, right)),
        differs=tuple(
            f"{what} {was} then, {new.subject[what]} now"
            for what, was in old.subject.items()
            if new.subject.get(what, was) != was
        ),
    )


def as_dict(comparison: Comparison, above: float | None) -> dict[str, Any]:
    """JSON-ready form; `above` is the value of ``--fail-on``."""
    worse = [
        {"device": r.device, "artifact": r.artifact, "engine": r.engine, "threads": r.threads, **asdict(change)}
        for r, change in comparison.regressions(above or 0.0)
    ]
    return {"schema_version": 1, **asdict(comparison), "fail_on": above, "regressions": worse}


def _key(t: Timing) -> tuple[Any, ...]:
    return (*_place(t), t.threads, t.kind)


def _place(t: Timing) -> tuple[Any, ...]:
    return t.device, t.artifact, t.engine, t.batch


def _words(t: Timing) -> str:
    batch = f", batch {t.batch}" if t.batch != 1 else ""
    return f"{t.artifact} on {t.engine}, {t.threads} thread{'s' if t.threads > 1 else ''}{batch}, {t.device} ({t.kind})"


def _title(each: Results) -> str:
    return f"{each.name}, {each.created}, edgekit {each.edgekit_version}"


def _row(a: Timing, b: Timing, old: Results, new: Results) -> Row:
    conditions = list(_conditions(a, b, old.machines.get(a.device), new.machines.get(b.device)))
    versions = [f"{a.engine} {a.engine_version} then, {b.engine_version} now"]
    if a.provider != b.provider:
        conditions.append(f"provider {a.provider} then, {b.provider} now")
    differs = (*(versions if a.engine_version != b.engine_version else ()), *conditions)
    changes = [_latency(a, b), _accuracy(a, b, old, new), _size(a, b, old, new)]
    changes.append(_exact("instructions", a.instructions, b.instructions))
    known = tuple(change for change in changes if change is not None)
    return Row(b.device, b.artifact, b.engine, b.threads, b.kind, known, differs, not conditions)


def _conditions(a: Timing, b: Timing, then: Machine | None, now: Machine | None) -> Iterable[str]:
    if a.threads != b.threads:
        yield f"threads {a.threads} then, {b.threads} now"
    if then is None or now is None:
        if then is not now:
            yield "the machine is known in one report only"
        return
    for name in ("cpu", "arch", "cores", "governor"):
        was, is_ = getattr(then, name), getattr(now, name)
        if was != is_:
            yield f"{name} {was or 'unknown'} then, {is_ or 'unknown'} now"


def _latency(a: Timing, b: Timing) -> Change:
    ratio = stats.ratio(b, a)
    ci = None if ratio.ci is None else (ratio.ci[0] - 1, ratio.ci[1] - 1)
    state: State = "same" if not ratio.differs else "worse" if ratio.value > 1 else "better"
    unclear = a.kind == "measured" and noise.is_unclear(ratio.ci)
    return Change("p50", a.p50_ms, b.p50_ms, ratio.value - 1, ci, state, unclear)


def _accuracy(a: Timing, b: Timing, old: Results, new: Results) -> Change | None:
    if old.subject.get("data") != new.subject.get("data"):
        return None
    scores = []
    for t, each in ((a, old), (b, new)):
        rows = [r for r in each.accuracy if (r.artifact, r.engine, r.split) == (t.artifact, t.engine, "test")]
        here = [r for r in rows if r.device == t.device] or rows
        if not here:
            return None
        scores.append((here[0].top1, here[0].images))
    (was, _), (is_, _) = scores
    low, high = _difference(*scores)
    state: State = "same" if low <= 0 <= high else "worse" if is_ < was else "better"
    scale = was or 1.0
    return Change("top-1", was, is_, (is_ - was) / scale, (low / scale, high / scale), state)


def _difference(a: tuple[float, int], b: tuple[float, int]) -> tuple[float, float]:
    """95 % interval of share b minus share a; each share comes with its number of images."""
    (p, n), (q, m) = a, b
    low_a, high_a = share(p * n, n)
    low_b, high_b = share(q * m, m)
    return q - p - math.hypot(q - low_b, high_a - p), q - p + math.hypot(high_b - q, p - low_a)


def _size(a: Timing, b: Timing, old: Results, new: Results) -> Change | None:
    was, is_ = (
        next((each.bytes for each in side.artifacts if each.id == t.artifact), None) for t, side in ((a, old), (b, new))
    )
    return _exact("size", was, is_)


def _exact(quantity: Literal["size", "instructions"], was: int | None, is_: int | None) -> Change | None:
    if was is None or is_ is None or not was:
        return None
    state: State = "same" if was == is_ else "worse" if is_ > was else "better"
    return Change(quantity, was, is_, is_ / was - 1, None, state)
