"""The [distill] section: a network to learn from."""

from __future__ import annotations

from pydantic import Field

from edgekit.config.toml import Section


class DistillSection(Section):
    """Learn from another network: in training, in the recovery after pruning, and in quantization-aware training.

    The last two have a weight and a temperature of their own.
    """

    teacher: str = Field(
        min_length=1, description="a run directory, an .onnx or .tflite file, or a timm name with pretrained weights"
    )
    weight: float = Field(0.7, ge=0, le=1, description="weight of the teacher against the labels, in training")
    temperature: float = Field(2.0, ge=0.01, le=1000, description="of the softened logits, in training")
