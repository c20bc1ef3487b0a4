"""ExecuTorch's .pte files; no package is needed to read them."""

from __future__ import annotations

import hashlib
from collections import Counter

from edgekit.inspect.file_report import FileReport, Port
from edgekit.runtime import pte

ENGINES: tuple[str, ...] = ("executorch",)
TYPES = {0: "uint8", 1: "int8", 2: "int16", 3: "int32", 4: "int64", 5: "float16", 6: "float32", 7: "float64"}
"""By the number in ExecuTorch's ``scalar_type.fbs``."""
_CONVERTING = {"Convert", "StaticTranspose", "StaticReshape", "StaticConstantPad", "StaticSlice", "Copy"}
"""Operators of XNNPACK that compute nothing."""


def matches(data: bytes) -> bool:
    """Whether these are the bytes of a .pte file."""
    return pte.matches(data)


def inspect(data: bytes, file: str) -> FileReport:
    """Read a file: its operators, inside of XNNPACK's delegate and outside. Multiply-adds and memory are not counted.

    Args:
        data: its bytes.
        file: its name, for the report.

    Raises:
        RuntimeFault: it is damaged, or of another version.
    """
    found = pte.contents(data, file)
    counts = Counter([*found.operators, *(kind for kind, _ in found.kernels)])
    quantized = any(not real for _, real in found.kernels)
    inside = [kind for kind, real in found.kernels if real and kind not in _CONVERTING]
    calls, outside = len(found.delegates), len(found.operators)
    delegates = ", ".join(dict.fromkeys(found.delegates)) or "none"
    other = f"{outside} operator{'s' * (outside != 1)} outside"
    notes = (
        f"{calls} call{'s' * (calls != 1)} of a delegate ({delegates}), {other}",
        "multiply-adds, parameters and memory are not counted in this format",
    )
    return FileReport(
        file=file,
        format="executorch",
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        versions={"format": int(data[6:8])},
        inputs=tuple(Port(f"input {place}", *_about(each)) for place, each in enumerate(found.inputs)),
        outputs=tuple(Port(f"output {place}", *_about(each)) for place, each in enumerate(found.outputs)),
        ops=dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))),
        quantized=quantized,
        float_ops=(*(f"{name} (outside)" for name in found.operators), *inside),
        macs=0,
        not_counted=dict(counts),
        parameters=0,
        bytes_by_type={"all": len(data)},
        peak_bytes=0,
        peak_at="",
        metadata={},
        notes=notes,
    )


def _about(tensor: pte.Tensor) -> tuple[tuple[int, ...], str]:
    return tensor.shape, TYPES.get(tensor.type, f"type {tensor.type}")
