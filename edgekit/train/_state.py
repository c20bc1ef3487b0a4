"""Everything a killed training run needs to resume where it stopped, in one file."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import io
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from edgekit import models
from edgekit.config.recipe import Recipe
from edgekit.types import Epoch, Index

LAST = "last.pt"


@dataclass
class State:
    """A training run between two epochs."""

    module: nn.Module
    optimizer: torch.optim.Optimizer
    average: AveragedModel | None
    """Moving average of the weights; if there is one, it is what is scored and kept."""
    scaler: torch.GradScaler | None = None
    """Of the loss, in half precision."""
    precision: str = "fp32"
    history: list[Epoch] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)
    """State dict of the best epoch so far; empty before the first."""
    best_epoch: int = -1
    """Its place in `history`."""

    @property
    def scored(self) -> nn.Module:
        """The network whose weights are scored and kept."""
        return self.module if self.average is None else self.average.module

    def keep_best(self) -> None:
        """Remember the weights if the last epoch is the best: highest accuracy, then lowest loss.

        Without a validation split, the last epoch always counts as the best.
        """
        new = self.history[-1]
        if self.best_epoch < 0 or new.val_accuracy is None or _rank(new) > _rank(self.history[self.best_epoch]):
            self.best = copy.deepcopy(self.scored.state_dict())
            self.best_epoch = len(self.history) - 1

    def save(self, folder: Path, fingerprint: str) -> None:
        """Write ``last.pt`` to a temporary file, then rename: a kill leaves either the old file or the new one."""
        content = {
            "fingerprint": fingerprint,
            "threads": torch.get_num_threads(),
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
            "precision": self.precision,
            "history": [dataclasses.asdict(epoch) for epoch in self.history],
            "best": self.best,
            "best_epoch": self.best_epoch,
        }
        buffer = io.BytesIO()  # torch's own writer reports a full disk as an internal error
        torch.save(content, buffer)
        beside = folder / f"{LAST}.new"
        try:
            beside.write_bytes(buffer.getbuffer())
            os.replace(beside, folder / LAST)
        except OSError:
            beside.unlink(missing_ok=True)
            raise

    def restore(self, content: dict[str, Any]) -> None:
        """Continue from what `read` has found.

        The thread count is set to the one in the file, as the bits of sums depend on it.
        """
        torch.set_num_threads(content["threads"])
        self.module.load_state_dict(content["module"])
        self.optimizer.load_state_dict(content["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(content["average"])
        if self.scaler is not None:
            self.scaler.load_state_dict(content["scaler"])
        self.precision = content["precision"]
        self.history = TypeAdapter(list[Epoch]).validate_python(content["history"])
        self.best = content["best"]
        self.best_epoch = content["best_epoch"]


def read(folder: Path, fingerprint: str) -> dict[str, Any] | None:
    """What ``last.pt`` holds, if it exists and belongs to this recipe and data."""
    if not (folder / LAST).exists():
        return None
    content: dict[str, Any] = torch.load(folder / LAST, map_location="cpu", weights_only=True)
    return content if content["fingerprint"] == fingerprint else None


def _rank(epoch: Epoch) -> tuple[float, float]:
    assert epoch.val_accuracy is not None
    assert epoch.val_loss is not None
    return epoch.val_accuracy, -epoch.val_loss


def fingerprint(recipe: Recipe, index: Index, module: nn.Module) -> str:
    """Digest of all that the final weights depend on: PyTorch, the recipe, the data, the initial weights."""
    digest = hashlib.sha256(torch.__version__.encode())
    digest.update(recipe.model_dump_json(include={"model", "data", "train"}).encode())
    for sample in index.samples:
        digest.update(f"{sample.sha256} {sample.label} {sample.split}\n".encode())
    for tensor in models.state(module).values():
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()
