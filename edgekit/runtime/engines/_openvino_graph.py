"""What is changed in a graph before OpenVINO compiles it: activation functions read values that are not yet rounded.

An int8 file rounds before a sigmoid and behind it. OpenVINO has no integer kernel for that: it computes each SiLU in a
pass of its own over the whole tensor, in float, and does not recognise the function that it could append to a
convolution. On EfficientNet-B0 these passes took more than half of the time, and int8 was slower than float. Without
the roundings in between, all of it is one kernel from int8 to int8, and values come nearer to those of the float
network. The ranges of what is before and behind stay. The same goes for hard-swish, which a file writes as a product
of a value and its clamped bytes.
"""

from __future__ import annotations

from typing import Any

_LAST = 255
"""The largest byte: activations of .onnx files are uint8."""


def unrounded(model: Any) -> int:
    """Rewrite a graph in place; returns how many activation functions now read the value before its rounding.

    Args:
        model: openvino.Model, as read from a file with QuantizeLinear and DequantizeLinear.
    """
    from openvino import opset4  # type: ignore[import-not-found,import-untyped,unused-ignore]

    count = 0
    for node in model.get_ordered_ops():
        kind = node.get_type_name()
        if kind == "Sigmoid" and (exact := _before_rounding(node.input_value(0))) is not None:
            x = node.input_value(0)
            node.input(0).replace_source_output(exact)
            for product in [each.get_node() for each in x.get_target_inputs()]:
                if product.get_type_name() == "Multiply" and _gate(product, x) == node.output(0):
                    _replace(product, opset4.swish(exact))
            count += 1
        elif kind == "Multiply":
            exact = _hard_swished(node)
            if exact is not None:
                six = opset4.constant(6.0, exact.get_element_type())
                _replace(node, opset4.multiply(opset4.hswish(exact), six))
                count += 1
    return count


def _replace(old: Any, new: Any) -> None:
    new.set_friendly_name(old.get_friendly_name())
    old.output(0).replace(new.output(0))


def _gate(product: Any, x: Any) -> Any:
    """What a product multiplies `x` by, before its rounding."""
    first, second = product.input_values()
    return _before_rounding(second if first == x else first)


def _before_rounding(value: Any) -> Any:
    """What was quantized and dequantized into a value; None if it was not."""
    found = _dequantized(value)
    if found is None:
        return None
    node = found[0].get_node()
    if node.get_type_name() == "Convert":
        node = node.input_value(0).get_node()
    return node.input_value(0) if node.get_type_name() == "FakeQuantize" else None


def _hard_swished(product: Any) -> Any:
    """The float value x of a product ``x * min(max(x + 3, 0), 6)`` that is clamped in bytes; None if it is another."""
    pair = product.input_values()
    for x, gate in (pair, pair[::-1]):
        one, other = _dequantized(x), _dequantized(gate)
        exact = _before_rounding(x)
        if one is None or other is None or exact is None:
            continue
        (whole, zero, scale), (clamped, low, same) = one, other
        limits = _clamp(clamped, whole)
        if limits is None or scale != same:
            continue
        shift, first, last = ((each - low) * scale for each in (zero, *limits))
        ends = limits[1] == _LAST or abs(last - 6) <= scale / 2  # x may end below 3
        if ends and last < 6 + scale and abs(shift - 3) <= scale / 2 and abs(first) <= scale / 2:
            return exact
    return None


def _dequantized(value: Any) -> tuple[Any, float, float] | None:
    """The integers behind a dequantized value, their zero point and scale (of a whole tensor); None if it is none."""
    multiply = value.get_node()
    if multiply.get_type_name() != "Multiply":
        return None
    node, scale = multiply.input_value(0).get_node(), _number(multiply.input_value(1))
    zero: float | None = 0.0
    if node.get_type_name() == "Subtract":
        node, zero = node.input_value(0).get_node(), _number(node.input_value(1))
    if node.get_type_name() != "Convert" or zero is None or scale is None:
        return None
    return node.input_value(0), zero, scale


def _clamp(value: Any, source: Any) -> tuple[float, float] | None:
    """The limits between which a value is `source`; None if it is something else."""
    limits = []
    for kind in ("Minimum", "Maximum"):
        node = value.get_node()
        if node.get_type_name() != kind:
            return None
        numbers = [_number(each) for each in node.input_values()]
        place = 0 if numbers[0] is None else 1
        if (limit := numbers[1 - place]) is None:
            return None
        limits.append(limit)
        value = node.input_value(place)
    return (limits[1], limits[0]) if value == source else None


def _number(value: Any) -> float | None:
    """The one value of a constant, converted or not; None if it is none or has several."""
    node = value.get_node()
    if node.get_type_name() == "Convert":
        node = node.input_value(0).get_node()
    if node.get_type_name() != "Constant" or node.get_data().size != 1:
        return None
    return float(node.get_data().ravel()[0])
