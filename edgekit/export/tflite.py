"""TFLite, through litert-torch: no TensorFlow. Input is channel-last; an int8 file takes and gives int8."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch.fx import GraphModule

from edgekit.errors import Shortfall
from edgekit.export import _chatter
from edgekit.lower import same_padding
from edgekit.quantize._kernels import float_layers
from edgekit.types import Artifact, TensorSpec

REWRITES = (same_padding,)
WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "BATCH_MATMUL")
MOVING = {"RESHAPE", "TRANSPOSE", "PAD", "PADV2", "CONCATENATION", "SQUEEZE", "EXPAND_DIMS", "SLICE", "STRIDED_SLICE"}
BORDER = {"QUANTIZE", "DEQUANTIZE"}


def export(graph: torch.nn.Module, size: int, precision: str, folder: Path) -> Artifact:
    """Write ``model-<precision>.tflite``.

    Args:
        graph: a float network in eval mode, or a quantized graph whose weights are quantized in the graph.
        size: side of the square input; the file takes (1, size, size, 3), NHWC, float32 or int8.
        precision: "fp32" or "int8".
        folder: where to write.

    Raises:
        Shortfall: the converter refuses the network, or quantizes a layer that is to stay float.
    """
    name = f"model-{precision}.tflite"
    log = folder / "export.log"
    try:
        with _chatter.into(log), torch.no_grad():
            import litert_torch
            from litert_torch.quantize.pt2e_quantizer import PT2EQuantizer, get_symmetric_quantization_config
            from litert_torch.quantize.quant_config import QuantConfig

            # The config only tells the converter to expect Q/DQ pairs; where they are was decided in the graph.
            expects = PT2EQuantizer().set_global(get_symmetric_quantization_config())
            model = litert_torch.convert(
                litert_torch.to_channel_last_io(graph, args=[0]),
                (torch.zeros(1, size, size, 3),),
                quant_config=QuantConfig(pt2e_quantizer=expects) if precision == "int8" else None,
            )
            model.export(str(folder / name))
    except (OSError, ModuleNotFoundError):
        raise
    except Exception as error:  # the converter raises whatever an operator's translation raised
        (folder / name).unlink(missing_ok=True)
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise Shortfall(f"tflite-{precision}: the converter refuses this network: {reason}; see {log.name}") from error
    edited = bytearray((folder / name).read_bytes())
    lowered = [rewrite.NAME for rewrite in REWRITES if rewrite.apply(edited)]
    data = bytes(edited)
    (folder / name).write_bytes(data)
    table = _Table(data)
    floats = table.float_ops()
    kept = float_layers(graph) if isinstance(graph, GraphModule) else []
    if len(kept) > sum(name.split()[0] in WEIGHTED for name in floats):
        (folder / name).unlink()
        raise Shortfall(
            f"tflite-{precision}: the converter quantizes layers that are to stay float ({', '.join(kept)}), "
            "because their neighbours are integer; keep a neighbour float too, or leave tflite out of export.formats"
        )
    return Artifact(
        id=f"tflite-{precision}",
        format="tflite",
        precision=precision,
        path=name,
        sha256=hashlib.sha256(data).hexdigest(),
        bytes=len(data),
        float_ops=len(floats),
        float_op_names=floats if precision == "int8" else (),
        input=table.port(table.graph.inputs[0], "NHWC"),
        output=table.port(table.graph.outputs[0], "NC"),
        lowered=tuple(lowered),
    )


def float_ops(data: bytes) -> tuple[str, ...]:
    """Operators of a .tflite file that compute in float: "TYPE output-tensor" each."""
    return _Table(data).float_ops()


class _Table:
    """A .tflite flatbuffer, read through LiteRT's generated schema."""

    def __init__(self, data: bytes) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self.schema: Any = schema
        self.model: Any = schema.ModelT.InitFromPackedBuf(data, 0)
        self.graph: Any = self.model.subgraphs[0]
        self.operators = _names(schema.BuiltinOperator)
        self.types = _names(schema.TensorType)

    def float_ops(self) -> tuple[str, ...]:
        found = []
        for operator in self.graph.operators:
            code = self.model.operatorCodes[operator.opcodeIndex]
            kind = self.operators[max(code.builtinCode, code.deprecatedBuiltinCode)]
            output = self.graph.tensors[operator.outputs[0]]
            if self.types[output.type] in ("FLOAT32", "FLOAT16") and kind not in MOVING | BORDER:
                found.append(f"{kind} {output.name.decode()}")
        return tuple(found)

    def port(self, index: int, layout: Any) -> TensorSpec:
        tensor = self.graph.tensors[index]
        grid = tensor.quantization
        quantized = grid is not None and grid.scale is not None
        return TensorSpec(
            name=tensor.name.decode(),
            shape=tuple(int(extent) for extent in tensor.shape),
            dtype=self.types[tensor.type].lower(),
            layout=layout,
            scale=float(grid.scale[0]) if quantized else None,
            zero_point=int(grid.zeroPoint[0]) if quantized else None,
        )


def _names(constants: Any) -> dict[int, str]:
    return {value: name for name, value in vars(constants).items() if isinstance(value, int)}
