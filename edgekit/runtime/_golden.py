"""Golden vectors: real inputs and the outputs that the files gave when the bundle was made, replayed on this device."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING, Any

from edgekit.runtime import machine
from edgekit.runtime.errors import RuntimeFault, first_line
from edgekit.runtime.image_file import COLORS

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from edgekit.runtime.bundle import Bundle
    from edgekit.runtime.port import Bound

BUILTIN = "builtin"
"""Provider whose tolerance is ``tolerance_builtin``: TFLite's own kernels, which round twice."""


def replay(
    bundle: Bundle,
    artifact: dict[str, Any],
    infer: Callable[[npt.NDArray[Any]], npt.NDArray[Any]],
    provider: str,
    where: str,
    own: Bound | None = None,
) -> float | None:
    """Run the golden inputs and compare.

    Args:
        bundle: the opened bundle.
        artifact: entry of its manifest.
        infer: from one golden input (uint8 [height, width, channels] pixels as cropped; for kind "tensor" float32 of
            the input's shape without the batch) to the raw outputs in the file's own dtype.
        provider: in use, as the session names it.
        where: engine and version, for the message.
        own: `edgekit.runtime.port.Engine.BOUND`.

    Returns:
        The largest difference: steps for an integer output; for a float one a share of the largest absolute expected
        value. None if the artifact has no golden vectors.

    Raises:
        RuntimeFault: an output differs by more than its tolerance, or the vectors do not fit the model. The message
            says which vector, how far, what is allowed, and on which engine and CPU.
    """
    import numpy as np

    golden = artifact.get("golden")
    if golden is None:
        return None
    given, wanted = inputs(bundle), outputs(bundle, artifact)
    if len(given) != len(wanted):
        raise RuntimeFault(
            f"{bundle.path}: {golden['outputs']}: {len(wanted)} rows for {len(given)} golden inputs; pack it again"
        )
    whole = wanted.dtype.kind in "iu"
    scale = 1.0 if whole else float(np.abs(wanted).max(initial=0)) or 1.0
    away = []
    for index, expected in enumerate(wanted):
        output = np.asarray(infer(given[index])).reshape(-1)
        if output.dtype != wanted.dtype or output.shape != expected.shape:
            raise RuntimeFault(
                f"{bundle.path}: {artifact['id']}: gives {output.size} {output.dtype}, the golden vectors hold "
                f"{expected.size} {wanted.dtype}; pack it again"
            )
        difference = np.abs(output.astype(np.float64) - expected.astype(np.float64)).max() / scale
        away.append(float(difference) if math.isfinite(difference) else math.inf)  # NaN counts as infinitely far
    allowed = golden["tolerance"]
    if provider == BUILTIN:
        allowed = golden.get("tolerance_builtin", allowed)
    if own is not None and artifact.get("precision") == "int8":
        # A float output lies on a grid, too; the manifest allows it one step there, and half a step of float noise.
        allowed = max(allowed, own.steps) if whole else allowed * (own.steps + 0.5) / 1.5
    worst = max(away)
    if worst > allowed:
        unit = "steps" if whole else "of the largest output"
        raise RuntimeFault(
            f"{bundle.path}: {artifact['id']}: golden vector {away.index(worst) + 1} of {len(away)} is {worst:.6g} "
            f"{unit} away, at most {allowed:.6g} is allowed ({sum(d > allowed for d in away)} differ; {where}, "
            f"{provider}, {machine.facts()['cpu'] or 'unknown CPU'}): this engine computes a different result here; "
            "try another engine, provider or version"
        )
    return worst


def check_images(bundle: Bundle, decode: Callable[[bytes], npt.NDArray[Any]]) -> int | None:
    """Compare preprocessing here with that when the bundle was made, image by image.

    Args:
        bundle: the opened bundle.
        decode: from an encoded image to uint8 [height, width, channels] pixels, resized and cropped.

    Returns:
        The largest difference in 8-bit steps; None if the bundle has no encoded images.

    Raises:
        RuntimeFault: a pixel is more than one step away.
    """
    import numpy as np

    names = bundle.manifest.get("golden", {}).get("images", ())
    if not names:
        return None
    given, worst = inputs(bundle), 0
    if len(names) > len(given):
        raise RuntimeFault(f"{bundle.path}: golden.images: {len(names)} images for {len(given)} inputs; pack it again")
    for index, name in enumerate(names):
        try:
            image, expected = decode(bundle.read(name)), given[index]
        except RuntimeFault as fault:
            raise RuntimeFault(f"{bundle.path}: {name}: {fault}; pack it again") from fault
        if image.dtype != np.uint8 or image.shape != expected.shape:
            raise RuntimeFault(f"{bundle.path}: {name}: decodes to {image.dtype} {list(image.shape)}, unlike the input")
        far = int(np.abs(image.astype(np.int16) - expected).max())
        if far > 1:
            raise RuntimeFault(
                f"{bundle.path}: {name}: decodes to pixels up to {far} steps away from the golden input, at most 1 is "
                "allowed; install another version of Pillow, or give arrays"
            )
        worst = max(worst, far)
    return worst


def inputs(bundle: Bundle) -> npt.NDArray[Any]:
    """Golden inputs: uint8 [n, height, width, channels] for images, float32 [n, ...] for tensors; RuntimeFault."""
    preprocessing = bundle.manifest["preprocessing"]
    name = bundle.manifest["golden"]["inputs"]
    if preprocessing["kind"] == "image":
        channels = COLORS.index(preprocessing["color"]) + 1
        return _array(bundle, name, "uint8", [preprocessing["height"], preprocessing["width"], channels])
    return _array(bundle, name, "float32", None)


def outputs(bundle: Bundle, artifact: dict[str, Any]) -> npt.NDArray[Any]:
    """Expected outputs of an artifact with golden vectors: [n, outputs] in its own dtype; RuntimeFault."""
    port = artifact["output"]
    return _array(bundle, artifact["golden"]["outputs"], port["dtype"], [math.prod(port["shape"])])


def _array(bundle: Bundle, name: str, dtype: str, shape: list[int] | None) -> npt.NDArray[Any]:
    """An .npy member [n, *shape], as a read-only view of the bundle's bytes."""
    import numpy as np

    data = bundle.read(name)
    head = io.BytesIO(data[:4096])  # only record types, not allowed here, have longer headers
    try:
        version = np.lib.format.read_magic(head)
        if version != (1, 0):
            raise ValueError(f"version {version}")
        dims, fortran, kind = np.lib.format.read_array_header_1_0(head)
    except Exception as error:  # evaluating the header's literal may raise anything
        raise RuntimeFault(f"{bundle.path}: {name}: not an .npy array ({first_line(error)}); pack it again") from None
    if kind != np.dtype(dtype) or fortran or len(dims) < 1 or (shape is not None and list(dims[1:]) != shape):
        wanted = f"{dtype} [n, {', '.join(map(str, shape))}]" if shape is not None else f"{dtype} [n, ...]"
        raise RuntimeFault(f"{bundle.path}: {name}: {kind} {list(dims)}, must be {wanted}; pack it again")
    if min(dims) < 1 or math.prod(dims) * kind.itemsize != len(data) - head.tell():
        raise RuntimeFault(f"{bundle.path}: {name}: shape {list(dims)} does not match its size; pack it again")
    array = np.frombuffer(data, kind, offset=head.tell()).reshape(dims)
    if kind.kind == "f" and not np.isfinite(array).all():
        raise RuntimeFault(f"{bundle.path}: {name}: holds values that are not finite; pack it again")
    return array
