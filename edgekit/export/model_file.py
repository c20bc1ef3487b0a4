"""What the exporters have in common: rewrites by name, a file on disk, and its description."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from edgekit.export.port import Rewrites
from edgekit.lower.port import OnnxRewrite, TfliteRewrite
from edgekit.types import INTEGERS, SUFFIXES, Artifact, TensorSpec, artifact_id


def chosen(rewrites: Rewrites, converted: bytes) -> Sequence[str] | None:
    """Names of rewrites; None is all of them."""
    return rewrites(converted) if callable(rewrites) else rewrites


def rewrite(menu: Iterable[OnnxRewrite | TfliteRewrite], names: Sequence[str] | None, model: Any) -> tuple[str, ...]:
    """Apply rewrites to a model in place.

    Args:
        menu: the format's modules of ``edgekit/lower/rewrites``, in order.
        names: those to apply; None is all of them.
        model: in the form that they take.

    Returns:
        The names of those that matched.
    """
    wanted = [module for module in menu if names is None or module.NAME in names]
    return tuple(module.NAME for module in wanted if module.apply(model))


def write(
    folder: Path,
    data: bytes,
    form: Literal["onnx", "tflite", "executorch"],
    precision: str,
    floats: tuple[str, ...],
    ports: tuple[TensorSpec, TensorSpec],
    lowered: tuple[str, ...],
) -> Artifact:
    """Write ``model-<precision>.<suffix of the format>``.

    The arguments are what `Artifact` says of it, `ports` input and output.
    """
    name = f"model-{precision}{SUFFIXES[form]}"
    (folder / name).write_bytes(data)
    return Artifact(
        id=artifact_id(form, precision),
        format=form,
        precision=precision,
        path=name,
        sha256=hashlib.sha256(data).hexdigest(),
        bytes=len(data),
        float_ops=len(floats),
        float_op_names=floats if precision in INTEGERS else (),
        input=ports[0],
        output=ports[1],
        lowered=lowered,
    )


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def root_line(error: BaseException) -> str:
    """First line of the innermost cause that an error names."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)
