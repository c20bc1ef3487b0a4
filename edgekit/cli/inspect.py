"""The commands that read files: ``inspect`` and ``export-c``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from edgekit.cli._common import as_json, debugged, guarded


@click.command()
@as_json
@debugged
@click.argument("file", type=click.Path(path_type=Path))
def inspect(file: Path, as_json: bool, debug: bool) -> None:
    """Show what is in a bundle or a model file.

    FILE is an .edgekit, .onnx, .tflite or .pte file.

    Ports, operators, float operators, multiply-adds, parameters, memory, and where each installed engine runs what.

    \b
    Examples:
      edgekit inspect trash.edgekit
      edgekit inspect model-int8.tflite --json
    """

    def work() -> None:
        from edgekit.inspect import bundle_file as bundle
        from edgekit.inspect import dispatch, file_report

        if bundle.matches(dispatch.content(file)):
            whole = bundle.inspect(file)
            click.echo(json.dumps(file_report.as_dict(whole), indent=2) if as_json else bundle.text(whole))
        else:
            report = dispatch.model(file)
            click.echo(json.dumps(file_report.as_dict(report), indent=2) if as_json else file_report.text(report))

    guarded(work, debug)


@click.command("export-c")
@click.option("--out", type=click.Path(path_type=Path), default=Path(), metavar="DIR", help="Folder to write to. [.]")
@click.option("--artifact", metavar="ID", help="Which file of the bundle to export. [the first .tflite]")
@click.option("--force", is_flag=True, help="Overwrite files that edgekit did not write.")
@click.option("--npu", metavar="CONFIG", help="Compile for an Ethos-U with vela first, e.g. ethos-u55-128.")
@click.option(
    "--sram-kb", type=click.FloatRange(min=0, min_open=True), metavar="N", help="KiB of SRAM it may use; with --npu."
)
@click.option("--system-config", metavar="NAME", help="Vela's system configuration; with --npu. [vela's default]")
@click.option("--memory-mode", metavar="NAME", help="Vela's memory mode; with --npu. [vela's default]")
@click.option("--vela-config", metavar="FILE", help="Vela's .ini file, which defines those two; with --npu.")
@as_json
@debugged
@click.argument("sources", type=click.Path(path_type=Path), metavar="BUNDLE|FILE.tflite...", nargs=-1, required=True)
def export_c(
    sources: tuple[Path, ...],
    out: Path,
    artifact: str | None,
    force: bool,
    npu: str | None,
    sram_kb: float | None,
    system_config: str | None,
    memory_mode: str | None,
    vela_config: str | None,
    as_json: bool,
    debug: bool,
) -> None:
    """Write a .tflite model and its labels as C arrays.

    If the package tflite-micro is installed, the model is also run with it. With --npu, every int8 .tflite file that is
    given is compiled, and the one with the fewest estimated cycles that fits is written.

    \b
    Examples:
      edgekit export-c trash.edgekit --out firmware/model
      edgekit export-c model-int8.tflite
      edgekit export-c trash.edgekit trash-pruned.edgekit --npu ethos-u55-128 --sram-kb 256
    """

    def work() -> None:
        from dataclasses import asdict

        from edgekit.deploy import c_arrays
        from edgekit.deploy.ethos_u import Target
        from edgekit.errors import InputError

        options = {"sram-kb": sram_kb, "system-config": system_config, "memory-mode": memory_mode}
        if npu is not None:
            target = Target(npu, sram_kb, system_config, memory_mode, vela_config)
            done = c_arrays.export_npu(sources, out, target, artifact, force)
        elif given := [name for name, value in {**options, "vela-config": vela_config}.items() if value is not None]:
            raise InputError(f"--{given[0]}: only with --npu CONFIG, e.g. --npu ethos-u55-128")
        elif len(sources) > 1:
            raise InputError(f"{sources[1]}: one file at a time; several are compared with --npu only")
        else:
            done = c_arrays.export(sources[0], out, artifact, force)
        table = asdict(done)
        if done.npu is None:
            del table["npu"]
        click.echo(json.dumps(table, indent=2) if as_json else c_arrays.text(done))

    guarded(work, debug)


COMMANDS = (inspect, export_c)
