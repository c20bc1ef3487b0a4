"""What `edgekit.runtime` costs over the bare engine: calls, whole predictions, streams, import, load, memory.

Usage::

    edgekit run mobilenetv2-imagenet --out mv2    # packs a bundle
    python benchmarks/runtime_overhead.py mv2/<name>.edgekit photo.jpg

Every artifact of the bundle runs on the first installed engine for it, one thread. The two sides of each comparison
are interleaved in one process on one session, or in fresh processes; medians are shown. The photo is scaled to 224 px
for "predict" (a JPEG of that size, as cameras of small devices deliver), and used unscaled for "stream".

"load, fresh process" covers the time from the first line of Python to a model that can run, with the imports of NumPy,
the engine and edgekit. "load alone" starts after these imports and has no limit: reading and hashing a file takes
longer than mapping it, which is all that TFLite does. Both load a bundle with only that artifact; the time for the
given bundle is also shown.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from PIL import Image

from edgekit.runtime import archive, bench, engine_menu, load
from edgekit.runtime._load import installed
from edgekit.runtime._model import Model
from edgekit.runtime.bundle import Bundle, open_bundle

failures = 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("photo", type=Path)
    parser.add_argument("--rounds", type=int, default=9, help="rounds of each comparison (default: 9)")
    parser.add_argument("--artifact", action="append", help="only this artifact")
    options = parser.parse_args()
    whole = open_bundle(options.bundle, verify="hash")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        photo = folder / "224.jpg"
        image = Image.open(options.photo).convert("RGB")
        side = min(image.size)
        image.crop((0, 0, side, side)).resize((224, 224)).save(photo, quality=90)
        rows = [_child(IMPORT) for _ in range(options.rounds)]
        package, rest = (statistics.median(row[key] for row in rows) * 1e3 for key in ("package", "rest"))
        text = f"{package:.1f} ms, and {rest:.1f} ms for what load needs, beside NumPy"
        _say("import edgekit.runtime", text, "under 80 ms together", package + rest < 80)
        for artifact in whole.manifest["artifacts"]:
            if options.artifact and artifact["id"] not in options.artifact:
                continue
            engine = _engine(artifact["format"])
            if engine is None:
                continue
            small = _alone(whole, artifact, folder)
            file = folder / Path(artifact["file"]).name
            file.write_bytes(whole.read(artifact["file"]))
            print(f"{artifact['id']} on {engine}")
            with load(small, engine=engine, threads=1, verify="hash") as model:
                _calls(model, options.rounds)
                _predictions(model, whole, photo, options.rounds)
                _streams(model, options.photo, options.rounds)
            _loads(small, options.bundle, artifact["id"], engine, file, options.rounds)
    return int(failures > 0)


def _say(what: str, found: str, bar: str, passed: bool) -> None:
    global failures
    failures += not passed
    verdict = f"{'pass' if passed else 'FAIL'} ({bar})" if bar else ""
    print(f"  {what:<22} {found:<96} {verdict}".rstrip(), flush=True)


def _engine(kind: str) -> str | None:
    names = (name for name in ("litert", "onnxruntime", "tflite_runtime", "tensorflow"))
    return next((n for n in names if kind == engine_menu.engine(n).FORMAT and installed(engine_menu.engine(n))), None)


def _alone(bundle: Bundle, artifact: dict[str, Any], folder: Path) -> Path:
    """A bundle of that artifact only, without golden vectors."""
    kept = {key: value for key, value in bundle.manifest.items() if key not in ("golden", "ship", "members")}
    entry = {key: value for key, value in artifact.items() if key != "golden"}
    members = {name: bundle.read(name) for name in {artifact["file"], bundle.manifest.get("labels", artifact["file"])}}
    listed = {name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)} for name, data in members.items()}
    manifest = json.dumps({**kept, "artifacts": [entry], "members": listed}).encode()
    path = folder / f"{artifact['id']}.edgekit"
    path.write_bytes(archive.canonical({"manifest.json": manifest, **members}))
    return path


def _bare(model: Model) -> Callable[[Any], Any]:
    """The engine's own call, on the session of the model."""
    session: Any = model._session
    if hasattr(session, "_interpreter"):
        interpreter, source, sink = session._interpreter, session._in, session._out

        def run(x: Any) -> Any:
            interpreter.set_tensor(source, x)
            interpreter.invoke()
            return interpreter.get_tensor(sink)

        return run
    engine, name = session._session, session.input.name
    return lambda x: engine.run(None, {name: x})[0]


def _alternate(sides: tuple[Callable[[], Any], Callable[[], Any]], calls: int, rounds: int) -> list[list[float]]:
    """Seconds of single calls of the two sides, one after the other; which goes first alternates."""
    times: list[list[float]] = [[], []]
    for side in sides:
        side()
    for number in range(calls * rounds):
        for which in (0, 1) if number % 2 else (1, 0):
            start = perf_counter()
            sides[which]()
            times[which].append(perf_counter() - start)
    return times


def _calls(model: Model, rounds: int) -> None:
    bare, x = _bare(model), bench.random_input(model._input, 0)
    plain, ours = _alternate((lambda: bare(x), lambda: model.raw(x)), 40, rounds)
    a, b = statistics.median(plain), statistics.median(ours)
    over = statistics.median(o - p for p, o in zip(plain, ours, strict=True))
    text = f"bare {a * 1e3:.3f} ms, raw {b * 1e3:.3f} ms, median difference {over * 1e6:+.1f} us ({over / a:+.2%})"
    _say("raw", text, "at most 20 us or 1 %", over <= 20e-6 or over <= 0.01 * a)


def _by_hand(model: Model, bundle: Bundle) -> Callable[[Path], str]:
    """What users write without edgekit: Pillow, NumPy, the engine."""
    bare, spec, port, out = _bare(model), bundle.manifest["preprocessing"], model._input, model._output
    size, short = spec["height"], round(spec["height"] / spec["crop"])
    resampling = Image.Resampling[spec["interpolation"].upper()]
    mean, std = np.array(spec["mean"], np.float32), np.array(spec["std"], np.float32)
    planar, edge = port.shape[1] == 3, round((short - size) / 2)

    def predict(path: Path) -> str:
        image = Image.open(path).convert("RGB").resize((short, short), resampling)
        x = np.asarray(image.crop((edge, edge, edge + size, edge + size)), np.float32)
        x = np.asarray((x / 255 - mean) / std, np.float32)
        if planar:
            x = np.ascontiguousarray(x.transpose(2, 0, 1))
        if port.scale is not None:
            limits = np.iinfo(port.dtype)
            fed = np.clip(np.rint(x / port.scale) + port.zero_point, limits.min, limits.max).astype(port.dtype)
        else:
            fed = x
        y = bare(fed[None])[0].astype(np.float32)
        if out.scale is not None:
            y = (y - out.zero_point) * np.float32(out.scale)
        y = np.exp(y - y.max())
        y /= y.sum()
        return model.labels[int(y.argmax())]

    return predict


def _predictions(model: Model, bundle: Bundle, photo: Path, rounds: int) -> None:
    by_hand = _by_hand(model, bundle)
    if by_hand(photo) != model(photo).label:
        raise SystemExit(f"the two sides disagree: {by_hand(photo)}, {model(photo).label}")
    hand, ours = _alternate((lambda: by_hand(photo), lambda: model(photo)), 20, rounds)
    a, b = statistics.median(hand), statistics.median(ours)
    text = f"by hand {a * 1e3:.2f} ms, model(jpeg) {b * 1e3:.2f} ms, {b / a:.3f}x"
    _say("predict", text, "at most 1.05x", b <= 1.05 * a)


def _streams(model: Model, photo: Path, rounds: int) -> None:
    frames = [photo] * 40
    serial, stream = _alternate((lambda: [model(f) for f in frames], lambda: list(model.stream(frames))), 1, rounds)
    a, b = statistics.median(serial) / len(frames), statistics.median(stream) / len(frames)
    ratio = statistics.median(s / t for s, t in zip(serial, stream, strict=True))
    text = f"serial {1 / a:.0f} frames/s, stream {1 / b:.0f} frames/s, {ratio:.2f}x"
    _say("stream", text, "at least 1.3x on two cores", ratio >= 1.3)


IMPORT = """
import json, time
start = time.perf_counter()
import edgekit.runtime
package = time.perf_counter() - start
import numpy
start = time.perf_counter()
edgekit.runtime.load
print(json.dumps({"package": package, "rest": time.perf_counter() - start}))
"""
CHILD = """
import time
begin = time.perf_counter()
import json, os, sys
import numpy as np
how, path, engine, artifact, imported = sys.argv[1:]
if how != "bare":
    from edgekit.runtime import load
if how == "bare" or imported == "yes":
    if engine == "onnxruntime":
        import onnxruntime as ort
    else:
        from ai_edge_litert import interpreter as tfl
if how != "bare" and imported == "yes":
    from edgekit.runtime.engines import litert, onnxruntime
if imported == "yes":
    begin = time.perf_counter()
if how != "bare":
    model = load(path, engine=engine, threads=1, verify=how, artifact=artifact)
    run = model.raw
elif engine == "onnxruntime":
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    run = lambda x: session.run(None, {name: x})
else:
    model = tfl.Interpreter(path, num_threads=1)
    model.allocate_tensors()
    source, sink = model.get_input_details()[0], model.get_output_details()[0]["index"]
    def run(x):
        model.set_tensor(source["index"], x)
        model.invoke()
        return model.get_tensor(sink)
seconds = time.perf_counter() - begin
port = json.loads(sys.stdin.read())
x = np.zeros(port["shape"], port["dtype"])
for _ in range(20):
    run(x)
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
kib = lambda key: int(status[key].split()[0]) * 1024
print(json.dumps({"seconds": seconds, "rss": kib("VmRSS"), "peak": kib("VmHWM")}))
"""


def _child(code: str, *words: str, stdin: str = "") -> dict[str, float]:
    argv = [sys.executable, "-c", code, *words]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}  # as installed
    done = subprocess.run(argv, env=environment, input=stdin, capture_output=True, text=True, check=True)
    answer: dict[str, float] = json.loads(done.stdout)
    return answer


def _loads(small: Path, whole: str, artifact: str, engine: str, file: Path, rounds: int) -> None:
    port = json.dumps(open_bundle(small, verify="off").manifest["artifacts"][0]["input"])
    sides = {
        "bare": ("bare", str(file)), "off": ("off", str(small)), "hash": ("hash", str(small)), "all": ("hash", whole)
    }  # fmt: skip
    for what, imported, bar in (("load alone", "yes", None), ("load, fresh process", "no", 1.3)):
        found: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
        for _ in range(rounds):
            for name, (how, path) in sides.items():
                found[name].append(_child(CHILD, how, path, engine, artifact, imported, stdin=port))
        middle = {
            name: {key: statistics.median(row[key] for row in rows) for key in rows[0]} for name, rows in found.items()
        }
        ms = {name: row["seconds"] * 1e3 for name, row in middle.items()}
        ratio = statistics.median(
            ours["seconds"] / bare["seconds"] for ours, bare in zip(found["hash"], found["bare"], strict=True)
        )
        text = f"bare {ms['bare']:.1f} ms, hash {ms['hash']:.1f} ms, {ratio:.2f}x"
        text += f"; unchecked {ms['off']:.1f} ms, of the whole bundle {ms['all']:.1f} ms"
        _say(what, text, f"under {bar}x" if bar else "", bar is None or ratio < bar)
    over = {name: (row["rss"] - middle["bare"]["rss"]) / 1e6 for name, row in middle.items()}
    peak = (middle["hash"]["peak"] - middle["bare"]["peak"]) / 1e6
    text = f"bare {middle['bare']['rss'] / 1e6:.0f} MB, {over['hash']:+.1f} MB, peak {peak:+.1f} MB"
    _say("resident memory", f"{text}; of the whole bundle {over['all']:+.1f} MB", "at most 15 MB", over["hash"] <= 15)


if __name__ == "__main__":
    sys.exit(main())
