"""Does an engine turn zeros into speed? MobileNetV2 with most weights of its 1x1 convolutions at zero.

Files of each format and precision, interleaved, one thread: dense, the same with zeros stored in dense tensors
(unstructured, and 2:4), and, for TFLite fp32, zeros removed by TFLite's sparse tensor encoding (compressed rows,
DENSIFY), which XNNPACK's sparse inference requires. It also requires padding of one pixel at each side of the stem, so
the network is the one with symmetric padding, and padding stays a separate operator.

Usage::

    python benchmarks/sparsity.py [share of zeros] [side of the input]
"""

from __future__ import annotations

import copy
import sys
import tempfile
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import timm
import torch
from ai_edge_litert import schema_py_generated as schema
from torch import nn

from edgekit.config import shipped
from edgekit.config.recipe import QuantizeSection
from edgekit.console import Console
from edgekit.device import file as device_file
from edgekit.export.formats import onnx, tflite
from edgekit.search import trial_files

SECONDS = 4.0


def main() -> None:
    share = float(sys.argv[1]) if len(sys.argv) > 1 else 0.8
    size = int(sys.argv[2]) if len(sys.argv) > 2 else 224
    torch.manual_seed(0)
    dense = timm.create_model("mobilenetv2_100").eval()
    nets = {"dense": dense, f"{share:.0%} zeros": unstructured(dense, share), "2:4": two_of_four(dense)}
    host = device_file.load(shipped.find("devices", "host"))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        files: dict[str, Path] = {}
        for name, net in nets.items():
            place = folder / str(len(files))
            made = _int8(net, size, place)
            made |= {"onnx-fp32": onnx.export(net, size, "fp32", place).path}
            made |= {"tflite-fp32": tflite.export(net, size, "fp32", place, rewrites=[]).path}
            files |= {f"{kind} {name}": place / path for kind, path in made.items()}
        encoded = folder / "sparse.tflite"
        count = encode(files[f"tflite-fp32 {share:.0%} zeros"], encoded)
        files[f"tflite-fp32 {share:.0%} zeros, {count} tensors encoded"] = encoded
        for kind in ("onnx-fp32", "onnx-int8", "tflite-fp32", "tflite-int8"):
            group = {name: path for name, path in files.items() if name.startswith(kind)}
            for trial in trial_files.time_files(group, {"host": host}, Console(quiet=True), SECONDS).rows:
                print(f"{trial.file:<45} {trial.engine:<12} {trial.ms:.3f} ms", flush=True)


def unstructured(module: nn.Module, share: float) -> nn.Module:
    """Set the smallest weights of each 1x1 convolution to zero."""
    net = copy.deepcopy(module)
    for weight in _pointwise(net):
        cut = weight.abs().flatten().kthvalue(round(share * weight.numel())).values
        weight[weight.abs() <= cut] = 0
    return net


def two_of_four(module: nn.Module) -> nn.Module:
    """Set the two smallest of every four weights along the input channels to zero."""
    net = copy.deepcopy(module)
    for weight in _pointwise(net):
        groups = weight.reshape(-1, 4)
        groups.scatter_(1, groups.abs().topk(2, dim=1, largest=False).indices, 0)
    return net


def _pointwise(net: nn.Module) -> list[torch.Tensor]:
    return [
        layer.weight.data
        for layer in net.modules()
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) and layer.in_channels % 4 == 0
    ]


def _int8(net: nn.Module, size: int, folder: Path) -> dict[str, str]:
    images = [torch.rand(3, size, size) * 2 - 1 for _ in range(2)]
    pixels = (torch.arange(256) / 255 - 0.5) / 0.5
    made = trial_files.quick_int8(net, size, images, pixels, QuantizeSection(), ["onnx", "tflite"], folder)
    return {f"{form}-int8": artifact.path for form, artifact in made.items()}


def encode(source: Path, target: Path) -> int:
    """Store the weights of 1x1 convolutions as compressed rows, each with a DENSIFY before it; returns how many."""
    model: Any = schema.ModelT.InitFromPackedBuf(source.read_bytes(), 0)
    graph = model.subgraphs[0]
    codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes]
    densify = schema.OperatorCodeT()
    densify.builtinCode, densify.deprecatedBuiltinCode, densify.version = schema.BuiltinOperator.DENSIFY, 124, 1
    model.operatorCodes.append(densify)
    added = []
    for operator in graph.operators:
        if codes[operator.opcodeIndex] != schema.BuiltinOperator.CONV_2D:
            continue
        tensor = graph.tensors[operator.inputs[1]]
        rows, high, wide, columns = (int(extent) for extent in tensor.shape)
        if (high, wide) != (1, 1):
            continue
        weight = np.frombuffer(bytes(model.buffers[tensor.buffer].data), np.float32).reshape(rows, columns)
        if (weight == 0).mean() < 0.5:
            continue
        added.append(_sparse(model, graph, operator, weight))
    graph.operators[:0] = added
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), b"TFL3")
    target.write_bytes(bytes(builder.Output()))
    return len(added)


def _sparse(model: Any, graph: Any, operator: Any, weight: np.ndarray[Any, Any]) -> Any:
    """Add the compressed tensor of one convolution's weights and the operator that expands it."""
    rows = len(weight)
    dimensions = []
    for extent in (rows, 1, 1):
        dense = schema.DimensionMetadataT()
        dense.format, dense.denseSize = schema.DimensionType.DENSE, extent
        dimensions.append(dense)
    segments, indices = schema.Int32VectorT(), schema.Int32VectorT()
    segments.values = np.concatenate([[0], (weight != 0).sum(1).cumsum()]).astype(np.int32)
    indices.values = np.nonzero(weight)[1].astype(np.int32)
    compressed = schema.DimensionMetadataT()
    compressed.format = schema.DimensionType.SPARSE_CSR
    compressed.arraySegmentsType = compressed.arrayIndicesType = schema.SparseIndexVector.Int32Vector
    compressed.arraySegments, compressed.arrayIndices = segments, indices
    sparsity = schema.SparsityParametersT()
    sparsity.traversalOrder, sparsity.blockMap = np.arange(4, dtype=np.int32), None
    sparsity.dimMetadata = [*dimensions, compressed]
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(weight[weight != 0].tobytes(), np.uint8)
    model.buffers.append(buffer)
    place = operator.inputs[1]
    tensor = copy.copy(graph.tensors[place])
    tensor.buffer, tensor.sparsity, tensor.name = len(model.buffers) - 1, sparsity, tensor.name + b".sparse"
    graph.tensors.append(tensor)
    model.buffers[graph.tensors[place].buffer].data = None
    graph.tensors[place].buffer = 0
    spread = schema.OperatorT()
    spread.opcodeIndex = len(model.operatorCodes) - 1
    spread.inputs = np.array([len(graph.tensors) - 1], np.int32)
    spread.outputs = np.array([place], np.int32)
    return spread


if __name__ == "__main__":
    main()
