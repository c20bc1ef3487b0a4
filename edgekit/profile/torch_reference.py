"""The float network in PyTorch: exported files are compared with it if a device lists the engine ``torch_cuda``."""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.runtime.engines import torch_cuda
from edgekit.types import TORCH_FP32, Size

if TYPE_CHECKING:
    from torch import nn

FILE = f"{TORCH_FP32}.{torch_cuda.FORMAT}"
ABSENT = "there is no torch network to run (a bundle holds none); profile the run directory instead"


@dataclass(frozen=True)
class TorchProgram:
    """A program of torch.export. It is measured like an `edgekit.types.Artifact`, but is never shipped."""

    path: str
    """Absolute path; empty if there is none."""
    id: str = TORCH_FP32
    format: str = torch_cuda.FORMAT
    sha256: str = ""


def write(module: nn.Module, size: Size, path: Path) -> None:
    """Export a network as torch would run it: batch norm folded, float32, one image.

    Args:
        module: in eval mode; it is not changed.
        size: shape of an image.
        path: the ``.pt2`` file.

    Raises:
        InputError: torch.export cannot take the network.
    """
    import torch

    from edgekit.graph import exported_program
    from edgekit.lower import weights

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torchao announces deprecations of its own helpers
        graph: Any = exported_program.trace(copy.deepcopy(module), size).module()
        weights.apply(graph)
        weights.fold_batch_norms(graph)
    program = exported_program.trace(graph, size)
    for node in program.graph.nodes:
        node.meta.pop("from_node", None)  # memory addresses: equal networks give equal files
    exported_program.save(program, path)
