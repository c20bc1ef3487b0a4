"""A phone without Python: files in ``/data/local/tmp/edgekit`` named by their hash, and facts about the phone."""

from __future__ import annotations

import hashlib
import re
import shlex
import struct
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

from edgekit.errors import InputError, Shortfall
from edgekit.reach import adb_shell
from edgekit.reach.adb_shell import Hung, Lost
from edgekit.reach.program import THERE, printable
from edgekit.reach.remote import SUFFIX, Refused
from edgekit.runtime import machine

FOLDER = "/data/local/tmp/edgekit"
"""Where Android lets ``adb shell`` write and execute."""
KEPT = 64
"""Number of files to keep; the least recently used are removed first."""
TRANSFER = 600.0
"""Seconds for one file."""
_ELF = {3: ("x86", "x86"), 40: ("32-bit ARM", "armeabi-v7a"), 62: ("x86-64", "x86_64"), 183: ("AArch64", "arm64-v8a")}
"""Processors by e_machine: a name, and Android's word. Source: ELF specification, Android NDK ABIs."""
_ABIS = {"aarch64": "arm64-v8a", "x86_64": "x86_64", "armv7l": "armeabi-v7a", "armv8l": "armeabi-v7a", "i686": "x86"}
_FACTS = """
for p in ro.product.manufacturer ro.product.model ro.soc.model ro.board.platform ro.build.version.release \
ro.product.cpu.abilist; do echo "$p=$(getprop $p 2>/dev/null)"; done
echo "arch=$(uname -m)"; echo "kernel=$(uname -sr)"; echo "node=$(uname -n)"; echo "cores=$(nproc)"
echo "governor=$(cat /sys/devices/system/cpu/cpu0/cpufreq/scaling_governor 2>/dev/null)"
echo "free=$(df -k FOLDER 2>/dev/null | tail -n 1)"
cat /proc/meminfo /proc/cpuinfo 2>/dev/null
""".replace("FOLDER", "/data/local/tmp")


def send(file: Path, serial: str | None, mode: str = "644") -> str:
    """Send a file to the phone unless it is already there. An interrupted transfer starts over.

    Returns:
        Its path on the phone.

    Raises:
        Refused: the phone has no room for it, or does not let it be written.
        Shortfall: the phone cannot be reached.
    """
    with file.open("rb") as data:
        digest, size = hashlib.file_digest(data, "sha256").hexdigest(), data.tell()
    suffix = file.suffix if SUFFIX.fullmatch(file.suffix) else ""
    final = f"{FOLDER}/{digest}{suffix}"
    part, what = f"{final}.part", f"{file.name} ({size / 1e6:.1f} MB) cannot be sent"
    try:
        status, said = adb_shell.script(serial, f"mkdir -p {FOLDER} && touch -c {final} && wc -c < {final}")
        if status == 0 and said.split() == [str(size)]:
            return final
        command = [*adb_shell.adb(serial), "push", str(file.resolve()), part]
        pushed = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=TRANSFER, check=False, errors="replace"
        )
        if pushed.returncode:
            told = f"{pushed.stdout}\n{pushed.stderr}"
            why = next((line for line in told.splitlines() if "failed to" in line or "couldn't" in line), "")
            adb_shell.script(serial, f"rm -f {part}")  # raises Lost if that is the trouble
            raise Refused(f"{what}: {printable(why.rpartition(': ')[2]) or adb_shell.trouble(told)}")
        status, said = adb_shell.script(
            serial,
            f"sha256sum {part} && chmod {mode} {part} && mv {part} {final} && cd {FOLDER} && "
            f'ls -t | tail -n +{KEPT + 1} | while read -r f; do rm -f "$f"; done',
            TRANSFER,
        )
    except Lost as lost:
        raise Shortfall(str(lost)) from None
    except (Hung, subprocess.TimeoutExpired):
        raise Shortfall(f"{what}: the transfer stalled") from None
    if status or said.split()[:1] != [digest]:
        with suppress(Lost, Hung):
            adb_shell.script(serial, f"rm -f {part} {final}")
        raise Refused(f"{what}: {printable(' '.join(said.split())) or 'its SHA-256 cannot be read on the phone'}")
    return final


def clean(serial: str | None) -> None:
    """Remove every file that was sent to the phone.

    Raises:
        Shortfall: the phone cannot be reached.
    """
    try:
        adb_shell.script(serial, f"rm -rf {FOLDER}")
    except (Lost, Hung) as lost:
        raise Shortfall(str(lost)) from None


def program(given: str, serial: str | None, where: str) -> tuple[str, str]:
    """Make sure that `reach.benchmark` is on the phone.

    Args:
        given: a path on this machine, or `THERE` and a path on the phone.
        serial: serial number of the phone.
        where: where to get it, for messages.

    Returns:
        Its path there, and the start of its SHA-256 as its version, since it prints none.

    Raises:
        InputError: there is no such file here, or it is not a program.
        Shortfall: it is built for another processor, the phone cannot be reached, or it has no room.
    """
    if given.startswith(THERE):
        path = given.removeprefix(THERE)
        try:
            status, said = adb_shell.script(serial, f"sha256sum {shlex.quote(path)}")
        except (Lost, Hung) as lost:
            raise Shortfall(str(lost)) from None
        if status or not re.match(r"[0-9a-f]{64}\b", said):
            last = printable(" ".join(said.split()))
            raise Shortfall(f"there is no {path} on the phone that can be read ({last}). {where}")
        return path, f"sha256 {said[:12]}"
    file = Path(given)
    try:
        head = file.read_bytes()
    except OSError as error:
        raise InputError(f"reach.benchmark: {file}: cannot be read: {error.strerror}. {where}") from None
    if not head.startswith((b"\x7fELF", b"#!")):
        raise InputError(f"reach.benchmark: {file}: is not a program for Android (not an ELF file). {where}")
    if head.startswith(b"\x7fELF") and len(head) > 20:
        _suits(struct.unpack_from("<H", head, 18)[0], file, serial, where)
    return send(file, serial, "755"), f"sha256 {hashlib.sha256(head).hexdigest()[:12]}"


def _suits(machine_number: int, file: Path, serial: str | None, where: str) -> None:
    name, abi = _ELF.get(machine_number, (f"processor {machine_number}", ""))
    try:
        _, said = adb_shell.script(serial, "getprop ro.product.cpu.abilist 2>/dev/null; uname -m")
    except (Lost, Hung) as lost:
        raise Shortfall(str(lost)) from None
    *listed, arch = said.split() or [""]
    known = listed[0].split(",") if listed else [_ABIS.get(arch, abi)]
    if abi not in known:
        raise Shortfall(f"{file} is built for {name}, but the phone runs {', '.join(known)}. {where}")


def facts(serial: str | None, program: str) -> dict[str, Any]:
    """What `edgekit.runtime.machine.probe` reports of a device with Python, as far as Android's shell can tell.

    Args:
        serial: serial number of the phone.
        program: name of the one that measures there.

    Raises:
        Lost, Hung: the phone cannot be reached.
    """
    _, said = adb_shell.script(serial, _FACTS)
    values: dict[str, str] = {}
    parts, told = [], said.splitlines()
    for line in told:
        key, mark, value = line.partition("=") if re.match(r"[\w.]+=", line) else line.partition(":")
        values.setdefault(key.strip(), value.strip() if mark else "")
        if mark and key.strip() == "CPU part" and value.strip() not in parts:
            parts.append(value.strip())
    arch = values.get("arch", "")
    flags = values.get("Features", values.get("flags", "")).split()
    cores = " + ".join(machine._ARM_PARTS.get(part, part) for part in parts)
    chip = values.get("ro.soc.model") or values.get("ro.board.platform") or values.get("Hardware", "")
    cpu = f"{chip} ({cores})" if chip and cores else chip or cores or values.get("model name", "")
    android = values.get("ro.build.version.release")
    board = " ".join(filter(None, (values.get("ro.product.manufacturer"), values.get("ro.product.model"))))
    free = values.get("free", "").split()
    return {
        "hostname": values.get("ro.product.model") or values.get("node", ""),
        "arch": arch,
        "cpu": cpu,
        "cores": _whole(values.get("cores", "")) or sum(line.startswith("processor") for line in told) or 1,
        "memory_bytes": 1024 * _whole(values.get("MemTotal", "")),
        "features": [name for name in machine._FEATURES.get(arch, ()) if name in flags],
        "os": f"Android {android}" if android else values.get("kernel", ""),
        "python": "not used",
        "governor": values.get("governor") or None,
        "board": board,
        "thermal_zones": {},
        "engines": {},
        "packages": {},
        "numpy": "not needed",
        "managed": False,
        "executable": f"{program} needs none",
        "disk_free_bytes": 1024 * _whole(free[3]) if len(free) > 3 else 0,
    }


def load_average(serial: str | None) -> float | None:
    """Load average of the last minute; None if unknown."""
    _, said = adb_shell.script(serial, "cat /proc/loadavg")
    match = re.match(r"\d+\.\d+", said)
    return float(match[0]) if match else None


def _whole(text: str) -> int:
    match = re.match(r"\d+", text)
    return int(match[0]) if match else 0
