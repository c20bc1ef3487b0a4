"""A bundle, ready to predict: one artifact on one engine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from importlib.util import find_spec
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.runtime import image_file, preprocess
from edgekit.runtime._tensor import FromPixels, FromValues
from edgekit.runtime.errors import RuntimeFault, first_line
from edgekit.runtime.port import Port, dequantize

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgekit.runtime.bundle import Bundle
    from edgekit.runtime.port import Session

_MS = 1e6  # nanoseconds


@dataclass(frozen=True)
class Class:
    """A label with its score."""

    label: str | None
    index: int
    score: float


@dataclass(frozen=True, eq=False)
class Result:
    """A model's prediction for one input."""

    label: str | None
    """None if the bundle has no labels."""
    index: int
    """Index of the largest output."""
    score: float
    scores: npt.NDArray[np.float32] = field(repr=False)
    """float32 [classes], after the activation that the manifest names; read-only."""
    ms: float
    """Milliseconds from the input to the scores: decoding, preprocessing, inference."""
    _labels: tuple[str, ...] = field(repr=False)

    def top(self, k: int) -> tuple[Class, ...]:
        """The `k` best classes (all, if there are fewer), best first; for equal scores the lower index comes first."""
        order = np.argsort(-self.scores, kind="stable")
        rest = order[order != self.index]  # scores may saturate and tie where the outputs do not
        best = [self.index, *rest.tolist()][: max(k, 0)]
        return tuple(Class(self._labels[i] if self._labels else None, i, float(self.scores[i])) for i in best)


class Model:
    """An opened bundle. Made by `load`; any number of threads may use it at the same time.

    TFLite interpreters run one inference at a time, ONNX Runtime several.
    """

    labels: tuple[str, ...]
    """One per output, in order, or two for a single logit; empty if the bundle has none."""
    takes_images: bool
    """False: it takes arrays of real values."""

    def __init__(self, bundle: Bundle, artifact: dict[str, Any], session: Session, info: dict[str, Any]) -> None:
        """Use `load`. The bundle is not kept: its bytes are freed once the engine has what it needs."""
        self.labels = bundle.labels
        self._path, self._session, self._info = bundle.path, session, info
        where = f"{bundle.path}: {artifact['id']}"
        self._input = _agreed(artifact["input"], session.input, f"{where}: input")
        self._dtype = np.dtype(self._input.dtype)
        self._output = _agreed(artifact["output"], session.output, f"{where}: output")
        self._activation = _ACTIVATIONS[bundle.manifest["postprocessing"]["activation"]]
        preprocessing = bundle.manifest["preprocessing"]
        self._spec = preprocess.Preprocessing.of(preprocessing) if preprocessing["kind"] == "image" else None
        self.takes_images = self._spec is not None
        self._tensor: FromPixels | FromValues = FromValues(self._input)
        if self._spec:
            self._tensor = FromPixels(self._spec, self._input, artifact["input"]["layout"])

    def __call__(self, image: Any) -> Result:
        """Predict one image.

        Args:
            image: path of a JPEG or PNG file, its bytes (both need Pillow), a Pillow image, or a uint8 array
                [height, width, 3], [height, width, 1] or [height, width] of any size. For a model of other inputs
                (kind = "tensor"): an array of real values in the model's own shape, the leading 1 optional.

        Raises:
            RuntimeFault: the input cannot be read, has the wrong type, shape or dtype, or holds NaN; the engine
                failed; the model is closed; memory ran out.
        """
        start = perf_counter_ns()
        return self._finish(self._prepare(image), start)

    def batch(self, images: Iterable[Any]) -> list[Result]:
        """Predict several images, in order, as `stream` does."""
        return list(self.stream(images))

    def stream(self, images: Iterable[Any]) -> Iterator[Result]:
        """Predict images as they come: threads read and prepare the next ones while the engine works.

        Files are prepared on at most four cores, not counting those that the engine's further threads use. An array or
        a Pillow image is prepared before the iterable is asked for the next one, since that may overwrite it. At
        most two images wait, and one more for each further core. What the iterable or an image raises is raised where
        its result would have been. The threads end with the generator: close it, or leave the loop.
        Only an iterable that blocks can keep one alive, until its next item.

        Args:
            images: each as in `__call__`.

        Yields:
            A result for each, in order; its `ms` leaves out waiting.
        """
        for outcome in self.outcomes(images):
            if isinstance(outcome, RuntimeFault):
                raise outcome
            yield outcome

    def outcomes(self, images: Iterable[Any]) -> Iterator[Result | RuntimeFault]:
        """Like `stream`, but yields a fault in place of its result and goes on with the other images."""
        if isinstance(images, (str, bytes, os.PathLike)):
            raise RuntimeFault("several images are needed: put a single one into a list")
        from edgekit.runtime import machine
        from edgekit.runtime._stream import ahead

        def prepare(image: Any) -> tuple[npt.NDArray[Any] | RuntimeFault, int]:
            start = perf_counter_ns()
            try:
                tensor = self._prepare(image)
                if isinstance(image, np.ndarray) and np.may_share_memory(tensor, image):
                    tensor = tensor.copy()
                return tensor, perf_counter_ns() - start
            except RuntimeFault as fault:
                return fault, 0

        threads = max(1, min(machine.cores() - self._info["threads"] + 1, 4))
        with closing(ahead(images, prepare, 2, threads, _is_file)) as prepared:
            for tensor, spent in prepared:
                if isinstance(tensor, RuntimeFault):
                    yield tensor
                    continue
                try:
                    result = self._finish(tensor, perf_counter_ns() - spent)
                except RuntimeFault as fault:
                    yield fault
                else:
                    yield result

    def raw(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """One inference on the engine's own terms; nothing is converted, and a contiguous array is not copied.

        Args:
            array: has the model's input shape (a leading 1 may be left out) and dtype; see `info`.

        Returns:
            The output, [1, classes] as the file has it, in its own dtype.

        Raises:
            RuntimeFault: wrong shape or dtype, the engine failed, or the model is closed.
        """
        port = self._input
        if not isinstance(array, np.ndarray):
            raise RuntimeFault(f"{self._path}: input: an array is needed, not {type(array).__name__}")
        if array.shape != port.shape or array.dtype != self._dtype:
            if array.dtype != self._dtype or array.shape != port.shape[1:]:
                wanted, given = _text(port.dtype, port.shape), _text(str(array.dtype), array.shape)
                raise RuntimeFault(f"{self._path}: input: {wanted} is needed, not {given}")
            array = array[None]
        if not array.flags.c_contiguous:
            array = np.ascontiguousarray(array)
        return self._session.run(array)

    @property
    def info(self) -> dict[str, Any]:
        """What runs, as plain data.

        Path, name, artifact, format, precision, engine, version, provider, threads, input and output (ports as in the
        manifest), labels (their number), digest, signed_by, golden (the largest difference found, or None).
        """
        return dict(self._info)

    def close(self) -> None:
        """Free the engine's memory; the model cannot predict any more. Closing twice is no error."""
        self._session.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _prepare(self, image: Any) -> npt.NDArray[Any]:
        try:
            if self._spec:
                image = preprocess.pixels(image, self._spec)
            return self._tensor(image)
        except MemoryError as error:
            raise RuntimeFault(f"{self._path}: input: {first_line(error)}") from error

    def steps(self, file: bytes) -> tuple[float, float, float, float]:
        """Times of the steps of predicting an encoded image, in milliseconds: decode, preprocess, infer, postprocess.

        The same calls as in `__call__`, with the clock read in between.

        Raises:
            RuntimeFault: as `__call__`; or the model takes no images.
        """
        if self._spec is None:
            raise RuntimeFault(f"{self._path}: this model takes no images")
        clock = perf_counter_ns
        try:
            start = clock()
            with image_file.strict_pillow():
                image = preprocess.upright(file, self._spec)
                decoded = clock()
                tensor = self._tensor(preprocess.from_image(image, self._spec))
            prepared = clock()
        except RuntimeFault:
            raise
        except Exception as error:  # Pillow's decoders raise many kinds
            raise RuntimeFault(f"{self._path}: image: {first_line(error)}") from error
        output = self._session.run(tensor)
        inferred = clock()
        self._result(output, start)
        end = clock()
        return (decoded - start) / _MS, (prepared - decoded) / _MS, (inferred - prepared) / _MS, (end - inferred) / _MS

    def _finish(self, tensor: npt.NDArray[Any], start: int) -> Result:
        return self._result(self._session.run(tensor), start)

    def _result(self, output: npt.NDArray[Any], start: int) -> Result:
        output = dequantize(output, self._output).reshape(-1)
        scores = self._activation(output)
        if len(output) == 1 and len(self.labels) == 2:  # the logit of the second class
            scores = np.concatenate([1 - scores, scores])
            index = int(output[0] > 0)
        else:
            index = int(output.argmax())
        score = float(scores[index])
        if score != score:  # argmax stops at the first NaN
            raise RuntimeFault(f"{self._path}: the engine's output is NaN; run selftest")
        scores.setflags(write=False)
        label = self.labels[index] if self.labels else None
        return Result(label, index, score, scores, (perf_counter_ns() - start) / _MS, self.labels)


def replay(model: Model, bundle: Bundle, artifact: dict[str, Any]) -> float | None:
    """Golden vectors through the model, and golden images through its preprocessing; see `edgekit.runtime._golden`.

    Raises:
        RuntimeFault: something is further away than its tolerance.
    """
    from edgekit.runtime import _golden, engine_menu

    own = engine_menu.bound(model.info["engine"])
    where = f"{model.info['engine']} {model.info['version']}"
    spec = model._spec
    if spec and find_spec("PIL"):
        _golden.check_images(bundle, lambda file: preprocess.pixels(file, spec))
    return _golden.replay(
        bundle, artifact, lambda x: model._session.run(model._tensor(x)), model._session.provider, where, own
    )


def _agreed(stated: dict[str, Any], port: Port, where: str) -> Port:
    """The port with the file's name and shape and the manifest's scale, which ONNX files do not state."""
    scale, zero_point = stated.get("scale"), stated.get("zero_point")
    wanted, real = (stated["dtype"], tuple(stated["shape"])), (port.dtype, port.shape)
    if wanted != real:
        raise RuntimeFault(f"{where}: the file has {_text(*real)}, the manifest says {_text(*wanted)}")
    if port.scale is not None and (
        scale is None or abs(scale - port.scale) > 1e-6 * port.scale or zero_point != port.zero_point
    ):
        raise RuntimeFault(
            f"{where}: the file has scale {port.scale:.9g} and zero point {port.zero_point}, "
            f"the manifest says {scale} and {zero_point}"
        )
    return Port(port.name, port.shape, port.dtype, scale, zero_point)


def _is_file(image: Any) -> bool:
    return isinstance(image, (str, bytes, os.PathLike))


def _text(dtype: str, shape: Sequence[int]) -> str:
    return f"{dtype} {list(shape)}"


def _softmax(outputs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    with np.errstate(invalid="ignore"):  # inf - inf: the caller refuses the NaN
        powers = np.exp(outputs - outputs.max())
    result: npt.NDArray[np.float32] = powers / powers.sum()
    return result


def _sigmoid(outputs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    with np.errstate(over="ignore"):  # exp(-x) = inf gives the 0 it should
        result: npt.NDArray[np.float32] = np.reciprocal(1 + np.exp(-outputs))
    return result


_ACTIVATIONS: dict[str, Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]] = {
    "softmax": _softmax,
    "sigmoid": _sigmoid,
    "none": lambda outputs: np.array(outputs),
}
