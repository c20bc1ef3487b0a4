"""What a run's scores cannot show: a network that guesses, splits that are too small."""

from __future__ import annotations

from collections import Counter, defaultdict

from edgekit import checkpoint_file
from edgekit.data import index_file
from edgekit.pipeline.state import Run
from edgekit.types import TORCH_FP32, Accuracy, Index, Split
from edgekit.verdict import trust

_NAMES = {"test": "test", "val": "validation"}


def of(run: Run) -> tuple[str, ...]:
    """One line each, from the stages that are done; none before training."""
    if "train" not in run.done:
        return ()
    index = index_file.load(run.done["data"].path)
    return tuple(filter(None, (_chance(run, index), *_resolution(run, index))))


def _chance(run: Run, index: Index) -> str:
    """About the float network on the test split, or on the validation split where there is none."""
    split: Split = "test" if index.split("test") else "val"
    rows = run.read("verify", "accuracy.json", list[Accuracy]) or ()
    top1 = next((row.top1 for row in rows if (row.artifact, row.split) == (TORCH_FP32, split)), None)
    samples = index.split(split)
    if top1 is None or not all(row.images == len(samples) for row in rows):  # verify.images: not all of them
        scores = checkpoint_file.load(run.network.path).metrics
        top1 = next((score.accuracy for score in scores if score.split == split), None)
    counts = Counter(sample.label for sample in samples)
    text = "" if top1 is None else trust.chance(top1, list(counts.values()))
    return text and f"{_NAMES[split]} split: {text}"


def _resolution(run: Run, index: Index) -> list[str]:
    """About the splits that judge what int8 loses."""
    section = run.recipe.quantize
    if section is None or "quantize" not in run.done:
        return []
    splits: tuple[Split, ...] = ("test", "val") if section.rescue else ("test",)
    names: dict[str, list[str]] = defaultdict(list)
    for split in splits:
        names[trust.resolution(len(index.split(split)), section.max_drop)].append(_NAMES[split])
    return [f"{' and '.join(names[text])} split: {text}" for text in names if text]
