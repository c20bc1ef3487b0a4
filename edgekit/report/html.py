"""``report.html``: one file that opens anywhere, without network, in light and dark, on paper and on a phone."""

from __future__ import annotations

from html import escape
from importlib import resources

from edgekit.report import _background, _compression, _devices, _golden, _results
from edgekit.report._markup import Markup, join, tag
from edgekit.report._report import Report

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
    """The report as a self-contained page: styles, charts (inline SVG) and a little optional script are in it."""
    sections = [
        ("verdict", "Verdict", _results.verdicts(report)),
        ("trade", "Accuracy and latency", _devices.trade(report)),
        ("spread", "Distributions", _devices.spread(report)),
        ("threads", "Threads", _devices.scaling(report)),
        ("steps", "End to end", _devices.end_to_end(report)),
        ("operators", "Operators", _devices.operators(report)),
        ("sustained", "Sustained", _devices.sustained(report)),
        ("memory", "Memory", _devices.memory(report)),
        ("files", "Files", _results.files(report)),
        ("rows", "Measurements", _results.measurements(report)),
        ("protocol", "Protocol", _results.protocol(report)),
        ("golden", "Golden vectors", _golden.replays(report)),
        ("verify", "Verification", _results.verification(report)),
        ("quantization", "Quantization", _compression.quantization(report)),
        ("rewrites", "Rewrites", _compression.rewrites(report)),
        ("pruning", "Pruning", _compression.pruning(report)),
        ("classes", "Classes", _background.classes(report)),
        ("training", "Training", _background.training(report)),
        ("data", "Data", _background.data(report)),
        ("stages", "Stages", _background.stages(report)),
        ("provenance", "Provenance", _background.provenance(report)),
    ]
    shown = [(ident, name, section) for ident, name, section in sections if section]
    links = (tag("a", name, href=f"#{ident}") for ident, name, _ in shown)
    toggle = tag("button", "Theme", type="button", id="theme", hidden="", aria_label="Switch between light and dark")
    bar = tag("nav", tag("div", *links, class_="links"), toggle, aria_label="Sections")
    body = join((bar, tag("main", _results.header(report), *(section for _, _, section in shown)), _footer(report)))
    return PAGE.format(
        version=escape(report.edgekit_version),
        title=escape(f"{report.name}: edgekit report"),
        style=_asset("_style.css"),
        script=_asset("_script.js"),
        body=body,
    )


def _footer(report: Report) -> Markup:
    return tag("footer", f"edgekit {report.edgekit_version}, {_results.when(report)}. 1 MB is 1,000,000 bytes.")


def _asset(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
