from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from edgekit import __version__
from edgekit.config import recipe, shipped
from edgekit.disk.run_directory import ORDER
from tests.conftest import TinyRun
from tests.support import BUNDLE, FOLDERS, STAGES, TINY, command, complaint, edgekit, environment

BUNDLE_COMMANDS = ("pack", "keygen", "sign", "verify-signature", "runtime-zip", "predict", "inspect", "export-c")
COMMANDS = (
    *("run", "train", "prune", "compress", "profile", "report", "data", "find-lr", "fit", "predict-latency"),
    *("sweep", "tune", "explain", "compare"),
    *BUNDLE_COMMANDS,
    *("recipes", "devices", "doctor"),
)
LIGHT = {"edgekit", "click"} | sys.stdlib_module_names


def loaded(*words: str) -> set[str]:
    """Top-level packages that a command imports."""
    code = (
        "import sys, atexit; before = set(sys.modules)\n"
        "atexit.register(lambda: print(*set(sys.modules) - before, file=sys.stderr))\n"
        f"from edgekit.cli.main import main; sys.argv = {['edgekit', *words]!r}; main()"
    )
    answer = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in answer.stderr.split()}


@pytest.mark.parametrize("words", [("--help",), ("run", "--help"), ("--version",), ("recipes",), ("devices",)])
def test_cli_imports_nothing_heavy(words: tuple[str, ...]) -> None:
    assert loaded(*words) <= LIGHT


def _processor_seconds() -> float:
    """Of all processes that this one has started and that have ended: the machine may be busy."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_help_is_quick() -> None:
    def seconds(*words: str) -> float:
        before = _processor_seconds()
        subprocess.run([sys.executable, *words], env=environment(), check=True, stdout=subprocess.DEVNULL)
        return _processor_seconds() - before

    assert min(seconds("-m", "edgekit", "--help") for _ in range(5)) < 0.3


def test_help_lists_every_command_in_the_order_of_work() -> None:
    text = edgekit("--help").stdout
    places = [text.index(f"\n  {name} ") for name in COMMANDS]
    assert "..." not in text.partition("Commands:")[2]
    assert places == sorted(places)
    assert "Examples:\n    edgekit run digits" in text


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_every_command_shows_an_example(name: str) -> None:
    text = edgekit(name, "--help").stdout
    assert f"  edgekit {name}" in text.partition("Example")[2]


def test_version_is_printed() -> None:
    assert edgekit("--version").stdout == f"edgekit, version {__version__}\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("trian",), '"trian": no such command; did you mean "train"?'),
        (("recipes", "schem"), '"schem": no such command; did you mean "schema"?'),
        (("run", "--devise", "host"), "did you mean one of: '--device'"),
        (("run", "digits", "more"), "unexpected extra argument"),
    ],
)
def test_cli_says_what_was_meant(words: tuple[str, ...], message: str) -> None:
    answer = edgekit(*words, code=2)
    assert message.lower() in answer.stderr.lower()
    assert answer.stdout == ""


def test_recipes_and_devices_list_what_is_shipped() -> None:
    kinds: tuple[shipped.Folder, ...] = ("recipes", "devices")
    for kind in kinds:
        names = list(shipped.files(kind))
        assert [line.split()[0] for line in edgekit(kind).stdout.splitlines()] == names
        rows = json.loads(edgekit(kind, "--json").stdout)
        assert [row["name"] for row in rows] == names
        assert all(Path(row["path"]).is_file() and row["description"] for row in rows)


def test_schemas_are_json_schemas() -> None:
    for kind in ("recipes", "devices"):
        Draft202012Validator.check_schema(json.loads(edgekit(kind, "schema").stdout))
        assert edgekit(kind, "list", "--json").stdout == edgekit(kind, "--json").stdout


def test_doctor_prints_text_or_json() -> None:
    assert f"edgekit {__version__}" in edgekit("doctor").stdout
    assert json.loads(edgekit("doctor", "--json").stdout)["edgekit"] == __version__


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("edgekit ", set(COMMANDS)),
        ("edgekit re", {"recipes", "report"}),
        ("edgekit run dig", {"digits"}),
        ("edgekit run --device ho", {"host"}),
        ("edgekit devices check ho", {"host"}),
        ("edgekit pack runs/x --device ho", {"host"}),
        ("edgekit run digits --set data.cle", {f"data.clean.{key}=" for key in recipe.CleanSection.model_fields}),
        ("edgekit run digits --set quantize.qat.e", {"quantize.qat.epochs=", "quantize.qat.ema="}),
        (
            "edgekit run digits --set train.optimizer=a",
            {f"train.optimizer={name}" for name in ("adagrad", "adam", "adamw")},
        ),
        ("edgekit run digits --set quantize.range=m", {"quantize.range=minmax", "quantize.range=mse"}),
        ("edgekit run digits --set lower.measure=", {"lower.measure=true", "lower.measure=false"}),
        ("edgekit recipes s", {"schema"}),
        ("edgekit run --qu", {"--quiet"}),
    ],
)
def test_shell_completion_knows_commands_recipes_devices_and_keys(line: str, expected: set[str]) -> None:
    words = line.split(" ")
    extra = {"_EDGEKIT_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    code = "from edgekit.cli.main import main; main()"
    answer = subprocess.run([sys.executable, "-c", code], env=environment(**extra), capture_output=True, text=True)
    found = {entry.partition(",")[2] for entry in answer.stdout.splitlines() if entry.startswith("plain")}
    assert found == expected


def test_shell_completion_leaves_files_to_the_shell() -> None:
    extra = {"_EDGEKIT_COMPLETE": "bash_complete", "COMP_WORDS": "edgekit run ./my", "COMP_CWORD": "2"}
    assert edgekit(env=extra).stdout == "file,./my\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shell_completion_script_is_printed(shell: str) -> None:
    assert "edgekit" in edgekit(env={"_EDGEKIT_COMPLETE": f"{shell}_source"}).stdout


def test_run_prints_only_json_and_tells_progress_on_stderr(tiny: TinyRun) -> None:
    found = json.loads(tiny.answer.stdout)
    assert [(stage["name"], stage["cached"]) for stage in found["stages"] if not stage["skipped"]] == [
        (name, False) for name in STAGES
    ]
    assert [verdict["device"] for verdict in found["verdict"]] == ["quick"]
    assert Path(found["report"]).is_file()
    started = [line for line in tiny.answer.stderr.splitlines() if line.endswith(" ...")]
    assert started == [f"{name} ..." for name in STAGES]


NOISY = """
import os
from torch import nn
print("from the file")
class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        last = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes)
        self.net = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), *last)
    def forward(self, x):
        print("from forward")
        return self.net(x)
def build(num_classes):
    os.system("echo from a program")
    return Net(num_classes)
"""


def test_a_network_that_prints_does_not_spoil_the_results(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NOISY)
    model = '[model]\nname = "net.py:build"\nweights = "none"\n'
    (tmp_path / "mine.toml").write_text(f'{model}[data]\nsource = "digits"\ninput = 16\n[train]\nepochs = 1\n')
    answer = edgekit("train", "mine.toml", "--json", cwd=tmp_path)
    assert [stage["name"] for stage in json.loads(answer.stdout)["stages"]] == ["data", "train"]
    for words in ("from the file", "from forward", "from a program"):
        assert words in answer.stderr


def test_run_writes_no_colour_codes_and_no_library_chatter(tiny: TinyRun) -> None:
    assert "\x1b" not in tiny.answer.stderr
    allowed = (*ORDER, "  epoch", "  head", "  plain", "  plots while it runs: ")
    assert [line for line in tiny.answer.stderr.splitlines() if not line.startswith(allowed)] == []


def test_run_respects_no_color_on_a_terminal(tiny: TinyRun) -> None:
    answer = _on_a_terminal("report", tiny.path, env={"NO_COLOR": "1", "TERM": "xterm-256color"})
    assert "\x1b[3" not in answer
    assert "report: unchanged" in answer


def _not_skipped(said: str) -> list[str]:
    return [line for line in said.splitlines() if ": skipped, " not in line]


def test_run_finishes_quickly_when_nothing_has_changed(tiny: TinyRun) -> None:
    seconds = []
    for _ in range(3):  # processor time, too, is longer on a busy machine
        before = _processor_seconds()
        answer = edgekit("run", *TINY, "--device", tiny.device, "--out", tiny.path, env={})
        seconds.append(_processor_seconds() - before)
    assert min(seconds) < 2
    assert _not_skipped(answer.stderr) == [f"{name}: unchanged" for name in STAGES]


@pytest.mark.parametrize("name", ["run", "report"])
def test_command_works_on_a_run_directory_and_remembers_its_settings(tiny: TinyRun, name: str) -> None:
    answer = edgekit(name, tiny.path, "--quiet", "--json")
    assert answer.stderr == ""
    stages = json.loads(answer.stdout)["stages"]
    assert [(stage["name"], stage["cached"]) for stage in stages if not stage["skipped"]] == [
        (name, True) for name in STAGES
    ]


@pytest.mark.parametrize(("name", "last"), [("train", "train"), ("compress", "bundle"), ("profile", "profile")])
def test_command_stops_after_its_stage(tiny: TinyRun, name: str, last: str) -> None:
    answer = edgekit(name, tiny.path)
    assert _not_skipped(answer.stderr) == [f"{stage}: unchanged" for stage in STAGES[: STAGES.index(last) + 1]]
    bundle = "" if last == "train" else f"bundle: {tiny.path / BUNDLE}\n"
    assert answer.stdout.endswith(f"{bundle}run directory: {tiny.path}\n")
    heads = {"train": ["split", "images", "top-1"], "compress": ["file", "MB", "top-1"], "profile": ["device", "file"]}
    table = answer.stdout.splitlines()[1 if name == "train" else 0 :]
    assert table[0].split()[: len(heads[name])] == heads[name]
    rows = {"train": ["val", "test"], "compress": ["onnx-fp32", "tflite-fp32"], "profile": ["quick"] * 2}
    assert [line.split()[0] for line in table[1:3]] == rows[name]


def test_profile_takes_another_device_and_remembers_it(copied: Path, tiny: TinyRun) -> None:
    board = copied.parent / "board.toml"
    board.write_text(tiny.device.read_text().replace("quick", "board") + "[limits]\nsize_mb = 1e-6\n")
    words = ("profile", copied, "--device", tiny.device, "--device", "board.toml", "--quiet")
    assert edgekit(*words, cwd=copied.parent).stderr == ""
    found = json.loads(edgekit("report", copied, "--json", cwd=Path("/")).stdout)
    assert [(verdict["device"], verdict["artifact"] is None) for verdict in found["verdict"]] == [
        ("quick", False),
        ("board", True),
    ]
    assert [stage["name"] for stage in found["stages"] if not stage["cached"] and not stage["skipped"]] == ["report"]


def test_profile_measures_again_when_asked(copied: Path) -> None:
    rows = [json.loads(edgekit("profile", copied, *words, "--json").stdout) for words in ((), ("--again",), ())]
    stages = [{stage["name"]: stage["cached"] for stage in row["stages"]} for row in rows]
    assert [stage["profile"] for stage in stages] == [True, False, True]
    assert all(stage["export"] for stage in stages)
    times = [[timing["p50_ms"] for timing in row["latency"]] for row in rows]
    assert times[0] != times[1] == times[2]


@pytest.mark.parametrize("name", ["run", "train", "prune", "compress", "profile", "report"])
def test_a_command_that_is_given_nothing_shows_its_help_and_does_nothing(tmp_path: Path, name: str) -> None:
    answer = subprocess.run(command(name), cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert f"Usage: edgekit {name} [OPTIONS] RECIPE|RUN" in answer.stdout + answer.stderr
    assert "Missing argument" in edgekit(name, "--device", "host", code=2, cwd=tmp_path).stderr
    assert not list(tmp_path.iterdir())


def test_run_prefers_a_shipped_recipe_over_a_folder_of_that_name(tmp_path: Path) -> None:
    (tmp_path / "digits").mkdir()
    assert "--set: train.x" in complaint("run", "digits", "--set", "train.x=1", code=2, cwd=tmp_path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("run", "nosuch.toml"), "nosuch.toml: no such recipe file"),
        (("run", "digitz"), '"digitz": no such recipe; did you mean "digits"?'),
        (("run", "."), ".: is neither a recipe nor a run directory"),
        (("run", "digits", "--device", "hosst"), '"hosst": no such device; did you mean "host"?'),
        (("run", "digits", "--device", "./gone.toml"), "gone.toml: no such device file"),
        (("run", "digits", "--device", "host", "--device", "host"), 'another device in this run is also called "host"'),
        (("run", "digits", "--set", "train.epochs"), '--set "train.epochs": expected section.key=value'),
        (("train", "digits", "--out", "file"), "file: cannot be used as a run directory: File exists"),
        (("train", "digits", "--out", "file/x"), "file/x: cannot be used as a run directory: Not a directory"),
        (("train", "digits", "--out", "/proc/x"), "/proc/x: cannot be used as a run directory"),
    ],
)
def test_run_refuses_with_one_line_and_leaves_nothing(tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    (tmp_path / "file").touch()
    assert message in complaint(*words, code=2, cwd=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_run_shows_a_traceback_with_debug(tmp_path: Path) -> None:
    answer = edgekit("run", "nosuch.toml", "--debug", code=2, cwd=tmp_path)
    assert "Traceback" in answer.stderr
    assert "InputError: nosuch.toml" in answer.stderr


def test_run_is_refused_while_another_works_there(copied: Path) -> None:
    code = (
        "import sys, pathlib; from edgekit.disk.run_directory import RunDirectory\n"
        "with RunDirectory(pathlib.Path(sys.argv[1])).locked(): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(copied)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment(),
        text=True,
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        before = (copied / "recipe.json").read_bytes()
        message = complaint("run", copied, "--set", "train.seed=5", code=2)
        assert message.startswith(f"{copied}: another edgekit is running here (process {holder.pid})")
        assert (copied / "recipe.json").read_bytes() == before
        holder.communicate("")
    edgekit("run", copied)


def test_run_ends_quietly_when_nobody_reads() -> None:
    with subprocess.Popen(
        command("recipes", "schema"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""


def _on_a_terminal(*words: str | Path, env: dict[str, str]) -> str:
    import pty

    main, side = pty.openpty()
    process = subprocess.Popen(command(*words), stderr=side, stdout=subprocess.DEVNULL, env=environment(**env))
    os.close(side)
    text = b""
    try:
        while chunk := os.read(main, 4096):
            text += chunk
    except OSError:  # the other side is closed
        pass
    os.close(main)
    assert process.wait() == 0
    return text.decode()


def test_run_directory_holds_the_documented_folders(tiny: TinyRun) -> None:
    expected = [*FOLDERS, "recipe.json", "training.html", ".lock"]
    assert sorted(path.name for path in tiny.path.iterdir()) == sorted(expected)
    for folder, name in zip(FOLDERS, STAGES, strict=True):
        record = json.loads((tiny.path / folder / "stage.json").read_text())
        assert record["name"] == name
        assert record["seconds"] >= 0
        assert record["inputs"]
        assert record["outputs"]
