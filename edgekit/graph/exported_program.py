"""The quantized graph on disk and in memory: a torch.export program with Q/DQ pairs in it."""

from __future__ import annotations

import copy
import io
import os
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node
from torchao.quantization.pt2e.constant_fold import constant_fold

from edgekit.errors import InputError
from edgekit.graph.ops import DEQUANTIZE, QUANTIZE, WEIGHT_QUANTIZE, scopes
from edgekit.types import Size, shape_of


@dataclass(frozen=True)
class QuantizedTensor:
    """One decision of the quantizer: the grid of one activation tensor. real = scale * (q - zero_point)."""

    tensor: str
    """Name of the node whose output is quantized."""
    layer: str
    """Module of the torch network that computes it ("" for the network's input)."""
    scale: float
    zero_point: int


@dataclass(frozen=True)
class Plan:
    """The decisions in readable form; the graph itself carries them, too."""

    lowered: dict[str, int]
    """How often each rewrite was applied."""
    tensors: list[QuantizedTensor]


def trace(module: torch.nn.Module, size: Size, batch: int = 1) -> ExportedProgram:
    """Export a network in eval mode for images of one shape.

    Raises:
        InputError: torch.export cannot take it; the message quotes the line of the network's own source.
    """
    try:
        return torch.export.export(module, (torch.zeros(batch, *shape_of(size)),), strict=False)
    except Exception as error:  # many types, most of them private to torch
        raise InputError(f"model.name: torch.export cannot take this network: {_where(module, error)}") from error


def _where(module: torch.nn.Module, error: BaseException) -> str:
    """The reason, and the innermost line of the files that define the network's modules."""
    sources = {type(part).forward.__code__.co_filename for part in module.modules() if _has_code(part)}
    sources = {file for file in sources if not file.startswith(os.path.dirname(torch.__file__))}
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in sources]
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    if not frames:
        return reason
    return f'{frames[-1].filename}, line {frames[-1].lineno} ("{frames[-1].line}"): {reason}'


def _has_code(part: torch.nn.Module) -> bool:
    return hasattr(type(part).forward, "__code__")


def save(program: ExportedProgram, path: Path) -> None:
    """Write a quantized program; `load` reads it back."""
    buffer = io.BytesIO()  # torch's own writer aborts the process when the disk is full
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns about its own archive format
        torch.export.save(program, buffer)
    path.write_bytes(buffer.getbuffer())


def load(path: Path) -> GraphModule:
    """The graph module of a saved program, ready to run and to export."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.load(path).module()


def fold_weights(graph: GraphModule) -> GraphModule:
    """A copy with weights stored as int8 (weight Q nodes folded), as ONNX wants them."""
    folded = copy.deepcopy(graph)
    constant_fold(folded, lambda node: node.op == "call_function" and node.target in (QUANTIZE, WEIGHT_QUANTIZE))
    return folded


def fold_constants(graph: GraphModule) -> GraphModule:
    """A copy with every constant folded, weights as float values on their int8 grid: same results, faster."""
    folded = copy.deepcopy(graph)
    constant_fold(folded)
    return folded


def plan(graph: GraphModule) -> list[QuantizedTensor]:
    """The scales that the graph carries, in the order of execution."""
    decisions = []
    for node in graph.graph.nodes:
        if node.op == "call_function" and node.target is QUANTIZE and isinstance(node.args[0], Node):
            source = node.args[0]
            layers = scopes(source)
            decisions.append(
                QuantizedTensor(source.name, layers[-1] if layers else "", float(node.args[1]), int(node.args[2]))
            )
    return decisions


def output_scale(graph: GraphModule) -> float | None:
    """Real value of one step of the network's output; None if the output is not quantized."""
    output = next(node for node in graph.graph.nodes if node.op == "output")
    last = output.all_input_nodes[0]
    return float(last.args[1]) if last.target is DEQUANTIZE else None
