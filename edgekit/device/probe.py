"""What a device reports about itself: whether it is usable, and what its device file should say."""

from __future__ import annotations

import json
import shlex
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgekit.device.file import Device
from edgekit.errors import Shortfall
from edgekit.reach.port import way
from edgekit.reach.worker import Worker, WorkerFault
from edgekit.runtime import engine_menu

TIMEOUT = 120.0
"""Seconds to wait for the answer, once connected."""
VENV = "~/edgekit"
"""Where to put a virtual environment on a device whose own Python must not be changed."""


@dataclass(frozen=True)
class Check:
    """Whether a device can be measured on."""

    device: str
    reached: bool
    facts: dict[str, Any]
    """`edgekit.runtime.machine.probe` on the device; empty if the device was not reached."""
    problems: tuple[str, ...]
    """One line per problem, with what to do; empty if the device is ready."""


def facts(device: Device) -> dict[str, Any]:
    """`edgekit.runtime.machine.probe`, run on the device.

    Raises:
        Shortfall: it cannot be reached, or its answer is not understood.
    """
    answer = _answer(device, ["-m", "edgekit.runtime.machine", "--probe"])
    if not isinstance(answer.get("engines"), dict):
        raise Shortfall(f"it answered {str(answer)[:80]}")
    return answer


def _answer(device: Device, argv: Sequence[str]) -> dict[str, Any]:
    """Run Python on the device and return the line of JSON that it prints."""
    reach = way(device.reach.by, f"{device.name}: reach.by")
    with Worker(reach.start(argv, device), lambda status, said: reach.explain(status, said, device)) as worker:
        try:
            return worker.listen(TIMEOUT)
        except WorkerFault as fault:
            raise Shortfall(str(fault)) from None


def _providers(device: Device, engine: str) -> list[str]:
    """The providers that an engine on the device offers."""
    ask = f"print(json.dumps({{'is': engine_menu.engine({engine!r}).providers()}}))"
    code = f"import json; from edgekit.runtime import engine_menu; {ask}"
    return list(_answer(device, ["-c", code])["is"])


def check(device: Device) -> Check:
    """Connect to a device and compare what it has with what its device file requires."""
    try:
        machine = facts(device)
    except Shortfall as trouble:
        return Check(device.name, False, {}, (f"cannot be reached by {device.reach.by}: {trouble}",))
    problems = []
    if device.arch not in ("any", machine["arch"]):
        problems.append(f'it is {machine["arch"]}, but its file says arch = "{device.arch}"')
    wanted = [*(["numpy"] if not machine["numpy"] else [])]
    if machine.get("trouble"):
        problems.append(str(machine["trouble"]))
        wanted.clear()
    else:
        wanted += [
            machine["packages"].get(name, name) for name in device.run.engines if not machine["engines"].get(name)
        ]
    if wanted:
        problems.append(f"{', '.join(wanted)} not installed: {install(device, machine, wanted)}")
    for engine, provider in device.run.providers.items():
        name = engine_menu.engine(engine).WORDS.get(provider, provider)
        if machine["engines"].get(engine) and provider != "cpu" and name not in (offered := _providers(device, engine)):
            problems.append(f"{engine} {machine['engines'][engine]} there offers {', '.join(offered)}, not {provider}")
    threads = max(device.run.thread_counts(machine["cores"]))
    if threads > machine["cores"] and device.reach.by != "qemu":  # its times are estimated
        problems.append(f"{threads} threads asked for, but only {machine['cores']} cores can be used")
    return Check(device.name, True, machine, tuple(problems))


def install(device: Device, machine: Mapping[str, Any], packages: list[str]) -> str:
    """The command that installs packages on a device."""
    reach = device.reach
    if reach.by == "qemu":
        return f"edgekit devices setup {device.name}"
    line = shlex.join([machine["executable"], "-m", "pip", "install", *packages])
    if machine["managed"]:
        python = shlex.quote(machine["executable"])
        line = f"{python} -m venv {VENV} && {VENV}/bin/pip install {shlex.join(packages)}"
    if reach.by == "ssh":
        port = ["-p", str(reach.port)] if reach.port else []
        config = ["-F", reach.config] if reach.config else []
        line = f"{shlex.join(['ssh', *config, *port, str(reach.host)])} {shlex.quote(line)}"
    return line + (f', then reach.python = "{VENV}/bin/python"' if machine["managed"] else "")


def toml(name: str, reach: Mapping[str, Any], machine: Mapping[str, Any] | None, run: Mapping[str, Any]) -> str:
    """The text of a device file.

    Args:
        name: the device's name in results.
        reach: keys of its [reach] section.
        machine: what `facts` returned; None for a device not reached yet.
        run: keys of its [run] section.
    """
    top: dict[str, Any] = {"name": name}
    sections: dict[str, Mapping[str, Any]] = {"reach": reach}
    if machine is not None:
        if machine["arch"] in ("x86_64", "aarch64"):
            top["arch"] = machine["arch"]
        board = machine["board"]
        top["soc"] = machine["cpu"] if not board or board in machine["cpu"] else f"{board}, {machine['cpu']}"
        sections["facts"] = {
            **{key: machine[key] for key in ("cpu", "cores", "features", "governor", "os", "python")},
            "memory_mb": round(machine["memory_bytes"] / 1e6),
            "thermal_zones": list(machine["thermal_zones"]),
            "engines": {engine: version for engine, version in machine["engines"].items() if version},
        }
    sections["run"] = run
    lines = _lines(top)
    for title, section in sections.items():
        if section:
            lines += ["", f"[{title}]", *_lines(section)]
    lines += ["", "# [limits]", "# p90_ms = 20", "# size_mb = 5", "# rss_mb = 200", ""]
    text = "\n".join(lines)
    Device.model_validate(tomllib.loads(text))  # make sure that it can be read back
    return text


def _lines(section: Mapping[str, Any]) -> list[str]:
    return [f"{key} = {_value(value)}" for key, value in section.items() if value is not None]


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{json.dumps(key)} = {_value(each)}" for key, each in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # TOML's strings are JSON's
