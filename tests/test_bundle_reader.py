"""What the runtime reads of a bundle: the zip, the manifest by its schema, signatures, golden vectors."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import os
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import numpy.typing as npt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.runtime import _golden, _schema, _signature, manifest_file
from edgekit.runtime import archive as archive_module
from edgekit.runtime.bundle import open_bundle
from edgekit.runtime.engines import onnxruntime as engine
from edgekit.runtime.errors import RuntimeFault
from tests import bundles

SCHEMA = manifest_file.schema()
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(32))
names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,8}(/[A-Za-z0-9][A-Za-z0-9._-]{0,8}){0,3}", fullmatch=True)


# The zip -------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.one_of(names, st.sampled_from(["manifest.json", "signature.json"])), st.binary(max_size=200)))
def test_any_zip_tool_reads_a_bundle(members: dict[str, bytes]) -> None:
    data = archive_module.canonical(members)
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        assert file.testzip() is None
        assert {info.filename: file.read(info) for info in file.infolist()} == members
        order = file.namelist()
    if members:
        found = archive_module.read(data)
        assert {name: bytes(view) for name, view in found.items()} == members
        assert list(found) == order
    for name, place in (("manifest.json", 0), ("signature.json", -1)):
        assert name not in members or order[place] == name
    assert archive_module.canonical(dict(reversed(list(members.items())))) == data


def test_members_are_views_of_the_one_copy() -> None:
    data = bytearray(archive_module.canonical({"manifest.json": b"{}", "a": b"abc"}))
    view = archive_module.read(memoryview(data))["a"]
    data[data.index(b"abc")] = ord("x")
    assert bytes(view) == b"xbc"


@pytest.mark.parametrize(
    "name", ["", "/a", "../a", "a/../b", "a//b", "a\\b", ".a", "a/", "C:a", "a\nb", "é", "a/b/c/d/e"]
)
def test_names_that_lead_elsewhere_are_not_written(name: str) -> None:
    with pytest.raises(RuntimeFault, match="not a valid member name"):
        archive_module.canonical({"manifest.json": b"{}", name: b""})


def test_names_follow_the_schema() -> None:
    assert SCHEMA["$defs"]["member"]["pattern"] == f"^{archive_module.NAME.pattern}$"


# JSON and the schema -------------------------------------------------------------------------------


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_the_schema_uses_only_known_keywords() -> None:
    known = {
        "$schema", "$defs", "$ref", "title", "description", "type", "const", "enum", "required", "properties",
        "additionalProperties", "pattern", "items", "minItems", "maxItems", "minimum", "maximum", "exclusiveMinimum",
    }  # fmt: skip

    def walk(schema: Any) -> None:
        assert set(schema) <= known
        for part in (*schema.get("properties", {}).values(), *schema.get("$defs", {}).values()):
            walk(part)
        for key in ("items", "additionalProperties"):
            if isinstance(schema.get(key), dict):
                walk(schema[key])
        assert schema.get("pattern", "^$")[0] + schema.get("pattern", "^$")[-1] == "^$"

    walk(SCHEMA)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of all values inside of a value."""
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [path] + [place for key in keys for place in places(value[key], (*path, key))]


def manifest() -> dict[str, Any]:
    return dict(json.loads(bundles.seal(*bundles.contents())["manifest.json"]))


PLACES = places(manifest())[1:]
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 20000)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n"), max_size=5)
    | st.sampled_from(["onnx", "int8", "NCHW", "rgb", "a" * 101, "a/b", "0" * 64, "1.0", "softmax"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["scale", "shape", "x"]), inner),
    max_leaves=5,
)


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(PLACES), st.sampled_from(["put", "drop", "add", "twice"]), values), max_size=3)
)
def test_same_verdict_as_jsonschema(changes: list[tuple[tuple[Any, ...], str, Any]]) -> None:
    changed = manifest()
    bundles.change(changed, changes)
    ours = _schema.validate(_schema.parse(json.dumps(changed).encode(), "test"), SCHEMA)
    theirs = jsonschema.Draft202012Validator(SCHEMA).is_valid(changed)
    assert (ours is None) == theirs, ours


@settings(max_examples=200, deadline=None)
@given(values)
def test_any_value_survives_json(value: Any) -> None:
    assert _schema.parse(json.dumps(value).encode(), "test") == value


BAD_JSON = {
    "nan": (b'{"a": NaN}', "NaN is not a number"),
    "infinity": (b'{"a": -Infinity}', "-Infinity is not a number"),
    "overflow": (b'{"a": 1e999}', "1e999 is too large"),
    "digits": (b'{"a": ' + b"9" * 5000 + b"}", "an integer of 5000 digits"),
    "twice": (b'{"a": 1, "b": 2, "a": 3}', 'key "a" appears twice'),
    "not utf-8": (b'{"a": "\xff"}', "utf-8"),
    "utf-16": ('{"a": 1}'.encode("utf-16"), "utf-8"),
    "bom": (b'\xef\xbb\xbf{"a": 1}', "BOM"),
    "surrogate": (b'{"a": "\\ud800"}', "surrogates not allowed"),
    "surrogate key": (b'{"\\ud800": 1}', "surrogates not allowed"),
    "deep": (b"[" * 100000 + b"]" * 100000, "too deep"),
    "deep objects": (b'{"a":' * 65 + b"1" + b"}" * 65, "too deep"),
    "cut": (b'{"a": ', "Expecting value"),
    "two": (b"{}{}", "Extra data"),
    "large": (b" " * (_schema.LARGEST + 1), f"at most {_schema.LARGEST}"),
}


@pytest.mark.parametrize(("text", "why"), BAD_JSON.values(), ids=BAD_JSON)
def test_json_that_is_not_taken(text: bytes, why: str) -> None:
    with pytest.raises(RuntimeFault, match=r"^test: ") as caught:
        _schema.parse(text, "test")
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)


def test_whole_numbers_are_ints_however_they_are_written() -> None:
    found = _schema.parse(b"[1.0, 1e3, 0.5, -0.0, 64]", "test")
    assert found == [1, 1000, 0.5, 0, 64]
    assert [type(value) for value in found] == [int, int, float, int, int]


def change(place: str, value: Any) -> dict[str, Any]:
    """The manifest with another value at a place such as ``artifacts.0.input.dtype``; ... removes it."""
    changed: Any = manifest()
    *path, last = [int(key) if key.isdigit() else key for key in place.split(".")]
    target = changed
    for key in path:
        target = target[key]
    if value is ...:
        del target[last]
    else:
        target[last] = (
            {key: item for key, item in value.items() if item is not ...} if isinstance(value, dict) else value
        )
    return dict(changed)


FAULTS: dict[str, tuple[str, Any, str]] = {
    "type": ("preprocessing.height", "8", 'preprocessing.height: "8" is not allowed (it must be of type integer)'),
    "bool": ("preprocessing.height", True, "preprocessing.height: true is not allowed (it must be of type integer)"),
    "enum": (
        "artifacts.0.input.dtype", "int32",
        'artifacts[0].input.dtype: "int32" is not allowed (choices: "float32", "float16", "int8", "uint8", "int16")',
    ),
    "missing": ("artifacts.1.file", ..., 'artifacts[1]: "file" is missing'),
    "unknown": ("postprocessing.x", 1, 'postprocessing: unknown key "x" (allowed: activation)'),
    "none": ("artifacts", [], "artifacts: 0 items (1 to 100 are allowed)"),
    "escape": ("artifacts.0.file", "../secret", 'artifacts[0].file: "../secret" is not allowed (pattern: '),
    "absolute": ("labels", "/etc/passwd", 'labels: "/etc/passwd" is not allowed (pattern: '),
    "line feed": ("labels", "labels.txt\n", 'labels: "labels.txt\\n" is not allowed (pattern: '),
    "zero": ("preprocessing.std.0", 0, "preprocessing.std[0]: 0 is not allowed (minimum: 1e-06)"),
    "far too large": ("preprocessing.height", 20000, "preprocessing.height: 20000 is not allowed (maximum: 16384)"),
    "negative": ("artifacts.0.golden.tolerance", -1, "artifacts[0].golden.tolerance: -1 is not allowed (minimum: 0)"),
    "ids": ("artifacts.1.id", "int8-onnx", 'artifacts[1].id: "int8-onnx" appears twice'),
    "ship": ("ship.0.artifact", "x", 'ship[0].artifact: "x" is unknown (choices: int8-onnx, fp32-onnx)'),
    "no mean": ("preprocessing.mean", ..., 'preprocessing: "mean" is missing (images need color, height, width, '),
    "no width": ("preprocessing.width", ..., 'preprocessing: "width" is missing'),
    "no crop": (
        "preprocessing", {**bundles.contents()[0]["preprocessing"], "resize": "short_side", "crop": ...},
        'preprocessing: "crop" is missing (images need color, height, width, resize, interpolation, mean, std, crop)',
    ),
    "tiny crop": (
        "preprocessing.crop", 1e-9, "preprocessing.crop: 1e-09 makes images of 1e+10 pixels (at most 16384)"
    ),
    "channels": ("preprocessing.std", [1], "preprocessing.std: 1 values for 3 channels (rgb)"),
    "layout": ("artifacts.0.output.layout", "NCHW", "NCHW has 4 dimensions, the shape [1, 4] has 2"),
    "no layout": ("artifacts.0.input.layout", ..., "artifacts[0].input.layout: null is not allowed for images"),
    "other layout": (
        "artifacts.0.input.layout", "NHWC",
        "artifacts[0].input.shape: [1, 3, 8, 10] is not what preprocessing gives (NHWC [1, 8, 10, 3])",
    ),
    "other size": ("preprocessing.height", 9, "is not what preprocessing gives (NCHW [1, 3, 9, 10])"),
    "no scale": ("artifacts.0.output.scale", None, 'artifacts[0].output: "scale" is missing (int8 needs scale and'),
    "no zero point": ("artifacts.0.input.zero_point", ..., 'artifacts[0].input: "zero_point" is missing'),
    "zero point": ("artifacts.0.output.zero_point", 128, "output.zero_point: 128 is not a valid int8 (-128 to 127)"),
    "float scale": ("artifacts.1.output.scale", 0.5, "artifacts[1].output: float32 takes no scale or zero_point"),
    "classes": ("artifacts.1.output.shape", [1, 5], "artifacts[1].output.shape: 5 outputs, artifacts[0] has 4"),
    "no inputs": ("golden", ..., "artifacts[0].golden: has outputs, but the manifest has no golden.inputs"),
    "unlisted": ("labels", "other.txt", "labels: other.txt is not listed in members"),
    "format": ("format", "zip", 'not a bundle manifest ("format": "edgekit-bundle" is missing)'),
    "no version": ("version", ..., 'version null is not valid ("MAJOR.MINOR", here "1.2")'),
    "odd version": ("version", "1", 'version "1" is not valid'),
    "number": ("version", 1.5, "version 1.5 is not valid"),
    "old": ("version", "0.9", "version 0.9, written by edgekit 0.1.0; this runtime reads 1.x: pack it again"),
}  # fmt: skip


@pytest.mark.parametrize(("place", "value", "why"), FAULTS.values(), ids=FAULTS)
def test_faults_of_a_manifest_name_their_place(place: str, value: Any, why: str) -> None:
    with pytest.raises(RuntimeFault) as caught:
        manifest_file.read(json.dumps(change(place, value)).encode(), "x.edgekit")
    assert str(caught.value).startswith("x.edgekit: ")
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", [b"[]", b"null", b'"x"', b"{}"])
def test_other_json_is_no_manifest(text: bytes) -> None:
    with pytest.raises(RuntimeFault, match="not a bundle manifest"):
        manifest_file.read(text, "x.json")


def test_a_newer_major_version_is_refused_before_anything_else() -> None:
    newer = {"format": "edgekit-bundle", "version": "2.0", "all": "different", "provenance": {"edgekit": "3.1"}}
    with pytest.raises(RuntimeFault) as caught:
        manifest_file.read(json.dumps(newer).encode(), "x.edgekit")
    assert str(caught.value) == (
        "x.edgekit: version 2.0, written by edgekit 3.1; this runtime reads 1.x: update edgekit here"
    )


def test_a_newer_minor_version_may_hold_unknown_keys() -> None:
    newer = {**change("preprocessing.gamma", 2.2), "version": "1.3", "more": []}
    assert manifest_file.read(json.dumps(newer).encode(), "x") == newer
    newer["preprocessing"]["height"] = "8"
    with pytest.raises(RuntimeFault, match="it must be of type integer"):
        manifest_file.read(json.dumps(newer).encode(), "x")


# Opening -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verify", ["golden", "hash", "off"])
def test_what_a_bundle_holds(tmp_path: Path, verify: str) -> None:
    sealed = bundles.seal(*bundles.contents())
    bundle = open_bundle(bundles.write(tmp_path / "a.edgekit", sealed), verify=verify)
    assert {name: bundle.read(name) for name in bundle.members} == sealed
    assert bundle.labels == bundles.LABELS
    assert bundle.manifest == manifest()
    assert bundle.digest == hashlib.sha256(sealed["manifest.json"]).hexdigest()
    assert (bundle.signed_by, bundle.trusted) == (None, False)
    with pytest.raises(RuntimeFault, match=r"no member '\.\./a'"):
        bundle.view("../a")


def test_which_artifact(tmp_path: Path) -> None:
    bundle = open_bundle(bundles.write(tmp_path / "a.edgekit"))
    assert bundle.artifact()["id"] == "int8-onnx"
    assert bundle.artifact("fp32-onnx", ["onnx"])["id"] == "fp32-onnx"
    with pytest.raises(RuntimeFault, match=r"no tflite artifact \(there are: int8-onnx \(onnx\), fp32-onnx \(onnx\)\)"):
        bundle.artifact(formats=["tflite"])
    with pytest.raises(RuntimeFault, match=r'no artifact called "x" \(there are: '):
        bundle.artifact("x")


def test_a_manifest_written_by_hand(tmp_path: Path) -> None:
    written, members = bundles.contents()
    bundle = open_bundle(bundles.unpack(tmp_path, written, members))
    assert bundle.labels == bundles.LABELS
    assert {name: bundle.read(name) for name in bundle.members if name != "manifest.json"} == members
    (tmp_path / "labels.txt").write_bytes("\ufeffa\r\nb\r\nc\r\nd".encode())
    assert open_bundle(tmp_path / "waste.json").labels == ("a", "b", "c", "d")
    (tmp_path / "models/waste-int8.onnx").unlink()
    with pytest.raises(RuntimeFault, match=r"artifacts\[0\]\.file: there is no file .*waste-int8\.onnx"):
        open_bundle(tmp_path / "waste.json")


def test_a_manifest_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundles.unpack(tmp_path, *bundles.contents())
    monkeypatch.chdir(tmp_path)
    assert open_bundle("waste.json").labels == bundles.LABELS


def test_hashes_of_a_manifest_written_by_hand(tmp_path: Path) -> None:
    _, members = bundles.contents()
    path = bundles.unpack(tmp_path, manifest(), members)
    bundle = open_bundle(path)
    (tmp_path / "labels.txt").write_text("a\nb\nc\nd\n")
    with pytest.raises(RuntimeFault, match=r"labels\.txt: not the file that .*waste\.json lists \(SHA-256\)"):
        open_bundle(path)
    with pytest.raises(RuntimeFault, match="SHA-256"):
        bundle.read("labels.txt")
    assert open_bundle(path, verify="off").labels == tuple("abcd")


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a\0b", "x" * 5000, "", "é"])
def test_no_listed_name_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    written, members = bundles.contents()
    written["members"] = {**manifest()["members"], name: {"sha256": "0" * 64, "bytes": 3}}
    with pytest.raises(RuntimeFault, match=r"members: .* is not a valid member name"):
        open_bundle(bundles.unpack(tmp_path, written, members))


def test_no_link_leads_out_of_the_folder(tmp_path: Path) -> None:
    path = bundles.unpack(tmp_path / "in", *bundles.contents())
    (tmp_path / "secret").write_text("a\nb\nc\nd\n")
    (tmp_path / "in/labels.txt").unlink()
    (tmp_path / "in/labels.txt").symlink_to(tmp_path / "secret")
    with pytest.raises(RuntimeFault, match=r"labels: labels\.txt leads out of the folder"):
        open_bundle(path)


def test_the_runtime_of_another_folder_finds_its_schema(tmp_path: Path) -> None:
    """As inside of the zipapp."""
    root = Path(archive_module.__file__).parents[2]
    archive = tmp_path / "runtime.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("edgekit/__init__.py", "")
        for path in sorted((root / "edgekit/runtime").rglob("*")):
            if path.suffix in (".py", ".json"):
                file.write(path, path.relative_to(root))
    code = "import edgekit.runtime.manifest_file as m; assert '.zip' in m.__file__; assert m.schema()['title']"
    environment = {**os.environ, "PYTHONPATH": str(archive)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, cwd=tmp_path)


# Signatures ----------------------------------------------------------------------------------------


@pytest.fixture
def signed(tmp_path: Path) -> Path:
    return bundles.write(tmp_path / "signed.edgekit", bundles.sign(bundles.seal(*bundles.contents())))


def pem(key: Ed25519PrivateKey) -> bytes:
    public = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.PEM, public)


def test_who_signed(signed: Path, tmp_path: Path) -> None:
    (tmp_path / "pem").write_bytes(pem(bundles.KEY))
    (tmp_path / "text").write_text(f"{bundles.public()}\n")
    for key in (bundles.public(), str(tmp_path / "pem"), tmp_path / "pem", tmp_path / "text"):
        for keys in ([key], [bundles.public(OTHER), key], key):
            bundle = open_bundle(signed, trusted_keys=keys, require_signature=True)  # type: ignore[arg-type]
            assert (bundle.signed_by, bundle.trusted) == (bundles.public(), True)
    bundle = open_bundle(signed)
    assert (bundle.signed_by, bundle.trusted) == (bundles.public(), False)


def test_signed_by_another(signed: Path) -> None:
    with pytest.raises(RuntimeFault) as caught:
        open_bundle(signed, trusted_keys=[bundles.public(OTHER)])
    assert bundles.public() in str(caught.value)
    assert bundles.public(OTHER) in str(caught.value)


def test_unsigned(tmp_path: Path) -> None:
    path = bundles.write(tmp_path / "a.edgekit")
    bundle = open_bundle(path, trusted_keys=[bundles.public()])
    assert (bundle.signed_by, bundle.trusted) == (None, False)
    with pytest.raises(RuntimeFault, match=r"not signed \(trusted: "):
        open_bundle(path, trusted_keys=[bundles.public()], require_signature=True)
    with pytest.raises(RuntimeFault, match="require_signature needs trusted_keys"):
        open_bundle(path, require_signature=True)
    with pytest.raises(RuntimeFault, match='verify="off" does not check signatures'):
        open_bundle(path, verify="off", trusted_keys=[bundles.public()])


def test_keys_that_are_none(signed: Path, tmp_path: Path) -> None:
    private = bundles.KEY.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    for name, data, why in (
        ("private", private, "a private key; give the matching public key"),
        ("empty", b"", "0 bytes"),
        ("noise", bytes(range(256)), "holds no Ed25519 public key"),
        ("short", bundles.public().encode()[:-4], "holds no Ed25519 public key"),
        ("ec", pem(bundles.KEY).replace(b"MCowBQYDK2Vw", b"MCowBQYDK2Vu"), "holds no Ed25519 public key"),  # X25519
        ("open", pem(bundles.KEY)[:-10], "holds no Ed25519 public key"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(RuntimeFault, match=why):
            open_bundle(signed, trusted_keys=[tmp_path / name])
    for words in ("nowhere.pem", bundles.public()[:-1], "", "\0", "é"):
        with pytest.raises(RuntimeFault, match="neither a public key"):
            open_bundle(signed, trusted_keys=[words])


def test_a_key_is_read_as_cryptography_writes_it() -> None:
    for number in range(20):
        key = Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)
        assert _signature.public_key(pem(key).decode()) == key.public_key().public_bytes_raw()


# Golden vectors ------------------------------------------------------------------------------------


def test_golden_vectors_hold(tmp_path: Path) -> None:
    bundle = open_bundle(bundles.write(tmp_path / "a.edgekit"))
    for artifact, most in zip(bundle.manifest["artifacts"], (1, 1e-5), strict=True):
        infer = bundles.infer(bundle.read(artifact["file"]), tmp_path)
        worst = _golden.replay(bundle, artifact, infer, "CPUExecutionProvider", "onnxruntime")
        assert worst is not None
        assert worst <= most
    assert _golden.replay(bundle, {"id": "x"}, infer, "", "") is None


@pytest.mark.parametrize(("steps", "provider"), [(2, "XNNPACK"), (3, "builtin"), (-2, "XNNPACK")])
def test_an_engine_that_computes_something_else(tmp_path: Path, steps: int, provider: str) -> None:
    bundle = open_bundle(bundles.write(tmp_path / "a.edgekit"))
    given = bundles.pixels()

    def infer(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.int8]:
        found = bundles.quantized(bundles.expected(image[None]))
        found[0, 2] += steps * bool((image == given[1]).all())
        return found

    artifact = bundle.artifact("int8-onnx")
    with pytest.raises(RuntimeFault) as caught:
        _golden.replay(bundle, artifact, infer, provider, "litert 2.3.0")
    message = str(caught.value)
    allowed = 2 if provider == "builtin" else 1
    assert f"int8-onnx: golden vector 2 of 3 is {abs(steps)} steps away, at most {allowed} is allowed" in message
    assert f"litert 2.3.0, {provider}, " in message
    assert "\n" not in message
    if steps == 2:  # the built-in kernels may be that far away
        assert _golden.replay(bundle, artifact, infer, "builtin", "") == 2


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_outputs_that_are_no_numbers_do_not_pass(tmp_path: Path, value: float) -> None:
    bundle = open_bundle(bundles.write(tmp_path / "a.edgekit"))
    with pytest.raises(RuntimeFault, match="is inf of the largest output away"):
        _golden.replay(bundle, bundle.artifact("fp32-onnx"), lambda _: np.full(4, value, np.float32), "", "")
    with pytest.raises(RuntimeFault, match="gives 4 float64, the golden vectors hold 4 float32"):
        _golden.replay(bundle, bundle.artifact("fp32-onnx"), lambda _: np.zeros(4), "", "")
    with pytest.raises(RuntimeFault, match="gives 3 float32, the golden vectors hold 4 float32"):
        _golden.replay(bundle, bundle.artifact("fp32-onnx"), lambda _: np.zeros(3, np.float32), "", "")


def test_golden_images_decode_to_the_golden_inputs(tmp_path: Path) -> None:
    from PIL import Image

    bundle = open_bundle(bundles.write(tmp_path / "a.edgekit"))

    def decode(data: bytes, add: int = 0) -> npt.NDArray[np.uint8]:
        pixels = np.asarray(Image.open(io.BytesIO(data))).copy()
        place = np.argmin(pixels)
        pixels.flat[place] += add
        return pixels

    assert _golden.check_images(bundle, decode) == 0
    assert _golden.check_images(bundle, lambda data: decode(data, 1)) == 1
    with pytest.raises(RuntimeFault, match=r"golden/0\.png: decodes to pixels up to 2 steps away"):
        _golden.check_images(bundle, lambda data: decode(data, 2))
    with pytest.raises(RuntimeFault, match="decodes to uint8"):
        _golden.check_images(bundle, lambda data: decode(data)[1:])
    written, members = bundles.contents()
    del written["golden"]["images"]
    assert _golden.check_images(open_bundle(bundles.unpack(tmp_path, written, members)), decode) is None


ARRAYS = {
    "empty": (b"\x93NUMPY\x01\x00", "not an .npy array"),
    "text": (b"hello", "not an .npy array"),
    "code": (b"\x93NUMPY\x01\x00\x20\x00" + b"__import__('os').abort()".ljust(32), "not an .npy array"),
    "deep": (b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65535, "not an .npy array"),
    "dtype": (bundles.npy(np.zeros((3, 4), np.int16)), "int16 [3, 4], must be int8 [n, 4]"),
    "shape": (bundles.npy(np.zeros((3, 5), np.int8)), "int8 [3, 5], must be int8 [n, 4]"),
    "order": (bundles.npy(np.asfortranarray(np.zeros((3, 4), np.int8))), "must be int8 [n, 4]"),
    "rows": (bundles.npy(np.zeros((2, 4), np.int8)), "2 rows for 3 golden inputs"),
    "none": (bundles.npy(np.zeros((0, 4), np.int8)), "does not match its size"),
    "cut": (bundles.npy(np.zeros((3, 4), np.int8))[:-1], "does not match its size"),
    "long": (bundles.npy(np.zeros((3, 4), np.int8)) + b"\0", "does not match its size"),
    "objects": (bundles.npy(np.zeros((3, 4), np.int8)).replace(b"'|i1'", b"'|O' "), "must be int8 [n, 4]"),
    "huge": (
        bundles.npy(np.zeros((3, 4), np.int8)).replace(b"(3, 4), }" + b" " * 14, b"(3000000000000000, 4),}"),
        "does not match its size",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("data", "why"), ARRAYS.values(), ids=ARRAYS)
def test_golden_outputs_that_are_none(tmp_path: Path, data: bytes, why: str) -> None:
    written, members = bundles.contents()
    members["golden/int8-onnx.npy"] = data
    bundle = open_bundle(bundles.write(tmp_path / "a.edgekit", bundles.seal(written, members)))
    with pytest.raises(RuntimeFault) as caught:
        _golden.replay(bundle, bundle.artifact("int8-onnx"), lambda _: np.zeros(4, np.int8), "", "")
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_tensor_model_takes_real_values(tmp_path: Path) -> None:
    written, members = copy.deepcopy(bundles.contents())
    written["preprocessing"] = {"kind": "tensor"}
    del written["golden"]["images"], written["artifacts"][0]
    written["ship"] = []
    planes = (bundles.pixels().transpose(0, 3, 1, 2) / 255).astype(np.float32)
    members["golden/inputs.npy"] = bundles.npy(planes)
    bundle = open_bundle(bundles.write(tmp_path / "a.edgekit", bundles.seal(written, members)))
    model = tmp_path / "model.onnx"
    model.write_bytes(bundle.read("models/waste-fp32.onnx"))
    session = engine.load(str(model))
    worst = _golden.replay(bundle, bundle.artifact(), lambda x: session.run(x[None]), session.provider, "onnxruntime")
    assert worst is not None
    assert worst < 1e-5


# Cost ----------------------------------------------------------------------------------------------


def test_the_file_is_in_memory_once(tmp_path: Path) -> None:
    """And an engine gets the bytes that were read."""
    written, members = bundles.contents()
    members["models/waste-int8.onnx"] = os.urandom(20_000_000)
    path = bundles.write(tmp_path / "a.edgekit", bundles.seal(written, members))
    open_bundle(path)  # what is imported and compiled once
    tracemalloc.start()
    try:
        bundle = open_bundle(path)
        model = bundle.read("models/waste-int8.onnx")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert model is bundle.read("models/waste-int8.onnx")
    assert peak < 20_500_000
