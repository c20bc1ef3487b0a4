from __future__ import annotations

import json
import string
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from edgekit.config import recipe, recipe_file, shipped, toml
from edgekit.errors import InputError

SMALL = """
[model]
name = "mobilenetv2_100"
[data]
source = "digits"
"""


def load(tmp_path: Path, text: str = SMALL, *overrides: str) -> recipe.Recipe:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    return recipe_file.load(file, overrides)


def test_load_leaves_out_stages_that_have_no_section(tmp_path: Path) -> None:
    loaded = load(tmp_path)
    assert loaded.name == "mine"
    assert (loaded.train, loaded.quantize, loaded.export, loaded.verify, loaded.profile) == (None,) * 5


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("train.epochs=2", lambda r: r.train.epochs == 2),
        ("train.lr=1e-2", lambda r: r.train.lr == 0.01),
        ("train.lr=1", lambda r: r.train.lr == 1.0),
        (" train.optimizer = sgd ", lambda r: r.train.optimizer == "sgd"),
        ('train.augment=["flip"]', lambda r: r.train.augment == ["flip"]),
        ("data.path=some/where else", lambda r: r.data.path == "some/where else"),
        ("data.path=a=b", lambda r: r.data.path == "a=b"),
        ("data.clean.leak=error", lambda r: r.data.clean.leak == "error"),
        ("model.options.width=[[1, 2]]", lambda r: r.model.options == {"width": [[1, 2]]}),
        ("name=other", lambda r: r.name == "other"),
    ],
)
def test_load_takes_overrides(tmp_path: Path, override: str, read: Any) -> None:
    assert read(load(tmp_path, SMALL, override))


@given(st.text(string.printable, max_size=30).filter(lambda text: text.strip() == text))
def test_load_takes_any_text_as_a_quoted_override(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    folder = tmp_path_factory.getbasetemp()
    assert load(folder, SMALL, f"description={json.dumps(text)}").description == text


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epoch=3", '--set: train.epoch: "epoch": no such key; did you mean "epochs"?'),
        ("trian.epochs=3", '--set: trian: "trian": no such key; did you mean "train"?'),
        ("train=3", "--set: train = 3: expected a section with the keys epochs, frozen"),
        ("train.epochs=two", '--set: train.epochs = "two": input should be a valid integer'),
        ("train.epochs=2.5", "--set: train.epochs = 2.5: input should be a valid integer"),
        ("train.epochs=0", "--set: train.epochs = 0: input should be greater than or equal to 1"),
        ("train.lr=inf", "--set: train.lr = inf: input should be a finite number"),
        ("train.lr=nan", "--set: train.lr = nan: input should be a finite number"),
        ("data.seed=true", "--set: data.seed = True: input should be a valid integer"),
        ('train.augment=["flap"]', '--set: train.augment[0] = "flap": no such choice; did you mean "flip"?'),
        ('export.formats=["tflit"]', 'did you mean "tflite"? (choices: executorch, onnx, tflite)'),
        ("export.formats=[]", "--set: export.formats = []: list should have at least 1 item, not 0"),
        ("data.source=digitss", 'did you mean "digits"? (choices: csv_labels, digits, image_folder, torchvision)'),
        ("quantize.range=minmaxx", '--set: quantize.range = "minmaxx": no such choice; did you mean "minmax"?'),
        ("name=../mine", '--set: name = "../mine": string should match pattern'),
        ("data.val=1", "--set: data.val = 1: input should be less than 1"),
        ("model.mean=[1]", "model.mean = [1.0]: one value for each of data.channels = 3 is needed"),
        ("train.epochs", '--set "train.epochs": expected section.key=value, e.g. --set train.epochs=2'),
        ("=3", '--set "=3": expected section.key=value'),
        ("model.name.x=3", '--set "model.name.x=3": "name" is a value, not a section'),
    ],
)
def test_load_explains_a_wrong_override(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        load(tmp_path, SMALL, override)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[model", "mine.toml: not valid TOML: Expected ']' at the end of a table declaration (at line 1, column 7)"),
        ("a = 1\nb = [1,", "mine.toml: not valid TOML: Invalid value (at line 2, column 8)"),
        ("\n\n\nx = \n", "mine.toml: not valid TOML: Invalid value (at line 4, column 5)"),
        ("[data]\nsource = 'digits'", "mine.toml: model: this key is required"),
        (SMALL + "val = 0.6\ntest = 0.5", "mine.toml: data: val + test = 1.1 leaves nothing to train on"),
        (SMALL + "sourc = 1", 'mine.toml: data.sourc: "sourc": no such key; did you mean "source"?'),
        (SMALL + "clean = {leek = 1}", 'mine.toml: data.clean.leek: "leek": no such key; did you mean "leak"?'),
        (SMALL + "[quantize]\nkeep_float = [1]", "mine.toml: quantize.keep_float[0] = 1: input should be a valid str"),
    ],
)
def test_load_explains_a_wrong_file(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        load(tmp_path, text)
    assert message in str(caught.value)


def test_load_names_every_fault_on_a_line_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        load(tmp_path, SMALL + "seed = -1\n[train]\nepochs = 0")
    assert [line.partition(" = ")[0].rpartition(" ")[2] for line in str(caught.value).splitlines()] == [
        "data.seed",
        "train.epochs",
    ]


def test_load_names_a_file_that_is_missing_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.toml: no such file"):
        recipe_file.load(tmp_path / "gone.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"binary\.toml: cannot be read: .*utf-8"):
        recipe_file.load(tmp_path / "binary.toml")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"recipe": {}}', '{"recipe": 3, "base": "/"}', "\0"])
def test_resume_refuses_what_edgekit_did_not_write(tmp_path: Path, text: str) -> None:
    (tmp_path / "recipe.json").write_text(text)
    with pytest.raises(InputError, match=r"recipe\.json: "):
        recipe_file.resume(tmp_path / "recipe.json")


def test_schema_accepts_every_shipped_recipe_and_refuses_unknown_keys() -> None:
    schema = json.loads(json.dumps(recipe.schema()))
    Draft202012Validator.check_schema(schema)
    check = Draft202012Validator(schema)
    for path in shipped.files("recipes").values():
        table = tomllib.loads(path.read_text())
        check.validate(table)
        assert recipe_file.load(path).name == path.stem
        table["train"] = {"epoch": 1}
        assert not check.is_valid(table)


def test_every_key_of_a_section_has_a_default_or_is_required_on_purpose() -> None:
    required = {
        f"{name}.{key}"
        for name, field in recipe.Recipe.model_fields.items()
        for section in [kind for kind in (field.annotation, *getattr(field.annotation, "__args__", ()))
                        if isinstance(kind, type) and issubclass(kind, toml.Section)]
        for key, value in section.model_fields.items()
        if value.is_required()
    }  # fmt: skip
    assert required == {"model.name", "data.source", "distill.teacher", "fit.max_ms", "tune.space"}
