"""A network as one function of C99, in a header without dependencies, for devices that have no more than a compiler."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nnbackend import __version__
from nnbackend.files import write_atomically
from nnbackend.interchange.parts import HostArray, Part, output_function, parts, refusal, row_shape, scale_and_shift
from nnbackend.layers import (
    ELU,
    GELU,
    Affine,
    BatchNormalization,
    Flatten,
    LayerNormalization,
    LeakyReLU,
    Loss,
    ReLU,
    Sigmoid,
    SigmoidWithLoss,
    SiLU,
    Softmax,
    SoftmaxWithLoss,
    Tanh,
)
from nnbackend.network import Network

TYPES = {"float32": ("float", "f", ".9g"), "float64": ("double", "", ".17g")}  # the digits that keep every bit

# v: the element; {f}: the suffix of functions and constants of the type; 0 times infinity would be no number
FORMULAS: dict[Any, str] = {
    ReLU: "v < 0 ? 0 : v",
    LeakyReLU: "v < 0 ? ({alpha} > 0 ? {alpha} * v : 0) : v",
    ELU: "v < 0 ? {alpha} * expm1{f}(v) : v",
    Tanh: "tanh{f}(v)",
    Sigmoid: "(v < 0 ? exp{f}(v) : 1) / (1 + exp{f}(-fabs{f}(v)))",
    SiLU: "(v < -20000 ? -20000 : v) * ((v < 0 ? exp{f}(v) : 1) / (1 + exp{f}(-fabs{f}(v))))",
    GELU: "{half} * (v < -20 ? -20 : v) * (1 + tanh{f}({scale} * (v + {cubic} * v * v * v)))",
}


def to_c(net: Network, path: str | os.PathLike[str], *, input_shape: Sequence[int] | None = None) -> None:
    """Write a network to a header of C99 with one function, `<name>_predict(x, y)`, named after the file.

    The function writes to y what `predict_proba` returns for the row x. It needs <math.h>, allocates nothing, and
    holds the weights as constants. Layers may be affine layers, activations, normalisations, softmax and dropout.
    input_shape: the shape of one row, needed if no layer says what the network takes.

    Raises TypeError for another layer, such as a convolution, and for a loss with an output of its own; ValueError for
    an input_shape that does not fit and for weights that are not finite; OSError if no such file can be written.
    """
    shape, _ = row_shape(net, input_shape, "C")
    write_atomically(path, _Source(net, shape, Path(path).stem).text().encode("ascii"))


class _Source:
    """The text of a header: constants, and the statements of the function."""

    def __init__(self, net: Network, shape: tuple[int, ...], stem: str):
        self.type, self.f, self.digits = TYPES[net.dtype]
        self.name = re.sub(r"\W", "_", stem, flags=re.ASCII)
        if not self.name or self.name[0].isdigit():
            self.name = "net_" + self.name
        self.constants: list[str] = []
        self.body: list[str] = []
        self.inputs, self.outputs = math.prod(shape), math.prod(net.output_shape(shape))
        stack = parts(net, shape)
        last = max((i for i, part in enumerate(stack) if part.kind is Affine), default=-1)
        self.here, self.widest, self.scratch = "x", 0, 0
        if last < 0:
            self._copy("y")
        for i, part in enumerate(stack):
            self._write(part, "y" if i == last else "")
        self._output(net.loss_layer)

    def text(self) -> str:
        guard = f"{self.name.upper()}_H"
        buffers = [f"{self.type} h{i + 1}[{self.widest}];" for i in range(self.scratch)]
        lines = [
            f"/* Written by nnbackend {__version__}. */",
            f"#ifndef {guard}",
            f"#define {guard}",
            "",
            "#include <math.h>",
            "",
            f"#define {self.name.upper()}_INPUTS {self.inputs}",
            f"#define {self.name.upper()}_OUTPUTS {self.outputs}",
            "",
            "/* Writes to y the network's answer to one row x. x and y must not overlap. */",
            f"static inline void {self.name}_predict(const {self.type} x[{self.inputs}], "
            f"{self.type} y[{self.outputs}])",
            "{",
            *(f"    {line}" for line in (*self.constants, *buffers, *self.body)),
            "}",
            "",
            "#endif",
            "",
        ]
        return "\n".join(lines)

    def _write(self, part: Part, target: str) -> None:
        layer, kind = part.layer, part.kind
        if kind is Affine and len(part.shape) == 1:
            return self._affine(part, target)
        if kind is Flatten:
            return None  # rows lie in memory in this order
        size = math.prod(part.shape)
        if kind in FORMULAS:
            self._own_buffer(size)
            settings = {"f": self.f, "alpha": self._number(getattr(layer, "alpha", 0.0))}
            gelu = {"half": 0.5, "scale": math.sqrt(2.0 / math.pi), "cubic": 0.044715}
            settings |= {name: self._number(value) for name, value in gelu.items()}
            self._each(size, FORMULAS[kind].format(**settings))
        elif kind is BatchNormalization:
            self._own_buffer(size)
            scale, shift = (self._array(name, value) for name, value in zip("sb", scale_and_shift(part), strict=True))
            features = part.shape[-1]
            self._each(size, f"{scale}[i % {features}] * v + {shift}[i % {features}]")
        elif kind in (LayerNormalization, Softmax) and len(part.shape) == 1:
            self._own_buffer(size)
            self._softmax(size) if kind is Softmax else self._layer_normalization(part, size)
        else:
            raise refusal(layer, "C", "only affine layers, activations and normalisations of rows can be")
        return None

    def _affine(self, part: Part, target: str) -> None:
        W = self._array("W", np.ascontiguousarray(part.values["W"].T))
        b = self._array("b", part.values["b"])
        inputs, outputs = part.values["W"].shape
        there = target or ("h1" if self.here != "h1" else "h2")
        if not target:
            self.widest, self.scratch = max(self.widest, outputs), max(self.scratch, int(there[1:]))
        self.body += [
            f"for (int i = 0; i < {outputs}; i++) {{",
            f"    {self.type} sum = {b}[i];",
            f"    for (int j = 0; j < {inputs}; j++) sum += {W}[i][j] * {self.here}[j];",
            f"    {there}[i] = sum;",
            "}",
        ]
        self.here = there

    def _own_buffer(self, size: int) -> None:
        """Let what follows write to the buffer in hand, which may still be the caller's x."""
        if self.here == "x":
            self.widest, self.scratch = max(self.widest, size), max(self.scratch, 1)
            self._copy("h1", size)

    def _copy(self, there: str, size: int = 0) -> None:
        self.body.append(f"for (int i = 0; i < {size or self.inputs}; i++) {there}[i] = x[i];")
        self.here = there

    def _each(self, size: int, expression: str) -> None:
        self.body += [
            f"for (int i = 0; i < {size}; i++) {{",
            f"    const {self.type} v = {self.here}[i];",
            f"    {self.here}[i] = {expression};",
            "}",
        ]

    def _softmax(self, size: int) -> None:
        y, t, f = self.here, self.type, self.f
        self.body += [
            "{",
            f"    {t} most = {y}[0], sum = 0;",
            f"    for (int i = 1; i < {size}; i++) if ({y}[i] > most) most = {y}[i];",
            f"    for (int i = 0; i < {size}; i++) sum += {y}[i] = exp{f}({y}[i] - most);",
            f"    for (int i = 0; i < {size}; i++) {y}[i] /= sum;",
            "}",
        ]

    def _layer_normalization(self, part: Part, size: int) -> None:
        gamma, beta = (self._array(name, part.values[name]) for name in ("gamma", "beta"))
        y, t, eps = self.here, self.type, self._number(part.layer.eps)  # type: ignore[attr-defined]
        self.body += [
            "{",
            f"    {t} mean = 0, var = 0;",
            f"    for (int i = 0; i < {size}; i++) mean += {y}[i] / {size};",
            f"    for (int i = 0; i < {size}; i++) var += ({y}[i] - mean) * ({y}[i] - mean) / {size};",
            f"    const {t} scale = 1 / sqrt{self.f}(var + {eps});",
            f"    for (int i = 0; i < {size}; i++) {y}[i] = {gamma}[i] * (({y}[i] - mean) * scale) + {beta}[i];",
            "}",
        ]

    def _output(self, loss: Loss) -> None:
        def sigmoid() -> None:
            self._each(self.outputs, FORMULAS[Sigmoid].format(f=self.f))

        known = {Loss: lambda: None, SoftmaxWithLoss: lambda: self._softmax(self.outputs), SigmoidWithLoss: sigmoid}
        write_output = output_function(loss, known)
        if write_output is None:
            raise refusal(loss, "C", "it has an output of its own")
        write_output()

    def _array(self, stem: str, values: HostArray) -> str:
        """Declare an array of constants, and return its name."""
        name = f"{stem}{len(self.constants) + 1}"
        lengths = "".join(f"[{length}]" for length in values.shape)
        rows = ["{" + ", ".join(map(self._number, row)) + "}" for row in np.atleast_2d(values).tolist()]
        text = "{" + ", ".join(rows) + "}" if values.ndim == 2 else rows[0]
        self.constants.append(f"static const {self.type} {name}{lengths} = {text};")
        return name

    def _number(self, value: float) -> str:
        if not math.isfinite(value):
            raise ValueError(f"the network has weights that are not finite ({value}), which C has no constants for")
        text = format(value, self.digits)
        return text + ("" if "." in text or "e" in text else ".0") + self.f
