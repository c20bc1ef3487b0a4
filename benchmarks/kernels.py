"""What one int8 operator costs in each engine, in nanoseconds per element: which activations run as a table, and where.

Files of one operator, or of two for SiLU and hard-swish, on a tensor of 28 x 28 x 128, one thread. A call of the
engine itself (reading the clock, crossing into C++) is measured with a copy of eight elements and subtracted. For
LiteRT the row says whether XNNPACK took the operators: one that it leaves to the interpreter also splits the network
into more parts.

Usage::

    python benchmarks/kernels.py                # all operators of both engines, about ten seconds
    python benchmarks/kernels.py litert         # those of one engine
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

SHAPE = (1, 28, 28, 128)
TINY = (1, 1, 1, 8)
ROUNDS, RUNS = 15, 40
Call = Callable[[], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("engines", nargs="*", default=["litert", "onnxruntime"], metavar="ENGINE")
    for engine in parser.parse_args().engines:
        measure = {"litert": litert, "onnxruntime": onnxruntime}[engine]
        print(f"{engine:<44} {'ns/element':>10}")
        (_, _, idle), *rows = measure()
        empty = quickest(idle)
        for name, by, call in rows:
            print(f"  {name:<28} {by:<13} {(quickest(call) - empty) / np.prod(SHAPE):>10.3f}", flush=True)


def quickest(call: Call) -> float:
    """Nanoseconds of a call: the median of the quietest round."""
    medians = []
    for _ in range(ROUNDS):
        times = []
        for _ in range(RUNS):
            start = time.perf_counter_ns()
            call()
            times.append(time.perf_counter_ns() - start)
        medians.append(statistics.median(times))
    return min(medians)


# --- LiteRT


def litert() -> Iterator[tuple[str, str, Call]]:
    """Name, who runs it, and a call; the first one does next to nothing."""
    from ai_edge_litert import schema_py_generated as schema

    def leaky() -> Any:
        options = schema.LeakyReluOptionsT()
        options.alpha = 0.1
        return options

    sigmoid, tanh = (1 / 256, -128), (1 / 128, 0)
    for name, kind, second, version, options, grid in (
        ("copy of 8", "QUANTIZE", "", 2, None, None),
        ("requantize", "QUANTIZE", "", 2, None, None),
        ("add a tensor", "ADD", "tensor", 2, schema.AddOptionsT, None),
        ("add a constant", "ADD", "constant", 2, schema.AddOptionsT, None),
        ("multiply by a tensor", "MUL", "tensor", 2, schema.MulOptionsT, None),
        ("multiply by itself", "MUL", "itself", 2, schema.MulOptionsT, None),
        ("multiply by channel", "MUL", "channels", 2, schema.MulOptionsT, None),
        ("x * sigmoid(x)", "MUL", "LOGISTIC", 2, schema.MulOptionsT, None),
        ("x * relu6(x + 3)", "MUL", "ADD", 2, schema.MulOptionsT, None),
        ("sigmoid", "LOGISTIC", "", 2, None, sigmoid),
        ("tanh", "TANH", "", 2, None, tanh),
        ("elu", "ELU", "", 1, None, None),
        ("leaky relu", "LEAKY_RELU", "", 2, leaky, None),
        ("gelu", "GELU", "", 2, schema.GeluOptionsT, None),
        ("exp", "EXP", "", 2, schema.ExpOptionsT, None),
        ("hard-swish", "HARD_SWISH", "", 1, None, None),
        ("relu6, alone", "RELU6", "", 2, None, None),
    ):
        shape = TINY if name == "copy of 8" else SHAPE
        call, by = _litert(schema, kind, second, version, options and options(), shape, grid or (0.05, -7))
        yield name, by, call


def _litert(
    schema: Any, kind: str, second: str, version: int, options: Any, shape: tuple[int, ...], grid: tuple[float, int]
) -> tuple[Call, str]:
    import flatbuffers
    from ai_edge_litert.interpreter import Interpreter

    model, graph, code, operator = schema.ModelT(), schema.SubGraphT(), schema.OperatorCodeT(), schema.OperatorT()
    code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, kind)
    code.deprecatedBuiltinCode = min(code.builtinCode, 127)
    code.version = version
    model.version, model.operatorCodes, model.buffers = 3, [code], [schema.BufferT(), schema.BufferT()]
    model.buffers[1].data = [100]
    graph.tensors, graph.operators = [], []

    def tensor(extents: tuple[int, ...], scale: float, zero_point: int, buffer: int = 0) -> int:
        made, quantization = schema.TensorT(), schema.QuantizationParametersT()
        quantization.scale, quantization.zeroPoint = [scale], [zero_point]
        made.shape, made.type, made.buffer, made.hasRank = list(extents), schema.TensorType.INT8, buffer, True
        made.name, made.quantization = f"t{len(graph.tensors)}", quantization
        graph.tensors.append(made)
        return len(graph.tensors) - 1

    first = tensor(shape, 0.05, 3)

    def gate() -> list[int]:
        """What x is multiplied by in SiLU and in hard-swish."""
        before, kind_before = schema.OperatorT(), schema.OperatorCodeT()
        kind_before.builtinCode = kind_before.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, second)
        kind_before.version, before.opcodeIndex, before.inputs = 2, 1, [first]
        if second == "ADD":
            before.inputs.append(tensor((1,), 0.03, 0, 1))
            before.builtinOptionsType, before.builtinOptions = schema.BuiltinOptions.AddOptions, schema.AddOptionsT()
        before.outputs = [tensor(shape, *((1 / 256, -128) if second == "LOGISTIC" else (6 / 255, -128)))]
        model.operatorCodes.append(kind_before)
        graph.operators.append(before)
        return list(before.outputs)

    makers: dict[str, Callable[[], list[int]]] = {
        "": list,
        "tensor": lambda: [tensor(shape, 0.03, 5)],
        "channels": lambda: [tensor((1, 1, 1, shape[-1]), 0.03, 5)],
        "constant": lambda: [tensor((1,), 0.03, 0, 1)],
        "itself": lambda: [first],
        "LOGISTIC": gate,
        "ADD": gate,
    }
    others = makers[second]()
    operator.inputs, operator.outputs = [first, *others], [tensor(shape, *grid)]
    if options is not None:
        operator.builtinOptions = options
        operator.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
    graph.inputs = [first, *(other for other in others if second in ("tensor", "channels"))]
    graph.operators.append(operator)
    graph.outputs, model.subgraphs = operator.outputs, [graph]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    interpreter = Interpreter(model_content=bytes(builder.Output()), num_threads=1)
    interpreter.allocate_tensors()
    for port in interpreter.get_input_details():
        interpreter.set_tensor(port["index"], _bytes(tuple(port["shape"]), np.int8))
    taken = any(each["op_name"] == "DELEGATE" for each in interpreter._get_ops_details())
    return interpreter.invoke, "XNNPACK" if taken else "interpreter"


# --- ONNX Runtime


def onnxruntime() -> Iterator[tuple[str, str, Call]]:
    """As `litert`."""
    for name, kind, second, attributes in (
        ("copy of 8", "Identity", "", {}),
        ("clamp of the bytes", "Clip", "", {}),
        ("add a tensor", "QLinearAdd", "tensor", {}),
        ("multiply by a tensor", "QLinearMul", "tensor", {}),
        ("multiply by channel", "QLinearMul", "channels", {}),
        ("x * sigmoid(x)", "QLinearSigmoid", "product", {}),
        ("x * relu6(x + 3)", "Clip", "product", {}),
        ("sigmoid", "QLinearSigmoid", "", {}),
        ("leaky relu", "QLinearLeakyRelu", "", {"alpha": 0.1}),
        ("any table, by Gather", "Gather", "table", {}),
        ("hard-swish, as Q/DQ pairs", "HardSwish", "", {}),
        ("sigmoid, as Q/DQ pairs", "Sigmoid", "", {}),
    ):
        yield name, kind, _onnx(kind, second, attributes, TINY if name == "copy of 8" else SHAPE)


def _onnx(kind: str, second: str, attributes: dict[str, Any], shape: tuple[int, ...]) -> Call:
    import onnx
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper

    constants = {
        "a_scale": np.float32(0.05), "b_scale": np.float32(0.03), "y_scale": np.float32(0.06), "zero": np.uint8(9),
        "low": np.uint8(20), "high": np.uint8(200), "table": _bytes((256,), np.uint8),
    }  # fmt: skip
    ports = [helper.make_tensor_value_info("a", TensorProto.UINT8, shape)]
    feeds = {"a": _bytes(shape, np.uint8)}
    if second in ("tensor", "channels"):
        extents = shape if second == "tensor" else (1, 1, 1, shape[-1])
        ports.append(helper.make_tensor_value_info("b", TensorProto.UINT8, extents))
        feeds["b"] = _bytes(extents, np.uint8)
    domain = "com.microsoft" if kind.startswith("QLinear") else ""
    nodes = []
    if kind in ("HardSwish", "Sigmoid"):
        nodes.append(helper.make_node("DequantizeLinear", ["a", "a_scale", "zero"], ["real"]))
        nodes.append(helper.make_node(kind, ["real"], ["wide"]))
        nodes.append(helper.make_node("QuantizeLinear", ["wide", "y_scale", "zero"], ["y"]))
    elif kind == "Gather":
        nodes.append(helper.make_node("Cast", ["a"], ["places"], to=TensorProto.INT32))
        nodes.append(helper.make_node("Gather", ["table", "places"], ["y"]))
    else:
        inputs = {"Identity": ["a"], "Clip": ["a", "low", "high"]}.get(kind, ["a", "a_scale", "zero"])
        inputs += ["b", "b_scale", "zero"] if "b" in feeds else []
        inputs += ["y_scale", "zero"] if domain else []
        name = "gate" if second == "product" else "y"
        nodes.append(helper.make_node(kind, inputs, [name], domain=domain, **attributes))
        if second == "product":
            both = ["a", "a_scale", "zero", "gate", "b_scale", "zero", "y_scale", "zero"]
            nodes.append(helper.make_node("QLinearMul", both, ["y"], domain="com.microsoft"))
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        kind,
        ports,
        [helper.make_tensor_value_info("y", TensorProto.UINT8, shape)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items() if name in used],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    onnx.checker.check_model(model)
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    for name, value in feeds.items():
        binding.bind_cpu_input(name, value)
    binding.bind_output("y")
    return lambda: session.run_with_iobinding(binding)


def _bytes(shape: tuple[int, ...], dtype: Any) -> npt.NDArray[Any]:
    limits = np.iinfo(dtype)
    return np.random.default_rng(0).integers(limits.min, limits.max + 1, shape).astype(dtype)


if __name__ == "__main__":
    main()
