"""Phones measured by ``executor_runner``. Phone and program are stand-ins (`tests/fake_phone.py`,
`tests/executor_runner.py`): the program runs the file in ExecuTorch, so that its times are real.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.device import probe
from edgekit.device.file import Device, LimitsSection, format_of
from edgekit.device.file import load as load_device
from edgekit.errors import InputError, Shortfall
from edgekit.measurements import Timing
from edgekit.profile.run import profile
from edgekit.reach import adb_shell, adb_worker
from edgekit.reach import executor_runner as module
from edgekit.reach.executor_runner import read
from edgekit.reach.program import Ask, Fault
from edgekit.reach.ways import adb
from edgekit.runtime import engine_menu, pte
from edgekit.types import Artifact, TensorSpec
from edgekit.verdict import rule as verdict
from tests import executor_runner, fake_phone, model_files, report_sample
from tests.test_profile import QUIET

ONCE = Ask("x.pte", 1)


@pytest.fixture
def phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that is ``/data/local/tmp`` there."""
    return fake_phone.connect(tmp_path, monkeypatch)


@pytest.fixture
def net(tmp_path: Path) -> Path:
    """A small float network as a .pte file."""
    if not engine_menu.installed(engine_menu.engine("executorch")):
        pytest.skip("executorch is not installed")
    (tmp_path / "net.pte").write_bytes(model_files.float_pte())
    return tmp_path / "net.pte"


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Path]:
    """The program as a file of this machine."""
    with executor_runner.serve(tmp_path) as file:
        yield file


def device(benchmark: Path | str, flags: list[str] | None = None, **run: Any) -> Device:
    reach = {"by": "adb", "host": "phone", "benchmark": str(benchmark), "flags": flags or []}
    brief = {"engines": ["executor_runner"], "seconds": 0.2, "rounds": 2, "warmup": 2, **run}
    return Device.model_validate({"name": "phone", "reach": reach, "run": brief})


def artifact(file: Path) -> Artifact:
    port = TensorSpec("x", (1, 3, 16, 16), "float32", "NCHW")
    return Artifact("executorch-fp32", "executorch", "fp32", file.name, "", file.stat().st_size, 0, (), port, port)


def measured(file: Path, on: Device, **options: Any) -> Timing:
    found = profile([artifact(file)], file.parent, {"phone": on}, QUIET, **options)
    assert not found.failures
    (row,) = found.timings
    return row


def why(file: Path, on: Device) -> str:
    """The one reason why nothing was measured."""
    with pytest.raises(Shortfall) as caught:
        profile([artifact(file)], file.parent, {"phone": on}, QUIET)
    line = str(caught.value)
    assert line.isprintable(), line
    return line


def script(folder: Path, text: str) -> Path:
    file = folder / "program"
    file.write_text(f"#!/bin/sh\n{text}\n")
    return file


# What it prints: lines of real runs that others have published.

OLD = """I 00:00:00.003987 executorch:executor_runner.cpp:166] Model file add.pte is loaded.
I 00:00:00.004058 executorch:executor_runner.cpp:175] Using method forward
I 00:00:00.004429 executorch:executor_runner.cpp:226] Setting up planned buffer 0, size 48.
I 00:00:00.005262 executorch:executor_runner.cpp:251] Method loaded.
I 00:00:00.006576 executorch:executor_runner.cpp:284] Model executed successfully 1 time(s) in 0.691078 ms.
I 00:00:00.006604 executorch:executor_runner.cpp:293] 1 outputs:
Output 0: tensor(sizes=[1], [2.])
"""
TRACED = """D 00:00:00.018719 executorch:XNNPACKBackend.cpp:69] Created XNN workspace: 0xaff21c2323e0
I 00:00:00.035506 executorch:executor_runner.cpp:157] Resetting threadpool with num threads = 1
I 00:00:00.048120 executorch:threadpool.cpp:48] Resetting threadpool to 1 threads.
I 00:00:00.051509 executorch:executor_runner.cpp:218] Model file model/linear_model_f32.pte is loaded.
D 00:00:00.091432 executorch:XNNExecutor.cpp:236] Resizing output tensor to a new shape
I 00:00:00.091459 executorch:executor_runner.cpp:340] Model executed successfully 1 time(s) in 2.904883 ms.
I 00:00:00.093912 executorch:executor_runner.cpp:125] ETDump written to file 'model/linear_model_f32.etdump'.
"""
NEW = """I 00:00:05.833558 executorch:executor_runner.cpp:564] Model loaded in 4463.268273 ms.
I 00:00:06.075611 executorch:executor_runner.cpp:705] Iteration 1 of 1: 241.944288 ms
I 00:00:06.075701 executorch:executor_runner.cpp:714] Model executed successfully 1 time(s) in 241.944288 ms.
"""


def test_read_takes_what_published_runs_print() -> None:
    old, traced, new = (read(text, ONCE) for text in (OLD, TRACED, NEW))
    assert (new.init_us, new.first_us) == pytest.approx((4463268.273, 241944.288))
    assert (old.first_us, traced.first_us) == pytest.approx((691.078, 2904.883))
    assert old.init_us == pytest.approx(6576 - 691.078)  # all since the start
    assert traced.init_us == pytest.approx(91459 - 48120 - 2904.883)  # since the line before the file was there
    assert old.times.median is None
    assert new.times.median == pytest.approx(241944.288)
    assert (old.footprint_mb, new.peak_mb) == (None, None)


TIMES = st.lists(st.integers(1, 10**9), min_size=3, max_size=60)


@given(TIMES, st.integers(0, 2), st.booleans())
def test_read_gives_back_what_any_times_print(ns: list[int], warmup: int, new: bool) -> None:
    log = executor_runner.Log()
    for place, each in enumerate(ns if new else ()):
        log.add(f"Iteration {place + 1} of {len(ns)}: {each / 1e6:f} ms")
    log.add(f"Model executed successfully {len(ns)} time(s) in {sum(ns) / 1e6:f} ms.")
    found = read(log.text, Ask("x", 1, warmup=warmup, runs=len(ns) - warmup, each_ms=1.0)).times
    if not new:
        assert found.count == len(ns)
        assert found.mean == pytest.approx(sum(ns) / len(ns) / 1000)
        assert found.warmed == (warmup == 0)
        return
    counted = np.array(ns[warmup:]) / 1000
    assert (found.count, found.warmed) == (len(ns) - warmup, True)
    assert (found.min, found.max) == pytest.approx((counted.min(), counted.max()))
    assert (found.mean, found.median) == pytest.approx((counted.mean(), np.median(counted)))


@settings(max_examples=300)
@given(st.integers(0, len(NEW)), st.integers(0, len(NEW)), st.text(max_size=20))
def test_read_raises_nothing_but_a_fault_on_harmed_output(first: int, last: int, put: str) -> None:
    line = ""
    try:
        said = read(NEW[: min(first, last)] + put + NEW[max(first, last) :], ONCE)
        assert said.times.min <= said.times.mean <= said.times.max
    except Fault as fault:
        line = str(fault)
    assert not line or line.isprintable()


@given(st.floats(1e-5, 1e6), st.floats(0, 1e6), st.floats(0, 1e6), st.integers(0, 10**6), st.integers(1, 10**6))
def test_seconds_become_a_bounded_number_of_inferences(
    each: float, warm: float, seconds: float, warmup: int, runs: int
) -> None:
    ask = Ask("x", 1, warmup, warm, runs, seconds, each)
    uncounted, counted = module.inferences(ask)
    assert uncounted >= 0
    assert counted >= 1
    assert uncounted + counted <= module.MOST
    if uncounted + counted < module.MOST // 2:
        assert uncounted >= warmup
        assert counted >= runs
        assert counted * each >= seconds * 1000 * (1 - 1e-9)
    longest = (
        f"I 00:00:00.000000 executorch:executor_runner.cpp:705 main()] Iteration {10**5} of {10**5}: 99999.999999 ms\n"
    )
    assert module.MOST * len(longest) < adb_shell.MOST


@pytest.mark.parametrize(
    ("text", "threads", "reason"),
    [
        (NEW.replace("1 of 1", "1 of 2"), 1, "its figures make no sense: 1 iterations"),
        (NEW.replace("y 1 time", "y 2 time"), 1, "1 inferences were asked for, it reports 2"),
        (NEW.replace("in 241.944288", "in 100.000000"), 1, "its figures make no sense"),
        (NEW, 4, "4 threads were asked for, executor_runner has 1, as this build has no thread pool"),
        (TRACED, 2, "2 threads were asked for, executor_runner has 1"),
        ("OutputX 0: tensor(sizes=[1], [2.])", 1, "-DEXECUTORCH_ENABLE_LOGGING=ON prints times"),
        ("", 1, "its last line: none at all; -DEXECUTORCH_ENABLE_LOGGING=ON"),
    ],
)
def test_read_refuses_what_was_not_asked_for(text: str, threads: int, reason: str) -> None:
    with pytest.raises(Fault) as caught:
        read(text, Ask("x", threads))
    assert reason in str(caught.value)


# A profile.


def test_profile_by_executor_runner(phone: Path, program: Path, net: Path) -> None:
    row = measured(net, device(program, threads=[2]))
    assert (row.engine, row.provider, row.threads, row.batch) == ("executor_runner", "XNNPACK (by the file)", 2, 1)
    assert row.engine_version.startswith("sha256 ")
    assert (len(row.samples), row.round_sizes) == (6, (3, 3))
    assert (row.p90_ms, row.p99_ms, row.outliers, row.stable) == (None,) * 4
    assert row.p50_ci is not None
    assert 0 < row.min_ms <= row.p50_ms
    assert row.sampling.startswith("p50 of 6 runs of executor_runner, each the median of ")
    assert (row.rss_bytes, row.model_bytes) == (0, None)
    assert row.load_ms > 0
    assert row.energy == "not measured: executor_runner has no counter"
    assert [path.suffix for path in sorted((phone / "edgekit").iterdir())].count(".pte") == 1


def test_what_needs_python_there_is_not_possible(phone: Path, program: Path) -> None:
    with adb.start(["-m", "edgekit.runtime.outputs"], device(program)) as worker:
        said, _ = worker.communicate('{"model": "x"}\n', timeout=30)
    assert '"not possible: executor_runner only times tensors of ones; this needs Python' in said


def test_an_older_version_tells_the_mean_of_all(
    phone: Path, program: Path, net: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STYLE", "old")
    row = measured(net, device(program, rounds=1, seconds=0.05, sustained=0.1), minute=0.1)
    assert "each the mean (warm-up included) of " in row.sampling
    assert "p95" not in row.sampling
    assert row.load_ms > 0
    assert row.min_ms <= row.p50_ms
    assert [(minute.minute, minute.p90_ms) for minute in row.sustained] == [(1, None)]


def test_a_minute_of_short_runs_goes_on_until_it_is_over(monkeypatch: pytest.MonkeyPatch, net: Path) -> None:
    def run(serial: str | None, argv: list[str], limit: float) -> tuple[int, str]:
        asked.append(argv)
        return executor_runner.main(argv[1:])

    asked: list[list[str]] = []
    monkeypatch.setattr(adb_shell, "run", run)
    monkeypatch.setattr(module, "MOST", 20)
    bench = adb_worker.Bench(adb_worker.Settings("executor_runner", None, "/x", "1", (), False, {}))
    bench.answer({"model": str(net), "threads": 1})
    assert bench.answer({"minute": {"seconds": 0.2}})["p50_ms"] > 0
    assert len(asked) > 2
    with pytest.raises(Fault, match="a batch of 4 was asked for, the file's is fixed at 1"):
        bench.answer({"model": str(net), "threads": 1, "batch": 4})


def test_what_cannot_be_measured_says_why(phone: Path, program: Path, net: Path, tmp_path: Path) -> None:
    assert "does not know --use_gpu; if edgekit set that" in why(net, device(program, ["--use_gpu=true"]))
    damaged = tmp_path / "damaged.pte"
    damaged.write_bytes(net.read_bytes().replace(b"ET12", b"ET13"))
    assert "a .pte file of format ET13, and this edgekit reads ET12" in why(damaged, device(program))
    assert "is not executor_runner: its --help does not list num_executions" in str(
        probe.check(device(script(tmp_path, "echo hello"))).problems
    )
    assert not probe.check(device(program)).problems


def test_a_version_that_cannot_read_the_file_is_named(net: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.pte"
    damaged.write_bytes(net.read_bytes().replace(b"ET12", b"ET13"))
    status, text = executor_runner.main(module.arguments(Ask(str(damaged), 1)))
    said = module.failure(status, text, "/x")
    assert said.startswith(f"executor_runner ended with status 1: Failed to parse model file {tmp_path}"[:200])


FAILED = (
    "F 00:00:00.004 executorch:executor_runner.cpp:559] In function main(), assert failed (method.ok()): "
    "Loading of method forward failed with status 0x{}\n"
)


@pytest.mark.parametrize(
    ("status", "text", "reasons"),
    [
        (
            134,
            "E 00:00:00.003 executorch:method.cpp:819] Missing operator: [29] aten::linear.out\n"
            "E 00:00:00.003 executorch:method.cpp:1125] There are 6 instructions don't have corresponding operator "
            "registered\n" + FAILED.format("14"),
            (
                "killed by signal 6 (it aborted): Loading of method forward failed with status 0x14 "
                "(an operator is missing): Missing operator: [29] aten::linear.out",
            ),
        ),
        (
            134,
            "E 00:00:00.366934 executorch:method.cpp:74] Backend XnnpackBackend is not registered.\n"
            + FAILED.format("20"),
            ("status 0x20 (something is not found)", "build it with XnnpackBackend", "-DEXECUTORCH_BUILD_XNNPACK=ON"),
        ),
        (134, "Aborted\n", ("signal 6 (it aborted): Aborted; -DEXECUTORCH_ENABLE_LOGGING=ON",)),
        (139, NEW, ("killed by signal 11 (it crashed)",)),
        (1, "ERROR: unknown command line flag 'cpu_threads'\n", ("does not know --cpu_threads", "build a newer one")),
        (127, "sh: /x: not found", ("there is no /x on the phone", "none is published")),
    ],
)
def test_a_program_that_fails_says_why(status: int, text: str, reasons: tuple[str, ...]) -> None:
    said = module.failure(status, text, "/x")
    assert said.isprintable()
    for reason in reasons:
        assert reason in said


def test_provider_is_what_the_file_was_exported_for(net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = net.read_bytes()
    assert module.provider(NEW, (), False, data) == "XNNPACK (by the file)"
    assert module.provider(TRACED, (), False, data) == "XNNPACK (by the file, events recorded)"
    found = pte.contents(data, "x")
    for delegates, operators, said in (
        ((), ("aten::add.out",), "portable kernels (by the file)"),
        (("VulkanBackend",), (), "VulkanBackend (by the file)"),
        (("XnnpackBackend",) * 2, ("aten::mean.out",), "XNNPACK (by the file, 1 operator calls outside)"),
    ):
        other = found._replace(delegates=delegates, operators=operators)
        monkeypatch.setattr(pte, "contents", lambda *_, other=other: other)
        assert module.provider(NEW, (), False, data) == said


# Device files, and what comes of it.


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("benchmark = 'b'", 'needs run.engines = ["benchmark_model"] or ["executor_runner"], and nothing else'),
        ("benchmark = 'b'\n[run]\nengines = ['executor_runner', 'executorch']", "and nothing else"),
        ("[run]\nengines = ['executor_runner']", 'executor_runner needs reach.by = "adb" and reach.benchmark'),
        (
            "benchmark = 'out/executor_runner'\n[run]\nengines = ['benchmark_model']",
            'executor_runner needs run.engines = ["executor_runner"], not ["benchmark_model"]',
        ),
        (
            "benchmark = 'phone:/x/android_aarch64_benchmark_model'\n[run]\nengines = ['executor_runner']",
            'android_aarch64_benchmark_model needs run.engines = ["benchmark_model"], not ["executor_runner"]',
        ),
        (
            "benchmark = 'b'\nflags = ['--num_executions=9']\n[run]\nengines = ['executor_runner']",
            "--num_executions: edgekit sets this itself",
        ),
        (
            "benchmark = 'b'\n[run]\nengines = ['executor_runner']\nproviders = {executor_runner = 'cpu'}",
            "executor_runner takes reach.flags",
        ),
    ],
)
def test_a_wrong_device_file_is_explained(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "phone.toml").write_text(f'name = "phone"\n[reach]\nby = "adb"\n{text}\n')
    with pytest.raises(InputError) as caught:
        load_device(tmp_path / "phone.toml")
    assert message in str(caught.value)


def test_its_accuracy_is_that_of_executorch_on_this_machine() -> None:
    assert format_of("executor_runner") == "executorch"
    whole = report_sample.report()
    row = next(t for t in whole.latency if t.engine == "litert" and t.samples)
    kept = next(each for each in whole.artifacts if each.id == row.artifact)
    scores = [replace(score, engine="executorch" if score.engine == "litert" else "") for score in whole.accuracy]
    row = replace(row, engine="executor_runner", device="phone", p90_ms=None, p99_ms=None)
    found = verdict.decide("phone", [kept], scores, [row], LimitsSection(), 90)
    assert "its accuracy is that of executorch, as executor_runner does not return outputs" in found.reason
