"""Image files as they turn up in real folders: odd ones that are read, and broken ones that are refused.

Pictures that were packed without loss are told as the arrays that went in; others as Pillow itself reads them.
"""

from __future__ import annotations

import io
import struct
import zlib
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, features

Pixels = npt.NDArray[np.uint8]
HEIGHT, WIDTH = 24, 40
TURNS = range(2, 9)


class Good(NamedTuple):
    """A file that is read."""

    file: bytes
    pixels: Pixels
    """Upright RGB, [height, width, 3]."""
    near: int = 0
    """Levels that a pixel may differ by."""
    dark: bool = False
    """Whether a warning is due: nearly black."""


def picture(seed: int = 0, channels: int = 3) -> Pixels:
    """Soft blobs, so that lossy formats do well: uint8 [HEIGHT, WIDTH, channels]."""
    coarse = np.random.default_rng(seed).integers(20, 236, (4, 5, channels), dtype=np.uint8)
    planes = [
        Image.fromarray(coarse[:, :, i]).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC) for i in range(channels)
    ]
    return np.stack([np.asarray(plane) for plane in planes], 2)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    """An encoded image."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def read(file: bytes) -> Pixels:
    """As Pillow reads it, upright."""
    with Image.open(io.BytesIO(file)) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def chunk(kind: bytes, data: bytes) -> bytes:
    """Of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(pixels: npt.NDArray[Any], *more: bytes, size: tuple[int, int] | None = None, interlaced: bool = False) -> bytes:
    """A PNG file of uint8 or uint16 pixels [height, width, 1 to 4], written by the book (W3C PNG, third edition).

    Args:
        pixels: grey, grey with alpha, RGB or RGBA.
        more: further chunks before the pixels.
        size: a false width and height for the header.
        interlaced: in seven passes (Adam7).
    """
    height, width, channels = pixels.shape
    depth = 8 * pixels.itemsize
    header = struct.pack(
        ">IIBBBBB", *(size or (width, height)), depth, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, interlaced
    )
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    parts = [pixels[y::down, x::right] for y, x, down, right in passes] if interlaced else [pixels]
    rows = [b"\0" + row.astype(f">u{pixels.itemsize}").tobytes() for part in parts for row in part]
    body = [chunk(b"IHDR", header), *more, chunk(b"IDAT", zlib.compress(b"".join(rows))), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def on_white(pixels: Pixels, alpha: npt.NDArray[Any]) -> Pixels:
    """Over a white ground; `alpha` from 0 to 255."""
    share = alpha.astype(np.float64)[..., None] / 255
    return np.rint(pixels * share + 255 * (1 - share)).astype(np.uint8)


def grey(plane: npt.NDArray[Any]) -> Pixels:
    """The same in all three channels."""
    return np.repeat(plane.astype(np.uint8)[..., None], 3, 2)


def oriented(turn: int) -> Image.Exif:
    """EXIF with an orientation."""
    exif = Image.Exif()
    exif[0x0112] = turn
    return exif


@cache
def good() -> dict[str, Good]:
    """By file name."""
    rgb, plane, alpha = picture(0), picture(1, 1)[:, :, 0], picture(2, 1)[:, :, 0]
    image, mono = Image.fromarray(rgb), Image.fromarray(plane)
    bits = plane > 128
    black_and_white = Image.fromarray(bits)
    palette = image.quantize(32)
    indexed = np.asarray(palette.convert("RGB"))
    wide = plane.astype(np.uint16) * 257
    jpeg = saved(image, "JPEG", quality=90)
    cases = {
        # PNG
        "rgb.png": Good(saved(image, "PNG"), rgb),
        "no_suffix": Good(saved(image, "PNG"), rgb),
        "png_called.jpg": Good(saved(image, "PNG"), rgb),
        "SHOUTED.PNG": Good(saved(image, "PNG"), rgb),
        "grey.png": Good(saved(mono, "PNG"), grey(plane)),
        "bits.png": Good(saved(black_and_white, "PNG"), grey(255 * bits)),
        "palette.png": Good(saved(palette, "PNG"), indexed),
        "alpha.png": Good(saved(Image.fromarray(np.dstack((rgb, alpha))), "PNG"), on_white(rgb, alpha), 1),
        "grey_alpha.png": Good(png(np.dstack((plane, alpha))), on_white(grey(plane), alpha), 1),
        "clear.png": Good(saved(Image.new("RGBA", (WIDTH, HEIGHT), (9, 9, 9, 0)), "PNG"), np.full_like(rgb, 255)),
        "palette_alpha.png": Good(
            saved(palette, "PNG", transparency=bytes(range(0, 256, 8))),
            on_white(indexed, np.arange(0, 256, 8)[np.asarray(palette)]),
            1,
        ),
        "one_colour_clear.png": Good(
            saved(Image.new("RGB", (WIDTH, HEIGHT), (1, 2, 3)), "PNG", transparency=(1, 2, 3)), np.full_like(rgb, 255)
        ),
        "interlaced.png": Good(png(rgb, interlaced=True), rgb),
        "animated.png": Good(saved(image, "PNG", save_all=True, append_images=[mono.convert("RGB")]), rgb),
        "trailing.png": Good(saved(image, "PNG") + b"more" * 99, rgb),
        "profile_broken.png": Good(png(rgb, chunk(b"iCCP", b"none\0\0" + zlib.compress(b"no profile"))), rgb),
        "wide_grey.png": Good(png(wide[..., None]), grey(plane)),
        "wide_rgb.png": Good(png(rgb.astype(np.uint16) * 257), rgb),
        "12_bits.png": Good(png((plane.astype(np.uint16) * 16)[..., None]), grey(plane // 16), dark=True),
        "12_bits_rgb.png": Good(png(rgb.astype(np.uint16) * 16), rgb // 16, dark=True),
        "wide_clear.png": Good(
            png(wide[..., None], chunk(b"tRNS", struct.pack(">H", wide[0, 0]))),
            on_white(grey(plane), 255 * (plane != plane[0, 0])),
        ),
        "10_bits.png": Good(png((plane.astype(np.uint16) * 4)[..., None]), grey(plane // 64), dark=True),
        "mask.png": Good(saved(Image.fromarray(bits.astype(np.uint8)), "PNG"), grey(bits), dark=True),
        "black.png": Good(saved(Image.new("RGB", (WIDTH, HEIGHT)), "PNG"), np.zeros_like(rgb), dark=True),
        "pixel.png": Good(saved(Image.new("RGB", (1, 1), "red"), "PNG"), np.array([[[255, 0, 0]]], np.uint8)),
        # GIF, BMP and other old ones
        "palette.gif": Good(saved(palette, "GIF"), indexed),
        "animated.gif": Good(saved(palette, "GIF", save_all=True, append_images=[mono]), indexed),
        "clear.gif": Good(
            saved(palette, "GIF", transparency=0),
            on_white(indexed, np.where(np.asarray(palette) == 0, 0, 255)),
        ),
        "rgb.bmp": Good(saved(image, "BMP"), rgb),
        "bits.bmp": Good(saved(black_and_white, "BMP"), grey(255 * bits)),
        "palette.bmp": Good(saved(palette, "BMP"), indexed),
        "rgb.tga": Good(saved(image, "TGA", compression="tga_rle"), rgb),
        "rgb.ico": Good(saved(image, "ICO", sizes=[(WIDTH, HEIGHT)]), rgb),
        "rgb.ppm": Good(saved(image, "PPM"), rgb),
        "text.ppm": Good(f"P3 {WIDTH} {HEIGHT} 255 {' '.join(map(str, rgb.ravel()))}".encode(), rgb),
        "wide.pgm": Good(b"P5 %d %d 65535\n" % (WIDTH, HEIGHT) + wide.astype(">u2").tobytes(), grey(plane)),
        # TIFF
        "rgb.tif": Good(saved(image, "TIFF"), rgb),
        "lzw.tif": Good(saved(image, "TIFF", compression="tiff_lzw"), rgb),
        "deflate.tif": Good(saved(image, "TIFF", compression="tiff_adobe_deflate"), rgb),
        "fax.tif": Good(saved(black_and_white, "TIFF", compression="group4"), grey(255 * bits)),
        "pages.tif": Good(saved(image, "TIFF", save_all=True, append_images=[mono.convert("RGB")]), rgb),
        "turned.tif": Good(saved(image, "TIFF", exif=oriented(3)), rgb[::-1, ::-1]),
        "wide.tif": Good(saved(Image.fromarray(wide), "TIFF"), grey(plane)),
        "big_endian.tif": Good(tiff(wide.astype(">u2")), grey(plane)),
        "32_bits_of_16.tif": Good(saved(Image.fromarray(wide.astype(np.int32)), "TIFF"), grey(plane)),
        "32_bits_of_8.tif": Good(saved(Image.fromarray(plane.astype(np.int32)), "TIFF"), grey(plane)),
        "float.tif": Good(saved(Image.fromarray(plane.astype(np.float32) / 255), "TIFF"), grey(plane)),
        # JPEG
        "rgb.jpg": Good(jpeg, read(jpeg)),
        "jpg_called.png": Good(jpeg, read(jpeg)),
        "trailing.jpg": Good(jpeg + b"\0" * 99, read(jpeg)),
        "exif_broken.jpg": Good(jpeg[:2] + b"\xff\xe1\x00\x10Exif\0\0broken??" + jpeg[2:], read(jpeg)),
        "turned_0.jpg": Good(saved(image, "JPEG", quality=90, exif=oriented(0)), read(jpeg)),
        "turned_9.jpg": Good(saved(image, "JPEG", quality=90, exif=oriented(9)), read(jpeg)),
    }  # fmt: skip
    lossy = {
        "progressive.jpg": saved(image, "JPEG", progressive=True),
        "grey.jpg": saved(mono, "JPEG"),
        "cmyk.jpg": saved(image.convert("CMYK"), "JPEG"),
        "coarse.jpg": saved(image, "JPEG", quality=1),
        "whole_colours.jpg": saved(image, "JPEG", subsampling=0),
        "restarts.jpg": saved(image, "JPEG", restart_marker_rows=1),
        "cmyk.tif": saved(image.convert("CMYK"), "TIFF"),
        "jpeg.tif": saved(image, "TIFF", compression="jpeg"),
        "lossy.webp": saved(image, "WEBP"),
        "animated.webp": saved(image, "WEBP", save_all=True, append_images=[mono.convert("RGB")]),
        **{f"turned_{turn}.jpg": saved(image, "JPEG", exif=oriented(turn)) for turn in TURNS},
    }
    cases |= {name: Good(file, read(file)) for name, file in lossy.items()}
    cases["lossless.webp"] = Good(saved(image, "WEBP", lossless=True), rgb)
    if features.check("jpg_2000"):
        cases["lossless.jp2"] = Good(saved(image, "JPEG2000"), rgb)
    if features.check("avif"):
        cases["rgb.avif"] = Good(file := saved(image, "AVIF"), read(file))
    return cases


def tiff(plane: npt.NDArray[Any], kind: int = 1) -> bytes:
    """A big-endian TIFF file of one grey plane; `kind`: 1 unsigned, 2 signed, 3 floating point."""
    height, width = plane.shape
    tags = [
        (256, 4, width), (257, 4, height), (258, 3, 8 * plane.itemsize), (259, 3, 1), (262, 3, 1), (273, 4, 200),
        (277, 3, 1), (278, 4, height), (279, 4, plane.nbytes), (339, 3, kind),
    ]  # fmt: skip
    entries = [
        struct.pack(">HHI", tag, of, 1) + (struct.pack(">HH", v, 0) if of == 3 else struct.pack(">I", v))
        for tag, of, v in tags
    ]
    head = b"MM\0*" + struct.pack(">IH", 8, len(tags)) + b"".join(entries) + b"\0\0\0\0"
    return head.ljust(200, b"\0") + plane.tobytes()


@cache
def bad() -> dict[str, tuple[bytes, str]]:
    """By file name, with what is said about each: a regular expression."""
    rgb, plane = picture(0), picture(1, 1)[:, :, 0]
    image = Image.fromarray(rgb)
    jpeg, plain = saved(image, "JPEG"), saved(image, "PNG")
    gif, bmp, lzw = saved(image, "GIF"), saved(image, "BMP"), saved(image, "TIFF", compression="tiff_lzw")
    unknown, bomb = "not an image of a known format", "decompression bomb"
    small, much = tiff(plane), struct.pack(">I", 60_000)
    damaged = bytearray(plain)
    damaged[plain.index(b"IDAT") + 20] ^= 0xFF
    return {
        "empty.jpg": (b"", "the file is empty"),
        "zeros.png": (bytes(4096), unknown),
        "text.jpg": (b"404 not found", unknown),
        "page.jpg": (b"<!DOCTYPE html><html><body>Forbidden</body></html>", unknown),
        "drawing.svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', unknown),
        "archive.png": (b"PK\x03\x04" + bytes(60), unknown),
        "film.jpg": (b"\0\0\0\x18ftypmp42" + bytes(60), unknown),
        "program.jpg": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshow\n%%EOF\n", "PostScript"),
        "head.jpg": (jpeg[:20], unknown),
        "head.png": (plain[:20], "[Tt]runcated"),
        "half.jpg": (jpeg[: len(jpeg) // 2], unknown),
        "last.jpg": (jpeg[:-60], "truncated"),
        "half.png": (plain[: len(plain) // 2], "truncated|incomplete"),
        "half.gif": (gif[: len(gif) * 2 // 3], "truncated|incomplete|not processed|broken"),
        "half.tif": (lzw[: len(lzw) // 2], "."),
        "half.webp": (saved(image, "WEBP")[:-40], "."),
        "half.bmp": (saved(image, "BMP")[:-99], "truncated"),
        "damaged.png": (bytes(damaged), "."),
        "no_pixels.png": (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", plain[16:29]) + chunk(b"IEND", b""), "."),
        "bomb.png": (png(plane[:1, :1, None], size=(30_000, 30_000)), bomb),
        "bomb.gif": (gif[:6] + b"\xff\xff\xff\xff" + gif[10:], bomb),
        "bomb.bmp": (bmp[:18] + struct.pack("<ii", 40_000, 40_000) + bmp[26:], bomb),
        "bomb.tif": (small[:18] + much + small[22:30] + much + small[34:], bomb),
        "text_bomb.png": (png(rgb, chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(80 << 20)))), "."),
        "no_width.png": (png(rgb, size=(0, 9)), "."),
        "slender.png": (saved(Image.new("RGB", (3000, 2)), "PNG"), "3000x2 pixels are too slender"),
        "float_of_8.tif": (saved(Image.fromarray(plane.astype(np.float32)), "TIFF"), "floating-point .* these go from"),
        "float_nan.tif": (saved(Image.fromarray(np.full((9, 9), np.nan, np.float32)), "TIFF"), "these go from nan"),
        "signed.tif": (tiff((plane.astype(np.int16) - 128).astype(">i2"), 2), "these go from -"),
        "huge_values.tif": (saved(Image.fromarray(plane.astype(np.int32) << 12), "TIFF"), "beyond 0..65535"),
    }  # fmt: skip
