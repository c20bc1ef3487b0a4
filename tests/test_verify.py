from __future__ import annotations

import math
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper
from torch import Tensor, nn

from edgekit.config.recipe import VerifySection
from edgekit.console import Console
from edgekit.errors import MissingPackage, Shortfall
from edgekit.graph import exported_program, integer_arithmetic
from edgekit.graph.tflite_table import Table
from edgekit.runtime import port as port_module
from edgekit.runtime.port import Port
from edgekit.scores import Accuracy
from edgekit.verify import files as verify
from tests import nets

LABELS = [f"class {number}" for number in range(10)]
COUNT = 12


@dataclass(frozen=True)
class Pictures:
    """What `verify` uses of an ImageSet, with labels that the float network gets right for all but every fourth."""

    tensors: Tensor
    labels: list[int]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        return self.tensors[place], self.labels[place]


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> nets.Compressed:
    return nets.compressed(tmp_path_factory)


@pytest.fixture
def copied(every: nets.Compressed, tmp_path: Path) -> nets.Compressed:
    """The same files, to be changed."""
    shutil.copytree(every.folder, tmp_path, dirs_exist_ok=True)
    return replace(every, folder=tmp_path)


def pictures(made: nets.Compressed, seed: int = 20) -> Pictures:
    tensors = nets.images(COUNT, seed)
    best = nets.run(made.module, tensors).argmax(1)
    return Pictures(tensors, [int(label + (place % 4 == 0)) % 10 for place, label in enumerate(best)])


def references(made: nets.Compressed) -> tuple[verify.Reference, verify.Reference]:
    integer = integer_arithmetic.integer_graph(made.graph)
    return (
        verify.Reference("torch-fp32", made.module),
        verify.Reference("torch-int8", integer, exported_program.output_scale(made.graph)),
    )


def verified(made: nets.Compressed, ids: tuple[str, ...] = (), **section: Any) -> dict[str, Accuracy]:
    chosen = [artifact for artifact in made.artifacts.values() if not ids or artifact.id in ids]
    images: Any = pictures(made)
    settings = VerifySection(**section)
    rows = verify.verify(images, "test", LABELS, *references(made), chosen, made.folder, settings, Console(quiet=True))
    return {row.artifact: row for row in rows}


# --- ports

PORT = Port("x", (1,), "int8", 0.5, 3)


@given(st.integers(-128, 127), st.integers(-128, 127), st.floats(0.0001, 10))
def test_quantize_undoes_dequantize(value: int, zero: int, scale: float) -> None:
    port = Port("x", (1,), "int8", scale, zero)
    real = port_module.dequantize(np.array([value], np.int8), port)
    assert real.dtype == np.float32
    assert float(real[0]) == pytest.approx(scale * (value - zero), rel=1e-6)
    np.testing.assert_array_equal(port_module.quantize(real, port), np.array([value], np.int8))


@given(st.floats(-1e6, 1e6, width=32), st.sampled_from(["int8", "uint8"]))
def test_quantize_rounds_to_the_nearest_step_and_saturates(value: float, dtype: str) -> None:
    port = Port("x", (1,), dtype, 0.25, 3)
    (got,) = port_module.quantize(np.array([value], np.float32), port)
    limits = np.iinfo(dtype)
    assert got.dtype == dtype
    assert got == min(max(round(value / 0.25) + 3, limits.min), limits.max)


def test_quantize_rounds_halves_to_even() -> None:
    values = np.array([0.25, 0.75, 1.25, -0.25, -0.75, 1e9, -1e9], np.float32)
    np.testing.assert_array_equal(port_module.quantize(values, PORT), [3, 5, 5, 3, 1, 127, -128])


def test_ports_without_a_scale_pass_values_through() -> None:
    values = np.array([0.1, -7.5], np.float32)
    port = Port("x", (2,), "float32")
    assert port_module.quantize(values, port) is values
    np.testing.assert_array_equal(port_module.dequantize(values, port), values)


# --- scores


def test_sqnr_equals_the_ratio_by_hand() -> None:
    exact, got = np.array([[3.0, 4.0]], np.float32), np.array([[3.0, 4.5]], np.float32)
    assert verify._sqnr(exact, got) == pytest.approx(10 * math.log10(25 / 0.25))
    assert verify._sqnr(exact, exact) is None


def test_verify_passes_every_file_of_a_sound_export(every: nets.Compressed) -> None:
    rows = verified(every)
    assert list(rows) == ["torch-fp32", "torch-int8", "onnx-fp32", "tflite-fp32", "onnx-int8", "tflite-int8"]
    assert all(row.passed and not row.problem for row in rows.values())
    verify.check(list(rows.values()))
    assert [row.engine for row in rows.values()] == ["torch", "torch", "onnxruntime", "litert", "onnxruntime", "litert"]
    for name in ("onnx-int8", "tflite-int8"):
        assert (rows[name].agreement_reference, rows[name].within_one_step) == (1, 1)
        assert rows[name].max_steps == pytest.approx(0, abs=1e-3)
        assert rows[name].top1 == rows["torch-int8"].top1
    for name in ("onnx-fp32", "tflite-fp32"):
        assert rows[name].max_steps is rows[name].within_one_step is None
        assert rows[name].top1 == 0.75


def test_verify_scores_as_numpy_does_by_hand(every: nets.Compressed) -> None:
    row, images = verified(every, ("onnx-int8",))["torch-int8"], pictures(every)
    exact = nets.run(every.module, images.tensors).numpy().astype(np.float64)
    got = nets.run(references(every)[1].module, images.tensors).numpy().astype(np.float64)
    assert row.images == COUNT
    assert row.top1 == pytest.approx((got.argmax(1) == images.labels).mean())
    assert row.agreement == pytest.approx((got.argmax(1) == exact.argmax(1)).mean())
    assert row.sqnr_db == pytest.approx(10 * np.log10((exact**2).sum() / ((exact - got) ** 2).sum()))
    assert row.metrics is not None
    assert sum(map(sum, row.metrics.confusion)) == COUNT


@pytest.mark.parametrize(("asked", "used"), [(0, COUNT), (5, 5), (1000, COUNT)])
def test_verify_runs_as_many_images_as_asked(every: nets.Compressed, asked: int, used: int) -> None:
    assert {row.images for row in verified(every, ("onnx-int8",), images=asked).values()} == {used}


# --- files that are not what torch computed


def tamper_onnx(path: Path) -> None:
    """Change one byte: the sign of the largest weight of the classifier."""
    model = onnx.load(str(path))
    holder = next(t for t in model.graph.initializer if t.data_type == onnx.TensorProto.INT8 and t.dims[:] == [10, 16])
    weight = numpy_helper.to_array(holder).copy()
    weight.flat[int(np.abs(weight.astype(int)).argmax())] *= -1
    holder.CopyFrom(numpy_helper.from_array(weight, holder.name))
    path.write_bytes(model.SerializeToString())


def tamper_tflite(path: Path) -> None:
    data = bytearray(path.read_bytes())
    table = Table(bytes(data))
    weight = next(t for t in table.graph.tensors if list(t.shape) == [10, 16] and table.types[t.type] == "INT8")
    values = np.array(table.model.buffers[weight.buffer].data, np.uint8).tobytes()
    at = bytes(data).index(values) + int(np.abs(np.frombuffer(values, np.int8).astype(int)).argmax())
    data[at] = 256 - data[at]  # two's complement; the largest weight is not zero
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(("id_", "tamper"), [("onnx-int8", tamper_onnx), ("tflite-int8", tamper_tflite)])
def test_verify_fails_a_file_with_one_changed_byte(copied: nets.Compressed, id_: str, tamper: Any) -> None:
    path = copied.folder / copied.artifacts[id_].path
    before = path.read_bytes()
    tamper(path)
    assert path.read_bytes() != before
    rows = verified(copied, ("onnx-int8", "tflite-int8"))
    assert not rows[id_].passed
    assert "of outputs within one step of torch-int8, verify.within_one_step asks for 99.90%" in rows[id_].problem
    assert [name for name, row in rows.items() if not row.passed] == [id_]
    with pytest.raises(Shortfall, match=f"^verify: {id_} in ") as caught:
        verify.check(list(rows.values()))
    assert rows[id_].problem in str(caught.value)


def test_verify_fails_both_files_when_they_are_swapped(copied: nets.Compressed) -> None:
    fp32, int8 = copied.artifacts["onnx-fp32"], copied.artifacts["onnx-int8"]
    swapped = {fp32.id: replace(fp32, path=int8.path), int8.id: replace(int8, path=fp32.path)}
    rows = verified(replace(copied, artifacts=swapped))
    assert not rows["onnx-fp32"].passed
    assert "of the largest logit, verify.tolerance allows 1.0e-03" in rows["onnx-fp32"].problem
    assert not rows["onnx-int8"].passed
    with pytest.raises(Shortfall, match=r"onnx-fp32 .*\n  onnx-int8"):
        verify.check(list(rows.values()))


@pytest.mark.parametrize("id_", ["onnx-int8", "tflite-int8"])
def test_verify_raises_one_line_when_a_file_is_cut(copied: nets.Compressed, id_: str) -> None:
    path = copied.folder / copied.artifacts[id_].path
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(Shortfall, match=f"^verify: {id_}: ") as caught:
        verified(copied, (id_,))
    assert "\n" not in str(caught.value)


# --- each limit by itself


def row() -> Accuracy:
    return Accuracy("onnx-int8", "onnxruntime", "1", "host", "test", 2, 1.0, 1.0)


Floats = npt.NDArray[np.float32]
LIKE = np.array([[1.0, 0.0, 0.5], [0.0, 4.0, 0.5]], np.float32)
FP32 = verify.Reference("torch-fp32", nn.Identity())
INT8 = verify.Reference("torch-int8", nn.Identity(), 0.5)
UNQUANTIZED = verify.Reference("torch-int8", nn.Identity())


def judged(change: dict[tuple[int, int], float], reference: verify.Reference, **limits: Any) -> Accuracy:
    got = LIKE.copy()
    for place, value in change.items():
        got[place] += np.float32(value)
    return verify._judge(row(), got, LIKE, reference, VerifySection(**limits))


def test_judge_passes_what_is_within_each_limit() -> None:
    assert judged({(0, 2): 0.0039}, FP32).passed
    assert judged({(0, 2): 0.0041}, FP32).problem == (
        "outputs differ from torch-fp32 by 1.0e-03 of the largest logit, verify.tolerance allows 1.0e-03"
    )
    assert judged({(0, 2): 0.0041}, FP32, tolerance=0.0011).passed


def test_judge_counts_outputs_more_than_one_step_away() -> None:
    near = judged({(1, 0): 0.5}, INT8)
    assert (near.passed, near.max_steps, near.within_one_step) == (True, 1.0, 1.0)
    far = judged({(1, 0): 1.0}, INT8)
    assert (far.passed, far.max_steps, far.max_difference) == (False, 2.0, 1.0)
    assert far.within_one_step == pytest.approx(5 / 6)
    assert far.problem == "83.33% of outputs within one step of torch-int8, verify.within_one_step asks for 99.90%"
    assert judged({(1, 0): 1.0}, INT8, within_one_step=0.8).passed


def test_judge_asks_for_the_same_class() -> None:
    other = judged({(0, 2): 0.5, (0, 0): -0.5}, INT8)
    assert (other.agreement_reference, other.within_one_step) == (0.5, 1.0)
    assert other.problem == "50.00% top-1 agreement with torch, verify.agreement asks for 99.50%"
    assert judged({(0, 2): 0.5, (0, 0): -0.5}, INT8, agreement=0.5).passed


def test_judge_names_torch_int8_when_its_output_is_not_quantized() -> None:
    answer = judged({(0, 2): 0.1}, UNQUANTIZED)
    assert answer.max_steps is None
    assert answer.problem.startswith("outputs differ from torch-int8 by 2.5e-02 of the largest logit")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("reference", [FP32, INT8])
def test_judge_fails_outputs_that_are_not_finite(bad: float, reference: verify.Reference) -> None:
    answer = judged({(0, 0): bad}, reference)
    assert (answer.passed, answer.problem) == (False, "NaN or infinite outputs")


def test_verify_fails_a_file_that_gives_nan(tmp_path: Path) -> None:
    module = nets.settled(nn.Sequential(nets.conv(3, 4), nets.head(4)))
    broken = nets.settled(nn.Sequential(nets.conv(3, 4), nets.head(4)))
    with torch.no_grad():
        broken[1][2].bias[3] = torch.nan  # type: ignore[index]
    from edgekit.export.formats import onnx as to_onnx

    artifact = to_onnx.export(broken, nets.SIZE, "fp32", tmp_path)
    made = nets.Compressed(module, torch.fx.symbolic_trace(nn.Identity()), tmp_path, {artifact.id: artifact})
    images: Any = pictures(made)
    rows = verify.verify(
        images,
        "test",
        LABELS,
        verify.Reference("torch-fp32", module),
        None,
        [artifact],
        tmp_path,
        VerifySection(),
        Console(quiet=True),
    )
    assert (rows[1].passed, rows[1].problem) == (False, "NaN or infinite outputs")


def test_verify_says_the_pip_command_when_an_engine_is_missing(
    every: nets.Compressed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingPackage, match=r"^verify: onnx-int8: .*pip install onnxruntime"):
        verified(every, ("onnx-int8",))
