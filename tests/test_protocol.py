"""The measuring protocol: warm-up, sensors, energy, end to end, sustained load, threads and batches.

There is no energy counter, thermal zone or Raspberry Pi here: those tests read trees of files laid out as the kernel's
documentation has them, below another root. Engines, bundles and processes are real.
"""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgekit.console import Console
from edgekit.device.file import Device
from edgekit.errors import InputError, Shortfall
from edgekit.profile import protocol
from edgekit.profile.run import profile
from edgekit.reach.ways import local
from edgekit.runtime import _contention, _energy, _load, _measure, _thermal, preprocess
from edgekit.runtime.bundle import open_bundle
from edgekit.types import Artifact, TensorSpec
from tests import bundles
from tests.sshd import Board, board, boards

__all__ = ["board", "boards"]

QUIET = Console(quiet=True)


def lay(root: Path, files: dict[str, Any]) -> str:
    """Write files below a root, as sysfs has them."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return str(root)


# warm-up


class Fake:
    """An engine whose calls take what a plan says; time does not pass."""

    def __init__(self, plan: Callable[[int], float], monkeypatch: pytest.MonkeyPatch) -> None:
        self.plan, self.calls, self.now = plan, 0, 0
        monkeypatch.setattr(_measure, "perf_counter_ns", lambda: self.now)

    def run(self, x: Any) -> None:
        self.now += int(self.plan(self.calls) * 1e6)
        self.calls += 1


@pytest.mark.parametrize(
    ("plan", "seconds", "used", "stable"),
    [
        (lambda n: 5.0, 10, 40, True),  # steady from the start: one window
        (lambda n: 0.5, 10, 200, True),  # of 0.1 s at least
        (lambda n: 500.0, 10, 10, True),  # slow: a window of half of the time
        (lambda n: 5.0 + 5 * 0.97**n, 10, (150, 250), True),  # until it has settled within 1 % over a window
        (lambda n: 5.0 * 1.003**n, 3, None, False),  # heats up all the time
    ],
)
def test_warm_up_goes_on_until_times_are_steady(
    plan: Callable[[int], float], seconds: float, used: Any, stable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = Fake(plan, monkeypatch)
    found = _measure.warm_up(fake.run, None, 3, seconds)
    assert found == (fake.calls, stable)
    if isinstance(used, tuple):
        assert used[0] <= fake.calls <= used[1]
    elif used:
        assert fake.calls == used
    assert fake.now / 1e9 < seconds + 1


@given(st.integers(0, 30), st.floats(0, 0.002))
def test_warm_up_keeps_to_its_bounds(least: int, seconds: float) -> None:
    calls: list[int] = []
    used, stable = _measure.warm_up(calls.append, 0, least, seconds)
    assert used == len(calls) >= least
    assert stable or seconds < 0.5
    if not seconds:
        assert used == least


# temperature, clock, throttling


def test_sensors_say_nothing_where_there_are_none(tmp_path: Path) -> None:
    root = str(tmp_path)
    assert (_thermal.temperature_c(root), _thermal.clock_mhz(root)) == (None, None)
    assert _thermal.throttle(root) == _thermal.Throttle()
    assert _thermal.throttled(_thermal.Throttle(), _thermal.Throttle()) is None


def test_contention_is_read_from_what_linux_counts(tmp_path: Path) -> None:
    """Of 0.5 s, a process waited for 0.1 s; of 100 ticks, 7 were stolen. Guest time (the last two) is in user time."""
    root = lay(tmp_path, {"proc/stat": "cpu 100 0 50 800 0 0 0 5 40 0", "proc/pressure/cpu": "some avg10=9.0 total=70"})
    before = _contention.counters(root)._replace(now_ns=0)
    assert before[1:] == (70, 5, 955)
    some = "some avg10=9.00 avg60=9.00 avg300=9.00 total=100070\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=3"
    lay(tmp_path, {"proc/stat": "cpu 160 0 60 823 0 0 0 12 90 0\ncpu0 1 2", "proc/pressure/cpu": some})
    after = _contention.counters(root)._replace(now_ns=500_000_000)
    assert _contention.shares(before, after) == {"cpu_pressure": 0.2, "cpu_steal": 0.07}
    nothing = _contention.counters(
        lay(tmp_path / "else", {"proc/stat": "", "proc/pressure/cpu": "full avg10=0 total=1"})
    )
    assert nothing[1:] == (None, None, 0)
    assert _contention.shares(nothing, nothing) == {"cpu_pressure": None, "cpu_steal": None}


def test_sensors_are_read(tmp_path: Path) -> None:
    zones = "sys/class/thermal/thermal_zone"
    root = lay(tmp_path, {f"{zones}0/temp": 48312, f"{zones}1/temp": 61200, f"{zones}2/temp": "error"})
    assert _thermal.temperature_c(root) == 61.2
    lay(tmp_path, {"proc/cpuinfo": "processor: 0\ncpu MHz\t\t: 2399.998\nprocessor: 1\ncpu MHz\t\t: 2600.5"})
    assert _thermal.clock_mhz(root) == 2600.5
    lay(
        tmp_path, {f"sys/devices/system/cpu/cpu{n}/cpufreq/scaling_cur_freq": f for n, f in ((0, 600000), (1, 2400000))}
    )
    assert _thermal.clock_mhz(root) == 2400


def test_processors_without_thermal_zones_have_a_sensor(tmp_path: Path) -> None:
    hwmon = "sys/class/hwmon/hwmon"
    files = {f"{hwmon}0/name": "nvme", f"{hwmon}0/temp1_input": 90000}
    root = lay(tmp_path, {**files, f"{hwmon}1/name": "k10temp", f"{hwmon}1/temp1_input": 55500})
    assert _thermal.temperature_c(root) == 55.5


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (0x0, 0x0, False),
        (0x0, 0x50000, True),  # since boot: under-voltage, and throttled, both new
        (0x50000, 0x50000, False),  # both before
        (0x50000, 0x50005, True),  # and again
        (0x0, 0x80008, True),  # soft temperature limit
        (0x1, 0x10001, False),  # under-voltage alone slows nothing down
    ],
)
def test_the_flags_of_a_raspberry_pi_are_understood(before: int, after: int, expected: bool, tmp_path: Path) -> None:
    file = "sys/devices/platform/soc/soc:firmware/get_throttled"
    states = [_thermal.throttle(lay(tmp_path, {file: f"{flags:x}"})) for flags in (before, after)]
    assert [state.flags for state in states] == [before, after]
    assert _thermal.throttled(*states) is expected


def test_vcgencmd_is_asked_where_there_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "bin" / "vcgencmd"
    tool.parent.mkdir()
    tool.write_text('#!/bin/sh\necho "throttled=0x50005"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tool.parent))
    assert _thermal.throttle(str(tmp_path)).flags == 0x50005
    tool.write_text("#!/bin/sh\necho VCHI initialization failed\nexit 255\n")
    assert _thermal.throttle(str(tmp_path)).flags is None


def test_counters_of_x86_and_cooling_devices_are_understood(tmp_path: Path) -> None:
    cpu, cooling = "sys/devices/system/cpu/cpu{}/thermal_throttle/", "sys/class/thermal/cooling_device"
    files = {f"{cpu.format(n)}{kind}_throttle_count": 4 for n in (0, 1) for kind in ("core", "package")}
    root = lay(tmp_path, {**files, f"{cooling}0/type": "thermal-cpufreq-0", f"{cooling}0/cur_state": 0})
    lay(tmp_path, {f"{cooling}1/type": "pwm-fan", f"{cooling}1/cur_state": 3})
    cool = _thermal.throttle(root)
    assert cool == _thermal.Throttle(counts=16, cooling=0)
    assert _thermal.throttled(cool, cool) is False
    lay(tmp_path, {f"{cpu.format(1)}core_throttle_count": 5})
    assert _thermal.throttled(cool, _thermal.throttle(root)) is True
    lay(tmp_path, {f"{cpu.format(1)}core_throttle_count": 4, f"{cooling}0/cur_state": 2})
    assert _thermal.throttled(cool, _thermal.throttle(root)) is True


# energy

RAPL = "sys/class/powercap/intel-rapl:{}/"


def rapl(root: Path, zone: str, name: str, energy: int, most: int = 262143328850) -> str:
    folder = RAPL.format(zone)
    files = {"name": name, "energy_uj": energy, "max_energy_range_uj": most}
    return lay(root, {folder + file: text for file, text in files.items()})


def test_rapl_is_the_sum_of_its_packages_and_runs_around(tmp_path: Path) -> None:
    rapl(tmp_path, "0", "package-0", 1_000_000)
    rapl(tmp_path, "1", "package-1", 999_000_000, most=1_000_000_000)
    rapl(tmp_path, "0:0", "core", 7)
    root = rapl(tmp_path, "2", "psys", 9)
    meter, why = _energy.find(root)
    assert meter is not None
    assert (meter.name, why) == ("RAPL package-0 + package-1", "")
    meter.start()
    rapl(tmp_path, "0", "package-0", 3_500_000)
    rapl(tmp_path, "1", "package-1", 4_000_000, most=1_000_000_000)
    assert meter.stop() == pytest.approx(2.5 + 5.0)


def test_energy_is_that_of_one_inference(tmp_path: Path) -> None:
    root = rapl(tmp_path, "0", "package-0", 0)
    runs: list[int] = []

    def run(x: int) -> None:
        time.sleep(0.005)
        runs.append(x)
        if len(runs) > 1:  # the first one is not counted
            rapl(tmp_path, "0", "package-0", 2000 * (len(runs) - 1))

    spent, counter = _measure.energy(run, 0, 0.05, root)
    assert spent == pytest.approx(2.0)
    assert counter == "RAPL package-0"


@pytest.mark.parametrize("kind", ["none", "locked", "garbage", "still"])
def test_energy_says_why_it_is_not_measured(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = str(tmp_path)
    if kind != "none":
        rapl(tmp_path, "0", "package-0", 5)
    file = tmp_path / RAPL.format("0") / "energy_uj"
    if kind == "locked":  # as the kernel has it since 5.10; root reads it all the same

        def refuse(path: str) -> int:
            raise PermissionError(13, "Permission denied", path)

        monkeypatch.setattr(_energy, "_integer", refuse)
    if kind == "garbage":
        file.write_text("many\n")
    expected = {
        "none": "not measured: no counter (RAPL, INA sensor or Jetson rail)",
        "locked": f"not measured: RAPL exists, but is not readable: sudo chmod a+r {file}",
        "garbage": f"not measured: RAPL exists, but {file} holds no number",
        "still": "not measured: RAPL package-0 did not move",
    }
    assert _measure.energy(lambda x: None, 0, 0.001, root) == (None, expected[kind])


def test_a_power_sensor_is_integrated(tmp_path: Path) -> None:
    hwmon = "sys/class/hwmon/hwmon0/"
    root = lay(tmp_path, {f"{hwmon}name": "ina226", f"{hwmon}power1_input": 3_000_000})
    meter, _ = _energy.find(root)
    assert meter is not None
    assert meter.name == "INA ina226"
    before, start = set(threading.enumerate()), time.perf_counter()
    meter.start()
    time.sleep(0.2)
    joules = meter.stop()
    assert joules == pytest.approx(3 * (time.perf_counter() - start), rel=0.5)  # a busy machine
    assert set(threading.enumerate()) == before


def test_of_the_rails_of_a_jetson_the_input_counts(tmp_path: Path) -> None:
    hwmon = "sys/class/hwmon/hwmon3/"
    rails = (("VDD_IN", 5000, 1200), ("VDD_CPU_GPU_CV", 5000, 400), ("VDD_SOC", 5000, 300))
    files = {f"{hwmon}name": "ina3221"}
    for number, (label, volts, amperes) in enumerate(rails, 1):
        files |= {f"{hwmon}in{number}_label": label, f"{hwmon}in{number}_input": str(volts)}
        files[f"{hwmon}curr{number}_input"] = str(amperes)
    meter, _ = _energy.find(lay(tmp_path, files))
    assert isinstance(meter, _energy.Sampled)
    assert meter.name == "INA VDD_IN"
    assert meter._watts() == pytest.approx(6.0)
    (tmp_path / hwmon / "in1_label").unlink()  # then all of them
    meter, _ = _energy.find(str(tmp_path))
    assert isinstance(meter, _energy.Sampled)
    assert meter._watts() == pytest.approx(6.0 + 2.0 + 1.5)


def test_the_rails_of_an_older_jetson_are_found(tmp_path: Path) -> None:
    folder = "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0/"
    rails = {f"{folder}rail_name_0": "POM_5V_IN", f"{folder}in_power0_input": 2100}
    root = lay(tmp_path, {**rails, f"{folder}rail_name_1": "POM_5V_GPU", f"{folder}in_power1_input": 40})
    meter, _ = _energy.find(root)
    assert isinstance(meter, _energy.Sampled)
    assert meter.name == "INA POM_5V_IN"
    assert meter._watts() == pytest.approx(2.1)


def test_a_sensor_that_goes_away_is_told(tmp_path: Path) -> None:
    hwmon = "sys/class/hwmon/hwmon0/"
    root = lay(tmp_path, {f"{hwmon}name": "ina226", f"{hwmon}power1_input": 3_000_000})

    def run(x: int) -> None:
        shutil.rmtree(tmp_path / "sys", ignore_errors=True)
        time.sleep(0.06)

    meter, _ = _energy.find(root)
    assert meter is not None
    meter.start()
    run(0)
    with pytest.raises(OSError, match="No such file"):
        meter.stop()


# end to end


@pytest.fixture
def waste(tmp_path: Path) -> Path:
    return bundles.write(tmp_path / "waste.edgekit")


def test_steps_are_those_of_a_prediction(waste: Path) -> None:
    images = _measure.golden_images(open_bundle(waste))
    with _load.load(waste, "onnxruntime") as model:
        found = _measure.end_to_end(model, images, 0.3)
        assert len(images) == 2
        assert model(images[0]).index == model(bundles.pixels()[0]).index
    parts = [found[name] for name in _measure.STEPS]
    assert min(parts) > 0
    assert found["total_ms"] == pytest.approx(sum(parts), rel=0.5)


def test_a_step_that_is_slow_is_told_from_the_others(waste: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = _measure.golden_images(open_bundle(waste))
    with _load.load(waste, "onnxruntime") as model:
        session = model._session
        for place, name in enumerate(_measure.STEPS):
            with monkeypatch.context() as patch:
                if name == "decode_ms":
                    slow(patch, preprocess, "upright")
                elif name == "preprocess_ms":
                    slow(patch, model, "_tensor")
                elif name == "infer_ms":
                    slow(patch, session, "run")
                else:
                    slow(patch, model, "_activation")
                steps = model.steps(images[0])
                assert model(images[0]).ms > 30
            assert steps[place] > 30
            assert sum(steps) - steps[place] < 30


def slow(patch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
    """Let a function take 30 ms longer."""
    real = getattr(owner, name)

    def late(*words: Any) -> Any:
        time.sleep(0.031)
        return real(*words)

    patch.setattr(owner, name, late)


# the page cache


def test_a_file_that_was_just_read_is_cached(waste: Path) -> None:
    waste.read_bytes()
    assert _measure.cached(str(waste)) in (True, None)
    assert _measure.cached(str(waste.parent / "gone")) is None


# whole profiles


def save_net(path: Path, batch: int | str = 1) -> Artifact:
    """A linear layer of 64 x 64, eight times over, with a batch that is fixed or open."""
    weight = np.random.default_rng(0).normal(0, 0.1, (64, 64)).astype(np.float32)
    names = ["x", *(f"h{i}" for i in range(7)), "y"]
    nodes = [helper.make_node("MatMul", [a, "w"], [b]) for a, b in itertools.pairwise(names)]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, 64]) for name in "xy"]
    graph = helper.make_graph(nodes, "net", ports[:1], ports[1:], [numpy_helper.from_array(weight, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    port = TensorSpec("x", (1, 64), "float32", "NC")
    return Artifact(path.stem, "onnx", "fp32", path.name, "", 0, 0, (), port, port)


def host(**run: Any) -> Device:
    run = {"engines": ["onnxruntime"], "seconds": 0.1, "rounds": 2, "warmup": 1, **run}
    return Device.model_validate({"name": "host", "run": run})


def test_a_profile_states_how_it_came_about(tmp_path: Path) -> None:
    (row,) = profile([save_net(tmp_path / "net.onnx")], tmp_path, {"host": host(seconds=1.0)}, QUIET).timings
    assert row.stable is not None
    assert row.warmup_used is not None
    assert row.warmup_used >= 40
    assert row.model_bytes is not None
    assert 0 < row.model_bytes < row.rss_bytes
    assert row.cached in (True, None)
    assert row.energy.startswith(("not measured: ", "RAPL", "INA"))
    assert (row.steps, row.end_to_end) == (None, "not measured: no bundle with golden images")
    assert row.sustained == ()


def test_threads_may_be_all_there_are(tmp_path: Path) -> None:
    found = profile([save_net(tmp_path / "net.onnx")], tmp_path, {"host": host(threads="all")}, QUIET)
    cores = found.machines["host"].cores
    threads = [row.threads for row in found.timings]
    assert threads == sorted({n for n in (1, 2, 4, 8, 16, 32, 64, 128, 256) if n <= cores} | {cores})
    assert found.failures == ()


def test_batches_are_measured_where_the_file_leaves_them_open(tmp_path: Path) -> None:
    files = [save_net(tmp_path / "open.onnx", "n"), save_net(tmp_path / "fixed.onnx")]
    found = profile(files, tmp_path, {"host": host(batch=[1, 8])}, QUIET)
    assert [(row.artifact, row.batch) for row in found.timings] == [("open", 1), ("open", 8), ("fixed", 1)]
    (failure,) = found.failures
    assert failure.artifact == "fixed"
    assert failure.reason.endswith("fixed.onnx: a batch of 8 was asked for, the file's is fixed at 1")


def test_each_round_may_have_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[str]] = []
    start = local.start

    def record(argv: Sequence[str], device: Device) -> subprocess.Popen[str]:
        started.append(start(argv, device))
        return started[-1]

    monkeypatch.setattr(local, "start", record)
    device = host(rounds=3, fresh=True)
    (row,) = profile([save_net(tmp_path / "net.onnx")], tmp_path, {"host": device}, QUIET).timings
    assert len(started) == 1 + 3  # and the one that holds the machine
    assert len(row.round_sizes) == 3
    assert all(process.returncode is not None for process in started)


def test_sustained_load_is_told_minute_by_minute(tmp_path: Path) -> None:
    device = host(sustained=0.5)
    (row,) = profile([save_net(tmp_path / "net.onnx")], tmp_path, {"host": device}, QUIET, minute=0.2).timings
    assert [minute.minute for minute in row.sustained] == [1, 2, 3]  # the last of half the length
    for minute in row.sustained:
        assert minute.p90_ms is not None
        assert 0 < minute.p50_ms <= minute.p90_ms


def unpacked(path: Path) -> list[Artifact]:
    """The files of a bundle, beside it."""
    opened = open_bundle(path)
    files = []
    for entry in opened.manifest["artifacts"]:
        data = opened.read(entry["file"])
        (path.parent / f"{entry['id']}.onnx").write_bytes(data)
        port = TensorSpec("x", (1, 3, 8, 10), "float32", "NCHW")
        sha = opened.manifest["members"][entry["file"]]["sha256"]
        files.append(Artifact(entry["id"], "onnx", "", f"{entry['id']}.onnx", sha, 0, 0, (), port, port))
    return files


def test_a_profile_with_the_bundle_measures_end_to_end(tmp_path: Path) -> None:
    path = bundles.write(tmp_path / "waste.edgekit")
    files = unpacked(path)
    other = replace(files[1], id="other")
    rows = profile([*files, other], tmp_path, {"host": host()}, QUIET, bundle=path).timings
    for row in rows[:2]:
        assert row.end_to_end == "2 golden images"
        assert row.steps is not None
        assert row.steps.total_ms > row.steps.infer_ms > 0
    assert (rows[2].steps, rows[2].end_to_end) == (None, "not measured: the bundle does not have this file")


def test_end_to_end_is_measured_over_ssh(board: Board, tmp_path: Path) -> None:
    path = bundles.write(tmp_path / "waste.edgekit")
    (row,) = profile(unpacked(path)[:1], tmp_path, {"pi": board.device("pi")}, QUIET, bundle=path).timings
    assert (row.device, row.end_to_end) == ("pi", "2 golden images")
    assert row.steps is not None


def test_a_row_outlives_images_that_cannot_be_decoded(tmp_path: Path) -> None:
    manifest, members = bundles.contents()
    path = bundles.write(tmp_path / "waste.edgekit", bundles.seal(manifest, {**members, "golden/1.png": b"no image"}))
    (row,) = profile(unpacked(path)[:1], tmp_path, {"host": host()}, QUIET, bundle=path).timings
    assert row.steps is None
    assert row.end_to_end.startswith("not measured: ")
    assert "not an image" in row.end_to_end
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(Shortfall, match=r"waste\.edgekit: "):
        profile(unpacked(bundles.write(tmp_path / "b.edgekit"))[:1], tmp_path, {"host": host()}, QUIET, bundle=path)


def test_both_engines_measure_the_same_pieces(shared: Path, tmp_path: Path) -> None:
    """What a device prints has the same keys as what the host's profile holds."""
    model = shared / "models" / "vww_96_int8.tflite"
    request = {"model": str(model), "engine": "litert", "threads": 1, "provider": None, "seed": 0}
    talk: list[dict[str, Any]] = [
        request,
        {"warm_up": {"least": 2, "seconds": 0.2}},
        {"run": {"warmup": 1, "seconds": 0.05, "min_samples": 3}},
        {"energy": {"seconds": 0.01}},
        {"minute": {"seconds": 0.1}},
        {"stop": True},
    ]
    argv = [sys.executable, "-m", "edgekit.runtime.bench"]
    said = subprocess.run(argv, input="\n".join(map(json.dumps, talk)), capture_output=True, text=True, check=True)
    ready, warm, samples, energy, minute, last = map(json.loads, said.stdout.splitlines())
    assert ready["model_bytes"] > 0
    assert warm["used"] >= 8
    assert min(samples["ms"]) > 0
    assert energy["of"]
    assert minute["p50_ms"] <= minute["p90_ms"]
    assert last["rss_bytes"] >= samples["rss_bytes"]


# the words


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("10m", 600), ("1.5h", 5400), (7, 7)])
def test_durations_have_units(text: Any, seconds: float) -> None:
    assert host(sustained=text).run.sustained == seconds


@pytest.mark.parametrize("text", ['"10"', '"ten minutes"', '"-1m"', "-1", '"1d"', "true", "inf"])
def test_durations_without_sense_are_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text(f'name = "x"\n[run]\nsustained = {text}\n')
    from edgekit.device import file as device_file

    with pytest.raises(InputError, match=r"run\.sustained"):
        device_file.load(path)


def test_the_protocol_is_written_down() -> None:
    assert all(title and text.endswith(".") for title, text in protocol.STEPS)
    assert protocol.markdown().count("\n") == len(protocol.STEPS) - 1
