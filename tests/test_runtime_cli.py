"""``python -m edgekit.runtime`` as a device runs it."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.reach import runtime_zip
from edgekit.runtime import __main__ as cli
from edgekit.runtime import _load, load
from edgekit.runtime.engines import onnxruntime
from tests import bundles
from tests.support import environment


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle, and images in two folders, one of them broken."""
    folder = tmp_path_factory.mktemp("device")
    bundles.write(folder / "waste.edgekit")
    bundles.write(folder / "signed.edgekit", bundles.sign(bundles.seal(*bundles.contents())))
    for name, image in zip(("b.png", "a.PNG", "sub/c.png"), bundles.pixels(), strict=True):
        (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "images" / name).write_bytes(bundles.png(image))
    (folder / "images" / "notes.txt").write_text("no image")
    (folder / "empty").mkdir()
    (folder / "broken.png").write_bytes(b"\x89PNG broken")
    return folder


def run(*words: str | Path, code: int = 0, stdin: str = "", cwd: Path | None = None) -> tuple[list[str], list[str]]:
    """Lines on stdout and stderr of a process of its own."""
    argv = [sys.executable, "-m", "edgekit.runtime", *map(str, words)]
    answer = subprocess.run(argv, input=stdin, capture_output=True, text=True, env=environment(), cwd=cwd)
    assert answer.returncode == code, answer.stderr
    assert "Traceback" not in answer.stderr
    return answer.stdout.splitlines(), answer.stderr.splitlines()


def here(*words: str | Path, code: int = 0) -> list[str]:
    """Lines on stdout, in this process."""
    out = io.StringIO()
    assert cli.main([str(word) for word in words], out) == code
    return out.getvalue().splitlines()


def test_predict_prints_a_line_for_each_image(folder: Path) -> None:
    with load(folder / "waste.edgekit") as model:
        wanted = {name: model(folder / "images" / name) for name in ("a.PNG", "b.png", "sub/c.png")}
    lines, errors = run("predict", "waste.edgekit", "images", cwd=folder)
    assert errors == []
    for line, (name, result) in zip(lines, wanted.items(), strict=True):
        assert line.startswith(f"images/{name}: {result.label} {result.score:.2%} (")


def test_predict_prints_json_with_the_best_classes(folder: Path) -> None:
    lines, _ = run("predict", "waste.edgekit", "images/a.PNG", "--json", "--top", "3", cwd=folder)
    row = json.loads(lines[0])
    assert row["image"] == "images/a.PNG"
    assert [entry["score"] for entry in row["top"]] == sorted((e["score"] for e in row["top"]), reverse=True)
    assert len(row["top"]) == 3
    assert row["top"][0] == {key: row[key] for key in ("label", "index", "score")}
    assert row["label"] in bundles.LABELS
    assert row["ms"] > 0


def test_predict_goes_on_after_bad_images(folder: Path) -> None:
    lines, errors = run(
        "predict", "waste.edgekit", "broken.png", "nowhere.png", "images/b.png", "empty", "x*.png", "images/*/c.png",
        "-", code=1, stdin="images/a.PNG\n\nmissing.png\n", cwd=folder,
    )  # fmt: skip
    assert [line.partition(":")[0] for line in lines] == ["images/b.png", "images/sub/c.png", "images/a.PNG"]
    assert sorted(errors) == [
        "edgekit: broken.png: not an image of a known format",
        f"edgekit: empty: no images in this folder ({' '.join(cli.SUFFIXES)})",
        "edgekit: missing.png: no such file or directory",
        "edgekit: nowhere.png: no such file or directory",
        "edgekit: x*.png: matches no file",
    ]


LATIN = os.fsdecode(b"caf\xe9.png")


@pytest.fixture
def odd(folder: Path, tmp_path: Path) -> Path:
    """A folder with a name that is not UTF-8, a pipe, a dangling link, a loop, and what an archiver left."""
    (tmp_path / "waste.edgekit").write_bytes((folder / "waste.edgekit").read_bytes())
    image = (folder / "images/b.png").read_bytes()
    odd = tmp_path / "odd"
    for name in (LATIN, "broken" + LATIN, "plain.png", "__MACOSX/._plain.png", "._plain.png"):
        (odd / name).parent.mkdir(exist_ok=True, parents=True)
        (odd / name).write_bytes(b"no image" if "broken" in name or "._" in name else image)
    os.mkfifo(odd / "pipe.png")
    (odd / "gone.png").symlink_to("nowhere.png")
    (odd / "again").symlink_to(".")
    return tmp_path


@pytest.mark.parametrize(
    ("way", "as_json"), [(["-m", "edgekit.runtime"], True), (["-m", "edgekit"], False), (["app.pyz"], False)]
)
def test_predict_reads_on_past_what_is_no_file(odd: Path, way: list[str], as_json: bool) -> None:
    if way == ["app.pyz"]:
        runtime_zip.write(odd / "app.pyz")
    words = [sys.executable, *way, "predict", "waste.edgekit", "odd", *(["--json"] if as_json else [])]
    answer = subprocess.run(words, cwd=odd, env=environment(), capture_output=True, timeout=60)
    assert answer.returncode == 1
    lines = answer.stdout.decode().splitlines()  # valid UTF-8
    if as_json:
        assert [json.loads(line)["image"] for line in lines] == [f"odd/{LATIN}", "odd/plain.png"]
    else:
        assert [line.partition(": ")[0] for line in lines] == [r"odd/caf\udce9.png", "odd/plain.png"]
    assert sorted(answer.stderr.decode().splitlines()) == [
        r"edgekit: odd/brokencaf\udce9.png: not an image of a known format",
        "edgekit: odd/gone.png: a link that leads nowhere",
        "edgekit: odd/pipe.png: a pipe, not a file",
    ]


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_predict_takes_any_name_from_the_command_line_and_stdin(odd: Path, locale: str) -> None:
    words = [sys.executable, "-m", "edgekit.runtime", "predict", "waste.edgekit", "-", f"odd/{LATIN}", "odd/p*e.png"]
    given = os.fsencode(f"odd/{LATIN}\nodd/pipe.png\n/dev/zero\n")
    env = environment(LC_ALL=locale)
    answer = subprocess.run(words, cwd=odd, env=env, input=given, capture_output=True, timeout=60)
    lines = answer.stdout.decode().splitlines()
    assert [line.partition(": ")[0] for line in lines] == 2 * [r"odd/caf\udce9.png"]
    wanted = ["/dev/zero: a device, not a file", *2 * ["odd/pipe.png: a pipe, not a file"]]
    assert sorted(answer.stderr.decode().splitlines()) == [f"edgekit: {text}" for text in wanted]


def test_predict_reads_a_pipe_that_the_shell_opened(odd: Path) -> None:
    line = f"{sys.executable} -m edgekit.runtime predict waste.edgekit <(cat odd/plain.png)"
    answer = subprocess.run(["bash", "-c", line], cwd=odd, env=environment(), capture_output=True, timeout=60)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.startswith(b"/dev/fd/")


def test_predict_takes_arrays_where_the_model_does(folder: Path, shared: Path, tmp_path: Path) -> None:
    from tests.test_runtime_model import third_party

    manifest = third_party(shared, "kws_ref_model", tmp_path)
    np.save(tmp_path / "word.npy", np.zeros((49, 10, 1), np.float32))
    np.save(tmp_path / "nan.npy", np.full((49, 10, 1), np.nan))
    (tmp_path / "text.npy").write_text("no array")
    words = [tmp_path / name for name in ("word.npy", "nan.npy", "text.npy", "none.npy")]
    lines, errors = run("predict", manifest, *words, "--json", code=1)
    assert json.loads(lines[0])["image"] == str(words[0])
    assert len(lines) == 1
    for name, text in [("nan", "NaN or infinite"), ("text", "not an .npy array"), ("none", "no such file")]:
        assert any(f"{name}.npy" in line and text in line for line in errors)


@pytest.mark.parametrize(
    "words",
    [
        [], ["predict"], ["predict", "waste.edgekit"], ["guess", "waste.edgekit"],
        ["predict", "waste.edgekit", "x", "--top", "0"], ["predict", "waste.edgekit", "x", "--verify", "maybe"],
        ["info", "none.edgekit"], ["info", "broken.png"], ["predict", "waste.edgekit", "x", "--engine", "litert"],
        ["predict", "waste.edgekit", "x", "--artifact", "int4"], ["bench", "waste.edgekit", "--seconds", "-1"],
        ["bench", "waste.edgekit", "--seconds", "nan"], ["info", "waste.edgekit", "--require-signature"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_bad_words_end_with_status_2(
    words: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    assert here(*words, code=2) == []
    assert capsys.readouterr().err.splitlines()[-1]


def test_bench_prints_what_the_profiler_reads(folder: Path) -> None:
    (line,), _ = run("bench", folder / "waste.edgekit", "--json", "--seconds", "0.05", "--warmup", "1")
    answer = json.loads(line)
    request = {"model": str(folder / "waste.edgekit"), "engine": "onnxruntime", "threads": 1, "provider": None}
    talk = [{**request, "seed": 0, "artifact": "int8-onnx"}, {"run": {"warmup": 0, "seconds": 0, "min_samples": 3}}]
    argv = [sys.executable, "-m", "edgekit.runtime.bench"]
    said = subprocess.run(argv, input="\n".join(map(json.dumps, talk)), capture_output=True, text=True, check=True)
    first, samples, last = map(json.loads, said.stdout.splitlines())
    also = {"warmup_used", "stable", "end_to_end", "end_to_end_of", "energy_mj", "energy"}
    also |= {"file_bytes", "resident_bytes", "p50_ms", "p90_ms", "min_ms", "artifact", "engine", "threads"}
    assert first.keys() | samples.keys() | last.keys() | also == answer.keys() | {
        "model_bytes",
        "cpu_pressure",
        "cpu_steal",
    }
    assert answer["file_bytes"] == len(bundles.model(int8=True))
    assert answer["min_ms"] == min(answer["ms"])
    assert answer["min_ms"] <= answer["p50_ms"] <= answer["p90_ms"] <= max(answer["ms"])
    assert sum(ms <= answer["p50_ms"] for ms in answer["ms"]) >= len(answer["ms"]) / 2
    assert answer["end_to_end_of"] == "2 golden images"
    assert answer["end_to_end"].keys() == {"decode_ms", "preprocess_ms", "infer_ms", "postprocess_ms", "total_ms"}
    assert min(answer["end_to_end"].values()) > 0
    assert (answer["artifact"], answer["engine"], answer["version"]) == ("int8-onnx", "onnxruntime", first["version"])
    assert len(samples["ms"]) == 3
    assert len(answer["ms"]) >= 20
    assert min(answer["ms"]) > 0
    assert answer["batch"] == 1


def test_bench_says_it_in_words(folder: Path) -> None:
    words = ["--seconds", "0", "--threads", "1", "--artifact", "fp32-onnx", "--verify", "golden"]
    line, warmed, steps, energy = here("bench", folder / "waste.edgekit", *words)
    assert line.startswith(f"fp32-onnx on onnxruntime {onnxruntime.version()} (CPUExecutionProvider, threads 1): p50 ")
    assert warmed.startswith("warm-up: 10 runs, ")  # no more: it had 0 seconds
    assert steps.startswith("end to end: decode ")  # how long that takes is not for a test
    assert steps.endswith(" ms (medians over 2 golden images)")
    assert energy.startswith("energy: ")


def test_selftest_checks_everything(folder: Path) -> None:
    lines, errors = run("selftest", folder / "signed.edgekit", "--key", bundles.public(), "--engine", "onnxruntime")
    assert errors == []
    assert lines[0].startswith("file: ok: 10 members match the manifest")
    assert lines[1] == f"signature: ok: by {bundles.public()}, trusted"
    for line, artifact in zip(lines[2:], ("int8-onnx", "fp32-onnx"), strict=True):
        assert line.startswith(f"{artifact} on onnxruntime: ok: {onnxruntime.version()}, CPUExecutionProvider: golden")


def test_selftest_says_when_there_is_no_signature_to_check(folder: Path) -> None:
    path = folder / "waste.edgekit"
    assert here("selftest", path)[1] == "signature: not checked: the bundle is not signed"
    line = here("selftest", path, "--key", bundles.public())[1]
    assert line.endswith(": the bundle is not signed, so no --key was tried; to refuse it, add --require-signature")


def test_selftest_fails_with_the_reason(folder: Path, tmp_path: Path) -> None:
    manifest, members = bundles.contents()
    members["golden/fp32-onnx.npy"] = bundles.npy(bundles.expected(bundles.pixels()) + np.float32(1))
    path = bundles.write(tmp_path / "x.edgekit", bundles.seal(manifest, members))
    lines = here("selftest", path, "--engine", "onnxruntime", code=1)
    assert [line.split(": ")[1] for line in lines] == ["ok", "not checked", "ok", "failed"]
    assert "golden vector" in lines[3]
    assert [json.loads(line)["ok"] for line in here("selftest", path, "--engine", "onnxruntime", "--json", code=1)] == [
        True,
        None,
        True,
        False,
    ]
    damaged = bytearray((folder / "waste.edgekit").read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    (line,) = here("selftest", path, code=1)
    assert line.startswith("file: failed: ")
    (line,) = here("selftest", folder / "waste.edgekit", "--require-signature", "--key", bundles.public(), code=1)
    assert line.startswith("file: failed: ")


def test_info_needs_no_engine(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_load, "installed", lambda engine: False)
    lines = here("info", folder / "waste.edgekit")
    assert lines[0] == "waste: rgb images, 10x8, 4 labels"
    assert "nothing runs here: " in lines[-1]
    assert "pip install onnxruntime" in lines[-1]
    row: dict[str, Any] = json.loads(here("info", folder / "signed.edgekit", "--json")[0])
    assert row["runs"] is None
    assert row["signed_by"] == bundles.public()
    assert row["labels"] == list(bundles.LABELS)
    assert [artifact["id"] for artifact in row["artifacts"]] == ["int8-onnx", "fp32-onnx"]


def test_info_says_what_runs_here(folder: Path) -> None:
    assert here("info", folder / "waste.edgekit")[-1] == "  runs here: int8-onnx on onnxruntime"


def test_results_are_alone_on_stdout_when_an_engine_prints(folder: Path) -> None:
    code = """
import os, sys
from edgekit.reach import runtime_zip
from edgekit.runtime import __main__ as cli
from edgekit.runtime.engines import onnxruntime
load = onnxruntime.load
def noisy(*arguments):
    os.write(1, b"chatter from native code\\n")
    print("chatter from Python", flush=True)
    return load(*arguments)
onnxruntime.load = noisy
sys.argv[1:] = ["predict", "waste.edgekit", "images/a.PNG", "--json"]
sys.exit(cli.as_program())
"""
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment(), cwd=folder, check=True
    )
    assert json.loads(answer.stdout)["image"] == "images/a.PNG"
    assert "chatter from native code" in answer.stderr


def test_words_after_a_double_dash_are_images(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "-dash.png").write_bytes((folder / "images" / "b.png").read_bytes())
    for words in (["edgekit"], ["edgekit.runtime"]):
        argv = [sys.executable, "-m", *words, "predict", str(folder / "waste.edgekit"), "--top", "2", "--", "-dash.png"]
        answer = subprocess.run(argv, capture_output=True, text=True, env=environment(), cwd=tmp_path)
        assert answer.stdout.startswith("-dash.png: "), answer.stderr
        assert answer.returncode == 0


def test_a_closed_pipe_ends_quietly(folder: Path) -> None:
    argv = [sys.executable, "-m", "edgekit.runtime", "predict", "waste.edgekit", "-"]
    read, write = os.pipe()
    os.close(read)
    answer = subprocess.run(
        argv, input="images/a.PNG\n" * 9, stdout=write, stderr=subprocess.PIPE, text=True, env=environment(), cwd=folder
    )
    os.close(write)
    assert (answer.returncode, answer.stderr) == (1, "")
