"""PyTorch beside the exported files: a row to compare with, which no verdict, bundle or comparison takes for a file."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from edgekit import models
from edgekit.console import Advance, Console
from edgekit.device.file import Device, LimitsSection
from edgekit.errors import Shortfall
from edgekit.measurements import Timing
from edgekit.profile import torch_reference
from edgekit.profile.run import profile
from edgekit.report import comparison, reader
from edgekit.report.formats import csv as csv_report
from edgekit.report.formats import html, markdown
from edgekit.report.formats import json as json_report
from edgekit.runtime.bundle import open_bundle
from edgekit.runtime.engines import torch_cuda
from edgekit.types import HOST_ENGINES, TORCH_FP32
from edgekit.verdict.rule import best_kind, contenders, decide
from tests import nets, support
from tests.report_sample import ARTIFACTS, accuracy, report, timing
from tests.test_profile import QUIET, SHORT, artifact, save_chain

NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, so nothing is missing")


def device(provider: str | None = "cpu", **run: Any) -> Device:
    section = {"engines": ["torch_cuda", "onnxruntime"], "seconds": 0.05, "rounds": 2, "warmup": 1, **run}
    providers = {"torch_cuda": provider} if provider else {}
    return Device.model_validate({"name": "host", "run": {"providers": providers, **section}})


def row(p50: float, name: str = "host", threads: int = 1) -> Timing:
    """What PyTorch took, made up."""
    like = timing("onnx-fp32", "onnxruntime", p50, device=name, threads=threads)
    return replace(like, artifact=TORCH_FP32, engine="torch_cuda", provider="cuda", reference=True)


# --- device files


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reach": {"by": "ssh", "host": "pi"}}, 'torch_cuda runs on this machine only, and reach.by is "ssh"'),
        ({"run": {"engines": ["torch_cuda"]}}, "torch_cuda is only a reference; name an engine that runs exported"),
        ({"run": {"engines": ["litert", "torch_cuda"], "providers": {"torch_cuda": "gpu"}}}, '"gpu": no such provider'),
    ],
)
def test_device_files_that_cannot_be(change: dict[str, Any], message: str) -> None:
    given = {"name": "board", "run": {"engines": ["onnxruntime", "torch_cuda"]}, **change}
    with pytest.raises(ValidationError, match=message.replace(".", r"\.")):
        Device.model_validate(given)


def test_device_file_errors_name_the_file(tmp_path: Path) -> None:
    file = tmp_path / "board.toml"
    file.write_text('name = "board"\n[run]\nengines = ["torch_cuda"]\n')
    said = support.complaint("devices", "show", file, code=2)
    assert said.startswith(f"{file}: run.engines: torch_cuda is only a reference")


def test_torch_is_asked_for_a_gpu_and_never_falls_back() -> None:
    assert device(None).run.provider("torch_cuda") == "cuda"
    assert device("cuda-fp16", allow_fallback=True).run.provider("torch_cuda") == "cuda-fp16"
    assert device().run.file_engines == ["onnxruntime"]


# --- measuring


@pytest.fixture(scope="module")
def network() -> nn.Module:
    net = nets.Net(lambda net, x: net.head(net.stem(x)), stem=nets.conv(3, 8, 3, nn.ReLU6, 2), head=nets.head(8))
    return nets.settled(net)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, network: nn.Module) -> Path:
    """One ONNX file, one that is none, and the program."""
    folder = tmp_path_factory.mktemp("files")
    save_chain(folder / "short.onnx", 2)
    (folder / "garbage.onnx").write_bytes(b"not a model" * 100)
    torch_reference.write(network, nets.SIZE, folder / torch_reference.FILE)
    return folder


def test_the_program_computes_what_the_network_does(folder: Path, network: nn.Module) -> None:
    path = folder / torch_reference.FILE
    names = [str(node.target) for node in torch.export.load(path).graph.nodes]
    assert "aten.conv2d.default" in names
    assert not any("norm" in name for name in names)  # folded: torch is not made slower than it need be
    session = torch_cuda.load(str(path), provider="cpu")
    image = nets.images(1, seed=3)
    with torch.no_grad():
        np.testing.assert_allclose(session.run(image.numpy()), network(image).numpy(), atol=1e-5)
        half = torch_cuda.open_program(str(path), "cpu", True, "cpu", "net")
        np.testing.assert_allclose(half.run(image.numpy()), network(image).numpy(), atol=0.02)
    assert any(isinstance(part, nn.BatchNorm2d) for part in network.modules())  # the network itself is as it was
    before = path.read_bytes()
    torch_reference.write(network, nets.SIZE, path)
    assert path.read_bytes() == before  # results are kept by the file's hash


class Order(Console):
    """Writes down what was measured, in order."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.seen: list[str] = []

    def bar(self, title: str, total: int) -> Any:
        inner, seen = super().bar(title, total), self.seen

        class Bar:
            def __enter__(self) -> Advance:
                advance = inner.__enter__()

                def note(steps: int = 1, status: str = "") -> None:
                    seen.append(status)
                    advance(steps, status)

                return note

            def __exit__(self, *error: Any) -> Any:
                return inner.__exit__(*error)

        return Bar()


def test_the_reference_takes_turns_with_the_files(folder: Path, tmp_path: Path) -> None:
    console, program = Order(), folder / torch_reference.FILE
    found = profile([SHORT], folder, {"host": device(rounds=3)}, console, tmp_path, reference=program)
    assert found.failures == ()
    file, torch_ = found.timings
    assert (file.artifact, file.engine, file.reference) == ("short", "onnxruntime", False)
    assert (torch_.artifact, torch_.engine, torch_.reference) == ("torch-fp32", "torch_cuda", True)
    assert (torch_.provider, torch_.kind, torch_.batch) == ("cpu", "measured", 1)
    assert len(torch_.round_sizes) == len(file.round_sizes) == 3
    assert torch_.copies is not None  # of how the time is made up on a GPU
    names = ["short on onnxruntime", "torch-fp32 on torch_cuda"]
    assert console.seen[:2] == names
    assert [sorted(console.seen[i : i + 2]) for i in (2, 4, 6)] == [names] * 3  # opened, then three rounds
    again = Order()
    assert profile([SHORT], folder, {"host": device(rounds=3)}, again, tmp_path, reference=program) == found
    assert again.seen == []  # nothing was measured twice


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("provider", ["cuda", "cuda-fp16"])
def test_a_gpu_computes_it(folder: Path, provider: str) -> None:
    found = profile([SHORT], folder, {"host": device(provider)}, QUIET, reference=folder / torch_reference.FILE)
    assert [(t.artifact, t.provider) for t in found.timings[1:]] == [("torch-fp32", provider)]
    assert found.timings[1].copies is not None


@NO_GPU
def test_only_the_row_fails_where_there_is_no_gpu(folder: Path) -> None:
    found = profile([SHORT], folder, {"host": device(None)}, QUIET, reference=folder / torch_reference.FILE)
    assert [t.artifact for t in found.timings] == ["short"]
    (failure,) = found.failures
    assert (failure.artifact, failure.engine, failure.lost) == ("torch-fp32", "torch_cuda", False)
    assert failure.reason.startswith("cuda was asked for: t")


def test_a_bundle_has_no_torch_network(folder: Path) -> None:
    found = profile([SHORT], folder, {"host": device()}, QUIET)
    assert [t.artifact for t in found.timings] == ["short"]
    assert [f.reason for f in found.failures] == [torch_reference.ABSENT]


def test_a_device_without_the_engine_has_no_such_row(folder: Path) -> None:
    found = profile([SHORT], folder, {"host": device(None, engines=["onnxruntime"])}, QUIET)
    assert (len(found.timings), found.failures) == (1, ())


def test_the_reference_alone_is_no_result(folder: Path) -> None:
    """No file runs, PyTorch does: nothing can be shipped, and it says why."""
    garbage, tflite = artifact("garbage", "garbage.onnx"), artifact("other", "other.tflite", "tflite")
    with pytest.raises(Shortfall, match=r"^host: nothing was measured: .*garbage\.onnx") as caught:
        profile([garbage, tflite], folder, {"host": device()}, QUIET, reference=folder / torch_reference.FILE)
    assert "; ;" not in str(caught.value)
    with pytest.raises(Shortfall, match=r"none of its engines \(torch_cuda, onnxruntime\) runs tflite files"):
        profile([tflite], folder, {"host": device(rounds=1)}, QUIET)


# --- the verdict

_TIMES = st.lists(
    st.tuples(
        st.sampled_from(["onnx-fp32", "onnx-int8", "tflite-fp32", "tflite-int8"]),
        st.floats(0.5, 5),
        st.sampled_from([1, 2]),
        st.sampled_from(["measured", "estimated"]),
    ),
    max_size=8,
)
SCORES = tuple(accuracy(a.id, HOST_ENGINES[a.format], 0.9 if a.precision == "fp32" else 0.89) for a in ARTIFACTS)


@given(times=_TIMES, fastest=st.floats(0.001, 0.4), place=st.integers(0, 8), tight=st.booleans())
def test_the_verdict_is_the_same_with_and_without_it(
    times: Sequence[tuple[str, float, int, Any]], fastest: float, place: int, tight: bool
) -> None:
    rows = [timing(a, HOST_ENGINES[a.split("-")[0]], p50, threads=n, kind=kind) for a, p50, n, kind in times]
    limits = LimitsSection(p90_ms=1.0, size_mb=5) if tight else LimitsSection()
    scores = (accuracy(TORCH_FP32, "torch", 0.90), *SCORES)
    with_it = [*rows[:place], row(fastest), *rows[place:]]
    wanted = decide("host", ARTIFACTS, scores, rows, limits, 1.5)
    assert decide("host", ARTIFACTS, scores, with_it, limits, 1.5) == wanted
    assert contenders("host", ARTIFACTS, with_it) == contenders("host", ARTIFACTS, rows)
    assert best_kind("host", with_it) == best_kind("host", rows)
    assert TORCH_FP32 not in (wanted.artifact, wanted.baseline)


# --- reports


def test_reports_show_it_for_what_it_is() -> None:
    plain = report()
    scored = replace(accuracy(TORCH_FP32, "torch", 0.8845), engine="torch_cuda")
    marked = replace(
        plain, latency=(*plain.latency, row(0.31), row(0.3, threads=2)), accuracy=(*plain.accuracy, scored)
    )
    page, before = html.render(marked), html.render(plain)
    assert page.count('<span class="badge reference">reference</span>') == 4  # two are in the verification's table
    assert page.count("torch-fp32 · torch_cuda · 2 threads (reference)") > before.count("(reference)") == 0
    assert page.count("<circle") == before.count("<circle") + 2  # on the lines by threads, not in the scatter plot
    text = markdown.render(marked)
    assert text.count("| torch-fp32 (reference) |") == 2
    assert "- (reference): PyTorch's time" in text
    assert "(reference)" not in markdown.render(plain)
    rows = list(csv.DictReader(io.StringIO(csv_report.render(marked))))
    assert [r["reference"] for r in rows] == ["false"] * len(plain.latency) + ["true"] * 2
    assert [r["ships"] for r in rows[-2:]] == ["false"] * 2
    told = json.loads(json_report.render(marked))
    assert [t["reference"] for t in told["latency"]][-2:] == [True, True]


def test_a_slower_reference_is_no_regression() -> None:
    read = [
        reader._adapter().validate_python(json.loads(json_report.render(replace(report(), latency=latency))))
        for latency in ((*report().latency, row(0.3)), (*report().latency, row(3.0)))
    ]
    found = comparison.compare(*read)
    assert found.regressions() == ()
    assert not any(each.artifact == TORCH_FP32 for each in found.rows)
    assert (found.only_old, found.only_new) == ((), ())


# --- a whole run

FILE = """
name = "{name}"
[run]
engines = ["onnxruntime", "torch_cuda"]
providers = {{ torch_cuda = "{provider}" }}
seconds = 0.02
warmup = 1
rounds = 1
"""


@NO_GPU
def test_a_run_compares_its_files_with_torch(copied: Path, tmp_path: Path) -> None:
    words: list[str | Path] = []
    for name, provider in (("here", "cpu"), ("gpu", "cuda-fp16")):
        (tmp_path / f"{name}.toml").write_text(FILE.format(name=name, provider=provider))
        words += ["--device", tmp_path / f"{name}.toml"]
    bundled = (copied / support.BUNDLE).read_bytes()
    answer = support.edgekit("run", copied, *words, "--set", "profile.operators=false", "--json")
    told = json.loads((copied / "10-report" / "report.json").read_text())
    here, gpu = ([t for t in told["latency"] if t["device"] == name] for name in ("here", "gpu"))
    assert [t["artifact"] for t in here] == ["onnx-fp32", "onnx-int8", "torch-fp32"]
    assert [t["artifact"] for t in gpu] == ["onnx-fp32", "onnx-int8"]
    assert [t["reference"] for t in (*here, *gpu)] == [False, False, True, False, False]
    (failure,) = told["failures"]
    assert (failure["device"], failure["artifact"], failure["engine"]) == ("gpu", "torch-fp32", "torch_cuda")
    assert failure["reason"].startswith("cuda-fp16 was asked for: t")
    verdicts = json.loads(answer.stdout)["verdict"]
    assert [v["artifact"] in ("onnx-fp32", "onnx-int8") for v in verdicts] == [True, True]
    # What is exported and shipped is as it was.
    assert (copied / support.BUNDLE).read_bytes() == bundled
    assert not any("torch" in member for member in open_bundle(copied / support.BUNDLE).manifest["members"])
    assert [a["id"] for a in told["artifacts"]] == ["onnx-fp32", "tflite-fp32", "onnx-int8", "tflite-int8"]
    # What was timed is the run's network.
    module, checkpoint = models.load(copied / "2-train")
    image = nets.images(1, size=checkpoint.input.shape[1])
    session = torch_cuda.load(str(copied / "9-profile" / torch_reference.FILE), provider="cpu")
    with torch.no_grad():
        np.testing.assert_allclose(session.run(image.numpy()), module(image).numpy(), atol=1e-4)
