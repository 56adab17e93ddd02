"""The mathematics: stateless functions of arrays, each followed by its backward.

Every function here is written for any array-API namespace and is the definition of what it computes. Faster versions
for one kind of array are registered on it by `nnbackend.kernels`; `f.dispatch(object)` is always the definition.
"""

from nnbackend.functions.activations import (
    elu,
    elu_backward,
    gelu,
    gelu_backward,
    leaky_relu,
    leaky_relu_backward,
    relu,
    relu_backward,
    sigmoid,
    sigmoid_backward,
    silu,
    silu_backward,
    softmax,
    softmax_backward,
    tanh,
    tanh_backward,
)
from nnbackend.functions.affine import affine, affine_backward
from nnbackend.functions.losses import (
    count_correct,
    mean_squared_error,
    mean_squared_error_backward,
    softmax_cross_entropy,
    softmax_cross_entropy_backward,
    softmax_cross_entropy_rows,
    squared_error_rows,
)
from nnbackend.functions.normalization import (
    batch_normalization,
    batch_normalization_backward,
    layer_normalization,
    layer_normalization_backward,
)
from nnbackend.functions.philox import dropout_mask, philox

__all__ = [
    "affine",
    "affine_backward",
    "batch_normalization",
    "batch_normalization_backward",
    "count_correct",
    "dropout_mask",
    "elu",
    "elu_backward",
    "gelu",
    "gelu_backward",
    "layer_normalization",
    "layer_normalization_backward",
    "leaky_relu",
    "leaky_relu_backward",
    "mean_squared_error",
    "mean_squared_error_backward",
    "philox",
    "relu",
    "relu_backward",
    "sigmoid",
    "sigmoid_backward",
    "silu",
    "silu_backward",
    "softmax",
    "softmax_backward",
    "softmax_cross_entropy",
    "softmax_cross_entropy_backward",
    "softmax_cross_entropy_rows",
    "squared_error_rows",
    "tanh",
    "tanh_backward",
]
