"""How long does profiling a fleet take, compared with one of its devices?

    python benchmarks/fleet.py [--devices 8] [--files 4] [--seconds 5]

Devices are sshd processes on loopback, each with its own home folder and lock. Their ONNX Runtime is a stand-in that
waits instead of computing, as long as a real measurement takes, so that one machine can play all of them; everything
else, from the connection to the report's rows, is real. Prints the wall times of profiling the first device alone and
of profiling all of them, and their ratio.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from edgekit.console import Console
from edgekit.device.file import Device
from edgekit.profile.run import profile
from edgekit.reach.ways import ssh
from edgekit.types import Artifact, TensorSpec
from tests import sshd

WAITING = """
import time
import numpy
__version__ = "0.0"
def get_available_providers():
    return ["CPUExecutionProvider"]
class GraphOptimizationLevel:
    ORT_ENABLE_ALL = 99
class SessionOptions:
    def add_session_config_entry(self, key, value):
        pass
class Port:
    name, type, shape = "x", "tensor(float)", [1, 4]
class InferenceSession:
    def __init__(self, path, options, providers):
        self.result = [numpy.zeros((1, 4), numpy.float32)]
    def get_providers(self):
        return get_available_providers()
    def get_inputs(self):
        return [Port()]
    get_outputs = get_inputs
    def run(self, outputs, feed):
        time.sleep(0.02)
        return self.result
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--files", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=5.0, help="measured time of each file")
    options = parser.parse_args()
    port = TensorSpec("x", (1, 4), "float32", "NC")
    with tempfile.TemporaryDirectory(prefix="fleet-") as name:
        folder = Path(name)
        artifacts = []
        for number in range(options.files):
            (folder / f"{number}.onnx").write_bytes(bytes([number]) * 4_000_000)
            artifacts.append(Artifact(str(number), "onnx", "fp32", f"{number}.onnx", "", 0, 0, (), port, port))
        boards = [_board(folder / f"board-{number}") for number in range(options.devices)]
        try:
            devices = {
                f"board-{number}": board.device(reach={"python": str(board.folder / "python")}, seconds=options.seconds)
                for number, board in enumerate(boards)
            }
            alone = _time(artifacts, folder, dict(list(devices.items())[:1]))
            together = _time(artifacts, folder, devices)
        finally:
            ssh.close()
            for board in boards:
                board.stop()
    print(f"one device {alone:.1f} s, {options.devices} devices {together:.1f} s: {together / alone:.2f} times as long")


def _board(folder: Path) -> sshd.Board:
    folder.mkdir()
    (folder / "site" / "onnxruntime").mkdir(parents=True)
    (folder / "site" / "onnxruntime" / "__init__.py").write_text(WAITING)
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{folder}/site" exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    return sshd.start(folder)


def _time(artifacts: list[Artifact], folder: Path, devices: dict[str, Device]) -> float:
    """Seconds of one profile, including connections and transfers."""
    ssh.close()
    start = time.perf_counter()
    result = profile(artifacts, folder, devices, Console(quiet=True))
    seconds = time.perf_counter() - start
    assert len(result.timings) == len(artifacts) * len(devices), result.failures
    for device in devices.values():
        ssh.clean(device)
    return seconds


if __name__ == "__main__":
    main()
