"""What goes wrong: kills, full disks, wrong data, missing packages. One line, the right exit code, nothing lost."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from edgekit.cli._common import guarded
from edgekit.deploy.keys import keygen
from edgekit.disk.atomic import cannot_write
from edgekit.disk.run_directory import RunDirectory
from edgekit.errors import DiskFull
from edgekit.runtime.errors import RuntimeFault
from tests import model_files, warm
from tests.conftest import TinyRun
from tests.small_bundle import MODEL, manifest, small
from tests.support import BUNDLE, FILES, FOLDERS, TINY, command, complaint, edgekit, environment

NOWHERE = "http://127.0.0.1:9"
"""Nobody listens there: what a machine without a connection sees, at once."""
OFFLINE = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY"), NOWHERE)
PICTURES = """
[model]
name    = "mobilenetv3_small_050"
weights = "none"
[data]
source = "image_folder"
path   = "images"
input  = 32
val    = 0.25
test   = 0.25
[train]
epochs = 1
"""


def hashes(run: Path) -> dict[str, str]:
    return {name: hashlib.sha256((run / name).read_bytes()).hexdigest() for name in (*FILES, BUNDLE)}


def assert_tidy(run: Path) -> None:
    """Finished stages alone: no half, failed or old one is left."""
    assert sorted(path.name for path in run.iterdir()) == sorted([*FOLDERS, "recipe.json", "training.html", ".lock"])


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with a recipe and eight small images of each of two classes."""
    (tmp_path / "mine.toml").write_text(PICTURES)
    for shift, label in enumerate(("cat", "dog")):
        folder = tmp_path / "images" / label
        folder.mkdir(parents=True)
        for number in range(8):
            Image.new("RGB", (40, 40), (30 * number, 200 * shift, 90)).save(folder / f"{number}.jpg")
    return tmp_path


# Kills ---------------------------------------------------------------------------------------------


def stop(words: list[str | Path], seen: Path, number: signal.Signals, **env: str) -> tuple[int, str]:
    """Start a command, send its process group a signal once `seen` is there, and wait for it to end."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a child of a background job would ignore it
    try:
        process = subprocess.Popen(
            command(*words),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment(**env),
            text=True,
            start_new_session=True,
        )
    finally:
        signal.signal(signal.SIGINT, before)
    while not seen.exists():
        assert process.poll() is None, f"ended before {seen.name} was there"
        time.sleep(0.002)
    os.killpg(process.pid, number)
    _, said = process.communicate(timeout=60)
    return process.returncode, said


def test_run_ends_in_the_same_files_when_killed_in_every_stage(tiny: TinyRun, tmp_path: Path) -> None:
    """SIGKILL in each stage, one after the other, against the unbroken run; the last process hashes strings anew."""
    run = tmp_path / "run"
    words: list[str | Path] = ["run", *TINY, "--device", tiny.device, "--out", run]
    begun = (
        ".1-data.partial/images/5",
        ".2-train.partial/last.pt",  # between two epochs
        ".5-quantize.partial",
        ".6-export.partial/model-fp32.onnx",
        ".7-verify.partial",
        ".8-bundle.partial",
        ".9-profile.partial",
        ".10-report.partial",
    )
    for place, name in enumerate(begun):
        child = warm.Child(command(*words)[1:], environment())
        while not (run / name).exists():
            assert child.running, f"ended before {name} was there: {child.wait().stderr}"
            time.sleep(0.002)
        child.kill()
        answer = child.wait()
        assert answer.returncode == -signal.SIGKILL
        assert answer.stderr.endswith(f"{name.partition('.partial')[0].partition('-')[2]} ...\n") or "train" in name
        assert not (run / FOLDERS[place]).exists()
        assert all((run / folder / "stage.json").is_file() for folder in FOLDERS[:place])
    edgekit(*words, env={"PYTHONHASHSEED": "4242"})
    assert hashes(run) == hashes(tiny.path)
    assert_tidy(run)


def test_train_goes_on_after_control_c(tiny: TinyRun, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words: list[str | Path] = ["train", *TINY, "--out", run]
    code, said = stop(words, run / ".2-train.partial" / "last.pt", signal.SIGINT)
    assert code == 130
    assert said.endswith("edgekit: interrupted; run the same command again to resume\n")
    assert "Traceback" not in said
    assert "resuming after epoch 1" in edgekit(*words).stderr
    assert (run / FILES[0]).read_bytes() == (tiny.path / FILES[0]).read_bytes()


# Models that fall short ----------------------------------------------------------------------------


def test_run_marks_files_that_fail_verification_and_takes_the_mark_away(copied: Path, tiny: TinyRun) -> None:
    strict = ("--set", "verify.agreement=1.0", "--set", "verify.tolerance=1e-12")
    answer = edgekit("run", copied, *strict, code=1)
    message = answer.stderr.partition("edgekit: ")[2]
    assert message.startswith("verify: onnx-fp32 in onnxruntime")
    assert "verify.tolerance allows 1.0e-12" in message
    assert (copied / "6-export" / "UNVERIFIED.txt").read_text() == message
    rows = json.loads((copied / "7-verify.failed" / "accuracy.json").read_text())
    assert {row["artifact"] for row in rows if not row["passed"]} >= {"onnx-fp32", "tflite-fp32"}
    assert answer.stdout == ""
    assert "files that failed verification are not packed" in complaint("pack", copied, code=1)

    edgekit("run", copied, "--set", "verify.agreement=0.995", "--set", "verify.tolerance=1e-3")
    assert_tidy(copied)
    assert not (copied / "6-export" / "UNVERIFIED.txt").exists()
    assert hashes(copied) == hashes(tiny.path)


def test_train_keeps_the_best_epoch_when_the_loss_is_not_a_number(copied: Path) -> None:
    message = complaint("train", copied, "--set", "train.frozen=1", "--set", "train.lr=1e30", code=1)
    assert message.startswith("train: the loss is ")
    assert "at epoch 1, step 2 of " in message
    assert "the weights of epoch 0 are kept: lower train.lr = 1e+30" in message
    assert message.endswith(f"(files: {copied / '2-train.failed'})")
    assert {"model.safetensors", "checkpoint.json"} <= {path.name for path in (copied / "2-train.failed").iterdir()}
    assert (copied / "2-train" / "stage.json").is_file()
    assert edgekit("train", copied, "--set", "train.frozen=0", "--set", "train.lr=3e-3").stderr.endswith(
        "train: unchanged\n"
    )
    assert not (copied / "2-train.failed").exists()


# Full disks ----------------------------------------------------------------------------------------

MOUNTED = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
"""A mount that only this process and its children see, and that goes with them."""


def on_a_small_disk(folder: Path, size: str, before: str, *words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command on a disk of `size` at `folder`, free some room, and run it again.

    The exit code is that of the second run plus 100 times that of the first.
    """
    folder.mkdir()
    if subprocess.run([*MOUNTED, f"mount -t tmpfs none {folder}"], capture_output=True).returncode:
        pytest.skip("a disk of a given size needs user namespaces")
    line = " ".join(f"'{word}'" for word in command(*words))
    script = (
        f"mount -t tmpfs -o size={size} none {folder} && cd {folder} && {{ {before}; }} || exit 99\n"
        f"{line}; first=$?; echo ---- >&2; mount -o remount,size=256m none {folder}; rm -f filler\n"
        f"{line}; exit $((100 * first + $?))"
    )
    return subprocess.run([*MOUNTED, script], capture_output=True, text=True, env=environment())


def test_a_full_disk_is_said_once(tmp_path: Path) -> None:
    """A stage may have found it, and said so, before the run directory does."""

    def build(work: Path) -> None:
        raise cannot_write(work / "a.edgekit", OSError(errno.ENOSPC, "No space left on device"))

    with pytest.raises(DiskFull) as caught:
        RunDirectory(tmp_path).stage("bundle", {}, build)
    assert str(caught.value).count("the disk is full") == 1


READ_ONLY = {
    "pack my.json": "small.edgekit: cannot be written: Read-only file system",
    "sign a.edgekit --key mine.key": "a.edgekit: cannot be written: Read-only file system",
    "export-c hand.edgekit": "cannot be written: Read-only file system",
    "keygen --out other": "other.key: cannot be written: Read-only file system",
    "runtime-zip": "edgekit-runtime.pyz: cannot be written: Read-only file system",
    "devices add pi --host pi": "pi.toml: cannot be written: Read-only file system",
    "devices setup rpi5-emulated": "Read-only file system; give another place, or change its permissions",
    "train digits": "cannot be used as a run directory: Read-only file system",
}
"""What each command that writes says in a folder where it cannot."""


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    disk, files = tmp_path / "disk", tmp_path / "files"
    for folder in (disk, files):
        folder.mkdir()
    if subprocess.run([*MOUNTED, f"mount -t tmpfs none {disk}"], capture_output=True).returncode:
        pytest.skip("a disk of its own needs user namespaces")
    small(files / "a.edgekit")
    model_files.bundled(files / "hand.edgekit")
    keygen(files / "mine")
    (files / "my.json").write_text(json.dumps(manifest()))
    (files / "labels.txt").write_text("0\n1\n")
    (files / "model.tflite").write_bytes(MODEL)
    lines = "\n".join(f"{' '.join(command())} {words}; echo $? >&2" for words in READ_ONLY)
    script = f"mount -t tmpfs none {disk} && cp {files}/* {disk} && cd {disk} && mount -o remount,ro {disk}\n{lines}"
    cache = environment(XDG_CACHE_HOME=str(disk))
    answer = subprocess.run([*MOUNTED, script], capture_output=True, text=True, env=cache)
    assert answer.stdout == ""
    said = answer.stderr.splitlines()
    assert len(said) == 2 * len(READ_ONLY)
    for (words, message), line, code in zip(READ_ONLY.items(), said[::2], said[1::2], strict=True):
        assert line.endswith(message), words
        assert code == "2", words


def assert_one_line_then_success(answer: subprocess.CompletedProcess[str], stage: str) -> None:
    first, _, second = answer.stderr.partition("----\n")
    *progress, message = first.splitlines()
    assert [line for line in progress if not line.startswith("  ")][-1] == f"{stage} ..."
    assert "the disk is full (" in message
    assert message.endswith("free some space and run the same command again")
    assert "Traceback" not in answer.stderr
    assert f"{stage}: unchanged" not in second
    assert answer.returncode == 100, answer.stderr


def test_data_says_so_when_the_disk_is_full(tmp_path: Path) -> None:
    answer = on_a_small_disk(tmp_path / "disk", "2m", "true", "train", *TINY, "--set", "train.epochs=1", "--out", "run")
    assert_one_line_then_success(answer, "data")


def test_quantize_says_so_when_the_disk_is_full(tiny: TinyRun, tmp_path: Path) -> None:
    """Torch's own writer would end the process."""
    record = json.loads((tiny.path / "recipe.json").read_text())
    record["recipe"] |= {"export": None, "verify": None}
    (tmp_path / "recipe.json").write_text(json.dumps(record))
    before = (
        f"mkdir run && cp -r {tmp_path}/recipe.json {tiny.path}/1-data {tiny.path}/2-train run"
        " && { dd if=/dev/zero of=filler bs=1k status=none || truncate -s -24k filler; }"
    )
    answer = on_a_small_disk(tmp_path / "disk", "64m", before, "compress", "run")
    assert_one_line_then_success(answer, "quantize")


# Data ----------------------------------------------------------------------------------------------


def _one_image(folder: Path) -> None:
    for number in range(1, 8):
        (folder / "images" / "cat" / f"{number}.jpg").unlink()


def _cut(folder: Path) -> None:
    file = folder / "images" / "cat" / "3.jpg"
    file.write_bytes(file.read_bytes()[:-200])


def _text(folder: Path) -> None:
    (folder / "images" / "dog" / "notes.jpg").write_text("not an image")


def _no_folder(folder: Path) -> None:
    shutil.rmtree(folder / "images")


def _no_images(folder: Path) -> None:
    shutil.rmtree(folder / "images")
    (folder / "images" / "cat").mkdir(parents=True)


def _empty_split(folder: Path) -> None:
    for split in ("train", "test"):
        shutil.copytree(folder / "images", folder / "new" / split)
    for file in (folder / "new" / "test").rglob("*.jpg"):
        file.unlink()
    shutil.rmtree(folder / "images")
    (folder / "new").rename(folder / "images")


def _two_labels(folder: Path) -> None:
    shutil.copy(folder / "images" / "cat" / "0.jpg", folder / "images" / "dog" / "twin.jpg")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (_no_folder, 'data.path = "images": no such file or folder'),
        (_no_images, "images/cat: this class has no images; add some, or remove the folder"),
        (_one_image, 'data: class "cat" has one image, which cannot be split; add more or remove the class'),
        (_empty_split, "images/test/cat: this class has no images"),
        (_cut, "data: 1 image: cannot be read: cat/3.jpg ("),
        (_text, "data: 1 image: cannot be read: dog/notes.jpg (not an image of a known format); repair or remove"),
        (_two_labels, "the same pixels under two labels: cat/0.jpg (labelled cat; dog/twin.jpg is labelled dog)"),
    ],
)
def test_data_refuses_harmed_images_and_keeps_no_half_stage(pictures: Path, harm: object, message: str) -> None:
    assert callable(harm)
    harm(pictures)
    assert message in complaint("train", "mine.toml", code=2, cwd=pictures)
    assert [path.name for path in (pictures / "runs" / "mine").iterdir()] == [".lock"]


def test_data_refuses_splits_that_would_be_empty(pictures: Path) -> None:
    for file in (pictures / "images").glob("*/[2-7].jpg"):
        file.unlink()
    message = complaint("train", "mine.toml", code=2, cwd=pictures)
    assert "split empty; add images, or change data.val and data.test" in message


def test_data_drops_what_the_recipe_says(pictures: Path) -> None:
    _cut(pictures)
    answer = edgekit("train", "mine.toml", "--set", "data.clean.unreadable=drop", cwd=pictures)
    assert "cleaning dropped 1 unreadable; listed in runs/mine/1-data/findings.csv" in answer.stderr
    # Of four images, even four hits are no proof: one in sixteen coins falls like that.
    assert "  warning: test split: top-1 of" in answer.stderr
    assert "warning: test split: top-1 of" in answer.stdout
    index = json.loads((pictures / "runs" / "mine" / "1-data" / "index.json").read_text())
    assert [(found["path"], found["action"]) for found in index["findings"]] == [("cat/3.jpg", "drop")]


# Models --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("model.name=mobilenet_v3_small_050", 'no such timm model; did you mean "mobilenetv3_small_050"'),
        ("model.weights=other.safetensors", "conv_stem.weight"),
        ("model.weights=pretrained", "the pretrained weights of mobilenetv3_small_050 could not be downloaded"),
    ],
)
def test_train_refuses_a_model_it_cannot_build(pictures: Path, setting: str, message: str) -> None:
    save_file({"conv_stem.weight": torch.zeros(3, 3)}, pictures / "other.safetensors")
    env = {**OFFLINE, "HF_HOME": str(pictures / "hub"), "TORCH_HOME": str(pictures / "hub")}
    start = time.perf_counter()
    assert message in complaint("train", "mine.toml", "--set", setting, code=2, cwd=pictures, env=env)
    assert time.perf_counter() - start < 60  # not minutes of retries
    assert not (pictures / "runs" / "mine" / "2-train").exists()
    assert not (pictures / "runs" / "mine" / "2-train.failed").exists()


def test_data_says_so_when_a_data_set_cannot_be_downloaded(pictures: Path) -> None:
    words = ("--set", "data.source=torchvision", "--set", "data.name=MNIST", "--set", "data.path=downloads")
    start = time.perf_counter()
    message = complaint("train", "mine.toml", *words, code=2, cwd=pictures, env=OFFLINE)
    assert time.perf_counter() - start < 60
    assert "MNIST is not in " in message
    assert "cannot be downloaded" in message


# Packages ------------------------------------------------------------------------------------------

BLOCKER = """
import os
from importlib.machinery import PathFinder

find = PathFinder.find_spec

def find_spec(name, path=None, target=None):
    return None if name.partition(".")[0] == os.environ["WITHOUT"] else find(name, path, target)

PathFinder.find_spec = find_spec
"""


def without(package: str, folder: Path) -> dict[str, str]:
    """Environment of a process in which a package is not installed."""
    (folder / "sitecustomize.py").write_text(BLOCKER)
    return {"WITHOUT": package, "PYTHONPATH": os.pathsep.join([str(folder), environment()["PYTHONPATH"]])}


@pytest.mark.parametrize("package", ["pydantic", "PIL", "sklearn", "torch"])
def test_train_gives_the_pip_command_when_a_package_is_missing(tmp_path: Path, package: str) -> None:
    message = complaint("train", *TINY, code=2, cwd=tmp_path, env=without(package, tmp_path))
    assert message.endswith(f" needs {package}, which is not installed: pip install 'edgekit[compress]'")


@pytest.mark.parametrize(
    ("package", "setting", "pip"),
    [
        ("litert_torch", 'export.formats=["tflite"]', "edgekit[compress]"),
        ("onnxruntime", "verify.images=8", "onnxruntime"),
    ],
)
def test_compress_gives_the_pip_command_when_a_package_is_missing(
    copied: Path, tmp_path: Path, package: str, setting: str, pip: str
) -> None:
    message = complaint("compress", copied, "--set", setting, code=2, env=without(package, tmp_path))
    assert package in message
    assert f"pip install {pip}" in message.replace("'", "")


def test_run_needs_rich_only_for_its_bars(tiny: TinyRun, tmp_path: Path) -> None:
    edgekit("run", tiny.path, env=without("rich", tmp_path))


def test_guard_turns_a_fault_of_the_runtime_into_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        raise RuntimeFault("the engine cannot load this")

    with pytest.raises(SystemExit) as ended:
        guarded(work, debug=False)
    assert ended.value.code == 1
    assert capsys.readouterr().err == "edgekit: the engine cannot load this\n"
    with pytest.raises(SystemExit):
        guarded(work, debug=True)
    shown = capsys.readouterr().err
    assert shown.startswith("Traceback (most recent call last)")
    assert "RuntimeFault: the engine cannot load this" in shown


def test_guard_turns_the_unforeseen_into_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        raise ValueError("strange\nand long")

    with pytest.raises(SystemExit) as ended:
        guarded(work, debug=False)
    assert ended.value.code == 1
    assert capsys.readouterr().err == (
        "edgekit: unexpected ValueError: strange; run again with --debug for the traceback\n"
    )
