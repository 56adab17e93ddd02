"""Load data sets: MNIST (a sample ships with the library), IDX files, tables, pictures, and small synthetic sets."""

from nnbackend.datasets.idx import read_idx, write_idx
from nnbackend.datasets.mnist import SAMPLE_NOTE, Dataset, HostData, load_idx_folder, mnist, mnist_host
from nnbackend.datasets.prepared import PreparedData, load_prepared
from nnbackend.datasets.streams import Items, Shards, Source
from nnbackend.datasets.synthetic import spiral, xor

__all__ = [
    "SAMPLE_NOTE",
    "Dataset",
    "HostData",
    "Items",
    "PreparedData",
    "Shards",
    "Source",
    "load_idx_folder",
    "load_prepared",
    "mnist",
    "mnist_host",
    "read_idx",
    "spiral",
    "write_idx",
    "xor",
]
