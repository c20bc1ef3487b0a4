"""Inline SVG from Python: shapes, scales and number formats. Colours come from ``_style.css`` through classes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from edgekit.report.markup import Markup, tag

TIMES = "\N{MULTIPLICATION SIGN}"
MINUS = "\N{MINUS SIGN}"
Scale = Callable[[float], float]


def text(x: float, y: float, words: str, **attributes: object) -> Markup:
    """A line of text with its baseline at (x, y)."""
    return tag("text", words, x=x, y=y, **attributes)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    """A straight line."""
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def dot(x: float, y: float, radius: float, class_: str, title: str) -> Markup:
    """A dot that says what it is when pointed at."""
    return tag("circle", tag("title", title), cx=x, cy=y, r=radius, class_=class_)


def path(points: Iterable[tuple[float, float]], class_: str) -> Markup:
    """An open polyline."""
    return tag("polyline", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in points), class_=class_)


def chart(width: float, height: float, summary: str, *children: str, class_: str = "chart") -> Markup:
    """A whole picture; `summary` is what a screen reader says."""
    box = f"0 0 {width:g} {height:g}"
    return tag("svg", *children, viewBox=box, role="img", aria_label=summary, class_=class_)


def linear(domain: tuple[float, float], to: tuple[float, float]) -> Scale:
    """Map `domain` onto `to`; an empty domain maps to the middle."""
    low, high = domain
    if high == low:
        return lambda value: (to[0] + to[1]) / 2
    return lambda value: to[0] + (value - low) / (high - low) * (to[1] - to[0])


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """About `about` round numbers (1, 2, 2.5 or 5 times a power of ten) within [low, high]."""
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return [low]
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(k * step, 12) for k in range(first, last + 1)]


def ms(value: float) -> str:
    """Milliseconds with three significant digits: 0.0421, 1.32, 96.2, 205."""
    return f"{value:#.3g}".rstrip(".") if value < 1000 else f"{value:,.0f}"


def megabytes(count: float) -> str:
    """Bytes as 1e6 bytes: 2.41 MB, or 84 kB below 0.1 MB."""
    return (
        f"{count / 1e3:.0f} kB" if count < 1e5 else f"{count / 1e6:.2f} MB" if count < 1e8 else f"{count / 1e6:.0f} MB"
    )


def percent(share: float | None, digits: int = 2) -> str:
    """A share 0..1 as a percentage; a dash for None."""
    return "—" if share is None else f"{100 * share:.{digits}f} %"


def number(value: float | None, digits: int = 3) -> str:
    """A few significant digits; a dash for None, the sign for infinity."""
    if value is None or math.isnan(value):
        return "—"
    return "∞" if math.isinf(value) else f"{value:.{digits}g}"


def threads(count: int) -> str:
    """``1 thread``, ``2 threads``."""
    return f"{count} thread{'' if count == 1 else 's'}"


def speed(ratio: float | None) -> tuple[str, str] | None:
    """A ratio of times in words, as `edgekit.verdict.rule` says it: (``2.0 x``, ``as fast as float``).

    Close to 1 it is a percentage: (``3.8 %``, ``faster than float``). None stays None.
    """
    if ratio is None:
        return None
    if ratio >= 1.1:
        return f"{ratio:.1f}{TIMES}", "as fast as float"
    if ratio >= 1:
        return f"{100 * (ratio - 1):.1f} %", "faster than float"
    slower = 1 / ratio
    return f"{slower:.1f}{TIMES}" if slower >= 1.1 else f"{100 * (slower - 1):.1f} %", "slower than float"


def smaller(ratio: float | None) -> str:
    """A ratio of sizes in words: ``3.7 x smaller than float``, or a percentage close to 1; empty if not above 1."""
    if ratio is None or ratio <= 1:
        return ""
    share = f"{ratio:.1f}{TIMES}" if ratio >= 1.1 else f"{100 * (1 - 1 / ratio):.1f} %"
    return f"{share} smaller than float"


def points(drop: float | None) -> str:
    """Points of top-1 lost against float: ``0.52 points below float``; empty for None."""
    if drop is None:
        return ""
    if abs(drop) < 0.005:
        return "as good as float"
    return f"{abs(drop):.2f} points {'below' if drop > 0 else 'above'} float"


def signed(value: float) -> str:
    """``+0.25``, with a real minus sign; ``0.00`` has none."""
    return f"{value:+.2f}".replace("-", MINUS) if abs(value) >= 0.005 else "0.00"


def allowed(max_drop: float) -> str:
    """``1 point may be lost``."""
    return f"{max_drop:g} point{'' if max_drop == 1 else 's'} may be lost"
