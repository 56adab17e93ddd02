"""Estimators in pipelines that sklearn-onnx converts. `register` tells it how, in the way that it documents."""

from __future__ import annotations

from typing import Any

import numpy as np

from nnbackend.estimator import NNClassifier, NNRegressor
from nnbackend.estimator.scaling import Moments, RowLength
from nnbackend.interchange.onnx import Graph, add_network, add_output

OPTIONS = {"zipmap": [True, False, "columns"], "nocl": [True, False], "output_class_labels": [False, True]}


def register() -> None:
    """Register converters for NNClassifier and NNRegressor, so that `skl2onnx.to_onnx` takes pipelines with them.

    The scaling inside the estimators is converted, too. Raises ImportError if skl2onnx is not installed.
    """
    try:
        from skl2onnx import update_registered_converter
    except ImportError as error:
        raise ImportError("converting estimators needs sklearn-onnx: pip install skl2onnx") from error
    update_registered_converter(
        NNClassifier, "NnbackendNNClassifier", _classifier_shapes, _convert_classifier, options=OPTIONS
    )
    update_registered_converter(NNRegressor, "NnbackendNNRegressor", _regressor_shapes, _convert_regressor)


def _classifier_shapes(operator: Any) -> None:
    from skl2onnx.common.data_types import Int64TensorType
    from skl2onnx.common.shape_calculator import calculate_linear_classifier_output_shapes

    calculate_linear_classifier_output_shapes(operator)
    model = operator.raw_operator
    if model._encoder is None:
        n = operator.inputs[0].get_first_dimension()
        operator.outputs[0].set_type(Int64TensorType([n, model.n_outputs_]))


def _regressor_shapes(operator: Any) -> None:
    from skl2onnx.common.data_types import guess_tensor_type

    n = operator.inputs[0].get_first_dimension()
    output = guess_tensor_type(operator.inputs[0].type)
    output.shape = [n, operator.raw_operator.n_outputs_]
    operator.outputs[0].set_type(output)


def _convert_classifier(scope: Any, operator: Any, container: Any) -> None:
    from skl2onnx.common.data_types import guess_proto_type
    from skl2onnx.common.utils_classifier import get_label_classes

    model = operator.raw_operator
    graph = Graph(model.network_.dtype, opset=container.target_opset)
    y = add_network(graph, model.network_, _scaled(graph, model, operator.inputs[0].full_name), _rows(model))
    p = add_output(graph, model.network_.loss_layer, y)
    if model._encoder is None:
        label = graph.node("Cast", graph.node("Greater", p, graph.constant(0.5)), to=_element("int64"))
    else:
        classes = get_label_classes(scope, model)
        names = graph.constant(classes, None if classes.dtype.kind in "UO" else "int64", name="classes")
        best = graph.node("ArgMax", p, axis=1, keepdims=0)
        label = graph.node("Gather", names, best, axis=0)
    p = graph.node("Cast", p, to=guess_proto_type(operator.outputs[1].type))
    _hand_over(graph, [label, p], scope, operator, container)


def _convert_regressor(scope: Any, operator: Any, container: Any) -> None:
    from skl2onnx.common.data_types import guess_proto_type

    model = operator.raw_operator
    graph = Graph(model.network_.dtype, opset=container.target_opset)
    y = add_network(graph, model.network_, _scaled(graph, model, operator.inputs[0].full_name), _rows(model))
    if model._y_moments is not None:
        shift, scale = model._y_moments.restoring
        y = graph.node("Add", graph.node("Mul", y, graph.constant(scale)), graph.constant(shift))
    y = graph.node("Cast", y, to=guess_proto_type(operator.outputs[0].type))
    _hand_over(graph, [y], scope, operator, container)


def _rows(model: Any) -> tuple[int]:
    return (model.n_features_in_,)


def _scaled(graph: Graph, model: Any, x: str) -> str:
    """Add what the estimator does to its features. It does so in float64, whatever it is given."""
    scaling: Moments | RowLength | None = model._x_scaling
    if scaling is not None:
        x = graph.node("Cast", x, to=_element("float64"))
        if isinstance(scaling, RowLength):
            x = graph.node("Div", x, graph.constant(scaling.length or 1.0, "float64"))
        else:
            mean, scale = scaling.scaling
            x = graph.node("Sub", x, graph.constant(mean, "float64"))
            x = graph.node("Div", x, graph.constant(scale, "float64"))
            if scaling.clip is not None:
                low, high = (graph.constant(sign * scaling.clip, "float64") for sign in (-1.0, 1.0))
                x = graph.node("Clip", x, low, high)
    return graph.node("Cast", x, to=graph.element)


def _element(dtype: str) -> int:
    from onnx.helper import np_dtype_to_tensor_dtype

    return int(np_dtype_to_tensor_dtype(np.dtype(dtype)))


def _hand_over(graph: Graph, results: list[str], scope: Any, operator: Any, container: Any) -> None:
    """Give the nodes and constants of a graph to sklearn-onnx, under names that are free there."""
    from onnx.helper import get_attribute_value
    from onnx.numpy_helper import to_array

    names = {result: output.full_name for result, output in zip(results, operator.outputs, strict=True)}
    for tensor in graph.initializers:
        name = names[tensor.name] = scope.get_unique_variable_name(tensor.name)
        container.add_initializer(name, tensor.data_type, list(tensor.dims), to_array(tensor).ravel())
    for node in graph.nodes:
        for output in node.output:
            if output not in names:
                names[output] = scope.get_unique_variable_name(output)
        attributes = {attribute.name: get_attribute_value(attribute) for attribute in node.attribute}
        container.add_node(
            node.op_type,
            [names.get(name, name) for name in node.input],
            [names[name] for name in node.output],
            op_domain=node.domain,
            name=scope.get_unique_operator_name(node.op_type),
            **attributes,
        )
