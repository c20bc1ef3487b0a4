"""`edgekit export-c --npu`: compiled files beside what vela itself says, and every way in which it cannot be done."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from edgekit.deploy import c_arrays, ethos_u
from edgekit.deploy.ethos_u import Target
from edgekit.errors import InputError, MissingPackage, Shortfall
from edgekit.export.formats import tflite
from edgekit.graph.tflite_table import Table
from tests import model_files, nets
from tests.support import complaint, edgekit

pytest.importorskip("ethosu.vela")
U55 = Target("ethos-u55-128")


def vela(model: Path, out: Path, *words: str) -> tuple[str, dict[str, str]]:
    """Vela's own words on a file, and its summary, without edgekit."""
    command = [sys.executable, "-m", "ethosu.vela", str(model), "--output-dir", str(out), "--show-cpu-operations"]
    done = subprocess.run([*command, "--accelerator-config", U55.accelerator, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    heads, row = next(out.glob("*_summary_*.csv")).read_text().splitlines()
    return done.stdout, dict(zip(heads.split(","), row.split(","), strict=True))


class Wave(nn.Module):
    """An operator that no Ethos-U has."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(x)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An int8 file with a float operator in the middle, which no NPU takes."""
    module = nets.settled(
        nets.Net(
            lambda net, x: net.head(net.wave(net.stem(x))),
            stem=nets.conv(3, 8, 3, nn.ReLU, stride=2),
            wave=Wave(),
            head=nets.head(8),
        )
    )
    folder = tmp_path_factory.mktemp("mixed")
    graph = nets.quantize(module)
    return folder / tflite.export(graph, nets.SIZE, "int8", folder, keep_float=None).path


@pytest.mark.parametrize("name", ["vww_96_int8", "kws_ref_model"])
def test_numbers_are_those_of_velas_own_summary(shared: Path, tmp_path: Path, name: str) -> None:
    model = shared / "models" / f"{name}.tflite"
    done = c_arrays.export_npu([model], tmp_path / "c", U55)
    said, row = vela(model, tmp_path / "own")
    npu = done.npu
    assert npu is not None
    assert npu.estimated.cycles == int(row["cycles_total"])
    assert npu.estimated.inferences_per_second == float(row["inferences_per_second"])
    assert npu.sram_kb == float(row["sram_memory_used"])
    assert npu.flash_kb == float(row["off_chip_flash_memory_used"])
    assert (npu.system_config, npu.memory_mode) == (row["system_config"], row["memory_mode"])
    assert npu.vela == importlib.metadata.version("ethos-u-vela")
    assert f"CPU operators = {len(npu.on_cpu)} " in said
    assert npu.on_npu == npu.operators == len(Table(model.read_bytes()).graph.operators)
    assert npu.source_sha256 == hashlib.sha256(model.read_bytes()).hexdigest()
    compiled = (tmp_path / "own" / f"{name}_vela.tflite").read_bytes()
    source = (tmp_path / "c" / f"{name}_model.c").read_text()
    held = bytes(int(byte, 16) for byte in re.findall(r"0x([0-9a-f]{2})\b", source.partition("= {")[2]))
    assert len(held) == done.model_bytes == len(compiled)
    assert [Table(held).kind(each) for each in Table(held).graph.operators] == [ethos_u.CUSTOM]


def test_operators_on_the_cpu_are_named_with_their_layers(mixed: Path, tmp_path: Path) -> None:
    table = json.loads(edgekit("export-c", mixed, "--npu", "ethos-u55-128", "--out", tmp_path / "c", "--json").stdout)
    npu = table["npu"]
    said, _ = vela(mixed, tmp_path / "own")
    assert len(npu["on_cpu"]) == len(re.findall("CPU: ", said)) > 0
    assert {"op": "SIN", "layer": "wave"} in npu["on_cpu"]
    assert npu["kernels"] == ["ETHOSU", *sorted({each["op"] for each in npu["on_cpu"]})]
    assert npu["on_npu"] + len(npu["on_cpu"]) == npu["operators"]
    assert set(npu["estimated"]) == {"cycles", "inferences_per_second", "clock_mhz"}
    header = (tmp_path / "c" / "model_int8_model.h").read_text()
    assert f"#define MODEL_INT8_MODEL_KERNELS {len(npu['kernels'])}\n" in header
    assert "     SIN, on the CPU\n" in header
    assert "ETHOSU (AddEthosU)" in header


def test_the_text_says_that_it_is_an_estimate(shared: Path, tmp_path: Path) -> None:
    target = Target("ethos-u55-128", system_config="Ethos_U55_Deep_Embedded")
    text = c_arrays.text(c_arrays.export_npu([shared / "models/vww_96_int8.tflite"], tmp_path, target))
    assert "estimated: " in text
    assert "Ethos_U55_Deep_Embedded, Shared_Sram" in text
    assert "at 200 MHz" in text


def test_a_limit_on_sram_is_an_aim_and_a_bound(shared: Path, tmp_path: Path) -> None:
    model = shared / "models/vww_96_int8.tflite"
    free = c_arrays.export_npu([model], tmp_path / "free", U55).npu
    assert free is not None
    tight = c_arrays.export_npu([model], tmp_path / "tight", Target("ethos-u55-128", sram_kb=free.sram_kb - 5)).npu
    assert tight is not None
    assert tight.sram_kb <= free.sram_kb - 5
    assert tight.estimated.cycles > free.estimated.cycles
    with pytest.raises(Shortfall, match=r"needs [\d.]+ KiB of SRAM on ethos-u55-128, [\d.]+ more than --sram-kb 20 "):
        c_arrays.export_npu([model], tmp_path / "none", Target("ethos-u55-128", sram_kb=20))
    assert not (tmp_path / "none").exists()


def test_of_several_the_one_with_the_fewest_cycles_that_fits_is_taken(
    shared: Path, mixed: Path, tmp_path: Path
) -> None:
    large, small = (shared / "models" / f"{name}.tflite" for name in ("vww_96_int8", "kws_ref_model"))
    done = c_arrays.export_npu([large, mixed, small], tmp_path / "c", U55)
    assert [Path(file).name for file in done.files] == ["kws_ref_model_model.h", "kws_ref_model_model.c"]
    assert done.npu is not None
    first, *others = done.npu.notes
    assert first == f"taken: {small}, of 3 files"
    assert len(others) == 2
    assert any("operators on the CPU" in note for note in others)  # few cycles, but not all that it does
    alone = Target("ethos-u55-128", sram_kb=ethos_u.compile_for(mixed.read_bytes(), "", U55, "")[1].sram_kb)
    fits = c_arrays.export_npu([large, mixed], tmp_path / "fits", alone)
    assert [Path(file).name for file in fits.files] == ["model_int8_model.h", "model_int8_model.c"]


def test_bad_input_is_one_clear_line(shared: Path, tmp_path: Path) -> None:
    models = shared / "models"
    words = ("--out", tmp_path / "c")
    said = complaint("export-c", models / "vww_96_int8.tflite", "--npu", "ethos-u55-12", *words, code=2)
    assert said.startswith("--npu ethos-u55-12: vela ")
    assert said.endswith("ethos-u85-2048")
    assert "ethos-u55-32, ethos-u55-64, ethos-u55-128" in said
    with pytest.raises(Shortfall, match="30 of its 31 operators compute in float, and ethos-u55-128 takes integers on"):
        c_arrays.export_npu([models / "vww_96_float.tflite"], tmp_path / "c", U55)
    said = complaint("export-c", models / "vww_96_int8.tflite", "--sram-kb", "9", *words, code=2)
    assert said == "--sram-kb: only with --npu CONFIG, e.g. --npu ethos-u55-128"
    assert not (tmp_path / "c").exists()


def test_an_int8_file_with_nothing_for_the_npu_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sine.tflite").write_bytes(model_files.sine_tflite())
    said = complaint("export-c", tmp_path / "sine.tflite", "--npu", "ethos-u55-128", "--out", tmp_path / "c", code=1)
    assert said.endswith("nothing of it can run on ethos-u55-128 (it has SIN); use export-c without --npu")
    assert not (tmp_path / "c").exists()


def test_velas_own_failures_are_one_line(shared: Path, tmp_path: Path) -> None:
    model = shared / "models/vww_96_int8.tflite"
    with pytest.raises(InputError, match=r"--system-config=nope: Section System_Config.nope not found.*--list-configs"):
        c_arrays.export_npu([model], tmp_path, Target("ethos-u55-128", system_config="nope"))
    with pytest.raises(Shortfall, match=r"^cut: vela [\d.]+ (failed|died of signal 11): .") as caught:
        ethos_u.compile_for(model.read_bytes()[:5000], "cut", U55, "")
    assert "\n" not in str(caught.value)


def test_without_vela_the_pip_line_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ethos_u, "PACKAGE", "no-such-package-here")
    with pytest.raises(MissingPackage, match=r"pip install 'edgekit\[ethos_u\]'"):
        ethos_u.version()
