"""What `edgekit inspect` reports: frozen dataclasses, printed as text or JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from edgekit.runtime.terminal import line


@dataclass(frozen=True)
class Port:
    """An input or an output of the file."""

    name: str
    shape: tuple[int, ...]
    """Dimensions that the file leaves open are given as 1."""
    dtype: str
    scale: float | None = None
    """Real value of one step; None for floats, or if the file does not say."""
    zero_point: int | None = None


@dataclass(frozen=True)
class Use:
    """How one installed engine would run the file."""

    engine: str
    version: str | None
    """None: not installed."""
    provider: str | None = None
    """What was requested: an execution provider, or a delegate of TFLite."""
    runs: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Operators of the file by what runs them (execution provider; delegate or builtin) and by type."""
    kernels: Mapping[str, int] = field(default_factory=dict)
    """ONNX Runtime: operators after its optimisations, which are what it really computes."""
    partitions: int | None = None
    """TFLite: number of pieces that the delegate takes; each border costs time."""
    trouble: str | None = None
    """Why there is nothing to report: not installed, or the engine refuses the file."""


@dataclass(frozen=True)
class FileReport:
    """A model file."""

    file: str
    format: str
    bytes: int
    sha256: str
    versions: Mapping[str, int]
    """ONNX: ``ir`` and the opset of each domain; TFLite: ``schema``."""
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    ops: Mapping[str, int]
    """Operators of the file by type."""
    quantized: bool
    """Whether it has integer activations."""
    float_ops: tuple[str, ...]
    """Operators that compute in float, each as "TYPE name"; a clamp counts as part of the operator before it."""
    macs: int
    """Multiply-adds of convolutions, dense layers and matrix products, for one inference."""
    not_counted: Mapping[str, int]
    """Operators whose multiply-adds are missing from `macs`."""
    parameters: int
    """Number of weights and biases as stored; scales, zero points, shapes and indices do not count."""
    bytes_by_type: Mapping[str, int]
    """Bytes of stored tensors by type; "other" is the rest of the file: names, structure, metadata."""
    peak_bytes: int
    """Estimated peak memory of activations: those alive at the same time when operators run in the file's order, with
    nothing computed in place and no scratch memory. Tensors between Q/DQ pairs count as integers."""
    peak_at: str
    """Operator at which the peak occurs."""
    metadata: Mapping[str, str]
    notes: tuple[str, ...] = ()
    engines: tuple[Use, ...] = ()


def as_dict(report: Any) -> dict[str, Any]:
    """JSON-ready form of a report."""
    return asdict(report)


def from_dict(table: Mapping[str, Any]) -> FileReport:
    """The inverse of `as_dict`, after a round trip through JSON."""
    ports = {side: tuple(Port(**{**port, "shape": tuple(port["shape"])}) for port in table[side]) for side in SIDES}
    lists = {key: tuple(table[key]) for key in ("float_ops", "notes")}
    return FileReport(**{**table, **ports, **lists, "engines": tuple(Use(**use) for use in table["engines"])})


SIDES = ("inputs", "outputs")


def text(report: FileReport) -> str:
    """Human-readable report."""
    return "\n".join(map(line, lines(report)))


def lines(report: FileReport) -> list[str]:
    """Lines of the human-readable report."""
    versions = ", ".join(f"{name} {number}" for name, number in report.versions.items())
    rows = [f"{report.file}: {report.format} ({versions}), {size(report.bytes)}", f"SHA-256     {report.sha256}"]
    for side in SIDES:
        ports: Sequence[Port] = getattr(report, side)
        heads = [side, *[""] * len(ports)]
        rows += [f"{head:<12}{_port(port)}" for head, port in zip(heads, ports, strict=False)]
    rows.append(f"operators   {sum(report.ops.values())}: {_counts(report.ops)}")
    if not report.quantized:
        rows.append("float ops   all: the file is not quantized")
    else:
        rows.append(f"float ops   {len(report.float_ops)} in a quantized file")
        rows += [f"            {_short(name)}" for name in report.float_ops]
    if report.peak_bytes:
        rows += _amounts(report)
    rows += [f"metadata    {key}: {_short(value)}" for key, value in report.metadata.items()]
    for use in report.engines:
        rows += _use(use)
    return rows + [f"note        {note}" for note in report.notes]


def _amounts(report: FileReport) -> list[str]:
    left = f" (excluding {_counts(report.not_counted)})" if report.not_counted else ""
    return [
        f"MACs        {_millions(report.macs)}{left}",
        f"parameters  {_millions(report.parameters)}",
        "stored      " + ", ".join(f"{dtype} {size(count)}" for dtype, count in report.bytes_by_type.items()),
        f"activations {size(report.peak_bytes)} peak, estimated (file order, nothing in place)"
        + (f", at {_short(report.peak_at)}" if report.peak_at else ""),
    ]


def size(count: int) -> str:
    """Human-readable size, in B, KiB or MiB."""
    if count < 10 * 1024:
        return f"{count} B"
    return f"{count / 1024:.1f} KiB" if count < 1024 * 1024 else f"{count / 1024 / 1024:.2f} MiB"


def _port(port: Port) -> str:
    grid = "" if port.scale is None else f", scale {port.scale:.8g}, zero point {port.zero_point}"
    return f"{port.name}: {port.dtype} ({', '.join(map(str, port.shape))}){grid}"


def _use(use: Use) -> list[str]:
    head = f"{use.engine} {use.version or ''}".strip()
    if use.trouble is not None:
        return [f"engine      {head}{f', {use.provider}' if use.provider else ''}: {use.trouble}"]
    cut = f" in {use.partitions} partition{'s' * (use.partitions != 1)}" if use.partitions else ""
    rows = [f"engine      {head}, {use.provider}:" if use.provider else f"engine      {head}:"]
    for who, ops in use.runs.items():
        pieces = cut if who != "builtin" else ""
        rows.append(f"              {who} takes {sum(ops.values())}{pieces}: {_counts(ops)}")
    if use.kernels:
        rows.append(f"              after fusion {sum(use.kernels.values())} kernels: {_counts(use.kernels)}")
    return rows


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _millions(count: int) -> str:
    return f"{count / 1e6:.2f} M" if count >= 100_000 else str(count)


def _short(value: str) -> str:
    line = " ".join(value.split())
    return line if len(line) <= 80 else f"{line[:79]}…"
