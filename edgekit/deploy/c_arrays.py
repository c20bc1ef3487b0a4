"""A .tflite model and its labels as C arrays, for microcontroller firmware.

The files are valid C99 and C++11: ``<name>_model.h``, ``<name>_model.c``, and with labels also ``<name>_labels.h``,
``<name>_labels.c``.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.deploy import ethos_u, micro_arena
from edgekit.deploy.ethos_u import Npu, Target
from edgekit.deploy.micro_arena import Micro
from edgekit.disk.atomic import disk_full, remove
from edgekit.errors import InputError, Shortfall
from edgekit.inspect import bundle_file as bundle
from edgekit.inspect import dispatch
from edgekit.inspect.file_report import FileReport, Port
from edgekit.inspect.model_graph import Value
from edgekit.inspect.readers import tflite
from edgekit.runtime.errors import RuntimeFault
from edgekit.types import INTEGERS

if TYPE_CHECKING:
    from edgekit.runtime.bundle import Bundle

MARK = "/* Written by edgekit export-c"
"""Start of every file; a file that starts differently is not overwritten."""
NO_NPU = "not run: tflite-micro has no kernel of the NPU on this machine"
ALIGNMENT = 16
"""Bytes; TensorFlow Lite for Microcontrollers reads the model in place."""


@dataclass(frozen=True)
class Exported:
    """What was written."""

    files: tuple[str, ...]
    artifact: str | None
    """Its id in the bundle; None for a bare file."""
    sha256: str
    """SHA-256 of the model."""
    model_bytes: int
    labels: int
    micro: Micro
    npu: Npu | None = None
    """How it was compiled for an NPU; None: not at all."""


@dataclass(frozen=True)
class _Source:
    name: str
    artifact: str | None
    data: bytes
    labels: tuple[str, ...]


def export(source: Path, out: Path, artifact: str | None = None, force: bool = False) -> Exported:
    """Write the C files.

    Args:
        source: a bundle or a .tflite file.
        out: folder, created if missing.
        artifact: id of a .tflite file in the bundle; None takes the first one in the manifest.
        force: overwrite files that edgekit did not write.

    Raises:
        InputError: a damaged file, no such artifact, or other files in the way.
        DiskFull: no room for the files.
    """
    return _export(_open(source, artifact), source, out, force)


def export_npu(
    sources: Sequence[Path], out: Path, target: Target, artifact: str | None = None, force: bool = False
) -> Exported:
    """Compile the integer .tflite files for an NPU, and write the C files of the best that fits.

    Of several, those that run on the NPU as a whole come first, then the one with the fewest estimated cycles.

    Args:
        sources: bundles or .tflite files.
        out: as for `export`, also `artifact` and `force`.
        target: the hardware.
        artifact: id of a file in the bundles; None takes every integer .tflite file of each.
        force: see above.

    Raises:
        InputError: as `export`, or vela does not know the configuration.
        Shortfall: none can be compiled, or none fits.
        DiskFull: no room for the files.
    """
    candidates = [(path, each) for path in sources for each in _integers(path, artifact)]
    made: list[tuple[str, Path, _Source, Npu]] = []
    failed: list[str] = []
    for path, each in candidates:
        title = f"{path}: {each.artifact}" if each.artifact else str(path)
        try:
            data, npu = ethos_u.compile_for(each.data, title, target, hashlib.sha256(each.data).hexdigest())
            made.append((title, path, replace(each, data=data), npu))
        except Shortfall as trouble:
            failed.append(str(trouble))
    if not made:
        raise Shortfall(failed[0] if len(failed) == 1 else "; ".join(failed))
    fitting = [one for one in made if not ethos_u.excess(one[3], target)]
    if not fitting:
        title, _, _, npu = min(made, key=lambda one: one[3].sram_kb)
        missed = ethos_u.excess(npu, target)
        raise Shortfall(
            f"{title}: needs {npu.sram_kb:.1f} KiB of SRAM on {npu.accelerator}, {missed:.1f} more than --sram-kb "
            f"{target.sram_kb:g} allows (vela {npu.vela}, strategy {npu.strategy}); give a pruned network, or a "
            "smaller data.input"
        )
    best = min(fitting, key=lambda one: one[3].rank)
    title, path, chosen, npu = best
    notes = [f"taken: {title}, of {len(candidates)} files"] if len(candidates) > 1 else []
    notes += [f"not taken: {_against(one, target)}" for one in made if one is not best]
    notes += [f"not taken: {trouble}" for trouble in failed]
    return _export(chosen, path, out, force, replace(npu, notes=tuple(notes)))


def _against(one: tuple[str, Path, _Source, Npu], target: Target) -> str:
    title, _, _, npu = one
    if missed := ethos_u.excess(npu, target):
        return f"{title}: {missed:.1f} KiB more SRAM than --sram-kb {target.sram_kb:g} allows"
    cpu = f", {len(npu.on_cpu)} operators on the CPU" if npu.on_cpu else ""
    return f"{title}: estimated {npu.estimated.cycles} cycles{cpu}"


def _export(chosen: _Source, source: Path, out: Path, force: bool, npu: Npu | None = None) -> Exported:
    stem = identifier(chosen.name)
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / f"{stem}.tflite"
        model.write_bytes(chosen.data)
        report = dispatch.model(model, str(source), engines=False)
        header = model_header(stem, report, npu)
        texts = {f"{stem}_model.h": header, f"{stem}_model.c": model_source(stem, chosen.data)}
        if chosen.labels:
            texts |= {
                f"{stem}_labels.h": labels_header(stem, len(chosen.labels)),
                f"{stem}_labels.c": labels_source(stem, chosen.labels),
            }
        paths = _write(out, texts, force)
        micro = micro_arena.run(model) if npu is None else Micro(None, False, None, (), NO_NPU)
    return Exported(paths, chosen.artifact, report.sha256, len(chosen.data), len(chosen.labels), micro, npu)


def _open(source: Path, artifact: str | None) -> _Source:
    return _sources(source, artifact, lambda opened: [opened.artifact(artifact, ["tflite"])])[0]


def _integers(source: Path, artifact: str | None) -> list[_Source]:
    """Every integer .tflite file of a bundle, or the one that is named; a bare file as it is."""

    def pick(opened: Bundle) -> list[dict[str, Any]]:
        if artifact is not None:
            return [opened.artifact(artifact, ["tflite"])]
        every = opened.manifest["artifacts"]
        found = [each for each in every if each["format"] == "tflite" and each["precision"] in INTEGERS]
        if not found:
            there = ", ".join(f"{each['id']} ({each['format']})" for each in every)
            raise Shortfall(f"{source}: no int8 .tflite file for an NPU in it (there are: {there})")
        return found

    return _sources(source, artifact, pick)


def _sources(source: Path, artifact: str | None, pick: Callable[[Bundle], Sequence[dict[str, Any]]]) -> list[_Source]:
    data = dispatch.content(source)
    if tflite.matches(data):
        if artifact is not None:
            raise InputError(f"{source}: a single model; --artifact is for bundles")
        return [_Source(source.stem, None, data, ())]
    if not bundle.matches(data):
        raise InputError(f"{source}: its content is neither an edgekit bundle nor a .tflite model")
    from edgekit.runtime.bundle import open_bundle

    try:
        opened = open_bundle(str(source), verify="hash")
        name, labels = opened.manifest["name"], opened.labels
        return [_Source(name, entry["id"], opened.model(entry), labels) for entry in pick(opened)]
    except RuntimeFault as fault:
        raise InputError(str(fault)) from fault


def identifier(name: str) -> str:
    """A valid C identifier: lower case letters, digits and underscores, not starting with a digit."""
    word = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") or "model"
    return f"m_{word}" if word[0].isdigit() else word


def model_header(stem: str, report: FileReport, npu: Npu | None = None) -> str:
    """The header of the model: its size, and shape, type, scale and zero point of inputs and outputs."""
    upper = stem.upper()
    sides = [("INPUT", report.inputs), ("OUTPUT", report.outputs)]
    lines = [line for side, ports in sides for line in _ports(f"{upper}_MODEL_{side}", ports)]
    body = [
        f"#define {upper}_MODEL_BYTES {report.bytes}u",
        f"#define {upper}_MODEL_ALIGNMENT {ALIGNMENT}",
        *lines,
        "",
        f"/* A .tflite flatbuffer, aligned to {ALIGNMENT} bytes. SHA-256 {report.sha256} */",
        f"extern const unsigned char {stem}_model[{upper}_MODEL_BYTES];",
        f"extern const size_t {stem}_model_bytes;",
    ]
    return _header(f"{upper}_MODEL_H", [*(_resolver(upper, npu) if npu else ()), *body])


def _resolver(upper: str, npu: Npu) -> list[str]:
    """What the firmware's MicroMutableOpResolver has to hold."""
    cpu = [f"     {kernel}, on the CPU" for kernel in npu.kernels[1:]]
    return [
        f"/* Compiled by vela {npu.vela} for {npu.accelerator} ({npu.system_config}, {npu.memory_mode}).",
        "   It needs these kernels in a tflite::MicroMutableOpResolver:",
        "     ETHOSU (AddEthosU), on the NPU",
        *cpu,
        "*/",
        f"#define {upper}_MODEL_KERNELS {len(npu.kernels)}",
        "",
    ]


def model_source(stem: str, data: bytes) -> str:
    """The array that holds the model."""
    rows = ("0x" + data[at : at + 16].hex(",").replace(",", ",0x") for at in range(0, len(data), 16))
    return "\n".join(
        [
            f"{MARK}: a .tflite model. SHA-256 {hashlib.sha256(data).hexdigest()} */",
            f'#include "{stem}_model.h"',
            "",
            "#if defined(__cplusplus) && __cplusplus >= 201103L",
            f"#define {stem.upper()}_ALIGN alignas({ALIGNMENT})",
            "#elif defined(__STDC_VERSION__) && __STDC_VERSION__ >= 201112L",
            f"#define {stem.upper()}_ALIGN _Alignas({ALIGNMENT})",
            "#elif defined(__GNUC__) || defined(__clang__)",
            f"#define {stem.upper()}_ALIGN __attribute__((aligned({ALIGNMENT})))",
            "#elif defined(_MSC_VER)",
            f"#define {stem.upper()}_ALIGN __declspec(align({ALIGNMENT}))",
            "#else",
            f'#error "define here how this compiler aligns an array to {ALIGNMENT} bytes"',
            "#endif",
            "",
            f"{stem.upper()}_ALIGN const unsigned char {stem}_model[{stem.upper()}_MODEL_BYTES] = {{",
            ",\n".join(rows),
            "};",
            f"const size_t {stem}_model_bytes = sizeof({stem}_model);",
            "",
        ]
    )


def labels_header(stem: str, count: int) -> str:
    """The header of the labels."""
    upper = stem.upper()
    body = [
        f"#define {upper}_LABELS_COUNT {count}",
        "",
        "/* UTF-8, in the order of the outputs */",
        f"extern const char *const {stem}_labels[{upper}_LABELS_COUNT];",
    ]
    return _header(f"{upper}_LABELS_H", body)


def labels_source(stem: str, labels: Sequence[str]) -> str:
    """The array of labels."""
    rows = [f"  {literal(label)}," for label in labels]
    head = [f"{MARK}: labels. */", f'#include "{stem}_labels.h"', ""]
    return "\n".join([*head, f"const char *const {stem}_labels[{stem.upper()}_LABELS_COUNT] = {{", *rows, "};", ""])


def literal(text: str) -> str:
    """A C string literal whose bytes are the text in UTF-8.

    Escapes are octal with three digits, as a hexadecimal escape would swallow the digits after it. Question marks are
    escaped because they may begin a trigraph.
    """
    plain = {ord(" "), *range(ord("0"), ord("9") + 1), *range(ord("A"), ord("Z") + 1), *range(ord("a"), ord("z") + 1)}
    plain |= set(b"!#$%&'()*+,-./:;<=>@[]^_`{|}~")
    return '"' + "".join(chr(byte) if byte in plain else f"\\{byte:03o}" for byte in text.encode()) + '"'


def _header(guard: str, body: Sequence[str]) -> str:
    head = [f"{MARK}. */", f"#ifndef {guard}", f"#define {guard}", "", "#include <stddef.h>", ""]
    opening = ["#ifdef __cplusplus", 'extern "C" {', "#endif", ""]
    closing = ["", "#ifdef __cplusplus", "}", "#endif", "", f"#endif  /* {guard} */", ""]
    return "\n".join([*head, *opening, *body, *closing])


def _ports(prefix: str, ports: Sequence[Port]) -> Iterator[str]:
    """Macros of the ports: NAME_MODEL_INPUT_SHAPE for a single port, NAME_MODEL_INPUT0_SHAPE and so on for several."""
    for index, port in enumerate(ports):
        word = prefix if len(ports) == 1 else f"{prefix}{index}"
        yield f"#define {word}_DTYPE {literal(port.dtype)}"
        yield f"#define {word}_BYTES {Value(port.shape, port.dtype).bytes}"
        yield f"#define {word}_RANK {len(port.shape)}"
        if port.shape:
            yield f"#define {word}_SHAPE {{{', '.join(map(str, port.shape))}}}"
        if port.scale is not None:
            yield f"#define {word}_SCALE {_float(port.scale)}"
            yield f"#define {word}_ZERO_POINT ({port.zero_point})"


def _float(value: float) -> str:
    """A C float literal; nine digits reproduce a float32 exactly."""
    digits = f"{value:.9g}"
    return (digits if set(digits) & set(".e") else f"{digits}.0") + "f"


def _write(out: Path, texts: Mapping[str, str], force: bool) -> tuple[str, ...]:
    """Write all files under temporary names, then rename them: a failure leaves existing files intact."""
    paths = {out / name: text for name, text in texts.items()}
    for path in paths:
        if path.is_dir() or (not force and path.exists() and not _ours(path)):
            raise InputError(
                f"{path}: already exists, and edgekit did not write it; give another --out, or --force for a file"
            )
    beside = {path: path.with_name(f".{path.name}.new") for path in paths}
    try:
        out.mkdir(parents=True, exist_ok=True)
        for path, text in paths.items():
            beside[path].write_text(text, encoding="ascii")
        for path in paths:
            beside[path].replace(path)
    except OSError as error:
        full = disk_full(error, out) if out.is_dir() else None
        raise full or InputError(f"{out}: cannot be written: {error.strerror or error}") from error
    finally:
        for path in beside.values():
            remove(path)
    return tuple(map(str, paths))


def _ours(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(MARK)) == MARK.encode()
    except OSError:
        return False


def text(done: Exported) -> str:
    """Human-readable summary."""
    head = f"{done.artifact}: " if done.artifact else ""
    lines = [f"{head}{done.model_bytes} bytes, {done.labels or 'no'} labels", *done.files]
    micro = done.micro
    if done.npu is not None:
        return "\n".join([*lines, ethos_u.text(done.npu)])
    if micro.arena_bytes is not None:
        lines.append(f"tflite-micro {micro.version}: arena {micro.arena_bytes} bytes (64-bit; 32-bit chips need less)")
    if micro.trouble is not None:
        lines.append(micro.trouble if micro.version is None else f"tflite-micro {micro.version}: {micro.trouble}")
    return "\n".join(lines)
