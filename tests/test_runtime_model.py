"""A bundle in use: results against plain arithmetic, engines, threads, streams, faults."""

from __future__ import annotations

import gc
import io
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import edgekit.runtime
from edgekit.runtime import Model, Result, RuntimeFault, _load, _model, load, machine
from edgekit.runtime._stream import ahead
from edgekit.runtime.bundle import open_bundle
from edgekit.runtime.engines import litert, onnxruntime
from edgekit.runtime.port import Port
from tests import bundles

Pixels = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundles.write(tmp_path_factory.mktemp("bundle") / "waste.edgekit")


@pytest.fixture
def model(bundle: Path) -> Iterator[Model]:
    with load(bundle) as opened:
        yield opened


def images(number: int, seed: int = 3) -> Pixels:
    shape = (number, bundles.HEIGHT, bundles.WIDTH, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def softmax(logits: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    powers = np.exp(logits.astype(np.float64) - logits.max())
    scores: npt.NDArray[np.float64] = powers / powers.sum()
    return scores


def changed(tmp_path: Path, change: Any) -> Path:
    """The bundle with another manifest, hashes right."""
    manifest, members = bundles.contents()
    change(manifest)
    return bundles.write(tmp_path / "changed.edgekit", bundles.seal(manifest, members))


def streaming() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "edgekit-stream"]


def test_result_is_that_of_the_arithmetic(bundle: Path) -> None:
    for artifact, tolerance in (("fp32-onnx", 1e-5), ("int8-onnx", bundles.STEP)):
        with load(bundle, artifact=artifact) as opened:
            for image in images(20):
                scores = softmax(bundles.expected(image[None])[0])
                found = opened(image)
                assert isinstance(found, Result)
                np.testing.assert_allclose(found.scores, scores, atol=tolerance)
                assert found.scores.dtype == np.float32
                assert not found.scores.flags.writeable
                assert found.index == found.scores.argmax()
                assert (found.label, found.score) == (bundles.LABELS[found.index], found.scores[found.index])
                assert found.ms > 0
                with pytest.raises(AttributeError):
                    found.index = 3  # type: ignore[misc]


def test_every_kind_of_image_gives_the_same_result(model: Model, tmp_path: Path) -> None:
    (image,) = images(1)
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    (tmp_path / "x.png").write_bytes(file.getvalue())
    sources = [image, file.getvalue(), tmp_path / "x.png", str(tmp_path / "x.png"), Image.fromarray(image)]
    found = [model(source).scores for source in sources]
    for scores in found:
        np.testing.assert_array_equal(scores, found[0])


def test_top_is_sorted_and_starts_with_the_result(model: Model) -> None:
    result = model(images(1)[0])
    best = result.top(10)
    assert len(best) == 4
    assert (best[0].label, best[0].index, best[0].score) == (result.label, result.index, result.score)
    assert [row.score for row in best] == sorted(result.scores.tolist(), reverse=True)
    assert result.top(2) == best[:2]
    assert result.top(0) == ()


def test_top_keeps_the_winner_where_scores_saturate() -> None:
    result = Result(None, 2, 1.0, np.array([1, 0, 1], np.float32), 0.0, ())
    assert [row.index for row in result.top(3)] == [2, 0, 1]


@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "none"])
@given(st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=1, max_size=9))
def test_activations_are_the_formulas(activation: str, outputs: list[float]) -> None:
    array = np.array(outputs, np.float32)
    with np.errstate(all="ignore"):
        wide = array.astype(np.float64)
        oracle = {"softmax": softmax(array), "sigmoid": 1 / (1 + np.exp(-wide)), "none": wide}[activation]
    found = _model._ACTIVATIONS[activation](array)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, oracle, rtol=1e-5, atol=1e-6)


def test_batch_and_stream_equal_the_serial_loop(model: Model) -> None:
    many = images(50)
    serial = [model(image).scores for image in many]
    for found in (model.batch(many), list(model.stream(iter(many)))):
        assert len(found) == 50
        for result, scores in zip(found, serial, strict=True):
            np.testing.assert_array_equal(result.scores, scores)
    assert model.batch([]) == []
    assert streaming() == []


def test_stream_gives_a_result_before_the_next_frame_is_there(model: Model) -> None:
    given_out = threading.Semaphore(0)

    def frames() -> Iterator[Pixels]:
        for image in images(3):
            yield image
            assert given_out.acquire(timeout=20)  # waits until the consumer has seen the result

    seen = 0
    for _ in model.stream(frames()):
        seen += 1
        given_out.release()
    assert seen == 3


def test_stream_reads_no_further_ahead_than_its_queue(model: Model) -> None:
    taken = 0

    def frames() -> Iterator[Pixels]:
        nonlocal taken
        while True:
            taken += 1
            yield images(1)[0]

    stream = model.stream(frames())
    next(stream)
    time.sleep(0.1)
    assert taken <= 5  # one delivered, two that wait, one in the thread's hands
    stream.close()  # type: ignore[attr-defined]
    assert streaming() == []


def test_a_camera_may_overwrite_its_buffer(model: Model) -> None:
    pictures = images(20)
    buffer = np.empty_like(pictures[0])

    def frames() -> Iterator[Pixels]:
        for picture in pictures:
            buffer[...] = picture
            yield buffer

    found = [result.scores for result in model.stream(frames())]
    np.testing.assert_array_equal(found, [model(picture).scores for picture in pictures])


def test_a_sensor_may_overwrite_a_buffer_that_the_network_takes_as_it_is(shared: Path, tmp_path: Path) -> None:
    """float32 values in the network's own shape: nothing is computed, so that nothing would be copied."""
    path = third_party(shared, "vww_96_float", tmp_path)
    manifest = json.loads(path.read_text())
    manifest["preprocessing"] = {"kind": "tensor"}
    path.write_text(json.dumps(manifest))
    with load(path, verify="off") as plain:
        readings = np.random.default_rng(0).random((8, *plain.info["input"]["shape"]), np.float32)
        buffer = np.zeros_like(readings[0])  # what happens to lie in memory may be NaN
        assert np.may_share_memory(plain._prepare(buffer), buffer)

        def frames() -> Iterator[npt.NDArray[np.float32]]:
            for reading in readings:
                buffer[...] = reading
                yield buffer

        found = [result.scores for result in plain.stream(frames())]
        np.testing.assert_array_equal(found, [plain(reading).scores for reading in readings])


def test_files_are_prepared_side_by_side() -> None:
    meet = threading.Barrier(2)

    def work(item: int) -> int:
        meet.wait(timeout=20)  # passes only when two are at it
        return item

    assert list(ahead(range(6), work, 2, threads=2)) == list(range(6))


def test_what_may_be_overwritten_is_prepared_before_the_next_is_asked_for() -> None:
    cell = [0]

    def items() -> Iterator[list[int]]:
        for number in range(50):
            cell[0] = number
            yield cell

    assert list(ahead(items(), lambda item: item[0], 2, 3, lambda item: False)) == list(range(50))


def test_leaving_the_loop_ends_the_thread(model: Model) -> None:
    for _ in model.stream(iter(images(50))):
        break
    gc.collect()
    assert streaming() == []


def test_stream_raises_what_the_iterator_raises_in_its_place(model: Model) -> None:
    def frames() -> Iterator[Pixels]:
        yield from images(3)
        raise OSError("the camera was unplugged")

    found: list[int] = []
    with pytest.raises(OSError, match="unplugged"):
        found.extend(1 for _ in model.stream(frames()))
    assert streaming() == []


def test_stream_raises_a_bad_image_in_its_place(model: Model) -> None:
    good = images(2)
    stream = model.stream([*good, np.zeros((3, 3), np.float32), good[0]])
    assert [next(stream).index, next(stream).index] == [model(image).index for image in good]
    with pytest.raises(RuntimeFault, match="pixels must be uint8"):
        next(stream)
    assert streaming() == []


def test_outcomes_go_on_after_a_bad_image(model: Model) -> None:
    found = list(model.outcomes([images(1)[0], b"", images(1)[0]]))
    assert [isinstance(outcome, RuntimeFault) for outcome in found] == [False, True, False]


def test_one_image_is_no_stream(model: Model) -> None:
    with pytest.raises(RuntimeFault, match="put a single one into a list"):
        model.batch("photo.jpg")


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(), max_size=20), st.integers(0, 20), st.integers(0, 20), st.integers(1, 3), st.integers(1, 4)
)
def test_ahead_is_a_map_that_can_be_left_anywhere(
    items: list[int], leave: int, fail: int, depth: int, threads: int
) -> None:
    def work(place: int) -> int:
        if place == fail:
            raise ValueError
        return items[place] * 2

    found, failed = [], False
    stream = ahead(range(len(items)), work, depth, threads, lambda place: items[place] % 3 > 0)
    try:
        for value in stream:
            found.append(value)
            if len(found) == leave:
                break
    except ValueError:
        failed = True
    stream.close()
    expected = [item * 2 for item in items[:fail]]
    assert found == (expected[:leave] if leave > 0 else expected)
    assert failed == (fail < len(items) and not (0 < leave <= fail))
    assert streaming() == []


def test_eight_threads_give_the_serial_results(model: Model, shared: Path, tmp_path: Path) -> None:
    many = images(400)
    serial = [model(image).scores for image in many]
    with ThreadPoolExecutor(8) as pool:
        for result, scores in zip(pool.map(model, many), serial, strict=True):
            np.testing.assert_array_equal(result.scores, scores)
    vww = load(third_party(shared, "vww_96_int8", tmp_path))
    generator = np.random.default_rng(0)
    tensors = [generator.integers(-128, 128, (1, 96, 96, 3), dtype=np.int8) for _ in range(64)]
    alone = [vww.raw(tensor) for tensor in tensors]
    with ThreadPoolExecutor(8) as pool:
        np.testing.assert_array_equal(list(pool.map(vww.raw, tensors)), alone)


def test_several_models_live_side_by_side(bundle: Path) -> None:
    image = images(1)[0]
    models = [load(bundle, artifact=artifact) for artifact in ("fp32-onnx", "int8-onnx") * 3]
    assert len({opened(image).label for opened in models}) == 1
    models[0].close()
    assert models[2](image).label == models[1](image).label


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")
def test_ten_thousand_predictions_leak_no_memory(model: Model, shared: Path, tmp_path: Path) -> None:
    image = images(1)[0]
    vww = load(third_party(shared, "kws_ref_model", tmp_path))
    values = np.zeros((49, 10, 1), np.float32)
    file = bundles.png(image)

    def work(number: int) -> None:
        for _ in range(number):
            model(image)
            model.raw(tensor)
        for _ in range(number // 10):
            model(file)
            vww(values)
        list(model.stream([image] * (number // 10)))

    tensor = np.zeros((1, 3, bundles.HEIGHT, bundles.WIDTH), np.uint8)
    work(2000)
    gc.collect()
    before = resident()
    work(10_000)
    gc.collect()
    assert resident() - before < 2e6  # 200 bytes a prediction would show


def test_close_refuses_further_work(bundle: Path, shared: Path, tmp_path: Path) -> None:
    for opened, image in (
        (load(bundle), images(1)[0]),
        (load(third_party(shared, "vww_96_int8", tmp_path)), images(1)[0]),
    ):
        with opened:
            opened(image)
        opened.close()
        for call in (opened, opened.batch):
            with pytest.raises(RuntimeFault, match="the model is closed"):
                call(image if call is opened else [image])


def test_raw_is_the_engines_own_answer(model: Model, shared: Path, tmp_path: Path) -> None:
    tensor = np.ascontiguousarray(images(1).transpose(0, 3, 1, 2))
    out = model.raw(tensor)
    assert (out.dtype, out.shape) == (np.dtype(np.int8), (1, 4))
    oracle = bundles.quantized(bundles.expected(tensor.transpose(0, 2, 3, 1)))
    assert np.abs(out.astype(int) - oracle).max() <= 1
    np.testing.assert_array_equal(model.raw(tensor[0]), out)
    np.testing.assert_array_equal(model.raw(images(1).transpose(0, 3, 1, 2)), out)  # not contiguous
    path = shared / "models" / "vww_96_int8.tflite"
    x = np.random.default_rng(0).integers(-128, 128, (1, 96, 96, 3), dtype=np.int8)
    with load(third_party(shared, "vww_96_int8", tmp_path)) as opened:
        np.testing.assert_array_equal(opened.raw(x), litert.load(str(path)).run(x))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((1, 3, 8, 10), np.float32), r"uint8 \[1, 3, 8, 10\] is needed, not float32 \[1, 3, 8, 10\]"),
        (np.zeros((1, 3, 8, 10), np.int8), "uint8 .* is needed, not int8"),
        (np.zeros((1, 3, 10, 8), np.uint8), r"is needed, not uint8 \[1, 3, 10, 8\]"),
        (np.zeros((3, 3, 8, 10), np.uint8), "is needed"),
        (np.uint8(3), "an array is needed, not uint8"),
        ([[1]], "an array is needed, not list"),
    ],
)
def test_raw_raises_when_shape_or_dtype_is_wrong(model: Model, array: Any, message: str) -> None:
    with pytest.raises(RuntimeFault, match=message):
        model.raw(array)


def test_info_is_plain_data(bundle: Path) -> None:
    with load(bundle, threads=2) as opened:
        info = opened.info
    assert json.loads(json.dumps(info)) == info
    assert (info["artifact"], info["engine"], info["version"]) == ("int8-onnx", "onnxruntime", onnxruntime.version())
    assert (info["provider"], info["threads"], info["labels"]) == ("CPUExecutionProvider", 2, 4)
    assert (info["signed_by"], len(info["digest"])) == (None, 64)
    assert info["input"]["dtype"] == "uint8"
    assert info["golden"] <= 1
    info["engine"] = "another"
    assert opened.info["engine"] == "onnxruntime"


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (2, 2), (8, 2)])
def test_threads_are_those_of_the_shipped_choice(
    bundle: Path, cores: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "cores", lambda: cores)
    assert load(bundle).info["threads"] == threads
    assert load(bundle, artifact="fp32-onnx").info["threads"] == 1
    assert load(bundle, threads=1).info["threads"] == 1


def installed(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    monkeypatch.setattr(_load, "installed", lambda engine: engine.__name__.rpartition(".")[2] in names)


def both_formats(manifest: dict[str, Any]) -> None:
    """An entry of the other format goes first; what it names is never opened."""
    manifest["artifacts"].insert(1, {**manifest["artifacts"][0], "id": "int8-tflite", "format": "tflite"})


@pytest.mark.parametrize(
    ("there", "chosen"),
    [
        (("litert", "onnxruntime"), ("int8-onnx", "onnxruntime")),
        (("litert",), ("int8-tflite", "litert")),
        (("tflite_runtime", "tensorflow"), ("int8-tflite", "tflite_runtime")),
        (("tensorflow",), ("int8-tflite", "tensorflow")),
    ],
)
def test_auto_takes_the_first_artifact_that_an_installed_engine_runs(
    there: tuple[str, ...], chosen: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(monkeypatch, *there)
    opened = open_bundle(changed(tmp_path, both_formats))
    artifact, engine = _load.choose(opened)
    assert (artifact["id"], engine) == chosen
    assert _load.choose(opened, "litert")[0]["id"] == "int8-tflite"
    assert _load.choose(opened, artifact="int8-tflite")[0]["id"] == "int8-tflite" or there == ("onnxruntime",)


def test_load_says_the_pip_commands_when_no_engine_is_installed(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(monkeypatch)
    with pytest.raises(
        RuntimeFault, match=r"no engine that runs it is installed: pip install onnxruntime or pip install openvino$"
    ):
        load(bundle)
    everything = "pip install ai-edge-litert or pip install onnxruntime or pip install tflite-runtime or pip install te"
    with pytest.raises(RuntimeFault, match=everything):
        load(changed(tmp_path, both_formats))


def test_installed_looks_for_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _load.installed(onnxruntime)
    assert _load.installed(litert)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert not _load.installed(onnxruntime)


@pytest.mark.parametrize("error", [RuntimeFault("x: cannot be loaded: no"), OSError("libm.so: no"), MemoryError()])
def test_an_engine_that_fails_is_not_replaced_by_the_next(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(onnxruntime, "load", fail)
    monkeypatch.setattr(litert, "load", lambda *_: pytest.fail("the next engine was taken"))
    with pytest.raises(RuntimeFault, match=r"cannot be loaded: no|cannot load it: (libm|out of memory)") as caught:
        load(changed(tmp_path, both_formats))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"engine": "tensorrt"}, "no such engine"),
        ({"engine": "litert"}, "no tflite artifact"),
        ({"artifact": "int4"}, "no artifact called"),
        ({"provider": "TPU"}, "no such provider"),
        ({"threads": 0}, "threads=0: must be a whole"),
        ({"threads": 1.5}, "threads=1.5: must be a whole"),
        ({"verify": "maybe"}, "golden, hash, off"),
        ({"require_signature": True}, "needs trusted_keys"),
    ],
)
def test_load_raises_one_line_when_asked_for_what_is_not_there(
    bundle: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(RuntimeFault, match=message) as caught:
        load(bundle, **arguments)
    assert "\n" not in str(caught.value)


def artifact_input(**keys: Any) -> Any:
    return lambda manifest: manifest["artifacts"][0]["input"].update(keys)


def flat_output(manifest: dict[str, Any]) -> None:
    output = manifest["artifacts"][0]["output"]
    output.update(shape=[1, 2, 2])
    del output["layout"]


def turned(manifest: dict[str, Any]) -> None:
    manifest["preprocessing"].update(height=bundles.WIDTH, width=bundles.HEIGHT)
    for artifact in manifest["artifacts"]:
        artifact["input"].update(shape=[1, 3, bundles.WIDTH, bundles.HEIGHT])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (artifact_input(dtype="int8"), r"int8-onnx: input: the file has uint8 .*, the manifest says int8"),
        (flat_output, r"output: the file has int8 \[1, 4\], the manifest says int8 \[1, 2, 2\]"),
        (turned, r"input: the file has uint8 \[1, 3, 8, 10\], the manifest says uint8 \[1, 3, 10, 8\]"),
    ],
)
def test_load_raises_when_the_model_is_not_what_the_manifest_says(change: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(RuntimeFault, match=message):
        load(changed(tmp_path, change), verify="hash")


@pytest.mark.parametrize("key", ["scale", "zero_point"])
def test_load_raises_when_the_scale_is_not_the_files(key: str, shared: Path, tmp_path: Path) -> None:
    path = third_party(shared, "vww_96_int8", tmp_path)
    manifest = json.loads(path.read_text())
    manifest["artifacts"][0]["input"][key] = {"scale": 0.0039, "zero_point": -127}[key]
    path.write_text(json.dumps(manifest))
    with pytest.raises(RuntimeFault, match=r"input: the file has scale 0\.0039215.* and zero point -128, the manifest"):
        load(path)


def test_load_raises_when_the_results_here_are_others(tmp_path: Path) -> None:
    manifest, members = bundles.contents()
    members["golden/int8-onnx.npy"] = bundles.npy(bundles.quantized(bundles.expected(bundles.pixels()) + 0.1))
    path = bundles.write(tmp_path / "x.edgekit", bundles.seal(manifest, members))
    with pytest.raises(RuntimeFault, match=r"int8-onnx: golden vector \d of 3 is 5 steps away, at most 1 is allowed"):
        load(path)
    assert load(path, verify="hash").info["golden"] is None


def test_an_output_that_is_no_number_is_refused(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model._session, "run", lambda _: np.full((1, 4), np.nan, np.float32))
    monkeypatch.setattr(model, "_output", Port("y", (1, 4), "float32"))
    with pytest.raises(RuntimeFault, match="is NaN"):
        model(images(1)[0])


def test_a_failed_load_closes_the_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = []
    monkeypatch.setattr(onnxruntime.OrtSession, "close", lambda self: closed.append(self))
    with pytest.raises(RuntimeFault):
        load(changed(tmp_path, artifact_input(dtype="int8")), verify="hash")
    assert len(closed) == 1


def test_the_public_names_are_there() -> None:
    assert set(dir(edgekit.runtime)) >= {"load", "Model", "Result", "RuntimeFault"}
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        edgekit.runtime.lode  # noqa: B018


# ---- files that others made ----

HALF, ONE = {"mean": [0.5] * 3, "std": [0.5] * 3}, {"mean": [0.0] * 3, "std": [1.0] * 3}
THIRD_PARTY: dict[str, tuple[int, dict[str, Any]]] = {
    "mobilenet_v1_0.25_128_quant": (128, {"mean": [128 / 255] * 3, "std": [128 / 255] * 3}),
    "tf2_mobilenet_v2_1.0_224_ptq": (224, HALF),
    "vww_96_float": (96, ONE),
    "vww_96_int8": (96, ONE),
    "kws_ref_model": (0, {}),
}


def third_party(shared: Path, name: str, folder: Path) -> Path:
    """A manifest as one would write it by hand, beside the model, in a new folder."""
    folder = folder / name
    folder.mkdir()
    for file in (f"{name}.tflite", "imagenet_labels.txt"):
        shutil.copy(shared / "models" / file, folder)
    session = litert.load(str(shared / "models" / f"{name}.tflite"))
    ports = [
        {key: getattr(port, key) for key in ("shape", "dtype", "scale", "zero_point")}
        for port in (session.input, session.output)
    ]
    size, scaling = THIRD_PARTY[name]
    image = {
        "kind": "image", "color": "rgb", "height": size, "width": size, "resize": "short_side", "crop": 1.0,
        "interpolation": "bilinear", **scaling,
    }  # fmt: skip
    manifest = {
        "format": "edgekit-bundle", "version": "1.0", "name": name, "task": "classification",
        **({"labels": "imagenet_labels.txt"} if ports[1]["shape"][1] == 1001 else {}),
        "preprocessing": image if size else {"kind": "tensor"},
        "postprocessing": {"activation": "none"},
        "artifacts": [
            {
                "id": "theirs", "format": "tflite", "file": f"{name}.tflite",
                "input": {**ports[0], **({"layout": "NHWC"} if size else {})}, "output": ports[1],
            }
        ],
    }  # fmt: skip
    path = folder / "manifest-by-hand.json"
    path.write_text(json.dumps(manifest))
    return path


@pytest.mark.parametrize("name", ["mobilenet_v1_0.25_128_quant", "tf2_mobilenet_v2_1.0_224_ptq"])
def test_the_parrot_is_a_macaw(name: str, shared: Path, tmp_path: Path) -> None:
    with load(third_party(shared, name, tmp_path)) as opened:
        result = opened(shared / "models" / "parrot.jpg")
    assert result.label == "macaw"
    assert result.score > 0.5
    assert abs(float(result.scores.sum()) - 1) < 0.1


def test_visual_wake_words_agree_in_float_and_int8(shared: Path, tmp_path: Path) -> None:
    real = load(third_party(shared, "vww_96_float", tmp_path))
    whole = load(third_party(shared, "vww_96_int8", tmp_path))
    found = sorted((shared / "data" / "imagenet500").glob("*.jpg"))[:40]
    sources = [shared / "models" / "parrot.jpg", *found]
    pairs = [(real(source), whole(source)) for source in sources]
    assert np.mean([a.index == b.index for a, b in pairs]) >= 0.95
    assert max(np.abs(a.scores - b.scores).max() for a, b in pairs) < 0.25
    assert pairs[0][0].index == pairs[0][1].index == 0  # no person
    assert 0 < sum(a.index for a, _ in pairs) < len(pairs)


def test_keyword_spotting_takes_real_values(shared: Path, tmp_path: Path) -> None:
    opened = load(third_party(shared, "kws_ref_model", tmp_path))
    port = opened.info["input"]
    values = np.random.default_rng(0).normal(0, 20, (1, 49, 10, 1))
    steps = np.clip(np.rint(values.astype(np.float32) * np.float32(1 / port["scale"])) + port["zero_point"], -128, 127)
    out = opened.raw(steps.astype(np.int8))[0]
    for given_values in (values, values[0], values.astype(np.float32)):
        result = opened(given_values)
        np.testing.assert_allclose(result.scores, (out.astype(float) + 128) / 256)
    assert result.label is None
    for bad, message in [
        (np.full((49, 10, 1), np.nan), "NaN or infinite"),
        (np.full((49, 10, 1), np.inf, np.float32), "NaN or infinite"),
        (np.full((49, 10, 1), 1e300), "beyond the range of float32"),
        (np.zeros((49, 10)), r"shape \(49, 10\), \(1, 49, 10, 1\) is needed"),
        (np.zeros((49, 10, 1), complex), "complex128 is not an array of real values"),
        (np.zeros((49, 10, 1), bool), "bool is not an array of real values"),
        (np.full((49, 10, 1), None), "object is not an array of real values"),
        ("photo.jpg", "str is not an array of real values"),
    ]:
        with pytest.raises(RuntimeFault, match=message):
            opened(bad)
