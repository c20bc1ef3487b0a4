"""Compile an integer .tflite file for Arm's Ethos-U NPUs with vela, and read what it estimates.

Vela (``ethos-u-vela``, https://gitlab.arm.com/artificial-intelligence/ethos-u/ethos-u-vela) runs as a command in a
process of its own: its options are documented and its summary is a CSV file, while its Python interface is deprecated
and its compiler is C++. Where an operator ended up is read from the compiled file: the NPU's operators have become
custom operators called ``ethos-u``, all others run on the CPU.
"""

from __future__ import annotations

import csv
import importlib.metadata
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekit.errors import InputError, MissingPackage, Shortfall
from edgekit.graph.tflite_table import Table

PACKAGE = "ethos-u-vela"
PIP = "pip install 'edgekit[ethos_u]'"
CUSTOM = "CUSTOM ethos-u"
STRATEGIES = ("Performance", "Size")
"""Vela's, in the order they are tried until one fits."""
SECONDS = 1800
KIB = 1024


@dataclass(frozen=True)
class Target:
    """The hardware to compile for, in vela's words; None is its default."""

    accelerator: str
    """E.g. ``ethos-u55-128``: 128 multiply-adds in a cycle."""
    sram_kb: float | None = None
    """KiB of SRAM that the network may use."""
    system_config: str | None = None
    memory_mode: str | None = None
    config: str | None = None
    """An .ini file that defines the two."""


@dataclass(frozen=True)
class OnCpu:
    """An operator that the NPU does not take."""

    op: str
    """As in TFLite's schema."""
    layer: str
    """The torch layer, or the output tensor in a file that edgekit did not write."""


@dataclass(frozen=True)
class Estimate:
    """What vela's model of the NPU expects; nothing was measured, and the CPU's operators are not in it."""

    cycles: int
    inferences_per_second: float
    clock_mhz: float


@dataclass(frozen=True)
class Npu:
    """A compiled file."""

    vela: str
    """Its version."""
    accelerator: str
    system_config: str
    memory_mode: str
    strategy: str
    """One of `STRATEGIES`."""
    sram_kb: float
    """KiB, as for the other memories."""
    flash_kb: float
    dram_kb: float
    estimated: Estimate
    operators: int
    """Of the file that was compiled."""
    on_npu: int
    """How many of those run on the NPU."""
    on_cpu: tuple[OnCpu, ...]
    kernels: tuple[str, ...]
    """What the firmware's operator resolver has to hold, in TFLite's words."""
    source_sha256: str
    """Of the file that was compiled."""
    notes: tuple[str, ...] = ()
    """Which other files were compiled, and why they were not taken."""

    @property
    def rank(self) -> tuple[bool, int]:
        """Lower is better: whole on the NPU first, as vela estimates no cycles for the CPU; then fewer cycles."""
        return bool(self.on_cpu), self.estimated.cycles


def version() -> str:
    """Of the installed vela.

    Raises:
        MissingPackage: it is not installed.
    """
    try:
        return importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        raise MissingPackage(f"--npu needs {PACKAGE}, which is not installed: {PIP}") from None


def compile_for(data: bytes, name: str, target: Target, sha256: str) -> tuple[bytes, Npu]:
    """Compile a .tflite file; with an SRAM limit, for size if it does not fit otherwise.

    Args:
        data: the file.
        name: what to call it in messages.
        target: the hardware.
        sha256: of the file.

    Returns:
        The compiled .tflite, and what vela says of it; it may be too large for ``target.sram_kb``.

    Raises:
        InputError: vela does not know the configuration.
        Shortfall: vela fails, or nothing of the file can run on the NPU.
    """
    made: tuple[bytes, Npu] | None = None
    for strategy in STRATEGIES:
        one = _compile(data, name, target, sha256, strategy)
        if made is None or one[1].sram_kb < made[1].sram_kb:
            made = one
        if target.sram_kb is None or made[1].sram_kb <= target.sram_kb:
            break
    assert made is not None
    return made


def excess(npu: Npu, target: Target) -> float:
    """KiB of SRAM beyond the limit; 0 if it fits."""
    return max(0.0, npu.sram_kb - target.sram_kb) if target.sram_kb is not None else 0.0


def _compile(data: bytes, name: str, target: Target, sha256: str, strategy: str) -> tuple[bytes, Npu]:
    with tempfile.TemporaryDirectory() as folder:
        model, out = Path(folder) / "model.tflite", Path(folder) / "out"
        model.write_bytes(data)
        words = [str(model), "--accelerator-config", target.accelerator, "--optimise", strategy]
        words += ["--output-dir", str(out), *_options(target)]
        _vela(words, name, target)
        try:
            compiled = (out / "model_vela.tflite").read_bytes()
            row = next(csv.DictReader(next(out.glob("model_summary_*.csv")).read_text().splitlines()))
        except (OSError, StopIteration) as error:
            raise Shortfall(f"{name}: vela {version()} wrote no compiled file and no summary") from error
    before, after = Table(data), Table(compiled)
    kinds = [after.kind(operator) for operator in after.graph.operators]
    cpu = tuple(
        OnCpu(kind, _layer(after, operator, kind))
        for operator, kind in zip(after.graph.operators, kinds, strict=True)
        if kind != CUSTOM
    )
    if CUSTOM not in kinds:
        raise Shortfall(f"{name}: {_why_nothing(before, target)}")
    total = len(before.graph.operators)
    return compiled, Npu(
        vela=version(),
        accelerator=target.accelerator,
        system_config=row["system_config"],
        memory_mode=row["memory_mode"],
        strategy=strategy,
        sram_kb=float(row["sram_memory_used"]),
        flash_kb=float(row["on_chip_flash_memory_used"]) + float(row["off_chip_flash_memory_used"]),
        dram_kb=float(row["dram_memory_used"]),
        estimated=Estimate(
            int(float(row["cycles_total"])), float(row["inferences_per_second"]), float(row["core_clock"]) / 1e6
        ),
        operators=total,
        on_npu=max(total - len(cpu), 0),
        on_cpu=cpu,
        kernels=("ETHOSU", *sorted({each.op for each in cpu})),
        source_sha256=sha256,
    )


def _options(target: Target) -> list[str]:
    words: list[str] = []
    given = {"--system-config": target.system_config, "--memory-mode": target.memory_mode, "--config": target.config}
    for option, value in given.items():
        words += [option, value] if value is not None else []
    if target.sram_kb is not None:
        words += ["--arena-cache-size", str(int(target.sram_kb * KIB))]
    return words


def _vela(words: Sequence[str], name: str, target: Target) -> None:
    release = version()
    command = [sys.executable, "-m", "ethosu.vela", *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=SECONDS)
    except subprocess.TimeoutExpired:
        raise Shortfall(f"{name}: vela {release} did not finish in {SECONDS} s") from None
    if not done.returncode:
        return
    said = [line.strip() for line in f"{done.stdout}\n{done.stderr}".splitlines() if line.strip()]
    last = said[-1] if said else "no message"
    if "--accelerator-config: invalid choice" in last:
        known = ", ".join(dict.fromkeys(re.findall(r"ethos-u\d+-\d+", last.partition("choose from")[2])))
        raise InputError(f"--npu {target.accelerator}: vela {release} does not know it; it knows {known}")
    kind, _, message = last.partition(": ")
    message = message.strip("\"'") if kind.endswith("Error") else last
    if "CliOptionError" in kind or "InputFileError" in kind:
        shown = target.config or "Arm/vela.ini"
        raise InputError(f"vela {release}: {message}; `vela --list-configs {shown}` lists what there is")
    died = f" died of signal {-done.returncode}" if done.returncode < 0 else ""
    raise Shortfall(f"{name}: vela {release}{died or ' failed'}: {message}")


def _layer(table: Table, operator: object, kind: str) -> str:
    name: str = table.graph.tensors[operator.outputs[0]].name.decode(errors="replace")  # type: ignore[attr-defined]
    layer, _, what = name.partition(";")[0].rpartition("/")
    return layer if layer and what.split("_")[0] == kind.split("_")[0] else name.partition(";")[0]


def _why_nothing(table: Table, target: Target) -> str:
    operators = table.graph.operators
    floats = table.float_operators()
    if floats:
        return (
            f"{len(floats)} of its {len(operators)} operators compute in float, and {target.accelerator} takes "
            "integers only; export int8 (a [quantize] section)"
        )
    kinds = ", ".join(sorted({table.kind(operator) for operator in operators})) or "no operators"
    return f"nothing of it can run on {target.accelerator} (it has {kinds}); use export-c without --npu"


def text(npu: Npu) -> str:
    """Human-readable summary."""
    flash = f", {npu.flash_kb:.1f} KiB of flash" if npu.flash_kb else ""
    dram = f", {npu.dram_kb:.1f} KiB of DRAM" if npu.dram_kb else ""
    cpu = [f"  on the CPU: {each.op} of {each.layer}" for each in npu.on_cpu]
    estimated = npu.estimated
    without = ", without what the CPU does" if cpu else ""
    return "\n".join(
        [
            f"vela {npu.vela} for {npu.accelerator}: {npu.system_config}, {npu.memory_mode}, strategy {npu.strategy}",
            f"{npu.on_npu} of {npu.operators} operators on the NPU; {npu.sram_kb:.1f} KiB of SRAM{flash}{dram}",
            f"estimated: {estimated.cycles} cycles, {estimated.inferences_per_second:.4g} inferences per second at "
            f"{estimated.clock_mhz:g} MHz{without}",
            *cpu,
            f"the firmware's resolver needs: {', '.join(npu.kernels)}",
            *npu.notes,
        ]
    )
