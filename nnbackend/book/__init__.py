"""The names of "Deep Learning from Scratch" (ゼロから作る Deep Learning), on this library's functions and backends.

A chapter's script runs with its imports changed and nothing else:

    from common.layers import Affine, Relu         ->  from nnbackend.book.layers import Affine, Relu
    from common.optimizer import Adam              ->  from nnbackend.book.optimizer import Adam
    from common.multi_layer_net import ...         ->  from nnbackend.book.multi_layer_net import ...
    from dataset.mnist import load_mnist           ->  from nnbackend.book import load_mnist
    from two_layer_net import TwoLayerNet          ->  from nnbackend.book import TwoLayerNet

Signatures, attributes, layouts (images are N, C, H, W), formulas and draws from `numpy.random` are the book's, so a
script that sets a seed gets the book's numbers; the mathematics is `nnbackend.functions`. New code does better with
`nnbackend` itself.
"""

from nnbackend.book.mnist import load_mnist
from nnbackend.book.multi_layer_net import MultiLayerNet
from nnbackend.book.multi_layer_net_extend import MultiLayerNetExtend
from nnbackend.book.trainer import Trainer
from nnbackend.book.two_layer_net import TwoLayerNet

__all__ = ["MultiLayerNet", "MultiLayerNetExtend", "Trainer", "TwoLayerNet", "load_mnist"]
