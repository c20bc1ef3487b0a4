"""Find the layer whose values differ from torch's, in an exported file of any precision but int8.

The outputs of all weighted layers of the file are read while its engine runs one image. Each is compared with the
output of torch's module of that name and with the next few results of the same size, as exporters fold batch norm and
activation into the layer. Everything after a wrong layer is wrong as well, so only the first one is named.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.fx import GraphModule, Interpreter, Node

from edgekit.graph.names import layer as layer_of
from edgekit.graph.ops import scopes
from edgekit.verify import diverge_int8

Array = npt.NDArray[Any]
WEIGHTED = {"Conv", "Gemm", "MatMul", "CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"}
FOLLOWING = 8
"""Results after a layer's own that are searched for its folded form."""


FOLDED: tuple[Callable[[Array], Array], ...] = (
    lambda y: y,
    lambda y: np.maximum(y, 0),
    lambda y: np.clip(y, 0, 6),
    lambda y: y + 3,
    lambda y: np.clip(y + 3, 0, 6),
)
"""Functions that converters fold into a layer, besides modules: ReLU, ReLU6, hard-swish and hard-sigmoid."""


def first(kind: str, path: Path, module: nn.Module, pixels: torch.Tensor, fed: Array, tolerance: float) -> str:
    """Name the first weighted layer of a file whose output differs from torch's.

    Args:
        kind: ``onnx`` or ``tflite``.
        path: the file, of any precision but int8.
        module: the network in torch, or its graph.
        pixels: one image, float32 (1, 3, H, W).
        fed: the same image as the file takes it.
        tolerance: largest difference, as a share of the largest absolute value.

    Returns:
        ``<layer> (max <x> of the largest)``, or ``none: <reason>``.
    """
    if kind not in _READERS:
        return f"none: {kind} does not show the inner tensors of a file"
    try:
        theirs = _READERS[kind](path, fed)
    except Exception as error:  # engines raise anything, and the file is known to be bad
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        return f"none: the file's inner tensors cannot be read: {reason}"
    ours = _record(module, pixels)
    places: dict[str, int] = {}
    for place, (name, _) in enumerate(ours):
        places.setdefault(name, place)
    compared = 0
    for name, values in theirs:
        if name in places:
            start = places[name]
            near = [mine for _, mine in ours[start : start + 1 + FOLLOWING]]
            gap = min(_gap(values, folded(mine)) for mine in near for folded in FOLDED)
            compared += gap < np.inf
            if tolerance < gap < np.inf or np.isnan(gap):
                return f"{name} (max {gap:.2g} of the largest)"
    if 2 * compared < len(theirs) or not theirs:
        return "none: the file's layers are not named like torch's"
    return "none: the weighted layers agree; something after the last one differs"


def _record(module: nn.Module, pixels: torch.Tensor) -> list[tuple[str, Array]]:
    """Every output of a module (or node of a graph), with its name, in order of execution."""
    outputs: list[tuple[str, Array]] = []
    with torch.no_grad():
        if isinstance(module, GraphModule):
            _Recorder(module, outputs).run(pixels)
            return outputs
        hooks = [
            each.register_forward_hook(
                lambda _module, _args, value, name=name: (
                    outputs.append((name, value.numpy().copy())) if isinstance(value, torch.Tensor) else None
                )
            )
            for name, each in module.named_modules()
        ]
        try:
            module(pixels)
        finally:
            for hook in hooks:
                hook.remove()
    return outputs


class _Recorder(Interpreter):
    """Keeps the value of every node."""

    def __init__(self, graph: GraphModule, outputs: list[tuple[str, Array]]) -> None:
        super().__init__(graph)
        self._found = outputs

    def run_node(self, n: Node) -> Any:
        """As `Interpreter`."""
        value = super().run_node(n)
        if n.op in ("call_function", "call_module") and isinstance(value, torch.Tensor):
            self._found.append(((scopes(n) or (n.name,))[-1], value.numpy()))
        return value


def _gap(theirs: Array, ours: Array) -> float:
    """Largest difference relative to the largest value of `ours`; infinite if their sizes differ."""
    if sorted(size for size in theirs.shape if size > 1) != sorted(size for size in ours.shape if size > 1):
        return float("inf")
    choices = [theirs.reshape(ours.shape)] if theirs.shape == ours.shape or theirs.ndim < 4 else []
    if theirs.ndim == ours.ndim == 4 and theirs.transpose(0, 3, 1, 2).shape == ours.shape:
        choices.append(theirs.transpose(0, 3, 1, 2))
    largest = float(np.abs(ours).max()) or 1.0
    gaps = [float(np.abs(each.astype(np.float64) - ours).max()) / largest for each in choices]
    return min(gaps, default=float("inf"))


def _onnx(path: Path, fed: Array) -> list[tuple[str, Array]]:
    import onnx

    model = onnx.load(path)
    nodes = [node for node in model.graph.node if node.op_type in WEIGHTED]
    values = diverge_int8.run_onnx(model, [node.output[0] for node in nodes], fed)
    return [(layer_of(node.name), value) for node, value in zip(nodes, values, strict=True)]


def _tflite(path: Path, fed: Array) -> list[tuple[str, Array]]:
    from edgekit.graph.tflite_table import Table

    table = Table(path.read_bytes())
    outputs = [each.outputs[0] for each in table.graph.operators if table.kind(each) in WEIGHTED]
    layers = []
    for index, value in zip(outputs, diverge_int8.run_tflite(table, outputs, fed), strict=True):
        spec = table.port(index, "NHWC")
        if spec.scale is not None and spec.zero_point is not None:
            value = (value.astype(np.float32) - np.float32(spec.zero_point)) * np.float32(spec.scale)
        layers.append((layer_of(table.graph.tensors[index].name.decode()), value))
    return layers


_READERS = {"onnx": _onnx, "tflite": _tflite}
