"""Run the scripts of "Deep Learning from Scratch 2" (ゼロから作る Deep Learning 2: natural language) on NumPy and CuPy.

The modules have the book's names. A script runs if its imports are changed, and nothing else:

    from common.time_layers import *               ->  from nnbackend.book2.time_layers import *
    from common.np import *                        ->  from nnbackend.book2.np import *
    from common import config                      ->  from nnbackend.book2 import config
    from dataset import ptb                        ->  from nnbackend.book2.dataset import ptb
    from ch04.negative_sampling_layer import ...   ->  from nnbackend.book2.negative_sampling_layer import ...

The modules beside the scripts (rnnlm, seq2seq, attention_layer ...) are the book's own, with their imports changed in
the same way.

Signatures, attributes, formulas, gate orders and draws from `numpy.random` are the book's. On NumPy, a script that sets
a seed prints the book's numbers, up to rounding. On a GPU it draws the same numbers where the layers draw (dropout,
negative samples), because these are drawn on the host.

`config.GPU = True`, before the other imports, selects CuPy, and so does NNBACKEND=cupy. Layers move NumPy arrays to the
device of their parameters, so `to_gpu` is allowed and not needed. The gradient of an embedding is the same in every
run, also on a GPU.

What differs: wrong shapes, labels and word numbers raise an error that names the argument. Results have the common
dtype of the input and the parameters, while the book's layers with a time axis always give float32. A weight and a
transpose count as one if they share their memory, while the book compares their values. A pickle of parameters is read
without running what is in it.
Use `nnbackend` itself for new code.
"""
