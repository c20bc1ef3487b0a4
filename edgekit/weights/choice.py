"""Which of a file's tensors are a network's: the entry, the prefix of their names, and what was left aside."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch

from edgekit.choices import no_such
from edgekit.errors import InputError
from edgekit.weights import match
from edgekit.weights.file import State, WeightsFile
from edgekit.weights.match import Fit, Slots

Match = Literal["name", "order"]

# What wraps a network puts its own name between those of the parts.
_WRAPPERS = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_EMA = re.compile(r"(?<![a-z])ema(?![a-z])", re.IGNORECASE)
_STANDARD = ("", "state_dict", "model", "model_state_dict")


@dataclass(frozen=True)
class Candidate:
    """One way to read a file."""

    entry: str
    prefix: str
    """Cut off the names of the entry's tensors, after those of `_WRAPPERS`."""
    fit: Fit
    cut: str = ""
    """What was cut off in all, in words."""
    aside: tuple[str, ...] = ()
    """Tensors of the entry without that prefix."""
    example: tuple[str, str] | None = None
    """If matched by order: a name in the file, and the network's for it."""

    @property
    def word(self) -> str:
        """What ``model.weights_entry`` calls it."""
        return "/".join(filter(None, (self.entry, self.prefix.rstrip("."))))


def take(file: WeightsFile, slots: Slots, entry: str | None, by: Match) -> tuple[Fit, list[str]]:
    """Choose what of a file a network gets.

    Every entry is tried, under every prefix that its names may have (``module.``, ``_orig_mod.``, ``model.``, ...).
    Where several fit, a moving average (EMA) is preferred, as in timm's evaluation, then the entry with a usual name.

    Args:
        file: what was read.
        slots: the network's side.
        entry: the recipe's choice, as messages name them; None leaves it to the rule.
        by: "order" allows names that differ, where all tensors match in order and shape.

    Returns:
        What to load, and what a reader should know about it, in lines; none for a plain state dict.

    Raises:
        InputError: nothing fits, or more than one thing does.
    """
    named = [each for name, state in file.entries.items() for each in _named(name, state, slots)]
    named = _chosen(named, entry, file)
    fits = [each for each in named if not each.fit.problems]
    ordered = [] if fits else _ordered(file, slots, dict.fromkeys(each.entry for each in named))
    if not fits and ordered and by == "order":
        fits = ordered
    if not fits:
        raise InputError(_no_fit(file, named, ordered, by))
    best = _best(fits, file)
    if best.fit.swapped and not slots.swap:
        rows, own = next((value.shape[0], slots.tensors[key].shape[0]) for key, value in best.fit.swapped.items())
        raise InputError(
            f"{file.name}: its head has {rows} classes, but the data has {own}: "
            "add a [train] section, or data.labels with all of the weights' classes"
        )
    return best.fit, _notes(file, best, fits, slots)


def _named(entry: str, state: State, slots: Slots) -> Iterator[Candidate]:
    """An entry under each prefix that some of its names have before a name of the network."""
    compiled = any(_WRAPPERS.search(name) for name in slots.tensors)
    plain = state if compiled else {_WRAPPERS.sub("", name): value for name, value in state.items()}
    prefixes = Counter(
        name[: len(name) - len(tail)] for name in plain for tail in _tails(name) if tail in slots.tensors
    )
    most = max(prefixes.values(), default=0)
    for prefix in [each for each, count in prefixes.items() if 2 * count > most] or [""]:
        inside = {name.removeprefix(prefix): value for name, value in plain.items() if name.startswith(prefix)}
        aside = tuple(name for name in plain if not name.startswith(prefix))
        cut = next((_cut(raw, name, prefix) for raw, name in zip(state, plain, strict=True) if name not in aside), "")
        yield Candidate(entry, prefix, match.by_name(inside, slots), cut, aside)


def _cut(raw: str, plain: str, prefix: str) -> str:
    own = plain.removeprefix(prefix)
    if raw.endswith(own):
        return f'prefix "{raw.removesuffix(own)}"' if raw != own else ""
    return ", ".join(filter(None, (f'prefix "{prefix}"' if prefix else "", "wrappers' names within")))


def _tails(name: str) -> Iterator[str]:
    yield name
    while "." in name:
        name = name.partition(".")[2]
        yield name


def _chosen(candidates: list[Candidate], entry: str | None, file: WeightsFile) -> list[Candidate]:
    """Those that the recipe allows."""
    if entry is None:
        return candidates
    found = [each for each in candidates if entry in (each.entry, each.word)]
    if not found:
        words = {name for each in candidates for name in (each.entry, each.word) if name}
        allowed = no_such(entry, words, "entry") if words else f'"{entry}" is no entry: the file is one state dict'
        raise InputError(f"model.weights_entry = {allowed} ({file.name})")
    return found


def _ordered(file: WeightsFile, slots: Slots, entries: Iterable[str]) -> list[Candidate]:
    """Entries whose tensors match in order and shape."""
    found = []
    for entry in entries if file.ordered else ():
        state = file.entries[entry]
        if pairs := match.by_order(state, slots):
            renamed = {mine: state[theirs] for mine, theirs in pairs.items()}
            example = next(((theirs, mine) for mine, theirs in pairs.items() if mine != theirs), None)
            found.append(Candidate(entry, "", match.by_name(renamed, slots), example=example))
    return found


def _best(fits: list[Candidate], file: WeightsFile) -> Candidate:
    averages = [each for each in fits if _EMA.search(each.word)]
    usual = [each for each in fits if each.entry in _STANDARD]
    pool = averages or usual or fits
    first, *others = sorted(pool, key=lambda each: (each.entry not in _STANDARD, each.word))
    for other in others:
        if not _equal(first.fit.state, other.fit.state):
            words = " and ".join(f'"{_called(each, pool)}"' for each in pool)
            raise InputError(
                f"{file.name}: more than one thing in it fits the network: {words}; "
                f'choose with model.weights_entry = "{_called(first, pool)}"'
            )
    return first


def _called(one: Candidate, of: list[Candidate]) -> str:
    """The shortest word for it: the entry, and the prefix only where that tells it from another."""
    alone = sum(each.entry == one.entry for each in of) == 1
    return one.entry if one.entry and alone else one.word


def _equal(left: State, right: State) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def _no_fit(file: WeightsFile, named: list[Candidate], ordered: list[Candidate], by: Match) -> str:
    nearest = min(named, key=lambda each: (len(each.fit.problems), each.entry not in _STANDARD))
    problems = nearest.fit.problems
    more = f", and {len(problems) - 3} more" if len(problems) > 3 else ""
    entries = [each for each in file.entries if each][:8]
    where = f" ({_where(nearest)})" if nearest.word else ""
    text = f"{file.name}{where}: does not fit the network: {'; '.join(problems[:3])}{more}"
    if ordered and ordered[0].example:
        theirs, mine = ordered[0].example
        count = len(ordered[0].fit.state)
        return (
            f"{text}; but all {count} tensors match in order and shape ({theirs} for {mine}): "
            'if it is the same network under other names, set model.weights_match = "order"'
        )
    if by == "order":
        why = "they do not match in order and shape either" if file.ordered else "safetensors files keep no order"
        return f'{text}; model.weights_match = "order" does not help: {why}'
    return f"{text}; the file has the entries {', '.join(entries)}" if len(entries) > 1 else text


def _where(best: Candidate) -> str:
    return ", ".join(filter(None, (f'entry "{best.entry}"' if best.entry else "", best.cut)))


def _notes(file: WeightsFile, best: Candidate, fits: list[Candidate], slots: Slots) -> list[str]:
    """What a reader should know."""
    others = sorted(_called(each, fits) for each in fits if each is not best)
    parts = [_where(best)]
    if others:
        average = ", a moving average" if _EMA.search(best.word) else ""
        before = " and ".join(f'"{word}"' for word in others)
        parts = [f"{parts[0] or 'the outermost entry'}{average}, before {before} (model.weights_entry chooses)"]
    if best.aside:
        names = ", ".join(best.aside[:3]) + (", ..." if len(best.aside) > 3 else "")
        parts.append(f"left aside: {names}")
    if best.example:
        parts.append(f"matched in order and shape, not by name ({best.example[0]} for {best.example[1]})")
    if best.fit.swapped:
        rows = next(iter(best.fit.swapped.values())).shape[0]
        parts.append(f"without its head, which has {rows} classes")
    elif not any(slots.in_head(key) for key in best.fit.state):
        parts.append("it has no head")
    said = "; ".join(filter(None, parts))
    return [f"weights of {file.short}: {said}"] if said else []
