"""Networks as ONNX files, for onnxruntime, browsers and phones.

An exported network has one input, "x", and one output, "y": what `Network.predict_proba` returns. The first axis, the
batch, may have any length. Images stay (n, h, w, c), as in this library; inside, ONNX wants channels first.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

import numpy as np

from nnbackend.backends import to_numpy
from nnbackend.files import write_atomically
from nnbackend.functions import sinusoids
from nnbackend.functions.convolution import pair
from nnbackend.interchange.parts import (
    HostArray,
    Part,
    channels_first_rows,
    output_function,
    parts,
    refusal,
    row_shape,
    scale_and_shift,
    with_values,
)
from nnbackend.layers import (
    ELU,
    GELU,
    GRU,
    LSTM,
    RNN,
    Affine,
    AveragePooling,
    BatchNormalization,
    Convolution,
    Embedding,
    Flatten,
    LastStep,
    Layer,
    LayerNormalization,
    LeakyReLU,
    Loss,
    MaxPooling,
    MultiHeadAttention,
    PositionalEncoding,
    ReLU,
    Sigmoid,
    SigmoidWithLoss,
    SiLU,
    Softmax,
    SoftmaxWithLoss,
    Tanh,
)
from nnbackend.layers.base import Part as CorePart
from nnbackend.layers.base import RowShape, Shape
from nnbackend.layers.containers import Stacks
from nnbackend.network import Network

OPSET = 20  # the first that has GELU
LARGEST = 2**31 - 2**20  # bytes: a file of protobuf holds 2 GiB
# in float64 onnxruntime has no kernel for some operators, and less precision in others: more nodes take their place
DOUBLE = "float64"
METADATA = "nnbackend"


@dataclass(frozen=True)
class Exported:
    """What `to_onnx` wrote. nodes: the number of operators. opset: the version of ONNX's operators that they need.

    difference: the largest one between the outputs of this library and of onnxruntime, in units of the largest output,
    for random rows; None if onnxruntime is not installed.
    """

    path: str
    nodes: int
    opset: int
    difference: float | None

    def __str__(self) -> str:
        run = "not run: onnxruntime is not installed"
        if self.difference is not None:
            run = f"onnxruntime differs by at most {self.difference:.2g} of the largest output"
        return f"{self.path}: {self.nodes} nodes, opset {self.opset}; {run}"


def to_onnx(net: Network, path: str | os.PathLike[str], *, input_shape: Sequence[int] | None = None) -> Exported:
    """Write a network to an ONNX file, and return what was written.

    The file computes `predict_proba`. It is checked with `onnx.checker`; if onnxruntime is installed, it also runs,
    and its outputs are compared. The network's preparation of pictures is in the metadata, under "nnbackend", as JSON.
    input_shape: the shape of one row. It fixes the sides of images, which are left open otherwise, and is needed if
    no layer says what the network takes.

    A layer or loss of your own is written by its method `to_onnx(graph, x)`; see `Graph`. Without one its `forward`
    (for a loss, `output`) is traced with ndonnx, which works if it keeps to the array API and to `Parameter`s.

    Raises ImportError if `onnx` is not installed, TypeError for a layer that can be written in neither way, ValueError
    for an input_shape that does not fit, for a network too large for the format, and for an export that computes
    something else, and OSError if no such file can be written.
    """
    model, shape = onnx_model(net, input_shape)
    difference = _compared(net, model, shape) if find_spec("onnxruntime") is not None else None
    write_atomically(path, model.SerializeToString())
    return Exported(os.fspath(path), len(model.graph.node), model.opset_import[0].version, difference)


def onnx_model(net: Network, input_shape: Sequence[int] | None = None) -> tuple[Any, Shape]:
    """Return the checked `onnx.ModelProto` of a network and the shape of a row that it takes. Errors: see `to_onnx`."""
    helper = _onnx().helper
    shape, open_shape = row_shape(net, input_shape, "ONNX")
    size = sum(math.prod(view.shape) for view in (*net.params.values(), *net.statistics.values()))
    if size * np.dtype(net.dtype).itemsize > LARGEST:
        raise ValueError(f"the network has {size:,} parameters in {net.dtype}, but an ONNX file holds at most 2 GiB")
    graph = Graph(net.dtype)
    takes = net.first.input_dtype or net.dtype
    graph.finish(add_output(graph, net.loss_layer, add_network(graph, net, "x", shape)))
    sides = _SIDES if len(open_shape) == 3 and not net.first.input_dtype else ("steps", "features")
    names = ["n", *(sides[i] if length is None else length for i, length in enumerate(open_shape))]
    rows = net.output_shape(shape)
    outputs = ["n", *(None if None in open_shape and len(rows) > 1 else length for length in rows)]
    onnx_graph = helper.make_graph(
        graph.nodes,
        type(net).__name__,
        [helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(np.dtype(takes)), names)],
        [helper.make_tensor_value_info("y", graph.element, outputs)],
        graph.initializers,
    )
    opsets = [helper.make_opsetid(domain, version) for domain, version in graph.opsets.items()]
    model = helper.make_model(
        onnx_graph,
        opset_imports=opsets,
        ir_version=helper.find_min_ir_version_for(opsets),
        producer_name="nnbackend",
    )
    helper.set_model_props(model, {METADATA: json.dumps({"preparation": net.preparation})})
    _onnx().checker.check_model(model, full_check=True)
    return model, shape


_SIDES = ("height", "width", "channels")


def _onnx() -> Any:
    try:
        import onnx
        import onnx.checker
        import onnx.helper
    except ImportError as error:
        raise ImportError('writing ONNX files needs onnx: pip install "nnbackend[onnx]"') from error
    return onnx


# --- the graph --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Value:
    """A tensor of the graph. shape: that of one row, as this library has it.

    channels_first: whether the tensor is (n, c, h, w) instead of (n, h, w, c). channels: if not 0, the tensor is
    (n, features), and was flattened from so many channels in the order (c, h, w).
    """

    name: str
    shape: Shape
    channels_first: bool = False
    channels: int = 0


class Graph:
    """Collects the nodes of an ONNX graph. A layer of your own adds to it what it computes in inference mode:

        def to_onnx(self, graph, x):
            return graph.node("Mul", x, graph.constant(self.scale.data))

    `node` and `constant` return names of tensors, which further nodes take as inputs. dtype: that of the network.
    """

    def __init__(self, dtype: str, opset: int = OPSET):
        self.dtype = dtype
        self.has_gelu = opset >= OPSET and dtype != DOUBLE
        self.prefix = ""
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self.opsets = {"": opset}
        self.element = _onnx().helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        self._taken: set[str] = {"x", "y"}

    def node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output, and return the output's name. operator: of ONNX, such as "Mul"."""
        name = self._name(operator)
        self.nodes.append(_onnx().helper.make_node(operator, list(inputs), [name], name=name, **attributes))
        return name

    def constant(self, values: Any, dtype: str | None = None, name: str = "constant") -> str:
        """Add a constant, in the network's dtype unless another is given, and return its name.

        values: numbers, nested lists of numbers, an array of any backend, or text.
        """
        from onnx.numpy_helper import from_array

        name = self._name(name)
        host = np.array(to_numpy(values), order="C")
        if host.dtype.kind not in "UO":  # labels may be text
            host = host.astype(dtype or self.dtype)
        self.initializers.append(from_array(host, name))
        return name

    def include(self, model: Any, x: str) -> str:
        """Add the graph of another model, whose input is "x" and whose output is "y"; return the name of its output."""
        from onnx import compose, inliner

        if model.functions:
            model = inliner.inline_local_functions(model)
        prefix = self._name("traced") + "/"
        graph = compose.add_prefix_graph(model.graph, prefix)
        self.nodes.append(_onnx().helper.make_node("Identity", [x], [prefix + "x"]))
        self.nodes += graph.node
        self.initializers += graph.initializer
        for opset in model.opset_import:
            self.opsets[opset.domain] = max(self.opsets.get(opset.domain, 0), opset.version)
        return prefix + "y"

    def plain(self, value: Value) -> str:
        """Return the name of a tensor with the elements in this library's order."""
        return self.last(value).name

    def last(self, value: Value) -> Value:
        """Return the value with its channels last."""
        if not value.channels_first:
            return value
        return replace(value, name=self.node("Transpose", value.name, perm=[0, 2, 3, 1]), channels_first=False)

    def first(self, value: Value) -> Value:
        """Return the value, an image, with its channels first."""
        if value.channels_first:
            return value
        return replace(value, name=self.node("Transpose", value.name, perm=[0, 3, 1, 2]), channels_first=True)

    def finish(self, name: str) -> None:
        """Name the output of the graph "y"."""
        if self.nodes and name in self.nodes[-1].output:
            self.nodes[-1].output[0] = "y"
        else:
            self.nodes.append(_onnx().helper.make_node("Identity", [name], ["y"], name="y"))

    def _name(self, stem: str) -> str:
        wanted = f"{self.prefix}/{stem}" if self.prefix else stem
        name, count = wanted, 1
        while name in self._taken:
            count += 1
            name = f"{wanted}{count}"
        self._taken.add(name)
        return name


# --- layers -----------------------------------------------------------------------------------------------------


def add_network(graph: Graph, net: Network, x: str, shape: Shape) -> str:
    """Add the layers of a network to a graph, and return the name of the raw output. shape: that of one row of x."""
    return graph.plain(_stack(graph, parts(net, shape), Value(x, shape)))


def _stack(graph: Graph, stack: Sequence[Part], value: Value) -> Value:
    for i, part in enumerate(stack):
        graph.prefix = str(part.layer)
        value = _written(graph, part, value, stack[i + 1 :])
    return value


def _written(graph: Graph, part: Part, value: Value, rest: Sequence[Part]) -> Value:
    """Add a layer to the graph, and return its output."""
    layer, kind = part.layer, part.kind
    shape = layer.output_shape(part.shape)
    if type(layer).to_onnx is not CorePart.to_onnx:
        return Value(_own(graph, layer, graph.plain(value)), shape)
    if kind in ELEMENTWISE:
        return replace(value, name=ELEMENTWISE[kind](graph, layer, value.name))
    if kind is Flatten:
        return _flatten(graph, value, rest)
    if kind in WRITERS:
        return replace(WRITERS[kind](graph, part, value), shape=shape)
    return Value(_traced(graph, layer, "forward", graph.plain(value), part.shape), shape)


def _own(graph: Graph, part: CorePart, x: str) -> str:
    name = part.to_onnx(graph, x)
    if not isinstance(name, str):
        raise TypeError(f"{part}: to_onnx must return the name of a tensor, got {name!r}")
    return name


def _relu(graph: Graph, layer: Any, x: str) -> str:
    return graph.node("Relu", x)


def _leaky_relu(graph: Graph, layer: Any, x: str) -> str:
    if not layer.alpha:  # 0 times infinity would be no number
        return _relu(graph, layer, x)
    if graph.dtype == DOUBLE:
        return graph.node("Max", x, graph.node("Mul", x, graph.constant(layer.alpha, name="alpha")))
    return graph.node("LeakyRelu", x, alpha=float(layer.alpha))


def _elu(graph: Graph, layer: Any, x: str) -> str:
    if graph.dtype != DOUBLE:
        return graph.node("Elu", x, alpha=float(layer.alpha))
    zero, one = graph.constant(0.0), graph.constant(1.0)
    falling = graph.node("Sub", graph.node("Exp", graph.node("Min", x, zero)), one)
    scaled = graph.node("Mul", falling, graph.constant(layer.alpha, name="alpha"))
    return graph.node("Add", graph.node("Max", x, zero), scaled)


def _gelu(graph: Graph, layer: Any, x: str) -> str:
    if graph.has_gelu:
        return graph.node("Gelu", x, approximate="tanh")
    cube = graph.node("Mul", graph.node("Mul", x, x), graph.node("Mul", x, graph.constant(0.044715)))
    scaled = graph.node("Mul", graph.node("Add", x, cube), graph.constant(math.sqrt(2.0 / math.pi)))
    factor = graph.node("Add", graph.node("Tanh", scaled), graph.constant(1.0))
    return graph.node("Mul", graph.node("Mul", x, graph.constant(0.5)), factor)


def _silu(graph: Graph, layer: Any, x: str) -> str:
    if graph.dtype != DOUBLE:
        return graph.node("Mul", x, graph.node("Sigmoid", x))
    # onnxruntime before 1.31 joins these two nodes to one for which it has no kernel in float64
    return graph.node("Div", x, graph.node("Add", graph.constant(1.0), graph.node("Exp", graph.node("Neg", x))))


ELEMENTWISE: dict[type[Layer] | None, Callable[[Graph, Any, str], str]] = {
    Sigmoid: lambda graph, layer, x: graph.node("Sigmoid", x),
    Tanh: lambda graph, layer, x: graph.node("Tanh", x),
    ReLU: _relu,
    LeakyReLU: _leaky_relu,
    ELU: _elu,
    SiLU: _silu,
    GELU: _gelu,
}


def _flatten(graph: Graph, value: Value, rest: Sequence[Part]) -> Value:
    """Flatten channels first if an affine layer follows, whose weights can be put into that order; else transpose."""
    features = math.prod(value.shape)
    follows = next((part.kind for part in rest if part.kind not in ELEMENTWISE), None)
    if value.channels_first and follows is Affine:
        return Value(graph.node("Flatten", value.name), (features,), channels=value.shape[-1])
    return Value(graph.node("Flatten", graph.plain(value)), (features,))


def _affine(graph: Graph, part: Part, value: Value) -> Value:
    W, b = part.values["W"], part.values["b"]
    if len(value.shape) != 1:
        product = graph.node("MatMul", graph.plain(value), graph.constant(W, name="W"))
        return Value(graph.node("Add", product, graph.constant(b, name="b")), ())
    if value.channels:
        W = channels_first_rows(W, value.channels)
    return Value(graph.node("Gemm", value.name, graph.constant(W, name="W"), graph.constant(b, name="b")), ())


def _convolution(graph: Graph, part: Part, value: Value) -> Value:
    layer: Any = part.layer
    W, b = part.values["W"], part.values["b"]
    if graph.dtype == DOUBLE:
        return _convolution_in_double(graph, layer, W, b, graph.last(value))
    value = graph.first(value)
    filters, bias = graph.constant(W.transpose(3, 2, 0, 1), name="W"), graph.constant(b, name="b")
    (top, left), kernel = layer.padding, list(layer.kernel_size)
    settings = {"kernel_shape": kernel, "strides": list(layer.stride), "pads": [top, left, top, left]}
    return replace(value, name=graph.node("Conv", value.name, filters, bias, **settings))


def _convolution_in_double(graph: Graph, layer: Any, W: HostArray, b: HostArray, value: Value) -> Value:
    """Add one matrix product of all that lies under the filter: Conv has no kernel in float64."""
    windows = _windows(graph, layer.kernel_size, layer.stride, layer.padding, value)
    columns = windows[0] if len(windows) == 1 else graph.node("Concat", *windows, axis=3)
    product = graph.node("MatMul", columns, graph.constant(W.reshape(-1, W.shape[-1]), name="W"))
    return replace(value, name=graph.node("Add", product, graph.constant(b, name="b")))


def _windows(graph: Graph, size: Any, stride: Any, padding: Any, value: Value) -> list[str]:
    """Return, for every place in a window, what lies there in all windows: (n, h', w', c) each."""
    (height, width), steps, (top, left), x = pair(size), pair(stride), pair(padding), value.name
    if top or left:
        pads = graph.constant([0, top, left, 0, 0, top, left, 0], "int64", name="pads")
        x = graph.node("Pad", x, pads)
    axes, strides = graph.constant([1, 2], "int64", name="axes"), graph.constant(list(steps), "int64", name="strides")
    end = 2**31 - 1
    return [
        graph.node(
            "Slice",
            x,
            graph.constant([i, j], "int64", name="starts"),
            graph.constant([i + 1 - height or end, j + 1 - width or end], "int64", name="ends"),
            axes,
            strides,
        )
        for i in range(height)
        for j in range(width)
    ]


def _pooling(operator: str, **settings: Any) -> Callable[[Graph, Part, Value], Value]:
    def written(graph: Graph, part: Part, value: Value) -> Value:
        layer: Any = part.layer
        if operator == "AveragePool" and graph.dtype == DOUBLE:
            value = graph.last(value)
            total = graph.node("Sum", *_windows(graph, layer.size, layer.stride, layer.padding, value))
            share = graph.constant(math.prod(layer.size), name="size")
            return replace(value, name=graph.node("Div", total, share))
        value = graph.first(value)
        (top, left), sides = layer.padding, list(layer.size)
        windows = {"kernel_shape": sides, "strides": list(layer.stride), "pads": [top, left, top, left], **settings}
        return replace(value, name=graph.node(operator, value.name, **windows))

    return written


def _batch_normalization(graph: Graph, part: Part, value: Value) -> Value:
    if len(value.shape) == 1 or value.channels_first:  # ONNX has the features in axis 1
        eps, v = part.layer.eps, part.values  # type: ignore[attr-defined]
        single = float(np.float32(eps))  # attributes of nodes are float32
        values = {**v, "running_var": v["running_var"] + (eps - single)}
        names = [graph.constant(values[name], name=name) for name in ("gamma", "beta", "running_mean", "running_var")]
        return replace(value, name=graph.node("BatchNormalization", value.name, *names, epsilon=single))
    scale, shift = scale_and_shift(part)
    scaled = graph.node("Mul", value.name, graph.constant(scale, name="scale"))
    return replace(value, name=graph.node("Add", scaled, graph.constant(shift, name="shift")))


def _layer_normalization(graph: Graph, part: Part, value: Value) -> Value:
    value = graph.last(value)
    eps, x = part.layer.eps, value.name  # type: ignore[attr-defined]
    gamma, beta = (graph.constant(part.values[name], name=name) for name in ("gamma", "beta"))
    if graph.dtype != DOUBLE:
        return replace(value, name=graph.node("LayerNormalization", x, gamma, beta, axis=-1, epsilon=float(eps)))
    last = graph.constant([-1], "int64", name="axes")
    centred = graph.node("Sub", x, graph.node("ReduceMean", x, last))
    variance = graph.node("ReduceMean", graph.node("Mul", centred, centred), last)
    deviation = graph.node("Sqrt", graph.node("Add", variance, graph.constant(eps, name="eps")))
    scaled = graph.node("Mul", graph.node("Div", centred, deviation), gamma)
    return replace(value, name=graph.node("Add", scaled, beta))


def _embedding(graph: Graph, part: Part, value: Value) -> Value:
    return replace(value, name=graph.node("Gather", graph.constant(part.values["W"], name="W"), value.name, axis=0))


# of each recurrent layer: ONNX's operator, the number of our part for each of its parts, and its attributes
RECURRENT: dict[Any, tuple[str, list[int], dict[str, int]]] = {
    RNN: ("RNN", [0], {}),
    LSTM: ("LSTM", [2, 3, 0, 1], {}),
    GRU: ("GRU", [1, 0, 2], {"linear_before_reset": 1}),
}


def _recurrent(graph: Graph, part: Part, value: Value) -> Value:
    x = graph.node("Transpose", value.name, perm=[1, 0, 2])  # the steps come first there
    if graph.dtype == DOUBLE:
        y = _steps(graph, part, x)
    else:
        (operator, order, settings), v = RECURRENT[part.kind], part.values
        h = len(v["Wh"])

        def in_order(values: HostArray) -> HostArray:
            return np.concatenate([values[k * h : (k + 1) * h] for k in order])

        second = np.zeros_like(v["b"])
        if "bh" in v:
            second[-h:] = v["bh"]
        W, R = (graph.constant(in_order(v[name].T)[None], name=name) for name in ("Wx", "Wh"))
        b = graph.constant(np.concatenate([in_order(v["b"]), in_order(second)])[None], name="b")
        states = graph.node(operator, x, W, R, b, hidden_size=h, **settings)
        y = graph.node("Squeeze", states, graph.constant([1], "int64", name="axes"))
    return replace(value, name=graph.node("Transpose", y, perm=[1, 0, 2]))


def _steps(graph: Graph, part: Part, x: str) -> str:
    """Add a loop over the steps of x, (T, n, d): in float64 onnxruntime has no kernel for the operators."""
    helper, v = _onnx().helper, part.values
    h, Wh = len(v["Wh"]), graph.constant(v["Wh"], name="Wh")
    products = graph.node("Add", graph.node("MatMul", x, graph.constant(v["Wx"], name="Wx")), graph.constant(v["b"]))
    first = graph.node("Gather", x, graph.constant(0, "int64", name="first"), axis=0)
    zeros = graph.node("MatMul", first, graph.constant(np.zeros((v["Wx"].shape[0], h))))
    outside, graph.nodes = graph.nodes, []
    a, *states = (graph._name(name) for name in (["a", "h", "c"] if part.kind is LSTM else ["a", "h"]))
    r = graph.node("MatMul", states[0], Wh)

    def piece(values: str, start: int, stop: int) -> str:
        ends = [graph.constant([k * h], "int64", name="at") for k in (start, stop)]
        return graph.node("Slice", values, *ends, graph.constant([1], "int64", name="axis"))

    if part.kind is GRU:
        both = graph.node("Sigmoid", graph.node("Add", piece(a, 0, 2), piece(r, 0, 2)))
        u = graph.node("Add", piece(r, 2, 3), graph.constant(v["bh"], name="bh"))
        new = graph.node("Tanh", graph.node("Add", piece(a, 2, 3), graph.node("Mul", piece(both, 0, 1), u)))
        change = graph.node("Mul", piece(both, 1, 2), graph.node("Sub", states[0], new))
        after = [graph.node("Add", new, change)]
    else:
        total = graph.node("Add", a, r)
        if part.kind is RNN:
            after = [graph.node("Tanh", total)]
        else:
            f, i, o = (graph.node("Sigmoid", piece(total, k, k + 1)) for k in (0, 2, 3))
            g = graph.node("Tanh", piece(total, 1, 2))
            c = graph.node("Add", graph.node("Mul", f, states[1]), graph.node("Mul", i, g))
            after = [graph.node("Mul", o, graph.node("Tanh", c)), c]
    y = graph.node("Identity", after[0])
    inputs, outputs = (
        [helper.make_tensor_value_info(name, graph.element, None) for name in names]
        for names in ([*states, a], [*after, y])
    )
    body = helper.make_graph(graph.nodes, "step", inputs, outputs)
    graph.nodes = outside
    names = [graph._name("last") for _ in states] + [graph._name("steps")]
    node = helper.make_node("Scan", [*(zeros for _ in states), products], names, body=body, num_scan_inputs=1)
    graph.nodes.append(node)
    return names[-1]


def _attention(graph: Graph, part: Part, value: Value) -> Value:
    layer, v = part.layer, part.values
    heads, width = layer.heads, layer.features // layer.heads  # type: ignore[attr-defined]

    def affine(x: str, W: str, b: str) -> str:
        return graph.node("Add", graph.node("MatMul", x, graph.constant(v[W], name=W)), graph.constant(v[b], name=b))

    split = graph.constant([0, 0, 3, heads, width], "int64", name="split")  # 0: as long as it is
    three = graph.node("Reshape", affine(graph.plain(value), "W", "b"), split)
    three = graph.node("Transpose", three, perm=[2, 0, 3, 1, 4])
    q, k, values = (graph.node("Gather", three, graph.constant(i, "int64", name="which"), axis=0) for i in range(3))
    scores = graph.node("MatMul", q, graph.node("Transpose", k, perm=[0, 1, 3, 2]))
    scores = graph.node("Mul", scores, graph.constant(1 / math.sqrt(width), name="scale"))
    if layer.causal:  # type: ignore[attr-defined]
        one = _onnx().helper.make_tensor("one", _onnx().TensorProto.INT64, [1], [1])
        ones = graph.node("ConstantOfShape", graph.node("Shape", scores, start=2, end=4), value=one)
        seen = graph.node("Cast", graph.node("Trilu", ones, upper=0), to=_onnx().TensorProto.BOOL)
        least = graph.constant(np.finfo(graph.dtype).min, name="least")
        scores = graph.node("Where", seen, scores, least)
    answers = graph.node("MatMul", graph.node("Softmax", scores, axis=-1), values)
    answers = graph.node("Transpose", answers, perm=[0, 2, 1, 3])
    joined = graph.node("Reshape", answers, graph.constant([0, 0, heads * width], "int64", name="joined"))
    return replace(value, name=affine(joined, "Wo", "bo"))


def _positional_encoding(graph: Graph, part: Part, value: Value) -> Value:
    layer: Any = part.layer
    table = part.values["P"] if layer.learned else sinusoids(np.zeros((1, layer.length, layer.features)))
    x = graph.plain(value)
    ends = [graph.constant([0], "int64", name="first"), graph.node("Shape", x, start=1, end=2)]
    rows = graph.node("Slice", graph.constant(table, name="P"), *ends, graph.constant([0], "int64", name="axis"))
    return replace(value, name=graph.node("Add", x, rows))


def _last_step(graph: Graph, part: Part, value: Value) -> Value:
    x = graph.plain(value)
    return Value(graph.node("Gather", x, graph.constant(-1, "int64", name="last"), axis=1), ())


def _softmax(graph: Graph, part: Part, value: Value) -> Value:
    return replace(value, name=graph.node("Softmax", value.name, axis=1 if value.channels_first else -1))


def _joined(graph: Graph, part: Part, value: Value) -> Value:
    """Add the stacks of a layer side by side, and join their outputs."""
    layer: Any = part.layer
    values = [_stack(graph, stack, value) for stack in part.stacks]
    graph.prefix = str(layer)
    if not all(v.channels_first for v in values):
        values = [graph.last(v) for v in values]
    name, *others = [v.name for v in values]
    if layer.join == "concatenate":
        axis = 1 if values[0].channels_first else -1
        return replace(values[0], name=graph.node("Concat", name, *others, axis=axis))
    for other in others:
        name = graph.node("Add", name, other)
    return replace(values[0], name=name)


WRITERS: dict[type[Layer] | None, Callable[[Graph, Part, Value], Value]] = {
    Affine: _affine,
    AveragePooling: _pooling("AveragePool", count_include_pad=1),
    BatchNormalization: _batch_normalization,
    Convolution: _convolution,
    Embedding: _embedding,
    GRU: _recurrent,
    LSTM: _recurrent,
    LastStep: _last_step,
    LayerNormalization: _layer_normalization,
    MaxPooling: _pooling("MaxPool"),
    MultiHeadAttention: _attention,
    PositionalEncoding: _positional_encoding,
    RNN: _recurrent,
    Softmax: _softmax,
    Stacks: _joined,
}


def add_output(graph: Graph, loss: Loss, y: str) -> str:
    """Add what the loss makes of the raw output, and return its name."""
    graph.prefix = str(loss)
    if type(loss).to_onnx is not CorePart.to_onnx:
        return _own(graph, loss, y)
    known: dict[type[Loss], Callable[[], str]] = {
        Loss: lambda: y,
        SoftmaxWithLoss: lambda: graph.node("Softmax", y, axis=-1),
        SigmoidWithLoss: lambda: graph.node("Sigmoid", y),
    }
    write_output = output_function(loss, known)
    return write_output() if write_output else _traced(graph, loss, "output", y, None)


# --- layers and losses of a user's own --------------------------------------------------------------------------


def _traced(graph: Graph, part: Any, method: str, x: str, shape: RowShape | None) -> str:
    """Add what a method of a layer or loss does to a symbolic array, and return the name of its result."""
    advice = f"give {part.kind} a method to_onnx(graph, x); see nnbackend.interchange.onnx.Graph"
    try:
        import ndonnx
    except ImportError as error:
        raise refusal(part, "ONNX", f"{advice}, or install ndonnx, which traces its {method}") from error
    try:
        lengths = ("n", *(("features",) if shape is None else shape))
        argument = ndonnx.argument(shape=lengths, dtype=getattr(ndonnx, graph.dtype))
        y = getattr(with_values(part, ndonnx.asarray), method)(argument)
        model = ndonnx.build({"x": argument}, {"y": y})
    except Exception as error:  # whatever the method raises when it meets an array without values
        raise refusal(part, "ONNX", f"its {method} cannot be traced ({error}): {advice}") from error
    return graph.include(model, x)


# --- the check --------------------------------------------------------------------------------------------------


def _compared(net: Network, model: Any, shape: Shape) -> float:
    """Return the largest difference between network and model for batches of random rows, in units of the largest
    output. Raise ValueError if it is more than rounding, or if onnxruntime cannot run the model.
    """
    import onnxruntime

    worst, rng, first = 0.0, np.random.default_rng(0), net.first
    for n in (1, 5):
        x = rng.standard_normal((n, *shape)).astype(net.dtype)
        if isinstance(first, Embedding):
            x = rng.integers(0, first.vocabulary, (n, *shape))
        expected = to_numpy(net.predict_proba(x))
        try:
            session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
            (y,) = session.run(["y"], {"x": x})
        except Exception as error:  # its errors have no class in common
            raise ValueError(f"onnxruntime does not run the exported network: {error}") from error
        if y.shape != expected.shape:
            raise ValueError(f"the exported network gives {y.shape} where this one gives {expected.shape}")
        same = (y == expected) | (np.isnan(y) & np.isnan(expected))
        size = float(np.max(np.abs(expected), initial=0.0, where=np.isfinite(expected)))
        difference = np.max(np.abs(y - expected), initial=0.0, where=~same)
        worst = float(np.maximum(worst, difference / max(size, 1e-30)))  # unlike max, it keeps a NaN
    if not worst <= math.sqrt(float(np.finfo(net.dtype).eps)):
        raise ValueError(
            f"the exported network differs by {worst:.2g} of the largest output, which is more than rounding: "
            f"a layer of your own may be written to ONNX wrongly"
        )
    return worst
