"""Whether a model file needs nothing outside itself, asked before an engine opens it."""

from __future__ import annotations


def check(content: bytes, format: str, where: str, operators: bool = True) -> None:  # noqa: A002
    """Refuse a file whose weights or operators lie elsewhere: hashes and signatures would not cover them.

    Weights are skipped by their length, so the time does not grow with them.

    Args:
        content: the file.
        format: onnx, tflite or executorch.
        where: its name in error messages.
        operators: also refuse operators that come neither with the file nor with an engine.

    Raises:
        RuntimeFault: it needs something outside, or it is damaged.
    """
    if format == "onnx":
        from edgekit.runtime import _protobuf

        _protobuf.check(content, where, operators)
    elif format == "executorch":
        from edgekit.runtime import pte

        pte.check(content, where, operators)
    else:
        from edgekit.runtime import _flatbuffer

        _flatbuffer.check(content, where, operators)
