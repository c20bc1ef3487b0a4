from __future__ import annotations

import itertools
import json
import platform
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgekit.console import Advance, Console
from edgekit.device.file import Device
from edgekit.errors import InputError, Shortfall
from edgekit.measurements import Profile
from edgekit.profile.run import profile
from edgekit.reach.ways import local
from edgekit.reach.worker import Worker, WorkerFault
from edgekit.runtime import _measure, machine
from edgekit.types import Artifact, TensorSpec
from edgekit.verdict import rule, stats

PORT = TensorSpec("x", (1, 64), "float32", "NC")
QUIET = Console(quiet=True)
OTHER_ARCH = "aarch64" if platform.machine() == "x86_64" else "x86_64"


def artifact(name: str, path: str, kind: Any = "onnx") -> Artifact:
    return Artifact(name, kind, "fp32", path, "", 0, 0, (), PORT, PORT)


def host(**run: Any) -> Device:
    return Device.model_validate(
        {"name": "host", "run": {"engines": ["onnxruntime"], "seconds": 0.05, "rounds": 2, "warmup": 1, **run}}
    )


def save_chain(path: Path, layers: int) -> None:
    """An ONNX file of `layers` 64 x 64 matrix products."""
    weight = np.random.default_rng(0).normal(0, 0.1, (64, 64)).astype(np.float32)
    names = ["x", *(f"h{i}" for i in range(layers - 1)), "y"]
    nodes = [helper.make_node("MatMul", [a, "w"], [b]) for a, b in itertools.pairwise(names)]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 64]) for name in "xy"]
    graph = helper.make_graph(nodes, "chain", ports[:1], ports[1:], [numpy_helper.from_array(weight, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artifacts")
    save_chain(folder / "short.onnx", 2)
    save_chain(folder / "long.onnx", 40)
    (folder / "garbage.onnx").write_bytes(b"not a model" * 100)
    return folder


SHORT, LONG, GARBAGE = (artifact(name, f"{name}.onnx") for name in ("short", "long", "garbage"))


def test_profile_measures_both_engines(folder: Path, shared: Path) -> None:
    tflite = artifact("vww", str(shared / "models" / "vww_96_int8.tflite"), "tflite")
    device = host(engines=["litert", "onnxruntime"], threads=[1])
    result = profile([SHORT, tflite], folder, {"host": device}, QUIET)
    assert [(row.artifact, row.engine, row.provider) for row in result.timings] == [
        ("short", "onnxruntime", "CPUExecutionProvider"),
        ("vww", "litert", "XNNPACK"),
    ]
    assert result.failures == ()
    for row in result.timings:
        assert (row.device, row.threads, row.batch, row.kind, row.rounds) == ("host", 1, 1, "measured", 2)
        assert len(row.samples) >= 6
        assert row.p90_ms is not None
        assert row.p99_ms is not None
        assert 0 < row.min_ms <= row.p50_ms <= row.p90_ms <= row.p99_ms <= max(row.samples)
        assert len(row.round_sizes) == 2
        assert sum(row.round_sizes) == len(row.samples)
        assert row.load_ms > 0
        assert row.first_ms > 0
        assert 10e6 < row.rss_bytes < 2e9
    assert result.machines["host"].cores == machine.cores()
    json.dumps(result.machines["host"].__dict__)


def test_profile_measures_about_the_seconds_asked_for(folder: Path) -> None:
    (row,) = profile([SHORT], folder, {"host": host(seconds=0.4)}, QUIET).timings
    assert 0.1 < sum(row.samples) / 1000 < 1.5  # loops of 0.4 s; the rest is the loop itself, and other processes


class Recorder(Console):
    """Keeps the titles of all steps, and calls `after` on each of them."""

    def __init__(self, after: Any = lambda step: None) -> None:
        super().__init__(quiet=True)
        self.steps: list[str] = []
        self.after = after

    @contextmanager
    def bar(self, title: str, total: int) -> Iterator[Advance]:
        def advance(steps: int = 1, status: str = "") -> None:
            self.steps.append(status)
            self.after(len(self.steps))

        yield advance


def test_profile_interleaves_in_a_seeded_order(folder: Path) -> None:
    artifacts = [artifact(name, "short.onnx") for name in "abcd"]
    runs = []
    for _ in range(2):
        recorder = Recorder()
        profile(artifacts, folder, {"host": host(rounds=4, seconds=0.02)}, recorder)
        runs.append(recorder.steps)
    opening, rounds = runs[0][:4], [runs[0][i : i + 4] for i in range(4, 20, 4)]
    assert all(sorted(order) == sorted(opening) for order in rounds)
    assert len({tuple(order) for order in rounds}) > 1
    assert runs[0] == runs[1]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[str]]:
    """The measuring processes, as they are started."""
    processes: list[subprocess.Popen[str]] = []
    start = local.start

    def record(argv: list[str], device: Device) -> subprocess.Popen[str]:
        process = start(argv, device)
        if "edgekit.runtime.bench" in argv:
            processes.append(process)
        return process

    monkeypatch.setattr(local, "start", record)
    return processes


def test_profile_goes_on_when_a_worker_is_killed(folder: Path, started: list[subprocess.Popen[str]]) -> None:
    def kill(step: int) -> None:
        if step == 4:  # both are open, and have run once
            started[0].send_signal(signal.SIGKILL)
            started[0].wait()

    result = profile([SHORT, LONG], folder, {"host": host(rounds=3)}, Recorder(kill))
    assert [row.artifact for row in result.timings] == ["long"]
    (failure,) = result.failures
    assert (failure.artifact, failure.engine, failure.threads) == ("short", "onnxruntime", 1)
    assert failure.reason.startswith("the measuring process was killed by SIGKILL")


def test_profile_raises_shortfall_when_the_only_worker_dies_while_it_measures(
    folder: Path, started: list[subprocess.Popen[str]]
) -> None:
    timer = threading.Timer(0.5, lambda: started[0].kill())

    def arm(step: int) -> None:
        if step == 1:
            timer.start()

    with pytest.raises(Shortfall, match="host: nothing was measured: the measuring process was killed by SIGKILL"):
        profile([SHORT], folder, {"host": host(seconds=30, rounds=1)}, Recorder(arm))
    timer.join()


def test_profile_ends_its_processes_when_interrupted(folder: Path, started: list[subprocess.Popen[str]]) -> None:
    def interrupt(step: int) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        profile([SHORT, LONG], folder, {"host": host()}, Recorder(interrupt))
    assert [process.returncode is not None for process in started] == [True, True]


def test_profile_opens_one_after_the_other_when_memory_is_short(
    folder: Path, started: list[subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = Worker.ask

    def short_of_memory(self: Worker, request: dict[str, Any], timeout: float) -> dict[str, Any]:
        return {**ask(self, request, timeout), "available_bytes": 1000}

    monkeypatch.setattr(Worker, "ask", short_of_memory)
    recorder = Recorder()
    result = profile([SHORT, LONG], folder, {"host": host(rounds=2)}, recorder)
    assert [row.artifact for row in result.timings] == ["short", "long"]
    assert recorder.steps == ["short on onnxruntime"] * 3 + ["long on onnxruntime"] * 3


def test_profile_gives_a_one_line_reason_when_a_file_is_garbage(folder: Path) -> None:
    result = profile([GARBAGE, SHORT], folder, {"host": host()}, QUIET)
    assert [row.artifact for row in result.timings] == ["short"]
    (failure,) = result.failures
    assert "garbage.onnx: cannot be loaded: " in failure.reason
    assert "\n" not in failure.reason


def test_profile_refuses_more_threads_than_cores(folder: Path) -> None:
    result = profile([SHORT], folder, {"host": host(threads=[1, 256])}, QUIET)
    assert [row.threads for row in result.timings] == [1]
    assert [row.threads for row in result.failures] == [256]
    assert result.failures[0].reason.startswith("256 threads asked for, but only ")


def test_profile_names_the_pip_command_when_an_engine_is_missing(folder: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    try:
        import tflite_runtime
    except ImportError:
        pass
    else:
        pytest.skip(f"tflite-runtime {tflite_runtime.__version__} is installed")
    device = host(engines=["tflite_runtime", "onnxruntime"])
    result = profile([SHORT, artifact("t", "t.tflite", "tflite")], folder, {"host": device}, QUIET)
    assert [row.engine for row in result.timings] == ["onnxruntime"]
    assert "pip install tflite-runtime" in result.failures[0].reason


def test_profile_raises_when_the_device_has_another_architecture(folder: Path) -> None:
    device = Device.model_validate({"name": "pi", "arch": OTHER_ARCH})
    with pytest.raises(InputError, match=f'pi: the device file says arch = "{OTHER_ARCH}", but the machine'):
        profile([SHORT], folder, {"pi": device}, QUIET)


@pytest.mark.parametrize(
    ("artifacts", "engines", "message"),
    [
        ([], ["onnxruntime"], "there are no artifacts"),
        ([SHORT], ["litert"], r"none of its engines \(litert\) runs onnx files"),
        ([GARBAGE], ["onnxruntime"], "garbage.onnx: cannot be loaded"),
    ],
)
def test_profile_raises_shortfall_when_nothing_is_measured(
    folder: Path, artifacts: list[Artifact], engines: list[str], message: str
) -> None:
    with pytest.raises(Shortfall, match=f"host: nothing was measured: .*{message}"):
        profile(artifacts, folder, {"host": host(engines=engines)}, QUIET)


def test_profile_measures_only_what_is_missing_or_has_changed(folder: Path, tmp_path: Path) -> None:
    work, keep = tmp_path / "work", tmp_path / "keep"
    work.mkdir()
    for name in ("short", "long"):
        (work / f"{name}.onnx").write_bytes((folder / f"{name}.onnx").read_bytes())

    def measured(artifacts: list[Artifact], **run: Any) -> tuple[set[str], Profile]:
        recorder = Recorder()
        result = profile(artifacts, work, {"host": host(**run)}, recorder, keep)
        return {step.split()[0] for step in recorder.steps}, result

    names, first = measured([SHORT])
    assert names == {"short"}
    names, second = measured([SHORT, LONG])
    assert names == {"long"}
    assert second.timings[0] == first.timings[0]
    assert measured([SHORT, LONG])[0] == set()
    assert measured([SHORT, LONG], rounds=3)[0] == {"short", "long"}  # another protocol
    assert len(list(keep.iterdir())) == 2  # and the results of the old one are gone
    save_chain(work / "short.onnx", 3)
    assert measured([SHORT, LONG], rounds=3)[0] == {"short"}
    for file in keep.iterdir():
        file.write_text(file.read_text()[:-40])
    names, last = measured([SHORT, LONG], rounds=3)
    assert names == {"short", "long"}
    assert len(last.timings) == 2


def script(monkeypatch: pytest.MonkeyPatch, plan: dict[str, Sequence[float]]) -> Counter[str]:
    """Rounds take the milliseconds of a plan, by file and round, beginning again at its end; all else is real.

    Returns the number of rounds of each file.
    """
    ask, turns = Worker.ask, Counter[str]()
    models: dict[int, str] = {}

    def scripted(self: Worker, request: dict[str, Any], timeout: float) -> dict[str, Any]:
        answer = ask(self, request, timeout)
        if "model" in request:
            models[id(self)] = Path(request["model"]).stem
        if "run" in request:
            name = models[id(self)]
            level = plan[name][turns[name] % len(plan[name])]
            turns[name] += 1
            answer |= {"ms": [level] * 5, "load_average": 3.1, "cpu_pressure": 0.5, "cpu_steal": 0.0}
        return answer

    monkeypatch.setattr(Worker, "ask", scripted)
    return turns


def test_profile_measures_again_what_is_too_uncertain(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two rounds in which one file is 2 and 11 % slower say nothing (t of one degree of freedom: 12.7); two more do."""
    (tmp_path / "slow.onnx").write_bytes((folder / "short.onnx").read_bytes())
    for name in ("short", "long"):
        (tmp_path / f"{name}.onnx").write_bytes((folder / f"{name}.onnx").read_bytes())
    files = [SHORT, LONG, artifact("slow", "slow.onnx")]
    turns = script(monkeypatch, {"short": [1.0], "long": [1.02, 1.105, 1.062, 1.062], "slow": [9.0, 9.1]})
    found = profile(files, tmp_path, {"host": host()}, QUIET, doubts=partial(rule.uncertain, files)).timings
    assert dict(turns) == {"short": 4, "long": 4, "slow": 2}
    assert [row.rounds for row in found] == [4, 4, 2]
    assert found[1].samples == (*[1.02] * 5, *[1.105] * 5, *[1.062] * 10)
    assert rule.uncertain(files, found) == []


def test_profile_gives_up_after_three_times_the_seconds(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [SHORT, LONG]
    turns = script(monkeypatch, {"short": [1.0, 2.0], "long": [2.0, 1.3]})
    doubts = partial(rule.uncertain, files)
    found = profile(files, folder, {"host": host()}, QUIET, tmp_path, doubts=doubts).timings
    assert dict(turns) == {"short": 6, "long": 6}
    assert [(row.rounds, row.round_sizes, len(row.samples)) for row in found] == [(6, (5,) * 6, 30)] * 2
    assert [(row.load_average, row.cpu_pressure, row.cpu_steal) for row in found] == [(3.1, 0.5, 0.0)] * 2
    assert rule.uncertain(files, found) == list(found)
    again = profile(files, folder, {"host": host()}, QUIET, tmp_path, doubts=doubts).timings
    assert (again, sum(turns.values())) == (found, 12)  # known, and not measured a third time
    assert profile(files, folder, {"host": host()}, QUIET).timings[0].rounds == 2  # nobody wanted to know


def test_profile_tells_which_devices_run_none_of_the_files(folder: Path) -> None:
    devices = {"able": host(), "unable": host(engines=["litert"])}
    result = profile([SHORT, LONG], folder, devices, QUIET)
    assert [(row.device, row.artifact) for row in result.timings] == [("able", "short"), ("able", "long")]
    assert [(row.device, row.artifact, row.lost) for row in result.failures] == [
        ("unable", "short", False),
        ("unable", "long", False),
    ]
    assert result.failures[0].reason == "none of its engines (litert) runs onnx files"


def test_profile_is_not_misled_by_files_in_the_working_directory(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("numpy", "onnxruntime", "json"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('not the real one')")
    monkeypatch.chdir(tmp_path)
    assert len(profile([SHORT], folder, {"host": host()}, QUIET).timings) == 1


def python(code: str) -> Worker:
    return Worker(local.start(["-c", code], host()))


def test_ask_raises_when_the_worker_is_silent() -> None:
    start = time.monotonic()
    with python("import time; time.sleep(60)") as worker, pytest.raises(WorkerFault, match=r"no answer .* within 0 s"):
        worker.ask({}, timeout=0.2)
    assert time.monotonic() - start < 10


def test_ask_says_why_when_the_worker_exits() -> None:
    with (
        python("import sys; sys.exit('the disk is on fire')") as worker,
        pytest.raises(WorkerFault, match="exited with status 1: the disk is on fire"),
    ):
        worker.ask({}, timeout=20)


def test_ask_raises_when_the_answer_is_not_json() -> None:
    with python("print('hello')") as worker, pytest.raises(WorkerFault, match=r"answered 'hello'"):
        worker.listen(timeout=20)


def test_bench_keeps_the_protocol_clean_when_an_engine_prints(folder: Path) -> None:
    code = """
import os, sys
from edgekit.runtime import bench
from edgekit.runtime.engines import onnxruntime
load = onnxruntime.load
def noisy(*arguments):
    os.write(1, b"chatter from native code\\n")
    print("chatter from Python", flush=True)
    return load(*arguments)
onnxruntime.load = noisy
sys.exit(bench._main())
"""
    first = {"model": str(folder / "short.onnx"), "engine": "onnxruntime", "threads": 1, "provider": None, "seed": 0}
    with python(code) as worker:
        assert worker.ask(first, 20)["provider"] == "CPUExecutionProvider"
        assert len(worker.ask({"run": {"warmup": 0, "seconds": 0, "min_samples": 7}}, 20)["ms"]) == 7
        assert worker.ask({"stop": True}, 20)["rss_bytes"] > 0


@pytest.mark.parametrize("first", ["", "no JSON", "{}", '{"surprise": 1}'])
def test_bench_answers_an_error_when_the_request_is_bad(first: str) -> None:
    argv = [sys.executable, "-m", "edgekit.runtime.bench"]
    answer = subprocess.run(argv, input=first + "\n", capture_output=True, text=True)
    assert answer.returncode == 1
    assert list(json.loads(answer.stdout)) == ["error"]


def test_peak_rss_is_not_inherited_from_the_parent() -> None:
    ballast = np.ones(40_000_000)  # 320 MB
    code = "from edgekit.runtime import machine; print(machine.peak_rss_bytes())"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 1e6 < int(answer.stdout) < 150e6
    assert ballast.nbytes > 300e6


@given(warmup=st.integers(0, 5), samples=st.integers(1, 20))
def test_measure_counts_what_it_is_told(warmup: int, samples: int) -> None:
    calls: list[int] = []
    times = _measure.measure(calls.append, 0, warmup, 0.0, samples)
    assert (len(times), len(calls)) == (samples, warmup + samples)


def test_measure_times_single_calls_in_milliseconds() -> None:
    times = _measure.measure(time.sleep, 0.02, 0, 0.0, 3)
    assert all(20 <= ms < 500 for ms in times)


@given(st.lists(st.floats(0.001, 1e6), min_size=2, max_size=200))
def test_summary_equals_the_standard_library(samples: list[float]) -> None:
    cuts = statistics.quantiles(samples, n=100, method="inclusive")
    found = stats.summary(samples)
    expected = {
        "min_ms": min(samples),
        "mean_ms": statistics.fmean(samples),
        "p50_ms": cuts[49],
        "p90_ms": cuts[89],
        "p99_ms": cuts[98],
    }
    assert found == pytest.approx(expected)


def test_facts_agree_with_the_system() -> None:
    found = machine.facts()
    assert found["hostname"] == platform.node()
    assert found["python"] == platform.python_version()
    assert found["cores"] >= 1
    assert found["memory_bytes"] > 100e6
    lscpu = subprocess.run(["lscpu"], capture_output=True, text=True, env={"LC_ALL": "C"})
    if lscpu.returncode:
        pytest.skip("no lscpu")
    facts = {k.strip(): v.strip() for k, _, v in (line.partition(":") for line in lscpu.stdout.splitlines())}
    assert found["arch"] == facts["Architecture"]
    assert set(found["features"]) <= set(facts["Flags"].split())
    if "avx2" in facts["Flags"].split():
        assert "avx2" in found["features"]
