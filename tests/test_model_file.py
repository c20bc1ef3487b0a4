"""No engine opens a model that needs something outside its file; protobuf and LiteRT's schema are the judges."""

# mypy: disable-error-code="func-returns-value"

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema
from cryptography.hazmat.primitives import serialization
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from edgekit.deploy import bundle as deploy
from edgekit.deploy import keys
from edgekit.inspect import dispatch
from edgekit.runtime import RuntimeFault, _protobuf, archive, load, model_file
from tests import bundles, model_files
from tests.support import complaint, edgekit

WHOLE = bundles.model(int8=False)


def refusal(data: bytes, kind: str = "onnx") -> str:
    with pytest.raises(RuntimeFault, match=r"^x: ") as caught:
        model_file.check(data, kind, "x")
    assert "\n" not in str(caught.value)
    assert str(caught.value).isprintable()
    return str(caught.value)


def away(name: str = "w", location: str = "weights.bin") -> onnx.TensorProto:
    """A tensor in another file, as ONNX stores it."""
    tensor = onnx.TensorProto(name=name, dims=[2], data_type=1, data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return tensor


# ONNX ----------------------------------------------------------------------------------------------


def graph(tensor: onnx.TensorProto | None = None, *nodes: onnx.NodeProto) -> onnx.GraphProto:
    made = helper.make_graph(nodes or [helper.make_node("Relu", ["x"], ["y"])], "g", [], [])
    if tensor is not None:
        made.initializer.append(tensor)
    return made


def sparse(values: onnx.TensorProto, indices: onnx.TensorProto) -> onnx.SparseTensorProto:
    return onnx.SparseTensorProto(values=values, indices=indices, dims=[4])


def within(kind: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, ["x"], ["y"], **attributes)


def function(node: onnx.NodeProto) -> onnx.FunctionProto:
    return helper.make_function("mine", "Mine", ["x"], ["y"], [node], [helper.make_opsetid("", 20)])


def hidden(**fields: Any) -> bytes:
    """A model with these fields."""
    model = onnx.ModelProto(**{"ir_version": 9, "graph": graph(), **fields})
    return bytes(model.SerializeToString())


HERE = numpy_helper.from_array(np.zeros(2, np.float32), "here")
DEFAULT = onnx.FunctionProto(name="F", attribute_proto=[helper.make_attribute("a", away())])
PLACES: dict[str, Callable[[], bytes]] = {
    "initializer": lambda: hidden(graph=graph(away())),
    "sparse values": lambda: hidden(graph=onnx.GraphProto(sparse_initializer=[sparse(away(), HERE)])),
    "sparse indices": lambda: hidden(graph=onnx.GraphProto(sparse_initializer=[sparse(HERE, away())])),
    "constant": lambda: hidden(graph=graph(None, within("Constant", value=away()))),
    "sparse constant": lambda: hidden(graph=graph(None, within("Constant", sparse_value=sparse(away(), HERE)))),
    "list of tensors": lambda: hidden(graph=graph(None, within("Constant", values=[HERE, away()]))),
    "list of sparse ones": lambda: hidden(graph=graph(None, within("Constant", values=[sparse(HERE, away())]))),
    "branch": lambda: hidden(graph=graph(None, within("If", then_branch=graph(), else_branch=graph(away())))),
    "branch of a loop": lambda: hidden(
        graph=graph(None, within("Loop", body=graph(None, within("If", then_branch=graph(away())))))
    ),
    "list of graphs": lambda: hidden(graph=graph(None, within("Mine", graphs=[graph(), graph(away())]))),
    "function": lambda: hidden(functions=[function(within("Constant", value=away()))]),
    "default of a function": lambda: hidden(functions=[DEFAULT]),
    "training": lambda: hidden(training_info=[onnx.TrainingInfoProto(algorithm=graph(away()))]),
    "start of training": lambda: hidden(training_info=[onnx.TrainingInfoProto(initialization=graph(away()))]),
    "another graph": lambda: hidden() + hidden(graph=graph(away())),  # protobuf merges the two
    "the memory of the process": lambda: hidden(graph=graph(away(location="*/_ORT_MEM_ADDR_/*"))),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_tensor_in_another_file_is_found_wherever_it_is(place: str) -> None:
    said = refusal(PLACES[place]())
    assert 'tensor "w" lies in another file, "' in said
    assert "onnx.save(onnx.load(" in said


def test_either_mark_of_another_file_is_enough() -> None:
    """Readers differ in what they go by: the location that is stated, or the list of places."""
    stated, listed = away(), away()
    del stated.external_data[:]
    listed.ClearField("data_location")
    for tensor in (stated, listed):
        assert 'tensor "w" lies in another file' in refusal(hidden(graph=graph(tensor)))
    here = onnx.TensorProto(name="w", dims=[0], data_type=1, data_location=onnx.TensorProto.DEFAULT)
    model_file.check(hidden(graph=graph(here)), "onnx", "x")


def holders() -> dict[str, Any]:
    """Every message of ONNX in which a tensor or an operator can lie, by name, from its own descriptors."""
    every: dict[str, Any] = {}

    def visit(descriptor: Any) -> None:
        if descriptor.name not in every:
            every[descriptor.name] = descriptor
            for field in descriptor.fields:
                if field.message_type:
                    visit(field.message_type)

    visit(onnx.ModelProto.DESCRIPTOR)
    found = {"TensorProto", "NodeProto"}
    while True:
        more = {
            name
            for name, descriptor in every.items()
            if any(field.message_type and field.message_type.name in found for field in descriptor.fields)
        }
        if more <= found:
            return {name: every[name] for name in found}
        found |= more


def test_no_message_of_onnx_is_forgotten() -> None:
    """Fails with an ONNX that can hold tensors elsewhere: then `_MESSAGES` has to grow."""
    assert set(_protobuf._MESSAGES) == set(holders())
    for name, descriptor in holders().items():
        inside, newest = _protobuf._MESSAGES[name]
        assert newest == max(field.number for field in descriptor.fields)
        wanted = {f.number: f.message_type.name for f in descriptor.fields if f.message_type}
        assert {n: kind for n, kind in inside.items() if kind in holders()} == {
            n: kind for n, kind in wanted.items() if kind in holders()
        }
    for number, kind in _protobuf._MESSAGES["AttributeProto"][0].items():
        assert kind in holders()
        tag = number << 3 | 2
        for first in {tag & 127 | 128} if tag > 127 else {tag, tag | 128}:
            assert _protobuf._NESTED(bytes([first]))


def tensors(message: Any) -> Iterator[onnx.TensorProto]:
    """Every tensor that protobuf finds in a message."""
    if isinstance(message, onnx.TensorProto):
        yield message
    for field, value in message.ListFields():
        if field.message_type:
            for each in value if field.is_repeated else [value]:
                yield from tensors(each)


def outside(data: bytes) -> bool | None:
    """Whether ONNX's own reader finds a tensor in another file; None: it does not read these bytes."""
    try:
        model = onnx.load_model_from_string(data)
    except DecodeError:
        return None
    return any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in tensors(model))


SEEDS = [make() for make in PLACES.values()]


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.integers(0, 400), st.binary(max_size=3), st.integers(0, 3)), max_size=4),
)
def test_whatever_protobuf_reads_no_tensor_elsewhere_gets_through(data: bytes, changes: list[Any]) -> None:
    """Bytes put in, taken out and replaced anywhere."""
    for place, more, gone in changes:
        place %= len(data)
        data = data[:place] + more + data[place + gone :]
    try:
        model_file.check(data, "onnx", "x")
    except RuntimeFault:
        return
    assert not outside(data)


def varint(value: int, extra: int = 0) -> bytes:
    """With more bytes than it needs, which every reader takes."""
    groups = [value >> shift & 127 for shift in range(0, max(value.bit_length(), 1), 7)] + [0] * extra
    return bytes([*(group | 128 for group in groups[:-1]), groups[-1]])


@example(13, 1)
@given(st.sampled_from([13, 14]), st.integers(0, 3))
def test_numbers_that_are_written_long_hide_nothing(number: int, extra: int) -> None:
    tensor = onnx.TensorProto(name="w", dims=[2], data_type=1).SerializeToString()
    entry = away().external_data[0].SerializeToString()
    if number == 13:
        tensor += varint(13 << 3 | 2, extra) + varint(len(entry), extra) + entry
    tensor += varint(14 << 3, extra) + varint(1, extra)
    field = varint(5 << 3 | 2, extra) + varint(len(tensor), extra) + tensor
    data = varint(7 << 3 | 2, extra) + varint(len(field), extra) + field
    assert outside(data)
    assert "lies in another file" in refusal(data)


def test_a_model_of_fifteen_thousand_levels_is_answered() -> None:
    """A reader that calls itself would end in a RecursionError, or crash."""
    data = graph(away()).SerializeToString()
    for _ in range(5_000):
        for tag in (6 << 3 | 2, 5 << 3 | 2, 1 << 3 | 2):  # graph of an attribute of a node of a graph
            data = bytes([tag]) + varint(len(data)) + data
    assert "lies in another file" in refusal(b"\x3a" + varint(len(data)) + data)


@pytest.mark.parametrize(
    ("domain", "name", "allowed"),
    [
        ("", "Conv", True),
        ("ai.onnx.ml", "LabelEncoder", True),
        ("com.microsoft", "QLinearAdd", True),
        ("mine", "Mine", True),  # a function of the file
        ("mine", "Other", False),
        ("com.example", "Conv", False),
        ("com.microsoft.extensions", "OpenAIAudioToText", False),  # asks a server
        ("com.microsoft", "EPContext", False),  # may name the file of a compiled graph
        ("com.microsoft", "PythonOp", False),  # names a Python function
    ],
)
def test_operators_come_with_the_file_or_the_engine(domain: str, name: str, allowed: bool) -> None:
    node = helper.make_node(name, ["x"], ["y"], domain=domain)
    for data in (
        hidden(graph=graph(None, node), functions=[function(within("Relu"))]),
        hidden(graph=graph(None, within("If", then_branch=graph(None, node))), functions=[function(within("Relu"))]),
        hidden(functions=[function(within("Relu")), helper.make_function("a", "A", [], [], [node], [])]),
    ):
        if allowed:
            model_file.check(data, "onnx", "x")
        else:
            assert name in refusal(data)


def test_inspect_shows_a_file_with_foreign_operators_and_says_so(tmp_path: Path) -> None:
    model = model_files.float_onnx()
    model.graph.node[1].domain = "com.example"
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
    report = dispatch.model(tmp_path / "a.onnx", engines=False)
    assert any(note.startswith("no bundle takes it: operator com.example.Clip is defined") for note in report.notes)


def test_what_is_no_onnx_file() -> None:
    assert "ONNX Runtime's own format" in refusal(b"\x12\x20\0\0ORTM" + bytes(40))
    assert "field 27 of a ModelProto is unknown; update edgekit" in refusal(WHOLE + varint(27 << 3 | 2) + b"\0")
    for length in range(1, len(WHOLE)):
        if outside(WHOLE[:length]) is None:
            assert "not an intact .onnx file" in refusal(WHOLE[:length])
    for data in (b"\x03", b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\x00\x00"):
        assert "not an intact .onnx file" in refusal(data)


# TFLite --------------------------------------------------------------------------------------------


def changed(change: Callable[[Any], Any]) -> bytes:
    """A .tflite file, changed through LiteRT's schema."""
    model = schema.ModelT.InitFromPackedBuf(model_files.int8_tflite(), 0)
    change(model)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def put(thing: Any, **fields: Any) -> Any:
    """It, with other values in these fields."""
    for name, value in fields.items():
        setattr(thing, name, value)
    return thing


def renamed(model: Any, name: bytes) -> None:
    code = model.operatorCodes[-1]
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
    code.customCode = name


ELSEWHERE: dict[str, tuple[Callable[[Any], Any], str]] = {
    "groups": (
        lambda m: put(m, externalBufferGroups=[put(schema.ExternalBufferGroupT(), name=b"weights.bin")]),
        "its weights lie in another file",
    ),
    "buffers": (
        lambda m: put(m, externalBuffers=[put(schema.ExternalBufferT(), id=1, length=8)]),
        "its weights lie in another file",
    ),
    "tensor": (lambda m: put(m.subgraphs[0].tensors[1], externalBuffer=1), "its weights lie in another file"),
    "offset": (lambda m: put(m.buffers[1], offset=2**40, size=8), "the data of one buffer lies out of the file"),
    "size": (lambda m: put(m.buffers[1], offset=8, size=2**63), "the data of one buffer lies out of the file"),
    "options": (
        lambda m: put(m.subgraphs[0].operators[0], largeCustomOptionsOffset=2**40, largeCustomOptionsSize=8),
        "the data of one operator lies out of the file",
    ),
    "custom": (lambda m: renamed(m, b"My\x1bOp"), r"custom operator My\x1bOp is not part of LiteRT"),
    "flex": (lambda m: renamed(m, b"FlexAdd"), "custom operator FlexAdd is not part of LiteRT"),
}


@pytest.mark.parametrize(("change", "why"), ELSEWHERE.values(), ids=ELSEWHERE)
def test_tflite_files_that_need_something_outside(change: Callable[[Any], Any], why: str) -> None:
    assert why in refusal(changed(change), "tflite")


def test_tflite_files_that_hold_all() -> None:
    for change in (lambda m: None, lambda m: renamed(m, b"TFLite_Detection_PostProcess")):
        model_file.check(changed(change), "tflite", "x")
    inside = changed(lambda m: put(m.buffers[1], offset=8, size=8))
    model_file.check(inside, "tflite", "x")


# Files of others -----------------------------------------------------------------------------------


def test_files_of_others_hold_all(shared: Path) -> None:
    for path in (shared / "models").glob("*.tflite"):
        model_file.check(path.read_bytes(), "tflite", str(path))
    light = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    for path in light.glob("*.onnx"):
        model_file.check(path.read_bytes(), "onnx", str(path))


# The attack ----------------------------------------------------------------------------------------


@pytest.fixture
def split(tmp_path: Path) -> Path:
    """A hand-written manifest beside a model whose weights lie in ``weights.bin``."""
    manifest, members = bundles.contents()
    manifest["artifacts"] = [each for each in manifest["artifacts"] if each["id"] == "fp32-onnx"]
    for key in ("golden", "ship"):
        manifest.pop(key)
    del manifest["artifacts"][0]["golden"]
    path = bundles.unpack(tmp_path, manifest, {"labels.txt": members["labels.txt"], "models/waste-fp32.onnx": WHOLE})
    model = onnx.load_model_from_string(WHOLE)
    onnx.save(
        model,
        tmp_path / "models" / "waste-fp32.onnx",
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    assert (tmp_path / "models" / "weights.bin").stat().st_size > 0
    return path


def old_bundle(split: Path) -> Path:
    """What an edgekit that does not look into files made of it."""
    manifest = json.loads(split.read_text())
    names = ("labels.txt", "models/waste-fp32.onnx")
    members = bundles.sign(bundles.seal(manifest, {name: (split.parent / name).read_bytes() for name in names}))
    return bundles.write(split.parent / "old.edgekit", members)


def test_nothing_packs_signs_or_runs_weights_in_another_file(split: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = split.parent
    image = folder / "image.png"
    image.write_bytes(bundles.contents()[1]["golden/0.png"])
    assert 'lies in another file, "weights.bin"' in complaint("pack", split, code=2, cwd=folder)
    assert not list(folder.glob("*.edgekit"))
    old = old_bundle(split)
    pem, form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    (folder / "maker.pub").write_bytes(bundles.KEY.public_key().public_bytes(pem, form))
    keys.keygen(folder / "mine")
    before = old.read_bytes()
    assert "lies in another file" in complaint("sign", old, "--key", folder / "mine.key", code=1)
    assert "lies in another file" in complaint("verify-signature", old, "--key", folder / "maker.pub", code=1)
    assert "lies in another file" in complaint("inspect", old, code=2)
    assert "lies in another file" in complaint("inspect", folder / "models" / "waste-fp32.onnx", code=2)
    assert "lies in another file" in complaint("profile", old, "--out", folder / "profile", code=2)
    assert not (folder / "profile").exists()
    assert old.read_bytes() == before
    for place in (folder, folder / "models", Path("/")):  # with the weights there, and without
        monkeypatch.chdir(place)
        for path in (split, old):
            for verify in ("golden", "hash", "off"):
                with pytest.raises(RuntimeFault, match="lies in another file"):
                    load(os.path.relpath(path), "onnxruntime", verify=verify)
    with pytest.raises(RuntimeFault, match="lies in another file"):
        load(old, "onnxruntime", trusted_keys=[bundles.public()], require_signature=True)


def test_the_advice_of_the_refusal_works(split: Path) -> None:
    path = split.parent / "models" / "waste-fp32.onnx"
    onnx.save(onnx.load(path), path)
    edgekit("pack", split, "--out", split.parent / "whole.edgekit")
    with load(split.parent / "whole.edgekit", "onnxruntime") as model:
        images = bundles.pixels()
        for image, logits in zip(images, bundles.expected(images), strict=True):
            assert np.allclose(model.raw(model._tensor(image)), logits, atol=1e-5)


def test_selftest_names_the_file_that_is_not_whole(split: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from edgekit.runtime.__main__ import main

    assert main(["selftest", str(old_bundle(split))]) == 1
    assert "file: failed: " in (said := capsys.readouterr().out)
    assert "lies in another file" in said


def test_a_packed_bundle_is_checked_before_it_is_written(tmp_path: Path) -> None:
    manifest, members = bundles.contents()
    members["models/waste-fp32.onnx"] = PLACES["branch"]()
    with pytest.raises(Exception, match=r"not written, as the runtime refuses it: .*lies in another file"):
        deploy.write(tmp_path / "a.edgekit", deploy.Contents(manifest, members))
    assert not list(tmp_path.iterdir())
    assert archive.canonical(bundles.seal(manifest, members))
