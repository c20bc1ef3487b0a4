"""ExecuTorch's .pte, through XNNPACK's partitioner: one call of the delegate, float in and out, NCHW.

An int8 file quantizes its input and dequantizes its output itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.fx import GraphModule

from edgekit.errors import Shortfall
from edgekit.export import chatter, executorch_graph, float_operators, model_file
from edgekit.export.port import Rewrites
from edgekit.graph.float_operators import layer
from edgekit.types import Artifact, Size, TensorSpec, shape_of

LOG = "export.log"
_ELSEWHERE = "is a precision of onnx and tflite"
REFUSED = {
    "fp16": f"XNNPACK's delegate takes half weights only with half arithmetic; fp16 {_ELSEWHERE}",
    "weight_only": f"XNNPACK has no convolutions with int8 weights and float arithmetic; weight_only {_ELSEWHERE}",
    "dynamic": f"XNNPACK's partitioner takes dynamic ranges for few convolutions; dynamic {_ELSEWHERE}",
    "int16x8": "XNNPACK has no kernels for int16 activations; int16x8 is a precision of tflite",
}
"""Precisions that this format does not support, and why."""


def export(
    graph: torch.nn.Module,
    size: Size,
    precision: str,
    folder: Path,
    rewrites: Rewrites = None,
    keep_float: Sequence[str] | None = (),
) -> Artifact:
    """Write ``model-<precision>.pte``; see `edgekit.export.port.Exporter.export`.

    Args:
        graph: "fp32": a float network in eval mode; "int8": a quantized graph whose weights are quantized in the graph.
        size: shape of an image; the file takes float32, NCHW.
        precision: "fp32" or "int8".
        folder: where to write.
        rewrites: there are none of such files.
        keep_float: modules of an int8 net that may compute in float, besides its float weighted layers; None: all.

    Raises:
        Shortfall: the exporter refuses the network, or an int8 file would compute in float, or outside of XNNPACK's
            delegate, what was not asked to.
    """
    if precision in REFUSED:
        raise Shortfall(f"executorch-{precision}: {REFUSED[precision]}")
    lowered = _lower(graph, size, precision, folder)
    floats = executorch_graph.floats(lowered)
    if precision == "int8" and keep_float is not None:
        assert isinstance(graph, GraphModule)
        float_operators.check("executorch-int8", graph, (), keep_float)
        unasked = float_operators.unasked_for([each.node for each in floats], graph, keep_float)
        if unasked:
            names = [str(each) for each in floats if each.node in unasked]
            float_operators.refuse("executorch-int8", names, unasked)
    output = next(node for node in lowered.exported_program().graph.nodes if node.op == "output")
    classes = output.all_input_nodes[0].meta["val"].shape[1]
    ports = (
        TensorSpec("input", (1, *shape_of(size)), "float32", "NCHW"),
        TensorSpec("output", (1, classes), "float32", "NC"),
    )
    found = tuple(f"{each.kind} {layer(each.node)}".strip() for each in floats)
    return model_file.write(folder, _bytes(lowered, precision, folder), "executorch", precision, found, ports, ())


def convert(graph: torch.nn.Module, size: Size, precision: str, folder: Path) -> bytes:
    """The file; arguments and errors as for `export`."""
    return _bytes(_lower(graph, size, precision, folder), precision, folder)


def lowered(data: bytes, rewrites: Sequence[str] | None = None) -> tuple[bytes, tuple[str, ...]]:
    """There are no rewrites of such files."""
    return data, ()


def _lower(graph: torch.nn.Module, size: Size, precision: str, folder: Path) -> Any:
    try:
        with chatter.into(folder / LOG), torch.no_grad():
            return executorch_graph.lower(graph, size)
    except (OSError, ModuleNotFoundError):
        raise
    except Exception as error:  # the partitioner raises whatever an operator's translation raised
        raise _refused(precision, error) from error


def _bytes(lowered: Any, precision: str, folder: Path) -> bytes:
    try:
        with chatter.into(folder / LOG):
            return bytes(lowered.to_executorch().buffer)
    except (OSError, ModuleNotFoundError):
        raise
    except Exception as error:  # likewise
        raise _refused(precision, error) from error


def _refused(precision: str, error: Exception) -> Shortfall:
    reason = model_file.root_line(error)
    return Shortfall(f"executorch-{precision}: ExecuTorch cannot export this network: {reason}; see {LOG}")
