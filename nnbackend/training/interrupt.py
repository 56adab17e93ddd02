"""Take Ctrl-C and SIGTERM, and let the current step finish."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupt:
    """Holds whether a signal has come. A second Ctrl-C raises KeyboardInterrupt as usual.

    requested: whether any signal has come. terminated: whether SIGTERM has.
    """

    requested = False
    terminated = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGTERM:
            self.terminated = True
        elif self.requested:
            raise KeyboardInterrupt
        self.requested = True


@contextmanager
def listen(terminate: bool = False) -> Iterator[Interrupt]:
    """Note Ctrl-C within the block instead of raising KeyboardInterrupt.

    terminate: whether to note SIGTERM, too, which then ends the process at the end of the block. Nothing changes
    outside the main thread, where Python cannot take signals, nor for a signal whose handler Python has not installed
    (in a program that embeds Python), because that handler could not be put back.
    """
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return
    numbers = (signal.SIGINT, signal.SIGTERM) if terminate else (signal.SIGINT,)
    previous = {n: signal.signal(n, interrupt) for n in numbers if signal.getsignal(n) is not None}
    try:
        yield interrupt
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        if interrupt.terminated:  # even if the block raised an error
            signal.raise_signal(signal.SIGTERM)
