"""The head phase: fit the classifier on features of the frozen network, which are computed once."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgekit.data.dataset import ImageSet, load
from edgekit.graph import eager
from edgekit.graph.logits import per_class
from edgekit.models import head
from edgekit.train.crew import Crew

# On standardised features; between 0.01 and 0.1 the validation loss of a MobileNetV2 head barely moves.
_RIDGE = 0.03


def features(module: nn.Module, images: ImageSet, batch: int = 64, crew: Crew | None = None) -> tuple[Tensor, Tensor]:
    """The classifier's input for each image of a split, with the network in eval mode.

    Returns:
        The head's inputs, float32 [n, ...], and labels, int64 [n], on the network's device.
    """
    device, form = next(module.parameters()).device, eager.format_of(module)
    seen: list[Tensor] = []
    crew = crew or Crew()
    places = range(len(images))[crew.rank :: crew.size]
    hook = head(module).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].float()))
    module.eval()
    try:
        with torch.no_grad():
            for values, _ in load(images, [places[start : start + batch] for start in range(0, len(places), batch)]):
                module(values.to(device, memory_format=form))
    finally:
        hook.remove()
    labels = torch.tensor([sample.label for sample in images.samples], device=device)
    return crew.gather(torch.cat(seen).cpu(), len(images)).to(device), labels


def fit(classifier: nn.Module, inputs: Tensor, labels: Tensor, iterations: int, smoothing: float) -> None:
    """Fit a classifier in place: cross entropy with a ridge penalty, by L-BFGS.

    A linear classifier is fitted on standardised features, which conditions the problem well, and the
    standardisation is then folded into its weights.

    Args:
        classifier: the head.
        inputs: the head's inputs, float32 [n, ...].
        labels: int64 [n].
        iterations: L-BFGS iterations, each about one pass over the inputs.
        smoothing: label smoothing, 0..1.
    """
    if not isinstance(classifier, nn.Linear):
        _solve(classifier, inputs, labels, iterations, smoothing)
        return
    spread = inputs.std(0).clamp_min(1e-6)
    mean = inputs.mean(0) if classifier.bias is not None else torch.zeros_like(spread)
    with torch.no_grad():
        if classifier.bias is not None:
            classifier.bias.add_(classifier.weight @ mean)
        classifier.weight.mul_(spread)
    _solve(classifier, (inputs - mean) / spread, labels, iterations, smoothing)
    with torch.no_grad():
        classifier.weight.div_(spread)
        if classifier.bias is not None:
            classifier.bias.sub_(classifier.weight @ mean)


def _solve(classifier: nn.Module, inputs: Tensor, labels: Tensor, iterations: int, smoothing: float) -> None:
    weights = [weight for weight in classifier.parameters() if weight.ndim > 1]
    solver = torch.optim.LBFGS(classifier.parameters(), max_iter=iterations, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        value = functional.cross_entropy(per_class(classifier(inputs)), labels, label_smoothing=smoothing)
        value = value + _RIDGE * torch.stack([weight.square().sum() for weight in weights]).sum()
        torch.autograd.backward(value)
        return value

    classifier.eval()
    solver.step(loss)  # type: ignore[no-untyped-call]
    solver.zero_grad()
