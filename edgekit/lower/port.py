"""What every rewrite offers: of the graph before it is converted, or of a converted file."""

from __future__ import annotations

from typing import Protocol, cast

import onnx
from torch.fx import GraphModule

from edgekit import choices


class Rewrite(Protocol):
    """What the rewrites of all scopes have in common."""

    NAME: str
    """The module's own."""
    SCOPE: str
    """What `apply` takes: a "graph", or a file of "onnx" or "tflite"."""


class GraphRewrite(Rewrite, Protocol):
    """A module of ``edgekit/lower/rewrites`` of scope "graph": of the torch graph that every format is made from."""

    NEEDED: str
    """Why it is applied whatever it costs: what would happen without it; "" where time decides."""

    def apply(self, graph: GraphModule) -> int:
        """Rewrite every match in place.

        Args:
            graph: exported and float (`edgekit.quantize.ptq.FLOAT_REWRITES`), or quantized (the others).

        Returns:
            How many.
        """

    def matches(self, graph: GraphModule) -> int:
        """How many places of a float graph it would change; the graph stays as it is."""

    def matters(self, graph: GraphModule) -> bool:
        """Whether it changes a kernel of this float graph, so that there is something to time.

        Args:
            graph: with all rewrites of float graphs applied.
        """


class OnnxRewrite(Rewrite, Protocol):
    """A module of ``edgekit/lower/rewrites`` of scope "onnx"."""

    def apply(self, model: onnx.ModelProto) -> int:
        """Rewrite every match in place; returns how many. Shapes of all values are known."""


class TfliteRewrite(Rewrite, Protocol):
    """A module of ``edgekit/lower/rewrites`` of scope "tflite"."""

    def apply(self, data: bytearray) -> int:
        """Rewrite every match in the file's bytes, in place and without moving any; returns how many."""


def rewrite(name: str, where: str = "lower.rewrites") -> Rewrite:
    """The module of ``edgekit/lower/rewrites`` with that name.

    Raises:
        InputError: there is no such rewrite.
    """
    return cast(Rewrite, choices.pick("edgekit.lower.rewrites", name, where))


def graph_rewrite(name: str, where: str = "lower.rewrites") -> GraphRewrite:
    """One of scope "graph"; see `rewrite`."""
    module = rewrite(name, where)
    assert module.SCOPE == "graph"
    return cast(GraphRewrite, module)
