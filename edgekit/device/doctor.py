"""What is installed here, what this machine can do, and what each missing package is needed for."""

from __future__ import annotations

import importlib.util
import platform
import re
import shutil
import sys
from importlib import metadata
from typing import Any

from edgekit import __version__
from edgekit.runtime import engine_menu, machine
from edgekit.runtime.errors import RuntimeFault

# What each extra of pyproject.toml is for.
_PURPOSE = {
    "compress": "training, quantizing, exporting and verifying models",
    "onnx": "running ONNX files",
    "litert": "running TFLite files",
    "tflite": "running TFLite files where LiteRT does not install (Python 3.11, in its own environment)",
    "executorch": "writing and running ExecuTorch files",
    "openvino": "running ONNX files with OpenVINO, on x86 often the fastest",
    "ethos_u": "compiling for Ethos-U NPUs (export-c --npu)",
    "explain": "Grad-CAM in what a run's networks look at (edgekit explain)",
    "tune": "searching for the best values of a recipe's keys (edgekit tune)",
    "cluster": "a sweep on the nodes of a Ray cluster (edgekit sweep --ray)",
    "tune_postgres": "such a search by workers on many machines, with PostgreSQL",
}
_OPTIONAL = {
    "openvino",
    "executorch",
    "ethos_u",
    "explain",
    "tune",
    "tune_postgres",
    "cluster",
}  # nothing lacks without
_STAND_IN = {"litert": "tflite"}  # either runs TFLite files; only the first is recommended
_SECTION = re.compile(r"""extra\s*==\s*["']([\w-]+)["']""")
_REQUIREMENT = re.compile(r"([\w.-]+)\s*(?:\[[^]]*\])?\s*([^;]*)")


def report() -> dict[str, Any]:
    """Everything that `render` shows, ready for JSON.

    Returns:
        ``edgekit`` and ``python`` (versions), ``executable``, ``machine`` (fields of `edgekit.measurements.Machine`),
        ``disk_free_bytes`` (of the working directory), ``extras``: name -> {purpose, complete, packages: [{name,
        wanted, installed, fits}]}, ``engines``: [{name, format, package, installed, version, providers, problem}],
        ``missing``: [{what, install}].
    """
    extras = _extras()
    engines = [_engine(name) for name in engine_menu.engines()]
    return {
        "edgekit": __version__,
        "python": platform.python_version(),
        "executable": sys.executable,
        "machine": machine.facts(),
        "disk_free_bytes": shutil.disk_usage(".").free,
        "extras": extras,
        "engines": engines,
        "missing": [*_missing(extras), *_broken(engines)],
    }


def render(diagnosis: dict[str, Any]) -> str:
    """The report as text for a terminal."""
    host = diagnosis["machine"]
    lines = [
        f"edgekit {diagnosis['edgekit']}, Python {diagnosis['python']} ({diagnosis['executable']})",
        "",
        "Machine",
        f"  {host['cpu']}, {host['cores']} cores, {host['arch']}, {host['memory_bytes'] / 1e9:.1f} GB memory, "
        f"{diagnosis['disk_free_bytes'] / 1e9:.1f} GB free on disk",
        f"  {host['os']}" + (f", governor {host['governor']}" if host["governor"] else ""),
        f"  SIMD: {' '.join(host['features']) or 'unknown'}",
        "",
        "Engines",
    ]
    for engine in diagnosis["engines"]:
        state = f"{engine['version']}: {', '.join(engine['providers'])}" if engine["version"] else engine["problem"]
        if not engine["installed"]:
            state = f"not installed: pip install {engine['package']}"
        lines.append(f"  {engine['name']:<15} {engine['format']:<7} {state}")
    for name, extra in diagnosis["extras"].items():
        lines += ["", f"edgekit[{name}]: {extra['purpose']}"]
        for package in extra["packages"]:
            note = "" if package["fits"] or not package["installed"] else "  outside the range"
            lines.append(
                f"  {package['name']:<20} {package['installed'] or 'not installed':<14} {package['wanted']}{note}"
            )
    lines += ["", "Missing, or outside the range" if diagnosis["missing"] else "Nothing is missing."]
    lines += [f"  for {gap['what']}: {gap['install']}" for gap in diagnosis["missing"]]
    return "\n".join(lines)


def _extras() -> dict[str, dict[str, Any]]:
    """What the installed edgekit requires, by extra; empty if edgekit is not installed."""
    extras: dict[str, dict[str, Any]] = {
        name: {"purpose": purpose, "complete": False, "packages": []} for name, purpose in _PURPOSE.items()
    }
    try:
        requirements = metadata.requires("edgekit") or []
    except metadata.PackageNotFoundError:
        return {}
    for requirement in requirements:
        section, parts = _SECTION.search(requirement), _REQUIREMENT.match(requirement)
        name = section[1].replace("-", "_") if section else ""  # metadata says ethos-u
        if parts and name in extras:
            extras[name]["packages"].append(_package(parts[1], parts[2].strip()))
    for extra in extras.values():
        extra["complete"] = all(package["fits"] for package in extra["packages"])
    return {name: extra for name, extra in extras.items() if extra["packages"]}


def _missing(extras: dict[str, dict[str, Any]]) -> list[dict[str, str]]:
    if not extras:
        return [
            {"what": "listing what each extra needs: edgekit itself is not installed", "install": "pip install edgekit"}
        ]
    return [
        {"what": extra["purpose"], "install": f"pip install 'edgekit[{name}]'"}
        for name, extra in extras.items()
        if name not in _STAND_IN.values()
        and not (name in _OPTIONAL and not extra["packages"][0]["installed"])
        and not extra["complete"]
        and not extras.get(_STAND_IN.get(name, ""), extra)["complete"]
    ]


def _broken(engines: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Engines that are installed and cannot be used all the same."""
    return [
        {
            "what": f"running {engine['format']} files with {engine['name']} ({engine['problem']})",
            "install": f"pip install --force-reinstall {engine['package']}",
        }
        for engine in engines
        if engine["installed"] and engine["problem"]
    ]


def _package(name: str, wanted: str) -> dict[str, Any]:
    installed = _installed(name)
    if installed is None:
        return {"name": name, "wanted": wanted, "installed": None, "fits": False}
    fits = True
    if importlib.util.find_spec("packaging"):  # comes with most of the stack, but not with edgekit alone
        from packaging.specifiers import SpecifierSet

        fits = SpecifierSet(wanted).contains(installed, prereleases=True)
    return {"name": name, "wanted": wanted, "installed": installed, "fits": fits}


def _installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _engine(name: str) -> dict[str, Any]:
    engine = engine_menu.engine(name)
    row: dict[str, Any] = {"name": name, "format": engine.FORMAT, "package": engine.PACKAGE}
    row["installed"] = _installed(engine.PACKAGE) is not None
    try:
        return {**row, "version": engine.version(), "providers": list(engine.providers()), "problem": None}
    except RuntimeFault as fault:
        problem = str(fault)
    except Exception as error:  # finding broken installations is what a doctor is for
        problem = f"{type(error).__name__}: {error}"
    return {**row, "version": None, "providers": [], "problem": problem}
