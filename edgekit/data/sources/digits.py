"""Scikit-learn's handwritten digits: 1797 images of 8x8 pixels that come with the package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from edgekit.config.recipe import DataSection
from edgekit.data.listing import Item, Listing

USES: tuple[str, ...] = ()


def listing(data: DataSection, base: Path, work: Path) -> Listing:
    """Write the digits as RGB PNG files, ``images/<digit>/<number>.png``; nothing is downloaded.

    The grey levels 0..16 become 0..255. Labels are "0" to "9".

    Source: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998 (its test part).

    Args:
        data: not used.
        base: not used.
        work: folder to write ``images`` into.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    grey = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    root = work / "images"
    items = []
    for number, (pixels, label) in enumerate(zip(grey, bunch.target, strict=True)):
        path = f"{label}/{number:04}.png"
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.repeat(pixels[:, :, None], 3, axis=2)).save(file)
        items.append(Item(path, int(label)))
    return Listing(root, tuple(str(digit) for digit in range(10)), tuple(sorted(items, key=lambda item: item.path)))
