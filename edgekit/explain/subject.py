"""What a run directory holds to be explained: the float network, what came of it, and the test images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from edgekit import models
from edgekit.choices import no_such
from edgekit.config import recipe_file
from edgekit.data import index_file
from edgekit.data.dataset import Pixels
from edgekit.data.transforms import array, fit, open_image
from edgekit.disk import json_file
from edgekit.disk.run_directory import UNVERIFIED, Done, RunDirectory
from edgekit.errors import InputError
from edgekit.explain.network import Network, of_file, of_module
from edgekit.runtime import engine_menu
from edgekit.types import HOST_ENGINES, TORCH_FP32, Artifact, InputSpec, Sample, Split

TORCH_PRUNED = "torch-pruned"


@dataclass(frozen=True)
class Subject:
    """A run, opened."""

    name: str
    """Of the recipe."""
    module: nn.Module
    """The float network before pruning, in eval mode; it is what all others are compared with."""
    reference: Network
    """The same."""
    compressed: tuple[Network, ...]
    """The pruned network, if there is one, and every file that is not fp32."""
    spec: InputSpec
    labels: tuple[str, ...]
    split: Split
    samples: tuple[Sample, ...]
    root: Path
    """Folder that their paths start from."""
    notes: tuple[str, ...]
    """What a reader should know, a line each."""
    made_from: str
    """Digest of the stage that made the compressed networks."""

    def pixels(self, sample: Sample) -> Pixels:
        """An image as the network sees it, before normalisation: uint8 [height, width, channels]."""
        try:
            return array(fit(open_image(self.root / sample.path, self.spec), self.spec))
        except Exception as error:  # Pillow's decoders raise errors of any type
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise InputError(f"{self.root / sample.path}: cannot be read as an image any more: {reason}") from error


def read(run: Path, engines: Sequence[str] = ()) -> Subject:
    """Open a run.

    Args:
        run: its directory.
        engines: others than those that verify files, which run them, too.

    Raises:
        InputError: it is no run directory, lacks a network, compressed files or test images, or an engine runs none.
        MissingPackage: an engine is not installed.
        Shortfall: an engine cannot load a file.
    """
    record = run / "recipe.json"
    if not record.is_file():
        raise InputError(f"{run}: is not a run directory (it has no recipe.json); edgekit compress makes one")
    recipe, _ = recipe_file.resume(record)
    directory = RunDirectory(run)
    trained = _finished(directory, "train", run)
    pruned = _finished(directory, "prune", run) if recipe.prune else None
    split, samples, root = _images(_finished(directory, "data", run))
    artifacts, folder = _files(directory, pruned or trained, run)
    module, checkpoint = models.load(trained.path)
    compressed = [of_module(TORCH_PRUNED, models.load(pruned.path)[0])] if pruned else []
    compressed += [of_file(artifact, folder) for artifact in artifacts]
    for name in dict.fromkeys(engines):
        compressed += [of_file(artifact, folder, name) for artifact in _run_by(name, artifacts)]
    if not compressed:
        raise InputError(
            f"{run}: there is no compressed network to explain, neither a pruned one nor a file that is not fp32; "
            f"run edgekit compress {run} with [quantize] and [export] sections"
        )
    notes = [f"the data has no test split: these are {len(samples)} validation images"] if split == "val" else []
    if (folder / UNVERIFIED).is_file():
        notes.append("the files did not pass verification")
    return Subject(
        recipe.name, module, of_module(TORCH_FP32, module), tuple(compressed), checkpoint.input, checkpoint.labels,
        split, samples, root, tuple(notes), (directory.find("export") or pruned or trained).digest,
    )  # fmt: skip


def _finished(directory: RunDirectory, stage: str, run: Path) -> Done:
    done = directory.find(stage)
    if done is None:
        raise InputError(
            f"{run}: its stage {stage} is not finished, or its files were changed; run edgekit compress {run}"
        )
    return done


def _images(data: Done) -> tuple[Split, tuple[Sample, ...], Path]:
    index, root = index_file.load_rooted(data.path)
    split: Split = "test" if index.split("test") else "val"
    samples = index.split(split)
    if not samples:
        raise InputError("explain: the data has neither a test nor a validation split; set data.test")
    gone = [sample.path for sample in samples if not (root / sample.path).is_file()]
    if gone:
        raise InputError(
            f"{root / gone[0]}: no such file; {len(gone)} of {len(samples)} {split} images are gone: put them back, or "
            f"set data.path to where they are now and run edgekit compress again"
        )
    return split, samples, root


def _files(directory: RunDirectory, network: Done, run: Path) -> tuple[Sequence[Artifact], Path]:
    """The exported files that are not fp32, and their folder; none if there was no export."""
    folder = directory.folder("export")
    if not folder.is_dir():
        return (), folder
    done = _finished(directory, "export", run)
    if done.inputs.get("network") != network.digest:
        raise InputError(f"{run}: its files are of an earlier network; run edgekit compress {run}")
    artifacts = json_file.load(folder / "artifacts.json", list[Artifact])
    return [artifact for artifact in artifacts if artifact.precision != "fp32"], folder


def _run_by(name: str, artifacts: Sequence[Artifact]) -> list[Artifact]:
    """The files that an engine runs, unless it is asked already."""
    if name not in engine_menu.engines():
        raise InputError(f"--engine {no_such(name, engine_menu.engines(), 'engine')}")
    form = engine_menu.engine(name).FORMAT
    found = [artifact for artifact in artifacts if artifact.format == form]
    if not found:
        raise InputError(f"--engine {name}: runs {form} files, and this run has none that is compressed")
    return [] if HOST_ENGINES[form] == name else found
