"""Provide the book's common.trainer."""

from __future__ import annotations

import os
import sys
from typing import Any

import numpy as np

from nnbackend.book.arrays import number, take
from nnbackend.book.optimizer import OPTIMIZERS, SGD, AdaGrad, Adam, Momentum, Nesterov, RMSprop
from nnbackend.errors import unknown_name
from nnbackend.functions.array import Array

__all__ = ["SGD", "AdaGrad", "Adam", "Momentum", "Nesterov", "RMSprop", "Trainer", "np", "os", "sys"]


class Trainer:
    """Trains with random mini-batches, drawn with replacement from numpy.random, and prints as the book does.

    network: an object with `params`, `gradient`, `loss` and `accuracy`. optimizer: "SGD", "Momentum", "Nesterov",
    "AdaGrad", "RMSprop" or "Adam". optimizer_param: its arguments, by default a learning rate of 0.01.

    train_loss_list: the loss of each step. train_acc_list, test_acc_list: the accuracies of each epoch. As in the book,
    accuracies are computed if the number of the step is a multiple of train_size / mini_batch_size, which need not be
    an integer.

    Raises ValueError for an unknown optimizer.
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
        self.optimizer = OPTIMIZERS[optimizer.lower()](**({"lr": 0.01} if optimizer_param is None else optimizer_param))
        self.train_size = x_train.shape[0]
        self.iter_per_epoch = max(self.train_size / mini_batch_size, 1)
        self.max_iter = int(epochs * self.iter_per_epoch)
        self.current_iter = 0
        self.current_epoch = 0
        self.train_loss_list: list[Any] = []
        self.train_acc_list: list[Any] = []
        self.test_acc_list: list[Any] = []

    def train_step(self) -> None:
        """Train on one mini-batch. If an epoch begins with it, compute the accuracies."""
        chosen = np.random.choice(self.train_size, self.batch_size)
        x_batch, t_batch = take(self.x_train, chosen), take(self.t_train, chosen)
        self.optimizer.update(self.network.params, self.network.gradient(x_batch, t_batch))
        loss = number(self.network.loss(x_batch, t_batch))
        self.train_loss_list.append(loss)
        if self.verbose:
            print(f"train loss:{loss}")
        if self.current_iter % self.iter_per_epoch == 0:
            self.current_epoch += 1
            train_acc, test_acc = self._accuracy(self.x_train, self.t_train), self._accuracy(self.x_test, self.t_test)
            self.train_acc_list.append(train_acc)
            self.test_acc_list.append(test_acc)
            if self.verbose:
                print(f"=== epoch:{self.current_epoch}, train acc:{train_acc}, test acc:{test_acc} ===")
        self.current_iter += 1

    def train(self) -> None:
        """Train for all epochs and print the final test accuracy."""
        for _ in range(self.max_iter):
            self.train_step()
        test_acc = number(self.network.accuracy(self.x_test, self.t_test))
        if self.verbose:
            print("=============== Final Test Accuracy ===============")
            print(f"test acc:{test_acc}")

    def _accuracy(self, x: Array, t: Array) -> Any:
        """Return the accuracy for the first evaluate_sample_num_per_epoch rows, or for all rows if that is None."""
        n = x.shape[0]
        if self.evaluate_sample_num_per_epoch is not None:
            n = min(n, self.evaluate_sample_num_per_epoch)
        return number(self.network.accuracy(x[:n, ...], t[:n, ...]))
