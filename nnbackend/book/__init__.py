"""The names of "Deep Learning from Scratch" (ゼロから作る Deep Learning), on this library's functions and backends.

A chapter's script runs with its imports changed and nothing else:

    from common.layers import *                    ->  from nnbackend.book.layers import *
    from common.optimizer import Adam              ->  from nnbackend.book.optimizer import Adam
    from common.multi_layer_net import ...         ->  from nnbackend.book.multi_layer_net import ...
    from dataset.mnist import load_mnist           ->  from nnbackend.book.mnist import load_mnist

What a chapter keeps beside its scripts (two_layer_net, simple_convnet, deep_convnet) stays there, with the same
change; or it is imported from here:

    from simple_convnet import SimpleConvNet       ->  from nnbackend.book.simple_convnet import SimpleConvNet
    from deep_convnet import DeepConvNet           ->  from nnbackend.book.deep_convnet import DeepConvNet
    from two_layer_net import TwoLayerNet          ->  from nnbackend.book.two_layer_net import TwoLayerNet  (chapter 4)

Signatures, attributes, layouts (images are N, C, H, W), formulas, dtypes and draws from `numpy.random` are the book's:
on NumPy a script that sets a seed prints the book's numbers, to the rounding of float64. The logarithm of the loss has
the book's 1e-7, which the library's own losses do without: those differ from these by up to 1e-7 / y, y being the
probability of the label (1e-6 for probabilities of 0.1).

Arrays: load_mnist gives NumPy's. The networks of this folder keep their parameters on the backend that is selected when
they are made (NNBACKEND, nn.use), and move to it what they are given. Layers and functions compute where their
arguments live, and move NumPy's arrays to the device of the others: a network of one's own, with weights from
np.random, is on a GPU if its images are. Two devices in one call are an error.

Where the book's code would go on with a wrong value, this one raises: labels that are no class, shapes that do not
fit. No argument is written to, where the book's ReLU writes to `dout`. New code does better with `nnbackend` itself.
"""

from nnbackend.book.deep_convnet import DeepConvNet
from nnbackend.book.mnist import load_mnist
from nnbackend.book.multi_layer_net import MultiLayerNet
from nnbackend.book.multi_layer_net_extend import MultiLayerNetExtend
from nnbackend.book.simple_convnet import SimpleConvNet
from nnbackend.book.trainer import Trainer
from nnbackend.book.two_layer_net import TwoLayerNet

__all__ = [
    "DeepConvNet",
    "MultiLayerNet",
    "MultiLayerNetExtend",
    "SimpleConvNet",
    "Trainer",
    "TwoLayerNet",
    "load_mnist",
]
