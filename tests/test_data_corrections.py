"""data.exclude, data.relabel and data.extra: what they change, what they leave alone, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgekit.config.recipe import DataSection, Recipe
from edgekit.console import Console
from edgekit.data import index_file
from edgekit.errors import InputError
from edgekit.types import Index

QUIET = Console(quiet=True)


def picture(file: Path, seed: int) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file)
    return file


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Two classes of ten images in ``images``."""
    for number in range(10):
        for place, label in enumerate(("cat", "dog")):
            picture(tmp_path / "images" / label / f"{number}.png", 2 * number + place)
    return tmp_path


def section(**more: object) -> DataSection:
    return DataSection.model_validate({"source": "image_folder", "path": "images", "val": 0.2, "test": 0.2, **more})


def built(base: Path, **more: object) -> Index:
    return index_file.build(section(**more), base, base / "work", QUIET)


def written(base: Path, name: str, text: str) -> str:
    (base / name).write_text(text)
    return name


def test_without_corrections_records_stay_as_they_were() -> None:
    recipe = Recipe.model_validate({"model": {"name": "x"}, "data": {"source": "digits"}})
    assert not {"exclude", "relabel", "extra"} & recipe.model_dump(mode="json")["data"].keys()
    assert "exclude" not in section().model_dump(exclude={"input", "pad"})
    assert "input" not in section().model_dump(exclude={"input", "pad"})
    dumped = section(exclude=["cat/1.png"]).model_dump(mode="json")
    assert dumped["exclude"] == ["cat/1.png"]
    assert DataSection.model_validate(dumped).exclude == ["cat/1.png"]


@pytest.mark.parametrize("in_table", [False, True])
def test_exclude_leaves_out_images_and_moves_no_other(base: Path, in_table: bool) -> None:
    whole = built(base)
    gone = ["cat/3.png", "dog/0.png"]
    table = written(base, "exclude.csv", "reason,path\nblurred,cat/3.png\n,dog\\0.png\n")
    left = built(base, exclude=table if in_table else gone)
    assert left.samples == tuple(sample for sample in whole.samples if sample.path not in gone)


def test_relabel_changes_the_class_and_not_the_split(base: Path) -> None:
    whole = {sample.path: sample for sample in built(base).samples}
    file = written(base, "relabel.csv", "path,label,confidence\ncat/3.png,dog,0.9\ncat/4.png,cat,0.9\n")
    changed = {sample.path: sample for sample in built(base, relabel=file).samples}
    assert changed.pop("cat/3.png").label == 1
    del whole["cat/3.png"]
    assert changed == whole


def test_corrections_resolve_what_cleaning_refuses(base: Path) -> None:
    (base / "images/dog/copy.png").write_bytes((base / "images/cat/3.png").read_bytes())
    (base / "images/dog/broken.png").write_text("no image")
    with pytest.raises(InputError, match="cannot be read"):
        built(base)
    with pytest.raises(InputError, match="under two labels"):
        built(base, exclude=["dog/broken.png"])
    assert len(built(base, exclude=["dog/broken.png", "dog/copy.png"]).samples) == 20
    file = written(base, "relabel.csv", "path,label\ncat/3.png,dog\n")
    index = built(base, exclude=["dog/broken.png"], relabel=file)
    assert [(sample.path, sample.label) for sample in index.samples if "3" in sample.path or "copy" in sample.path] == [
        ("cat/3.png", 1),
        ("dog/3.png", 1),
    ]


def test_digits_are_corrected_too(tmp_path: Path) -> None:
    data = DataSection(source="digits", exclude=["0/0000.png"])
    index = index_file.build(data, tmp_path, tmp_path / "work", QUIET)
    assert len(index.samples) == 1796


def test_extra_images_are_trained_on_and_never_scored(base: Path) -> None:
    whole = built(base)
    for number in range(30):
        picture(base / f"more/{number}.png", 100 + number)
    rows = "".join(f"{number}.png,{('cat', 'dog')[number % 2]}\n" for number in range(30))
    table = written(base, "more/extra.csv", f"path,label\n{rows}")
    index = built(base, extra=table)
    assert tuple(sample for sample in index.samples if sample in whole.samples) == whole.samples
    more = [sample for sample in index.samples if sample not in whole.samples]
    assert len(more) == 30
    assert {sample.split for sample in more} == {"train"}
    assert {sample.path for sample in more} == {f"../more/{number}.png" for number in range(30)}
    assert all(index_file.root_of(index, base / "work").joinpath(sample.path).is_file() for sample in more)


def test_extra_images_are_corrected_too(base: Path) -> None:
    for number in range(3):
        picture(base / f"more/{number}.png", 100 + number)
    extra = written(base, "more/extra.csv", "path,label\n0.png,cat\n1.png,cat\n2.png,cat\n")
    relabel = written(base, "relabel.csv", "path,label\n../more/1.png,dog\n")
    index = built(base, extra=extra, relabel=relabel, exclude=["../more/0.png"])
    found = {sample.path: (sample.label, sample.split) for sample in index.samples if "more" in sample.path}
    assert found == {"../more/1.png": (1, "train"), "../more/2.png": (0, "train")}


def test_extra_images_of_a_source_that_writes_its_own(tmp_path: Path) -> None:
    file = picture(tmp_path / "more/one.png", 1)
    table = written(tmp_path, "more/extra.csv", "path,label\none.png,7\n")
    data = DataSection(source="digits", extra=table)
    index = index_file.build(data, tmp_path, tmp_path / "work", QUIET)
    (tmp_path / "work").rename(tmp_path / "moved")
    extra = next(sample for sample in index.samples if sample.path.endswith("one.png"))
    assert (index_file.root_of(index, tmp_path / "moved") / extra.path).samefile(file)


def test_an_extra_copy_of_a_labelled_image_is_dropped(base: Path) -> None:
    whole = built(base)
    test = next(sample for sample in whole.samples if sample.split == "test")
    (base / "more").mkdir()
    (base / "more/copy.png").write_bytes((base / "images" / test.path).read_bytes())
    picture(base / "more/new.png", 100)
    table = written(base, "more/extra.csv", "path,label\ncopy.png,cat\nnew.png,dog\n")
    index = built(base, extra=table)
    assert len(index.samples) == len(whole.samples) + 1
    assert [(each.kind, each.path) for each in index.findings] == [("leak", "../more/copy.png")]


def test_the_stage_depends_on_what_the_tables_say(base: Path) -> None:
    plain = index_file.fingerprint(section(), base)
    written(base, "exclude.csv", "path\ncat/3.png\n")
    picture(base / "extra.png", 100)
    written(base, "extra.csv", "path,label\nextra.png,cat\n")
    with_tables = section(exclude="exclude.csv", extra="extra.csv")
    seen = [plain, index_file.fingerprint(with_tables, base)]
    written(base, "exclude.csv", "path\ncat/4.png\n")
    seen.append(index_file.fingerprint(with_tables, base))
    picture(base / "extra.png", 101).write_bytes(b"x")
    seen.append(index_file.fingerprint(with_tables, base))
    assert len(set(seen)) == 4
    assert index_file.fingerprint(section(), base) == plain


@pytest.mark.parametrize(
    ("key", "text", "said"),
    [
        ("exclude", None, 'data.exclude = "fix.csv": no such file'),
        ("exclude", "file\ncat/1.png\n", 'fix.csv:1: "path": no such column (choices: file)'),
        (
            "exclude",
            "path\ncat/1.png\ncat/11.png\n",
            'fix.csv:3: "cat/11.png": no such image in the data; did you',
        ),
        ("exclude", "path\ncat/1.png\ncat/1.png\n", "fix.csv:3: cat/1.png is named already, by"),
        ("exclude", "path,why\n,x\n", 'fix.csv:2: "path" must not be empty'),
        ("exclude", "path\n" + "".join(f"cat/{n}.png\n" for n in range(10)), 'leave no image of class "cat"'),
        ("relabel", "path\ncat/1.png\n", 'fix.csv:1: "label": no such column'),
        ("relabel", "path,label\ncat/1.png,dogs\n", 'fix.csv:2: "dogs": no such class; did you mean "dog"?'),
        ("relabel", "path,label\ncat/1.png,dog\ncat/1.png,cat\n", 'fix.csv:3: cat/1.png is named already as "dog", by'),
        ("relabel", "path,label\ncat/1.png,\n", 'fix.csv:2: "label" must not be empty'),
        ("extra", "path,label\nnone.png,cat\n", "fix.csv:2: none.png: no such file or directory"),
        ("extra", "path,label\nimages/cat/1.png,cat\n", "images/cat/1.png is in the data already, as cat/1.png"),
        ("extra", b"\xff\xfe\x00", "fix.csv: cannot be read as CSV"),
    ],
)
def test_what_is_wrong_with_a_table_is_said_in_one_line(
    base: Path, key: str, text: str | bytes | None, said: str
) -> None:
    if text is not None:
        (base / "fix.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError) as error:
        built(base, **{key: "fix.csv"})
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert not (base / "work").exists()


def test_an_image_cannot_be_left_out_and_relabelled(base: Path) -> None:
    written(base, "relabel.csv", "path,label\ncat/1.png,dog\n")
    with pytest.raises(InputError, match=r"relabel.csv:2: cat/1.png is left out by data.exclude\[1\], too"):
        built(base, relabel="relabel.csv", exclude=["cat/2.png", "cat/1.png"])


def test_a_list_names_its_place(base: Path) -> None:
    with pytest.raises(InputError, match=r'data.exclude\[1\]: "cat/x.png": no such image in the data'):
        built(base, exclude=["cat/2.png", "cat/x.png"])
