"""Facts of the machine this runs on: the fields of `edgekit.measurements.Machine`. Standard library only.

``python -m edgekit.runtime.machine`` prints them as one line of JSON, with ``--probe`` those of `probe`. With
``--hold`` it first takes the machine's lock, so that two measurements do not disturb each other: it prints
{"waiting": path} while another process has it, the facts of `probe` once it is taken, and holds it until its stdin
ends.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from typing import IO, Any

# Instruction sets that the engines have kernels for, as Linux names them in /proc/cpuinfo.
_FEATURES = {
    "x86_64": (
        "sse4_1", "avx", "f16c", "fma", "avx2", "avx_vnni",
        "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16",
        "amx_tile", "amx_int8", "amx_bf16",
    ),
    "aarch64": ("asimd", "fphp", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2", "sme"),
}  # fmt: skip
# Builds of one engine for other hardware: packages of their own.
_VARIANTS = ("gpu", "directml", "migraphx", "nightly", "openvino", "qnn", "rocm", "webgpu")
# The same on macOS: sysctl names.
_DARWIN = {
    "asimddp": "hw.optional.arm.FEAT_DotProd",
    "asimdhp": "hw.optional.arm.FEAT_FP16",
    "i8mm": "hw.optional.arm.FEAT_I8MM",
    "bf16": "hw.optional.arm.FEAT_BF16",
    "sme": "hw.optional.arm.FEAT_SME",
    "avx2": "hw.optional.avx2_0",
    "avx512f": "hw.optional.avx512f",
}
# MIDR part numbers of ARM's own cores (implementer 0x41): their /proc/cpuinfo carries no model name.
_ARM_PARTS = {
    "0xd03": "Cortex-A53", "0xd04": "Cortex-A35", "0xd05": "Cortex-A55", "0xd07": "Cortex-A57", "0xd08": "Cortex-A72",
    "0xd09": "Cortex-A73", "0xd0a": "Cortex-A75", "0xd0b": "Cortex-A76", "0xd0c": "Neoverse-N1", "0xd0d": "Cortex-A77",
    "0xd40": "Neoverse-V1", "0xd41": "Cortex-A78", "0xd44": "Cortex-X1", "0xd46": "Cortex-A510", "0xd47": "Cortex-A710",
    "0xd49": "Neoverse-N2", "0xd4f": "Neoverse-V2",
}  # fmt: skip


def facts() -> dict[str, Any]:
    """What `edgekit.measurements.Machine` holds, ready for JSON. What cannot be read is empty, 0 or None."""
    arch = {"AMD64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())
    info = _cpuinfo()
    return {
        "hostname": platform.node(),
        "arch": arch,
        "cpu": _cpu(info),
        "cores": cores(),
        "memory_bytes": _memory(),
        "features": _features(arch, info),
        "os": _os(),
        "python": platform.python_version(),
        "governor": _text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") or None,
    }


def probe() -> dict[str, Any]:
    """`facts`, and what is needed to write a device file.

    Returns:
        Besides the facts: ``board``, ``thermal_zones`` (degrees Celsius by "number type", e.g. ``0 cpu-thermal``),
        ``engines`` (version by name; None if it is not installed), ``packages`` (their names for pip), ``numpy``
        (version or None), ``managed`` (whether pip may not install into this Python, PEP 668), ``executable`` (the
        Python that runs this) and ``disk_free_bytes`` (of the home folder).
    """
    from edgekit.runtime import engine_menu

    packages = {name: engine_menu.engine(name).PACKAGE for name in engine_menu.engines()}
    installed = _installed()
    home = os.path.expanduser("~")
    return {
        **facts(),
        "board": _text("/proc/device-tree/model").strip("\0") or _text("/sys/class/dmi/id/product_name"),
        "thermal_zones": _thermal_zones(),
        "engines": {name: installed.get(package) for name, package in packages.items()},
        "packages": packages,
        "numpy": installed.get("numpy"),
        "managed": _managed(),
        "executable": sys.executable,
        "disk_free_bytes": _free(home if os.path.isdir(home) else "/"),
    }


def hold() -> IO[str] | None:
    """Take the machine's lock: ``edgekit.lock`` in the folder for temporary files, or the file EDGEKIT_LOCK names.

    Prints a line while it waits. Returns the open file, which is the lock; None if the system has no file locks.
    """
    try:
        import fcntl
    except ImportError:
        return None
    import tempfile

    path = os.environ.get("EDGEKIT_LOCK") or os.path.join(tempfile.gettempdir(), "edgekit.lock")
    try:
        file = open(path, encoding="utf-8")  # noqa: SIM115  (perhaps another user's: read access is enough)
    except FileNotFoundError:
        file = open(path, "a+", encoding="utf-8")  # noqa: SIM115
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(json.dumps({"waiting": path}), flush=True)
        fcntl.flock(file, fcntl.LOCK_EX)
    return file


def cores() -> int:
    """Cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def peak_rss_bytes() -> int:
    """Peak resident set of this process since it was started; 0 if it cannot be read.

    Linux: VmHWM, which starts afresh at exec, while getrusage's value is inherited from the parent.
    """
    for line in _text("/proc/self/status").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in bytes on macOS


def available_bytes() -> int | None:
    """Memory that can be taken without swapping; None if the system does not say."""
    for line in _text("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _cpu(info: dict[str, str]) -> str:
    """E.g. ``AMD EPYC 9B14``, ``Cortex-A76 (Raspberry Pi 5 Model B Rev 1.0)``."""
    if "model name" in info:
        return info["model name"]
    core = info.get("CPU part", "")
    if info.get("CPU implementer") == "0x41":
        core = _ARM_PARTS.get(core, core)
    board = _text("/proc/device-tree/model").strip("\0")
    if core or board:
        return f"{core} ({board})" if core and board else core or board
    return _sysctl("machdep.cpu.brand_string") or platform.processor()


def _features(arch: str, info: dict[str, str]) -> list[str]:
    wanted = _FEATURES.get(arch, ())
    if info:
        flags = set(info.get("flags", info.get("Features", "")).split())
        return [name for name in wanted if name in flags]
    return [name for name in wanted if name in _DARWIN and _sysctl(_DARWIN[name]) == "1"]


def _cpuinfo() -> dict[str, str]:
    """The first value of each key in /proc/cpuinfo."""
    info: dict[str, str] = {}
    for line in _text("/proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        info.setdefault(key.strip(), value.strip())
    return info


def _memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 0


def _os() -> str:
    for line in _text("/etc/os-release").splitlines():
        if line.startswith("PRETTY_NAME="):
            name = line.partition("=")[2].strip("\"'")
            return f"{name}, {platform.system()} {platform.release()}"
    return platform.platform()


def _thermal_zones() -> dict[str, float]:
    zones = {}
    folder = "/sys/class/thermal"
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
        value = _text(f"{folder}/{name}/temp")
        if name.startswith("thermal_zone") and value.lstrip("-").isdigit():
            kind = _text(f"{folder}/{name}/type")
            zones[f"{name[len('thermal_zone') :]} {kind}".strip()] = int(value) / 1000
    return zones


def _installed() -> dict[str, str]:
    """Version by package, variants under the plain name (onnxruntime for onnxruntime-gpu); nothing is imported."""
    from importlib import metadata

    versions: dict[str, str] = {}
    for each in metadata.distributions():
        name = (each.metadata["Name"] or "").lower().replace("_", "-")
        plain, _, variant = name.rpartition("-")
        if variant in _VARIANTS:
            versions.setdefault(plain, each.version)
        versions[name] = each.version
    return versions


def _managed() -> bool:
    import sysconfig

    mark = os.path.join(sysconfig.get_path("stdlib"), "EXTERNALLY-MANAGED")
    return sys.prefix == sys.base_prefix and os.path.exists(mark)


def _free(folder: str) -> int:
    import shutil

    return shutil.disk_usage(folder).free


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""


def _sysctl(name: str) -> str:
    if platform.system() != "Darwin":
        return ""
    import subprocess

    try:
        answer = subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return answer.stdout.strip()


def _main(flags: list[str]) -> None:
    lock = hold() if "--hold" in flags else None
    print(json.dumps(probe() if flags else facts()), flush=True)
    if lock is not None:
        sys.stdin.read()


if __name__ == "__main__":
    _main(sys.argv[1:])
