"""Reading and checking a manifest: its version, the schema, and what no schema can express."""

from __future__ import annotations

import json
import math
import pkgutil
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

from edgekit.runtime import _schema, archive
from edgekit.runtime.errors import RuntimeFault
from edgekit.runtime.image_file import COLORS

if TYPE_CHECKING:
    from collections.abc import Iterator

VERSION = (1, 2)
"""Version of the manifests that this runtime knows: major, minor."""

_RANGES = {"int8": (-128, 127), "uint8": (0, 255), "int16": (-32768, 32767)}
_DIMENSIONS = {"NCHW": 4, "NHWC": 4, "NC": 2}
_LARGEST = 16384
"""Most pixels of a side, before the crop as after it (`height` and `width` of the schema)."""
_IMAGE = ("color", "height", "width", "resize", "interpolation", "mean", "std")


@lru_cache(maxsize=1)
def schema() -> dict[str, Any]:
    """The published schema, `manifest.schema.json`; also from inside a zipapp."""
    return cast("dict[str, Any]", json.loads(pkgutil.get_data("edgekit.runtime", "manifest.schema.json") or b""))


def read(data: bytes, where: str) -> dict[str, Any]:
    """The manifest in these bytes.

    The major version is checked first. A manifest of a newer minor version may hold keys that the schema does not know;
    they are ignored.

    Args:
        data: JSON, UTF-8.
        where: its name in error messages.

    Raises:
        RuntimeFault: not JSON, a newer major version, or against the schema; with the JSON path and what is allowed.
    """
    manifest = _schema.parse(data, where)
    newer = _newer(manifest, where)
    fault = _schema.validate(manifest, schema(), lenient=newer)
    fault = fault or next(_contradictions(manifest), None)
    if fault:
        raise RuntimeFault(f"{where}: {fault}; correct it, or pack the bundle again")
    return cast("dict[str, Any]", manifest)


def named(manifest: dict[str, Any]) -> dict[str, str]:
    """Members that the manifest refers to, each with the JSON path of its (last) mention."""
    members = {}
    if "labels" in manifest:
        members[manifest["labels"]] = "labels"
    if "golden" in manifest:
        members[manifest["golden"]["inputs"]] = "golden.inputs"
        for index, name in enumerate(manifest["golden"].get("images", ())):
            members[name] = f"golden.images[{index}]"
    for index, artifact in enumerate(manifest["artifacts"]):
        members[artifact["file"]] = f"artifacts[{index}].file"
        if "golden" in artifact:
            members[artifact["golden"]["outputs"]] = f"artifacts[{index}].golden.outputs"
    return members


def classes(artifact: dict[str, Any]) -> int:
    """Number of outputs of one inference."""
    return math.prod(artifact["output"]["shape"])


def binary(manifest: dict[str, Any]) -> bool:
    """Whether the files have a single output that is turned into a sigmoid: two classes, if it has as many labels."""
    return classes(manifest["artifacts"][0]) == 1 and manifest["postprocessing"]["activation"] == "sigmoid"


def _newer(manifest: Any, where: str) -> bool:
    """Whether the minor version is above ours; a major version above is refused."""
    if not isinstance(manifest, dict) or manifest.get("format") != "edgekit-bundle":
        raise RuntimeFault(f'{where}: not a bundle manifest ("format": "edgekit-bundle" is missing)')
    parts = re.fullmatch(r"([0-9]{1,4})\.([0-9]{1,4})", str(manifest.get("version")), re.ASCII)
    if not parts or not isinstance(manifest["version"], str):
        stated = _schema.shown(manifest.get("version"))
        raise RuntimeFault(f'{where}: version {stated} is not valid ("MAJOR.MINOR", here "{VERSION[0]}.{VERSION[1]}")')
    major, minor = int(parts[1]), int(parts[2])
    if major != VERSION[0]:
        provenance = manifest.get("provenance")
        writer = provenance.get("edgekit") if isinstance(provenance, dict) else None
        by = (
            f", written by edgekit {writer}"
            if isinstance(writer, str) and re.fullmatch(r"[\w.+-]{1,40}", writer)
            else ""
        )
        move = "update edgekit here" if major > VERSION[0] else "pack it again"
        raise RuntimeFault(f"{where}: version {major}.{minor}{by}; this runtime reads {VERSION[0]}.x: {move}")
    return minor > VERSION[1]


def _contradictions(manifest: dict[str, Any]) -> Iterator[str]:
    """Contradictions between parts of a manifest that passes the schema."""
    preprocessing, artifacts = manifest["preprocessing"], manifest["artifacts"]
    ids = [artifact["id"] for artifact in artifacts]
    for index, name in enumerate(ids):
        if name in ids[:index]:
            yield f'artifacts[{index}].id: "{name}" appears twice'
    for index, row in enumerate(manifest.get("ship", ())):
        if row["artifact"] not in (None, *ids):
            yield f"ship[{index}].artifact: {_schema.shown(row['artifact'])} is unknown (choices: {', '.join(ids)})"
    if preprocessing["kind"] == "image":
        yield from _incomplete(preprocessing)
    for index, artifact in enumerate(artifacts):
        at = f"artifacts[{index}]"
        yield from _port(artifact["input"], f"{at}.input")
        yield from _port(artifact["output"], f"{at}.output")
        if preprocessing["kind"] == "image":
            yield from _pixels(artifact["input"], preprocessing, f"{at}.input")
        if classes(artifact) != classes(artifacts[0]):
            yield f"{at}.output.shape: {classes(artifact)} outputs, artifacts[0] has {classes(artifacts[0])}"
        if "golden" in artifact and "golden" not in manifest:
            yield f"{at}.golden: has outputs, but the manifest has no golden.inputs"
    if "members" in manifest:
        for name in manifest["members"]:
            if not archive.NAME.fullmatch(name):
                yield f"members: {_schema.shown(name)} is not a valid member name (pattern: {archive.NAME.pattern})"
        for name, path in named(manifest).items():
            if name not in manifest["members"]:
                yield f"{path}: {name} is not listed in members"


def _incomplete(preprocessing: dict[str, Any]) -> Iterator[str]:
    wanted = (*_IMAGE, "crop") if preprocessing.get("resize") == "short_side" else _IMAGE
    for key in wanted:
        if key not in preprocessing:
            yield f'preprocessing: "{key}" is missing (images need {", ".join(wanted)})'
            return
    side = max(preprocessing["height"], preprocessing["width"]) / preprocessing.get("crop", 1)
    if side > _LARGEST:
        yield f"preprocessing.crop: {preprocessing['crop']} makes images of {side:.3g} pixels (at most {_LARGEST})"
    for key in ("mean", "std"):
        values, channels = len(preprocessing[key]), _channels(preprocessing)
        if values != channels:
            yield f"preprocessing.{key}: {values} values for {channels} channels ({preprocessing['color']})"


def _channels(preprocessing: dict[str, Any]) -> int:
    return COLORS.index(preprocessing["color"]) + 1


def _port(port: dict[str, Any], at: str) -> Iterator[str]:
    shape, dtype, layout = port["shape"], port["dtype"], port.get("layout")
    if layout and _DIMENSIONS[layout] != len(shape):
        yield f"{at}.layout: {layout} has {_DIMENSIONS[layout]} dimensions, the shape {shape} has {len(shape)}"
    if math.prod(shape) > 2**31 - 1:
        yield f"{at}.shape: {shape} has more than {2**31 - 1} values"
    if dtype in _RANGES:
        low, high = _RANGES[dtype]
        for key in ("scale", "zero_point"):
            if port.get(key) is None:
                yield f'{at}: "{key}" is missing ({dtype} needs scale and zero_point)'
                return
        if not low <= port["zero_point"] <= high:
            yield f"{at}.zero_point: {port['zero_point']} is not a valid {dtype} ({low} to {high})"
    elif port.get("scale") is not None or port.get("zero_point") is not None:
        yield f"{at}: {dtype} takes no scale or zero_point (omit them, or set null)"


def _pixels(port: dict[str, Any], preprocessing: dict[str, Any], at: str) -> Iterator[str]:
    height, width, channels = preprocessing["height"], preprocessing["width"], _channels(preprocessing)
    shapes = {"NCHW": [1, channels, height, width], "NHWC": [1, height, width, channels]}
    layout = port.get("layout")
    if layout not in shapes:
        yield f"{at}.layout: {_schema.shown(layout)} is not allowed for images (choices: {', '.join(shapes)})"
    elif port["shape"] != shapes[layout]:
        yield f"{at}.shape: {port['shape']} is not what preprocessing gives ({layout} {shapes[layout]})"
