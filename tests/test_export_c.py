"""`edgekit export-c`: what a C compiler makes of the files, and what tflite-micro makes of the model."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given
from hypothesis import strategies as st

from edgekit.deploy import c_arrays
from edgekit.errors import InputError
from edgekit.inspect.readers import tflite as tflite_format
from tests import model_files
from tests.support import complaint, edgekit, environment

MICRO = "EDGEKIT_TFLITE_MICRO_PATH"
"""Folder with tflite-micro installed by ``pip install --pre --target``; a new one is made otherwise."""
MAIN = r"""
#include <stdint.h>
#include <stdio.h>
#include "hand_made_v1_labels.h"
#include "hand_made_v1_model.h"

int main(void) {
    static const int shape[] = HAND_MADE_V1_MODEL_INPUT_SHAPE;
    const float scales[] = {HAND_MADE_V1_MODEL_INPUT_SCALE, HAND_MADE_V1_MODEL_OUTPUT_SCALE};
    size_t index;
    int rank = (int)(sizeof shape / sizeof shape[0]);
    fprintf(stderr, "%d %d %d %d %d %d %d %s\n", (int)((uintptr_t)hand_made_v1_model % 16), rank, shape[0], shape[3],
            HAND_MADE_V1_MODEL_INPUT_ZERO_POINT, HAND_MADE_V1_MODEL_OUTPUT_ZERO_POINT,
            HAND_MADE_V1_MODEL_INPUT_BYTES, HAND_MADE_V1_MODEL_INPUT_DTYPE);
    fwrite(scales, sizeof scales[0], 2, stdout);
    fwrite(hand_made_v1_model, 1, hand_made_v1_model_bytes, stdout);
    for (index = 0; index < HAND_MADE_V1_LABELS_COUNT; ++index) {
        fputs(hand_made_v1_labels[index], stdout);
        putchar(0);
    }
    return hand_made_v1_model_bytes == HAND_MADE_V1_MODEL_BYTES ? 0 : 1;
}
"""


@pytest.mark.parametrize(
    ("names", "standard"),
    [(("cc", "gcc", "clang"), "c99"), (("cc", "gcc", "clang"), "c11"), (("c++", "g++", "clang++"), "c++11")],
    ids=["C99", "C11", "C++11"],
)
def test_a_compiler_takes_it_and_the_program_holds_the_same_bytes(
    tmp_path: Path, names: tuple[str, ...], standard: str
) -> None:
    compiler = next(filter(None, map(shutil.which, names)), None)
    if compiler is None:
        pytest.skip(f"no compiler here ({', '.join(names)})")
    labels = model_files.LABELS
    done = c_arrays.export(model_files.bundled(tmp_path / "a.edgekit"), tmp_path / "c")
    (tmp_path / "c" / "main.c").write_text(MAIN)
    sources = [str(path) for path in (tmp_path / "c").glob("*.c")]
    strict = [f"-std={standard}", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]
    strict += ["-x", "c++"] if standard == "c++11" else []
    built = subprocess.run([compiler, *strict, *sources, "-o", str(tmp_path / "a.out")], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    ran = subprocess.run([tmp_path / "a.out"], capture_output=True)
    assert ran.returncode == 0
    assert ran.stderr.decode().split() == ["0", "4", "1", "3", "3", "-128", "192", "int8"]
    model = model_files.int8_tflite()
    assert ran.stdout[:8] == struct.pack("2f", 0.5, 1 / 256)
    assert ran.stdout[8 : 8 + len(model)] == model
    assert ran.stdout[8 + len(model) :] == b"".join(label.encode() + b"\0" for label in labels)
    assert done.sha256 == hashlib.sha256(model).hexdigest()
    assert done.sha256 in (tmp_path / "c" / "hand_made_v1_model.h").read_text()
    assert (done.artifact, done.labels) == ("tflite-int8", len(labels))


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_literal_is_what_c_reads(text: str) -> None:
    """Reading it back by the rules of C99 6.4.4.4; no trigraph, no byte outside of printable ASCII."""
    written = c_arrays.literal(text)
    assert written.isascii()
    assert written.isprintable()
    assert "??" not in written
    body, found = written[1:-1], bytearray()
    while body:
        if body[0] == "\\":
            assert set(body[1:4]) <= set("01234567")
            found.append(int(body[1:4], 8))
            body = body[4:]
        else:
            assert body[0] != '"'
            found.append(ord(body[0]))
            body = body[1:]
    assert found.decode() == text


@given(st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=0, exclude_min=True))
def test_a_scale_survives(value: float) -> None:
    written = c_arrays._float(value)
    assert written.endswith("f")
    assert set(written) & set(".e")
    assert struct.pack("f", float(written[:-1])) == struct.pack("f", value)


@pytest.mark.parametrize(
    ("name", "word"),
    [("model-int8", "model_int8"), ("8bit net", "m_8bit_net"), ("Größe", "gr_e"), ("...", "model"), ("int", "int")],
)
def test_identifiers(name: str, word: str) -> None:
    assert c_arrays.identifier(name) == word


def test_bare_file_has_no_labels(tmp_path: Path) -> None:
    model = tmp_path / "my net.bin"
    model.write_bytes(model_files.int8_tflite())
    table = json.loads(edgekit("export-c", model, "--out", tmp_path / "c", "--json").stdout)
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["my_net_model.c", "my_net_model.h"]
    assert table["model_bytes"] == model.stat().st_size
    assert (table["artifact"], table["labels"]) == (None, 0)


def test_same_input_same_files(tmp_path: Path) -> None:
    path = model_files.bundled(tmp_path / "a.edgekit")
    first, second = (c_arrays.export(path, tmp_path / each) for each in "ab")
    assert [Path(each).read_bytes() for each in first.files] == [Path(each).read_bytes() for each in second.files]


def test_it_overwrites_its_own_files_and_no_others(tmp_path: Path) -> None:
    path = model_files.bundled(tmp_path / "a.edgekit")
    out = tmp_path / "c"
    c_arrays.export(path, out)
    c_arrays.export(path, out)
    strange = out / "hand_made_v1_labels.c"
    strange.write_text("int mine;\n")
    (out / "hand_made_v1_model.c").unlink()
    said = complaint("export-c", path, "--out", out, code=2)
    assert said == f"{strange}: already exists, and edgekit did not write it; give another --out, or --force for a file"
    assert strange.read_text() == "int mine;\n"
    assert not (out / "hand_made_v1_model.c").exists()  # all or nothing
    c_arrays.export(path, out, force=True)
    assert strange.read_text().startswith(c_arrays.MARK)
    assert not [each for each in out.iterdir() if each.name.startswith(".")]


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = model_files.bundled(tmp_path / "a.edgekit")
    real = Path.write_text

    def full(self: Path, *args: object, **named: object) -> int:
        if self.name == ".hand_made_v1_labels.h.new":
            raise OSError(28, "No space left on device")
        return real(self, *args, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(Exception, match="the disk is full"):
        c_arrays.export(path, tmp_path / "c")
    assert list((tmp_path / "c").iterdir()) == []


def test_bad_input(tmp_path: Path) -> None:
    path = model_files.bundled(tmp_path / "a.edgekit")
    onnx = tmp_path / "a.onnx"
    onnx.write_bytes(model_files.float_onnx().SerializeToString())
    model = tmp_path / "a.tflite"
    model.write_bytes(model_files.int8_tflite()[:700])
    (tmp_path / "file").write_text("")
    for words, said in (
        ((onnx,), "its content is neither an edgekit bundle nor a .tflite model"),
        ((model,), "not an intact .tflite file"),
        ((model, "--artifact", "x"), "--artifact is for bundles"),
        ((path, "--artifact", "onnx-int8"), "(there are: onnx-int8 (onnx), tflite-int8 (tflite))"),
        ((tmp_path / "none",), "cannot be read"),
        ((path, "--out", tmp_path / "file"), "cannot be written"),
    ):
        assert said in complaint("export-c", *words, *(() if "--out" in words else ("--out", tmp_path / "c")), code=2)
    assert not (tmp_path / "c").exists()


# tflite-micro.


@pytest.fixture(scope="module")
def micro(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment in which this Python finds tflite-micro."""
    folder = os.environ.get(MICRO)
    if folder is None:
        folder = str(tmp_path_factory.mktemp("tflite-micro"))
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--pre", "--no-deps", "--retries", "0"]
        got = subprocess.run(
            [*pip, "--timeout", "5", "--target", folder, "tflite-micro"], capture_output=True, text=True
        )
        if got.returncode:
            reason = (got.stderr.strip().splitlines() or ["no message"])[-1]
            pytest.skip(f"tflite-micro cannot be installed (set {MICRO}): {reason}")
    return environment(PYTHONPATH=os.pathsep.join([environment()["PYTHONPATH"], folder]))


def run_micro(path: Path, micro: dict[str, str]) -> dict[str, object]:
    words = [sys.executable, "-m", "edgekit", "export-c", str(path), "--json", "--out", str(path.parent / "c")]
    answer = subprocess.run(words, env=micro, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    table = json.loads(answer.stdout)
    assert table["model_bytes"] == path.stat().st_size
    found: dict[str, object] = table["micro"]
    return found


def test_without_tflite_micro_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    done = c_arrays.export(model_files.bundled(tmp_path / "a.edgekit"), tmp_path / "c")
    assert "tflite-micro is not installed: pip install --pre tflite-micro" in c_arrays.text(done)
    assert (done.micro.ran, done.micro.arena_bytes) == (False, None)


@pytest.mark.parametrize("name", ["kws_ref_model", "vww_96_int8"])
def test_arena(shared: Path, tmp_path: Path, micro: dict[str, str], name: str) -> None:
    """The arena holds at least what lives at a time, and not twice as much."""
    path = Path(shutil.copy(shared / "models" / f"{name}.tflite", tmp_path))
    found = run_micro(path, micro)
    assert (found["ran"], found["unsupported"], found["trouble"]) == (True, [], None)
    estimate = tflite_format.inspect(path.read_bytes(), "f").peak_bytes
    assert isinstance(found["arena_bytes"], int)
    assert estimate < found["arena_bytes"] < 2 * estimate


def test_unsupported_operators_are_all_named(tmp_path: Path, micro: dict[str, str]) -> None:
    path = tmp_path / "a.tflite"
    path.write_bytes(model_files.int8_tflite(last=schema.BuiltinOperator.ATAN2))
    found = run_micro(path, micro)
    assert (found["ran"], found["arena_bytes"], found["unsupported"]) == (False, None, ["ATAN2"])


def test_a_model_that_does_not_prepare(shared: Path, tmp_path: Path, micro: dict[str, str]) -> None:
    """uint8 weights, which tflite-micro has no kernels for any more; its interpreter may not be happy, but we are."""
    path = Path(shutil.copy(shared / "models" / "mobilenet_v1_0.25_128_quant.tflite", tmp_path))
    found = run_micro(path, micro)
    assert found["ran"] is False
    assert "CONV_2D" in str(found["trouble"])


def test_input_error_is_the_users(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        c_arrays.export(tmp_path / "none", tmp_path)
