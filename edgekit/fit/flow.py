"""The search, step by step: feasible, model, allocate, close, halve, prove.

Each step leaves JSON beside the runs, so that the same command goes on where a killed one stopped.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from pydantic import TypeAdapter

from edgekit import __version__, checkpoint_file
from edgekit.config.fit_section import FitSection
from edgekit.config.recipe import Recipe
from edgekit.console import Console
from edgekit.disk import code_digest, json_file
from edgekit.disk.run_directory import RunDirectory
from edgekit.errors import EdgekitError, InputError, Shortfall, Unreached
from edgekit.fit import depth, frozen, learning, proof, report, rivals, rungs, widths
from edgekit.fit.networks import WHOLE, Whole, Workshop
from edgekit.fit.records import Candidate, Measurement, Net, Result, Spent
from edgekit.fit.timing import Clock, one_count
from edgekit.fit.widths import STYLES, Budget
from edgekit.latency.model import LatencyModel
from edgekit.pipeline.run import Job

T = TypeVar("T")
RESULT = "fit.json"
PROOFS = 3
"""Most networks that are built and measured at the end."""
FRONT = (0.9, 0.75, 0.6, 0.45, 0.35, 0.25)
"""Budgets of a dry run's front, as shares of the whole network's time."""


@dataclass
class Search:
    """One search in one folder.

    Args:
        job: recipe with [fit], devices, and the folder of all runs.
        console: progress.
        dry: stop before anything is trained.
    """

    job: Job
    console: Console
    dry: bool = False
    section: FitSection = field(init=False)
    workshop: Workshop = field(init=False)
    clock: Clock = field(init=False)

    def __post_init__(self) -> None:
        assert self.job.recipe.fit is not None
        self.section = self.job.recipe.fit
        devices = {name: one_count(device) for name, device in self.job.devices.items()}
        self.job = replace(self.job, devices=devices)
        self.workshop = Workshop(self.job, self.console)
        self.clock = Clock(devices, self.section.percentile, self.console)
        self._began = time.monotonic()
        self._kept: Result | None = None

    def run(self) -> Result:
        """Search.

        Returns:
            What was found; also written as ``fit.json``, and for people as ``fit.html`` and ``fit.md``.

        Raises:
            InputError: something in the recipe, the data or the environment cannot be used.
            Shortfall: the budget is out of reach.
            Unreached: a device cannot be reached.
        """
        try:
            return self._end(self._search())
        except Shortfall as short:
            if self._kept is not None:
                self._end(replace(self._kept, said=str(short).removeprefix("fit: ")))
            if isinstance(short, Unreached):
                raise Unreached(f"{short}; run the same command again to go on from here") from short
            raise
        except KeyboardInterrupt:
            if self._kept is not None:
                self._end(replace(self._kept, said="interrupted: the same command goes on from here"))
            raise

    def _search(self) -> Result:
        self._check()
        whole = self.workshop.untrained(self.workshop.own)
        if not whole.index.split("val") and not self.dry:
            raise InputError("fit: candidates are compared on validation images, but there are none: set data.val")
        result = self._feasible(whole)
        if self._load(result.whole.measured) <= 1 and not self.dry:
            self.console.say("fit: the whole network is within the budget; nothing has to be pruned")
            return self._settle(replace(result, candidates=(result.whole,)), [result.whole])
        models = {}
        for name, device in self.job.devices.items():
            models[name] = learning.model(whole, device, self.clock)
            self.console.say(f"fit: {name}: {learning.said(models[name])}")
        budget = self._budget(models, whole, result.whole)
        result = replace(result, models={name: learning.said(model) for name, model in models.items()})
        if self.dry:
            self.workshop.with_head(whole)
            return self._keep(replace(result, front=tuple(self._front(whole, budget, result.whole))))
        trained = self.workshop.trained(self.workshop.own, whole)
        result = self._keep(replace(result, candidates=self._candidates(trained, budget, result.whole)))
        result = self._trained(result, budget)
        alive = [one for one in result.candidates if not one.dropped and one.trained]
        if not alive:
            why = "; ".join(f"{one.id}: {one.dropped}" for one in result.candidates)
            raise Shortfall(f"fit: no network is within the limits: {why}")
        return self._settle(result, sorted(alive, key=lambda one: (-(one.accuracy or 0.0), one.macs)))

    def _check(self) -> None:
        if not self.job.devices:
            raise InputError("fit: needs a device to measure on: --device NAME, or a [profile] section")
        if self.job.recipe.train is None and not self.dry:
            raise InputError(
                "fit: pruned networks have to be trained, but the recipe has no [train] section: add one, or look at "
                "what is predicted with --dry-run"
            )

    def _feasible(self, whole: Whole) -> Result:
        """Time the whole network and the narrowest ones, before anything is trained."""
        own = widths.candidate(whole, WHOLE, "unpruned", None, None)
        least = {f"narrowest {number}": plan for number, plan in enumerate(whole.planner.least)}

        def measure() -> dict[str, tuple[Measurement, ...]]:
            made = {WHOLE: whole.module} | {name: widths.narrowed(whole, plan) for name, plan in least.items()}
            return self.clock({name: whole.files(net, name) for name, net in made.items()})

        rows = self._once("feasible", {}, dict[str, tuple[Measurement, ...]], measure)
        self.clock.seen |= {row.device: row for row in rows[WHOLE]}
        own = replace(own, measured=rows[WHOLE])
        narrow = []
        for name, plan in least.items():
            one = widths.candidate(whole, "narrowest", "the fewest channels that are allowed", plan, None)
            narrow.append(replace(one, measured=rows[name]))
        narrow.sort(key=lambda one: max(row.ms for row in one.measured))
        narrowest = narrow[0]
        section = self.section
        for was, now in zip(own.measured, narrowest.measured, strict=True):
            self.console.say(
                f"fit: {was.device}: the whole network takes {was.ms:.3g} ms, the narrowest {now.ms:.3g} ms "
                f"({was.format} in {was.engine} {was.engine_version}, {was.kind}); the budget is {section.max_ms:g} ms"
            )
        result = self._keep(Result(section.max_ms, section.percentile, section.max_drop, own, narrowest))
        if why := rivals.out_of_reach(narrow, section, self.workshop.own):
            raise Shortfall(why)
        return result

    def _budget(self, models: dict[str, LatencyModel], whole: Whole, own: Candidate) -> Budget:
        scales = {row.device: row.ms / models[row.device].whole.value for row in own.measured}
        weights = sum(shape.weights for shape in whole.planner.cost.shapes({}))
        return Budget(self.section, models, own.measured[0].file_mb / weights, scales)

    def _front(self, whole: Whole, budget: Budget, own: Candidate) -> list[Candidate]:
        """The best network for each of several budgets, as predicted: the front without its accuracies."""
        style = next(style for style in STYLES if style.id == "one-shot")
        longest = max(row.ms for row in own.measured)
        found: list[Candidate] = []
        for ms in sorted({self.section.max_ms, *(share * longest for share in FRONT)}, reverse=True):
            if ms >= longest:
                continue
            at = replace(budget, section=self.section.model_copy(update={"max_ms": ms}))
            try:
                plan = widths.plan(whole, style, at, widths.AIMS[0])
            except InputError:
                continue
            if not plan.kept or plan in [one.plan for one in found]:
                continue
            found.append(widths.candidate(whole, f"{ms:.3g}-ms", style.how, plan, budget))
        return found

    def _candidates(self, whole: Whole, budget: Budget, own: Candidate) -> tuple[Candidate, ...]:
        """Pruned networks that are within the budget as measured, and what else the user could have."""
        styles = STYLES[: self.section.candidates]
        inputs = {"limits": self._limits(), "styles": [style.id for style in styles]}
        made = self._once(
            "candidates",
            inputs,
            tuple[Candidate, ...],
            lambda: tuple(widths.close(whole, styles, budget, self.clock, budget.load(own.measured))),
        )
        made += self._shallow(whole, budget)
        others = rivals.nets(whole, budget, self.job.recipe.model.weights == "pretrained")
        return (*made, *(self._rival(net, budget) for net in others))

    def _shallow(self, whole: Whole, budget: Budget) -> tuple[Candidate, ...]:
        """The network without some of its residual blocks, narrowed as far as it must be; none if it has no blocks."""

        def make() -> tuple[Candidate, ...]:
            dropped = depth.expendable(whole, budget)
            if not dropped:
                return ()
            self.console.say(f"fit: {whole.net} without {', '.join(dropped)}")
            styles = [depth.style(dropped)]
            try:
                shallow = depth.without(whole, dropped)
                share = budget.of(shallow.planner.cost)({})
                return tuple(widths.close(shallow, styles, budget, self.clock, share))
            except Unreached:
                raise
            except EdgekitError as trouble:
                why = str(trouble).splitlines()[0]
                return (Candidate(styles[0].id, whole.net, styles[0].how, None, 0, 0, dropped=why),)

        found: tuple[Candidate, ...] = self._once("shallow", {"limits": self._limits()}, tuple[Candidate, ...], make)
        return found

    def _rival(self, net: Net, budget: Budget) -> Candidate:
        """A network of another size: whole if it is within the budget, else pruned if it is the recipe's own."""
        name = self.workshop.folder(net).name
        one = Candidate(name, net, "unpruned, trained straight", None, 0, 0)
        try:
            other = self.workshop.untrained(net)
            if net.name == self.workshop.own.name and (share := budget.of(other.planner.cost)({})) > 1:
                return self._narrowed(other, budget, share)
            one = widths.candidate(other, name, one.how, None, None)
            rows = self._once(
                f"{name}.timed",
                {},
                tuple[Measurement, ...],
                lambda: self.clock({name: other.files(other.module, "unpruned")})[name],
            )
        except Unreached:
            raise
        except EdgekitError as trouble:
            return replace(one, dropped=str(trouble).splitlines()[0])
        one = replace(one, measured=rows)
        over = self._load(rows)
        return one if over <= 1 else replace(one, dropped=f"takes {over:.0%} of the budget")

    def _narrowed(self, other: Whole, budget: Budget, share: float) -> Candidate:
        """The recipe's network at another resolution, trained there and pruned as far as it must be.

        Args:
            other: that network, untrained.
            budget: the limits.
            share: what it takes of them unpruned, as predicted.
        """
        style = widths.elsewhere(other.net)
        limit = self.section.time_budget
        if limit is not None and time.monotonic() - self._began > limit:
            return Candidate(style.id, other.net, style.how, None, 0, 0, dropped="the time budget was spent before it")
        self.console.say(f"fit: {other.net} takes {share:.0%} of the budget, as predicted: it is trained, then pruned")
        whole = self.workshop.trained(other.net, other)
        (made,) = self._once(
            f"{style.id}.candidates",
            {"limits": self._limits()},
            tuple[Candidate, ...],
            lambda: tuple(widths.close(whole, [style], budget, self.clock, share, widths.ALL_FILES)),
        )
        candidate: Candidate = made
        return candidate

    def _trained(self, result: Result, budget: Budget) -> Result:
        """Train what is within the budget; what was trained by an earlier call of the same search counts."""
        inputs = {"limits": self._limits(), "plans": [repr(one.plan) for one in result.candidates]}
        file, key = self.job.out / "rungs.json", self._key(inputs)
        known = _read(file, key, tuple[Candidate, ...])
        candidates = known if known is not None else result.candidates
        if known is None:
            self._check_time()

        def keep(now: Sequence[Candidate]) -> None:
            json_file.save(file, {"key": key, "value": list(now)})
            self._kept = replace(result, candidates=tuple(now))

        limit = self.section.time_budget
        until = None if limit is None else self._began + limit
        done = rungs.halve(self.workshop, candidates, until, keep)
        keep(done)
        return self._keep(replace(result, candidates=tuple(done)))

    def _limits(self) -> dict[str, Any]:
        """What candidates depend on: not on how long may be searched, nor on what accuracy is enough."""
        return self.section.model_dump(include={"max_ms", "percentile", "max_mb", "max_rss"})

    def _check_time(self) -> None:
        """Refuse a time budget that is over before one candidate is trained.

        Raises:
            InputError: it says how long one takes.
        """
        limit, train = self.section.time_budget, self.job.recipe.train
        checkpoint = checkpoint_file.load(RunDirectory(self.workshop.folder(self.workshop.own)).folder("train"))
        epochs = [epoch.seconds for epoch in checkpoint.history if epoch.phase == "all"]
        if limit is None or train is None or not epochs:
            return
        one = self.workshop.prune.recover * sum(epochs) / len(epochs)
        left = limit - (time.monotonic() - self._began)
        if left < one:
            raise InputError(
                f"fit.time_budget: {max(left, 0):.0f} s are left, but training one candidate takes about {one:.0f} s "
                f"({self.workshop.prune.recover} epochs): allow more time, or lower prune.recover"
            )

    def _settle(self, result: Result, best: Sequence[Candidate]) -> Result:
        """Prove the best network; one that falls short, or is too slow in the last measurement, gives way to the next.

        Args:
            result: so far.
            best: what may ship, the best first.

        Returns:
            The first that holds; if none does, the first that could be measured.

        Raises:
            Shortfall: none could be built.
        """
        tried: list[tuple[Candidate, Recipe, Result]] = []
        for one in best[:PROOFS]:
            recipe = self._final(one)
            try:
                done = self._keep(proof.prove(self.workshop, one, recipe, replace(result, chosen=one.id)))
            except Unreached:
                raise
            except Shortfall as trouble:
                if one is best[:PROOFS][-1] and not tried:
                    raise
                why = str(trouble).splitlines()[0]
            else:
                tried.append((one, recipe, done))
                if done.holds or not done.shipped or self._load(done.shipped) <= 1:
                    break
                why = ", ".join(f"{row.ms:.3g} ms (at most {row.high:.3g}) on {row.device}" for row in done.shipped)
                why = f"too slow in the last measurement: {why}"
            self.console.say(f"fit: {one.id}: {why}")
            given = replace(one, dropped=why)
            result = replace(
                result, candidates=tuple(given if each.id == one.id else each for each in result.candidates)
            )
        chosen, recipe, done = tried[-1] if tried[-1][2].holds else tried[0]
        asked = self.section.model_dump(mode="json", exclude_none=True, exclude_unset=True)
        path = frozen.write(self.job.out, recipe, self.job.base, chosen, asked, done.said)
        self.console.say(f"fit: {path} replays this network without a device")
        return self._keep(done)

    def _final(self, chosen: Candidate) -> Recipe:
        ahead = 0.0
        if chosen.accuracy is not None:
            ahead = 100 * (chosen.accuracy - rungs.straight(self.workshop, self.workshop.own)[0].accuracy)
        return self.workshop.final(chosen, self._load(chosen.measured), ahead)

    def _load(self, rows: Sequence[Measurement]) -> float:
        return Budget(self.section, {}, 0.0).load(rows)

    def _keep(self, result: Result) -> Result:
        """Write ``fit.json``, with what was spent so far."""
        spent = Spent(
            self.clock.files,
            round(self.clock.seconds, 1),
            round(self._training(result.candidates), 1),
            round(time.monotonic() - self._began, 1),
        )
        self._kept = result = replace(result, spent=spent)
        json_file.save(self.job.out / RESULT, result)
        return result

    def _training(self, candidates: Sequence[Candidate]) -> float:
        """Seconds of training: of pruned candidates, and of all whole networks, the recipe's own among them."""
        pruned = sum(one.trained[-1].seconds for one in candidates if one.trained and one.plan is not None)
        nets = {self.workshop.own, *(one.net for one in candidates)}
        trained = [net for net in nets if RunDirectory(self.workshop.folder(net)).find("train") is not None]
        return pruned + sum(rungs.straight(self.workshop, net)[0].seconds for net in trained)

    def _end(self, result: Result) -> Result:
        """Add the score of the whole network, which pruned ones are seen against, and write the pages."""
        if result.candidates:
            trained = rungs.straight(self.workshop, self.workshop.own)
            result = replace(result, whole=replace(result.whole, trained=trained))
        result = self._keep(result)
        report.write(self.job.out, self.job.recipe.name, result)
        return result

    def _once(self, name: str, inputs: dict[str, Any], kind: Any, make: Callable[[], Any]) -> Any:
        """What `make` returns, kept in a file for the next call with the same inputs."""
        file, key = self.job.out / f"{name}.json", self._key(inputs)
        value = _read(file, key, kind)
        if value is None:
            value = make()
            json_file.save(file, {"key": key, "value": value})
        return value

    def _key(self, inputs: dict[str, Any]) -> str:
        outside = {"fit", "sweep", "tune", "profile", "name", "description"}
        recipe = self.job.recipe.model_dump(mode="json", exclude=outside)
        devices = {name: device.model_dump(mode="json") for name, device in self.job.devices.items()}
        code = code_digest.digest("edgekit.fit.flow")
        text = json.dumps([__version__, code, recipe, devices, inputs], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()


def _read(file: Any, key: str, kind: Any) -> Any:
    """A value that `_once` kept; None if there is none for this key."""
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
        return TypeAdapter(kind).validate_python(raw["value"]) if raw["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
