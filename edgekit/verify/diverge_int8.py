"""Find the layer of an exported int8 file whose integers differ from torch's.

All quantized tensors of the file are read while its engine runs one image, and matched with those of the integer graph:
by their values on an image on which both agree, if there is one, else by their grids and sizes in order of execution.
Then the graph runs the same image, each layer on the *file's* inputs: each layer is judged alone, regardless of errors
in earlier ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.fx import GraphModule, Interpreter, Node

from edgekit.graph.exported_program import output_scale
from edgekit.graph.integer_arithmetic import IntegerKernel
from edgekit.graph.ops import QUANTIZE, WEIGHTED, scopes
from edgekit.runtime import machine
from edgekit.types import ONE_STEP

Array = npt.NDArray[Any]


ALIKE = 0.5
"""Mean difference in steps below which two tensors are taken for the same one."""


@dataclass(frozen=True)
class Grid:
    """real = scale * (q - zero_point), q in -128..127."""

    scale: float
    zero_point: int

    def __str__(self) -> str:
        return f"scale {self.scale:.6g}, zero point {self.zero_point}"


@dataclass(frozen=True)
class Tensor:
    """A quantized tensor, as int8 values whatever type the file stores."""

    values: npt.NDArray[np.int8]
    grid: Grid

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for matching tensors of two files, in either layout."""
        return float(np.float32(self.grid.scale)), self.grid.zero_point, *self.extents

    @property
    def extents(self) -> tuple[int, ...]:
        """Sizes other than 1, smallest first."""
        return tuple(sorted(size for size in self.values.shape if size > 1))


Reader = Callable[[Path, Array], Iterator[Tensor]]
"""The quantized tensors inside a file, for one image as the file takes it."""


@dataclass(frozen=True)
class Image:
    """One image."""

    pixels: torch.Tensor
    """float32 (1, channels, height, width)."""
    fed: Array
    """The same as the file takes it."""


@dataclass(frozen=True)
class Divergence:
    """How one layer's output in the file differs from torch's for the same inputs."""

    layer: str
    """Module of the torch network, or "add of <module>" for an operator in a module's own code."""
    steps: int
    """Largest difference, in steps of the output's grid."""
    share: float
    """Share of its outputs that differ, 0..1."""
    grid: str = ""
    """Both grids, in words, if the file has a different one."""

    @property
    def wrong(self) -> bool:
        """Whether it differs by more than rounding."""
        return self.steps > 1 or bool(self.grid)

    @property
    def amount(self) -> str:
        """How much it differs, in words."""
        grid = f"{self.grid}; " if self.grid else ""
        return f"{grid}max {self.steps} step{'s' if self.steps != 1 else ''}, {100 * self.share:.3g} % of its outputs"


def first(kind: str, path: Path, graph: GraphModule, image: Image, guide: Image | None = None) -> str:
    """Name the first layer of a file whose integers differ from torch's by more than rounding.

    Args:
        kind: ``onnx`` or ``tflite``.
        path: the file, int8.
        graph: from `edgekit.graph.integer_arithmetic.integer_graph`.
        image: on which it differs.
        guide: one on which file and torch agree, if there is one: it tells which tensors belong together.

    Returns:
        ``<layer> (max <n> steps, <share> of its outputs)``, or ``none: <reason>`` if no layer does.
    """
    if kind not in READERS:
        return f"none: {kind} does not show the inner tensors of a file"
    try:
        rows = compare(graph, READERS[kind], path, image, guide)
    except Exception as error:  # engines raise anything, and the file is known to be bad
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        return f"none: the file's inner tensors cannot be read: {reason}"
    if 2 * len(rows) <= sum(isinstance(module, IntegerKernel) for module in graph.modules()):
        return "none: the file's inner tensors do not match those of the quantized graph"
    wrong = [row for row in rows if row.wrong]
    if wrong:
        more = f"; {len(wrong) - 1} more of {len(rows)}" if len(wrong) > 1 else ""
        return f"{wrong[0].layer} ({wrong[0].amount}{more})"
    rounded = [row for row in rows if row.steps]
    if rounded:
        most = max(rounded, key=lambda row: row.share)
        count = f"{len(rounded)} of {len(rows)} round differently"
        return f"none by more than rounding; {count}, most of all {most.layer} ({most.amount})"
    return (
        "none: every inner tensor agrees; the output's own scale differs, or the engine fuses differently "
        "while inner tensors are read"
    )


def only_rounds(
    kind: str,
    path: Path,
    graph: GraphModule,
    image: Image,
    logits: Array,
    tolerance: float,
    guide: Image | None = None,
) -> str:
    """How a file with float operators differs from torch, if each of its layers computes what torch's does.

    Float operators may differ in the last bit of a sum, so that a rounding after them falls the other way, and deep
    nets carry that to every output. Given the file's own values as inputs, each layer has to agree to one step.

    Args:
        kind: as in `first`, also `path`, `graph`, `image` and `guide`.
        path: the file.
        graph: the integer graph.
        image: on which it differs.
        logits: what the file makes of it, float32 (1, classes).
        tolerance: largest difference of these, as a share of the largest, if the last operators are float.
        guide: on which it does not.

    Returns:
        In words; "" if a layer differs by more, or too few could be compared.
    """
    try:
        rows, result = _replayed(graph, READERS[kind], path, image, guide)
    except Exception:  # as in `first`
        return ""
    integer = sum(isinstance(module, IntegerKernel) for module in graph.modules())
    if 2 * len(rows) <= integer or any(row.wrong for row in rows):
        return ""
    mine = (result[0] if isinstance(result, tuple) else result).numpy()
    step = output_scale(graph)
    gap = float(np.abs(mine - logits).max())
    if gap > (ONE_STEP * step if step else tolerance * float(np.abs(mine).max())):
        return ""
    rounded = sum(row.steps > 0 for row in rows)
    return f"float operators round differently: {rounded} of {len(rows)} layers by one step on the same inputs"


def compare(
    graph: GraphModule, reader: Reader, path: Path, image: Image, guide: Image | None = None
) -> list[Divergence]:
    """One row for each tensor of an integer graph that the file also has, in order of execution."""
    return _replayed(graph, reader, path, image, guide)[0]


def _replayed(
    graph: GraphModule, reader: Reader, path: Path, image: Image, guide: Image | None
) -> tuple[list[Divergence], Any]:
    """The rows of `compare`, and the result of the graph with the file's own values inside."""
    with torch.no_grad():
        known = None if guide is None else _agreeing(_own(graph, guide), list(reader(path, guide.fed)))
        tensors = list(reader(path, image.fed))
        own = _own(graph, image)
        replay = _Replay(graph)
        replay.given = (
            _match(own, tensors) if known is None else {node: tensors[place] for node, place in known.items()}
        )
        result = replay.run(image.pixels)
    return replay.found, result


def _own(graph: GraphModule, image: Image) -> dict[Node, Tensor]:
    replay = _Replay(graph)
    replay.run(image.pixels)
    return replay.own


class _Replay(Interpreter):
    """Runs an integer graph; compares each tensor that the file has, then continues with the file's values."""

    def __init__(self, graph: GraphModule) -> None:
        super().__init__(graph)
        self.own: dict[Node, Tensor] = {}
        self.given: dict[Node, Tensor] = {}
        self.found: list[Divergence] = []

    def run_node(self, n: Node) -> Any:
        """As `Interpreter`."""
        value = super().run_node(n)
        described = _describe(self.module, n)
        if described is None:
            return value
        layer, grid = described
        mine = Tensor(value.numpy(), grid)
        self.own.setdefault(n, mine)
        if n not in self.given:
            return value
        theirs = self.given[n]
        values = _laid_out(theirs.values, mine.values)
        difference = np.abs(values.astype(np.int16) - mine.values)
        differs = theirs.key != mine.key
        self.found.append(
            Divergence(
                layer,
                int(difference.max()),
                float((difference > 0).mean()),
                f"the file says {theirs.grid}, torch {grid}" if differs else "",
            )
        )
        return torch.from_numpy(_on(grid, values, theirs.grid) if differs else values)


def _describe(graph: Any, node: Node) -> tuple[str, Grid] | None:
    """Layer and grid of a node that outputs an integer activation."""
    source: Any = node.args[0] if node.args else None
    if node.op == "call_function" and node.target is QUANTIZE and source.op != "get_attr":
        if source.op == "placeholder":
            return "the input", _grid(node)
        return _name(source), _grid(node)
    if node.op == "call_module" and isinstance(module := graph.get_submodule(str(node.target)), IntegerKernel):
        kernel = module.kernel
        return _name(kernel.node), Grid(kernel.output_scale, kernel.output_zero)
    return None


def _grid(node: Any) -> Grid:
    return Grid(float(node.args[1]), int(node.args[2]))


def _name(node: Node) -> str:
    name = (scopes(node) or (node.name,))[-1]
    return name if node.target in WEIGHTED else f"{str(node.target).split('.')[1]} of {name}"


def _agreeing(own: dict[Node, Tensor], tensors: list[Tensor]) -> dict[Node, int]:
    """The place of each node's tensor among a file's, for an image on which both hold about the same values."""
    costs: list[tuple[float, int, int]] = []
    nodes = list(own)
    for row, node in enumerate(nodes):
        mine = own[node]
        for place, theirs in enumerate(tensors):
            if theirs.key == mine.key:
                values = _laid_out(theirs.values, mine.values)
                cost = float(np.abs(values.astype(np.int16) - mine.values).mean())
                costs += [(cost, abs(row - place), row * len(tensors) + place)] if cost < ALIKE else []
    found: dict[Node, int] = {}
    for _, _, both in sorted(costs):  # of tensors that are alike, those in the same order
        row, place = divmod(both, len(tensors))
        if nodes[row] not in found and place not in found.values():
            found[nodes[row]] = place
    return found


def _match(own: dict[Node, Tensor], tensors: list[Tensor]) -> dict[Node, Tensor]:
    """Match a file's tensors to nodes by the longest runs of equal keys, and between these by equal sizes."""
    nodes = list(own)
    matches: dict[Node, Tensor] = {}
    ours, theirs = [own[node].key for node in nodes], [tensor.key for tensor in tensors]
    for tag, start, stop, low, high in SequenceMatcher(None, ours, theirs, autojunk=False).get_opcodes():
        if tag == "equal":
            matches.update(zip(nodes[start:stop], tensors[low:high], strict=True))
        elif tag == "replace":  # a grid that differs from torch's
            sizes = [own[node].extents for node in nodes[start:stop]], [tensor.extents for tensor in tensors[low:high]]
            for one, other, count in SequenceMatcher(None, *sizes, autojunk=False).get_matching_blocks():
                for place in range(count):
                    matches[nodes[start + one + place]] = tensors[low + other + place]
    return matches


def _laid_out(values: npt.NDArray[np.int8], like: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
    """Values in the layout of `like`; if the shape is ambiguous, in the layout that fits better."""
    choices = [values.reshape(like.shape)]
    if values.ndim == like.ndim == 4 and values.transpose(0, 3, 1, 2).shape == like.shape:
        choices.append(values.transpose(0, 3, 1, 2))
        if values.shape != like.shape:
            del choices[0]
    return np.ascontiguousarray(min(choices, key=lambda v: int(np.abs(v.astype(np.int16) - like).sum(dtype=np.int64))))


def _on(grid: Grid, values: npt.NDArray[np.int8], of: Grid) -> npt.NDArray[np.int8]:
    real = (values.astype(np.float64) - of.zero_point) * of.scale
    return (np.rint(real / grid.scale) + grid.zero_point).clip(-128, 127).astype(np.int8)


def _onnx(path: Path, fed: Array) -> Iterator[Tensor]:
    """Outputs of all QuantizeLinear nodes."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(path)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    sinks = [n for n in model.graph.node if n.op_type == "QuantizeLinear" and n.input[0] not in constants]
    values = run_onnx(model, [sink.output[0] for sink in sinks], fed)
    for sink, value in zip(sinks, values, strict=True):
        scale, zero = (numpy_helper.to_array(constants[name]).item() for name in sink.input[1:3])
        yield _int8(value, scale, zero)


def run_onnx(model: Any, names: list[str], fed: Array) -> list[Array]:
    """Inner tensors of a model, run as in `edgekit.runtime.engines.onnxruntime`; they become outputs of `model`."""
    import onnx

    from edgekit.runtime.engines import onnxruntime

    there = {port.name for port in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in there)
    session = onnxruntime.cpu_session(model.SerializeToString(), machine.cores())
    return session.run(names, {session.get_inputs()[0].name: fed}) if names else []


def _tflite(path: Path, fed: Array) -> Iterator[Tensor]:
    """The input and all int8 results of operators that compute."""
    from edgekit.graph.tflite_table import MOVING, Table

    table = Table(path.read_bytes())
    outputs = [table.graph.inputs[0]]
    for operator in table.graph.operators:
        tensor = table.graph.tensors[operator.outputs[0]]
        if table.kind(operator) not in MOVING and table.types[tensor.type] == "INT8":
            outputs.append(operator.outputs[0])
    for index, value in zip(outputs, run_tflite(table, outputs, fed), strict=True):
        spec = table.port(index, "NHWC")
        if spec.scale is not None and spec.zero_point is not None:
            yield _int8(value, spec.scale, spec.zero_point)


def run_tflite(table: Any, outputs: list[int], fed: Array) -> list[Array]:
    """Inner tensors of an `edgekit.graph.tflite_table.Table`, read by making them outputs of the file."""
    import flatbuffers
    from ai_edge_litert import interpreter as litert

    table.graph.outputs = [*table.graph.outputs, *outputs]
    table.model.signatureDefs = None
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(table.model.Pack(builder), b"TFL3")
    session = litert.Interpreter(model_content=bytes(builder.Output()), num_threads=machine.cores())
    session.allocate_tensors()
    session.set_tensor(session.get_input_details()[0]["index"], fed)
    session.invoke()
    return [session.get_tensor(int(index)) for index in outputs]


def _int8(values: Array, scale: float, zero_point: int) -> Tensor:
    shift = 128 if values.dtype == np.uint8 else 0
    return Tensor((values.astype(np.int16) - shift).astype(np.int8), Grid(float(scale), int(zero_point) - shift))


READERS: dict[str, Reader] = {"onnx": _onnx, "tflite": _tflite}
