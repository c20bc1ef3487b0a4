"""Names of others reach the terminal as plain text: no escape sequence, no forged line, no text that runs backwards."""

from __future__ import annotations

import json
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.report import comparison_text
from edgekit.report.comparison import Change, Comparison, Row
from edgekit.runtime import terminal
from tests import bundles, model_files
from tests.support import command, environment

EVIL = "\x1b]0;owned\x07\x1b[31m\x9b2J\u202egnp.tac\x7f"
SHOWN = r"\x1b]0;owned\x07\x1b[31m\x9b2J\u202egnp.tac\x7f"


def plain(said: str) -> str:
    """The text, once it holds nothing but what a terminal prints, and ends of lines.

    The classes of three letters are the bidirectional controls (RLO, LRE, PDI, ...) and accents (NSM).
    """
    for character in said.replace("\n", ""):
        assert unicodedata.category(character) not in ("Cc", "Cs", "Zl", "Zp"), ascii(said)
        assert len(unicodedata.bidirectional(character)) < 3 or unicodedata.bidirectional(character) == "NSM"
    return said


@given(st.text() | st.text(st.sampled_from("\x00\x1b\n\r\t\x7f\x85\x9b\u2028\u202e\u200d\udc80\\é")))
def test_any_text_is_shown_on_one_line(text: str) -> None:
    shown = plain(terminal.line(text))
    assert len(shown.splitlines()) <= 1
    assert terminal.line(shown) == shown
    if text.isprintable():
        assert shown == text
    plain(terminal.lines(text).replace("\t", ""))
    row = {"image": text, "top": [{"label": text}]}
    said = plain(terminal.json_line(row))
    assert json.loads(said) == row


def test_letters_stay_letters() -> None:
    for text in ("métal", "\u7eb8\u677f", "\u0646\u06cc\u0645\u200c\u0641", "\U0001f469\u200d\U0001f52c"):
        assert terminal.line(text) == text
    assert terminal.line(EVIL) == SHOWN


def answered(*words: str | Path, code: int = 0, cwd: Path | None = None, module: str = "edgekit") -> str:
    """Everything that a command says."""
    argv = [sys.executable, "-m", module, *map(str, words)]
    done = subprocess.run(argv, cwd=cwd, env=environment(), capture_output=True)
    assert done.returncode == code, done.stderr
    return plain((done.stdout + done.stderr).decode())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle and an ONNX file whose every name is evil, and an image."""
    folder = tmp_path_factory.mktemp("evil")
    manifest, members = bundles.contents()
    manifest |= {"description": EVIL + "\nsignature   valid", "provenance": {EVIL: EVIL}}
    manifest["ship"] = [{"device": EVIL, "artifact": "int8-onnx", "reason": EVIL}]
    manifest["artifacts"][0]["precision"] = EVIL
    label = "\x9b31m\u202e"  # C0 is refused in labels
    members["labels.txt"] = "".join(f"{label}{index}\n" for index in range(4)).encode()
    bundles.write(folder / "a.edgekit", bundles.seal(manifest, members))
    (folder / f"{EVIL}.png").write_bytes(members["golden/0.png"])
    (folder / "broken\x1b.png").write_bytes(b"x")
    model = model_files.float_onnx()
    model.producer_name = EVIL
    model.metadata_props.add(key=EVIL, value=EVIL)
    model.graph.input[0].name = model.graph.node[0].input[0] = EVIL
    (folder / "a.onnx").write_bytes(model.SerializeToString())
    return folder


def test_inspect_shows_names_as_plain_text(folder: Path) -> None:
    said = answered("inspect", "a.edgekit", cwd=folder)
    assert SHOWN in said
    assert not any(line.startswith("signature   valid") for line in said.splitlines())
    assert SHOWN in answered("inspect", "a.onnx", cwd=folder)
    assert SHOWN in answered("inspect", f"{EVIL}.png", code=2, cwd=folder)
    assert SHOWN in answered(EVIL, code=2)
    assert SHOWN in answered("inspect", f"{EVIL}.png", "--debug", code=2, cwd=folder)


def test_predict_shows_names_as_plain_text(folder: Path) -> None:
    for module in ("edgekit", "edgekit.runtime"):
        said = answered("predict", "a.edgekit", ".", code=1, cwd=folder, module=module)
        assert SHOWN in said
        assert r"\x9b31m\u202e" in said
        assert r"broken\x1b.png" in said
    rows = answered("predict", "a.edgekit", f"./{EVIL}.png", "--json", cwd=folder, module="edgekit.runtime")
    assert json.loads(rows)["image"] == f"./{EVIL}.png"
    assert SHOWN in answered("info", "a.edgekit", cwd=folder, module="edgekit.runtime")


def test_compare_and_reports_show_names_as_plain_text() -> None:
    change = Change("p50", 1.0, 2.0, 1.0, None, "same")
    row = Row(EVIL, EVIL + "\nworse", EVIL, 1, "measured", (change,), (EVIL,))
    said = plain(comparison_text.plain(Comparison(EVIL, EVIL, (row,), (EVIL,), (EVIL,), (EVIL,)), None))
    assert SHOWN in said
    assert not any(line.startswith("worse") for line in said.splitlines())


def test_progress_shows_names_as_plain_text() -> None:
    code = f"from edgekit.console import Console; Console().say({EVIL!r})"
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, check=True)
    assert plain(done.stderr.decode()) == SHOWN + "\n"


def test_without_a_locale_names_are_plain_text_too(folder: Path) -> None:
    """As in a container: there click writes past a stream of ASCII."""
    words, ascii_only = command("inspect", "a.onnx"), environment(PYTHONIOENCODING="ascii")
    done = subprocess.run(words, cwd=folder, env=ascii_only, capture_output=True, check=True)
    assert SHOWN in plain(done.stdout.decode())
