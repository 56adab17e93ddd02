"""The book's common.trainer."""

from __future__ import annotations

from typing import Any

import numpy as np

from nnbackend.book.optimizer import OPTIMIZERS
from nnbackend.errors import unknown_name
from nnbackend.functions.array import Array, array_namespace, device


class Trainer:
    """Trains with random mini-batches (drawn with replacement between steps, from numpy.random), prints as the
    book does, and keeps train_loss_list (per step), train_acc_list and test_acc_list (per epoch).

    optimizer: "SGD", "Momentum", "Nesterov", "AdaGrad", "RMSprop" or "Adam"; optimizer_param: its arguments.
    """

    def __init__(
        self,
        network: Any,
        x_train: Array,
        t_train: Array,
        x_test: Array,
        t_test: Array,
        epochs: int = 20,
        mini_batch_size: int = 100,
        optimizer: str = "SGD",
        optimizer_param: dict[str, float] | None = None,
        evaluate_sample_num_per_epoch: int | None = None,
        verbose: bool = True,
    ):
        if optimizer.lower() not in OPTIMIZERS:
            raise ValueError(unknown_name("optimizer", optimizer, OPTIMIZERS))
        self.network, self.verbose = network, verbose
        self.x_train, self.t_train, self.x_test, self.t_test = x_train, t_train, x_test, t_test
        self.epochs, self.batch_size = epochs, mini_batch_size
        self.evaluate_sample_num_per_epoch = evaluate_sample_num_per_epoch
        self.optimizer = OPTIMIZERS[optimizer.lower()](**(optimizer_param or {"lr": 0.01}))
        self.train_size = x_train.shape[0]
        self.iter_per_epoch = max(self.train_size / mini_batch_size, 1)
        self.max_iter = int(epochs * self.iter_per_epoch)
        self.current_iter = 0
        self.current_epoch = 0
        self.train_loss_list: list[float] = []
        self.train_acc_list: list[float] = []
        self.test_acc_list: list[float] = []

    def train_step(self) -> None:
        """One mini-batch; after the last of an epoch, the accuracies."""
        xp = array_namespace(self.x_train)
        rows = xp.asarray(np.random.choice(self.train_size, self.batch_size), device=device(self.x_train))
        x_batch, t_batch = xp.take(self.x_train, rows, axis=0), xp.take(self.t_train, rows, axis=0)
        self.optimizer.update(self.network.params, self.network.gradient(x_batch, t_batch))
        loss = self.network.loss(x_batch, t_batch)
        self.train_loss_list.append(loss)
        if self.verbose:
            print("train loss:" + str(loss))
        if self.current_iter % max(1, int(self.iter_per_epoch)) == 0:
            self.current_epoch += 1
            n = self.evaluate_sample_num_per_epoch or max(self.train_size, self.x_test.shape[0])
            train, test = min(n, self.train_size), min(n, self.x_test.shape[0])
            train_acc = self.network.accuracy(self.x_train[:train, ...], self.t_train[:train, ...])
            test_acc = self.network.accuracy(self.x_test[:test, ...], self.t_test[:test, ...])
            self.train_acc_list.append(train_acc)
            self.test_acc_list.append(test_acc)
            if self.verbose:
                print(f"=== epoch:{self.current_epoch}, train acc:{train_acc}, test acc:{test_acc} ===")
        self.current_iter += 1

    def train(self) -> None:
        """All epochs, and the final test accuracy."""
        for _ in range(self.max_iter):
            self.train_step()
        test_acc = self.network.accuracy(self.x_test, self.t_test)
        if self.verbose:
            print("=============== Final Test Accuracy ===============")
            print("test acc:" + str(test_acc))
