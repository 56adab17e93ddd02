"""Train the same multilayer perceptron (ReLU, softmax with cross entropy) with each library; one class per library.

Each class places its data and draws its shuffled order in the fastest way that the library offers. `epoch()` trains on
each row once. `predict` takes host rows and returns host class scores.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

THREADS = os.cpu_count() or 1
PAUSE = 0.2  # seconds after which the threads of the last program spin no more; those of OpenBLAS do for 0.1


@dataclass
class Task:
    """Holds layer widths, batch size, optimizer ("sgd" or "adam"), and the data in float32 / int64."""

    sizes: tuple[int, ...]
    batch: int
    optimizer: str
    x: np.ndarray
    t: np.ndarray
    rate: float | None = None

    @property
    def lr(self) -> float:
        return self.rate or {"sgd": 0.1, "adam": 1e-3}[self.optimizer]

    @property
    def steps(self) -> int:
        return len(self.x) // self.batch


class Ours:
    name = "nnbackend"

    def __init__(self, task: Task):
        import nnbackend as nn

        layers: list[nn.Layer] = []
        for i, (a, b) in enumerate(zip(task.sizes[:-1], task.sizes[1:], strict=True)):
            layers += [nn.Affine(a, b)] + [nn.ReLU()] * (i < len(task.sizes) - 2)
        self.net = nn.Network(layers, backend="numpy")
        optimizer = nn.SGD(lr=task.lr) if task.optimizer == "sgd" else nn.Adam(lr=task.lr)
        self.trainer = nn.Trainer(self.net, optimizer, batch_size=task.batch)
        self.task = task

    def epoch(self) -> float:
        return self.trainer.fit(self.task.x, self.task.t).loss[-1]

    def predict(self, x: np.ndarray) -> np.ndarray:
        return self.net.predict(x)


class Torch:
    """Trains with eager PyTorch and the faster of its fused and foreach optimizers for CPU tensors."""

    name = "PyTorch eager"
    settings: dict[str, bool] = {"fused": True}  # noqa: RUF012

    def __init__(self, task: Task):
        import torch

        torch.set_num_threads(THREADS)
        torch.manual_seed(0)
        modules: list[Any] = []
        for i, (a, b) in enumerate(zip(task.sizes[:-1], task.sizes[1:], strict=True)):
            modules += [torch.nn.Linear(a, b)] + [torch.nn.ReLU()] * (i < len(task.sizes) - 2)
        self.torch, self.task = torch, task
        self.net = torch.nn.Sequential(*modules)
        kind = torch.optim.SGD if task.optimizer == "sgd" else torch.optim.Adam
        self.optimizer = kind(self.net.parameters(), lr=task.lr, **self.settings)
        self.x, self.t = torch.from_numpy(task.x), torch.from_numpy(task.t)
        self.loss_of = self.compiled(lambda x, t: torch.nn.functional.cross_entropy(self.net(x), t))

    def compiled(self, loss_of: Callable[..., Any]) -> Callable[..., Any]:
        return loss_of

    def epoch(self) -> float:
        total = self.torch.zeros(())
        for rows in self.torch.randperm(len(self.x))[: self.task.steps * self.task.batch].split(self.task.batch):
            self.optimizer.zero_grad()
            loss = self.loss_of(self.x[rows], self.t[rows])
            loss.backward()
            self.optimizer.step()
            total += loss.detach()
        return float(total) / self.task.steps

    def predict(self, x: np.ndarray) -> np.ndarray:
        with self.torch.inference_mode():
            return self.net(self.torch.from_numpy(x)).numpy()


class TorchForeach(Torch):
    name = "PyTorch eager, foreach"
    settings = {"foreach": True}  # noqa: RUF012


class TorchCompiled(Torch):
    name = "torch.compile"

    def compiled(self, loss_of: Callable[..., Any]) -> Callable[..., Any]:
        return self.torch.compile(loss_of)


class JaxStep:
    """Trains with JAX, one jitted step per batch."""

    name = "JAX step"

    def __init__(self, task: Task):
        import jax
        import jax.numpy as jnp

        self.jax, self.jnp, self.task = jax, jnp, task
        generator = np.random.default_rng(0)
        self.parameters = [
            (jnp.asarray(generator.standard_normal((a, b)).astype("f4") * (2 / a) ** 0.5), jnp.zeros(b, "f4"))
            for a, b in zip(task.sizes[:-1], task.sizes[1:], strict=True)
        ]
        m, v = (jax.tree.map(jnp.zeros_like, self.parameters) for _ in range(2))
        self.state = (self.parameters, m, v, jnp.zeros((), "f4"))
        self.x, self.t = jnp.asarray(task.x), jnp.asarray(task.t.astype("i4"))
        self.step = jax.jit(self._step, donate_argnums=0)
        self.forward = jax.jit(self._forward)
        self.generator = np.random.default_rng(1)

    def _forward(self, parameters: Any, x: Any) -> Any:
        for i, (W, b) in enumerate(parameters):
            x = x @ W + b
            x = self.jax.nn.relu(x) if i < len(parameters) - 1 else x
        return x

    def _step(self, state: Any, x_all: Any, t_all: Any, rows: Any) -> Any:
        jax, jnp = self.jax, self.jnp
        parameters, m, v, count = state
        x, t = x_all[rows], t_all[rows]

        def loss_of(p: Any) -> Any:
            logits = self._forward(p, x)
            return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), t[:, None], axis=1))

        loss, g = jax.value_and_grad(loss_of)(parameters)
        lr, count = self.task.lr, count + 1
        if self.task.optimizer == "sgd":
            parameters = jax.tree.map(lambda p, g: p - lr * g, parameters, g)
        else:
            m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, g)
            v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, g)
            c1, c2 = 1 - 0.9**count, 1 - 0.999**count
            parameters = jax.tree.map(lambda p, m, v: p - lr * (m / c1) / (jnp.sqrt(v / c2) + 1e-8), parameters, m, v)
        return (parameters, m, v, count), loss

    def order(self) -> Any:
        rows = self.generator.permutation(len(self.x))[: self.task.steps * self.task.batch]
        return self.jnp.asarray(rows.astype("i4").reshape(self.task.steps, self.task.batch))

    def epoch(self) -> float:
        losses = []
        for rows in self.order():
            self.state, loss = self.step(self.state, self.x, self.t, rows)
            losses.append(loss)
        return float(self.jnp.stack(losses).mean())

    def predict(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(self.forward(self.state[0], x))


class JaxScan(JaxStep):
    """Trains with JAX, one scan over all batches per epoch."""

    name = "JAX scan"

    def __init__(self, task: Task):
        super().__init__(task)

        def run(state: Any, x: Any, t: Any, order: Any) -> Any:
            return self.jax.lax.scan(lambda s, rows: self._step(s, x, t, rows), state, order)

        self.run = self.jax.jit(run, donate_argnums=0)

    def epoch(self) -> float:
        self.state, losses = self.run(self.state, self.x, self.t, self.order())
        return float(losses.mean())


class Sklearn:
    name = "scikit-learn"

    def __init__(self, task: Task):
        from sklearn.neural_network import MLPClassifier

        self.task = task
        self.net = MLPClassifier(
            task.sizes[1:-1],
            solver=task.optimizer,
            learning_rate_init=task.lr,
            batch_size=task.batch,
            alpha=0.0,
            momentum=0.0,
            nesterovs_momentum=False,
            random_state=0,
        )

    def epoch(self) -> float:
        self.net.partial_fit(self.task.x, self.task.t, classes=np.arange(self.task.sizes[-1]))
        return float(self.net.loss_)

    def predict(self, x: np.ndarray) -> np.ndarray:
        return self.net.predict_proba(x)


class Thinc:
    name = "thinc"

    def __init__(self, task: Task):
        from thinc.api import SGD, Adam, Relu, Softmax, chain, fix_random_seed

        fix_random_seed(0)
        self.task = task
        hidden = [Relu(width) for width in task.sizes[1:-1]]
        self.net = chain(*hidden, Softmax(task.sizes[-1]))
        self.net.initialize(task.x[:8], np.eye(task.sizes[-1], dtype="f4")[task.t[:8]])
        self.optimizer = SGD(task.lr) if task.optimizer == "sgd" else Adam(task.lr, L2=0.0, grad_clip=0.0)
        self.generator = np.random.default_rng(0)
        self.one_hot = np.eye(task.sizes[-1], dtype="f4")

    def epoch(self) -> float:
        task, total = self.task, 0.0
        order = self.generator.permutation(len(task.x))
        for i in range(task.steps):
            rows = order[i * task.batch : (i + 1) * task.batch]
            y, backprop = self.net.begin_update(task.x[rows])
            t = task.t[rows]
            total -= float(np.log(y[np.arange(len(t)), t] + 1e-30).mean())
            backprop((y - self.one_hot[t]) / len(t))
            self.net.finish_update(self.optimizer)
        return total / task.steps

    def predict(self, x: np.ndarray) -> np.ndarray:
        return self.net.predict(x)


class Keras:
    """Keras on JAX if it is there, else on TensorFlow or PyTorch: in this order it is fast on a CPU."""

    name = "Keras"

    def __init__(self, task: Task):
        found = [module for module in ("jax", "tensorflow", "torch") if importlib.util.find_spec(module)]
        os.environ.setdefault("KERAS_BACKEND", found[0] if found else "jax")
        import keras

        keras.utils.set_random_seed(0)
        self.task = task
        hidden = [keras.layers.Dense(width, activation="relu") for width in task.sizes[1:-1]]
        self.net = keras.Sequential([keras.Input(task.sizes[:1]), *hidden, keras.layers.Dense(task.sizes[-1])])
        optimizer = keras.optimizers.SGD(task.lr) if task.optimizer == "sgd" else keras.optimizers.Adam(task.lr)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self.net.compile(optimizer=optimizer, loss=loss)

    def epoch(self) -> float:
        return float(self.net.fit(self.task.x, self.task.t, self.task.batch, verbose=0).history["loss"][-1])

    def predict(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(self.net.predict(x, batch_size=10_000, verbose=0))


class Products:
    """Computes the matrix products of a step and nothing else, on the same shapes. No program can be faster."""

    name = "bare products"

    def __init__(self, task: Task):
        self.task = task
        generator = np.random.default_rng(0)

        def draw(*shape: int) -> np.ndarray:
            return generator.standard_normal(shape, dtype="f4")

        pairs = list(zip(task.sizes[:-1], task.sizes[1:], strict=True))
        self.layers = [
            (draw(task.batch, a), draw(a, b), draw(task.batch, b), draw(a, b), draw(task.batch, a)) for a, b in pairs
        ]

    def epoch(self) -> float:
        for _ in range(self.task.steps):
            for x, W, y, _, _ in self.layers:
                np.matmul(x, W, out=y)
            for i, (x, W, y, dW, dx) in reversed(list(enumerate(self.layers))):
                np.matmul(x.T, y, out=dW)
                if i:
                    np.matmul(y, W.T, out=dx)
        return 0.0


PROGRAMS = (Ours, Torch, TorchForeach, TorchCompiled, JaxStep, JaxScan, Sklearn, Thinc)
