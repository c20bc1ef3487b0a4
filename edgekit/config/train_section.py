"""The [train] section: transfer learning."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from edgekit.config.menu import menu
from edgekit.config.toml import LARGEST, Section

Seed = Annotated[int, Field(ge=0, le=LARGEST)]
Epochs = Annotated[int, Field(ge=1, le=100_000)]
Batch = Annotated[int, Field(ge=1, le=65_536)]
Part = Annotated[float, Field(gt=0, lt=1)]
Weight = Annotated[float, Field(gt=0, le=1e6)]


class TrainSection(Section):
    """Transfer learning: head first on frozen features, then all layers."""

    LATER = frozenset(
        {
            "accumulate", "class_weights", "clip", "compile", "cutmix", "focal_gamma", "gamma", "init", "layer_decay",
            "loggers", "loss", "milestones", "mixup", "momentum", "plateau", "precision", "sampler", "schedule",
            "unfreeze", "workers",
        }
    )  # fmt: skip

    epochs: Epochs = Field(10, description="epochs over all layers, after the frozen iterations")
    frozen: int = Field(
        0, ge=0, le=1_000_000, description="iterations on the head alone before that, over cached features (L-BFGS)"
    )
    batch: Batch = 32
    optimizer: Literal["adamw", "adam", "sgd", "rmsprop", "adagrad"] | str = Field(
        "adamw", description="adamw, adam, sgd (Nesterov), rmsprop, adagrad, or any other of timm by its name there"
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="of sgd and rmsprop")
    lr: float = Field(1e-3, gt=0, description="peak learning rate of the backbone")
    head_lr: float | None = Field(None, gt=0, description="peak learning rate of the head (default: lr)")
    layer_decay: float | None = Field(
        None, gt=0, le=1, description="factor of the rate from each group of layers to the one before it"
    )
    unfreeze: int | None = Field(
        None, ge=1, le=100_000, description="epochs until one more group of layers is trained, from the head backwards"
    )
    schedule: Annotated[str, AfterValidator(menu("edgekit.train.schedules"))] = Field(
        "cosine", description="a module of edgekit/train/schedules"
    )
    milestones: list[Part] = Field(
        [0.5, 0.75], max_length=100, description="step: shares of the epochs after which the rate falls"
    )
    gamma: Part = Field(0.1, description="step and plateau: factor by which the rate falls")
    plateau: int = Field(3, ge=0, le=100_000, description="plateau: epochs without a better loss before the rate falls")
    weight_decay: float = Field(0.05, ge=0)
    warmup: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="share of the steps over which the rate rises: linearly, but as a cosine in one_cycle",
    )
    clip: float | None = Field(None, gt=0, description="largest norm of all gradients together; longer ones are scaled")
    accumulate: int = Field(1, ge=1, le=65_536, description="batches whose gradients make one step")
    precision: Literal["fp32", "bf16", "fp16", "auto"] = Field(
        "fp32",
        description="of the multiplications; fp16: on a GPU only; auto: bf16 on a GPU that has it, and on a CPU "
        "where it is measured to be faster",
    )
    compile: bool = Field(False, description="train the network through torch.compile")
    init: Literal["kaiming", "xavier"] | None = Field(
        None, description='how layers are initialised where model.weights = "none" (default: as the network does it)'
    )
    loss: Annotated[str, AfterValidator(menu("edgekit.train.losses"))] = Field(
        "cross_entropy", description="a module of edgekit/train/losses"
    )
    focal_gamma: float = Field(2.0, ge=0, le=20, description="focal: how much less easy images count")
    class_weights: Literal["none", "balanced"] | dict[str, Weight] = Field(
        "none", description="of the loss: balanced (by the inverse of the images of a class), or a weight by class name"
    )
    sampler: Literal["shuffle", "balanced"] = Field(
        "shuffle", description="balanced: images are drawn with replacement, each class as often as any other"
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    mixup: float | None = Field(None, gt=0, le=100, description="alpha of Mixup: batches are mixed with themselves")
    cutmix: float | None = Field(
        None, gt=0, le=100, description="alpha of CutMix; with mixup, too, each batch takes one of the two"
    )
    augment: list[
        Literal[
            "random_crop", "flip", "vertical_flip", "color_jitter", "trivial_augment", "rand_augment", "random_erasing"
        ]
    ] = Field([])
    batch_norm: Literal["train", "frozen"] = Field("train", description="frozen: keep the running statistics")
    ema: float | None = Field(None, gt=0, lt=1, description="decay of an exponential moving average of the weights")
    patience: int | None = Field(
        None, ge=1, le=100_000, description="stop after this many epochs without a better validation loss"
    )
    workers: int | None = Field(
        None, ge=0, le=256, description="processes that prepare images beside the training (default: by measuring)"
    )
    loggers: list[Annotated[str, AfterValidator(menu("edgekit.train.loggers"))]] = Field(
        [], description="modules of edgekit/train/loggers, besides the CSV that is always written"
    )
    seed: Seed = 0

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if self.milestones != sorted(set(self.milestones)):
            raise ValueError(f"milestones = {self.milestones}: give them in rising order, each once")
        if self.sampler == "balanced" and self.class_weights != "none":
            raise ValueError('sampler = "balanced" and class_weights both correct for rare classes: choose one')
        return self
