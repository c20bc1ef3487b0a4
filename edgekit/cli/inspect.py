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
    """Show what is in a bundle, an .onnx, a .tflite or a .pte file.

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
@as_json
@debugged
@click.argument("source", type=click.Path(path_type=Path), metavar="BUNDLE|FILE.tflite")
def export_c(source: Path, out: Path, artifact: str | None, force: bool, as_json: bool, debug: bool) -> None:
    """Write a .tflite model and its labels as C arrays.

    If the package tflite-micro is installed, the model is also run with it.

    \b
    Examples:
      edgekit export-c trash.edgekit --out firmware/model
      edgekit export-c model-int8.tflite
    """

    def work() -> None:
        from dataclasses import asdict

        from edgekit.deploy import c_arrays

        done = c_arrays.export(source, out, artifact, force)
        click.echo(json.dumps(asdict(done), indent=2) if as_json else c_arrays.text(done))

    guarded(work, debug)


COMMANDS = (inspect, export_c)
