"""Recipes as people break them: each ends in clear lines or is taken, never in an exception that nobody foresaw."""

from __future__ import annotations

import copy
import json
import random
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from edgekit.config import plain, recipe, recipe_file, shipped, toml, unused
from edgekit.data import port
from edgekit.device import file as device_file
from edgekit.device import probe
from edgekit.errors import EdgekitError, InputError

BASE = """
description = "a recipe that has every section"
[model]
name = "mobilenetv2_100"
weights = "none"
options = { width = 1, list = [1, [2, 3]] }
mean = [0.5, 0.5, 0.5]
std = [0.5, 0.5, 0.5]
[data]
source = "image_folder"
path = "images"
input = 32
clean = { leak = "error" }
[train]
augment = ["flip"]
[prune]
macs = 0.5
[lower]
measure = false
[quantize]
ranges = { classifier = "mse" }
keep_float = ["conv_stem"]
[export]
formats = ["onnx"]
[verify]
[profile]
devices = ["host"]
sustained = "1m"
"""
NASTY: list[Any] = [
    None, True, -1, 0, 1, 3, 2**31, 2**63, -(2**63) - 1, 2**64, 10**400,
    0.0, -0.0, -1.5, 0.5, 1.5, 1e-300, 1e308, float("inf"), float("-inf"), float("nan"),
    "", " ", "none", "../..", "/", "~", "${", "${NOWHERE}", "a\nb", "\0", "\x1b[31mred", "\x85", "\u2028", "\udcff",
    "é", "x" * 5000,
    [], [0, 0, 0], [-1, 1, 1], [1e-9, 0.5, 0.5], [255, 255, 255], ["flip"] * 3, [[[]]], [{}], [None], ["host", "host"],
    {}, {"a": {"b": {}}}, {"": 1}, {"\x1b": 1},
]  # fmt: skip
"""None stands for a key that is not there."""


def tables(raw: dict[str, Any], place: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The places of all keys."""
    for key, value in raw.items():
        yield (*place, key)
        if isinstance(value, dict):
            yield from tables(value, (*place, key))


def full() -> dict[str, Any]:
    """A recipe with every key that there is, as a run directory records it."""
    return toml.validate(recipe.Recipe, tomllib.loads(BASE), Path("base.toml")).model_dump(mode="json")


FULL = full()
PLACES = sorted(tables(FULL))
KEYS = [".".join(place) for place in PLACES]


def put(raw: dict[str, Any], place: tuple[str, ...], value: Any) -> dict[str, Any]:
    """A copy with another value at that place."""
    changed = copy.deepcopy(raw)
    table = changed
    for key in place[:-1]:
        table = table[key]
    if value is None:
        table.pop(place[-1])
    else:
        table[place[-1]] = value
    return changed


def outcome(make: Callable[[], recipe.Recipe], folder: Path) -> str:
    """The complaint about a recipe, or "" if it was taken; then it comes back the same from a run directory."""
    try:
        made = make()
        port.check(made.data)
    except InputError as refusal:
        text = str(refusal)
        assert text
        assert all(line.strip() and len(line) < 1000 for line in text.split("\n")), text
        assert all(map(plain.is_plain, text.split("\n"))), text
        return text
    assert all(map(plain.is_plain, unused.lines(made)))
    (folder / "recipe.json").write_text(json.dumps({"base": "/", "recipe": made.model_dump(mode="json")}))
    assert recipe_file.resume(folder / "recipe.json")[0] == made
    return ""


def validated(raw: dict[str, Any]) -> recipe.Recipe:
    return toml.validate(recipe.Recipe, raw, Path("mine.toml"))


@pytest.mark.parametrize("place", PLACES, ids=".".join)
def test_a_key_with_a_nasty_value_is_taken_or_refused(tmp_path: Path, place: tuple[str, ...]) -> None:
    assert outcome(lambda: validated(FULL), tmp_path) == ""
    for value in NASTY:
        said = outcome(lambda value=value: validated(put(FULL, place, value)), tmp_path)  # type: ignore[misc]
        assert not said or said.startswith(("mine.toml: ", "data."))


def test_seeded_mutations_of_shipped_recipes(tmp_path: Path) -> None:
    """Characters, lines and halves that are lost, doubled or replaced, as editors and merges do it."""
    chance = random.Random(11)
    file = tmp_path / "mine.toml"
    texts = [path.read_text() for path in shipped.files("recipes").values()]
    taken = 0
    for _ in range(400):
        text = chance.choice(texts)
        for _ in range(chance.randint(1, 3)):
            start, length = chance.randrange(len(text)), chance.choice((1, 1, 1, 5, 40))
            text = text[:start] + chance.choice(SPLICES) + text[start + chance.choice((0, length)) :]
        file.write_bytes(text.encode())
        taken += outcome(lambda: recipe_file.load(file), tmp_path) == ""
    assert 20 < taken < 380  # the mutations are neither all fatal nor all harmless


SPLICES = (
    "", "", "", "=", '"', "'", "[", "]", "{", "}", "\n", ",", ".", "#", "0", "-", "e9", "nan", "inf", "true", "\t",
    "\r", "\ufeff", "é", "\0", "\x1b[2J", "[train]\n", "a.b.c = 1\n", "2020-01-01", '"""', "9" * 5000,
    "0x" + "f" * 5000,
)  # fmt: skip


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60), st.integers(0, len(BASE)), st.integers(0, 30))
@example(b"\xef\xbb\xbf", 0, 0)
@example(b"\xff\xfe", 0, 0)
def test_bytes_in_a_recipe_are_taken_or_refused(tmp_path: Path, spliced: bytes, start: int, gone: int) -> None:
    file = tmp_path / "mine.toml"
    file.write_bytes(BASE.encode()[:start] + spliced + BASE.encode()[start + gone :])
    assert outcome(lambda: recipe_file.load(file), tmp_path) is not None


TREES: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.dates()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(PLACES), TREES), min_size=1, max_size=3))
def test_any_values_under_any_keys_are_taken_or_refused(tmp_path: Path, changes: list[tuple[Any, Any]]) -> None:
    raw = FULL
    for place, value in changes:
        try:
            raw = put(raw, place, value)
        except (KeyError, TypeError, AttributeError):  # an earlier change took its table away
            continue
    outcome(lambda: validated(copy.deepcopy(raw)), tmp_path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.text(max_size=20), st.builds("{}={}".format, st.sampled_from(KEYS), st.text(max_size=20))))
@example("train=")
@example("data.val=0.2\ntest=9")
@example("a." * 3000 + "b=1")
@example("train.epochs=" + "[" * 5000)
@example("train.epochs=" + "9" * 5000)
def test_any_override_is_taken_or_refused(tmp_path: Path, words: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(BASE)
    outcome(lambda: recipe_file.load(file, [words]), tmp_path)


@pytest.mark.parametrize(("open_", "close"), [("{a=", "}"), ("[", "]")])
def test_nesting_of_any_depth_is_one_line(tmp_path: Path, open_: str, close: str) -> None:
    file = tmp_path / "mine.toml"
    for depth in (20, 200, 2_000, 20_000):
        file.write_text(f"x = {open_ * depth}1{close * depth}\n{BASE}")
        said = outcome(lambda: recipe_file.load(file), tmp_path)
        assert "nested" in said
        assert "\n" not in said
    file.write_text(f"{'a.' * 2000}a = 1\n{BASE}")
    assert "nested more than 16 deep" in outcome(lambda: recipe_file.load(file), tmp_path)


@pytest.mark.parametrize("place", ["run.seconds", "run.rounds", "run.cooldown", "run.sustained", "name", "facts.os"])
def test_a_device_file_with_a_nasty_value_is_taken_or_refused(tmp_path: Path, place: str) -> None:
    file = tmp_path / "mine.toml"
    for value in NASTY:
        raw = put({"name": "mine", "run": {}, "facts": {}}, tuple(place.split(".")), 0)
        raw = put(raw, tuple(place.split(".")), value)
        try:
            made = toml.validate(device_file.Device, raw, file)
        except InputError as refusal:
            said = str(refusal)
        else:
            said = made.model_dump_json()
        assert all(map(plain.is_plain, said.split("\n")))
    assert probe.toml("mine", {"by": "local"}, None, {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model.std = [0, 0, 0]", "model.std[0] = 0: input should be greater than or equal to 0.001"),
        ("model.std = [-1, 1, 1]", "model.std[0] = -1: input should be greater than or equal to 0.001"),
        ("model.mean = [123.7, 116.3, 103.5]", "model.mean[0] = 123.7: input should be less than or equal to 1"),
        (
            "train.seed = 18446744073709551617",
            "train.seed: integers go from -9223372036854775808 to 9223372036854775807",
        ),
        ("train.epochs = 1000000000", "train.epochs = 1000000000: input should be less than or equal to 100000"),
        ("model.options = {rate = nan}", "model.options.rate = nan: input should be a finite number"),
        ("model.options = {day = 2020-01-01}", "model.options.day = 2020-01-01: no key takes a date or a time"),
        ('data.path = "a\\u0000b"', 'data.path = "a\\x00b": it holds a control character'),
        ('name = ".."', 'name = "..": this names a folder that exists already'),
        ('"\\u001b[31m" = 1', 'the key "\\x1b[31m" holds a control character'),
        ('profile.sustained = "9999999h"', "profile.sustained"),
    ],
)
def test_a_value_out_of_range_is_refused_where_it_is_written(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(f'{text}\nmodel.name = "mobilenetv2_100"\ndata.source = "digits"\n')
    with pytest.raises(InputError) as caught:
        recipe_file.load(file)
    assert f"mine.toml: {message}" in str(caught.value)


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_bytes(b"\xef\xbb\xbf" + BASE.encode())
    assert recipe_file.load(file).model.name == "mobilenetv2_100"
    file.write_bytes(BASE.encode("utf-16"))
    with pytest.raises(InputError, match=r"mine\.toml: cannot be read: .* save it as UTF-8$"):
        recipe_file.load(file)


@pytest.mark.parametrize(
    ("source", "key", "value"),
    [
        ("digits", "path", "images"),
        ("digits", "labels", "names.txt"),
        ("image_folder", "name", "MNIST"),
        ("image_folder", "label_offset", 1),
        ("csv_labels", "name", "MNIST"),
        ("torchvision", "labels", "names.txt"),
    ],
)
def test_a_key_that_the_source_does_not_use_is_refused(source: str, key: str, value: Any) -> None:
    data = recipe.DataSection.model_validate({"source": source, key: value})
    with pytest.raises(InputError, match=rf'^data\.{key} = "?{value}"?: data.source = "{source}" does not use it'):
        port.check(data)
    port.check(recipe.DataSection(source=source))


def test_an_override_without_a_value_takes_a_key_away(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(BASE)
    loaded = recipe_file.load(file, ["data.path=", "data.source=digits", "train=", "prune.steps="])
    assert (loaded.data.path, loaded.train) == (None, None)
    port.check(loaded.data)


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["prune.lr=0.1", "prune.recover=0"], "prune.lr = 0.1 has no effect: prune.recover is 0"),
        (["prune.macs=", "prune.plan=p.json", "prune.score=l1"], "prune.score = l1 has no effect: prune.plan says"),
        (["quantize.method=qat", "quantize.rounding=adaptive"], "quantize.rounding = adaptive has no effect: "),
        (["quantize.rescue=[]", "quantize.qat.lr=0.1"], "quantize.qat.lr = 0.1 has no effect: "),
        (["train.gamma=0.5"], 'train.gamma = 0.5 has no effect: train.schedule is "cosine"'),
        (["train.focal_gamma=1.0"], 'train.focal_gamma = 1.0 has no effect: train.loss is "cross_entropy"'),
        (["quantize=", 'export.precisions=["int8", "fp16"]'], 'export.precisions: "int8" has no effect: '),
        (["export=", "verify.images=3"], "[verify] has no effect: the recipe has no [export] section"),
    ],
)
def test_a_key_without_effect_is_named(tmp_path: Path, overrides: list[str], line: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(BASE)
    assert unused.lines(recipe_file.load(file)) == []
    found = unused.lines(recipe_file.load(file, overrides))
    assert [each for each in found if each.startswith(line)], found


def test_no_shipped_recipe_sets_a_key_without_effect() -> None:
    for path in shipped.files("recipes").values():
        loaded = recipe_file.load(path)
        port.check(loaded.data)
        assert unused.lines(loaded) == []


def test_every_refusal_is_of_the_users_input() -> None:
    assert issubclass(InputError, EdgekitError)
    assert InputError.exit_code == 2
