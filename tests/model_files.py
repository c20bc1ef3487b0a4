"""Small model files made by hand, whose every number can be worked out on paper."""

from __future__ import annotations

import base64
import zlib
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import onnx
from ai_edge_litert import schema_py_generated as schema
from onnx import TensorProto, helper, numpy_helper

from edgekit.deploy import bundle

CONV_MACS = 8 * 8 * 4 * 3 * 9  # 8 x 8 pixels, 4 channels out of 3, 3 x 3
DENSE_MACS = 4 * 5
MACS = CONV_MACS + DENSE_MACS
PARAMETERS = 4 * 3 * 9 + 4 + 5 * 4 + 5
CLAMP_PEAK = 4 * (4 * 64 + 4 * 64)
"""Bytes of float32 at the clamp, which takes and gives 4 x 8 x 8."""


def float_onnx() -> onnx.ModelProto:
    """Conv, Clip, GlobalAveragePool, Flatten, Gemm on float (batch, 3, 8, 8), with an open batch."""
    weight = np.arange(4 * 3 * 9, dtype=np.float32).reshape(4, 3, 3, 3) / 100
    constants = [
        _constant("w", weight),
        _constant("b", np.zeros(4, np.float32)),
        _constant("low", np.float32(0)),
        _constant("high", np.float32(6)),
        _constant("v", np.ones((5, 4), np.float32)),
        _constant("c", np.zeros(5, np.float32)),
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["conv"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Clip", ["conv", "low", "high"], ["clip"], name="clip"),
        helper.make_node("GlobalAveragePool", ["clip"], ["pool"], name="pool"),
        helper.make_node("Flatten", ["pool"], ["flat"], name="flat"),
        helper.make_node("Gemm", ["flat", "v", "c"], ["y"], name="dense", transB=1),
    ]
    source = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 8, 8])
    sink = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 5])
    return _model(nodes, [source], [sink], constants)


def int8_onnx(left_float: bool = False) -> onnx.ModelProto:
    """The same on uint8 with Q/DQ pairs, without the pooling; `left_float`: a Elu that nobody quantized."""
    constants = [
        _constant("s", np.float32(0.5)),
        _constant("z", np.uint8(3)),
        _constant("ws", np.full(4, 0.25, np.float32)),
        _constant("wz", np.zeros(4, np.int8)),
        _constant("w", np.ones((4, 3, 3, 3), np.int8)),
        _constant("b", np.zeros(4, np.int32)),
        _constant("bs", np.full(4, 0.125, np.float32)),
        _constant("bz", np.zeros(4, np.int32)),
        _constant("low", np.uint8(0)),
    ]
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "s", "z"], ["xf"], name="x_dq"),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wf"], name="w_dq", axis=0),
        helper.make_node("DequantizeLinear", ["b", "bs", "bz"], ["bf"], name="b_dq", axis=0),
        helper.make_node("Conv", ["xf", "wf", "bf"], ["conv"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["conv"], ["relu"], name="relu"),
        helper.make_node("QuantizeLinear", ["relu", "s", "low"], ["q"], name="relu_q"),
    ]
    last = "q"
    if left_float:
        nodes += [
            helper.make_node("DequantizeLinear", ["q", "s", "low"], ["qf"], name="q_dq"),
            helper.make_node("Elu", ["qf"], ["elu"], name="elu"),
            helper.make_node("QuantizeLinear", ["elu", "s", "z"], ["y"], name="y_q"),
        ]
        last = "y"
    source = helper.make_tensor_value_info("x", TensorProto.UINT8, [1, 3, 8, 8])
    sink = helper.make_tensor_value_info(last, TensorProto.UINT8, [1, 4, 8, 8])
    return _model(nodes, [source], [sink], constants)


def float_pte() -> bytes:
    """Conv2d(3, 2, 3) and ReLU6 on float (1, 3, 16, 16) in one call of XNNPACK's delegate.

    Written by ExecuTorch 1.5.1: `edgekit.export.executorch_graph.lower` takes a dozen seconds.
    """
    return zlib.decompress(base64.b85decode("".join(_PTE)))


_PTE = (
    "c-pO2PiqrV5TD&_(lrK&F-Q+ZLMT$C$ZoRvvqee~g&xF{he9oy?7pSN5JOE-QK3f<p2eeh^5`cB9zFKpp@)6|4<0;t=s~;A?9OJVF$JqWn7lXd&H"
    "QHGyqVct1Av=%?3&uNtO~C842VZIo?h}?hB^G5#kmLtFmY|*nsxv_A?+irXesH)-;JaI4u6DUhSw`dzHN1F-?3YPr#fxN@_oDQI8D{IJ>|KoS@#="
    "u+qG&z(Cxa)tF?X4b!txF)?M50SPuDf>t`710#kX8^1D{oYcy(|dfjO`orZ7MRlOT@0@bWFthU#10%hAx&uMmBZP#vER;y<DZqTt?iZI_Cg(2Z-k"
    "PhN~vWK+5{Fg8cO+Mevrm`kRqks}7$0Is7<asedp!55Nv|)f?Bl~mF>LS{lhYE6O<PF>f+y!VO4Vd<jKC|7o2=G;p-yj+HOULoa-U#nez_}2;Z#+"
    "KW9^YR(hd*om{-EPMxQ?XyeyU%LR{60{dB#~`(wH~#_blHz)&bq*{4v=NUHBz^)WjaiY_j}&^l>)I(GvQ7A+lt0Bui{(b{s><JwbVLCb>6gdM0^i"
    "!ac`i;w{dwUkQE*&i{sAmiW0`bpISo$Iq}oMUI8Z_(V65T%>h-vGS}sd^%9orAmLN*ITSqy@&mwdNLFnn_E49TlMcf8YmC9*Ee2lpzhJ6ezm)^)f"
    ";a0A6*^p40@`14690D)oEz|P5(6hznJQ`zvT@l%&u=#PlCW8%wP<Hhue=k+dllwSX;HMOF-Rk#W-G>5bdtrwrr}!O7wOGe9Lm2AD97Di)GX}z(gu"
    "@-!pJN<XoWlKj0cA{vGBb<xj{X=_CKAFXquN>N0UXN;~_)&cFA{{J0+SNzRM9&5F9Ex_FMvycT~aUQs-g?*jH)5{+Y7!f58A_yR|`#E1shPg1X0)"
    "}O53?~F%huc_uyBI#8+$3p7OhpBv@<qhszB%2X-5*s@A$Z38Txid`joA7ke?=pf+M4kbYW18a5ig?g#O5DUpP57AfnGE+DiCN~TCWyop1)eGT*JR"
    "(K^*8Zum*e|q<NP9D%Hzr?uuOsVvLZh+BKD*+BXn@gtRDMr<j3C#fRC8AS71qeG1EGn!@8W0b{Aj~EO1aVjjc988MdzpUy?eFzh|*mdHxra-m%Eu"
    "6vlUyF$3|g3AXiT?Pr(g5z;dABc@&68;NsyHmL_fXL$-gnxJK&D`n&i6Fwzpw0)9qrx}snFIQV!fB"
)


def _constant(name: str, value: Any) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(value), name)


def _model(nodes: Any, inputs: Any, outputs: Any, constants: Any) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "by hand", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def int8_tflite(last: int = schema.BuiltinOperator.LOGISTIC) -> bytes:
    """CONV_2D 3x3 of (1, 8, 8, 3) to 4 channels, MEAN over the pixels, FULLY_CONNECTED to 5, LOGISTIC; all int8.

    Args:
        last: another operator in the place of LOGISTIC.
    """
    build = _Tflite()
    x = build.tensor("x", (1, 8, 8, 3), scale=0.5, zero=3)
    w = build.tensor("w", (4, 3, 3, 3), np.ones((4, 3, 3, 3), np.int8), scale=0.25)
    b = build.tensor("b", (4,), np.zeros(4, np.int32), scale=0.125)
    conv = build.tensor("conv", (1, 8, 8, 4), scale=1.0)
    axes = build.tensor("axes", (2,), np.array([1, 2], np.int32))
    mean = build.tensor("mean", (1, 4), scale=1.0)
    v = build.tensor("v", (5, 4), np.ones((5, 4), np.int8), scale=0.25)
    c = build.tensor("c", (5,), np.zeros(5, np.int32), scale=0.25)
    dense = build.tensor("dense", (1, 5), scale=0.5)
    y = build.tensor("y", (1, 5), scale=1 / 256, zero=-128)
    kinds = schema.BuiltinOperator
    conv_options = schema.Conv2DOptionsT()
    conv_options.strideW = conv_options.strideH = 1
    build.operator(kinds.CONV_2D, [x, w, b], [conv], schema.BuiltinOptions.Conv2DOptions, conv_options)
    build.operator(kinds.MEAN, [conv, axes], [mean], schema.BuiltinOptions.ReducerOptions, schema.ReducerOptionsT())
    options = schema.FullyConnectedOptionsT()
    build.operator(kinds.FULLY_CONNECTED, [mean, v, c], [dense], schema.BuiltinOptions.FullyConnectedOptions, options)
    build.operator(last, [dense], [y])
    return build.bytes([x], [y])


def sine_tflite() -> bytes:
    """SIN of int8 (1, 8), which no NPU computes."""
    build = _Tflite()
    x, y = build.tensor("x", (1, 8), scale=0.5), build.tensor("y", (1, 8), scale=1 / 128)
    build.operator(schema.BuiltinOperator.SIN, [x], [y])
    return build.bytes([x], [y])


class _Tflite:
    """Puts a .tflite file together, with LiteRT's schema."""

    def __init__(self) -> None:
        self.model: Any = schema.ModelT()
        self.graph: Any = schema.SubGraphT()
        self.model.version, self.model.subgraphs = 3, [self.graph]
        self.model.operatorCodes, self.model.buffers = [], [schema.BufferT()]
        self.graph.tensors, self.graph.operators = [], []

    def tensor(self, name: str, shape: Any, content: Any = None, scale: float | None = None, zero: int = 0) -> int:
        tensor: Any = schema.TensorT()
        tensor.name, tensor.shape, tensor.buffer = name.encode(), list(shape), 0
        tensor.type = schema.TensorType.INT8
        if content is not None:
            tensor.type = schema.TensorType.INT32 if content.dtype == np.int32 else schema.TensorType.INT8
            buffer: Any = schema.BufferT()
            buffer.data = list(content.tobytes())
            tensor.buffer = len(self.model.buffers)
            self.model.buffers.append(buffer)
        if scale is not None:
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale, tensor.quantization.zeroPoint = [scale], [zero]
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def operator(self, kind: int, inputs: Any, outputs: Any, number: int = 0, options: Any = None) -> None:
        code: Any = schema.OperatorCodeT()
        code.builtinCode, code.deprecatedBuiltinCode, code.version = kind, min(kind, 127), 3 if kind == 3 else 2
        self.model.operatorCodes.append(code)
        operator: Any = schema.OperatorT()
        operator.opcodeIndex = len(self.model.operatorCodes) - 1
        operator.inputs, operator.outputs = inputs, outputs
        operator.builtinOptionsType, operator.builtinOptions = number, options
        self.graph.operators.append(operator)

    def bytes(self, inputs: Any, outputs: Any) -> bytes:
        self.graph.inputs, self.graph.outputs = inputs, outputs
        builder = flatbuffers.Builder(1024)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


LABELS = ('say "hi"', "back\\slash", "what??/", "é12 紙 100%", "a'b*/")


def bundled(path: Path) -> Path:
    """A bundle with `int8_tflite` and `int8_onnx`, written as the host does."""
    ports = {"scale": 0.5, "zero_point": 3}
    manifest: dict[str, Any] = {
        "format": "edgekit-bundle",
        "version": "1.0",
        "name": "Hand-made.v1",
        "task": "classification",
        "labels": "labels.txt",
        "preprocessing": {
            "kind": "image", "color": "rgb", "height": 8, "width": 8, "resize": "stretch",
            "interpolation": "bilinear", "mean": [0.5] * 3, "std": [0.25] * 3,
        },
        "postprocessing": {"activation": "none"},
        "artifacts": [
            {
                "id": "onnx-int8",
                "format": "onnx",
                "file": "models/model-int8.onnx",
                "input": {"shape": [1, 3, 8, 8], "dtype": "uint8", "layout": "NCHW", **ports},
                "output": {"shape": [1, 5], "dtype": "float32", "layout": "NC"},
            },
            {
                "id": "tflite-int8",
                "format": "tflite",
                "file": "models/model-int8.tflite",
                "input": {"shape": [1, 8, 8, 3], "dtype": "int8", "layout": "NHWC", **ports},
                "output": {"shape": [1, 5], "dtype": "int8", "layout": "NC", "scale": 1 / 256, "zero_point": -128},
            },
        ],
        "ship": [{"device": "host", "artifact": "tflite-int8", "engine": "litert", "reason": "fastest that passed"}],
        "provenance": {"seed": 7},
    }  # fmt: skip
    members = {
        "labels.txt": "".join(f"{label}\n" for label in LABELS).encode(),
        "models/model-int8.onnx": int8_onnx().SerializeToString(),
        "models/model-int8.tflite": int8_tflite(),
    }
    bundle.write(path, bundle.Contents(manifest, members))
    return path
