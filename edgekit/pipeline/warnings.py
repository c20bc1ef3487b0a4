"""What a run's scores cannot show: a network that guesses or means other classes, splits that are too small."""

from __future__ import annotations

from collections import Counter, defaultdict

from edgekit import checkpoint_file
from edgekit.pipeline.state import Run
from edgekit.types import Index, Split
from edgekit.verdict import trust

_NAMES: dict[Split, str] = {"test": "test", "val": "validation"}


def of(run: Run) -> tuple[str, ...]:
    """All of them, one line each, from the stages that are done."""
    return (*doubts(run), *guessing(run), *sizes(run))


def doubts(run: Run) -> tuple[str, ...]:
    """What the train stage doubts about given weights."""
    return run.checkpoint.doubts if run.checkpoint else ()


def guessing(run: Run) -> list[str]:
    """Whether the float network may just be guessing: on the test split, or on the validation split without one."""
    index: Index | None = run.read("data", "index.json", Index)
    if index is None or "train" not in run.done:
        return []
    split: Split = "test" if index.split("test") else "val"
    scores = checkpoint_file.load(run.network.path).metrics
    top1 = next((score.accuracy for score in scores if score.split == split), None)
    counts = Counter(sample.label for sample in index.split(split))
    text = "" if top1 is None else trust.chance(top1, list(counts.values()))
    return [f"{_NAMES[split]} split: {text}"] if text else []


def sizes(run: Run) -> list[str]:
    """Whether the splits that judge what int8 loses are too small for the recipe's bound."""
    section = run.recipe.quantize
    index: Index | None = run.read("data", "index.json", Index)
    if section is None or index is None:
        return []
    counts = {split: len(index.split(split)) for split in _NAMES}
    if run.recipe.verify and run.recipe.verify.images:
        counts["test"] = min(counts["test"], run.recipe.verify.images)
    names: dict[str, list[str]] = defaultdict(list)
    judged: tuple[Split, ...] = tuple(_NAMES) if section.rescue else ("test",)
    for split in judged:
        names[trust.resolution(counts[split], section.max_drop)].append(_NAMES[split])
    return [f"{' and '.join(names[text])} split: {text}" for text in names if text]
