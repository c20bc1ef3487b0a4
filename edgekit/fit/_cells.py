"""What the pages of a search say of each network: names, numbers and intervals, as plain text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from edgekit.fit.records import Candidate, Measurement, Prediction, Result
from edgekit.measurements import Kind
from edgekit.report.svg import ms, percent, threads

DASH, MINUS, NONE = "\N{EN DASH}", "\N{MINUS SIGN}", "—"


@dataclass(frozen=True)
class Place:
    """Where and how times were taken; those of different places are never in one column or chart."""

    device: str
    cpu: str
    format: str
    engine: str
    engine_version: str
    threads: int
    kind: Kind

    @property
    def words(self) -> str:
        """All but the device and the kind."""
        machine = f"{self.cpu}, " if self.cpu else ""
        return f"{machine}{self.format} in {self.engine} {self.engine_version}, {threads(self.threads)}"


@dataclass(frozen=True)
class Cell:
    """A cell of a table."""

    main: str
    more: str = ""
    """In smaller type."""


def place(row: Measurement) -> Place:
    """Of one measurement."""
    return Place(row.device, row.cpu, row.format, row.engine, row.engine_version, row.threads, row.kind)


def networks(result: Result) -> list[Candidate]:
    """Every network that the search has looked at, once: the whole one first, the narrowest last."""
    last = [result.narrowest] if result.narrowest is not None else []
    found = {one.id: one for one in (result.whole, *result.front, *last, *result.candidates)}
    found[result.whole.id] = result.whole  # knows its score
    others = [one for one in found.values() if one is not result.whole and one is not result.narrowest]
    return [result.whole, *others, *last]


def places(result: Result) -> list[Place]:
    """Where the search has timed networks; the independent measurement of what ships does not count."""
    return list(dict.fromkeys(place(row) for one in networks(result) for row in one.measured))


def row_at(one: Candidate, at: Place) -> Measurement | None:
    """The measurement of a network at one place."""
    return next((row for row in one.measured if place(row) == at), None)


def prediction(one: Candidate, device: str) -> Prediction | None:
    """The prediction of a network on one device."""
    return next((each for each in one.predicted if each.device == device), None)


def is_dry(result: Result) -> bool:
    """Whether the search ended, as asked, before anything was trained."""
    return not (result.candidates or result.chosen or result.said)


def kind(one: Candidate, result: Result) -> str:
    """``circle`` for a pruned network, ``square`` for the whole one, ``diamond`` for another that is unpruned."""
    return "circle" if one.plan is not None else "square" if one.id == result.whole.id else "diamond"


def label(one: Candidate, result: Result) -> str:
    """A short name for a chart."""
    if kind(one, result) != "diamond":
        return one.id
    return str(one.net).rpartition(", ")[2] if one.net.name == result.whole.net.name else str(one.net)


def state(one: Candidate, result: Result) -> str:
    """How it ended, in words."""
    if one.id == result.chosen:
        return "ships" if result.holds else "chosen, but not within every limit" if result.shipped else "chosen"
    if one is result.narrowest:
        return "not trained: the lower end"
    if one.id == result.whole.id:
        return "what the others are compared with"
    return one.dropped or ("trained to the end" if one.trained else "predicted only" if is_dry(result) else "")


def heads(result: Result) -> list[str]:
    """Titles of the columns of `cells`."""
    return ["M multiply-adds", "M parameters", *(head for head, _, _ in _times(result)), "validation top-1"]


def cells(one: Candidate, result: Result) -> list[Cell]:
    """The numbers of a network, one for each of `heads`; a dash where one is unknown."""
    known = one.macs > 0
    found = [Cell(f"{one.macs / 1e6:.3g}" if known else NONE), Cell(f"{one.parameters / 1e6:.3g}" if known else NONE)]
    for _, what, at in _times(result):
        row, guess = row_at(one, at), prediction(one, at.device)
        if what == "predicted":
            found.append(Cell(ms(guess.ms), interval(guess.low, guess.high)) if guess else Cell(NONE))
        elif what == "error":
            found.append(Cell(signed(100 * (guess.ms / row.ms - 1))) if guess and row else Cell(NONE))
        else:
            found.append(Cell(ms(row.ms), interval(row.low, row.high)) if row else Cell(NONE))
    return [*found, score(one)]


def _times(result: Result) -> Iterator[tuple[str, str, Place]]:
    """Title, meaning and place of each column of times."""
    every, known = places(result), {each.device for one in networks(result) for each in one.predicted}
    seen: set[str] = set()
    for at in every:
        where = f"{at.device}: " if len({each.device for each in every}) > 1 else ""
        engine = f" in {at.engine}" if sum(each.device == at.device for each in every) > 1 else ""
        first = at.device in known and at.device not in seen  # a device has one model: of its fastest engine
        seen.add(at.device)
        if first:
            yield f"{where}predicted ms", "predicted", at
        yield f"{where}{at.kind} ms{engine}", "time", at
        if first and any(row_at(one, at) and prediction(one, at.device) for one in networks(result)):
            yield f"{where}prediction off by", "error", at


def score(one: Candidate) -> Cell:
    """The last validation score, and those before it."""
    if not one.trained:
        return Cell(NONE)
    *before, last = one.trained
    words = f"after {last.epochs} epoch{'' if last.epochs == 1 else 's'}"
    earlier = ", ".join(f"{percent(each.accuracy, 1)} after {each.epochs}" for each in before)
    return Cell(percent(last.accuracy, 1), f"{words}; {earlier}" if earlier else words)


def interval(low: float, high: float) -> str:
    """Both ends with a dash between; empty if they are equal, as then there is none."""
    return "" if low == high else f"{ms(low)}{DASH}{ms(high)}"


def signed(value: float) -> str:
    """A percentage with its sign: ``+3.1 %``."""
    return f"{value:+.1f} %".replace("-", MINUS)


def dry_words(result: Result) -> str:
    """The outcome of a dry run."""
    slow = max((row.ms for row in result.whole.measured), default=None)
    words = [f"A dry run: nothing was trained; the budget is {result.max_ms:g} ms."]
    if slow is not None:
        words.append(f"The whole network takes {ms(slow)} ms.")
    fitting = [one for one in result.front if max(each.ms for each in one.predicted) <= result.max_ms]
    if slow is not None and slow <= result.max_ms:
        words.append("Nothing has to be pruned.")
    elif fitting:
        best = max(fitting, key=lambda one: one.macs)
        times = ", ".join(f"{ms(p.ms)} ms ({interval(p.low, p.high)}) on {p.device}" for p in best.predicted)
        share = percent(best.macs / result.whole.macs, 0)
        words.append(f"Predicted: with {share} of the multiply-adds it takes {times}.")
    else:
        words.append("No narrower network is predicted to be within it.")
    return " ".join(words)
