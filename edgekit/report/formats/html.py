"""``report.html``: one file that works offline, in light and dark mode, in print and on a phone."""

from __future__ import annotations

from html import escape
from importlib import resources

from edgekit.report import background, compression, devices, front, golden, results
from edgekit.report.contents import Report
from edgekit.report.markup import Markup, join, tag, theme

SUFFIX = "html"
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="generator" content="edgekit {version}">
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


def render(report: Report) -> str:
    """The report as a self-contained page, including styles, charts and a small optional script."""
    themes = [
        ("devices", "Devices", theme("devices", "Devices", *(devices.device(report, name) for name in report.devices))),
        (
            "accuracy",
            "Accuracy",
            theme(
                "accuracy", "Accuracy", background.classes(report), results.verification(report), golden.replays(report)
            ),
        ),
        (
            "compression",
            "Compression",
            theme(
                "compression",
                "Compression",
                results.files(report),
                compression.quantization(report),
                compression.rewrites(report),
                compression.pruning(report),
            ),
        ),
        (
            "making",
            "Training",
            theme("making", "Training and data", background.training(report), background.data(report)),
        ),
        (
            "method",
            "Method",
            theme(
                "method",
                "Method and origin",
                results.protocol(report),
                background.stages(report),
                background.provenance(report),
            ),
        ),
    ]
    shown = [("verdict", "Verdict", front.verdict(report)), *(each for each in themes if each[2])]
    links = (tag("a", name, href=f"#{ident}") for ident, name, _ in shown)
    buttons = (
        tag("button", "Open all", type="button", id="every", hidden="", aria_pressed="false"),
        tag("button", "Theme", type="button", id="theme", hidden="", aria_label="Switch between light and dark"),
    )
    bar = tag("nav", tag("div", *links, class_="links"), tag("div", *buttons), aria_label="Sections")
    body = join((bar, tag("main", front.header(report), *(section for _, _, section in shown)), _footer(report)))
    return PAGE.format(
        version=escape(report.edgekit_version),
        title=escape(f"{report.name}: edgekit report"),
        style=_asset("_style.css"),
        script=_asset("_script.js"),
        body=body,
    )


def _footer(report: Report) -> Markup:
    return tag("footer", f"edgekit {report.edgekit_version}, {front.when(report)}. 1 MB is 1,000,000 bytes.")


def _asset(name: str) -> str:
    return resources.files("edgekit.report").joinpath(name).read_text(encoding="utf-8")
