"""A clamp, of a sum with a constant or on its own, becomes a clamp of the bytes, if only the zero point moves.

Helps ONNX Runtime: hard-swish's ``relu6(x + 3)`` on the grid of x (`edgekit.quantize.exact_scales` ensures that) is x
with its bytes clamped, a minimum and a maximum instead of an integer add; a clamp on its own would run in float.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

NAME = "byte_clip"
SCOPE = "onnx"
CLAMPS = ("Clip", "Relu")


def apply(model: onnx.ModelProto) -> int:
    """Rewrite every such sum, and every clamp on its own, that only its quantizer uses, in place; returns how many."""
    graph = model.graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    producer = {output: node for node in graph.node for output in node.output}
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    count = 0
    for first in [node for node in graph.node if node.op_type in ("Add", *CLAMPS)]:
        chain = [first]
        while chain[-1].op_type in ("Add", *CLAMPS) and len(users.get(chain[-1].output[0], [])) == 1:
            chain.append(users[chain[-1].output[0]][0])
        sources = [producer.get(name) for name in first.input[: 2 if first.op_type == "Add" else 1]]
        if chain[-1].op_type != "QuantizeLinear" or any(node.op_type not in CLAMPS for node in chain[1:-1]):
            continue
        if any(source is None or source.op_type != "DequantizeLinear" for source in sources):
            continue
        limits = _limits(chain, sources, constants)
        if limits is None:
            continue
        names = [f"{first.name}_{word}" for word in ("low", "high")]
        for name, value in zip(names, limits, strict=True):
            graph.initializer.append(numpy_helper.from_array(value, name))
        x: Any = sources[0]
        clip = helper.make_node("Clip", [x.input[0], *names], [chain[-1].output[0]], f"{first.name}_bytes")
        clip.metadata_props.extend(first.metadata_props)
        graph.node.insert(list(graph.node).index(chain[-1]), clip)
        for node in chain:
            graph.node.remove(node)
        for source in sources:
            if source is not None and users[source.output[0]] == [first]:
                graph.node.remove(source)
        count += 1
    return count


def _limits(chain: list[onnx.NodeProto], sources: list[Any], constants: dict[str, Any]) -> tuple[Any, Any] | None:
    """The limits of the bytes; None if more changes than the zero point."""
    x, *others = sources
    (scale, zero), (new_scale, new_zero) = ([constants[name] for name in node.input[1:]] for node in (x, chain[-1]))
    steps = 0.0
    for holder in others:
        if holder.input[0] not in constants or constants[holder.input[0]].size != 1:
            return None
        value, unit, offset = (constants[name] for name in holder.input)
        steps = (float(value.item()) - float(offset)) * float(unit) / float(scale)
    if scale != new_scale or zero.dtype != new_zero.dtype or abs(steps - (int(zero) - int(new_zero))) > 1e-3:
        return None
    low, high = -np.inf, np.inf
    for node in chain[:-1]:
        if node.op_type in CLAMPS:
            bounds = [constants.get(name) for name in [*node.input[1:], "", ""][:2]]
            least, most = (0.0, np.inf) if node.op_type == "Relu" else bounds
            low = max(low, -np.inf if least is None else float(least))
            high = min(high, np.inf if most is None else float(most))
    kind = np.iinfo(zero.dtype)
    bytes_ = [np.clip(np.rint(bound / float(scale)) + int(new_zero), kind.min, kind.max) for bound in (low, high)]
    return np.array(bytes_[0], zero.dtype), np.array(bytes_[1], zero.dtype)
