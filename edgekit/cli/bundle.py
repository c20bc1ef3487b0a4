"""Commands for bundles: pack, keys and signatures, the runtime. Heavy imports stay inside the function bodies."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from edgekit.cli import _complete
from edgekit.cli._common import as_json, debugged, guarded

FILE = click.Path(path_type=Path, dir_okay=False)
_key = click.option("--key", type=FILE, required=True, metavar="FILE", help="Key file written by edgekit keygen.")


@click.command()
@click.argument("source", type=click.Path(path_type=Path), metavar="RUN|MANIFEST")
@click.option(
    "--device",
    metavar="NAME",
    shell_complete=_complete.shipped("devices"),
    help="Pack only the file that the verdict chose for this device.",
)
@click.option(
    "--artifact", "ids", multiple=True, metavar="ID", help="Pack only this file, e.g. tflite-int8 (repeatable)."
)
@click.option("--out", type=FILE, metavar="FILE", help="File to write. [<name>.edgekit]")
@click.option("--sign", "key", type=FILE, metavar="KEY", help="Sign it with this private key.")
@as_json
@debugged
def pack(
    source: Path,
    device: str | None,
    ids: tuple[str, ...],
    out: Path | None,
    key: Path | None,
    as_json: bool,
    debug: bool,
) -> None:
    """Write one file with everything that a device needs.

    It holds models, labels, preprocessing, golden vectors, hashes and, if there is one, the verdict of the report.
    RUN is the directory of an earlier run, MANIFEST a hand-written .json beside a model file.

    \b
    Examples:
      edgekit pack runs/digits --device host
      edgekit pack runs/digits --artifact tflite-int8 --sign release.key
      edgekit pack my-manifest.json --out my.edgekit
    """

    def work() -> None:
        from edgekit.console import Console
        from edgekit.deploy import bundle
        from edgekit.errors import InputError
        from edgekit.runtime.bundle import open_bundle

        if source.suffix == ".json" and not source.is_dir():
            if device or ids:
                raise InputError("--device and --artifact select files of a run, not of a manifest")
            contents = bundle.from_manifest(source)
        else:
            say = Console().say
            contents = bundle.from_run(source, device, ids, say=lambda text: say(f"pack: {text}"))
        path = out or Path(f"{contents.name}{bundle.SUFFIX}")
        bundle.write(path, contents, key)
        artifacts = [artifact["id"] for artifact in contents.manifest["artifacts"]]
        packed = open_bundle(path, verify="hash")
        _say(
            as_json,
            f"{path}: {', '.join(artifacts)}",
            bundle=str(path),
            bytes=path.stat().st_size,
            digest=packed.digest,
            signed_by=packed.signed_by,
            artifacts=artifacts,
        )

    guarded(work, debug)


@click.command()
@click.option("--out", type=FILE, default="edgekit", metavar="NAME", help="Write NAME.key and NAME.pub. [edgekit]")
@as_json
@debugged
def keygen(out: Path, as_json: bool, debug: bool) -> None:
    """Make an Ed25519 key pair for signing bundles.

    NAME.key is the private key for signing, NAME.pub the public key for devices (Ed25519).

    \b
    Example:
      edgekit keygen --out release
    """

    def work() -> None:
        from edgekit.deploy import keys

        public = keys.keygen(out)
        text = f"{out}.key: private, keep it secret\n{out}.pub: public, {public}"
        _say(as_json, text, private=f"{out}.key", public=f"{out}.pub", key=public)

    guarded(work, debug)


@click.command()
@click.argument("bundle", type=FILE)
@_key
@as_json
@debugged
def sign(bundle: Path, key: Path, as_json: bool, debug: bool) -> None:
    """Sign a bundle in place, replacing any earlier signature.

    \b
    Example:
      edgekit sign digits.edgekit --key release.key
    """

    def work() -> None:
        from edgekit.deploy import sign

        signer = sign.sign(bundle, key)
        _say(as_json, f"{bundle}: signed with {signer}", bundle=str(bundle), signed_by=signer)

    guarded(work, debug)


@click.command("verify-signature")
@click.argument("bundle", type=FILE)
@_key
@as_json
@debugged
def verify_signature(bundle: Path, key: Path, as_json: bool, debug: bool) -> None:
    """Check a bundle's signature and hashes.

    Exits 1 if the bundle is not signed with that key, or has changed since it was signed.

    \b
    Example:
      edgekit verify-signature digits.edgekit --key release.pub
    """

    def work() -> None:
        from edgekit.deploy import sign

        signer = sign.verify(bundle, key)
        _say(as_json, f"{bundle}: signed with {signer}", bundle=str(bundle), signed_by=signer)

    guarded(work, debug)


@click.command("runtime-zip")
@click.option(
    "--out", type=FILE, default="edgekit-runtime.pyz", metavar="FILE", help="File to write. [edgekit-runtime.pyz]"
)
@as_json
@debugged
def runtime_zip(out: Path, as_json: bool, debug: bool) -> None:
    """Write the edgekit runtime as a single file for devices.

    A device runs it with its own Python (3.9 or later) and inference engine; nothing has to be installed.

    \b
    Examples:
      edgekit runtime-zip
      python3 edgekit-runtime.pyz predict digits.edgekit photo.jpg    (on the device)
    """

    def work() -> None:
        from edgekit.reach import runtime_zip

        size = runtime_zip.write(out)
        _say(as_json, f"{out}: {size / 1000:.0f} kB", file=str(out), bytes=size)

    guarded(work, debug)


class _Raw(click.Command):
    """Leaves its words, -- included, to another parser."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.params["words"] = tuple(args)
        return []


@click.command(cls=_Raw, add_help_option=False)
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="BUNDLE [IMAGES...]")
def predict(words: tuple[str, ...]) -> None:
    """Classify images with a bundle, as a device does.

    Same as `python -m edgekit.runtime predict`.

    \b
    Example:
      edgekit predict digits.edgekit photo.jpg folder --top 5 --json
    """
    own = words[: words.index("--")] if "--" in words else words
    if {"-h", "--help"} & set(own):
        click.echo(click.get_current_context().get_help() + "\n")

    def work() -> None:
        from edgekit.runtime.__main__ import as_program

        sys.exit(as_program(["predict", *words], prog="edgekit"))

    guarded(work, debug=False)


def _say(as_json: bool, text: str, **data: Any) -> None:
    click.echo(json.dumps(data, indent=2) if as_json else text)


COMMANDS = (pack, keygen, sign, verify_signature, runtime_zip, predict)
