"""Sources: what they list, and what they say about bad input."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgekit.config.recipe import DataSection
from edgekit.data.listing import Item, expand
from edgekit.data.sources import csv_labels, digits, image_folder, torchvision
from edgekit.errors import InputError


def picture(file: Path, seed: int = 0, size: tuple[int, int] = (9, 7)) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    width, height = size
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file)
    return file


def section(source: str, **more: object) -> DataSection:
    return DataSection.model_validate({"source": source, **more})


def folder_section(path: str = "images", **more: object) -> DataSection:
    return section("image_folder", path=path, **more)


def csv_section(**more: object) -> DataSection:
    return section("csv_labels", path="labels.csv", **more)


# expand


def test_expand_replaces_variables_and_starts_from_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGES", "/data")
    monkeypatch.delenv("NOWHERE", raising=False)
    assert expand("${IMAGES}/cats", tmp_path) == Path("/data/cats")
    assert expand("${NOWHERE:-../shared}/cats", tmp_path) == tmp_path / "../shared/cats"
    assert expand("${IMAGES:-x}", tmp_path) == Path("/data")
    assert expand("~/cats", tmp_path) == Path.home() / "cats"


def test_expand_names_the_variable_when_it_is_not_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOWHERE", raising=False)
    with pytest.raises(InputError, match=r"NOWHERE is not set; set it, or write \${NOWHERE:-default}"):
        expand("${NOWHERE}/cats", tmp_path)


# image_folder


def test_listing_finds_classes_when_there_are_no_splits(tmp_path: Path) -> None:
    for path in ("dog/1.jpg", "cat/deep/2.png", "cat/1.jpg"):
        picture(tmp_path / "images" / path)
    for path in ("cat/notes.txt", "cat/.DS_Store", ".git/x.jpg", "readme.md"):
        (tmp_path / "images" / path).parent.mkdir(exist_ok=True)
        (tmp_path / "images" / path).write_text("no image")
    (tmp_path / "images/dog/broken.jpg").write_text("an image by name only")
    listing = image_folder.listing(folder_section(), tmp_path, tmp_path)
    assert listing.root == tmp_path / "images"
    assert listing.labels == ("cat", "dog")
    assert listing.items == (
        Item("cat/1.jpg", 0),
        Item("cat/deep/2.png", 0),
        Item("dog/1.jpg", 1),
        Item("dog/broken.jpg", 1),
    )


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_listing_takes_ready_splits(tmp_path: Path, name: str) -> None:
    for path in ("train/a/1.jpg", "train/b/1.jpg", f"{name}/a/2.jpg", "test/b/3.jpg"):
        picture(tmp_path / "images" / path)
    listing = image_folder.listing(folder_section(), tmp_path, tmp_path)
    assert listing.labels == ("a", "b")
    assert {(item.path, item.split) for item in listing.items} == {
        ("train/a/1.jpg", "train"),
        ("train/b/1.jpg", "train"),
        (f"{name}/a/2.jpg", "val"),
        ("test/b/3.jpg", "test"),
    }


def test_listing_takes_a_class_called_train_for_a_class(tmp_path: Path) -> None:
    for path in ("train/1.jpg", "bus/1.jpg"):
        picture(tmp_path / "images" / path)
    listing = image_folder.listing(folder_section(), tmp_path, tmp_path)
    assert listing.labels == ("bus", "train")


def test_listing_numbers_classes_by_the_labels_file(tmp_path: Path) -> None:
    for path in ("dog/1.jpg", "cat/1.jpg"):
        picture(tmp_path / "images" / path)
    (tmp_path / "names.txt").write_text("dog\nfox\ncat\n")
    listing = image_folder.listing(folder_section(labels="names.txt"), tmp_path, tmp_path)
    assert listing.labels == ("dog", "fox", "cat")
    assert listing.items == (Item("cat/1.jpg", 2), Item("dog/1.jpg", 0))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "no class folders"),
        (["a/notes.txt"], "this class has no images"),
        (["train/a/1.jpg", "test/a/1.jpg", "extra/a/1.jpg"], r"extra/ is beside train/ but not a split"),
        (["train/a/1.jpg", "val/a/1.jpg", "valid/a/1.jpg"], "more than one folder for the validation split"),
    ],
)
def test_listing_explains_a_folder_it_cannot_use(tmp_path: Path, files: list[str], message: str) -> None:
    (tmp_path / "images").mkdir()
    for path in files:
        (tmp_path / "images" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / path).touch()
    with pytest.raises(InputError, match=message):
        image_folder.listing(folder_section(), tmp_path, tmp_path)


def test_listing_says_which_folder_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r'data.path = "images": no such file or folder'):
        image_folder.listing(folder_section(), tmp_path, tmp_path)
    with pytest.raises(InputError, match=r"data.path: this key is required"):
        image_folder.listing(section("image_folder"), tmp_path, tmp_path)


# csv_labels


def table(folder: Path, text: str) -> None:
    for name in ("x.jpg", "y.jpg", "z.jpg"):
        (folder / name).touch()
    (folder / "labels.csv").write_text(text, encoding="utf-8-sig")  # with the byte-order mark that Excel writes


def test_listing_adds_the_offset_to_integer_classes(tmp_path: Path) -> None:
    table(tmp_path, "file,class\ny.jpg,2\nx.jpg,0\n")
    (tmp_path / "names.txt").write_text("background\ntench\ngoldfish\nshark\n")
    listing = csv_labels.listing(csv_section(labels="names.txt", label_offset=1), tmp_path, tmp_path)
    assert listing.root == tmp_path
    assert listing.labels == ("background", "tench", "goldfish", "shark")
    assert listing.items == (Item("x.jpg", 1), Item("y.jpg", 3))


def test_listing_sorts_class_names_and_reads_splits(tmp_path: Path) -> None:
    table(tmp_path, "label,split,file\ndog,train,x.jpg\ncat,validation,y.jpg\ndog,test,z.jpg\n")
    listing = csv_labels.listing(csv_section(), tmp_path, tmp_path)
    assert listing.labels == ("cat", "dog")
    assert listing.items == (Item("x.jpg", 1, "train"), Item("y.jpg", 0, "val"), Item("z.jpg", 1, "test"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", '"file": no such column'),
        ("path,class\nx.jpg,1\n", '"file": no such column'),
        ("file,clas\nx.jpg,1\n", '"class": no such column; did you mean "clas"'),
        ("file,class\n", "no rows below the header"),
        ("file,class\nx.jpg,0\ny.jpg,9\n", r"row 3: class 9 is out of range; data.labels = .* names 0..3"),
        ("file,class\nx.jpg,-1\n", "row 2: class -1 is out of range"),
        ("file,class\nx.jpg,0\nmissing.jpg,1\n", "row 3: no such file missing.jpg"),
        ("file,class\nx.jpg,0\nx.jpg,1\n", "row 3: x.jpg is already listed in row 2"),
        ("file,class,split\nx.jpg,0,tset\n", 'row 2: "tset": no such split; did you mean "test"'),
        ("file,class,split\nx.jpg,0\n", "row 2.*no such split"),
        ("file,class\nx.jpg\n", "row 2.*must not be empty"),
        ("file,class\nx.jpg,dog\n", '"dog": no such class'),
        ("file,class\nx.jpg,c\n", 'the class "c" is listed twice'),
    ],
)
def test_listing_names_the_row_when_a_table_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    table(tmp_path, text)
    (tmp_path / "names.txt").write_text("a\nb\nc\nc\n")
    with pytest.raises(InputError, match=message):
        csv_labels.listing(csv_section(labels="names.txt"), tmp_path, tmp_path)


# digits


def test_listing_writes_the_digits(tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    listing = digits.listing(section("digits"), tmp_path, tmp_path)
    bunch = load_digits()
    assert listing.root == tmp_path / "images"
    assert listing.labels == tuple("0123456789")
    assert len(listing.items) == 1797
    for item in listing.items[::100]:
        number = int(Path(item.path).stem)
        with Image.open(listing.root / item.path) as image:
            assert image.mode == "RGB"
            grey = np.asarray(image)
        assert item.label == bunch.target[number]
        np.testing.assert_allclose(grey[:, :, 1], bunch.images[number] / 16 * 255, atol=0.5)


# torchvision, on folders in each data set's own format


def tv_section(name: str | None, path: Path) -> DataSection:
    return section("torchvision", name=name, path=str(path))


def test_listing_keeps_the_files_of_flowers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scipy.io import savemat
    from torchvision.datasets import Flowers102

    folder = tmp_path / "flowers-102"
    for number in range(1, 7):
        picture(folder / f"jpg/image_{number:05}.jpg", number)
    savemat(folder / "imagelabels.mat", {"labels": [[1, 1, 2, 2, 102, 102]]})
    savemat(folder / "setid.mat", {"trnid": [[1, 3]], "valid": [[2, 6]], "tstid": [[4, 5]]})
    sums = {
        name: (file, hashlib.md5((folder / file).read_bytes()).hexdigest())
        for name, file in (("label", "imagelabels.mat"), ("setid", "setid.mat"))
    }
    monkeypatch.setattr(Flowers102, "_file_dict", sums)
    listing = torchvision.listing(tv_section("Flowers102", tmp_path), tmp_path, tmp_path / "work")
    assert listing.root == tmp_path
    assert len(listing.labels) == 102
    assert listing.labels[0] == "pink primrose"
    assert [(item.label, item.split) for item in listing.items] == [
        (0, "train"),
        (0, "val"),
        (1, "train"),
        (1, "test"),
        (101, "test"),
        (101, "val"),
    ]
    assert listing.items[0].path == "flowers-102/jpg/image_00001.jpg"
    assert not (tmp_path / "work").exists()


def test_listing_keeps_the_files_of_pets(tmp_path: Path) -> None:
    folder = tmp_path / "oxford-iiit-pet"
    for name in ("Abyssinian_1", "Abyssinian_2", "yorkshire_terrier_1"):
        picture(folder / f"images/{name}.jpg")
    (folder / "annotations").mkdir()
    (folder / "annotations/trainval.txt").write_text("Abyssinian_1 1 1 1\nyorkshire_terrier_1 2 2 1\n")
    (folder / "annotations/test.txt").write_text("Abyssinian_2 1 1 1\n")
    listing = torchvision.listing(tv_section("OxfordIIITPet", tmp_path), tmp_path, tmp_path / "work")
    assert listing.labels == ("Abyssinian", "Yorkshire Terrier")
    assert listing.items == (
        Item("oxford-iiit-pet/images/Abyssinian_1.jpg", 0, "train"),
        Item("oxford-iiit-pet/images/Abyssinian_2.jpg", 0, "test"),
        Item("oxford-iiit-pet/images/yorkshire_terrier_1.jpg", 1, "train"),
    )


def test_listing_keeps_the_files_of_eurosat(tmp_path: Path) -> None:
    for path in ("Forest/1.jpg", "River/1.jpg"):
        picture(tmp_path / "eurosat/2750" / path)
    listing = torchvision.listing(tv_section("EuroSAT", tmp_path), tmp_path, tmp_path / "work")
    assert listing.labels == ("Forest", "River")
    assert listing.items == (Item("eurosat/2750/Forest/1.jpg", 0), Item("eurosat/2750/River/1.jpg", 1))


def test_listing_writes_arrays_losslessly(tmp_path: Path) -> None:
    folder = tmp_path / "FashionMNIST/raw"
    folder.mkdir(parents=True)
    images = {}
    for part, count in (("train", 5), ("t10k", 3)):
        images[part] = np.random.default_rng(count).integers(0, 256, (count, 28, 28), dtype=np.uint8)
        header = struct.pack(">IIII", 0x803, count, 28, 28)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(header + images[part].tobytes())
        labels = bytes(number % 10 for number in range(count))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, count) + labels)
    work = tmp_path / "work"
    listing = torchvision.listing(tv_section("FashionMNIST", tmp_path), tmp_path, work)
    assert listing.root == work / "images"
    assert listing.labels[:2] == ("T-shirt/top", "Trouser")
    assert [item.split for item in listing.items].count("test") == 3
    for item in listing.items:
        number = int(Path(item.path).stem)
        assert item.label == number
        with Image.open(listing.root / item.path) as image:
            np.testing.assert_array_equal(
                np.asarray(image), images["train" if item.split == "train" else "t10k"][number]
            )


def test_listing_names_near_data_sets_when_it_is_unknown(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r'data.name = "flowers102": no such data set; did you mean "Flowers102"'):
        torchvision.listing(tv_section("flowers102", tmp_path), tmp_path, tmp_path)
    with pytest.raises(InputError, match=r"data.name: this key is required"):
        torchvision.listing(tv_section(None, tmp_path), tmp_path, tmp_path)


@pytest.mark.parametrize("name", ["CIFAR10", "FashionMNIST", "OxfordIIITPet"])
def test_listing_says_one_line_when_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    # Nothing listens on the discard port: every download is refused, with or without a network.
    for variable in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    for variable in ("no_proxy", "NO_PROXY", "HTTPS_PROXY", "HTTP_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(InputError) as caught:
        torchvision.listing(section("torchvision", name=name), tmp_path, tmp_path / "work")
    assert f"{name} is not in {tmp_path / 'edgekit'} and cannot be downloaded" in str(caught.value)
    assert "data.path" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capsys.readouterr().out == ""
