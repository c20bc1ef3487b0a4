"""The stages in order: data, train, quantize, export, verify, profile, report.

Each reads the files of those before it and writes its own (`edgekit.stage`); nothing else passes between them. Whether
a stage runs is decided by a hash of its inputs, so heavy packages are imported only by stages that really run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgekit import __version__, _json, verdict
from edgekit.console import Console
from edgekit.data import _index
from edgekit.data._listing import expand
from edgekit.device import Device
from edgekit.errors import InputError, Shortfall, missing
from edgekit.provenance import PACKAGES, git_commit, versions
from edgekit.recipe import ExportSection, QuantizeSection, Recipe, VerifySection
from edgekit.report._report import Provenance, Stage, gather
from edgekit.runtime import machine
from edgekit.stage import ORDER, UNVERIFIED, Done, RunDirectory, write_text
from edgekit.types import Accuracy, Artifact, Checkpoint, Profile, Split, Verdict


@dataclass(frozen=True)
class Job:
    """What to run, from where, into where."""

    recipe: Recipe
    base: Path
    """Folder that the recipe's relative paths start from."""
    out: Path
    devices: Mapping[str, Device]
    """By name; empty skips the profile."""


@dataclass(frozen=True)
class Outcome:
    """What a run left behind."""

    out: Path
    stages: tuple[Stage, ...]
    verdict: tuple[Verdict, ...]
    report: Path | None
    """Folder of the reports, None when the run stopped before."""


def run(job: Job, console: Console, last: str = "report") -> Outcome:
    """Run every stage that the recipe names, up to `last`; unchanged ones are skipped.

    Raises:
        InputError: something in the recipe, the data or the environment cannot be used.
        Shortfall: the model or a device fell short; what was made stays for inspection.
    """
    directory = RunDirectory(job.out)
    with directory.locked():
        _json.save(
            job.out / "recipe.json", {"base": str(job.base.resolve()), "recipe": job.recipe.model_dump(mode="json")}
        )
        return _Run(job, directory, console).to(last)


class _Run:
    """One pass over the stages; `done` holds those that have results."""

    def __init__(self, job: Job, directory: RunDirectory, console: Console) -> None:
        self.job = job
        self.recipe = job.recipe
        self.directory = directory
        self.console = console
        self.done: dict[str, Done] = {}
        self.rows: list[Stage] = []

    def to(self, last: str) -> Outcome:
        for name in ORDER[: ORDER.index(last) + 1]:
            reason = self._why_not(name)
            if reason:
                self.rows.append(Stage(name, 0.0, skipped=True, reason=reason))
                self.console.say(f"{name}: skipped, {reason}")
                continue
            try:
                done: Done = getattr(self, f"_{name}")()
            except ModuleNotFoundError as error:
                raise missing(error, extra="compress", purpose=f"the {name} stage") from error
            self.done[name] = done
            reason = "nothing it depends on has changed" if done.cached else ""
            if name == "train" and self.recipe.train is None:
                reason = "the recipe has no [train] section: the weights are taken as they are"
            self.rows.append(Stage(name, done.seconds, cached=done.cached, reason=reason))
            self.console.say(f"{name}: {'unchanged' if done.cached else f'{done.seconds:.1f} s'}")
        report = self.done.get("report")
        verdicts = _json.load(report.path / "verdict.json", list[Verdict]) if report else []
        return Outcome(self.job.out, tuple(self.rows), tuple(verdicts), report.path if report else None)

    def _why_not(self, name: str) -> str:
        sections: dict[str, Any] = {
            "quantize": self.recipe.quantize,
            "export": self.recipe.export,
            "verify": self.recipe.verify,
        }
        if name in sections and sections[name] is None:
            return f"the recipe has no [{name}] section"
        if name == "verify" and "export" not in self.done:
            return "there are no exported files"
        if name == "profile":
            if "export" not in self.done:
                return "there are no exported files"
            if not self.job.devices:
                return "the recipe has no [profile] section and no --device was given"
        return ""

    # Each method below is one stage: its inputs, then what it does when they have changed.

    def _data(self) -> Done:
        section, base = self.recipe.data, self.job.base
        inputs = {
            "section": section.model_dump(exclude={"input"}),
            "base": str(base.resolve()),
            "files": _index.fingerprint(section, base),
            "versions": versions("pillow", "numpy"),
        }

        def build(work: Path) -> None:
            _index.save(_index.build(section, base, work, self.console), work)

        return self._stage("data", inputs, build)

    def _train(self) -> Done:
        recipe, base = self.recipe, self.job.base
        inputs = {
            "model": recipe.model.model_dump(),
            "files": _model_files(recipe, base),
            "train": recipe.train.model_dump() if recipe.train else None,
            "input": recipe.data.input,
            "data": self.done["data"].digest,
            "versions": versions("torch", "torchvision", "timm", "numpy"),
        }

        def build(work: Path) -> None:
            from edgekit.train import loop

            index = _index.load(self.done["data"].path)
            root = _index.root_of(index, self.done["data"].path)
            loop.train(recipe, index, root, base, work, self.console)

        return self._stage("train", inputs, build, resumable=True)

    def _quantize(self) -> Done:
        section = self.recipe.quantize
        assert section is not None
        inputs = {
            "section": section.model_dump(exclude={"max_drop"}),
            "train": self.done["train"].digest,
            "data": self.done["data"].digest,
            "versions": versions("torch", "torchao"),
        }
        return self._stage("quantize", inputs, lambda work: self._build_quantized(work, section))

    def _build_quantized(self, work: Path, section: QuantizeSection) -> None:
        import torch

        from edgekit import models
        from edgekit.data._split import calibration
        from edgekit.data._transforms import evaluate, levels, open_rgb
        from edgekit.quantize import _graph, _ptq

        module, checkpoint = models.load(self.done["train"].path)
        index = _index.load(self.done["data"].path)
        root = _index.root_of(index, self.done["data"].path)
        samples = calibration(index, section.calibration, section.seed)
        _json.save(work / "calibration.json", samples)
        with self.console.bar("calibrate", len(samples)) as advance:

            def images() -> Any:
                for sample in samples:
                    yield torch.from_numpy(evaluate(open_rgb(root / sample.path), checkpoint.input))
                    advance()

            pixels = torch.from_numpy(levels(checkpoint.input))
            program, lowered = _ptq.quantize(module, checkpoint.input.size, images(), pixels, section)
        _graph.save(program, work / "quantized.pt2")
        _json.save(work / "plan.json", _graph.Plan(lowered, _graph.plan(_graph.load(work / "quantized.pt2"))))

    def _export(self) -> Done:
        section = self.recipe.export
        assert section is not None
        inputs = {
            "section": section.model_dump(),
            "train": self.done["train"].digest,
            "quantize": self.done["quantize"].digest if "quantize" in self.done else None,
            "versions": versions("torch", "onnx", "onnxscript", "litert-torch"),
        }
        return self._stage("export", inputs, lambda work: self._build_files(work, section))

    def _build_files(self, work: Path, section: ExportSection) -> None:
        from edgekit import choices, models
        from edgekit.quantize import _graph

        module, checkpoint = models.load(self.done["train"].path)
        graphs: dict[str, Any] = {"fp32": module}
        if "quantize" in self.done:
            graphs["int8"] = _graph.load(self.done["quantize"].path / "quantized.pt2")
        artifacts = []
        with self.console.bar("export", len(graphs) * len(section.formats)) as advance:
            for precision, graph in graphs.items():
                for name in section.formats:
                    exporter = choices.pick("edgekit.export", name, "export.formats")
                    artifacts.append(exporter.export(graph, checkpoint.input.size, precision, work))
                    advance(1, artifacts[-1].id)
        _json.save(work / "artifacts.json", artifacts)

    def _verify(self) -> Done:
        section = self.recipe.verify
        assert section is not None
        inputs = {
            "section": section.model_dump(),
            "export": self.done["export"].digest,
            "versions": versions("onnxruntime", "ai-edge-litert"),
        }
        warning = self.done["export"].path / UNVERIFIED
        try:
            done = self._stage("verify", inputs, lambda work: self._build_scores(work, section))
        except Shortfall as trouble:
            write_text(warning, f"{trouble}\n")
            raise
        warning.unlink(missing_ok=True)
        return done

    def _build_scores(self, work: Path, section: VerifySection) -> None:
        from edgekit import models, verify
        from edgekit.data._dataset import ImageSet
        from edgekit.quantize import _graph, _integer

        module, checkpoint = models.load(self.done["train"].path)
        index = _index.load(self.done["data"].path)
        split: Split = "test" if index.split("test") else "val"
        if not index.split(split):
            raise InputError("verify: the data has neither a test nor a validation split; set data.test")
        images = ImageSet(index, _index.root_of(index, self.done["data"].path), split, checkpoint.input)
        quantized = None
        if "quantize" in self.done:
            graph = _graph.load(self.done["quantize"].path / "quantized.pt2")
            quantized = verify.Reference("torch-int8", _integer.integer_graph(graph), _graph.output_scale(graph))
        rows = verify.verify(
            images,
            split,
            checkpoint.labels,
            verify.Reference("torch-fp32", module),
            quantized,
            self._artifacts(),
            self.done["export"].path,
            section,
            self.console,
        )
        _json.save(work / "accuracy.json", rows)
        verify.check(rows)

    def _profile(self) -> Done:
        facts = machine.facts()
        inputs = {
            "devices": {name: device.model_dump(exclude={"limits"}) for name, device in self.job.devices.items()},
            "machine": {key: facts[key] for key in ("hostname", "arch", "cpu", "cores")},
            "export": self.done["export"].digest,
            "versions": versions("onnxruntime", "ai-edge-litert", "tflite-runtime"),
        }

        def build(work: Path) -> None:
            from edgekit.profile.run import profile

            found = profile(self._artifacts(), self.done["export"].path, self.job.devices, self.console)
            _json.save(work / "profile.json", found)

        return self._stage("profile", inputs, build)

    def _report(self) -> Done:
        limits = {name: device.limits.model_dump() for name, device in self.job.devices.items()}
        inputs = {
            "recipe": self.recipe.model_dump(mode="json"),
            "limits": limits,
            "stages": {name: done.digest for name, done in self.done.items()},
        }
        return self._stage("report", inputs, lambda work: self._build_report(work, limits))

    def _build_report(self, work: Path, limits: Mapping[str, Mapping[str, float | None]]) -> None:
        from edgekit import choices
        from edgekit.report._schema import schema

        artifacts = self._artifacts()
        accuracy = self._read("verify", "accuracy.json", list[Accuracy]) or []
        profile = self._read("profile", "profile.json", Profile)
        quantize = self.recipe.quantize
        verdicts = [
            verdict.decide(
                name,
                artifacts,
                accuracy,
                profile.timings if profile else (),
                device.limits,
                quantize.max_drop if quantize else None,
            )
            for name, device in self.job.devices.items()
        ]
        report = gather(
            name=self.recipe.name,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            edgekit_version=__version__,
            recipe=self.recipe.model_dump(mode="json"),
            stages=self.rows,
            provenance=self._provenance(artifacts),
            checkpoint=self._read("train", "checkpoint.json", Checkpoint),
            index=_index.load(self.done["data"].path),
            artifacts=artifacts,
            accuracy=accuracy,
            profile=profile,
            limits=limits,
            verdict=verdicts,
        )
        _json.save(work / "verdict.json", verdicts)
        for name, suffix in (("html", "html"), ("markdown", "md"), ("json", "json")):
            renderer = choices.pick("edgekit.report", name, "report")
            write_text(work / f"report.{suffix}", renderer.render(report))
        write_text(work / "report.schema.json", json.dumps(schema(), indent=1))

    def _provenance(self, artifacts: list[Artifact]) -> Provenance:
        recipe = self.recipe
        seeds = {"split": recipe.data.seed}
        if recipe.train:
            seeds["train"] = recipe.train.seed
        if recipe.quantize:
            seeds["calibration"] = recipe.quantize.seed
        hashes = {f"stage {name}": done.digest for name, done in self.done.items()}
        hashes |= {artifact.path: artifact.sha256 for artifact in artifacts}
        packages = {"python": str(machine.facts()["python"]), **versions(*PACKAGES)}
        return Provenance(packages, seeds, hashes, git_commit(self.job.base))

    def _artifacts(self) -> list[Artifact]:
        return self._read("export", "artifacts.json", list[Artifact]) or []

    def _read(self, stage: str, file: str, kind: type[Any]) -> Any:
        return _json.load(self.done[stage].path / file, kind) if stage in self.done else None

    def _stage(self, name: str, inputs: Mapping[str, Any], build: Any, *, resumable: bool = False) -> Done:
        return self.directory.stage(
            name, inputs, build, before=lambda: self.console.say(f"{name} ..."), resumable=resumable
        )


def _model_files(recipe: Recipe, base: Path) -> dict[str, str]:
    """SHA-256 of the user's own files behind the model: weights, and the file that builds it."""
    files = []
    if recipe.model.weights not in ("pretrained", "none"):
        files.append(expand(recipe.model.weights, base))
    name, colon, _ = recipe.model.name.rpartition(":")
    if colon:
        files.append(expand(name, base))
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files if path.is_file()}
