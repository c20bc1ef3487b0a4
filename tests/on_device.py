"""What has to hold on a device: run by a Python 3.9 or newer that has NumPy, one engine, `edgekit.runtime`, no pytest.

``python on_device.py FOLDER ENGINE``: FOLDER is what `tests/test_bare_environments.py` prepares on the host.
"""

from __future__ import annotations

import gc
import io
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import unittest
import zipfile
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.runtime import Model, Result, RuntimeFault, load, machine
from edgekit.runtime.engine_menu import engine as engine_called
from edgekit.runtime.preprocess import Preprocessing, fit_array, pixels

FOLDER, ENGINE = (Path(sys.argv[1]), sys.argv[2]) if __name__ == "__main__" else (Path(), "litert")
BUNDLE, SIGNED, WRONG = (str(FOLDER / f"{name}.edgekit") for name in ("digits", "signed", "wrong"))
APP = str(FOLDER / "edgekit-runtime.pyz")
PILLOW = find_spec("PIL") is not None
FORMAT = engine_called(ENGINE).FORMAT


def told() -> dict[str, Any]:
    """What the host says of the material."""
    found: dict[str, Any] = json.loads((FOLDER / "told.json").read_text(encoding="utf-8"))
    return found


def stored(name: str) -> Any:
    """An array from the host."""
    return np.load(FOLDER / "arrays" / f"{name}.npy")


def photos() -> list[Any]:
    return [stored(f"photo-{number}") for number in range(told()["photos"])]


def artifacts() -> list[str]:
    """Those of the bundle that this engine runs."""
    return [name for name, kind in told()["artifacts"].items() if kind == FORMAT]


def softmax(logits: Any) -> Any:
    powers = np.exp(logits.astype(np.float64) - logits.max())
    return powers / powers.sum()


def run(front: list[str], *words: str, code: int = 0, stdin: str = "") -> tuple[list[str], list[str]]:
    """Lines on stdout and stderr of the command line."""
    answer = subprocess.run(
        [sys.executable, *front, *words], input=stdin, capture_output=True, text=True, cwd=FOLDER, check=False
    )
    assert answer.returncode == code, f"{words} ended with {answer.returncode}: {answer.stdout}{answer.stderr}"
    assert "Traceback" not in answer.stderr, answer.stderr
    return answer.stdout.splitlines(), answer.stderr.splitlines()


class Case(unittest.TestCase):
    def refused(self, call: Any, *words: str) -> str:
        """The one printable line of its fault."""
        with self.assertRaises(RuntimeFault) as caught:
            call()
        line = str(caught.exception)
        self.assertTrue(line and line.isprintable(), line)
        for word in words:
            self.assertIn(word, line)
        return line


class Loads(Case):
    def test_every_artifact_with_every_check(self) -> None:
        self.assertTrue(artifacts())
        for name in artifacts():
            for verify in ("golden", "hash", "off"):
                with self.subTest(name, verify=verify), load(BUNDLE, ENGINE, artifact=name, verify=verify) as model:
                    info = model.info
                    self.assertEqual((info["artifact"], info["engine"]), (name, ENGINE))
                    self.assertEqual(info["version"], engine_called(ENGINE).version())
                    self.assertEqual(info["golden"] is None, verify != "golden")
                    self.assertEqual(info["digest"], told()["digest"])
                    self.assertEqual(json.loads(json.dumps(info)), info)

    def test_auto_finds_the_engine_that_is_there(self) -> None:
        with load(BUNDLE) as model:
            self.assertEqual((model.info["engine"], model.info["artifact"]), (ENGINE, artifacts()[0]))

    def test_an_engine_that_is_not_there_is_named_with_its_pip_command(self) -> None:
        others = {"litert", "onnxruntime", "tflite_runtime", "tensorflow"} - {ENGINE}
        for name in sorted(others):
            self.refused(lambda name=name: load(BUNDLE, name), f"pip install {engine_called(name).PACKAGE}")

    def test_signatures(self) -> None:
        key, other = told()["key"], told()["other_key"]
        with load(SIGNED, trusted_keys=[key], require_signature=True) as model:
            self.assertEqual(model.info["signed_by"], key)
        self.refused(lambda: load(SIGNED, trusted_keys=[other]), "signed by")
        self.refused(lambda: load(BUNDLE, trusted_keys=[key], require_signature=True), "not signed")
        self.refused(lambda: load(str(FOLDER / "forged.edgekit"), trusted_keys=[key]), "signature")

    def test_other_results_than_where_it_was_made(self) -> None:
        self.refused(lambda: load(WRONG, ENGINE), "golden vector", "steps away" if FORMAT == "tflite" else "away")
        load(WRONG, ENGINE, verify="hash").close()

    def test_a_flipped_byte_anywhere(self) -> None:
        whole, generator = Path(BUNDLE).read_bytes(), random.Random(0)
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "x.edgekit")
            for place in [*range(80), *range(len(whole) - 80, len(whole)), *generator.sample(range(len(whole)), 150)]:
                harmed = bytearray(whole)
                harmed[place] ^= 1 << generator.randrange(8)
                Path(path).write_bytes(harmed)
                self.refused(lambda: load(path, verify="hash"), "x.edgekit")

    def test_a_file_cut_short(self) -> None:
        whole = Path(BUNDLE).read_bytes()
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "x.edgekit")
            for length in [0, 1, 29, *range(50, len(whole), len(whole) // 60), len(whole) - 1]:
                Path(path).write_bytes(whole[:length])
                for verify in ("golden", "off"):
                    self.refused(lambda verify=verify: load(path, verify=verify), "x.edgekit")
            self.refused(lambda: load(os.path.join(folder, "gone.edgekit")), "gone.edgekit")

    def test_a_manifest_by_hand(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            with zipfile.ZipFile(BUNDLE) as archive:
                archive.extractall(folder)
            path = os.path.join(folder, "mine.json")
            kept = json.loads(Path(folder, "manifest.json").read_text(encoding="utf-8"))
            del kept["members"]

            def written(**changes: Any) -> str:
                Path(path).write_text(json.dumps({**kept, **changes}), encoding="utf-8")
                return path

            with load(written(), ENGINE) as model, load(BUNDLE, ENGINE) as packed:
                photo = photos()[0]
                self.assertEqual(model(photo).scores.tolist(), packed(photo).scores.tolist())
            mistakes: tuple[dict[str, Any], ...] = (
                {"version": "2.0"}, {"version": 1}, {"name": ""}, {"artifacts": []}, {"artifacts": None},
                {"labels": "../labels.txt"}, {"labels": "gone.txt"}, {"postprocessing": {"activation": "relu"}},
                {"preprocessing": {**kept["preprocessing"], "mean": [0.5, float("nan"), 0.5]}},
                {"preprocessing": {**kept["preprocessing"], "height": 1e9}},
                {"preprocessing": {**kept["preprocessing"], "std": [0.5, 1e-60, 0.5]}},
                {"artifacts": [{**kept["artifacts"][0], "file": "/etc/passwd"}]},
            )  # fmt: skip
            for changes in mistakes:
                with self.subTest(changes=changes):
                    self.refused(lambda changes=changes: load(written(**changes)), "mine.json")

    def test_a_model_file_cut_short(self) -> None:
        """Beside a manifest by hand, which holds no hash: an engine that does not look would end the process."""
        with tempfile.TemporaryDirectory() as folder:
            with zipfile.ZipFile(BUNDLE) as archive:
                archive.extractall(folder)
            path = os.path.join(folder, "mine.json")
            kept = json.loads(Path(folder, "manifest.json").read_text(encoding="utf-8"))
            del kept["members"]
            Path(path).write_text(json.dumps(kept), encoding="utf-8")
            for entry in kept["artifacts"]:
                if entry["format"] != FORMAT:
                    continue
                whole = Path(folder, entry["file"]).read_bytes()
                for length in (0, 3, 8, 40, *range(100, len(whole), len(whole) // 20), len(whole) - 64):
                    Path(folder, entry["file"]).write_bytes(whole[:length])
                    self.refused(lambda name=entry["id"]: load(path, ENGINE, artifact=name), entry["file"])


class Predicts(Case):
    def near(self, model: Model, found: Any, number: int) -> None:
        """An output of the engine is that of plain engine code on the host."""
        info = model.info
        wanted = stored(f"out-{info['artifact']}-{info['provider']}")[number]
        self.assertEqual((found.dtype, found.shape), (wanted.dtype, wanted.shape))
        far = np.abs(found.astype(np.float64) - wanted).max()
        bound, share = engine_called(ENGINE).BOUND, 2e-3
        if bound is not None and "int8" in info["artifact"]:
            share = (bound.steps + 0.5) / 128
        self.assertLessEqual(far, 1 if wanted.dtype.kind == "i" else share * np.abs(wanted).max(), info["artifact"])

    def test_pixels_are_pillows(self) -> None:
        with zipfile.ZipFile(BUNDLE) as archive:
            spec = Preprocessing.of(json.loads(archive.read("manifest.json"))["preprocessing"])
        for number, photo in enumerate(photos()):
            np.testing.assert_array_equal(pixels(photo, spec), stored(f"pixels-{number}"))
        for name in ("short_side", "stretch"):
            for interpolation in ("bilinear", "bicubic"):
                for crop in (1.0, 0.875):
                    spec = Preprocessing(24, 24, (0.5,) * 3, (0.5,) * 3, crop, interpolation, name)
                    for number, photo in enumerate(photos()):
                        if photo.ndim == 3 and photo.shape[2] == 3:
                            wanted = stored(f"fit-{name}-{interpolation}-{crop}-{number}")
                            np.testing.assert_array_equal(fit_array(photo, spec), wanted)

    def test_raw_is_the_hosts(self) -> None:
        for name in artifacts():
            with load(BUNDLE, ENGINE, artifact=name) as model:
                tensors = stored(f"in-{name}")
                answers = [model.raw(tensor[None]) for tensor in tensors]
                for number, found in enumerate(answers):  # after the last run: each has memory of its own
                    self.near(model, found[0], number)
                self.near(model, model.raw(tensors[0])[0], 0)
                turned = np.asfortranarray(tensors[0][None])
                self.assertFalse(turned.flags.c_contiguous)
                self.near(model, model.raw(turned)[0], 0)
                self.refused(lambda model=model, x=tensors[0]: model.raw(x.astype(np.float64)), "not float64")
                self.refused(lambda model=model, x=tensors[0]: model.raw(x[:1]), "is needed")
                self.refused(lambda model=model: model.raw([1.0]), "not list")

    def test_scores_are_the_hosts(self) -> None:
        for name in artifacts():
            with load(BUNDLE, ENGINE, artifact=name) as model:
                port = model.info["output"]
                for number, photo in enumerate(photos()):
                    wanted = stored(f"out-{name}-{model.info['provider']}")[number].astype(np.float64)
                    if port["scale"]:
                        wanted = (wanted - port["zero_point"]) * port["scale"]
                    found = model(photo)
                    self.assertIsInstance(found, Result)
                    self.assertEqual(found.scores.dtype, np.float32)
                    np.testing.assert_allclose(found.scores, softmax(wanted), atol=0.03 if "int8" in name else 2e-3)
                    self.assertEqual(found.index, int(found.scores.argmax()))
                    self.assertEqual(found.label, told()["labels"][found.index])
                    self.assertEqual([c.score for c in found.top(3)], sorted(found.scores.tolist())[:-4:-1])

    def test_batch_and_stream_are_the_serial_loop(self) -> None:
        with load(BUNDLE, ENGINE) as model:
            many = photos() * 4
            serial = [model(photo).scores for photo in many]
            for found in (model.batch(many), list(model.stream(iter(many)))):
                self.assertEqual(len(found), len(many))
                for result, scores in zip(found, serial):  # noqa: B905 - Python 3.9
                    np.testing.assert_array_equal(result.scores, scores)
            for _ in model.stream(many):
                break
            gc.collect()
            self.assertNotIn("edgekit-stream", [thread.name for thread in threading.enumerate()])
            kinds = [isinstance(row, RuntimeFault) for row in model.outcomes([many[0], b"", many[1]])]
            self.assertEqual(kinds, [False, True, False])

    def test_eight_threads_give_the_serial_results(self) -> None:
        with load(BUNDLE, ENGINE, threads=2) as model, load(BUNDLE, ENGINE, threads=1) as other:
            self.assertEqual(model.info["threads"], 2)
            many = photos() * 20
            serial = [other(photo).scores for photo in many]
            with ThreadPoolExecutor(8) as pool:
                for result, scores in zip(pool.map(model, many), serial):  # noqa: B905 - Python 3.9
                    np.testing.assert_allclose(result.scores, scores, atol=1e-6)

    def test_close(self) -> None:
        model = load(BUNDLE, ENGINE)
        model.close()
        model.close()
        self.refused(lambda: model(photos()[0]), "the model is closed")
        self.refused(lambda: model.batch(photos()[:1]), "the model is closed")

    def test_bad_input(self) -> None:
        with load(BUNDLE, ENGINE) as model:
            for bad in (
                np.zeros((4, 4, 3)), np.zeros((4, 4, 2), np.uint8), np.zeros((0, 4, 3), np.uint8), None, 3, b"",
                "gone.jpg", b"no image", np.zeros((9, 900, 3), np.uint8), np.full((16, 16, 3), np.nan),
            ):  # fmt: skip
                self.refused(lambda bad=bad: model(bad))

    def test_image_files(self) -> None:
        with load(BUNDLE, ENGINE) as model:
            for number, name in enumerate(told()["files"]):
                path = FOLDER / "images" / name
                if PILLOW:
                    far = np.abs(model(path).scores - model(stored(f"file-{number}")).scores).max()
                    self.assertLess(far, 0.05, name)  # decoders of JPEG differ by a step
                    self.assertEqual(model(path.read_bytes()).index, model(str(path)).index)
                else:
                    for source in (path, path.read_bytes()):
                        self.refused(lambda source=source: model(source), "(pip install pillow); or give a uint8 array")

    def test_files_of_others(self) -> None:
        """The models in the shared folder, with manifests by hand."""
        third = FOLDER / "third"
        if FORMAT != "tflite" or not third.is_dir():
            self.skipTest("no third-party .tflite files here")
        parrot = third / "parrot.jpg" if PILLOW else np.load(third / "parrot.npy")
        for name in ("mobilenet_v1_0.25_128_quant", "tf2_mobilenet_v2_1.0_224_ptq"):
            with load(str(third / name / "manifest-by-hand.json"), ENGINE) as model:
                result = model(parrot)
                self.assertEqual(result.label, "macaw")
                self.assertGreater(result.score, 0.5)
        for name in ("vww_96_float", "vww_96_int8", "kws_ref_model"):
            with load(str(third / name / "manifest-by-hand.json"), ENGINE) as model:
                wanted = stored(f"third-out-{name}-{model.info['provider']}")
                found = model.raw(stored(f"third-in-{name}"))
                self.assertEqual(found.dtype, wanted.dtype)
                far = np.abs(found.astype(np.float64) - wanted).max()
                self.assertLessEqual(far, 1e-4 if "float" in name else 1, name)

    @unittest.skipUnless(Path("/proc/self/statm").exists(), "resident memory is read from /proc")
    def test_ten_thousand_predictions_leak_no_memory(self) -> None:
        def resident() -> int:
            gc.collect()
            return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

        for name in artifacts():
            with load(BUNDLE, ENGINE, artifact=name) as model:
                tensor, photo = stored(f"in-{name}")[:1], stored("pixels-0")

                def work(number: int, model: Model = model, tensor: Any = tensor, photo: Any = photo) -> None:
                    for _ in range(number):
                        model.raw(tensor)
                        model(photo)

                work(1000)
                before = resident()
                work(5000)
                self.assertLess(resident() - before, 1e6, name)  # 100 bytes a prediction would show


class CommandLine(Case):
    """Through the installed package, and through the one file with nothing of edgekit installed."""

    fronts = (["-m", "edgekit.runtime"], ["-I", APP])

    def test_predict(self) -> None:
        with load(BUNDLE, ENGINE) as model:
            wanted = [model(photo) for photo in photos()[:2]]
        paths = [str(FOLDER / "arrays" / f"photo-{number}.npy") for number in range(2)]
        for front in self.fronts:
            lines, errors = run(front, "predict", BUNDLE, "--json", "--top", "3", "-", stdin="\n".join(paths))
            self.assertEqual(errors, [])
            rows = [json.loads(line) for line in lines]
            self.assertEqual([row["image"] for row in rows], paths)
            self.assertEqual([row["index"] for row in rows], [result.index for result in wanted])
            self.assertEqual(len(rows[0]["top"]), 3)
            lines, errors = run(front, "predict", BUNDLE, "images", code=0 if PILLOW else 1)
            self.assertEqual(len(lines), len(told()["files"]) if PILLOW else 0)
            self.assertEqual(len(errors), 0 if PILLOW else len(told()["files"]))
            for line in errors:
                self.assertIn("(pip install pillow)", line)

    def test_bench(self) -> None:
        for front in self.fronts:
            (line,), _ = run(front, "bench", BUNDLE, "--json", "--seconds", "0.02", "--warmup", "1")
            answer = json.loads(line)
            self.assertEqual((answer["engine"], answer["artifact"]), (ENGINE, artifacts()[0]))
            self.assertGreaterEqual(len(answer["ms"]), 20)
            self.assertGreater(min(answer["ms"]), 0)

    def test_selftest(self) -> None:
        for front in self.fronts:
            lines, _ = run(front, "selftest", SIGNED, "--key", told()["key"])
            self.assertTrue(lines[1].endswith(", trusted"), lines)
            self.assertEqual([line.split(" ")[0] for line in lines[2:]], artifacts())
            for line in lines[2:]:
                self.assertIn(f" on {ENGINE}: ok: ", line)
                self.assertEqual("images were not decoded" in line, not PILLOW, line)
        lines, _ = run(self.fronts[0], "selftest", WRONG, code=1)
        self.assertIn("failed: ", lines[2])

    def test_info(self) -> None:
        for front in self.fronts:
            (line,), _ = run(front, "info", BUNDLE, "--json")
            row = json.loads(line)
            self.assertEqual(row["runs"], {"artifact": artifacts()[0], "engine": ENGINE})
            self.assertEqual(row["digest"], told()["digest"])
            self.assertEqual(row["labels"], told()["labels"])

    def test_mistakes_are_one_line(self) -> None:
        for words in (["info", "gone.edgekit"], ["info", BUNDLE, "--require-signature"], ["bench", "told.json"]):
            lines, errors = run(self.fronts[1], *words, code=2)
            self.assertEqual((lines, len(errors)), ([], 1))
            self.assertTrue(errors[0].startswith("edgekit: "), errors)


class Imports(Case):
    def test_nothing_but_numpy_is_imported(self) -> None:
        """Every module of the runtime, and none of what lies in site-packages but NumPy."""
        code = """
import importlib, json, pkgutil, sys
before = set(sys.modules)
import edgekit.runtime
early = {"numpy", "PIL"} & set(sys.modules)
for module in pkgutil.walk_packages(edgekit.runtime.__path__, "edgekit.runtime."):
    importlib.import_module(module.name)
files = {name.partition(".")[0] for name in set(sys.modules) - before
         if "site-packages" in (getattr(sys.modules[name], "__file__", None) or "")}
print(json.dumps([sorted(early), sorted(files - {"edgekit"})]))
"""
        answer = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True)
        early, outside = json.loads(answer.stdout)
        self.assertEqual((early, outside), ([], ["numpy"]))

    def test_machine_is_described(self) -> None:
        facts = machine.facts()
        self.assertEqual(json.loads(json.dumps(facts)), facts)
        self.assertGreater(machine.cores(), 0)
        self.assertGreater(machine.peak_rss_bytes(), 1e6)


if __name__ == "__main__":
    report = io.StringIO()
    suite = unittest.defaultTestLoader.loadTestsFromModule(sys.modules["__main__"])
    outcome = unittest.TextTestRunner(report, warnings="error").run(suite)
    skipped = [f"{case.id()}: {reason}" for case, reason in outcome.skipped]
    print(json.dumps({"tests": outcome.testsRun, "skipped": skipped, "pillow": PILLOW}))
    if not outcome.wasSuccessful():
        sys.exit(report.getvalue())
