"""Parse the arguments of `nnbackend export` and `nnbackend conformance`, and print their results."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from nnbackend.cli.output import say
from nnbackend.cli.parser import Parser, check_apart
from nnbackend.errors import unknown_name
from nnbackend.files import write_atomically
from nnbackend.network import Network, load


def add(commands: argparse._SubParsersAction[Parser]) -> None:
    """Add `export` and `conformance` to the sub-commands."""
    export = commands.add_parser(
        "export",
        help="write a saved network for other programs",
        description="Write a network that `train` saved as an ONNX file (.onnx), which is checked and run, as a header "
        "of C99 (.h), or as a state dict of PyTorch (.pt).",
    )
    export.add_argument("model", type=Path, metavar="MODEL", help="file of a saved network")
    export.add_argument("output", type=_output, metavar="FILE", help="what to write: .onnx, .h or .pt")
    export.add_argument(
        "--input-shape",
        type=_length,
        nargs="+",
        metavar="N",
        help="the shape of one row, such as 28 28 1; fixes the sides of images, which are left open otherwise",
    )
    export.set_defaults(run=_export)

    examine = commands.add_parser(
        "conformance",
        help="say what of this library works on an array library",
        description="Try every function, layer and kind of network on array libraries, and compare with NumPy. Exit "
        "status 0 if everything works, else 1.",
    )
    examine.add_argument(
        "namespaces",
        nargs="+",
        metavar="NAMESPACE",
        help="the import path of an array-API namespace, such as jax.numpy, or the name of a backend",
    )
    examine.add_argument("--markdown", type=Path, metavar="FILE", help="write one table of all of them there")
    examine.set_defaults(run=_conformance)


def _conformance(arguments: argparse.Namespace) -> int:
    from nnbackend.interchange.conformance import conformance, markdown

    results = []
    for name in arguments.namespaces:
        results.append(conformance(name))
        say(str(results[-1]))
    if arguments.markdown is not None:
        write_atomically(arguments.markdown, markdown(results).encode())
        say(f"wrote the table to {arguments.markdown}")
    return 0 if all(result.works for result in results) else 1


def _export(arguments: argparse.Namespace) -> int:
    check_apart("FILE", arguments.output, [arguments.model])
    network = load(arguments.model, backend="numpy")
    shape = None if arguments.input_shape is None else tuple(arguments.input_shape)
    say(FORMATS[arguments.output.suffix.lower()](network, arguments.output, shape))
    return 0


def _onnx(network: Network, path: Path, shape: tuple[int, ...] | None) -> str:
    from nnbackend.interchange.onnx import to_onnx

    return str(to_onnx(network, path, input_shape=shape))


def _c(network: Network, path: Path, shape: tuple[int, ...] | None) -> str:
    network.to_c(path, input_shape=shape)
    return f"{path}: one function of C99"


def _torch(network: Network, path: Path, shape: tuple[int, ...] | None) -> str:
    from nnbackend.interchange.torch import save_torch

    save_torch(network, path, input_shape=shape)
    return f"{path}: a state dict of PyTorch"


FORMATS: dict[str, Callable[[Network, Path, tuple[int, ...] | None], str]] = {".h": _c, ".onnx": _onnx, ".pt": _torch}


def _output(text: str) -> Path:
    path = Path(text)
    if path.suffix.lower() not in FORMATS:
        raise argparse.ArgumentTypeError(f"{text!r}: " + unknown_name("suffix", path.suffix, FORMATS))
    return path


def _length(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected an integer of at least 1, got {text!r}")
    return int(text)
