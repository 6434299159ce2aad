"""What stands before and after the network in the exported graph, as plain ONNX operators.

Before it: the centre square, the resize of :func:`derm_t2im.imaging.io.square` (OpenCV's INTER_AREA when
shrinking, INTER_CUBIC when enlarging), rounded to whole grey levels as training images are, and the
normalisation. Both resizes are linear in rows and in columns: ``W @ image @ W.T``, with weights that the graph
computes from the sizes. An image that has the right size already goes past all that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx

# Row i of `area` holds how much of output pixel i each input pixel covers: the overlap of [i n, (i + 1) n] with
# [j size, (j + 1) size], in units of 1 / size; whole numbers below 2^24, so exact in float32.
# Row i of `cubic` holds Keys' kernel (a = -0.75) at the four pixels around x = (i + 1/2) n / size - 1/2; what lies
# outside counts for the border pixel.
# OpenCV rounds halves up where it shrinks by two, and to even elsewhere: `nudge`.
_BEFORE = """
<ir_version: 10, opset_import: ["" : {opset}]>
prepare (uint8[batch, height, width, 3] image) => (float[batch, 3, {size}, {size}] pixels)
<int64 zero_i = {{0}}, int64 one_i = {{1}}, int64 size_i = {{{size}}}, int64[1] two_i = {{2}}, int64[2] axes = {{1, 2}},
 int64[1] first = {{0}}, int64[1] last = {{-1}}, int64[2] keep_rows = {{0, {size}}}, int64[1] channels = {{3}},
 float zero = {{0}}, float one = {{1}}, float size = {{{size}}}, float white = {{255}}, float eighth = {{0.125}},
 float[4,1,1] taps = {{-1, 0, 1, 2}}, float a = {{-0.75}}, float near_3 = {{1.25}}, float near_2 = {{2.25}},
 float four = {{4}}, float five = {{5}}, float eight = {{8}}>
{{
  h = Shape<start = 1, end = 2>(image)
  w = Shape<start = 2, end = 3>(image)
  side = Min(h, w)
  over_h = Sub(h, side)
  over_w = Sub(w, side)
  top = Div(over_h, two_i)
  left = Div(over_w, two_i)
  begin = Concat<axis = 0>(top, left)
  bottom = Add(top, side)
  right = Add(left, side)
  end = Concat<axis = 0>(bottom, right)
  crop = Slice(image, begin, end, axes)
  n_i = Squeeze(side)
  fits = Equal(n_i, size_i)
  grey = If(fits) <
    then_branch = as_it_is () => (float[batch, 3, {size}, {size}] kept) {{
      crop_f = Cast<to = 1>(crop)
      kept = Transpose<perm = [0, 3, 1, 2]>(crop_f)
    }},
    else_branch = resized () => (float[batch, 3, {size}, {size}] whole) {{
      rows_i = Range(zero_i, size_i, one_i)
      rows_f = Cast<to = 1>(rows_i)
      i = Unsqueeze(rows_f, last)
      columns_i = Range(zero_i, n_i, one_i)
      columns_f = Cast<to = 1>(columns_i)
      j = Unsqueeze(columns_f, first)
      n = Cast<to = 1>(n_i)
      from_i = Mul(i, n)
      to_i = Add(from_i, n)
      from_j = Mul(j, size)
      to_j = Add(from_j, size)
      later = Max(from_i, from_j)
      earlier = Min(to_i, to_j)
      common = Sub(earlier, later)
      overlap = Max(common, zero)
      area = Div(overlap, n)

      middle = Add(from_i, to_i)
      shifted = Sub(middle, size)
      double = Add(size, size)
      x = Div(shifted, double)
      x_floor = Floor(x)
      x_rest = Sub(x, x_floor)
      signed = Sub(x_rest, taps)
      d = Abs(signed)
      d_2 = Mul(d, d)
      d_3 = Mul(d_2, d)
      n_3 = Mul(d_3, near_3)
      n_2 = Mul(d_2, near_2)
      n_1 = Sub(n_3, n_2)
      near = Add(n_1, one)
      f_4 = Sub(d, five)
      f_3 = Mul(f_4, d)
      f_2 = Add(f_3, eight)
      f_1 = Mul(f_2, d)
      f_0 = Sub(f_1, four)
      far = Mul(f_0, a)
      is_near = LessOrEqual(d, one)
      kernel = Where(is_near, near, far)
      place = Add(x_floor, taps)
      border = Sub(n, one)
      not_below = Max(place, zero)
      inside = Min(not_below, border)
      hit = Equal(inside, j)
      share = Where(hit, kernel, zero)
      cubic = ReduceSum<keepdims = 0>(share, first)

      shrinks = Greater(n_i, size_i)
      weights = Where(shrinks, area, cubic)
      crop_f = Cast<to = 1>(crop)
      flat_shape = Concat<axis = 0>(first, side, last)
      flat = Reshape(crop_f, flat_shape)
      down = MatMul(weights, flat)
      square_shape = Concat<axis = 0>(keep_rows, side, channels)
      narrow = Reshape(down, square_shape)
      planes = Transpose<perm = [0, 3, 1, 2]>(narrow)
      weights_t = Transpose<perm = [1, 0]>(weights)
      small = MatMul(planes, weights_t)
      is_double = Equal(n, double)
      nudge = Where(is_double, eighth, zero)
      nudged = Add(small, nudge)
      rounded = Round(nudged)
      whole = Clip(rounded, zero, white)
    }}
  >
  centred = Sub(grey, mean)
  pixels = Div(centred, std)
}}
"""

_AFTER = """
<ir_version: 10, opset_import: ["" : {opset}]>
decide (float[batch, {classes}] logits) => (float[batch, {classes}] probabilities)
{{
  tempered = Div(logits, temperature)
  probabilities = Softmax<axis = 1>(tempered)
}}
"""


def before(size: int, mean: Sequence[float], std: Sequence[float], opset: int) -> onnx.ModelProto:
    """``image``, uint8 (batch, h, w, 3) RGB, to ``pixels``, float32 (batch, 3, size, size), normalised.

    ``mean`` and ``std`` are of RGB in 0..1.
    """
    return _parsed(
        _BEFORE.format(size=size, opset=opset),
        mean=np.array(mean, np.float32).reshape(3, 1, 1) * 255,
        std=np.array(std, np.float32).reshape(3, 1, 1) * 255,
    )


def after(classes: int, temperature: float, opset: int) -> onnx.ModelProto:
    """``logits`` to ``probabilities``, float32 (batch, classes)."""
    return _parsed(_AFTER.format(classes=classes, opset=opset), temperature=np.array(temperature, np.float32))


def without_resize(content: bytes) -> bytes:
    """An exported file for images that have the right size: no crop, no resize, and so no branch in the graph.

    A GPU records a graph without branches once and replays it. What is not such a file comes back as it is.
    """
    import onnx

    try:
        model = onnx.load_from_string(content)
    except Exception:  # whoever opens it says what is wrong with it
        return content
    graph = model.graph
    branch = next((node for node in graph.node if node.op_type == "If" and node.output[0] == "prepare.grey"), None)
    if branch is None:
        return content
    kept = next(attribute.g for attribute in branch.attribute if attribute.name == "then_branch")
    at = list(graph.node).index(branch)
    nodes = [*kept.node, *list(graph.node)[at + 1 :]]  # before the branch there is only what it needs
    for node in kept.node:
        node.input[:] = [graph.input[0].name if name == "prepare.crop" else name for name in node.input]
        node.output[:] = [branch.output[0] if name == kept.output[0].name else name for name in node.output]
    shape = kept.output[0].type.tensor_type.shape.dim
    for dim, side in zip(graph.input[0].type.tensor_type.shape.dim[1:3], shape[2:4], strict=True):
        dim.Clear()
        dim.dim_value = side.dim_value
    graph.ClearField("node")
    graph.node.extend(nodes)
    read = {name for node in nodes for name in node.input}
    constants = [value for value in graph.initializer if value.name in read]
    graph.ClearField("initializer")
    graph.initializer.extend(constants)
    return bytes(model.SerializeToString())


def _parsed(text: str, **constants: np.ndarray) -> onnx.ModelProto:
    import onnx

    model = onnx.parser.parse_model(text)
    # Not through the text, which is decimal.
    model.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in constants.items())
    graph = model.graph
    _rename(graph, f"{graph.name}.", {value.name for value in (*graph.input, *graph.output)})
    return model


def _rename(graph: onnx.GraphProto, prefix: str, keep: set[str]) -> None:
    """Prefix all names but ``keep``, so that they meet none of the network's; onnx.compose forgets subgraphs."""

    def new(name: str) -> str:
        return name if name in keep or not name else prefix + name

    for node in graph.node:
        node.input[:] = [new(name) for name in node.input]
        node.output[:] = [new(name) for name in node.output]
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _rename(attribute.g, prefix, keep)
    for value in (*graph.initializer, *graph.output, *graph.value_info):
        value.name = new(value.name)
