"""What is changed in a graph before OpenVINO compiles it: activation functions read values that are not yet rounded.

An int8 file rounds before a sigmoid and again behind it. OpenVINO has no integer kernel for that: it computes each
``x * sigmoid(x)`` in a pass of its own over the whole tensor, in float, and does not recognise the function that it
could append to a convolution. On EfficientNet-B0 these passes took more than half of the time, and int8 was slower than float.
Without the roundings in between, all of it is one kernel from int8 to int8, and values come nearer to those of the float
network. The ranges of what is before and behind stay.
"""

from __future__ import annotations

from typing import Any


def unrounded(model: Any) -> int:
    """Rewrite a graph in place; returns how many sigmoids now read the value before its rounding.

    Args:
        model: openvino.Model, as read from a file with QuantizeLinear and DequantizeLinear.
    """
    from openvino import opset4  # type: ignore[import-not-found,import-untyped,unused-ignore]

    count = 0
    for node in model.get_ordered_ops():
        if node.get_type_name() != "Sigmoid":
            continue
        x = node.input_value(0)
        exact = _before_rounding(x)
        if exact is None:
            continue
        count += 1
        node.input(0).replace_source_output(exact)
        for product in [each.get_node() for each in x.get_target_inputs()]:
            if product.get_type_name() == "Multiply" and _gated(product, x) == node.output(0):
                swish = opset4.swish(exact)
                swish.set_friendly_name(product.get_friendly_name())
                product.output(0).replace(swish.output(0))
    return count


def _gated(product: Any, x: Any) -> Any:
    """What a product multiplies `x` by, before its rounding."""
    first, second = product.input_values()
    return _before_rounding(second if first == x else first)


def _before_rounding(value: Any) -> Any:
    """What was quantized and dequantized into a value; None if it was not."""
    node = value.get_node()
    for kind, needed in (("Multiply", True), ("Subtract", False), ("Convert", True), ("Convert", False)):
        if node.get_type_name() == kind:
            node = node.input_value(0).get_node()
        elif needed:
            return None
    return node.input_value(0) if node.get_type_name() == "FakeQuantize" else None
