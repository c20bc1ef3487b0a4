"""``report.html``: one file that works offline, in light and dark mode, in print and on a phone."""

from __future__ import annotations

from edgekit.report import background, compression, devices, evidence, front, golden, results, robustness, scoring
from edgekit.report.contents import Report
from edgekit.report.markup import theme
from edgekit.report.page import page

SUFFIX = "html"


def render(report: Report) -> str:
    """The report as a self-contained page, including styles, charts and a small optional script."""
    themes = [
        ("devices", "Devices", theme("devices", "Devices", *(devices.device(report, name) for name in report.devices))),
        (
            "accuracy",
            "Accuracy",
            theme(
                "accuracy",
                "Accuracy",
                scoring.section(report),
                background.classes(report),
                results.verification(report),
                robustness.section(report),
                evidence.section(report),
                golden.replays(report),
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
    sections = [("verdict", "Verdict", front.verdict(report)), *themes]
    footer = f"edgekit {report.edgekit_version}, {front.when(report)}. 1 MB is 1,000,000 bytes."
    return page(f"{report.name}: edgekit report", report.edgekit_version, front.header(report), sections, footer)
