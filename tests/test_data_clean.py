"""Cleaning: real flawed files are found, and handled as the recipe says."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgekit.config.recipe import CleanSection
from edgekit.console import Console
from edgekit.data._clean import clean
from edgekit.data.listing import Item, Listing
from edgekit.errors import InputError
from edgekit.types import Finding, Split

QUIET = Console(quiet=True)


def noise(seed: int, channels: int = 3) -> Image.Image:
    shape = (24, 32, channels) if channels > 1 else (24, 32)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def listing(root: Path, files: dict[str, bytes], splits: dict[str, Split] | None = None) -> Listing:
    """Files named <class>/...; classes a, b."""
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    items = (Item(path, "ab".index(path[0]), (splits or {}).get(path)) for path in sorted(files))
    return Listing(root, ("a", "b"), tuple(items))


def policy(**actions: str) -> CleanSection:
    return CleanSection.model_validate(actions)


def kept(result: tuple[list, tuple[Finding, ...]]) -> list[str]:  # type: ignore[type-arg]
    return [scan.item.path for scan in result[0]]


def broken() -> dict[str, bytes]:
    jpeg = encoded(noise(1), "JPEG")
    return {
        "a/empty.jpg": b"",
        "a/text.jpg": b"this is not a picture",
        "a/truncated.jpg": jpeg[: len(jpeg) * 9 // 10],
        "a/truncated.png": encoded(noise(2), "PNG")[:-40],
        "b/header.png": encoded(noise(3), "PNG")[:20],
        "b/slender.png": encoded(Image.new("RGB", (2000, 2)), "PNG"),
    }


def test_clean_drops_unreadable_files(tmp_path: Path) -> None:
    source = listing(tmp_path, broken() | {"a/good.jpg": encoded(noise(0), "JPEG")})
    result = clean(source, policy(unreadable="drop"), QUIET)
    assert kept(result) == ["a/good.jpg"]
    assert {finding.path for finding in result[1]} == set(broken())
    assert {(finding.kind, finding.action) for finding in result[1]} == {("unreadable", "drop")}
    details = {finding.path: finding.detail for finding in result[1]}
    assert details["a/empty.jpg"] == "the file is empty"
    assert details["a/text.jpg"] == "not an image of a known format"
    assert "truncated" in details["a/truncated.jpg"]
    assert "2000x2" in details["b/slender.png"]


def test_clean_names_files_count_and_key_when_policy_is_error(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        clean(listing(tmp_path, broken()), policy(), QUIET)
    message = str(caught.value)
    assert message.startswith("data: 6 images: cannot be read: a/empty.jpg (the file is empty), a/text.jpg")
    assert "and 3 more" in message
    assert message.endswith('set data.clean.unreadable = "drop"')


def test_clean_refuses_when_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no usable image among the 6"):
        clean(listing(tmp_path, broken()), policy(unreadable="drop"), QUIET)


def test_clean_finds_a_decompression_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = listing(
        tmp_path, {"a/1.png": encoded(noise(0), "PNG"), "a/2.png": encoded(noise(1).resize((4, 4)), "PNG")}
    )
    for limit in (500, 100):  # Pillow warns above its limit, and raises above twice that
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        result = clean(source, policy(unreadable="drop"), QUIET)
        assert kept(result) == ["a/2.png"]
        assert result[1][0].detail == "far too many pixels (decompression bomb)"


def odd_modes() -> dict[str, bytes]:
    return {
        "a/alpha.png": encoded(noise(1, 4), "PNG"),
        "a/cmyk.jpg": encoded(noise(2).convert("CMYK"), "JPEG"),
        "a/grey.jpg": encoded(noise(3, 1), "JPEG"),
        "a/palette.gif": encoded(noise(4).convert("P"), "GIF"),
        "b/bits.png": encoded(noise(5).convert("1"), "PNG"),
        "b/deep.png": encoded(Image.fromarray(np.full((8, 8), 40000, np.uint16)), "PNG"),
    }


def test_clean_finds_modes(tmp_path: Path) -> None:
    source = listing(tmp_path, odd_modes() | {"b/rgb.png": encoded(noise(0), "PNG")})
    result = clean(source, policy(), QUIET)
    assert len(result[0]) == 7
    assert {(finding.path, finding.detail) for finding in result[1]} == {
        ("a/alpha.png", "alpha"),
        ("a/cmyk.jpg", "CMYK"),
        ("a/grey.jpg", "grey"),
        ("a/palette.gif", "palette"),
        ("b/bits.png", "black and white"),
        ("b/deep.png", "16-bit grey"),
    }
    assert kept(clean(source, policy(mode="drop"), QUIET)) == ["b/rgb.png"]
    with pytest.raises(InputError, match=r'6 images: not RGB: .*data.clean.mode = "drop" or "keep"'):
        clean(source, policy(mode="error"), QUIET)


def test_clean_reports_one_finding_when_all_images_are_grey(tmp_path: Path) -> None:
    source = listing(tmp_path, {f"a/{number:02}.png": encoded(noise(number, 1), "PNG") for number in range(30)})
    result = clean(source, policy(), QUIET)
    assert len(result[0]) == 30
    assert result[1] == (Finding("mode", "a/00.png", "grey: this and 29 more images", "keep", 30),)


def test_clean_finds_rotated_images(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    files = {"a/turned.jpg": encoded(noise(0), "JPEG", exif=exif), "a/upright.jpg": encoded(noise(1), "JPEG")}
    result = clean(listing(tmp_path, files), policy(), QUIET)
    assert [(finding.kind, finding.path, finding.action) for finding in result[1]] == [
        ("orientation", "a/turned.jpg", "keep")
    ]
    assert kept(clean(listing(tmp_path, files), policy(orientation="drop"), QUIET)) == ["a/upright.jpg"]


def test_clean_finds_duplicates_by_pixels(tmp_path: Path) -> None:
    files = {
        "a/1.png": encoded(noise(0), "PNG"),
        "a/2.bmp": encoded(noise(0), "BMP"),  # other bytes, same pixels
        "a/3.png": encoded(noise(1), "PNG"),
    }
    result = clean(listing(tmp_path, files), policy(), QUIET)
    assert kept(result) == ["a/1.png", "a/3.png"]
    assert result[1] == (Finding("duplicate", "a/2.bmp", "same pixels as a/1.png", "drop"),)
    result = clean(listing(tmp_path, files), policy(duplicate="keep"), QUIET)
    assert len(result[0]) == 3
    assert result[1][0].action == "keep"
    with pytest.raises(InputError, match=r'1 image: the same pixels twice: a/2.bmp .*data.clean.duplicate = "drop"'):
        clean(listing(tmp_path, files), policy(duplicate="error"), QUIET)


def test_clean_tells_apart_images_whose_bytes_agree_but_not_their_shape(tmp_path: Path) -> None:
    files = {
        "a/1.png": encoded(Image.new("RGB", (4, 6), "red"), "PNG"),
        "a/2.png": encoded(Image.new("RGB", (6, 4), "red"), "PNG"),
    }
    assert clean(listing(tmp_path, files), policy(), QUIET)[1] == ()


def test_clean_finds_conflicts(tmp_path: Path) -> None:
    files = {
        "a/1.png": encoded(noise(0), "PNG"),
        "b/1.png": encoded(noise(0), "PNG"),
        "b/2.png": encoded(noise(1), "PNG"),
    }
    with pytest.raises(InputError, match=r'2 images: the same pixels under two labels: .*data.clean.conflict = "drop"'):
        clean(listing(tmp_path, files), policy(), QUIET)
    result = clean(listing(tmp_path, files), policy(conflict="drop"), QUIET)
    assert kept(result) == ["b/2.png"]
    assert [finding.kind for finding in result[1]] == ["conflict", "conflict"]
    assert result[1][0].detail == "labelled a; b/1.png is labelled b"
    result = clean(listing(tmp_path, files), policy(conflict="keep"), QUIET)
    assert len(result[0]) == 3


def test_clean_lets_training_lose_when_pixels_leak(tmp_path: Path) -> None:
    same = encoded(noise(0), "PNG")
    files = {"a/1.png": same, "a/2.png": same, "a/3.png": same, "a/4.png": encoded(noise(1), "PNG")}
    splits: dict[str, Split] = {"a/1.png": "train", "a/2.png": "val", "a/3.png": "test", "a/4.png": "train"}
    result = clean(listing(tmp_path, files, splits), policy(), QUIET)
    assert kept(result) == ["a/3.png", "a/4.png"]
    assert result[1] == (
        Finding("leak", "a/1.png", "in train; the same pixels are in test: a/3.png", "drop"),
        Finding("leak", "a/2.png", "in val; the same pixels are in test: a/3.png", "drop"),
    )
    with pytest.raises(InputError, match=r'data.clean.leak = "drop"'):
        clean(listing(tmp_path, files, splits), policy(leak="error"), QUIET)
