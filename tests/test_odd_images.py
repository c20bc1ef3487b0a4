"""Odd and broken image files: read as what they show, or refused in one line, by training and on the device alike."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from edgekit.config.recipe import CleanSection
from edgekit.console import Console
from edgekit.data._clean import clean
from edgekit.data.listing import Item, Listing
from edgekit.data.transforms import decode, strict_pillow
from edgekit.runtime.errors import RuntimeFault
from edgekit.runtime.preprocess import Preprocessing, pixels
from tests import odd_images

SPEC = Preprocessing(16, 16, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.mark.parametrize("name", odd_images.good())
def test_an_odd_image_is_read_as_what_it_shows(name: str) -> None:
    case = odd_images.good()[name]
    with strict_pillow():
        found = np.asarray(decode(case.file).image)
    assert found.shape == case.pixels.shape
    assert np.abs(found.astype(int) - case.pixels).max() <= case.near
    on_device = pixels(case.file, SPEC).astype(int)
    assert np.abs(on_device - pixels(case.pixels, SPEC)).max() <= case.near


@pytest.mark.parametrize("name", odd_images.bad())
def test_a_broken_image_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    file, reason = odd_images.bad()[name]
    (tmp_path / name).write_bytes(file)
    with pytest.raises(RuntimeFault, match=rf"{re.escape(name)}: .*({reason})") as caught:
        pixels(tmp_path / name, SPEC)
    assert str(caught.value).isprintable()


def test_cleaning_keeps_the_odd_drops_the_broken_and_warns_of_the_dark(tmp_path: Path) -> None:
    files = {name: case.file for name, case in odd_images.good().items()}
    files |= {name: file for name, (file, _) in odd_images.bad().items()}
    for name, file in files.items():
        (tmp_path / name).write_bytes(file)
    items = tuple(Item(name, 0) for name in sorted(files))
    policy = CleanSection(unreadable="drop", duplicate="keep")
    kept, findings = clean(Listing(tmp_path, ("a",), items), policy, Console(quiet=True))
    assert {scan.item.path for scan in kept} == set(odd_images.good())
    dropped = {each.path: each.detail for each in findings if each.action == "drop"}
    assert dropped.keys() == odd_images.bad().keys()
    for name, (_, reason) in odd_images.bad().items():
        assert re.search(reason, dropped[name]), name
        assert dropped[name].isprintable()
    assert {each.path for each in findings if each.kind == "range"} == {
        name for name, case in odd_images.good().items() if case.dark
    }
