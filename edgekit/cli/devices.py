"""``edgekit devices show|check|probe|add|clean|setup``. Heavy imports stay inside the function bodies."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli import _complete
from edgekit.cli._common import Group, as_json, debugged, guarded, print_list, print_schema

if TYPE_CHECKING:
    from edgekit.device.file import Device

_device = click.argument("name", shell_complete=_complete.shipped("devices"))
_port = click.option("--port", type=click.IntRange(1, 65535), help="SSH port. [from the ssh config, else 22]")
_config = click.option("--config", metavar="FILE", help="SSH client config to use instead of ~/.ssh/config.")
_python = click.option("--python", metavar="PROGRAM", help="Python 3.9 or later on the device. [python3]")
_out = click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="File to write. [NAME.toml]"
)
_force = click.option("--force", is_flag=True, help="Overwrite the file.")
_by = click.option("--by", metavar="WAY", help="How to reach it: ssh, adb, ... [ssh with a HOST, else local]")


@click.command()
@_device
@as_json
@debugged
def show(name: str, as_json: bool, debug: bool) -> None:
    """Print a device file.

    \b
    Example:
      edgekit devices show raspberry-pi-5
    """

    def work() -> None:
        path, device = _load(name)
        if as_json:
            click.echo(json.dumps({"path": str(path), "device": device.model_dump()}, indent=2))
        else:
            click.echo(f"# {path}\n{path.read_text(encoding='utf-8').rstrip()}")

    guarded(work, debug)


@click.command()
@_device
@as_json
@debugged
def check(name: str, as_json: bool, debug: bool) -> None:
    """Report what a device lacks; exit 1 unless it is ready.

    \b
    Examples:
      edgekit devices check host
      edgekit devices check my-pi.toml --json
    """

    def work() -> None:
        from edgekit.device import probe
        from edgekit.errors import Shortfall

        _, device = _load(name)
        outcome = probe.check(device)
        if as_json:
            ready = {"device": outcome.device, "ready": not outcome.problems, "problems": outcome.problems}
            click.echo(json.dumps({**ready, "facts": outcome.facts}, indent=2))
        elif outcome.reached:
            click.echo(_describe(device, outcome.facts))
        if outcome.problems:
            raise Shortfall("\n  ".join(f"{device.name}: {problem}" for problem in outcome.problems))

    guarded(work, debug)


@click.command()
@_device
@click.option("--mirror", metavar="URL", help="Debian mirror. [https://deb.debian.org/debian]")
@as_json
@debugged
def setup(name: str, mirror: str | None, as_json: bool, debug: bool) -> None:
    """Build, or check, what an emulated device needs.

    It is kept in the cache folder. Setup needs Linux, a C compiler, pip, a network connection and 700 MB of disk, but
    neither root nor containers.

    \b
    Example:
      edgekit devices setup rpi5-emulated
    """

    def work() -> None:
        from edgekit.console import Console
        from edgekit.errors import InputError
        from edgekit.reach import debian, sysroot

        path, device = _load(name)
        if device.reach.by != "qemu" or device.reach.cpu is None:
            raise InputError(f'{path}: reach.by = "{device.reach.by}" needs no setup; only reach.by = "qemu" does')
        record = sysroot.setup(device.reach.cpu, Console(as_json), mirror or debian.MIRROR)
        click.echo(json.dumps(record, indent=2) if as_json else f"{device.name}: ready in {sysroot.folder()}")

    guarded(work, debug)


@click.command()
@click.argument("host", required=False)
@_by
@click.option("--name", help="Name of the device. [its host name]")
@_port
@_config
@_python
@_out
@_force
@as_json
@debugged
def probe(host: str | None, name: str | None, out: Path | None, force: bool, as_json: bool, **words: Any) -> None:
    """Connect to HOST and write a device file from what it reports.

    HOST is what ssh takes, or the serial number of a phone; "host", or none, is this machine.

    \b
    Examples:
      edgekit devices probe pi@rpi5.local
      edgekit devices probe host --name desk     (this machine)
      edgekit devices probe --by adb 1A2B3C4D --name phone
    """

    def work() -> None:
        from edgekit.device import probe as probing
        from edgekit.errors import Shortfall

        reach = _reach(_address(host, words["by"]), words)
        device = _checked(name or "device", reach)
        try:
            facts = probing.facts(device)
        except Shortfall as trouble:
            raise Shortfall(f"{host or 'this machine'}: cannot be reached by {reach['by']}: {trouble}") from None
        called = name or re.sub(r"[^\w.-]+", "-", str(facts["hostname"])).strip("-.") or "device"
        known = ("litert", "onnxruntime", "openvino", "executorch", "tflite_runtime")
        engines = [engine for engine in known if facts["engines"].get(engine)]
        run = {"threads": sorted({1, facts["cores"]}), **({"engines": engines} if engines else {})}
        path = _write(out or Path(f"{called}.toml"), probing.toml(called, reach, facts, run), force)
        if as_json:
            click.echo(json.dumps({"path": str(path), "facts": facts}, indent=2))
        else:
            click.echo(f"{_describe(device, facts)}\n{path}: written; next: edgekit devices check {path}")

    guarded(work, words.pop("debug"))


@click.command()
@click.argument("name")
@click.option("--host", metavar="HOST", help="ssh: [user@]host, or a Host in the ssh config; adb: serial number.")
@_by
@_port
@_config
@_python
@click.option("--engine", "engines", multiple=True, metavar="NAME", help="Engine to measure with (repeatable).")
@click.option("--threads", multiple=True, type=click.IntRange(1, 256), help="Thread count (repeatable).")
@_out
@_force
@as_json
@debugged
def add(
    name: str,
    host: str | None,
    engines: tuple[str, ...],
    threads: tuple[int, ...],
    out: Path | None,
    force: bool,
    as_json: bool,
    **words: Any,
) -> None:
    """Write a device file without connecting to the device.

    \b
    Example:
      edgekit devices add garage --host pi@garage.local --engine litert --threads 1 --threads 4
    """

    def work() -> None:
        from edgekit.device import probe as probing

        given = {"engines": list(engines), "threads": list(threads)}
        run = {key: value for key, value in given.items() if value}
        reach = _reach(host, words)
        _checked(name, reach, run)
        path = _write(out or Path(f"{name}.toml"), probing.toml(name, reach, None, run), force)
        click.echo(
            json.dumps({"path": str(path)}) if as_json else f"{path}: written; next: edgekit devices check {path}"
        )

    guarded(work, words.pop("debug"))


@click.command()
@_device
@as_json
@debugged
def clean(name: str, as_json: bool, debug: bool) -> None:
    """Remove the runtime and models that edgekit keeps on a device.

    \b
    Example:
      edgekit devices clean my-pi.toml
    """

    def work() -> None:
        from edgekit.errors import Shortfall
        from edgekit.reach.port import way

        _, device = _load(name)
        try:
            way(device.reach.by).clean(device)
        except Shortfall as trouble:
            raise Shortfall(f"{device.name}: cannot be reached by {device.reach.by}: {trouble}") from None
        if as_json:
            click.echo(json.dumps({"device": device.name, "clean": True}))

    guarded(work, debug)


def _load(name: str) -> tuple[Path, Device]:
    from edgekit.config import shipped
    from edgekit.device import file as device_file

    path = shipped.find("devices", name)
    return path, device_file.load(path)


def _reach(host: str | None, words: dict[str, Any]) -> dict[str, Any]:
    """The keys of a [reach] section, as given on the command line."""
    by = words["by"] or ("ssh" if host else "local")
    given = {"by": by, "host": host, **{key: words[key] for key in ("port", "config", "python")}}
    if given["config"]:
        given["config"] = str(Path(given["config"]).expanduser().resolve())
    return {key: value for key, value in given.items() if value is not None}


def _address(host: str | None, by: str | None) -> str | None:
    """The HOST to connect to; None is this machine, which is called "host" everywhere.

    Raises:
        InputError: it is the name of a device file, which says itself how to get there.
    """
    from edgekit.config import shipped
    from edgekit.errors import InputError

    if host is None or by is not None:
        return host
    if host == "host":
        return None
    if host.endswith(".toml") or host in shipped.files("devices"):
        raise InputError(
            f'"{host}" is a device file, not an address: edgekit devices check {host} connects to that device; '
            f"edgekit devices probe --by ssh {host} connects to a machine of that name"
        )
    return host


def _checked(name: str, reach: dict[str, Any], run: dict[str, Any] | None = None) -> Device:
    from edgekit.config.toml import validate
    from edgekit.device.file import Device

    return validate(Device, {"name": name, "reach": reach, "run": run or {}}, Path("the command line"))


def _write(path: Path, text: str, force: bool) -> Path:
    from edgekit.disk.atomic import write_text
    from edgekit.errors import InputError

    if path.exists() and not force:
        raise InputError(f"{path}: already exists; choose another file with --out, or overwrite it with --force")
    try:
        write_text(path, text)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error
    return path


def _describe(device: Device, facts: dict[str, Any]) -> str:
    zones = ", ".join(f"{name} {degrees:.0f} C" for name, degrees in facts["thermal_zones"].items())
    lines = [
        f"{facts['hostname']}: {facts['cpu']}, {facts['cores']} cores, {facts['arch']}, "
        f"{facts['memory_bytes'] / 1e9:.1f} GB memory, {facts['disk_free_bytes'] / 1e9:.1f} GB free on disk",
        f"  {facts['os']}; Python {facts['python']} ({facts['executable']}), numpy {facts['numpy'] or 'not installed'}",
        f"  SIMD: {' '.join(facts['features']) or 'unknown'}; governor {facts['governor'] or 'unknown'}; "
        f"thermal zones: {zones or 'none'}",
    ]
    for engine, version in facts["engines"].items():
        wanted = " (required)" if engine in device.run.engines and not version else ""
        lines.append(f"  {engine:<15} {version or 'not installed'}{wanted}")
    return "\n".join(lines)


@click.group(cls=Group, invoke_without_command=True)
@as_json
@click.pass_context
def devices(ctx: click.Context, as_json: bool) -> None:
    """List the shipped devices.

    \b
    Examples:
      edgekit devices
      edgekit devices probe pi@rpi5.local
      edgekit devices check my-pi.toml
    """
    if ctx.invoked_subcommand is None:
        print_list("devices", as_json)


@devices.command("list")
@as_json
def list_devices(as_json: bool) -> None:
    """List the shipped devices, as `edgekit devices` does.

    \b
    Example:
      edgekit devices list --json
    """
    print_list("devices", as_json)


@devices.command("schema")
def devices_schema() -> None:
    """Print the JSON schema of device files, for editors.

    \b
    Example:
      edgekit devices schema > device.schema.json
    """
    guarded(lambda: print_schema("edgekit.device.file"), debug=False)


for _command in (show, check, probe, add, clean, setup):
    devices.add_command(_command)

COMMANDS = (devices,)
