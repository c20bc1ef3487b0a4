"""The parts of an emulated Raspberry Pi, built once in a cache folder by ``edgekit devices setup``.

``host``      QEMU 7.2's aarch64 user-mode emulator and the libraries it needs, from Debian, for this machine
``sysroot``   Python 3.11 and the C++ runtime for aarch64, from Debian
``wheels``    NumPy, ONNX Runtime and LiteRT for aarch64, in the versions installed here
``tflite``    tflite-runtime and NumPy 1, likewise
``counter``   the plugin that counts instructions, compiled here

None of this needs root, containers or binfmt. A part is built under a temporary name, renamed, and hashed; a part
whose files have changed since is rebuilt. The emulator and the sysroot come from one Debian release, so that counts
taken on different machines can be compared.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from edgekit.console import Console
from edgekit.disk.atomic import write_text
from edgekit.errors import Busy, InputError
from edgekit.reach import debian

SUITE = "bookworm"
QEMU = ("qemu-user",)
GUEST = ("python3.11-minimal", "libpython3.11-stdlib", "libstdc++6", "base-files")
WITHOUT = ("debconf", "dpkg", "perl-base", "awk", "mawk", "adduser", "passwd")
"""Packages needed only by maintainer scripts."""
ENGINES = ("numpy", "onnxruntime", "ai-edge-litert")
TFLITE = ("tflite-runtime==2.14.0", "numpy==1.26.4")
PLATFORMS = ("manylinux2014_aarch64", *(f"manylinux_2_{minor}_aarch64" for minor in range(17, 37)))
"""What the sysroot's glibc (2.36) can load."""
_ARCH = {"x86_64": "amd64", "aarch64": "arm64"}
_PLUGIN = Path(__file__).with_name("_counter.c")
RECORD, _LOCK = "record.json", "lock"
_CORES = 4


@dataclass(frozen=True)
class Core:
    """What Linux reports in /proc/cpuinfo about an Arm core; engines choose their kernels by it."""

    part: str
    variant: str
    revision: int
    features: str


CORES = {
    "cortex-a72": Core("0xd08", "0x0", 3, "fp asimd evtstrm crc32 cpuid"),
    "cortex-a76": Core(
        "0xd0b", "0x4", 1,
        "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp",
    ),
}  # fmt: skip
"""The cores of the Raspberry Pi 4 (BCM2711) and 5 (BCM2712), by the emulator's name for them."""


def folder() -> Path:
    """Where all of it is kept: ``$XDG_CACHE_HOME/edgekit/emulated-bookworm``."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home).absolute() / "edgekit" / f"emulated-{SUITE}"


def missing(cpu: str) -> str:
    """Why emulation is not possible yet, in one line; empty if everything is there."""
    if cpu not in CORES:
        return f'"{cpu}" cannot be emulated (choices: {", ".join(CORES)})'
    root, record = folder(), _record(folder())
    needed = ("host", "sysroot", "wheels", "counter")
    parts = [name for name in needed if name not in record or not (root / name).is_dir()]
    if "counter" not in parts and record["counter"].get("source") != _sha256(_PLUGIN.read_bytes()):
        parts.append("this release's counter")
    parts += [] if (root / "cores" / cpu).is_dir() else [cpu]
    return f"not set up ({', '.join(parts)} missing)" if parts else ""


def setup(cpu: str, console: Console, mirror: str = debian.MIRROR) -> dict[str, Any]:
    """Build what is missing, and check the hashes of the rest.

    A second call, or a call after an interrupted one, does only what is left to do.

    Args:
        cpu: a key of `CORES`.
        console: progress.
        mirror: URL of a Debian mirror.

    Returns:
        The record: for each part, its SHA-256 and what it was made of. It is also in ``record.json``.

    Raises:
        InputError: a requirement is missing: a C compiler, pip, the network, or a suitable machine.
        Busy: another process is setting it up.
    """
    if cpu not in CORES:
        raise InputError(missing(cpu))
    arch, compiler = _needs()
    root = folder()
    root.mkdir(parents=True, exist_ok=True)
    with _locked(root):
        debs: Callable[..., Any] = lambda part, arch, names: _debs(root, part, mirror, arch, names, console)  # noqa: E731
        _part(root, "host", console, lambda into: debs(into, arch, QEMU))
        _part(root, "sysroot", console, lambda into: debs(into, "arm64", GUEST))
        _part(root, "wheels", console, lambda into: _wheels(into, _installed()), {"wanted": _installed()})
        _part(
            root, "counter", console, lambda into: _compile(into, compiler), {"source": _sha256(_PLUGIN.read_bytes())}
        )
        try:
            _part(root, "tflite", console, lambda into: _wheels(into, list(TFLITE)), {"wanted": list(TFLITE)})
        except InputError as error:  # its last release is old; the other engines do not need it
            console.say(f"  no tflite-runtime: {error}")
        _core(root, cpu)
        shutil.rmtree(root / "downloads", ignore_errors=True)
        return _record(root)


def _needs() -> tuple[str, str]:
    """Debian's name for this machine's architecture, and the C compiler."""
    arch = _ARCH.get(platform.machine())
    if sys.platform != "linux" or arch is None:
        raise InputError(f"emulation needs Linux on x86-64 or aarch64, not {sys.platform} on {platform.machine()}")
    lacking = []
    compiler = shutil.which(os.environ.get("CC") or "cc")
    if compiler is None:
        lacking.append("a C compiler (Debian: gcc libc6-dev; or set CC)")
    if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True, check=False).returncode:
        lacking.append(f"pip ({sys.executable} -m ensurepip)")
    if lacking:
        raise InputError(f"setting up the emulation needs {' and '.join(lacking)}; also a network and 700 MB of disk")
    assert compiler is not None
    return arch, compiler


@contextlib.contextmanager
def _locked(root: Path) -> Iterator[None]:
    with open(root / _LOCK, "w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Busy(f"{root}: another process is setting it up; wait for it") from None
        yield


def _record(root: Path) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads((root / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record


def _part(
    root: Path, name: str, console: Console, build: Callable[[Path], Any], wanted: dict[str, Any] | None = None
) -> None:
    """Build one part, unless it is there, intact, and made of what is `wanted`."""
    entry = _record(root).get(name, {})
    if entry and all(entry.get(key) == value for key, value in (wanted or {}).items()):
        if _tree_sha256(root / name) == entry["sha256"]:
            console.say(f"{name}: unchanged")
            return
        console.say(f"{name}: its files differ from the record; rebuilding it")
    else:
        console.say(f"{name}: building")
    partial = root / f"{name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    made_of = build(partial)
    record = _record(root)
    record.pop(name, None)
    write_text(root / RECORD, json.dumps(record, indent=1))  # if killed before the rename, the part counts as missing
    shutil.rmtree(root / name, ignore_errors=True)
    partial.rename(root / name)
    record[name] = {"sha256": _tree_sha256(root / name), "made_of": made_of, **(wanted or {})}
    write_text(root / RECORD, json.dumps(record, indent=1))


def _debs(root: Path, into: Path, mirror: str, arch: str, names: tuple[str, ...], console: Console) -> Any:
    packages = debian.closure(debian.index(mirror, SUITE, arch), names, WITHOUT)
    for package in packages:
        debian.unpack(debian.download(mirror, package, root / "downloads", console.say), into)
    return {package.name: [package.version, package.sha256] for package in packages}


def _installed() -> list[str]:
    """The engines as pip requirements, in the versions installed here, so that only the CPU differs."""
    requirements = []
    for name in ENGINES:
        try:
            requirements.append(f"{name}=={metadata.version(name)}")
        except metadata.PackageNotFoundError:
            requirements.append(name)
    return requirements


def _wheels(into: Path, wanted: list[str]) -> Any:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--disable-pip-version-check"]
    command += ["--target", str(into), "--only-binary=:all:", "--implementation=cp", "--python-version=3.11"]
    command += ["--no-warn-conflicts", "--report", "-", *(f"--platform={name}" for name in PLATFORMS), *wanted]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["no reason given"]
        raise InputError(f"pip cannot install {' '.join(wanted)} for aarch64: {lines[-1].removeprefix('ERROR: ')}")
    shutil.rmtree(into / "bin", ignore_errors=True)
    report = json.loads(done.stdout[done.stdout.index("{") :])
    return {
        item["metadata"]["name"]: [
            item["metadata"]["version"],
            item["download_info"].get("archive_info", {}).get("hashes", {}).get("sha256", ""),
        ]
        for item in report["install"]
    }


def _compile(into: Path, compiler: str) -> Any:
    command = [compiler, "-shared", "-fPIC", "-O2", "-fvisibility=hidden", "-o", str(into / "counter.so"), str(_PLUGIN)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(f"{compiler} cannot compile {_PLUGIN}: {(done.stderr.strip().splitlines() or ['?'])[0]}")
    said = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout
    return {"compiler": said.splitlines()[0] if said else compiler}


def _core(root: Path, cpu: str) -> None:
    """Make a root folder for one type of core: the sysroot, and the files that describe the CPU."""
    core, target, partial = CORES[cpu], root / "cores" / cpu, root / "cores" / f"{cpu}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    for name in ("proc", "sys/devices/system/cpu"):
        (partial / name).mkdir(parents=True)
    for name in ("usr", "lib", "etc"):
        (partial / name).symlink_to(Path("../../sysroot") / name)
    facts = {
        "BogoMIPS": "108.00",
        "Features": core.features,
        "CPU implementer": "0x41",
        "CPU architecture": "8",
        "CPU variant": core.variant,
        "CPU part": core.part,
        "CPU revision": str(core.revision),
    }
    lines = "".join(f"{key}\t: {value}\n" for key, value in facts.items())
    cpuinfo = "\n".join(f"processor\t: {place}\n{lines}" for place in range(_CORES))
    (partial / "proc/cpuinfo").write_text(cpuinfo, encoding="utf-8")
    for name in ("possible", "present", "online"):
        (partial / "sys/devices/system/cpu" / name).write_text(f"0-{_CORES - 1}\n", encoding="utf-8")
    if _tree_sha256(partial) == _tree_sha256(target):  # it may be in use
        shutil.rmtree(partial)
        return
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)


def _tree_sha256(path: Path) -> str:
    """Hash over the names, links and contents of all files below a folder; empty if there is no folder."""
    if not path.is_dir():
        return ""
    total = hashlib.sha256()
    for file in sorted(path.rglob("*")):
        if file.is_symlink():
            content = os.readlink(file).encode()
        elif file.is_file():
            content = file.read_bytes()
        else:
            continue
        total.update(f"{file.relative_to(path)}\0{_sha256(content)}\n".encode())
    return total.hexdigest()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
