"""Phones measured by ``benchmark_model``. Phone and program are stand-ins, as neither can be had here: ``adb`` is a
script, the phone's shell and tools are mksh and toybox (Android's own) where they are installed, and the program is
`tests/benchmark_model.py`, which runs the file in LiteRT, so that its times are real.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import signal
import struct
import sys
import time
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.config import shipped
from edgekit.device import probe
from edgekit.device.file import Device, LimitsSection
from edgekit.device.file import load as load_device
from edgekit.errors import InputError, Shortfall
from edgekit.profile import accuracy
from edgekit.profile.run import profile
from edgekit.reach import adb_phone, adb_shell
from edgekit.reach import benchmark_model as benchmark_model_module
from edgekit.reach.benchmark_model import WHERE, read
from edgekit.reach.program import Fault
from edgekit.reach.ways import adb
from edgekit.report.formats import csv, html, markdown
from edgekit.types import Artifact, InputSpec, TensorSpec
from edgekit.verdict import rule as verdict
from tests import benchmark_model, fake_phone, model_files, report_sample
from tests.support import ROOT, complaint, edgekit
from tests.test_profile import QUIET


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A program as a file of this machine."""
    file = tmp_path / "my bench'mark model"
    file.write_text(f'#!/bin/sh\nexec {sys.executable} {ROOT / "tests" / "benchmark_model.py"} "$@"\n')
    return file


@pytest.fixture
def phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that is ``/data/local/tmp`` there."""
    return fake_phone.connect(tmp_path, monkeypatch)


def device(benchmark: Path | str, flags: list[str] | None = None, **run: Any) -> Device:
    reach = {"by": "adb", "host": "phone", "benchmark": str(benchmark), "flags": flags or []}
    brief = {"engines": ["benchmark_model"], "seconds": 0.3, "rounds": 2, "warmup": 1, **run}
    return Device.model_validate({"name": "phone", "reach": reach, "run": brief})


def model(folder: Path, name: str = "tiny $(touch OOPS) 'x'.tflite") -> Artifact:
    """A .tflite file, under a name that no shell should see."""
    (folder / name).write_bytes(model_files.int8_tflite())
    port = TensorSpec("x", (1, 8, 8, 3), "int8", "NHWC")
    return Artifact("tflite-int8", "tflite", "int8", name, "", (folder / name).stat().st_size, 0, (), port, port)


def script(folder: Path, text: str) -> Path:
    file = folder / "program"
    file.write_text(f"#!/bin/sh\n{text}\n")
    return file


# What it prints: lines of real runs that others have published.

OLD = """STARTING!
Log parameter values verbosely: [0]
Num threads: [4]
Graph: [./mobilenet_v1_1.0_224.tflite]
Enable op profiling: [1]
#threads used for CPU inference: [4]
Loaded model ./mobilenet_v1_1.0_224.tflite
The input model file size (MB): 16.9008
Initialized session in 17.187ms.
Running benchmark for at least 1 iterations and at least 0.5 seconds but terminate if exceeding 150 seconds.
count=1 curr=3512391

Running benchmark for at least 50 iterations and at least 1 seconds but terminate if exceeding 150 seconds.
count=50 first=2990275 curr=2913402 min=2727568 max=3189954 avg=2.95034e+06 std=109798

Inference timings in us: Init: 17187, First inference: 3512391, Warmup (avg): 3.51239e+06, Inference (avg): 2.95034e+06
Note: as the benchmark tool itself affects memory footprint, the following is only APPROXIMATE to the actual memory \
footprint of the model at runtime. Take the information at your discretion.
Memory footprint delta from the start of the tool (MB): init=4.21094 overall=46.0859
Timings (microseconds): count=50 first=1 curr=1 min=1 max=1 avg=1 std=0
"""
NEW = """INFO: Loaded model /usr/share/oob-demo-assets/models/ssd_mobilenet_v2_coco.tflite
INFO: Initialized session in 5.579ms.
INFO: Running benchmark for at least 1 iterations and at least 0.5 seconds but terminate if exceeding 150 seconds.
INFO: count=1 curr=1357602 p5=1357602 median=1357602 p95=1357602

INFO: Running benchmark for at least 50 iterations and at least 1 seconds but terminate if exceeding 150 seconds.
INFO: count=50 first=1249964 curr=1240143 min=1238588 max=1252566 avg=1.24027e+06 std=2565 p5=1238753 median=1239807 \
p95=1247415

INFO: Inference timings in us: Init: 5579, First inference: 1357602, Warmup (avg): 1.3576e+06, \
Inference (avg): 1.24027e+06
INFO: Memory footprint delta from the start of the tool (MB): init=6.36328 overall=109.832
INFO: Overall peak memory footprint (MB) via periodic monitoring: 117.5
"""


def test_read_takes_what_published_runs_print() -> None:
    old, new = read(OLD), read(NEW)
    assert (old.init_us, old.first_us, old.warmup, old.footprint_mb, old.peak_mb) == (17187, 3512391, 1, 46.0859, None)
    assert (old.times.count, old.times.mean, old.times.median, old.times.p95) == (50, 2.95034e6, None, None)
    assert (new.times.median, new.times.p95, new.times.min, new.times.max) == (1239807, 1247415, 1238588, 1252566)
    assert (new.footprint_mb, new.peak_mb) == (109.832, 117.5)


@given(st.lists(st.integers(1, 10**7), min_size=1, max_size=60), st.booleans())
def test_read_gives_back_what_any_times_print(times: list[int], new: bool) -> None:
    printed = benchmark_model.stats(times)
    said = printed if new else printed.partition(" p5=")[0]
    text = f"count=1 curr=7\n\n{said}\nInference timings in us: Init: 1, First inference: 7, Warmup (avg): 7, "
    found = read(f"{text}Inference (avg): {sum(times) / len(times):g}").times
    assert (found.count, found.min, found.max) == (len(times), min(times), max(times))
    assert found.mean == pytest.approx(sum(times) / len(times), rel=1e-5)


@settings(max_examples=300)
@given(st.integers(0, len(NEW)), st.integers(0, len(NEW)), st.text(max_size=20))
def test_read_raises_nothing_but_a_fault_on_harmed_output(first: int, last: int, put: str) -> None:
    line = ""
    try:
        said = read(NEW[: min(first, last)] + put + NEW[max(first, last) :])
        assert said.times.min <= said.times.mean * (1 + 1e-5)
    except Fault as fault:
        line = str(fault)
    assert not line or line.isprintable()


GPU = ["--use_gpu=true"]
APPLIED = "INFO: Explicitly applied GPU delegate, and the model graph will be {} executed by the delegate"


@pytest.mark.parametrize(
    ("text", "flags", "found"),
    [
        ("INFO: Created TensorFlow Lite XNNPACK delegate for CPU.", [], "XNNPACK delegate"),
        ("", [], "CPU"),
        ("", ["--use_xnnpack=false"], "CPU"),
        (APPLIED.format("completely"), GPU, "GPU delegate"),
        ("INFO: Replacing 64 out of 64 node(s) with delegate (TfLiteGpuDelegateV2) node", GPU, "TfLiteGpuDelegateV2"),
    ],
)
def test_provider_is_read_back(text: str, flags: list[str], found: str) -> None:
    assert benchmark_model_module.provider(text, flags, False) == found


@pytest.mark.parametrize(
    "text",
    [
        "",
        APPLIED.format("partially") + " w/ 2 delegate kernels.",
        "Replacing 60 out of 64 node(s) with delegate (TfLiteGpuDelegateV2) node",
        "Though GPU delegate is explicitly applied, the model graph will not be executed by the delegate.",
    ],
)
def test_a_fallback_is_a_fault_unless_it_is_allowed(text: str) -> None:
    with pytest.raises(Fault, match=r"gpu.*run\.allow_fallback"):
        benchmark_model_module.provider(text, GPU, False)
    assert "CPU" in (said := benchmark_model_module.provider(text, GPU, True)) or "not told" in said


# A profile.


def test_profile_by_benchmark_model(phone: Path, program: Path, tmp_path: Path, shared: Path) -> None:
    port = TensorSpec("x", (1, 96, 96, 3), "int8", "NHWC")
    vww = Artifact("vww", "tflite", "int8", str(shared / "models" / "vww_96_int8.tflite"), "", 1, 0, (), port, port)
    on_host = Device.model_validate({"name": "host", "run": {"engines": ["litert"], "seconds": 0.2, "rounds": 2}})
    found = profile([vww], tmp_path, {"phone": device(program), "host": on_host}, QUIET)
    assert not found.failures
    there, here = found.timings
    assert (there.engine, there.provider, there.threads, there.batch) == ("benchmark_model", "XNNPACK delegate", 1, 1)
    assert there.engine_version.startswith("sha256 ")
    assert (len(there.samples), there.round_sizes) == (6, (3, 3))
    assert (there.p90_ms, there.p99_ms, there.p90_ci, there.outliers, there.stable) == (None,) * 5
    assert there.p50_ci is not None
    assert there.min_ms <= there.p50_ms
    # A median is in whole microseconds, too coarse for this network on a fast machine.
    assert re.match("p50 of 6 runs of benchmark_model, each the (median|mean) of ", there.sampling)
    assert there.end_to_end.startswith("not measured: ")
    assert there.energy == "not measured: benchmark_model has no counter"
    assert there.rss_bytes > 20e6
    # The same engine computes both on the same processor: the figures are those, not others.
    assert here.p50_ms / 4 < there.p50_ms < here.p50_ms * 4
    machine = found.machines["phone"]
    assert (machine.arch, machine.python) == (platform.machine(), "not used")
    assert machine.cores == len(os.sched_getaffinity(0))
    names = sorted(path.name for path in (phone / "edgekit").iterdir())
    assert len(names) == 2
    assert names[0].endswith(".tflite") or names[1].endswith(".tflite")
    adb.clean(device(program))
    assert not (phone / "edgekit").exists()


def test_an_older_version_prints_no_median(
    phone: Path, program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STYLE", "old")
    on = device(program, rounds=1, seconds=0.03, sustained=0.1)
    (row,) = profile([model(tmp_path)], tmp_path, {"phone": on}, QUIET, minute=0.1).timings
    assert "each the mean of " in row.sampling
    assert "p95" not in row.sampling
    assert row.mean_ms == pytest.approx(sum(row.samples) / 3, rel=0.5)
    assert [(minute.minute, minute.p90_ms) for minute in row.sustained] == [(1, None)]
    assert not list(tmp_path.rglob("OOPS"))


def test_an_unchanged_file_is_not_sent_again(
    phone: Path, program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / model(tmp_path).path
    first = adb.send(file, device(program))
    monkeypatch.setenv("FULL", "yes")  # a push fails
    assert adb.send(file, device(program)) == first
    (phone / "edgekit" / Path(first).name).write_bytes(b"cut short")
    with pytest.raises(Shortfall, match=r"cannot be sent: No space left on device"):
        adb.send(file, device(program))
    monkeypatch.delenv("FULL")
    assert adb.send(file, device(program)) == first
    assert (phone / "edgekit" / Path(first).name).read_bytes() == file.read_bytes()


def why(tmp_path: Path, on: Device, name: str = "x.tflite") -> str:
    """The one reason why nothing was measured."""
    with pytest.raises(Shortfall) as caught:
        profile([model(tmp_path, name)], tmp_path, {"phone": on}, QUIET)
    line = str(caught.value)
    assert line.isprintable(), line
    return line


def test_names_with_metacharacters_are_never_interpreted(phone: Path, program: Path, tmp_path: Path) -> None:
    there = phone / "my $(touch OOPS) 'bench'"
    shutil.copy(program, there)
    there.chmod(0o755)
    on = device(f"phone:{there}", ["--use_xnnpack=$(touch OOPS); touch OOPS"], rounds=1, seconds=0.03)
    (row,) = profile([model(tmp_path)], tmp_path, {"phone": on}, QUIET).timings
    assert row.engine_version.startswith("sha256 ")
    assert not list(tmp_path.rglob("OOPS"))
    assert not Path("OOPS").exists()


def elf(machine: int) -> bytes:
    """The head of a program for another processor, 64-bit, little-endian."""
    return b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HHI", 2, machine, 1) + bytes(200)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("kill -11 $$", "benchmark_model was killed by signal 11 (it crashed)"),
        (
            "echo 'ERROR: Failed to allocate tensors!' >&2; echo 'ERROR: Benchmarking failed.'; exit 1",
            "status 1: ERROR: ",
        ),
        ('echo \'CANNOT LINK EXECUTABLE "x": library "libLiteRt.so" not found\'; exit 1', "needs a library that"),
        ("head -c 3000 /dev/urandom", "it printed no times of benchmark_model"),
        ("printf 'count=nan curr=1\\ncount=2 curr=1\\n'; echo 'hello\\033[2J'", "it printed no times"),
        ("exit 0", "its last line: none at all"),
        ("while :; do echo yesyesyesyesyesyesyesyesyesyesyesyesyesyes; done", "it prints without end"),
    ],
)
def test_a_program_that_fails_says_why(phone: Path, tmp_path: Path, text: str, reason: str) -> None:
    assert reason in why(tmp_path, device(script(tmp_path, f"PATH=/usr/bin:/bin\n{text}")))


def test_a_program_that_cannot_run_says_why(phone: Path, program: Path, tmp_path: Path) -> None:
    assert "does not know --use_gppu=true" in why(tmp_path, device(program, ["--use_gppu=true"]))
    assert "the delegate asked for (gpu) runs nothing" in why(tmp_path, device(program, GPU))
    assert "cannot be read as a .tflite file" not in why(tmp_path, device("phone:/data/local/tmp/gone"))
    assert "there is no /data/local/tmp/gone on the phone" in why(tmp_path, device("phone:/data/local/tmp/gone"))
    (phone / "plain").write_text("#!/bin/sh\n")
    assert "cannot execute" in why(tmp_path, device("phone:/data/local/tmp/plain"))
    other, name = (183, "AArch64") if platform.machine() == "x86_64" else (62, "x86-64")
    (phone / "other").write_bytes(elf(other))
    (phone / "other").chmod(0o755)
    assert "is built for a different processor than the phone" in why(tmp_path, device("phone:/data/local/tmp/other"))
    assert f"is built for {name}, but the phone runs" in why(
        tmp_path, device(shutil.copy(phone / "other", tmp_path / "o"))
    )
    with pytest.raises(InputError, match=r"reach\.benchmark: .*gone: cannot be read"):
        adb.start(["-m", "edgekit.runtime.bench"], device(tmp_path / "gone"))
    with pytest.raises(InputError, match="is not a program for Android"):
        adb.start(["-m", "edgekit.runtime.bench"], device(tmp_path / "x.tflite"))


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("error: device offline", "device offline: connect the phone and enable USB debugging"),
        ("error: device unauthorized.\nThis adb server's $ADB_VENDOR_KEYS is not set", "allow USB debugging"),
        (
            "* daemon not running; starting now at tcp:5037\nerror: no devices/emulators found",
            "USB debugging (Settings",
        ),
        ("error: closed", "error: closed"),
    ],
)
def test_a_phone_that_is_not_there_says_why(
    phone: Path, program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, message: str
) -> None:
    monkeypatch.setenv("ADB_SAYS", said)
    line = why(tmp_path, device(program))
    assert "cannot be reached by adb: " in line
    assert message in line
    assert "daemon" not in line


def test_a_full_phone_says_so(phone: Path, program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FULL", "yes")
    assert "cannot be sent: No space left on device" in why(tmp_path, device(program))


def test_another_batch_than_the_file_has_is_refused(phone: Path, program: Path, tmp_path: Path) -> None:
    assert "a batch of 4 was asked for, the file's is fixed at 1" in why(tmp_path, device(program, batch=[4]))


def alive(mark: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and mark in (entry / "cmdline").read_bytes().decode(errors="replace"):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def gone(mark: str) -> bool:
    end = time.monotonic() + 5
    while alive(mark) and time.monotonic() < end:
        time.sleep(0.05)
    return not alive(mark)


def test_a_program_that_hangs_is_ended_on_the_phone(phone: Path, tmp_path: Path) -> None:
    hanging = shutil.which("sleep")
    assert hanging is not None
    with pytest.raises(adb_shell.Hung, match="did not end within 1 s"):
        adb_shell.run("phone", [hanging, "98765.25"], 1)
    assert gone("98765.25")


def test_a_worker_that_is_killed_leaves_nothing_on_the_phone(
    phone: Path, program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLEEP", "60")
    on = device(program)
    path = adb.send(tmp_path / model(tmp_path).path, on)
    with adb.start(["-m", "edgekit.runtime.bench"], on) as worker:
        assert worker.stdin is not None
        worker.stdin.write(json.dumps({"model": path, "threads": 1}) + "\n")
        worker.stdin.flush()
        end = time.monotonic() + 20
        while not alive(f"--graph={phone}") and time.monotonic() < end:
            time.sleep(0.05)
        assert alive(f"--graph={phone}")
        worker.send_signal(signal.SIGKILL)
    assert gone(f"--graph={phone}")


@pytest.mark.parametrize("module", ["edgekit.runtime.outputs", "edgekit.runtime.trace", "edgekit.runtime.replay"])
def test_what_needs_python_there_is_not_possible_and_says_so(phone: Path, program: Path, module: str) -> None:
    with adb.start(["-m", module], device(program)) as worker:
        said, _ = worker.communicate('{"model": "x"}\n', timeout=30)
    assert json.loads(said)["error"].startswith("not possible: benchmark_model only times random tensors")


def test_accuracy_there_is_not_possible_and_is_no_lost_device(phone: Path, program: Path, tmp_path: Path) -> None:
    pixels, none = np.zeros((2, 8, 8, 3), np.uint8), np.zeros(2, np.int64)
    images = accuracy.TestImages("test", pixels, none, none, InputSpec(8, (0.0,) * 3, (1.0,) * 3))
    rows, (failure,) = accuracy.score([model(tmp_path)], tmp_path, {"phone": device(program)}, images, 1, QUIET)
    assert rows == []
    assert (failure.engine, failure.lost) == ("benchmark_model", False)
    assert failure.reason.startswith("accuracy: not possible: benchmark_model only times random tensors")
    assert not [path for path in (phone / "edgekit").iterdir() if path.suffix == ".npy"]  # for nobody there to read


# Device files.

PHONE = 'run.engines = ["benchmark_model"]\n[reach]\nby = "adb"\nbenchmark = "b"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[reach]\nby = "adb"\nbenchmark = "b"', 'reach.benchmark needs run.engines = ["benchmark_model"]'),
        ('[run]\nengines = ["benchmark_model"]', 'benchmark_model needs reach.by = "adb" and reach.benchmark'),
        ('[reach]\nby = "ssh"\nhost = "b"\nbenchmark = "b"', 'by = "ssh" does not use benchmark'),
        ('[reach]\nby = "adb"\nflags = ["--use_gpu=true"]', "flags are for benchmark, which is not set"),
        (f'{PHONE}flags = ["--num_runs=9"]', "--num_runs: edgekit sets this itself"),
        (f'{PHONE}flags = ["use_gpu"]', 'write flags of benchmark_model as "--name=value"'),
        ('[run]\nengines = ["benchmark_model"]\nproviders = {benchmark_model = "cpu"}', "takes reach.flags"),
    ],
)
def test_a_wrong_device_file_is_explained(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "phone.toml").write_text(f'name = "phone"\n{text}\n')
    with pytest.raises(InputError) as caught:
        load_device(tmp_path / "phone.toml")
    assert message in str(caught.value)


def test_the_example_in_the_shipped_file_is_a_device(tmp_path: Path) -> None:
    head, mark, example = shipped.files("devices")["android-phone"].read_text().partition("# [reach]\n")
    assert mark
    text = 'name = "phone"\n' + "\n".join(line.removeprefix("#").strip() for line in (mark + example).splitlines())
    assert tomllib.loads(text)["run"] == {"engines": ["benchmark_model"]}
    (tmp_path / "phone.toml").write_text(text)
    loaded = load_device(tmp_path / "phone.toml")
    assert loaded.reach.benchmark == str(tmp_path / "android_aarch64_benchmark_model")
    assert head.startswith("#")


def test_check_says_what_is_there_and_what_is_missing(phone: Path, program: Path, tmp_path: Path) -> None:
    shutil.copy(program, tmp_path / "bench")
    reach = '[reach]\nby = "adb"\nhost = "phone"\nbenchmark = "{}"\n[run]\nengines = ["benchmark_model"]\n'
    file = tmp_path / "phone.toml"
    file.write_text(f'name = "phone"\n{reach.format("bench")}')
    answer = json.loads(edgekit("devices", "check", file, "--json", cwd=tmp_path).stdout)
    assert (answer["ready"], answer["problems"]) == (True, [])
    assert answer["facts"]["engines"]["benchmark_model"].startswith("sha256 ")
    assert "benchmark_model sha256 " in edgekit("devices", "check", file, cwd=tmp_path).stdout
    file.write_text(f'name = "phone"\n{reach.format("gone")}')
    message = complaint("devices", "check", file, code=2, cwd=tmp_path)
    assert "gone: cannot be read: No such file" in message
    assert "https://www.tensorflow.org/lite/performance/measurement" in message
    (problem,) = probe.check(device(script(tmp_path, "echo hello"))).problems
    assert problem.endswith("is not benchmark_model: its --help does not list --graph")


# What comes of it.


def timed(limit: float | None) -> tuple[Any, Any]:
    """A hand-written report whose phone was measured by benchmark_model, and the verdict there."""
    whole = report_sample.report()
    row = next(t for t in whole.latency if t.engine == "litert" and t.samples)
    told: dict[str, Any] = dict.fromkeys(("p90_ms", "p99_ms", "p90_ci", "p99_ci", "outliers", "stable"))
    row = replace(row, engine="benchmark_model", device="phone", sampling="p50 of 6 runs, each <b>so</b>", **told)
    found = verdict.decide("phone", whole.artifacts, whole.accuracy, [row], LimitsSection(p90_ms=limit), 90)
    return replace(whole, latency=(row,), verdict=(found,)), found


def test_reports_show_what_is_not_known() -> None:
    report, found = timed(None)
    assert found.artifact is not None
    assert "its accuracy is that of litert, as benchmark_model does not return outputs" in found.reason
    page, short, lines = html.render(report), markdown.render(report), csv.render(report)
    assert "p50 of 6 runs, each &lt;b&gt;so&lt;/b&gt;." in page
    assert "p50 of 6 runs" in short
    assert "None" not in short
    fields = dict(zip(*(line.split(",") for line in lines.splitlines()[:2]), strict=False))
    assert (fields["engine"], fields["p90_ms"], fields["p99_high_ms"]) == ("benchmark_model", "", "")
    assert fields["p50_ms"]


def test_a_limit_for_p90_is_checked_as_far_as_p50_tells() -> None:
    assert "its p90 is unknown, so the 1000 ms limit was checked against p50 only" in timed(1000)[1].reason
    tight = timed(1e-6)[1]
    assert tight.artifact is None
    assert "p50 alone of " in tight.reason


def test_facts_of_a_phone(phone: Path, tmp_path: Path) -> None:
    (phone / "bin" / "getprop").write_text(
        "#!/bin/sh\ncase $1 in ro.soc.model) echo Tensor;; ro.product.model) echo 'Pixel 6';; "
        "ro.build.version.release) echo 14;; ro.product.cpu.abilist) echo arm64-v8a,armeabi-v7a;; esac\n"
    )
    (phone / "bin" / "getprop").chmod(0o755)
    facts = adb_phone.facts("phone", "benchmark_model")
    assert (facts["hostname"], facts["os"], facts["board"]) == ("Pixel 6", "Android 14", "Pixel 6")
    assert facts["cpu"].startswith("Tensor")
    assert facts["memory_bytes"] > 1e8
    assert facts["disk_free_bytes"] > 0
    (tmp_path / "other").write_bytes(elf(62))
    with pytest.raises(Shortfall, match=r"is built for x86-64, but the phone runs arm64-v8a, armeabi-v7a"):
        adb_phone.program(str(tmp_path / "other"), "phone", WHERE)
