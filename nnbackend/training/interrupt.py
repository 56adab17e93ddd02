"""Ctrl-C, and the system's request to end, that let the step in hand finish."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupt:
    """`requested` becomes true at the first signal; a second Ctrl-C raises KeyboardInterrupt as usual."""

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
    """Within the block Ctrl-C is only noted; with `terminate` SIGTERM, too, which takes its usual effect at the end.
    Outside the main thread signals cannot be taken: nothing changes. Nor does it for a signal whose handler Python has
    not installed (a program that embeds Python), since that could not be put back.
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
        if interrupt.terminated:  # whatever else went wrong in the meantime
            signal.raise_signal(signal.SIGTERM)
