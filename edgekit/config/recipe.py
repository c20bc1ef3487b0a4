"""A recipe: one TOML file that says what to train, compress, verify and measure.

Each section is one stage; a stage without a section is skipped. Unknown keys are errors.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    field_validator,
    model_validator,
)

from edgekit.config.distill_section import DistillSection
from edgekit.config.fit_section import FitSection
from edgekit.config.menu import menu
from edgekit.config.sweep_section import Sweep
from edgekit.config.toml import Duration, Section, Sides
from edgekit.config.train_section import Batch, Epochs, Seed, TrainSection
from edgekit.config.tune_section import TuneSection
from edgekit.measurements import Objective

Order = Literal["text", "natural"]
Share = Annotated[float, Field(ge=0, lt=1)]
Temperature = Annotated[float, Field(ge=0.01, le=1000)]
Mean = Annotated[list[Annotated[float, Field(ge=0, le=1)]], Field(min_length=1, max_length=4)]
Std = Annotated[list[Annotated[float, Field(ge=1e-3, le=1)]], Field(min_length=1, max_length=4)]


def _entry(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | str | None):
        raise ValueError('give a place, e.g. 0, or a key, e.g. "logits"')
    return value


class ModelSection(Section):
    """The network, its weights, and the preprocessing those weights expect."""

    name: str = Field(
        description='timm name, "torchvision/<name>", or "file.py:function", which runs that file as a program, with '
        "all that the user may do: read a stranger's first"
    )
    weights: str = Field("pretrained", description='"pretrained", "none", or a .safetensors or .pth file')
    weights_entry: str | None = Field(
        None, description="which entry of the weights file to take; default: the one that fits, a moving average first"
    )
    weights_match: Literal["name", "order"] = Field(
        "name", description="order: names may differ if all tensors match in order and shape"
    )
    options: dict[str, Any] = Field({}, description="keyword arguments of the model's constructor")
    head: Literal["softmax", "sigmoid"] = Field(
        "softmax", description="sigmoid: the network has one output for two classes, the logit of the second"
    )
    output: Annotated[int | str | None, BeforeValidator(_entry)] = Field(
        None, description="of a network that returns a tuple or dict: the place or key of the logits"
    )
    mean: Mean | None = Field(
        None, description="mean of each channel on a 0..1 scale; default: what the weights expect, averaged if not RGB"
    )
    std: Std | None = Field(None, description="standard deviation of each channel on a 0..1 scale; default likewise")
    crop: float | None = Field(
        None,
        ge=0.1,
        le=1,
        description="share of the image kept by the centre crop; default: what the weights expect, 1 to stretch",
    )
    interpolation: Literal["bilinear", "bicubic"] | None = Field(None, description="default: what the weights expect")

    @model_validator(mode="after")
    def _reads_a_file(self) -> Self:
        if self.weights in ("pretrained", "none") and (self.weights_entry is not None or self.weights_match != "name"):
            raise ValueError(f'weights_entry and weights_match are for a weights file, and weights = "{self.weights}"')
        return self


class CleanSection(Section):
    """What to do with each kind of problem that the scan finds."""

    unreadable: Literal["error", "drop"] = Field(
        "error", description="files that are missing, no regular files, or no images"
    )
    mode: Literal["error", "drop", "keep"] = Field("keep", description="palette, grey, CMYK or alpha (keep: as RGB)")
    range: Literal["error", "drop", "keep"] = Field("keep", description="nearly black, e.g. 12-bit values in 16 bits")
    orientation: Literal["error", "drop", "keep"] = Field("keep", description="EXIF-rotated (keep: turn upright)")
    duplicate: Literal["error", "drop", "keep"] = Field("drop", description="same pixels, same class, same split")
    conflict: Literal["error", "drop", "keep"] = Field("error", description="same pixels under two labels")
    leak: Literal["error", "drop", "keep"] = Field("drop", description="same pixels in two splits (drop: from train)")


class DataSection(Section):
    """Where the images come from and how they are split."""

    LATER = frozenset({"exclude", "relabel", "extra"})

    source: Annotated[str, AfterValidator(menu("edgekit.data.sources"))] = Field(
        description="a module of edgekit/data/sources"
    )
    path: str | None = Field(None, description="folder or CSV file, relative to the recipe; may hold ${VAR:-default}")
    name: str | None = Field(None, description="torchvision data set, e.g. Flowers102")
    labels: str | None = Field(None, description="text file, one class name per line (default: found in the data)")
    order: Order | None = Field(
        None, description="how class names are sorted: text is 0, 1, 10, 2 (the default), natural 0, 1, 2, 10"
    )
    label_offset: int = Field(0, ge=-1_000_000, le=1_000_000, description="added to each label of a CSV file")
    input: Sides = Field(224, description="side of the square input in pixels, or [height, width]")
    channels: int = Field(3, ge=1, le=4, description="1: grey, 2: grey and alpha, 3: RGB, 4: RGBA")
    resize: Literal["crop", "stretch", "letterbox"] = Field(
        "crop",
        description="crop: keep the proportions, fill the input, cut off the rest; stretch: give up the proportions; "
        "letterbox: keep them, fit the whole image into the input, in the centre of a border",
    )
    pad: int = Field(0, ge=0, le=255, description="letterbox: value of the border's pixels, in every channel")
    split: Literal["stratified", "strided"] = Field(
        "stratified", description="strided: every n-th image of the sorted list; classes are not balanced"
    )
    val: Share = Field(0.15, description="share of the data for validation, if it has no validation split")
    test: Share = Field(0.15, description="share of the data for testing, if it has no test split")
    seed: Seed = 0
    clean: CleanSection = Field(default_factory=CleanSection)
    exclude: str | list[str] | None = Field(
        None, description='images to leave out: their paths in the data, or a CSV file with a column "path"'
    )
    relabel: str | None = Field(
        None, description='images whose class is another one: a CSV file with the columns "path" and "label"'
    )
    extra: str | None = Field(
        None,
        description='more images for the training split alone, e.g. pseudo-labels: a CSV file with the columns "path", '
        'relative to that file, and "label"',
    )

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of the network's input."""
        height, width = self.input if isinstance(self.input, list) else (self.input, self.input)
        return self.channels, height, width

    @model_validator(mode="after")
    def _has_one_order(self) -> Self:
        if self.labels is not None and self.order is not None:
            raise ValueError("labels is an order of the classes already: give labels or order, not both")
        return self

    @model_validator(mode="after")
    def _leaves_training_data(self) -> Self:
        if self.val + self.test >= 1:
            raise ValueError(f"val + test = {self.val + self.test:g} leaves nothing to train on")
        return self


class PruneSection(Section):
    """Structured pruning: remove whole channels until one target is met."""

    score: Annotated[str, AfterValidator(menu("edgekit.prune.scores"))] = Field(
        "taylor", description="a module of edgekit/prune/scores"
    )
    scope: Literal["global", "local"] = Field(
        "global", description="rank channels over all layers, or within each layer"
    )
    macs: float | None = Field(None, gt=0, lt=1, description="share of the multiply-adds to keep")
    parameters: float | None = Field(None, gt=0, lt=1, description="share of the parameters to keep")
    latency: float | None = Field(None, gt=0, lt=1, description="share of the measured int8 latency to keep")
    round_to: int = Field(8, ge=1, le=64, description="channel counts stay a multiple of this")
    steps: int = Field(5, ge=1, le=1000, description="how many times scores are recomputed on the way")
    keep: list[str] = Field([], description="layers whose outputs are not pruned")
    plan: str | None = Field(None, description="apply this plan (a prune.json) instead of computing one")
    recover: int = Field(8, ge=0, le=100_000, description="epochs of recovery, distilled from the unpruned network")
    lr: float = Field(1e-3, gt=0, description="peak learning rate of the recovery")
    distill: float = Field(0.7, ge=0, le=1, description="weight of the teacher against the labels")
    temperature: Temperature = Field(2.0, description="of the softened logits")
    seed: Seed = 0

    @model_validator(mode="after")
    def _has_one_target(self) -> Self:
        given = [name for name in ("macs", "parameters", "latency", "plan") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of macs, parameters, latency and plan, not {len(given)}")
        return self


class LowerSection(Section):
    """Graph rewrites: by default, only those that do not slow the files down on the devices of the run."""

    rewrites: list[Annotated[str, AfterValidator(menu("edgekit.lower.rewrites"))]] | None = Field(
        None, description="apply exactly these modules of edgekit/lower/rewrites, where they match"
    )
    measure: bool = Field(True, description="time each rewrite on the devices; false: apply all rewrites")


class QatSection(Section):
    """Quantization-aware training, distilled from the float network, in the same graph."""

    epochs: Epochs = 6
    batch: Batch = 32
    lr: float = Field(1e-4, gt=0, description="peak learning rate")
    distill: float = Field(0.9, ge=0, le=1, description="weight of the teacher against the labels")
    temperature: Temperature = Field(2.0, description="of the softened logits")
    freeze: float = Field(
        0.6, ge=0, le=1, description="share of the epochs after which ranges and batch norm are frozen"
    )
    batch_norm: Literal["train", "frozen"] | None = Field(
        None, description="train: with the statistics of each batch, until they are frozen, too; default: frozen"
    )
    ema: float | None = Field(None, gt=0, lt=1, description="decay of an exponential moving average of the weights")


Rungs = Literal["range", "corrections", "rounding", "keep_float", "qat"]


class QuantizeSection(Section):
    """Int8 quantization, decided once for all formats."""

    LATER = frozenset({"activations"})

    method: Literal["ptq", "qat"] = Field("ptq", description="qat: start with quantization-aware training")
    range: Annotated[str, AfterValidator(menu("edgekit.quantize.ranges"))] = Field(
        "minmax", description="a module of edgekit/quantize/ranges"
    )
    ranges: dict[str, Annotated[str, AfterValidator(menu("edgekit.quantize.ranges"))]] = Field(
        {}, description="range module by layer name, for layers whose outputs need another one"
    )
    calibration: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="number of calibration images, from the training split (default: 128, or all it has)",
    )
    activations: Literal["affine", "symmetric"] = Field(
        "affine",
        description="symmetric: zero point 0, as TensorRT and CoreML demand; what that costs is reported",
    )
    equalize: bool = Field(False, description="equalize the channel ranges of neighbouring layers first")
    bias_correction: bool = Field(True, description="correct the mean shift that weight rounding causes")
    rounding: Literal["nearest", "adaptive"] = Field("nearest", description="adaptive: learned per weight (AdaRound)")
    max_drop: float = Field(
        1.0, ge=0, le=100, description="percentage points of top-1 accuracy that int8 may lose against float"
    )
    rescue: list[Rungs] = Field(
        ["range", "corrections", "rounding", "keep_float", "qat"],
        description="what to try, in this order, if int8 loses more than max_drop on the validation split",
    )
    keep_float: list[str] = Field([], description="layers of the torch model to keep in float")
    float_operators: Literal["refuse", "allow"] = Field(
        "refuse", description="allow: operators that have no int8 form run in float, and the report lists them"
    )
    sensitivity: bool = Field(True, description="measure how much accuracy each layer costs")
    qat: QatSection = Field(default_factory=QatSection)
    seed: Seed = 0

    @model_validator(mode="after")
    def _has_one_kind_of_engine(self) -> Self:
        if self.symmetric and self.keep_float:
            raise ValueError(
                f'keep_float = {json.dumps(self.keep_float)} is not allowed with activations = "symmetric": the '
                "engines that this is for (TensorRT, CoreML) choose themselves what runs in float; remove keep_float, "
                'or set activations = "affine"'
            )
        return self

    @property
    def symmetric(self) -> bool:
        """Whether activations have zero point 0."""
        return self.activations == "symmetric"

    @property
    def may_be_float(self) -> list[str] | None:
        """Modules whose operators may compute in float in an integer file; None: those of all."""
        return None if self.float_operators == "allow" else self.keep_float


class ExportSection(Section):
    """Which files to write."""

    formats: list[Literal["onnx", "tflite", "executorch"]] = Field(
        ["onnx", "tflite"], min_length=1, description="executorch: .pte files, fp32 and int8; needs edgekit[executorch]"
    )
    precisions: list[Literal["fp32", "fp16", "int8", "dynamic", "weight_only", "int16x8"]] = Field(
        ["fp32", "int8"], min_length=1, description="int8 needs [quantize]; int16x8 is for TFLite only"
    )
    on_failure: Literal["stop", "skip"] = Field("stop", description="skip: leave out files a converter cannot write")

    @property
    def trial_formats(self) -> list[str]:
        """Formats in which choices are timed: a .pte takes a minute to write, and runs the kernels of a .tflite."""
        return [name for name in self.formats if name != "executorch"] or list(self.formats)

    @model_validator(mode="after")
    def _has_a_format_for_int16(self) -> Self:
        if "int16x8" in self.precisions and "tflite" not in self.formats:
            raise ValueError('precisions: "int16x8" needs "tflite" in formats: ONNX Runtime has no int16x8 kernels')
        return self


class VerifySection(Section):
    """How far the outputs of an exported file may differ from torch."""

    LATER = frozenset({"corruptions"})

    images: int = Field(0, ge=0, le=100_000_000, description="test images to run; 0: all of them")
    agreement: float = Field(
        0.995, ge=0, le=1, description="least share of top-1 classes equal to torch's at the same precision"
    )
    within_one_step: float = Field(
        0.999, ge=0, le=1, description="least share of int8 outputs within one step of torch's"
    )
    tolerance: float = Field(1e-3, gt=0, description="fp32: largest difference relative to the largest logit")
    corruptions: list[Annotated[str, AfterValidator(menu("edgekit.verify.corruptions"))]] = Field(
        [],
        description="modules of edgekit/verify/corruptions: score files on worse test images, too, at three levels",
    )


class ProfileSection(Section):
    """Which devices to measure on."""

    devices: list[str] = Field(["host"], min_length=1, description="names or files of devices")
    accuracy_images: int = Field(
        32,
        ge=0,
        le=100_000_000,
        description="test images, drawn by data.seed, to run on each device other than this machine; 0: none",
    )
    operators: bool = Field(
        True,
        description="time the operators of the fastest quantized and the fastest float file of each device that is "
        "timed; takes about three times the device's run.seconds",
    )
    ship_by: Objective = Field(
        "p50",
        description="what the file that ships must be best at: p50 of an inference, end_to_end (from an encoded image "
        "to a class), or size; limits.ship_by of a device goes before it",
    )
    sustained: Duration | None = Field(
        None, description='how long to run each file continuously, e.g. "10m"; default: what the device file says'
    )


class Recipe(Section):
    """A whole recipe."""

    LATER = frozenset({"distill", "sweep"})

    name: str = Field(
        "", pattern="^[^/]*$", max_length=200, description="name of the run directory; default: the file's name"
    )
    description: str = ""
    model: ModelSection
    data: DataSection
    train: TrainSection | None = None
    distill: DistillSection | None = None
    prune: PruneSection | None = None
    lower: LowerSection = Field(default_factory=LowerSection)
    quantize: QuantizeSection | None = None
    export: ExportSection | None = None
    verify: VerifySection | None = None
    profile: ProfileSection | None = None
    fit: FitSection | None = None
    tune: TuneSection | None = None
    sweep: Sweep | None = Field(None, description="values by key of the recipe, each a list: what edgekit sweep runs")

    @model_validator(mode="after")
    def _fits_the_images(self) -> Self:
        channels = self.data.channels
        for key in ("mean", "std"):
            values = getattr(self.model, key)
            if values is not None and len(values) != channels:
                raise ValueError(f"model.{key} = {values}: one value for each of data.channels = {channels} is needed")
        if self.train and "trivial_augment" in self.train.augment and channels in (2, 4):
            raise ValueError(f'train.augment: "trivial_augment" has no rule for alpha (data.channels = {channels})')
        return self

    @model_validator(mode="after")
    def _keeps_weights(self) -> Self:
        if self.train is not None and self.train.init is not None and self.model.weights != "none":
            raise ValueError(
                f'train.init = "{self.train.init}" would overwrite model.weights = "{self.model.weights}"; leave it '
                'out, or set model.weights = "none"'
            )
        return self

    @model_validator(mode="after")
    def _keeps_zero_points(self) -> Self:
        if self.quantize and self.quantize.symmetric and "uint8_activations" in (self.lower.rewrites or []):
            raise ValueError(
                'lower.rewrites: "uint8_activations" moves zero points to 128, but quantize.activations = "symmetric" '
                "keeps them at 0; leave one of the two out"
            )
        return self

    @field_validator("name")
    @classmethod
    def _is_a_folder(cls, name: str) -> str:
        if name in (".", ".."):
            raise ValueError("this names a folder that exists already; the run directory is named so")
        return name


def schema() -> dict[str, Any]:
    """JSON schema of a recipe, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Recipe.model_json_schema()}
