"""Frozen dataclasses that stages pass to each other, up to verification. Standard library only.

Device measurements and the verdicts on them are in `edgekit.measurements`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Split = Literal["train", "val", "test"]
HOST_ENGINES = {"onnx": "onnxruntime", "tflite": "litert", "executorch": "executorch"}
"""What verifies a file on this machine, by its format; everything else is compared with that."""
SUFFIXES = {"onnx": ".onnx", "tflite": ".tflite", "executorch": ".pte"}
"""Of a file's name, by its format."""
TORCH_FP32 = "torch-fp32"
"""Stands for the float network where an `Artifact.id` is expected."""
TORCH_INT8 = "torch-int8"
"""Likewise the quantized graph in integer arithmetic."""
INTEGERS = ("int8", "int16x8")
"""Precisions whose operators all have to be integer."""
FLOAT_VARIANTS = ("fp16", "weight_only", "dynamic")
"""Precisions that differ from float in their weights only, or decide on ranges while they run: no calibration."""
ONE_STEP = 1.5
"""Outputs lie on one grid, so that a difference is a whole number of steps but for float noise: one is less than this.
"""


def artifact_id(form: str, precision: str) -> str:
    """The id of the one file of a run in a format and precision."""
    return f"{form}-{precision}"


@dataclass(frozen=True)
class Sample:
    """One image of a data set."""

    path: str
    """Relative to `Index.root`, with forward slashes."""
    label: int
    split: Split
    sha256: str
    """Hash of the file's bytes."""


@dataclass(frozen=True)
class Finding:
    """Something that cleaning found in the data, and what was done about it."""

    kind: Literal["unreadable", "mode", "range", "orientation", "duplicate", "conflict", "leak"]
    """`range`: nearly black. `conflict`: the same pixels under two labels. `leak`: the same pixels in two splits."""
    path: str
    detail: str
    action: Literal["drop", "keep"]
    count: int = 1
    """Number of images that it stands for; `path` is the first of them."""


@dataclass(frozen=True)
class Index:
    """The data set as every later stage sees it. Written by the data stage as ``index.json``."""

    root: str
    """Folder that sample paths are relative to; itself absolute, or relative to the stage's folder."""
    labels: tuple[str, ...]
    samples: tuple[Sample, ...]
    findings: tuple[Finding, ...] = ()

    def split(self, name: Split) -> tuple[Sample, ...]:
        """Samples of one split, in the order of the index."""
        return tuple(sample for sample in self.samples if sample.split == name)


Size = int | tuple[int, int, int]
"""Shape of a network's input without the batch, (channels, height, width), or the side of a square RGB image."""
Resize = Literal["crop", "stretch", "letterbox"]


_CHANNELS = {1: "grey", 2: "grey and alpha", 4: "RGBA"}


def shape_of(size: Size) -> tuple[int, int, int]:
    """(channels, height, width)."""
    return (3, size, size) if isinstance(size, int) else size


@dataclass(frozen=True)
class InputSpec:
    """How an image becomes the network's input tensor (evaluation path, no augmentation).

    Resize (see `edgekit.runtime.preprocess.Preprocessing`), scale to 0..1, subtract `mean`, divide by `std`, per
    channel.
    """

    size: int | tuple[int, int]
    """Side of a square input, or (height, width)."""
    mean: tuple[float, ...]
    """One for each channel, as `std`: 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA."""
    std: tuple[float, ...]
    crop: float = 1.0
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    resize: Resize = "crop"
    pad: int = 0
    """Of a letterbox: 8-bit value of the border, in every channel."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of the network's input."""
        height, width = (self.size, self.size) if isinstance(self.size, int) else self.size
        return len(self.mean), height, width

    def __str__(self) -> str:
        channels, height, width = self.shape
        side = f"{height} px" if height == width else f"{height} x {width} px"
        return side if channels == 3 else f"{side}, {_CHANNELS[channels]}"


@dataclass(frozen=True)
class ModelSpec:
    """Enough to build the same (untrained) network again."""

    name: str
    num_classes: int
    """Its outputs: 1 for two classes if the head is one logit, before the sigmoid."""
    options: dict[str, object] = field(default_factory=dict)
    channels: int = 3
    output: int | str | None = None
    """Which entry of the tuple or dict that the network returns; None: it returns a tensor."""


@dataclass(frozen=True)
class Epoch:
    """One epoch of the training history. Losses are means per image, accuracies 0..1."""

    epoch: int
    phase: Literal["head", "all"]
    lr: float
    train_loss: float
    train_accuracy: float
    val_loss: float | None
    """None if the data has no validation split; so is `val_accuracy`."""
    val_accuracy: float | None
    seconds: float


@dataclass(frozen=True)
class ClassScore:
    """Precision, recall and F1 score of one class, 0..1; `images` is the support."""

    label: str
    precision: float
    recall: float
    f1: float
    images: int


@dataclass(frozen=True)
class Bin:
    """Images whose predicted class has a probability in one range."""

    images: int
    confidence: float
    """Mean probability of the predicted class, 0..1."""
    accuracy: float


@dataclass(frozen=True)
class Calibration:
    """How far the probabilities of a model can be believed.

    Guo et al., On Calibration of Modern Neural Networks (2017).
    """

    error: float
    """Expected calibration error, 0..1: mean of ``|accuracy - confidence|`` over the images, by bins."""
    bins: tuple[Bin, ...]
    """Ranges of equal width, ascending; empty ones are left out."""


@dataclass(frozen=True)
class Metrics:
    """Scores of one model on one split."""

    split: Split
    images: int
    accuracy: float
    """With one class per image, also the micro average of precision, recall and F1."""
    precision: float
    """Macro average, as are `recall` and `f1`."""
    recall: float
    f1: float
    per_class: tuple[ClassScore, ...]
    confusion: tuple[tuple[int, ...], ...]
    """Row: true class, column: predicted class."""
    near: tuple[int, float] | None = None
    """k, and the share of images whose class is among the k most likely ones; None with two classes."""
    calibration: Calibration | None = None
    """None in files of an earlier version."""
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Ends of 95 % intervals of `accuracy`, `precision`, `recall` and `f1`."""


@dataclass(frozen=True)
class PrunePlan:
    """What is left of a network. Plain data: printed, saved as ``prune.json``, replayed."""

    kept: dict[str, tuple[int, ...]]
    """Output channels of layers to keep, ascending, by the first layer of each group of layers pruned together."""
    of: dict[str, int]
    """How many output channels these layers had before."""
    dropped: tuple[str, ...] = ()
    """Residual blocks that are left out before anything gets narrower."""

    def __str__(self) -> str:
        widths = [f"{layer} {self.of[layer]} -> {len(kept)}" for layer, kept in self.kept.items()]
        return ", ".join([f"without {name}" for name in self.dropped] + widths)


@dataclass(frozen=True)
class Checkpoint:
    """A float network on disk. ``checkpoint.json`` holds this; the tensors are in `weights`."""

    weights: str
    """File name of the ``.safetensors`` beside ``checkpoint.json``."""
    model: ModelSpec
    input: InputSpec
    labels: tuple[str, ...]
    trained: bool
    """False if the recipe has no [train] section and the given weights are used as they are."""
    history: tuple[Epoch, ...] = ()
    metrics: tuple[Metrics, ...] = ()
    """Validation and test scores of the best weights (float, torch)."""
    parameters: int = 0
    macs: int = 0
    """Multiply-adds of one image."""
    plan: PrunePlan | None = None
    """What was pruned from the network that `model` names; None if nothing was."""
    notes: tuple[str, ...] = ()
    """Where its weights come from, a line each: which entry of a file, without which prefix."""
    doubts: tuple[str, ...] = ()
    """Why it may not be what was meant, a line each: the order of its classes."""


@dataclass(frozen=True)
class Pruning:
    """What the prune stage did, written as ``pruning.json``."""

    plan: PrunePlan
    score: str
    target: str
    """In words, e.g. ``macs = 0.5``."""
    channels: dict[str, tuple[int, int]]
    """Output channels before and after, by layer."""
    parameters: tuple[int, int]
    """Before and after, as in the next two."""
    macs: tuple[int, int]
    latency_ms: tuple[float, float] | None
    """p50 of the exported files before and after, measured in one run."""
    latency_where: str
    """Device, engine, threads and precision of `latency_ms`; if it was not measured, why not."""
    accuracy: tuple[float | None, float | None, float | None]
    """Validation top-1: unpruned, pruned, recovered; None without a validation split."""


@dataclass(frozen=True)
class Rung:
    """One step of the rescue ladder that was tried."""

    name: str
    """``plain``, ``range``, ``corrections``, ``rounding``, ``keep_float`` or ``qat``."""
    settings: str
    """What it set beyond the recipe, as lines of TOML, e.g. ``range = "mse"``."""
    accuracy: float | None
    """Validation top-1 of the quantized graph in torch, 0..1. This, `agreement` and `drop` are None if not known."""
    agreement: float | None
    """Share of validation images with the same top-1 class as the float network."""
    drop: float | None
    """Points of validation top-1 lost against the float network."""
    seconds: float
    """How long it took to try."""
    holds: bool
    """Whether `drop` is within `max_drop`."""
    chosen: bool
    latency_ms: dict[str, float] = field(default_factory=dict)
    """p50 by "<format> on <engine>" on this machine, one thread; empty if not measured."""
    latency_of: str = ""
    """The rung that was timed instead, as its graph has the same operators; empty if `latency_ms` is its own."""
    problem: str = ""
    """Why it could not be completed, in one line."""


@dataclass(frozen=True)
class Sensitivity:
    """The loss from quantizing a single layer."""

    layer: str
    sqnr_db: float
    """Signal-to-quantization-noise ratio of the logits when only this layer's weights and output are quantized."""
    agreement: float
    """Share of images with the same top-1 class as the float network, under the same conditions."""


@dataclass(frozen=True)
class Gain:
    """What one choice of the quantizer gained over the same graph without it."""

    choice: str
    """``bias_correction``, ``equalize``, ``rounding``, ..."""
    sqnr_db: tuple[float, float]
    """SQNR of the logits on held-out images of the training split, without and with it."""
    agreement: tuple[float, float]


@dataclass(frozen=True)
class Symmetry:
    """What symmetric activations cost: the same settings with affine ones, in exact integers on the same images."""

    images: str
    """Which images, e.g. ``500 validation images``."""
    accuracy: tuple[float, float]
    """Top-1, 0..1: affine, symmetric."""
    agreement: tuple[float, float]
    """Share of images with the top-1 class of the float network: affine, symmetric."""

    @property
    def lost(self) -> float:
        """Points of top-1 that affine activations would have more."""
        return 100 * (self.accuracy[0] - self.accuracy[1])


@dataclass(frozen=True)
class Quantization:
    """How the quantized graph was made, written as ``quantization.json``."""

    images: int
    """Number of calibration images."""
    calibration_sha256: str
    """Hash of the sorted paths and contents of the calibration images."""
    ranges: dict[str, str]
    """Range rule by tensor, if `auto` or the recipe chose per tensor."""
    open_ends: int
    """Number of kernels in which rounding ties are possible: engines may differ by one step there."""
    gains: tuple[Gain, ...] = ()
    sensitivity: tuple[Sensitivity, ...] = ()
    """Worst first."""
    rungs: tuple[Rung, ...] = ()
    """In the order they were tried."""
    note: str = ""
    """A remark for the reader, e.g. why the ladder was not climbed."""
    symmetry: Symmetry | None = None
    """None if activations are affine."""


@dataclass(frozen=True)
class Rewrite:
    """Whether one rewrite of ``edgekit/lower/rewrites`` was applied, and why."""

    name: str
    scope: str
    """``graph`` (both formats), ``onnx`` or ``tflite``."""
    applied: bool
    reason: str
    """One line: measured, pinned, not measured (on which device), or not found in this network."""
    device: str | None = None
    """The device that decided."""
    ms: dict[str, tuple[float, float]] = field(default_factory=dict)
    """p50 without and with it, by engine, from one interleaved run on one thread; the key is "<engine> on <device>" for
    devices other than the one that decided. Empty if not measured."""
    artifact: str = ""
    """The file concerned; empty for a rewrite of the graph, which applies to all files."""
    lost: bool = False
    """Whether a device was unreachable and so could not decide; running the command again tries it again."""


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of an exported file."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    layout: Literal["NCHW", "NHWC", "NC", ""]
    """Empty if a hand-written manifest does not say."""
    scale: float | None = None
    """Real value of one quantization step; None for a float tensor."""
    zero_point: int | None = None


@dataclass(frozen=True)
class Artifact:
    """One exported file. The export stage writes a list of these as ``artifacts.json``."""

    id: str
    """``<format>-<precision>``, e.g. ``tflite-int8``; unique in a run."""
    format: Literal["onnx", "tflite", "executorch"]
    precision: str
    path: str
    """File name beside ``artifacts.json``."""
    sha256: str
    bytes: int
    float_ops: int
    """Number of operators that compute in floating point (Q/DQ at the file's inputs and outputs do not count); -1 if
    not counted."""
    float_op_names: tuple[str, ...]
    """One "TYPE name" per float operator; empty for a float precision."""
    input: TensorSpec
    output: TensorSpec
    lowered: tuple[str, ...] = ()
    """Rewrites from ``edgekit/lower/rewrites`` that were applied."""
    calibration_sha256: str | None = None
    """Hash of the images that its ranges were calibrated on; None for a file without calibration."""


@dataclass(frozen=True)
class Skipped:
    """A file that was requested but not written, an entry of ``skipped.json``."""

    artifact: str
    """What `Artifact.id` would have been."""
    reason: str
    """Why, in one line."""
