"""``python -m edgekit.runtime predict|bench|selftest|info BUNDLE``: what a device does with a bundle.

Exit status: 0 success; 1 an image could not be predicted, or a check failed; 2 the bundle, the engine or the command
line cannot be used.
"""

from __future__ import annotations

import argparse
import glob
import io
import json
import os
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from importlib.util import find_spec
from typing import IO, TYPE_CHECKING, Any

from edgekit import __version__
from edgekit.runtime import files, terminal
from edgekit.runtime.errors import RuntimeFault

if TYPE_CHECKING:
    from edgekit.runtime._model import Result
    from edgekit.runtime.bundle import Bundle

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".npy", ".png", ".tif", ".tiff", ".webp")
"""Files in a folder with these suffixes are inputs; a file named on the command line always is."""
EXAMPLES = {
    "predict": (
        "{} predict trash.edgekit photo.jpg --top 3",
        "{} predict trash.edgekit photos 'more/*.png' --json",
        "find /media -name '*.jpg' | {} predict trash.edgekit -",
    ),
    "bench": ("{} bench trash.edgekit --threads 2 --seconds 5",),
    "selftest": ("{} selftest trash.edgekit --key maker.pub",),
    "info": ("{} info trash.edgekit", "{} info trash.edgekit --json"),
}
"""Shown in the help of each command."""


def main(argv: Sequence[str] | None = None, out: IO[str] | None = None, prog: str = "python -m edgekit.runtime") -> int:
    """Run a command and return the exit status.

    Args:
        argv: its arguments; None takes those of the process.
        out: for results; None is stdout. Faults go to stderr, one line each.
        prog: the program's name in the usage line.
    """
    try:
        with redirect_stdout(out or sys.stdout):  # --help and --version are answers
            options = _parser(prog).parse_args(argv)
    except SystemExit as stop:  # argparse has said why
        return int(stop.code or 0)
    try:
        status: int = options.run(options, out or sys.stdout)
    except RuntimeFault as fault:
        _complain(str(fault))
        return 2
    except MemoryError:
        _complain("out of memory")
        return 2
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "numpy":
            raise
        _complain("numpy is not installed: pip install numpy")
        return 2
    return status


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=prog, description="Run a bundle on this device.")
    parser.add_argument("--version", action="version", version=f"edgekit {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Any, text: str, verify: str | None) -> argparse.ArgumentParser:
        examples = "\n".join(["examples:", *(f"  {line.format(prog)}" for line in EXAMPLES[name])])
        layout = argparse.RawDescriptionHelpFormatter
        sub = commands.add_parser(name, help=text, description=text, epilog=examples, formatter_class=layout)
        sub.set_defaults(run=run)
        sub.add_argument("bundle", metavar="BUNDLE", help="an .edgekit file, or a hand-written manifest (.json)")
        if name == "predict":
            sub.add_argument("images", nargs="+", metavar="IMAGE", help="file, folder, glob, or - for paths on stdin")
        sub.add_argument("--engine", default="auto", help="litert, onnxruntime, ... (default: the first that fits)")
        sub.add_argument("--artifact", metavar="ID", help="an artifact that `info` lists")
        sub.add_argument("--threads", type=_count, help="threads per inference (default: what the bundle says, or 1)")
        sub.add_argument("--provider", help="execution provider of the engine")
        sub.add_argument("--key", action="append", default=[], help="trusted public key, or its file (may be repeated)")
        sub.add_argument("--require-signature", action="store_true", help="refuse a bundle that no --key signed")
        sub.add_argument("--json", action="store_true", help="print JSON, one object per line")
        if verify:
            choices = ("golden", "hash", "off")
            sub.add_argument("--verify", default=verify, choices=choices, help=f"what to check (default: {verify})")
        return sub

    predict = command("predict", _predict, "Predict images.", "golden")
    predict.add_argument("--top", type=_count, default=1, metavar="K", help="classes per line (default: 1)")
    bench = command("bench", _bench, "Measure the latency of single inferences, and from image to class.", "hash")
    bench.add_argument("--seconds", type=float, default=2.0, help="duration of each measurement (default: 2)")
    bench.add_argument("--warmup", type=int, default=10, help="minimum warm-up runs (default: 10)")
    command("selftest", _selftest, "Check hashes, signature and golden vectors on each installed engine.", None)
    command("info", _info, "Show what the bundle holds and what would run here.", "hash")
    return parser


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _complain(line: str) -> None:
    sys.stderr.write(f"edgekit: {terminal.lines(line)}\n")
    sys.stderr.flush()


# ---- predict ----


def _predict(options: argparse.Namespace, out: IO[str]) -> int:
    from edgekit.runtime import load

    failed = False

    def paths() -> Iterator[Any]:
        nonlocal failed
        for path, reason in expand(options.images, sys.stdin):
            image: Any = path
            if not reason and (path.endswith(".npy") or not model.takes_images):
                image, reason = _array(path)
            if reason:
                failed = True
                _complain(f"{path}: {reason}")
                continue
            named.append(path)
            yield image

    named: list[str] = []
    with load(
        options.bundle, options.engine, options.threads, options.provider, options.artifact, options.verify,
        options.key, options.require_signature,
    ) as model:  # fmt: skip
        for outcome in model.outcomes(paths()):
            path = named.pop(0)
            if isinstance(outcome, RuntimeFault):
                failed = True
                text = str(outcome)
                _complain(text if path in text else f"{path}: {text}")
            else:
                out.write(_line(path, outcome, options.top, options.json) + "\n")
                out.flush()
    return int(failed)


def expand(words: Sequence[str], stdin: IO[str]) -> Iterator[tuple[str, str]]:
    """Paths that the command line names, in order, each with the reason it cannot be used ("" if it can).

    A folder stands for the images in it and below, sorted, but for hidden ones; links to folders are not followed. A
    word with ``*?[`` that is not a file stands for its matches, sorted; ``-`` for the lines of stdin.
    """
    for word in words:
        if word == "-":
            lines = (line.rstrip("\r\n") for line in stdin)
            yield from ((line, files.trouble(line)) for line in lines if line.strip())
        elif os.path.isdir(word):
            found = [(path, reason) for path, reason in files.walk(word, links=False) if _counts(path, reason)]
            yield from ((os.path.join(word, path), reason) for path, reason in found)
            if not found:
                yield word, f"no images in this folder ({' '.join(SUFFIXES)})"
        elif glob.has_magic(word) and not os.path.exists(word):
            matches = sorted(path for path in glob.glob(word, recursive=True) if not os.path.isdir(path))
            yield from ((path, files.trouble(path)) for path in matches)
            if not matches:
                yield word, "matches no file"
        else:
            yield word, "" if _is_open(word) else files.trouble(word)


def _counts(path: str, reason: str) -> bool:
    """Whether a file of a folder is an input, or a folder in it cannot be read."""
    return path.lower().endswith(SUFFIXES) or reason.startswith("a folder")


def _is_open(path: str) -> bool:
    """Whether a path is one end of a pipe that the shell has opened: ``<(command)``."""
    if not path.startswith(("/dev/fd/", "/proc/self/fd/", "/dev/stdin")):
        return False
    try:
        return stat.S_ISFIFO(os.stat(path).st_mode)
    except OSError:
        return False


def _array(path: str) -> tuple[Any, str]:
    """The array in an .npy file, or the reason it cannot be read."""
    import numpy as np

    try:
        return np.load(path, allow_pickle=False), ""
    except Exception:  # OSError, ValueError, EOFError, ...; of objects NumPy says how to load them unsafely
        return None, "not an .npy array of numbers; numpy.save writes one"


def _line(path: str, result: Result, top: int, as_json: bool) -> str:
    best = result.top(top)
    if as_json:
        row: dict[str, Any] = {"image": path, "label": result.label, "index": result.index, "score": result.score}
        if top > 1:
            row["top"] = [{"label": c.label, "index": c.index, "score": c.score} for c in best]
        return terminal.json_line({**row, "ms": round(result.ms, 3)})
    names = (f"{c.label if c.label is not None else c.index} {c.score:.2%}" for c in best)
    return terminal.line(f"{path}: {', '.join(names)} ({result.ms:.1f} ms)")


# ---- bench ----


def _bench(options: argparse.Namespace, out: IO[str]) -> int:
    from edgekit.runtime import _load, _measure, bench, machine

    if not 0 <= options.seconds < float("inf") or options.warmup < 0:
        raise RuntimeFault("--seconds and --warmup must not be negative")
    bundle = _opened(options, options.verify)
    chosen, engine = _load.choose(bundle, options.engine, options.artifact)
    threads = options.threads or _load.shipped_threads(bundle.manifest, chosen["id"], engine)
    size = len(bundle.model(chosen))
    if options.verify == "golden":
        _replayed(options, chosen["id"], engine)
    del bundle  # its memory is not the model's
    session, x, ready = bench.open_session(options.bundle, engine, threads, options.provider, 0, chosen["id"])
    used, stable = _measure.warm_up(session.run, x, options.warmup, options.seconds)
    ms = _measure.measure(session.run, x, 0, options.seconds, 20)
    ordered = sorted(ms)
    p50, p90 = (ordered[min(len(ordered) - 1, int(share * len(ordered)))] for share in (0.5, 0.9))
    ready["resident_bytes"] = ready.pop("model_bytes")  # most of it is the engine's, for a small file
    answer = {
        "artifact": chosen["id"], "engine": engine, "threads": threads, "file_bytes": size, **ready,
        "p50_ms": p50, "p90_ms": p90, "min_ms": ordered[0], "warmup_used": used, "stable": stable,
        "ms": ms, "load_average": _measure.load_average(), "rss_bytes": machine.peak_rss_bytes(),
    }  # fmt: skip
    steps, of = bench.end_to_end(session, options.bundle, chosen["id"], options.seconds)
    spent, counter = _measure.energy(session.run, x, options.seconds)
    answer.update(end_to_end=steps, end_to_end_of=of, energy_mj=spent, energy=counter)
    if options.json:
        out.write(json.dumps(answer) + "\n")
        return 0
    out.write(
        f"{chosen['id']} on {engine} {ready['version']} ({ready['provider']}, threads {threads}): p50 {p50:.3f} ms, "
        f"p90 {p90:.3f} ms, min {ordered[0]:.3f} ms of {len(ms)} runs; load {ready['load_ms']:.1f} ms, first run "
        f"{ready['first_ms']:.1f} ms, peak memory {answer['rss_bytes'] / 1e6:.0f} MB\n"
        f"warm-up: {used} runs, {'steady' if stable else 'NOT steady when time ran out'}\n"
    )
    if steps:
        pieces = ", ".join(f"{name[:-3]} {steps[name]:.3f}" for name in _measure.STEPS)
        out.write(f"end to end: {pieces}, total {steps['total_ms']:.3f} ms (medians over {of})\n")
    else:
        out.write(f"end to end: {of}\n")
    out.write(f"energy: {counter if spent is None else f'{spent:.3g} mJ per inference ({counter}, idle included)'}\n")
    return 0


# ---- selftest ----


def _selftest(options: argparse.Namespace, out: IO[str]) -> int:
    from edgekit.runtime import _load, engine_menu

    failed = False

    def say(what: str, text: str, ok: bool | None = True, unknown: str = "not checked") -> None:
        """A row; `ok` None: there was nothing to check, or nothing depends on it, as `unknown` says."""
        nonlocal failed
        failed = failed or ok is False
        state = {True: "ok", False: "failed", None: unknown}[ok]
        row = json.dumps({"check": what, "ok": ok, "text": text}) if options.json else f"{what}: {state}: {text}"
        out.write(row + "\n")
        out.flush()

    try:
        bundle = _opened(options, "hash")
        bundle.check_models()
    except RuntimeFault as fault:
        say("file", str(fault), ok=False)
        return 1
    say("file", f"{len(bundle.members)} members match the manifest, {bundle.digest}")
    key = bundle.signed_by
    trust = "" if not options.key else ", trusted" if bundle.trusted else ", NOT trusted"
    if key:
        say("signature", f"by {key}{trust}")
    else:
        unused = ", so no --key was tried; to refuse it, add --require-signature" if options.key else ""
        say("signature", f"the bundle is not signed{unused}", ok=None)
    shipped = {(row["artifact"], row.get("engine")) for row in bundle.manifest.get("ship", ())}
    ran, fine = False, set()
    for entry in bundle.manifest["artifacts"]:
        if options.artifact not in (None, entry["id"]):
            continue
        for name in engine_menu.engines() if options.engine == "auto" else [options.engine]:
            module = engine_menu.engine(name)
            if entry["format"] != module.FORMAT or (options.engine == "auto" and not _load.installed(module)):
                continue
            ran = True
            try:
                away = _replayed(options, entry["id"], name)
            except RuntimeFault as fault:
                # An engine that is not exact may fail on one CPU, and nothing is lost where an exact one runs the file.
                spare = options.engine == "auto" and module.BOUND and (entry["id"], name) not in shipped
                if spare and entry["id"] in fine:
                    say(f"{entry['id']} on {name}", str(fault), ok=None, unknown="not for this machine")
                else:
                    say(f"{entry['id']} on {name}", str(fault), ok=False)
            else:
                say(f"{entry['id']} on {name}", away)
                fine.add(entry["id"])
    if not ran:
        _load.choose(bundle, options.engine, options.artifact)  # says why
    return int(failed)


def _replayed(options: argparse.Namespace, artifact: str, engine: str) -> str:
    from edgekit.runtime import load

    with load(
        options.bundle, engine, options.threads, options.provider, artifact, "golden", options.key,
        options.require_signature,
    ) as model:  # fmt: skip
        info = model.info
    if info["golden"] is None:
        return f"{info['version']}, {info['provider']}: loads; the bundle has no golden vectors for it"
    images = "" if not model.takes_images or find_spec("PIL") else "; images were not decoded (pip install pillow)"
    unit = "of the largest output" if info["output"]["dtype"].startswith("float") else "steps"
    return f"{info['version']}, {info['provider']}: golden vectors off by at most {info['golden']:.3g} {unit}{images}"


# ---- info ----


def _info(options: argparse.Namespace, out: IO[str]) -> int:
    from edgekit.runtime import _load

    bundle = _opened(options, options.verify)
    manifest = bundle.manifest
    try:
        chosen, engine = _load.choose(bundle, options.engine, options.artifact)
        bundle.model(chosen)
        runs: dict[str, Any] | None = {"artifact": chosen["id"], "engine": engine}
        why = ""
    except RuntimeFault as fault:
        runs, why = None, str(fault)
    if options.json:
        kept = ("name", "task", "preprocessing", "postprocessing", "artifacts", "ship")
        row = {key: manifest[key] for key in kept if key in manifest}
        signed = {"digest": bundle.digest, "signed_by": bundle.signed_by, "trusted": bundle.trusted}
        out.write(
            json.dumps({"path": bundle.path, **signed, "labels": list(bundle.labels), **row, "runs": runs}) + "\n"
        )
        return 0
    pre = manifest["preprocessing"]
    shape = f"{pre['color']} images, {pre['width']}x{pre['height']}" if pre["kind"] == "image" else "arrays"
    out.write(f"{manifest['name']}: {shape}, {len(bundle.labels) or 'no'} labels\n")
    out.write(f"  digest {bundle.digest}, {'signed by ' + bundle.signed_by if bundle.signed_by else 'not signed'}\n")
    for entry in manifest["artifacts"]:
        scores = ", ".join(f"top-1 {row['top1']:.2%} on {row['engine']}" for row in entry.get("accuracy", ()))
        port = entry["input"]
        text = f"  {entry['id']}: {entry.get('precision', entry['format'])}, {port['dtype']} {port['shape']}"
        out.write(text + (f", {scores}" if scores else "") + "\n")
    out.write(f"  runs here: {runs['artifact']} on {runs['engine']}\n" if runs else f"  nothing runs here: {why}\n")
    return 0


def _opened(options: argparse.Namespace, verify: str) -> Bundle:
    from edgekit.runtime.bundle import open_bundle

    return open_bundle(options.bundle, verify, options.key, options.require_signature)


def as_program(argv: Sequence[str] | None = None, prog: str = "python -m edgekit.runtime") -> int:
    """`main` as a process of its own; its exit status."""
    # Engines print to file descriptor 1 as they like: keep the real one aside for the answers.
    answers = terminal.Plain(os.fdopen(os.dup(1), "wb"), encoding="utf-8")
    os.dup2(2, 1)
    for stream, errors in ((sys.stdin, "surrogateescape"), (sys.stderr, "backslashreplace")):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)
    try:
        with answers:
            return main(argv, answers, prog)
    except BrokenPipeError:
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(as_program())
