"""README and docs: every command in them runs, or is at least one that the command line accepts."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import numpy as np
import onnx
import pytest
from PIL import Image

from edgekit.cli.main import cli
from edgekit.config import recipe_file, shipped
from edgekit.device import file as device_file
from edgekit.runtime import load
from tests.conftest import TinyRun
from tests.support import BUNDLE, ROOT, environment

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TRAINS = "trains or compresses for minutes; test_tiny.py and test_cli.py run such commands on a small network"
BOARD = "needs a board, or a download of its emulation; test_ssh.py, test_adb_benchmark.py and test_qemu.py have those"
MODEL = "needs a latency model of that network and device; test_predict_latency.py has one"
IMAGES = "needs a folder of images; test_data_check.py has one"
EXPLAINS = "takes a minute; test_explain.py explains smaller runs"
PARSED = {
    r"edgekit (run|train|prune|compress|fit|sweep|tune)\b": TRAINS,
    r"edgekit predict-latency\b": MODEL,
    r"edgekit explain\b": EXPLAINS,
    r"edgekit data check my\b": IMAGES,
    r"edgekit profile\b": BOARD,
    r"edgekit devices (probe|check|setup)\b": BOARD,
    r"edgekit pack runs/mine --device raspberry-pi-5": BOARD,
}
"""Commands that are not run here but only parsed, and why."""
INSTALLS = r"python3\.11 -m venv "
"""Lines that .ci/run, or a new user, runs in a fresh environment; what they name is looked up."""
TESTED = {"sh", "toml", "python", "json", ""}
"""Languages of fenced blocks that the tests below know; one without a language holds no command."""


def blocks(kind: str) -> list[tuple[str, str]]:
    """Page and text of each fenced block of that language."""
    found = []
    for page in PAGES:
        texts = re.findall(rf"^```{kind}\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
        found += [(page.name, text) for text in texts]
    return found


def commands() -> list[tuple[str, str]]:
    return [
        (page, re.split(r"\s+# ", line)[0].strip())
        for page, text in blocks("sh")
        for line in text.splitlines()
        if line.strip() and not re.match(INSTALLS, line)
    ]


def is_parsed_only(line: str) -> bool:
    return any(re.match(pattern, line) for pattern in PARSED)


def photo(path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)
    Image.fromarray(values).save(path)


@pytest.fixture(scope="module")
def place(tiny: TinyRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the pages speak of: finished runs, bundles, photos, an ``edgekit`` on the path."""
    folder = tmp_path_factory.mktemp("docs")
    for name in ("trash", "mine", "old"):
        shutil.copytree(tiny.path, folder / "runs" / name)
    for name in ("trash", "mine", "mine-pruned"):
        shutil.copy(tiny.path / BUNDLE, folder / f"{name}.edgekit")
    (folder / "photos").mkdir()
    photo(folder / "photos" / "one.png")
    photo(folder / "photo.jpg")
    ((_, manifest),) = blocks("json")
    (folder / "my-net.json").write_text(manifest)
    (folder / "labels.txt").write_text("".join(f"class {index}\n" for index in range(1000)))
    onnx.save(classifier(), folder / "my-net.onnx")
    (folder / "bin").mkdir()
    for name, words in {"edgekit": "-m edgekit", "python3": ""}.items():
        script = folder / "bin" / name
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" {words} "$@"\n')
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return folder


def classifier() -> onnx.ModelProto:
    """A network of 1000 classes and 224 pixels, as the manifest in the pages describes it."""
    sizes = {"x": [1, 3, 224, 224], "y": [1, 1000]}
    kind = onnx.TensorProto.FLOAT
    source, sink = (onnx.helper.make_tensor_value_info(name, kind, size) for name, size in sizes.items())
    nodes = [
        onnx.helper.make_node("GlobalAveragePool", ["x"], ["mean"]),
        onnx.helper.make_node("Flatten", ["mean"], ["flat"]),
        onnx.helper.make_node("MatMul", ["flat", "w"], ["y"]),
    ]
    weight = np.random.default_rng(0).normal(size=(3, 1000)).astype(np.float32)
    graph = onnx.helper.make_graph(nodes, "net", [source], [sink], [onnx.numpy_helper.from_array(weight, "w")])
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)


def test_the_manifest_in_the_pages_is_one(place: Path) -> None:
    with load(place / "my-net.json", engine="onnxruntime") as model:
        result = model(place / "photo.jpg")
    assert result.label == f"class {result.index}"


def inline(program: str) -> list[tuple[Path, str]]:
    """Page and words of each command of `program` in a sentence or a table."""
    return [
        (page, words)
        for page in PAGES
        for words in re.findall(rf"`{program} ([^`\n]+)`", page.read_text(encoding="utf-8"))
    ]


def parse(words: list[str]) -> click.Context:
    """The command line's own opinion of these words; nothing is invoked."""
    command: click.Command = cli
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        assert words[0] in command.commands, f"{command.name} has no command {words[0]}"
        command = command.commands[words[0]]
        words = words[1:]
    return command.make_context(command.name, list(words))  # fails on a word that it does not know


def test_there_are_commands() -> None:
    assert len(commands()) > 30


@pytest.mark.parametrize("page", sorted({page for page, _ in commands()}))
def test_commands_of_a_page_run(page: str, place: Path) -> None:
    path = f"{place / 'bin'}{os.pathsep}{os.environ['PATH']}"
    for line in [line for of, line in commands() if of == page and not is_parsed_only(line)]:
        answer = subprocess.run(
            ["bash", "-c", line], cwd=place, env=environment(PATH=path), capture_output=True, text=True, timeout=300
        )
        assert answer.returncode == 0, f"{line}\n{answer.stdout[-500:]}\n{answer.stderr[-2000:]}"


@pytest.mark.parametrize("line", sorted({line for _, line in commands() if is_parsed_only(line)}))
def test_command_is_accepted(line: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    given = parse(shlex.split(line.partition(" > ")[0])[1:]).params
    recipe_file.load(shipped.find("recipes", "digits"), given.get("overrides", ()))  # fails on a key that there is not
    named = [
        *given.get("devices", ()),
        *([given["name"]] if "devices check" in line or "devices setup" in line else []),
    ]
    for device in named:
        assert shipped.is_path(device) or shipped.find("devices", device)


def spoken_of() -> dict[str, str]:
    """The recipes that examples work on, by what they call them: shipped ones, and those that the pages show."""
    texts = {name: path.read_text(encoding="utf-8") for name, path in shipped.files("recipes").items()}
    shown = dict(reversed(blocks("toml")))  # the first of each page
    texts |= {"trash": shown["README.md"], "mine": shown["recipes.md"]}
    return texts


def test_every_setting_in_an_example_changes_something(tmp_path: Path) -> None:
    helps = [command.help or "" for command in cli.commands.values()]
    lines = [line for _, line in commands()] + [
        line for text in helps for line in re.findall("edgekit .*--set .*", text)
    ]
    texts = spoken_of()
    seen = 0
    for line in [line for line in lines if " --set " in line]:
        given = parse(shlex.split(line)[1:]).params
        name = Path(given["target"]).stem.replace("my", "mine")
        (tmp_path / "one.toml").write_text(texts[name])
        plain = recipe_file.load(tmp_path / "one.toml")
        for words in given["overrides"]:
            assert recipe_file.load(tmp_path / "one.toml", [words]) != plain, line
            seen += 1
    assert seen > 8


@pytest.mark.parametrize("pattern", PARSED)
def test_no_pattern_is_left_over(pattern: str) -> None:
    assert any(re.match(pattern, line) for _, line in commands())


def test_commands_in_sentences_and_tables_are_accepted() -> None:
    for page, words in inline("edgekit"):
        first, *others = words.replace(",", "").split()
        command = cli.commands.get(first)
        assert command is not None or first == "--help", f"{page.name}: edgekit {words}"
        if isinstance(command, click.Group) and set(others) <= set(command.commands):
            continue  # one or several of its commands by name
        if others:  # a command by itself is only spoken of
            assert parse([first, *others])


def test_table_names_every_command() -> None:
    page = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    rows = page.partition("| command |")[2].partition("\n\n")[0]
    cells = re.findall(r"^\| (`.+?) \|", rows, re.M)
    named = [words.removeprefix("edgekit ").split()[0] for cell in cells for words in re.findall("`([^`]+)`", cell)]
    assert set(named) == set(cli.commands)


def test_benchmarks_that_are_named_take_these_options() -> None:
    assert inline("python")
    for page, words in inline("python"):
        script, *others = words.split()
        source = (ROOT / script).read_text(encoding="utf-8")
        for option in [word for word in others if word.startswith("-")]:
            assert f'"{option}"' in source, f"{page.name}: python {words}"


def test_lines_that_install_name_what_is_there() -> None:
    lines = [line for _, text in blocks("sh") for line in text.splitlines() if re.match(INSTALLS, line)]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert len(lines) == 2
    for line in lines:
        _, install, last = (shlex.split(part) for part in line.split(" && "))
        assert install[:4] == [".venv/bin/pip", "install", "-c", "constraints.txt"]
        assert install[-1].strip(".[]") in extras
        assert last == [".venv/bin/pytest"] or (ROOT / parse(last[1:]).params["target"]).is_file()
    assert (ROOT / "constraints.txt").is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_block_escapes_the_tests(page: Path) -> None:
    fences = re.findall(r"^```(.*)\n((?:(?!```).*\n)*)```$", page.read_text(encoding="utf-8"), re.M)
    assert {language for language, _ in fences} <= TESTED
    assert not [text for language, text in fences if not language and re.search("^(edgekit|python3?) ", text, re.M)]
    starts = re.findall(r"^\s*```", page.read_text(encoding="utf-8"), re.M)
    assert len(starts) == 2 * len(fences)


def test_toml_blocks_are_recipes_and_devices(tmp_path: Path) -> None:
    for number, (page, text) in enumerate(blocks("toml")):
        path = tmp_path / f"{page}{number}.toml"
        path.write_text(text)
        loaded = device_file.load(path) if "[reach]" in text else recipe_file.load(path)
        assert loaded


def test_python_blocks_run(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    found = [text for page, text in blocks("python") if page != "CONTRIBUTING.md"]  # test_contributing.py has those
    assert found
    for text in found:
        exec(compile(text, "docs", "exec"), {"frames": [np.zeros((20, 20, 3), np.uint8)] * 3})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    for target in targets:
        assert target.startswith("https://") or (page.parent / target).exists(), target
