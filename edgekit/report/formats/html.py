"""``report.html``: one file that works offline, in light and dark mode, in print and on a phone."""

from __future__ import annotations

from html import escape
from importlib import resources

from edgekit.report import background, compression, devices, golden, results
from edgekit.report.contents import Report
from edgekit.report.markup import Markup, join, tag

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
    """The report as a self-contained page, including styles, charts (inline SVG) and a small optional script."""
    sections = [
        ("verdict", "Verdict", results.verdicts(report)),
        ("trade", "Accuracy and latency", devices.trade(report)),
        ("spread", "Distributions", devices.spread(report)),
        ("threads", "Threads", devices.scaling(report)),
        ("steps", "End to end", devices.end_to_end(report)),
        ("operators", "Operators", devices.operators(report)),
        ("sustained", "Sustained", devices.sustained(report)),
        ("memory", "Memory", devices.memory(report)),
        ("files", "Files", results.files(report)),
        ("rows", "Measurements", results.measurements(report)),
        ("protocol", "Protocol", results.protocol(report)),
        ("golden", "Golden vectors", golden.replays(report)),
        ("verify", "Verification", results.verification(report)),
        ("quantization", "Quantization", compression.quantization(report)),
        ("rewrites", "Rewrites", compression.rewrites(report)),
        ("pruning", "Pruning", compression.pruning(report)),
        ("classes", "Classes", background.classes(report)),
        ("training", "Training", background.training(report)),
        ("data", "Data", background.data(report)),
        ("stages", "Stages", background.stages(report)),
        ("provenance", "Provenance", background.provenance(report)),
    ]
    shown = [(ident, name, section) for ident, name, section in sections if section]
    links = (tag("a", name, href=f"#{ident}") for ident, name, _ in shown)
    toggle = tag("button", "Theme", type="button", id="theme", hidden="", aria_label="Switch between light and dark")
    bar = tag("nav", tag("div", *links, class_="links"), toggle, aria_label="Sections")
    body = join((bar, tag("main", results.header(report), *(section for _, _, section in shown)), _footer(report)))
    return PAGE.format(
        version=escape(report.edgekit_version),
        title=escape(f"{report.name}: edgekit report"),
        style=_asset("_style.css"),
        script=_asset("_script.js"),
        body=body,
    )


def _footer(report: Report) -> Markup:
    return tag("footer", f"edgekit {report.edgekit_version}, {results.when(report)}. 1 MB is 1,000,000 bytes.")


def _asset(name: str) -> str:
    return resources.files("edgekit.report").joinpath(name).read_text(encoding="utf-8")
