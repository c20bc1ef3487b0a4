"""Explain a run: what float and the compressed networks look at, and where they part."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgekit.console import Console
from edgekit.data.dataset import Pixels
from edgekit.data.transforms import normalise
from edgekit.datacheck import table
from edgekit.disk import json_file
from edgekit.disk.atomic import cannot_write, write_text
from edgekit.explain import grad_cam, judging, occlusion, page, subject
from edgekit.explain.network import BATCH, Array, Floats, probabilities
from edgekit.explain.occlusion import CURVES, Grid
from edgekit.explain.records import JSON, PAGE, TABLE, Areas, Chosen, Image, Look, Map, Result, Summary, Yardstick
from edgekit.explain.subject import Subject
from edgekit.scores import EVIDENCE, Evidence, Explained
from edgekit.types import Sample

LOOKED_AT = 1000
"""Images that all networks classify, to find those that changed most, unless more are to be explained."""
EXTREMES = 8
"""Images that changed most, and images that are most wrong."""


@dataclass(frozen=True)
class _Scan:
    """What every network makes of many images."""

    samples: tuple[Sample, ...]
    """In random order."""
    seen: Floats
    """Probabilities, (1 + compressed networks, images, classes): float first."""

    @property
    def classes(self) -> npt.NDArray[np.int64]:
        """The likeliest ones, (1 + compressed networks, images)."""
        found: npt.NDArray[np.int64] = self.seen.argmax(2)
        return found

    @property
    def truth(self) -> npt.NDArray[np.int64]:
        """The true ones, (images,)."""
        return np.array([sample.label for sample in self.samples])


def explain(
    run: Path, out: Path, images: int, side: int, seed: int, console: Console, engines: Sequence[str] = ()
) -> Result:
    """Explain a run, and write ``explain.html``, ``explain.json``, ``explain.csv``, and what its report is to say.

    Args:
        run: its directory.
        out: folder to write into; made if there is none.
        images: how many to draw at random.
        side: patches along the side of a square image.
        seed: of the draw.
        console: progress.
        engines: others than those that verify files, which are asked, too.

    Raises:
        InputError: the run lacks something, or nothing can be written.
        MissingPackage: an engine is not installed.
        Shortfall: an engine cannot run a file, or a network gives NaN.
    """
    start = time.perf_counter()
    run_ = subject.read(run, engines)
    try:
        result, pictures = _explained(run_, images, side, seed, console)
    finally:
        for network in run_.compressed:
            network.close()
    result = replace(result, seconds=round(time.perf_counter() - start, 1))
    try:
        out.mkdir(parents=True, exist_ok=True)
        json_file.save(out / JSON, result)
        json_file.save(out / Path(EVIDENCE).name, _for_the_report(result, run_.made_from))
        write_text(out / TABLE, _table(result))
        write_text(out / PAGE, page.render(result, pictures))
    except OSError as error:
        raise cannot_write(out, error) from error
    return result


def _for_the_report(result: Result, made_from: str) -> Explained:
    rows = (
        Evidence(row.network, row.engine, row.correlation, row.judged, row.moved, row.share) for row in result.networks
    )
    return Explained(made_from, tuple(rows))


def _explained(run: Subject, images: int, side: int, seed: int, console: Console) -> tuple[Result, list[Pixels]]:
    """The result, and its images as the networks see them."""
    scan = _scan(run, max(images, LOOKED_AT), seed, console)
    chosen = _choose(scan, images)
    sampled = min(images, len(scan.samples))
    notes = list(run.notes)
    if images > sampled:
        notes.append(f"{images} images were asked for, there are {sampled}: all are explained")
    if len(scan.samples) < len(run.samples):
        notes.append(f"changed and wrong images were looked for in {len(scan.samples)} of {len(run.samples)} images")
    _, height, width = run.spec.shape
    patches = occlusion.grid(height, width, side)
    mapper, where = grad_cam.mapper(run.module, run.spec.shape)
    for note in (*notes, *([] if mapper else [f"Grad-CAM is left out: {where}"])):
        console.say(f"  {note}")
    asked = _inferences(patches, len(run.compressed))
    console.say(
        f"explaining {sampled} images drawn at random and {len(chosen) - sampled} that changed or are wrong: "
        f"{patches.cells} patches, {len(chosen)} x {asked} = {len(chosen) * asked:,} inferences"
    )
    found, maps, pictures = [], [], []
    with console.bar("explain", len(chosen)) as advance:
        for place, why in chosen.items():
            pixels = run.pixels(scan.samples[place])
            image = normalise(pixels, run.spec)
            one, evidence = _one(run, scan, place, why, image, patches)
            cam = mapper(image, int(scan.classes[0, place])) if mapper else None
            found.append(one if cam is None else replace(one, grad_cam=_rounded(cam)))
            maps.append(evidence)
            pictures.append(pixels)
            advance()
    sample = found[:sampled]  # the first of the random order
    stick = judging.yardstick(maps[:sampled], [one.repeat for one in sample], [one.clear for one in sample])
    found = [
        replace(one, looks=tuple(replace(look, moved=_moved(one, look, stick)) for look in one.looks)) for one in found
    ]
    result = Result(
        schema_version=1,
        name=run.name,
        split=run.split,
        available=len(run.samples),
        looked_at=len(scan.samples),
        sampled=sampled,
        seed=seed,
        patches=patches.shape,
        top1=float((scan.classes[0] == scan.truth).mean()),
        own=_mean([one.own for one in sample]),
        yardstick=stick,
        networks=tuple(_summary(run, scan, row, found[:sampled]) for row in range(len(run.compressed))),
        images=tuple(found),
        grad_cam=where,
        notes=tuple(notes),
        seconds=0.0,
    )
    return result, pictures


def _inferences(patches: Grid, compressed: int) -> int:
    """How many an image takes, in all networks together."""
    return 1 + patches.cells + 1 + patches.shifted.cells + CURVES + compressed * (1 + patches.cells + 2 * CURVES)


# Which images --------------------------------------------------------------------------------------


def _scan(run: Subject, count: int, seed: int, console: Console) -> _Scan:
    """Let every network classify images drawn at random."""
    order = np.random.default_rng(seed).permutation(len(run.samples))[:count]
    samples = tuple(run.samples[place] for place in order)
    networks = (run.reference, *run.compressed)
    parts = []
    with console.bar("looking at images", len(samples)) as advance:
        for start in range(0, len(samples), BATCH):
            some = samples[start : start + BATCH]
            batch = np.stack([normalise(run.pixels(sample), run.spec) for sample in some])
            parts.append(np.stack([probabilities(network.logits(batch)) for network in networks]))
            advance(len(some))
    return _Scan(samples, np.concatenate(parts, 1))


def _choose(scan: _Scan, images: int) -> dict[int, tuple[Chosen, ...]]:
    """Places in the scan and why they are explained: the random sample first."""
    float_, others = scan.seen[0], scan.seen[1:]
    classes, truth = scan.classes, scan.truth
    distance = np.abs(others - float_).sum(2).max(0) / 2  # total variation, 0..1
    changed = (classes[1:] != classes[0]).any(0)
    by_change = np.lexsort((-distance, ~changed))
    doubt = np.where(classes[1:] != truth, others[:, np.arange(len(truth)), truth], np.inf).min(0)
    by_wrongness = np.argsort(doubt, kind="stable")
    reasons: dict[int, list[Chosen]] = {place: ["sample"] for place in range(min(images, len(scan.samples)))}
    for place in by_change[:EXTREMES]:
        if distance[place] > 0:
            reasons.setdefault(int(place), []).append("changed")
    for place in by_wrongness[:EXTREMES]:
        if np.isfinite(doubt[place]):
            reasons.setdefault(int(place), []).append("wrong")
    return {place: tuple(why) for place, why in reasons.items()}


# One image -----------------------------------------------------------------------------------------


def _one(
    run: Subject, scan: _Scan, place: int, why: tuple[Chosen, ...], image: Array, patches: Grid
) -> tuple[Image, Floats]:
    """What all networks look at in one image, and float's evidence."""
    label = int(scan.classes[0, place])
    probability = float(scan.seen[0, place, label])
    evidence = occlusion.evidence(run.reference, image, label, patches)
    again = occlusion.evidence(run.reference, image, label, patches.shifted)
    repeat = judging.correlation(evidence, occlusion.resampled(again, patches.shifted, patches))
    looks = []
    for row, network in enumerate(run.compressed, 1):
        own = occlusion.evidence(network, image, label, patches)
        looks.append(
            Look(
                network=network.name,
                predicted=run.labels[scan.classes[row, place]],
                probability=float(scan.seen[row, place, label]),
                drop=probability - float(scan.seen[row, place, label]),
                evidence=_rounded(own),
                correlation=judging.correlation(own, evidence),
                own=occlusion.areas(network, image, label, patches, own),
                by_float=occlusion.areas(network, image, label, patches, evidence),
            )
        )
    sample = scan.samples[place]
    one = Image(
        path=sample.path,
        label=run.labels[sample.label],
        predicted=run.labels[label],
        probability=probability,
        chosen=why,
        evidence=_rounded(evidence),
        repeat=repeat,
        clear=judging.repeats(repeat, patches.cells),
        own=occlusion.areas(run.reference, image, label, patches, evidence),
        looks=tuple(looks),
    )
    return one, evidence


def _moved(one: Image, look: Look, stick: Yardstick) -> bool:
    return one.clear and look.predicted == one.predicted and judging.moved(look.correlation, one.repeat, stick)


def _rounded(values: Floats) -> Map:
    return tuple(tuple(round(float(value), 5) for value in row) for row in values)


# All of them ---------------------------------------------------------------------------------------


def _summary(run: Subject, scan: _Scan, row: int, sample: Sequence[Image]) -> Summary:
    """One compressed network, the `row`th."""
    network = run.compressed[row]
    classes, float_ = scan.classes[row + 1], scan.classes[0]
    everywhere = np.arange(len(float_))
    same = [(one, one.looks[row]) for one in sample if one.looks[row].predicted == one.predicted]
    looks = [look for _, look in same]
    alike = [look.correlation for look in looks]
    judged = sum(one.clear for one, _ in same)
    moved = sum(look.moved for look in looks)
    return Summary(
        network=network.name,
        engine=network.engine,
        version=network.version,
        top1=float((classes == scan.truth).mean()),
        agreement=float((classes == float_).mean()),
        drop=float((scan.seen[0, everywhere, float_] - scan.seen[row + 1, everywhere, float_]).mean()),
        correlation=float(np.median(alike)) if alike else None,
        lowest=min(alike, default=None),
        own=_mean([look.own for look in looks]) if looks else None,
        by_float=_mean([look.by_float for look in looks]) if looks else None,
        gap=judging.mean([look.own.score - look.by_float.score for look in looks]),
        judged=judged,
        moved=moved,
        share=judging.share(moved, judged),
    )


def _mean(values: Sequence[Areas]) -> Areas:
    return Areas(
        float(np.mean([each.insertion for each in values])), float(np.mean([each.deletion for each in values]))
    )


def _table(result: Result) -> str:
    """A line for each image and compressed network."""
    heads = (
        "path", "label", "chosen", "float_class", "float_probability", "repeat", "network", "class", "probability",
        "correlation", "insertion", "deletion", "insertion_by_float", "deletion_by_float", "moved",
    )  # fmt: skip
    rows = (
        (
            one.path, one.label, "+".join(one.chosen), one.predicted, f"{one.probability:.5f}", f"{one.repeat:.4f}",
            look.network, look.predicted, f"{look.probability:.5f}", f"{look.correlation:.4f}",
            f"{look.own.insertion:.4f}", f"{look.own.deletion:.4f}",
            f"{look.by_float.insertion:.4f}", f"{look.by_float.deletion:.4f}", str(look.moved).lower(),
        )
        for one in result.images
        for look in one.looks
    )  # fmt: skip
    return table.text(heads, rows)
