"""How large is a report of many devices, and how long does a browser take to open it?

    python benchmarks/report_size.py [--devices 10] [--artifacts 8] [--samples 3000] [--keep FOLDER]

A made-up run: every artifact on its engines at one and four threads on every device, with every measured field filled
in. Prints the bytes of each format and, where a Chromium is installed, how long opening the page takes it in a new
headless process: wall time of the whole process, less that of the same browser with an empty page, and the page's own
``loadEventEnd`` (Navigation Timing), each the median of interleaved rounds.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from edgekit import choices
from edgekit.measurements import Kind, Machine, Minute, OperatorProfile, OperatorRow, Profile, Steps, Timing, Verdict
from edgekit.report.contents import Report
from edgekit.scores import Accuracy
from edgekit.types import Artifact, TensorSpec
from edgekit.verdict import stats

ENGINES = ("litert", "onnxruntime")
PRECISIONS = ("fp32", "int8", "fp16", "weight_only")
LOADED = """<script>addEventListener("load", () => setTimeout(() => {
const at = document.createElement("p");
at.textContent = "loaded " + performance.getEntriesByType("navigation")[0].loadEventEnd.toFixed(1) + " ms";
document.body.append(at); }))</script></body>"""


def sample(devices: int, artifacts: int, samples: int, rounds: int = 5) -> Report:
    """A report of `devices` x `artifacts`, each artifact on an engine at two thread counts."""
    from edgekit.report.contents import Provenance, StageRow, gather

    generator = np.random.default_rng(0)
    tensor = TensorSpec("x", (1, 224, 224, 3), "float32", "NHWC")
    files = [
        Artifact(
            f"{'onnx' if k % 2 else 'tflite'}-{PRECISIONS[k // 2 % 4]}{k // 8 or ''}",
            "onnx" if k % 2 else "tflite",
            PRECISIONS[k // 2 % 4],
            f"model-{k}",
            "0" * 64,
            (14_000_000, 3_700_000, 7_100_000, 3_600_000)[k // 2 % 4],
            0,
            (),
            tensor,
            tensor,
        )
        for k in range(artifacts)
    ]
    machine = Machine(
        "board", "aarch64", "Cortex-A76", 4, 8_000_000_000, ("asimddp",), "Linux 6.6", "3.11", "performance"
    )
    timings: list[Timing] = []
    operators: list[OperatorProfile] = []
    verdicts = []
    for d in range(devices):
        device = f"device {d}"
        kind: Kind = "estimated" if d == devices - 1 else "emulated" if d == devices - 2 else "measured"
        for k, file in enumerate(files):
            engine = ENGINES[k % 2]
            for threads in (1, 4):
                base = (20 + 3 * d) * (1.0, 0.45, 0.9, 1.1)[k // 2 % 4] / threads**0.7
                times = base * generator.lognormal(0, 0.03, samples) * (1 + (generator.random(samples) < 0.01))
                found = tuple(float(round(t, 4)) for t in times)
                sizes = (samples // rounds,) * (rounds - 1) + (samples - samples // rounds * (rounds - 1),)
                minutes = tuple(Minute(m, base * (1 + 0.01 * m), base * 1.1, 50 + m, 2400, m > 8) for m in range(1, 11))
                figures: dict[str, Any] = stats.summary(found)
                timing = Timing(
                    file.id, engine, "2.1", "CPU", device, threads, 1, kind, 20.0, 3 * base,
                    warmup=10, rounds=rounds, rss_bytes=int(5e7 + file.bytes), load_average=0.1, samples=found,
                    **figures,
                )  # fmt: skip
                full = replace(timing, **stats.intervals(found, sizes), sustained=minutes, stable=True, warmup_used=40)
                timings.append(replace(full, steps=Steps(4.0, 2.0, base, 0.1, base + 6.2), model_bytes=file.bytes))
            rows = [
                OperatorRow(op, f"blocks.{n}.conv", base / 60, 1 / 60, "XNNPACK", "int8")
                for n, op in enumerate(["CONV_2D", "DEPTHWISE_CONV_2D", "ADD"] * 20)
            ]
            operators.append(
                OperatorProfile(file.id, engine, "2.1", device, 4, "engine profiler", base, base, tuple(rows))
            )
        best = min((t for t in timings if t.device == device), key=lambda t: t.p50_ms)
        reason = f"{best.artifact} on {best.engine}, {best.threads} threads: p50 {best.p50_ms:.3g} ms"
        verdicts.append(Verdict(device, best.artifact, best.engine, best.threads, reason, best.kind))
    scores = [
        Accuracy(f.id, engine, "2.1", "host", "test", 10_000, 0.7 + 0.002 * k, 0.99)
        for k, f in enumerate(files)
        for engine in ENGINES
    ]
    return gather(
        name="many",
        created="2026-01-01T00:00:00+00:00",
        edgekit_version="0",
        recipe={"model": {"name": "mobilenetv2_100"}, "quantize": {"max_drop": 1.0}},
        stages=[StageRow("profile", 60.0)],
        provenance=Provenance({}, {}, {}),
        artifacts=files,
        accuracy=[Accuracy("torch-fp32", "torch", "2", "host", "test", 10_000, 0.712, 1.0), *scores],
        profile=Profile({f"device {d}": machine for d in range(devices)}, tuple(timings), (), tuple(operators)),
        limits={f"device {d}": {"p90_ms": 25.0} for d in range(devices)},
        verdict=verdicts,
    )


def opened(chromium: str, page: Path) -> tuple[float, float]:
    """Seconds of the process, and milliseconds until the page's load event had ended."""
    with tempfile.TemporaryDirectory() as profile:
        flags = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --dump-dom"
        start = time.perf_counter()
        command = [chromium, *flags.split(), f"--user-data-dir={profile}", page.as_uri()]
        shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
        took = time.perf_counter() - start
    found = re.search(r"loaded ([\d.]+) ms", shown.stdout)
    return took, float(found[1]) if found else float("nan")


def main() -> None:
    """Write, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=10)
    parser.add_argument("--artifacts", type=int, default=8)
    parser.add_argument("--samples", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--keep", type=Path, help="leave the files in this folder")
    options = parser.parse_args()
    report = sample(options.devices, options.artifacts, options.samples)
    print(f"{len(report.latency)} rows of {options.samples} samples")
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for name in choices.names("edgekit.report.formats"):
            start = time.perf_counter()
            text = choices.pick("edgekit.report.formats", name, "report").render(report)
            (folder / f"report.{name}").write_text(text, encoding="utf-8")
            print(f"{name:<9} {len(text.encode()):>12,} bytes, written in {time.perf_counter() - start:.2f} s")
        chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        if chromium is None:
            print("no Chromium: opening was not timed")
            return
        page = folder / "timed.html"
        page.write_text((folder / "report.html").read_text(encoding="utf-8").replace("</body>", LOADED))
        empty = folder / "empty.html"
        empty.write_text("<!doctype html><title>empty</title><body>" + LOADED)
        turns = [(opened(chromium, page), opened(chromium, empty)) for _ in range(options.rounds)]
    for name, side in (("report", 0), ("empty", 1)):
        walls, loads = zip(*(turn[side] for turn in turns), strict=True)
        print(
            f"{name:<9} process {median(walls):.2f} s (least {min(walls):.2f}), load event after {median(loads):.0f} ms"
        )
    print(f"opening the report costs {median(a[0] - b[0] for a, b in turns):.2f} s more than an empty page")


if __name__ == "__main__":
    main()
