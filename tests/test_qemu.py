"""ARM under emulation: what is built for it, what the engines compute there, what is counted and estimated."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.config import shipped
from edgekit.console import Console
from edgekit.device import file as device_file
from edgekit.device.file import Device, EstimateSection, Published
from edgekit.errors import InputError, Shortfall
from edgekit.profile import _estimate
from edgekit.reach import debian, sysroot
from edgekit.reach.ways import qemu
from edgekit.runtime import engine_menu
from edgekit.runtime.bench import random_input
from edgekit.types import HOST_ENGINES
from tests.conftest import TinyRun
from tests.support import complaint

CORES = {"rpi4-emulated": "cortex-a72", "rpi5-emulated": "cortex-a76"}
SETUP = "EDGEKIT_TEST_EMULATION"
"""Set: what an emulated device needs is fetched and built, and it is a failure if that does not work."""
INDEX = """\
Package: libc6
Version: 2.36-9
Depends: libgcc-s1, libcrypt1 (>= 1:4.4.10-10~)
Filename: pool/libc6.deb
SHA256: 00

Package: libgcc-s1
Version: 12.2
Depends: libc6 (>= 2.35), gcc-12-base (= 12.2.0-14), absent-virtual
Filename: pool/libgcc.deb
SHA256: 01

Package: libcrypt1
Version: 4.4
Pre-Depends: libc6
Depends: debconf (>= 0.5) | debconf-2.0
Filename: pool/libcrypt1.deb
SHA256: 02

Package: gcc-12-base
Version: 12.2
Filename: pool/gcc.deb
SHA256: 03

Package: debconf
Version: 1.5
Depends: perl
Filename: pool/debconf.deb
SHA256: 04

Package: python3:any
Version: 3
Filename: pool/python3.deb
SHA256: 05
"""


def emulated(name: str) -> Device:
    """A shipped device; where it is not set up the test is skipped, or sets it up if `SETUP` asks for that."""
    if os.environ.get(SETUP):
        build(CORES[name])
    lacking = sysroot.missing(CORES[name])
    if lacking:
        pytest.skip(f"{lacking}: edgekit devices setup {name}, or set {SETUP}=1")
    return device_file.load(shipped.find("devices", name))


@functools.cache
def build(cpu: str) -> None:
    """Once a session: it reads all files again."""
    sysroot.setup(cpu, Console(quiet=True))


def test_closure_follows_what_libraries_need() -> None:
    packages = debian.parse(INDEX)
    found = debian.closure(packages, ["libc6"], without=["debconf"])
    assert [each.name for each in found] == ["gcc-12-base", "libc6", "libcrypt1", "libgcc-s1"]
    assert packages["libc6"].needs == (("libgcc-s1",), ("libcrypt1",))
    assert packages["libcrypt1"].needs == (("libc6",), ("debconf", "debconf-2.0"))


def test_closure_names_a_package_that_is_not_there() -> None:
    with pytest.raises(InputError, match="no libmissing"):
        debian.closure(debian.parse(INDEX), ["libc6", "libmissing"])


@pytest.fixture
def deb(tmp_path: Path) -> Path:
    """A package as Debian's own tool writes it."""
    if shutil.which("dpkg-deb") is None:
        pytest.skip("no dpkg-deb")
    source = tmp_path / "source"
    (source / "DEBIAN").mkdir(parents=True)
    (source / "DEBIAN/control").write_text(
        "Package: odd\nVersion: 1\nArchitecture: all\nMaintainer: nobody <nobody@example.com>\nDescription: odd\n"
    )
    (source / "usr/lib").mkdir(parents=True)
    (source / "usr/lib/odd.txt").write_text("odd length")
    (source / "usr/lib/link").symlink_to("odd.txt")
    subprocess.run(
        ["dpkg-deb", "-Zxz", "--root-owner-group", "-b", source, tmp_path / "odd.deb"], check=True, capture_output=True
    )
    return tmp_path / "odd.deb"


def test_unpack_writes_what_dpkg_packed(deb: Path, tmp_path: Path) -> None:
    debian.unpack(deb, tmp_path / "ours")
    subprocess.run(["dpkg-deb", "-x", deb, tmp_path / "theirs"], check=True)
    assert sysroot._tree_sha256(tmp_path / "ours") == sysroot._tree_sha256(tmp_path / "theirs")
    assert (tmp_path / "ours/usr/lib/link").read_text() == "odd length"


def test_unpack_says_so_when_damaged(deb: Path, tmp_path: Path) -> None:
    content = deb.read_bytes()
    for size in range(0, len(content), 31):
        (tmp_path / "cut.deb").write_bytes(content[:size])
        try:
            debian.unpack(tmp_path / "cut.deb", tmp_path / "into")
        except InputError as error:
            assert "cut.deb" in str(error)  # noqa: PT017


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """An HTTP server over a folder, and the paths that were asked of it."""
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(tmp_path))

        def log_request(self, code: Any = "-", size: Any = "-") -> None:
            asked.append(self.path)

        def log_message(self, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
        thread.join()


def test_download_fetches_once_and_checks_the_hash(mirror: tuple[str, list[str]], tmp_path: Path) -> None:
    url, asked = mirror
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool/a.deb").write_bytes(b"abc")
    sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # of "abc", FIPS 180-2
    package = debian.Package("a", "1", "pool/a.deb", sha256, ())
    for _ in range(2):
        assert debian.download(url, package, tmp_path / "got").read_bytes() == b"abc"
    assert asked == ["/pool/a.deb"]
    (tmp_path / "got/a.deb").write_bytes(b"ab")  # as a kill or a full disk may leave it
    assert debian.download(url, package, tmp_path / "got").read_bytes() == b"abc"
    (tmp_path / "pool/b.deb").write_bytes(b"other")
    with pytest.raises(InputError, match="SHA-256 is not the one"):
        debian.download(url, debian.Package("b", "1", "pool/b.deb", sha256, ()), tmp_path / "got")
    with pytest.raises(InputError, match=r"pool/c\.deb: cannot be fetched"):
        debian.download(url, debian.Package("c", "1", "pool/c.deb", sha256, ()), tmp_path / "got")
    assert [file.name for file in (tmp_path / "got").iterdir()] == ["a.deb"]


def test_part_is_built_again_only_when_harmed_or_changed(tmp_path: Path) -> None:
    built: list[str] = []

    def part(wanted: str, fail: bool = False) -> None:
        def build(into: Path) -> str:
            (into / "file").write_text(wanted)
            if fail:
                raise InputError("no network")
            built.append(wanted)
            return wanted

        sysroot._part(tmp_path, "wheels", Console(quiet=True), build, {"wanted": wanted})

    with pytest.raises(InputError):
        part("one", fail=True)
    assert "wheels" not in sysroot._record(tmp_path)
    part("one")
    part("one")
    assert built == ["one"]
    (tmp_path / "wheels/file").write_text("harmed")
    part("one")
    part("two")
    assert built == ["one", "one", "two"]
    with pytest.raises(InputError):
        part("three", fail=True)
    assert (tmp_path / "wheels/file").read_text() == "two"
    assert sysroot._record(tmp_path)["wheels"]["wanted"] == "two"


def test_start_says_what_to_run_when_not_set_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    pi = device_file.load(shipped.find("devices", "rpi5-emulated"))
    with pytest.raises(Shortfall, match="edgekit devices setup rpi5-emulated"):
        qemu.start(["-c", "pass"], pi)
    with pytest.raises(Shortfall, match="edgekit devices setup rpi5-emulated"):
        qemu.count(tmp_path / "model.onnx", "onnxruntime", pi)


def test_setup_is_refused_when_device_is_not_emulated() -> None:
    assert "needs no setup" in complaint("devices", "setup", "host", code=2)


def test_setup_says_what_is_lacking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(InputError, match="C compiler"):
        sysroot.setup("cortex-a76", Console(quiet=True))
    assert not list(tmp_path.iterdir())


def test_plugin_compiles_without_a_warning(tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    command = [compiler, "-shared", "-fPIC", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Werror"]
    subprocess.run([*command, "-o", tmp_path / "counter.so", sysroot._PLUGIN], check=True)


def row(ms: float, instructions: int, loaded: int, stored: int, fit: bool = True) -> Published:
    counts = {"instructions": instructions, "loaded": loaded, "stored": stored}
    return Published(net="n", engine="XNNPACK", ms=ms, source="s", fit=fit, **counts)


COUNT = st.integers(10**6, 10**9)


@settings(max_examples=25, deadline=None)
@given(st.tuples(*[st.floats(0.01, 1.0)] * 3), st.lists(st.tuples(COUNT, COUNT, COUNT), min_size=3, max_size=6))
def test_fit_predicts_the_times_that_its_model_made(constants: tuple[float, ...], counts: list[Any]) -> None:
    rows = [row(sum(a * b for a, b in zip(constants, each, strict=True)) * 1e-6, *each) for each in counts]
    found = _estimate.fit(rows)
    for each in rows:
        assert abs(_estimate.relative_error(found, each)) < 1e-3
    assert min(found.constants) >= 0


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.floats(1, 100), *[st.integers(1, 100)] * 3), min_size=2, max_size=6))
def test_fit_is_no_worse_than_any_on_a_grid(rows: list[Any]) -> None:
    published = [row(*each) for each in rows]

    def loss(fit: _estimate.Fit) -> float:
        return sum(_estimate.relative_error(fit, each) ** 2 for each in published)

    best = loss(_estimate.fit(published))
    for constants in product((0.0, 0.1, 0.5, 1.0, 3.0), repeat=3):
        assert best <= loss(_estimate.Fit(constants)) + 1e-9


def test_fit_error_is_that_of_times_it_has_not_seen() -> None:
    rows = [row(10, 100, 10, 1), row(20, 200, 20, 2), row(60, 300, 30, 3, fit=False)]
    assert _estimate.fit(rows).error == pytest.approx(0.5)  # 30 instead of 60
    with pytest.raises(Shortfall, match="two published times"):
        _estimate.fit(rows[1:])


def test_bar_is_wider_where_nothing_was_published() -> None:
    rows = [row(10, 100, 10, 1), row(20, 200, 20, 2), row(60, 300, 30, 3, fit=False)]
    section = EstimateSection(threads=4, engines=["litert"], published=rows)
    fit = _estimate.fit(rows)
    bars = [_estimate.bar(fit, ms, engine, section) for ms in (5, 4.9, 121) for engine in ("litert", "onnxruntime")]
    assert bars == pytest.approx([0.5, 1.0, 1.0, 2.0, 1.0, 2.0])


@pytest.mark.parametrize("name", CORES)
def test_shipped_estimates_hold_for_what_was_kept_out(name: str) -> None:
    section = device_file.load(shipped.find("devices", name)).estimate
    assert section is not None
    found = _estimate.fit(section.published)
    kept_out = [each for each in section.published if not each.fit]
    assert kept_out
    assert all(each.source.startswith("https://") for each in section.published)
    assert all(abs(_estimate.relative_error(found, each)) <= 0.25 for each in kept_out)


def test_estimate_says_why_there_is_none(tiny: TinyRun) -> None:
    pi = device_file.load(shipped.find("devices", "rpi5-emulated"))
    artifact = next(each for each in artifacts(tiny) if each.id == "tflite-int8")
    with pytest.raises(Shortfall, match="4 threads, not for 1"):
        _estimate.estimate(artifact, tiny.path / "6-export", "litert", 1, pi)
    with pytest.raises(Shortfall, match=r"no \[estimate\] section"):
        _estimate.estimate(artifact, tiny.path, "litert", 4, pi.model_copy(update={"estimate": None}))


def artifacts(tiny: TinyRun) -> list[Any]:
    from edgekit.disk import json_file
    from edgekit.types import Artifact

    return json_file.load(tiny.path / "6-export/artifacts.json", list[Artifact])


@pytest.mark.parametrize("name", CORES)
def test_machine_is_the_core_that_was_asked_for(name: str) -> None:
    process = qemu.start(["-m", "edgekit.runtime.machine"], emulated(name))
    printed, _ = process.communicate(timeout=120)
    facts = json.loads(printed)
    assert (facts["arch"], facts["cpu"].lower()) == ("aarch64", CORES[name])
    assert ("asimddp" in facts["features"]) == (name == "rpi5-emulated")  # the dot products that the Pi 4 lacks


@pytest.mark.parametrize("name", CORES)
@pytest.mark.parametrize("suffix", ["onnx", "tflite"])
def test_int8_outputs_are_those_of_this_machine(name: str, suffix: str, tiny: TinyRun) -> None:
    pi, model = emulated(name), tiny.path / "6-export" / f"model-int8.{suffix}"
    session = engine_menu.engine(HOST_ENGINES[suffix]).load(str(model), 1)
    inputs = np.concatenate([random_input(session.input, seed) for seed in range(16)])
    here = np.concatenate([session.run(each[None]) for each in inputs])
    there = qemu.outputs(model, HOST_ENGINES[suffix], pi, inputs)
    assert there.dtype == here.dtype
    np.testing.assert_array_equal(there, here)


@pytest.mark.parametrize("suffix", ["onnx", "tflite"])
def test_counts_repeat_and_tell_the_cores_apart(suffix: str, tiny: TinyRun, tmp_path: Path) -> None:
    model = tiny.path / "6-export" / f"model-int8.{suffix}"
    elsewhere = shutil.copy(model, tmp_path / f"the same file in another place.{suffix}")
    first, second, old = (
        qemu.count(Path(file), HOST_ENGINES[suffix], emulated(name))
        for file, name in ((model, "rpi5-emulated"), (elsewhere, "rpi5-emulated"), (model, "rpi4-emulated"))
    )
    assert first == second  # to the instruction and the byte, in two processes
    assert first.spread < 0.01
    assert old.instructions > first.instructions


def test_a_counter_of_another_release_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source = hashlib.sha256(sysroot._PLUGIN.read_bytes()).hexdigest()
    parts = ("host", "sysroot", "wheels", "counter", "cores/cortex-a76")
    for part in parts:
        (sysroot.folder() / part).mkdir(parents=True)
    for known, lacking in ((source, ""), ("another", "not set up (this release's counter missing)")):
        record = {part: {"source": known} for part in parts}
        (sysroot.folder() / sysroot.RECORD).write_text(json.dumps(record))
        assert sysroot.missing("cortex-a76") == lacking


def test_profile_of_an_emulated_device_is_estimated(tiny: TinyRun) -> None:
    from edgekit.profile.run import profile

    pi = emulated("rpi5-emulated")
    chosen = [each for each in artifacts(tiny) if each.id == "tflite-int8"]
    found = profile(chosen, tiny.path / "6-export", {pi.name: pi}, Console(quiet=True))
    (timing,) = found.timings
    assert (timing.kind, timing.threads, timing.samples) == ("estimated", 4, ())
    assert timing.instructions
    assert timing.p50_ci is not None
    assert timing.p50_ci[0] < timing.p50_ms < timing.p50_ci[1]
    assert found.machines[pi.name].cpu == "Cortex-A76"


def test_emulated_core_says_why_a_file_does_not_run(tmp_path: Path) -> None:
    (tmp_path / "bad.tflite").write_bytes(b"not a model")
    with pytest.raises(Shortfall, match=r"bad\.tflite: cannot be loaded"):
        qemu.count(tmp_path / "bad.tflite", "litert", emulated("rpi5-emulated"))
