"""Provide the book's dataset: ptb, sequence and spiral."""

from nnbackend.book2.dataset import ptb, sequence, spiral

__all__ = ["ptb", "sequence", "spiral"]
