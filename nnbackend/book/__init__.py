"""Run the scripts of "Deep Learning from Scratch" (ゼロから作る Deep Learning) on this library and its backends.

The modules have the book's names. A script runs if its imports are changed, and nothing else:

    from common.layers import *                    ->  from nnbackend.book.layers import *
    from common.optimizer import Adam              ->  from nnbackend.book.optimizer import Adam
    from common.multi_layer_net import ...         ->  from nnbackend.book.multi_layer_net import ...
    from dataset.mnist import load_mnist           ->  from nnbackend.book.mnist import load_mnist

Some chapters have modules beside their scripts (two_layer_net, simple_convnet, deep_convnet). Change their imports in
the same way, or import these modules from here:

    from simple_convnet import SimpleConvNet       ->  from nnbackend.book.simple_convnet import SimpleConvNet
    from deep_convnet import DeepConvNet           ->  from nnbackend.book.deep_convnet import DeepConvNet
    from two_layer_net import TwoLayerNet          ->  from nnbackend.book.two_layer_net import TwoLayerNet  (chapter 4)

Signatures, attributes, layouts (images are N, C, H, W), formulas, dtypes and draws from `numpy.random` are the book's.
On NumPy, a script that sets a seed prints the book's numbers, up to the rounding of float64. The loss adds the book's
1e-7 to the probability y of the label before it takes the logarithm. The library's own losses add nothing, and differ
by up to 1e-7 / y (1e-6 if y is 0.1).

`load_mnist` returns NumPy arrays. The networks of this folder keep their parameters on the backend that is selected
when they are made (NNBACKEND, nn.use), and move their arguments to it. Layers and functions move NumPy arrays to the
device of their other arguments. A network of your own, with weights from np.random, runs on a GPU if its images are
there. Arrays on two devices in one call are an error.

Wrong labels and shapes that do not fit raise an error here, while the book's code would go on. Arguments are never
written to, while the book's ReLU writes to `dout`. Use `nnbackend` itself for new code.
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
