"""TFLite, through litert-torch: no TensorFlow. Input is channel-last; an int8 file takes and gives int8."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch.fx import GraphModule

from edgekit.errors import Shortfall
from edgekit.export import chatter, float_operators, layer_names, model_file
from edgekit.export.port import Rewrites
from edgekit.graph.tflite_table import Table
from edgekit.lower.port import TfliteRewrite
from edgekit.lower.rewrites import same_padding
from edgekit.types import FLOAT_VARIANTS, INTEGERS, Artifact, Size, shape_of

REWRITES: tuple[TfliteRewrite, ...] = (same_padding,)
LOG = "export.log"
REFUSED: dict[str, str] = {}
"""Precisions that this format does not support, and why."""


def export(
    graph: torch.nn.Module,
    size: Size,
    precision: str,
    folder: Path,
    rewrites: Rewrites = None,
    keep_float: Sequence[str] | None = (),
) -> Artifact:
    """Write ``model-<precision>.tflite``.

    Args:
        graph: "fp32": a float network in eval mode; "int8" and "int16x8": a quantized graph whose weights are
            quantized in the graph; others: the result of `edgekit.export.sources.rounded`.
        size: shape of an image; the file takes NHWC, float32, int8 or int16.
        precision: a word of ``export.precisions``.
        folder: where to write.
        rewrites: names of the rewrites of `REWRITES` to apply where they match; None is all of them. A function is
            given the converted file and returns the names.
        keep_float: modules of an integer net that may compute in float, besides its float weighted layers; None: all.

    Raises:
        Shortfall: the converter refuses the network, or an integer file would compute in float what was not asked to.
    """
    converted = convert(graph, size, precision, folder)
    data, applied = lowered(converted, model_file.chosen(rewrites, converted))
    if precision in FLOAT_VARIANTS:
        data = _store_weights(data, precision, folder / LOG)
    data = layer_names.name_tflite(data, graph)
    table = Table(data)
    floats = table.float_ops()
    if precision in INTEGERS:
        assert isinstance(graph, GraphModule)
        float_operators.check(f"tflite-{precision}", graph, floats, keep_float)
    ports = table.port(table.graph.inputs[0], "NHWC"), table.port(table.graph.outputs[0], "NC")
    return model_file.write(folder, data, "tflite", precision, floats, ports, applied)


def convert(graph: torch.nn.Module, size: Size, precision: str, folder: Path) -> bytes:
    """The file as litert-torch writes it, before any rewrite of ``lower/rewrites``; arguments as for `export`."""
    integer = precision in INTEGERS
    channels, height, width = shape_of(size)
    try:
        with chatter.into(folder / LOG), torch.no_grad(), TemporaryDirectory() as scratch:
            import litert_torch
            from litert_torch.quantize.pt2e_quantizer import PT2EQuantizer, get_symmetric_quantization_config
            from litert_torch.quantize.quant_config import QuantConfig

            from edgekit.export import float_layers, tflite_weights

            # The config only tells the converter to expect Q/DQ pairs; where they are was decided in the graph.
            expects = PT2EQuantizer().set_global(get_symmetric_quantization_config())
            source, kind, count = graph, "", 0
            if isinstance(graph, GraphModule) and integer:
                source, kind, count = float_layers.mark(graph)
            model = litert_torch.convert(
                litert_torch.to_channel_last_io(source, args=[0]),
                (torch.zeros(1, height, width, channels),),
                quant_config=QuantConfig(pt2e_quantizer=expects) if integer else None,
            )
            file = Path(scratch) / "model.tflite"
            model.export(str(file))
            data = float_layers.unmark(file.read_bytes(), kind, count)
            return tflite_weights.widen_biases(data) if precision == "int16x8" else data
    except (OSError, ModuleNotFoundError):
        raise
    except Shortfall as trouble:
        raise Shortfall(f"tflite-{precision}: {trouble}") from trouble
    except Exception as error:  # the converter raises whatever an operator's translation raised
        raise _refused(precision, error) from error


def _store_weights(data: bytes, precision: str, log: Path) -> bytes:
    try:
        with chatter.into(log):
            from edgekit.export import tflite_weights

            return tflite_weights.apply(data, precision)
    except (OSError, ModuleNotFoundError):
        raise
    except Exception as error:
        raise _refused(precision, error) from error


def _refused(precision: str, error: Exception) -> Shortfall:
    reason = model_file.first_line(error)
    return Shortfall(f"tflite-{precision}: the converter refuses this network: {reason}; see {LOG}")


def lowered(data: bytes, rewrites: Sequence[str] | None = None) -> tuple[bytes, tuple[str, ...]]:
    """A converted file with rewrites of ``edgekit/lower/rewrites`` applied, and the names of those that matched.

    Args:
        data: from `convert`.
        rewrites: names of `REWRITES`; None is all of them.
    """
    edited = bytearray(data)
    applied = model_file.rewrite(REWRITES, rewrites, edited)
    return bytes(edited), applied


def float_ops(data: bytes) -> tuple[str, ...]:
    """Operators of a .tflite file that compute in float: each as "TYPE output-tensor"."""
    return Table(data).float_ops()
