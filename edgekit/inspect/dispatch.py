"""From a path to a report: the format is recognized by content, and the matching reader is called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from edgekit.errors import InputError
from edgekit.inspect import file_report
from edgekit.inspect._worker import InspectionFault, ask
from edgekit.inspect.file_report import FileReport, Use
from edgekit.inspect.port import Reader
from edgekit.inspect.readers import executorch, onnx, tflite
from edgekit.runtime import engine_menu, model_file
from edgekit.runtime.errors import RuntimeFault

FORMATS: dict[str, Reader] = {"tflite": tflite, "executorch": executorch, "onnx": onnx}


def content(path: Path) -> bytes:
    """The bytes of a file.

    Raises:
        InputError: it does not exist, or is empty.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    if not data:
        raise InputError(f"{path}: is empty; give an .edgekit, .onnx, .tflite or .pte file")
    return data


def model(path: Path, name: str | None = None, engines: bool = True) -> FileReport:
    """Read a bare model file.

    Args:
        path: the file.
        name: what to call it; its path by default.
        engines: also load it with each installed engine of its format.

    Raises:
        InputError: not an ONNX, TFLite or ExecuTorch file, damaged, or with weights in another file.
        MissingPackage: the package that reads it is not installed.
    """
    name = str(path) if name is None else name
    data = content(path)
    kind = next((kind for kind, module in FORMATS.items() if module.matches(data)), None)
    if kind is None:
        raise InputError(f"{name}: its content is neither an edgekit bundle nor an .onnx, .tflite or .pte model")
    try:
        model_file.check(data, kind, name, operators=False)
        report = file_report.from_dict(ask("read", kind=kind, path=str(path), file=name))
    except RuntimeFault as fault:
        raise InputError(str(fault)) from fault
    except InspectionFault as fault:
        raise InputError(f"{name}: damaged, or not a .{kind} file: {fault}") from fault
    report = replace(report, notes=report.notes + _foreign(data, kind))
    return replace(report, engines=tuple(_uses(FORMATS[kind].ENGINES, path))) if engines else report


def _foreign(data: bytes, kind: str) -> tuple[str, ...]:
    """A note on operators that neither the file nor an engine defines: no bundle takes such a file."""
    try:
        model_file.check(data, kind, "no bundle takes it")
    except RuntimeFault as fault:
        return (str(fault),)
    return ()


def _uses(names: Sequence[str], path: Path) -> list[Use]:
    uses = []
    for name in (name for name in names if name in engine_menu.engines()):
        try:
            uses += [Use(**use) for use in ask("run", engine=name, path=str(path.resolve()))]
        except InspectionFault as fault:
            uses.append(Use(name, None, trouble=f"while loading this file, it {fault}"))
    return uses
