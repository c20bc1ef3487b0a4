from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from edgekit.config import shipped
from edgekit.device import file as device_file
from edgekit.errors import InputError


def load(tmp_path: Path, text: str) -> device_file.Device:
    file = tmp_path / "board.toml"
    file.write_text(text)
    return device_file.load(file)


def test_load_needs_nothing_but_a_name(tmp_path: Path) -> None:
    loaded = load(tmp_path, 'name = "board"')
    assert (loaded.reach.by, loaded.run.threads, loaded.limits.p90_ms) == ("local", [1], None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "name: this key is required"),
        ('name = "b"\n[limit]', '"limit": no such key; did you mean "limits"?'),
        ('name = "b"\n[limits]\np90 = 3', 'limits.p90: "p90": no such key; did you mean "p90_ms"?'),
        ('name = "b"\n[limits]\np90_ms = 0', "limits.p90_ms = 0: input should be greater than 0"),
        ('name = "b"\n[run]\nengines = ["lite"]', 'run.engines[0] = "lite": no such choice; did you mean "litert"?'),
        ('name = "b"\n[run]\nthreads = []', "run.threads = []: list should have at least 1 item"),
        ('name = "b"\n[reach]\nby = "lokal"', 'reach.by = "lokal": no such choice; did you mean "local"?'),
        ('name = "b"\n[reach]\nby = "ssh"\nhost = "-oProxyCommand=id"', "a host must not start with a dash"),
        ('name = "b"\n[reach]\nby = "ssh"\nhost = "b"\nuser = "c"', 'reach.user: "user": no such key'),
        ('name = "b"\n[reach]\nby = "ssh"\nhost = "b"\nport = 99999', "reach.port = 99999: input should be less"),
        ('name = "b"\n[reach]\nhost = "pi"', 'reach: by = "local" does not use host'),
        ('name = "b"\narch = "arm"', 'arch = "arm": no such choice'),
        ('name = "b"\nname = "c"', "not valid TOML: Cannot overwrite a value (at line 2"),
    ],
)
def test_load_explains_a_wrong_file(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        load(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path / 'board.toml'}: ")
    assert message in str(caught.value)


def test_schema_accepts_every_shipped_device() -> None:
    schema = json.loads(json.dumps(device_file.schema()))
    Draft202012Validator.check_schema(schema)
    for path in shipped.files("devices").values():
        Draft202012Validator(schema).validate(tomllib.loads(path.read_text()))
        device_file.load(path)


def test_shipped_devices() -> None:
    loaded = {name: device_file.load(path) for name, path in shipped.files("devices").items()}
    assert {name: each.reach.by for name, each in loaded.items()} == {
        "android-phone": "adb",
        "cuda": "local",
        "host": "local",
        "jetson-orin-nano": "ssh",
        "raspberry-pi-4": "ssh",
        "raspberry-pi-5": "ssh",
        "rpi4-emulated": "qemu",
        "rpi5-emulated": "qemu",
        "webgpu": "local",
    }
    assert all(each.name == name for name, each in loaded.items())
    # An address is the user's: under this name in the ssh config.
    assert all(each.reach.host == name for name, each in loaded.items() if each.reach.by == "ssh")


def test_a_relative_ssh_config_is_beside_the_file(tmp_path: Path) -> None:
    text = 'name = "b"\n[reach]\nby = "ssh"\nhost = "b"\nconfig = "ssh/config"'
    assert load(tmp_path, text).reach.config == str(tmp_path / "ssh" / "config")


def test_find_takes_a_name_or_a_path(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").touch()
    assert shipped.find("devices", "host") == shipped.files("devices")["host"]
    assert shipped.find("devices", "mine.toml", tmp_path) == tmp_path / "mine.toml"
    assert shipped.find("devices", str(tmp_path / "mine.toml"), Path("/elsewhere")) == tmp_path / "mine.toml"
    with pytest.raises(InputError, match=r'"hosst": no such device; did you mean "host"\?'):
        shipped.find("devices", "hosst")
    with pytest.raises(InputError, match=r"gone\.toml: no such device file"):
        shipped.find("devices", "gone.toml", tmp_path)
