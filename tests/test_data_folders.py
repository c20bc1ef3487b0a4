"""Folders as people have them: links that loop or lead nowhere, pipes, other systems' litter, names in other forms."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgekit.config.recipe import CleanSection, DataSection
from edgekit.console import Console
from edgekit.data import index_file
from edgekit.data._clean import clean
from edgekit.data.listing import Item, Listing
from edgekit.data.sources import csv_labels, image_folder
from edgekit.errors import InputError
from edgekit.runtime import files
from edgekit.types import Index

QUIET = Console(quiet=True)
NFC, NFD = (unicodedata.normalize(form, "Äpfel") for form in ("NFC", "NFD"))
LATIN = os.fsdecode(b"caf\xe9.png")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Six images of each of two classes."""
    generator = np.random.default_rng(0)
    for name in ("cat", "dog"):
        for number in range(6):
            file = tmp_path / "images" / name / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(generator.integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(file)
    return tmp_path / "images"


def section(**more: object) -> DataSection:
    return DataSection.model_validate({"source": "image_folder", "path": "images", **more})


def build(root: Path, **more: object) -> Index:
    """The index, with bad entries dropped; the fingerprint, too, has to come through."""
    data = section(**{"clean": {"unreadable": "drop"}, **more})
    index_file.fingerprint(data, root.parent)
    return index_file.build(data, root.parent, root.parent / "work", QUIET)


def dropped(index: Index) -> dict[str, str]:
    return {each.path: each.detail for each in index.findings if each.action == "drop"}


def loop(root: Path) -> None:
    (root / "cat/again").symlink_to(root / "cat")
    (root / "dog/up").symlink_to("..")


def two_loops(root: Path) -> None:
    """Each on its own ends; together they gave paths without end."""
    (root / "cat/one").symlink_to(".")
    (root / "cat/two").symlink_to("..")


def ladder(root: Path) -> None:
    """Two links to each next folder: two to the power of 30 paths."""
    for step in range(30):
        folder = root.parent / f"steps/{step}"
        folder.mkdir(parents=True)
        for name in ("left", "right"):
            (folder / name).symlink_to(f"../{step + 1}")
    (root.parent / "steps/30").mkdir()
    (root / "cat/steps").symlink_to(root.parent / "steps/0")


def nowhere(root: Path) -> None:
    (root / "cat/gone.png").symlink_to("moved away.png")
    (root / "cat/self.png").symlink_to("self.png")


def special(root: Path) -> None:
    os.mkfifo(root / "cat/pipe.png")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(root / "cat/socket.png"))
    (root / "cat/zero.png").symlink_to("/dev/zero")


def latin(root: Path) -> None:
    (root / "cat" / LATIN).write_bytes((root / "cat/0.png").read_bytes())


def top(root: Path) -> None:
    (root / "all").symlink_to(".")
    (root / "eel").symlink_to("/nowhere/eel")


FLAWS = {
    loop: {"cat/again": "a link back to", "dog/up": "a link back to"},
    two_loops: {"cat/one": "a link back to", "cat/two": "a link back to"},
    nowhere: {"cat/gone.png": "a link that leads nowhere", "cat/self.png": "a link that leads nowhere"},
    special: {
        "cat/pipe.png": "a pipe, not a file",
        "cat/socket.png": "a socket, not a file",
        "cat/zero.png": "a device, not a file",
    },
    latin: {r"cat/caf\xe9.png": "its name is not UTF-8"},
    top: {"all": "a link back to", "eel": "a link that leads nowhere"},
}


@pytest.mark.parametrize("harm", FLAWS, ids=lambda harm: harm.__name__)
def test_what_is_no_file_is_a_flaw(root: Path, harm: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root.parent)
    before = build(root)
    assert callable(harm)
    harm(root)
    index = build(root)
    assert index.samples == before.samples
    assert dropped(index).keys() == FLAWS[harm].keys()
    for path, detail in FLAWS[harm].items():
        assert dropped(index)[path].startswith(detail)
    with pytest.raises(InputError, match=r'image.*: cannot be read: .*set data.clean.unreadable = "drop"') as caught:
        index_file.build(section(), root.parent, root.parent / "work", QUIET)
    assert str(caught.value).isprintable()


def test_a_folder_that_many_links_lead_to_is_read_once(root: Path) -> None:
    before = build(root)
    ladder(root)
    index = build(root)
    assert index.samples == before.samples
    assert len(dropped(index)) == 30


def test_a_link_to_a_folder_elsewhere_is_followed(root: Path) -> None:
    """Against find -L, which follows links and knows loops."""
    (root / "dog").rename(root.parent / "elsewhere")
    (root / "dog").symlink_to(root.parent / "elsewhere")
    (root.parent / "elsewhere/deep").mkdir()
    (root.parent / "elsewhere/5.png").rename(root.parent / "elsewhere/deep/5.png")
    (root / "cat/again").symlink_to(".")
    find = subprocess.run(["find", "-L", ".", "-type", "f"], cwd=root, capture_output=True, text=True)
    listed = image_folder.listing(section(), root.parent, root.parent)
    assert [item.path for item in listed.items] == sorted(line[2:] for line in find.stdout.splitlines())
    assert len(listed.items) == 12


def test_a_class_without_a_single_file_says_why(root: Path) -> None:
    (root / "eel").mkdir()
    os.mkfifo(root / "eel/1.png")
    with pytest.raises(
        InputError, match=r"images/eel: this class has no images \(1.png: a pipe, not a file\); add some"
    ):
        build(root)


@pytest.mark.parametrize("name", sorted(files.LITTER))
def test_litter_of_other_systems_is_no_class(root: Path, name: str) -> None:
    for folder in (root / name, root / "cat" / name):
        folder.mkdir()
        (folder / "0.png").write_bytes(b"no image")
    assert image_folder.listing(section(), root.parent, root.parent).labels == ("cat", "dog")
    assert build(root).findings == ()


def test_a_class_is_found_in_either_form_of_unicode(root: Path) -> None:
    for split, name in (("train", NFC), ("val", NFD), ("test", NFD)):
        (root / split).mkdir()
        (root / f"{split}/dog").mkdir()
        (root / f"{split}/{name}").mkdir()
        for number in {"train": (0, 1), "val": (2, 3), "test": (4, 5)}[split]:
            (root / f"cat/{number}.png").rename(root / f"{split}/{name}/{number}.png")
            (root / f"dog/{number}.png").rename(root / f"{split}/dog/{number}.png")
    (root / "cat").rmdir()
    (root / "dog").rmdir()
    assert image_folder.listing(section(), root.parent, root.parent).labels == ("dog", NFC)
    for form in (NFC, NFD):
        (root.parent / "names.txt").write_text(f"{form}\ndog\n")
        index = build(root, labels="names.txt")
        assert index.labels == (NFC, "dog")
        assert len(index.samples) == 12


def test_a_class_whose_name_is_not_utf8_is_refused(root: Path) -> None:
    (root / "dog").rename(root / os.fsdecode(b"caf\xe9"))
    with pytest.raises(InputError, match=r"the folder name caf\\xe9 is not UTF-8; rename it"):
        build(root)


def test_a_root_whose_name_is_not_utf8_is_refused(root: Path) -> None:
    home = root.parent / os.fsdecode(b"\xe9")
    home.mkdir()
    root.rename(home / "images")
    with pytest.raises(InputError, match=r"/\\xe9/images: the name of this folder is not UTF-8; rename it"):
        build(home / "images")


# Tables


def table(root: Path, *more: str) -> Path:
    file = root.parent / "labels.csv"
    rows = [f"images/{name}/{number}.png,{name}" for name in ("cat", "dog") for number in range(6)]
    file.write_text("\n".join(["file,class", *rows, *more]), encoding="utf-8")
    return file


def test_a_row_without_a_file_stops_unless_it_is_dropped(root: Path) -> None:
    table(root, "gone.png,cat", "pipe.png,dog")
    os.mkfifo(root.parent / "pipe.png")
    data = section(source="csv_labels", path="labels.csv", clean={"unreadable": "drop"})
    index = index_file.build(data, root.parent, root.parent, QUIET)
    assert len(index.samples) == 12
    assert dropped(index) == {"gone.png": "row 14: no such file or directory", "pipe.png": "row 15: a pipe, not a file"}
    with pytest.raises(InputError, match=r"labels.csv: row 14: no such file gone.png"):
        csv_labels.listing(section(source="csv_labels", path="labels.csv"), root.parent, root.parent)
    (root.parent / "gone.png").touch()
    with pytest.raises(InputError, match=r"labels.csv: row 15: pipe.png: a pipe, not a file"):
        csv_labels.listing(section(source="csv_labels", path="labels.csv"), root.parent, root.parent)


def test_a_class_whose_rows_are_all_dropped_is_named(root: Path) -> None:
    table(root, "gone.png,eel")
    with pytest.raises(InputError, match='no image of class "eel" can be read'):
        csv_labels.listing(
            section(source="csv_labels", path="labels.csv", clean={"unreadable": "drop"}), root.parent, root.parent
        )


def test_a_row_finds_its_file_in_either_form_of_unicode(root: Path) -> None:
    (root / "cat/0.png").rename(root / f"cat/{NFD}.png")
    file = table(root)
    file.write_text(file.read_text().replace("cat/0.png,cat", f"cat/{NFC}.png,cat"), encoding="utf-8")
    listed = csv_labels.listing(section(source="csv_labels", path="labels.csv"), root.parent, root.parent)
    assert f"images/cat/{NFD}.png" in [item.path for item in listed.items]


@pytest.mark.parametrize("key", ["path", "labels"])
def test_a_pipe_in_place_of_a_table_is_refused(root: Path, key: str) -> None:
    table(root)
    os.mkfifo(root.parent / "pipe")
    data = section(source="csv_labels", **{"path": "labels.csv", key: "pipe"})
    with pytest.raises(InputError, match="a pipe, not a file"):
        csv_labels.listing(data, root.parent, root.parent)


def test_a_source_that_lists_anything_cannot_hang(root: Path) -> None:
    os.mkfifo(root / "pipe.png")
    items = (Item("cat/0.png", 0), Item("gone.png", 0), Item("pipe.png", 0))
    kept, findings = clean(Listing(root, ("cat",), items), CleanSection(unreadable="drop"), QUIET)
    assert [image.item.path for image in kept] == ["cat/0.png"]
    assert [each.detail for each in findings] == ["no such file or directory", "a pipe, not a file"]


# What cleaning says


def test_what_cleaning_did_is_said_and_listed(root: Path, tmp_path: Path) -> None:
    nowhere(root)
    (root / "cat/text.png").write_text("no image")
    (root / "dog/copy.png").write_bytes((root / "dog/0.png").read_bytes())
    for number in range(15):
        Image.fromarray(np.full((9, 9 + number), number, np.uint8)).save(root / f"dog/mask{number}.png")
    index = build(root)
    assert index_file.summary(index.findings) == (
        "dropped 3 unreadable, 1 duplicate; kept 15 in other colours, 15 nearly black"
    )
    index_file.save(index, tmp_path)
    assert index_file.load(tmp_path) == index
    lines = (tmp_path / index_file.FINDINGS).read_text().splitlines()
    assert lines[0] == "action,kind,path,images,detail"
    assert "drop,unreadable,cat/text.png,1,not an image of a known format" in lines
    assert any(line.startswith("keep,mode,dog/mask0.png,15,") for line in lines)


def test_summary_of_nothing_is_empty() -> None:
    assert index_file.summary(()) == ""


def test_the_walk_needs_no_heavy_package() -> None:
    code = "import sys, edgekit.runtime.files; print({'numpy', 'PIL'} & sys.modules.keys())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
