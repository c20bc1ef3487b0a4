"""Files of pruned networks for timing, cut from those of the whole network where that is exact: no export of each.

Quantizing and converting a network takes half a minute, cutting its file a fraction of a second. The time of integer
kernels does not depend on the values that they compute with, so that a cut file runs as long as an exported one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from onnx import load_from_string
from torch import Tensor, nn
from torch.fx import GraphModule

from edgekit.config.recipe import QuantizeSection
from edgekit.export import layer_names, narrow_layers, narrow_onnx, narrow_tflite, onnx_weights
from edgekit.export.formats import onnx, tflite
from edgekit.export.narrow_shapes import CannotCut, Cut
from edgekit.export.port import exporter
from edgekit.search.trial_files import quick_graph, quick_int8
from edgekit.types import SUFFIXES, Size, shape_of

CUTTERS: Mapping[str, Callable[[bytes, Mapping[str, Cut]], bytes]] = {
    "onnx": narrow_onnx.narrowed,
    "tflite": narrow_tflite.narrowed,
}
"""By format; files of others are always exported."""
REWRITES = {
    "onnx": tuple(each.NAME for each in onnx.REWRITES),
    "tflite": tuple(each.NAME for each in tflite.REWRITES),
}


@dataclass(frozen=True)
class Exported:
    """A file that could not be cut from the whole network's and was exported."""

    network: str
    """Name of the folder that it is in."""
    format: str
    reason: str


class Template:
    """The whole network's files, from which those of pruned networks are cut.

    Args:
        whole: the float network, in eval mode.
        size: shape of an image.
        images: float32 tensors of that shape, preprocessed as the network expects; two are enough.
        pixels: every value that the input can take, as `edgekit.data.transforms.levels` gives them.
        section: the recipe's choices; None for files in fp32, which are always exported.
        formats: which files to make.
        folder: for the whole network's own files, as the exporters write them.

    What calibration decides about operators, the clamps that a range implies and the grids that a sum can have, is as
    in the whole network.

    Raises:
        Shortfall: a converter refuses the network.
    """

    def __init__(
        self,
        whole: nn.Module,
        size: Size,
        images: Sequence[Tensor],
        pixels: Tensor,
        section: QuantizeSection | None,
        formats: Sequence[str],
        folder: Path,
    ) -> None:
        self._size, self._images, self._pixels, self._section = size, images, pixels, section
        self._formats = tuple(formats)
        self._converted: dict[str, bytes] = {}
        self.exported: list[Exported] = []
        """What had to be exported, and why, in the order of calls."""
        folder.mkdir(parents=True, exist_ok=True)
        if section is None or not set(formats) & CUTTERS.keys():
            return
        graph = quick_graph(whole, size, images, pixels, section)
        for name in self._formats:
            if name in CUTTERS:
                exporter(name).export(graph, size, "int8", folder, self._keep(name, graph), section.may_be_float)
        self._layers = narrow_layers.layers(graph, whole, size)

    def files(self, pruned: nn.Module, folder: Path, size: Size | None = None) -> dict[str, Path]:
        """Write the files of a pruned network, by format.

        Args:
            pruned: the whole network with fewer channels, or with all of them; in eval mode.
            folder: where to write ``model-int8``, or ``model-fp32``, in each format.
            size: shape of an image; None is that of the template, for others files are exported.

        Raises:
            Shortfall: a converter refuses the network.
        """
        folder.mkdir(parents=True, exist_ok=True)
        made: dict[str, Path] = {}
        reasons: dict[str, str] = {}
        try:
            cuts = self._cuts(pruned, size)
        except CannotCut as trouble:
            reasons = dict.fromkeys(self._formats, str(trouble))
        else:
            for name in self._formats:
                try:
                    made[name] = self._cut(name, cuts, folder)
                except CannotCut as trouble:
                    reasons[name] = str(trouble)
        if reasons:
            made |= self._export(pruned, list(reasons), folder, size)
        self.exported += [Exported(folder.name, name, reason) for name, reason in reasons.items()]
        return {name: made[name] for name in self._formats}

    def _cuts(self, pruned: nn.Module, size: Size | None) -> Mapping[str, Cut]:
        if self._section is None:
            raise CannotCut("a file in fp32")
        if size is not None and shape_of(size) != shape_of(self._size):
            raise CannotCut(f"an image of another shape: {size}")
        return narrow_layers.cuts(self._layers, pruned, self._size) if self._converted else {}

    def _cut(self, name: str, cuts: Mapping[str, Cut], folder: Path) -> Path:
        if name not in CUTTERS:
            raise CannotCut("a format whose files are not cut")
        data, _ = exporter(name).lowered(CUTTERS[name](self._converted[name], cuts))
        if name == "onnx":
            model = load_from_string(onnx_weights.keep_float(data))
            layer_names.name_onnx(model)
            data = model.SerializeToString(deterministic=True)
        path = folder / f"model-int8{SUFFIXES[name]}"
        path.write_bytes(data)
        return path

    def _export(self, module: nn.Module, formats: Sequence[str], folder: Path, size: Size | None) -> dict[str, Path]:
        size = size or self._size
        images = self._images if size == self._size else [resized(image, size) for image in self._images]
        if self._section is None:
            made = {name: exporter(name).export(module, size, "fp32", folder) for name in formats}
        else:
            made = quick_int8(module, size, images, self._pixels, self._section, formats, folder)
        return {name: folder / artifact.path for name, artifact in made.items()}

    def _keep(self, name: str, graph: GraphModule) -> Callable[[bytes], Sequence[str]]:
        """Every rewrite, as the exporters ask for it; and on the way, the file before them."""

        def choose(converted: bytes) -> Sequence[str]:
            # The layers of a .tflite file are found by the shapes of the whole network.
            named = layer_names.name_tflite(converted, graph) if name == "tflite" else converted
            self._converted[name] = named
            return REWRITES[name]

        return choose


def resized(image: Tensor, size: Size) -> Tensor:
    """An image of another height and width, the nearest pixels of the first: every value stays a pixel's."""
    shape = shape_of(size)[1:]
    return nn.functional.interpolate(image.unsqueeze(0), shape, mode="nearest").squeeze(0)
