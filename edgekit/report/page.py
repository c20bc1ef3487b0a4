"""A page of HTML in one file that works offline, in light and dark mode, in print and on a phone."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib import resources

from edgekit.report.markup import Markup, join, tag

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="generator" content="edgekit {version}">{refresh}
<title>{title}</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
{body}
<script>{script}</script>
</body>
</html>
"""


def page(
    title: str,
    version: str,
    header: Markup,
    sections: Sequence[tuple[str, str, Markup]],
    footer: str,
    refresh: int | None = None,
) -> str:
    """The whole page, including styles and a small optional script.

    Args:
        title: of the window.
        version: of edgekit.
        header: above the sections.
        sections: id, name in the navigation, and markup; empty ones are left out.
        footer: a line.
        refresh: seconds after which a browser loads it again; None: never.
    """
    shown = [each for each in sections if each[2]]
    links = (tag("a", name, href=f"#{ident}") for ident, name, _ in shown)
    buttons = (
        tag("button", "Open all", type="button", id="every", hidden="", aria_pressed="false"),
        tag("button", "Theme", type="button", id="theme", hidden="", aria_label="Switch between light and dark"),
    )
    bar = tag("nav", tag("div", *links, class_="links"), tag("div", *buttons), aria_label="Sections")
    body = join((bar, tag("main", header, *(section for _, _, section in shown)), tag("footer", footer)))
    return PAGE.format(
        version=escape(version),
        title=escape(title),
        refresh="" if refresh is None else f'\n<meta http-equiv="refresh" content="{refresh}">',
        style=_asset("_style.css"),
        script=_asset("_script.js"),
        body=body,
    )


def _asset(name: str) -> str:
    return resources.files("edgekit.report").joinpath(name).read_text(encoding="utf-8")
