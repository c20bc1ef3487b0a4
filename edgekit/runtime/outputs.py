"""Raw outputs of a model file for many images on this device.

``python -m edgekit.runtime.outputs`` reads one line of JSON and answers with one::

    -> {"model": path, "engine": name, "threads": n, "provider": name or null, "pixels": path of a .npy,
        "layout": NHWC or NCHW, "scale": input's step or null, "zero_point": n or null, "mean": [...], "std": [...]}
    <- {"version", "provider", "dtype", "shape": [images, classes], "outputs": base64 of the little-endian values}

The pixels are uint8 [images, height, width, 3], cropped. Any failure is answered with {"error": "one line"}.
"""

from __future__ import annotations

import base64
import sys
from typing import Any

from edgekit.runtime import _answer


def outputs(
    model: str,
    engine: str,
    threads: int,
    provider: str | None,
    pixels: str,
    layout: str,
    scale: float | None,
    zero_point: int | None,
    mean: list[float],
    std: list[float],
) -> dict[str, Any]:
    """The answer; see the module."""
    import numpy as np

    from edgekit.runtime import engine_menu
    from edgekit.runtime._tensor import FromPixels
    from edgekit.runtime.port import Port
    from edgekit.runtime.preprocess import Preprocessing

    module = engine_menu.engine(engine)
    images = np.load(pixels, allow_pickle=False)
    session = module.load(model, threads, provider)
    stated = session.input
    port = Port(stated.name, stated.shape, stated.dtype, stated.scale or scale, stated.zero_point or zero_point)
    prepare = FromPixels(Preprocessing(images.shape[1], images.shape[2], tuple(mean), tuple(std)), port, layout)
    rows = np.stack([session.run(prepare(image)).reshape(-1) for image in images])
    return {
        "version": module.version(),
        "provider": session.provider,
        "dtype": rows.dtype.name,
        "shape": list(rows.shape),
        "outputs": base64.b64encode(rows.astype(rows.dtype.newbyteorder("<")).tobytes()).decode(),
    }


if __name__ == "__main__":
    sys.exit(_answer.main(outputs))
