from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata

import pytest

from edgekit.device import doctor


def test_report_survives_json_and_renders() -> None:
    found = json.loads(json.dumps(doctor.report()))
    text = doctor.render(found)
    for word in ("Machine", "SIMD", "onnxruntime", "edgekit[compress]", found["python"], found["machine"]["cpu"]):
        assert word in text
    optional = {"openvino", "executorch", "ethos_u", "explain", "tune", "tune_postgres", "cluster"}
    assert set(found["extras"]) == {"compress", "onnx", "litert", "tflite", *optional}


def test_report_states_installed_versions() -> None:
    for extra in doctor.report()["extras"].values():
        assert extra["packages"]
        for package in extra["packages"]:
            try:
                expected = metadata.version(package["name"])
            except metadata.PackageNotFoundError:
                expected = None
            assert package["installed"] == expected


def test_report_covers_every_requirement_of_an_extra() -> None:
    packaging = pytest.importorskip("packaging.requirements")
    wanted = [packaging.Requirement(line) for line in metadata.requires("edgekit") or []]
    for name, extra in doctor.report()["extras"].items():
        own = {
            r.name: r.specifier for r in wanted if r.marker and f'extra == "{name.replace("_", "-")}"' in str(r.marker)
        }
        assert {package["name"] for package in extra["packages"]} == set(own)
        for package in extra["packages"]:
            fits = bool(package["installed"]) and own[package["name"]].contains(package["installed"], prereleases=True)
            assert package["fits"] == fits


def test_report_names_the_pip_command_when_packages_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", nothing)
    found = doctor.report()
    commands = [f"pip install 'edgekit[{name}]'" for name in ("compress", "onnx", "litert")]
    assert [gap["install"] for gap in found["missing"]] == commands
    assert all(command in doctor.render(found) for command in commands)


def test_report_says_so_when_edgekit_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", nothing)
    assert "edgekit itself is not installed" in doctor.render(doctor.report())


def test_report_goes_on_when_an_engine_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    engine = next(engine for engine in doctor.report()["engines"] if engine["name"] == "onnxruntime")
    assert engine["version"] is None
    assert engine["problem"].endswith("pip install onnxruntime")


def test_an_engine_that_is_installed_and_broken_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    found = doctor.report()
    (gap,) = [gap for gap in found["missing"] if "onnxruntime" in gap["what"]]
    assert gap["what"].startswith("running onnx files with onnxruntime (onnxruntime cannot be imported")
    assert gap["install"] == "pip install --force-reinstall onnxruntime"
    assert "Nothing is missing." not in doctor.render(found)


def test_nothing_is_missing_only_where_nothing_cannot_be_imported() -> None:
    found = doctor.report()
    text = doctor.render(found)
    absent = [engine["name"] for engine in found["engines"] if not engine["installed"]]
    assert all(f"not installed: pip install {e['package']}" in text for e in found["engines"] if e["name"] in absent)
    assert ("Nothing is missing." in text) == (not found["missing"])
    if not found["missing"]:
        assert "cannot be imported" not in text


def test_report_imports_nothing_heavy() -> None:
    code = "import sys; from edgekit.device import doctor; doctor.report(); print(' '.join(sys.modules))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "onnx", "timm", "pydantic", "sklearn"} & set(answer.stdout.split())
