"""Try a model in TensorFlow Lite for Microcontrollers on this machine: arena size, and operators without a kernel.

Uses the pip package ``tflite-micro``, which only has development releases. Its interpreter aborts the process when a
kernel's assertion fails, so it runs in a process of its own: ``python -m edgekit.deploy.micro_arena MODEL``.
"""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PIP = "pip install --pre tflite-micro"
ROOM = 256 * 2**20
"""Bytes of the arena used for measuring; more than any microcontroller has."""
SECONDS = 300


@dataclass(frozen=True)
class Micro:
    """What tflite-micro reports about a model."""

    version: str | None
    """None: not installed."""
    ran: bool
    """Whether an inference on zeros ran in an arena of exactly `arena_bytes`."""
    arena_bytes: int | None
    """Arena that was used here, with 8-byte pointers; a 32-bit microcontroller needs somewhat less."""
    unsupported: tuple[str, ...]
    """Operators without a kernel."""
    trouble: str | None
    """Why it did not run."""


def run(model: Path) -> Micro:
    """Run a .tflite file through tflite-micro, if that is installed."""
    if importlib.util.find_spec("tflite_micro") is None:
        return Micro(None, False, None, (), f"tflite-micro is not installed: {PIP}")
    first = _attempt(model, ROOM)
    unsupported = tuple(first.get("unsupported", ()))
    arena = first.get("arena")
    if arena is None:
        reason = f"no kernel for {', '.join(unsupported)}" if unsupported else first["trouble"]
        return Micro(first.get("version"), False, None, unsupported, reason)
    again = _attempt(model, arena)
    return Micro(first["version"], "arena" in again, arena, (), again.get("trouble"))


def _attempt(model: Path, arena: int) -> dict[str, Any]:
    """Start the process; it is repeated for each operator without a kernel, as each run names only one."""
    unsupported: list[str] = []
    while True:
        words = [sys.executable, "-m", "edgekit.deploy.micro_arena", str(model), str(arena), *unsupported]
        try:
            done = subprocess.run(words, capture_output=True, text=True, errors="replace", timeout=SECONDS)
        except subprocess.TimeoutExpired:
            return {"trouble": f"not finished after {SECONDS} s"}
        said = done.stderr.strip().splitlines()
        lost = [each for line in said for each in re.findall(r"Didn't find op for builtin opcode '(\w+)'", line)]
        lost += [
            f"CUSTOM {each}" for line in said for each in re.findall(r"registration from op code CUSTOM\W*(\w*)", line)
        ]
        if lost and lost[0] not in unsupported:
            unsupported.append(lost[0])
            continue
        try:
            answer: dict[str, Any] = json.loads(done.stdout)
        except ValueError:
            return {"trouble": f"exit code {done.returncode}: {(said or ['no message'])[-1]}"}
        if unsupported:
            return {"version": answer["version"], "unsupported": unsupported}
        used = re.findall(r"Arena allocation total (\d+) bytes", done.stderr)
        if answer.pop("ran") and used:
            return {**answer, "arena": int(used[0])}
        reasons = [line for line in said if "RecordingMicroAllocator" not in line and line.strip()]
        return {**answer, "trouble": "; ".join(reasons[:2]) or "no reason given"}


def main() -> None:
    """Load a model, run it on zeros, and print the memory used (to stderr, in tflite-micro's own words)."""
    import importlib.metadata

    import numpy as np
    from tflite_micro.python.tflite_micro import runtime

    model, arena, *without = sys.argv[1:]
    data = Path(model).read_bytes()
    ran = True
    try:
        interpreter = runtime.Interpreter.from_bytes(_blank(data, without), arena_size=int(arena))
        for index in range(int(_schema().Model.GetRootAsModel(data, 0).Subgraphs(0).InputsLength())):
            details = interpreter.get_input_details(index)
            interpreter.set_input(np.zeros(details["shape"], details["dtype"]), index)
        interpreter.invoke()
        interpreter.print_allocations()
    except (RuntimeError, ValueError) as error:
        print(error, file=sys.stderr)
        ran = False
    print(json.dumps({"version": importlib.metadata.version("tflite-micro"), "ran": ran}))


def _blank(data: bytes, without: list[str]) -> bytes:
    """The model with operators of these types turned into RESHAPE, so that the next unsupported one is named."""
    if not without:
        return data
    import flatbuffers

    schema = _schema()
    model = schema.ModelT.InitFromPackedBuf(data, 0)
    numbers = {name: value for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    gone = {numbers["CUSTOM" if name.startswith("CUSTOM") else name] for name in without}
    for code in model.operatorCodes:
        if max(code.builtinCode, code.deprecatedBuiltinCode) in gone:
            code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.RESHAPE
            code.customCode = None
    builder = flatbuffers.Builder(len(data))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _schema() -> Any:
    from tflite_micro.tensorflow.lite.micro.python import schema_py_generated as schema

    return schema


if __name__ == "__main__":
    main()
