"""Provide the book's common.util: words and their vectors, and scores of language models."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy

from nnbackend.backends import resolve, to_numpy
from nnbackend.book.arrays import number, together, whole
from nnbackend.book2.np import GPU, np
from nnbackend.checks import number as real_number
from nnbackend.functions.array import Array, array_namespace

__all__ = [
    "GPU",
    "analogy",
    "clip_grads",
    "convert_one_hot",
    "cos_similarity",
    "create_co_matrix",
    "create_contexts_target",
    "eval_perplexity",
    "eval_seq2seq",
    "most_similar",
    "normalize",
    "np",
    "os",
    "ppmi",
    "preprocess",
    "sys",
    "to_cpu",
    "to_gpu",
]


# --- words --------------------------------------------------------------------------------------------------------


def preprocess(text: str) -> tuple[Any, dict[str, int], dict[int, str]]:
    """Return the numbers of the words of a text, and the tables from word to number and back.

    The text becomes lower case, a full stop becomes a word of its own, and spaces part the words.
    """
    words = text.lower().replace(".", " .").split(" ")
    word_to_id: dict[str, int] = {}
    for word in words:
        word_to_id.setdefault(word, len(word_to_id))
    return np.array([word_to_id[word] for word in words]), word_to_id, {i: word for word, i in word_to_id.items()}


def create_contexts_target(corpus: Any, window_size: int = 1) -> tuple[Any, Any]:
    """Return the contexts, (n, 2 window_size), and the targets, (n,): each word that has neighbours on both sides.

    corpus: word numbers, (words,). Raises ValueError for a window_size below 1 and for a corpus that is too short.
    """
    width, words = whole("window_size", window_size, 1), to_numpy(corpus)
    n = len(words) - 2 * width
    if n < 1:
        raise ValueError(f"corpus: expected at least {2 * width + 1} words, got {len(words)}")
    contexts = [words[width + at : width + at + n] for at in range(-width, width + 1) if at]
    return np.asarray(numpy.stack(contexts, axis=1)), np.asarray(words[width:-width])


def convert_one_hot(corpus: Any, vocab_size: int) -> Any:
    """Return one-hot rows, (..., vocab_size) of int32, for word numbers of any shape.

    Raises ValueError for a number that is not from 0 to vocab_size - 1.
    """
    words = _words("corpus", corpus, vocab_size)
    return np.asarray((words[..., None] == numpy.arange(vocab_size)).astype(numpy.int32))


def create_co_matrix(corpus: Any, vocab_size: int, window_size: int = 1) -> Any:
    """Return how often word j stands within window_size words of word i, (vocab_size, vocab_size) of int32.

    Raises ValueError for a number that is not from 0 to vocab_size - 1.
    """
    words = _words("corpus", corpus, vocab_size)
    counts = numpy.zeros((vocab_size, vocab_size), numpy.int32)
    for apart in range(1, whole("window_size", window_size, 1) + 1):
        numpy.add.at(counts, (words[apart:], words[:-apart]), 1)
        numpy.add.at(counts, (words[:-apart], words[apart:]), 1)
    return np.asarray(counts)


def ppmi(C: Any, verbose: bool = False, eps: float = 1e-8) -> Any:
    """Return max(0, log2(C_ij N / (S_i S_j) + eps)), (n, n) of float32: positive pointwise mutual information.

    C: how often two words stand together, (n, n). S: the sums of its columns. N: the sum of all. verbose: print how
    much is done.
    """
    C = to_numpy(C)
    if C.ndim != 2 or C.shape[0] != C.shape[1]:
        raise ValueError(f"C: expected shape (n, n), got {C.shape}")
    M = numpy.zeros(C.shape, numpy.float32)
    N, S, total = C.sum(), C.sum(axis=0), C.size
    step = total // 100 + 1
    for i in range(len(C)):
        with numpy.errstate(divide="ignore", invalid="ignore"):  # a word that stands nowhere
            M[i] = numpy.fmax(0, numpy.log2(C[i] * N / (S * S[i]) + eps))
        if verbose:
            for count in range((i * len(C) // step + 1) * step, (i + 1) * len(C) + 1, step):
                print(f"{100 * count / total:.1f}% done")
    return np.asarray(M)


def cos_similarity(x: Any, y: Any, eps: float = 1e-8) -> Any:
    """Return x y / ((|x| + eps) (|y| + eps)) of two vectors. eps: keeps the similarity with a vector of zeros 0."""
    x, y = together(x=x, y=y)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"expected two vectors of the same length, got shapes {tuple(x.shape)} and {tuple(y.shape)}")
    xp = array_namespace(x)
    nx = x / (xp.sqrt(xp.sum(x**2)) + eps)
    ny = y / (xp.sqrt(xp.sum(y**2)) + eps)
    return number(xp.vecdot(nx, ny))


def most_similar(
    query: str, word_to_id: Mapping[str, int], id_to_word: Mapping[int, str], word_matrix: Any, top: int = 5
) -> None:
    """Print the `top` words whose vectors are most similar to that of `query`. word_matrix: a row for each word."""
    if query not in word_to_id:
        print(f"{query} is not found")
        return
    print(f"\n[query] {query}")
    vectors = to_numpy(word_matrix)
    similarity = numpy.zeros(len(id_to_word))
    for i in range(len(id_to_word)):
        similarity[i] = cos_similarity(vectors[i], vectors[word_to_id[query]])
    _print_best(similarity, id_to_word, {query}, top)


def analogy(
    a: str,
    b: str,
    c: str,
    word_to_id: Mapping[str, int],
    id_to_word: Mapping[int, str],
    word_matrix: Any,
    top: int = 5,
    answer: str | None = None,
) -> None:
    """Print the `top` words that are to c as b is to a: those most similar to the vector of b - a + c.

    answer: a word whose similarity is printed, too. word_matrix: a row of length 1 for each word.
    """
    for word in (a, b, c):
        if word not in word_to_id:
            print(f"{word} is not found")
            return
    print(f"\n[analogy] {a}:{b} = {c}:?")
    vectors = to_numpy(word_matrix)
    first, second, third = (vectors[word_to_id[word]] for word in (a, b, c))
    query: Any = normalize(second - first + third)
    similarity = numpy.dot(vectors, query)
    if answer is not None:
        print(f"==>{answer}:{numpy.dot(vectors[word_to_id[answer]], query)}")
    _print_best(similarity, id_to_word, {a, b, c}, top)


def normalize(x: Any) -> Array:
    """Return x, (d,) or (n, d), divided by its length, or by that of each row."""
    (x,) = together(x=x)
    xp = array_namespace(x)
    y: Array = x / xp.sqrt(xp.sum(x * x, axis=-1, keepdims=True))
    return y


def _print_best(similarity: Any, id_to_word: Mapping[int, str], without: set[str], top: int) -> None:
    best = [int(i) for i in (-1 * similarity).argsort() if not numpy.isnan(similarity[i])]
    for i in [i for i in best if id_to_word[i] not in without][:top]:
        print(f" {id_to_word[i]}: {similarity[i]}")


def _words(name: str, corpus: Any, vocab_size: int) -> Any:
    words = to_numpy(corpus)
    if words.dtype.kind not in "iu":
        raise TypeError(f"{name}: expected integers, got dtype {words.dtype}")
    if words.size and not 0 <= words.min() <= words.max() < vocab_size:
        raise ValueError(f"{name}: expected numbers from 0 to {vocab_size - 1}, got {words.min()} to {words.max()}")
    return words


# --- devices ------------------------------------------------------------------------------------------------------


def to_cpu(x: Any) -> Any:
    """Return x as a NumPy array."""
    return to_numpy(x)


def to_gpu(x: Any) -> Any:
    """Return x as an array of CuPy on the device. Raises BackendError if CuPy does not work."""
    return resolve("cupy").asarray(x)


# --- training and scores ------------------------------------------------------------------------------------------


def check_norm(name: str, value: Any) -> None:
    """Raise ValueError unless the value is a number of at least 0; infinity is one."""
    real_number(name, value)
    if not value >= 0:
        raise ValueError(f"{name}: expected a number of at least 0, got {value!r}")


def clip_grads(grads: Sequence[Any], max_norm: float) -> None:
    """Multiply all gradients in place so that their common norm is at most max_norm (section 6.1.4).

    Raises ValueError for a max_norm below 0.
    """
    check_norm("max_norm", max_norm)
    if not grads:
        return
    total = sum(array_namespace(g).sum(g**2) for g in grads)
    rate = max_norm / (array_namespace(total).sqrt(total) + 1e-6)
    if rate < 1:
        for g in grads:
            g *= rate


def eval_perplexity(model: Any, corpus: Any, batch_size: int = 10, time_size: int = 35) -> Any:
    """Return the perplexity of a language model on a text: exp of its mean loss. Print how much is done.

    model: has forward(x, t), perhaps with train_flg. corpus: word numbers, (words,). Raises ValueError if the corpus
    has not the words of a batch and one more, and for numbers out of range.
    """
    batch_size, time_size = whole("batch_size", batch_size, 1), whole("time_size", time_size, 1)
    print("evaluating perplexity ...")
    words = to_numpy(corpus)
    n = len(words)
    steps, jump = (n - 1) // (batch_size * time_size), (n - 1) // batch_size
    if steps == 0:
        raise ValueError(f"corpus: expected more than {batch_size * time_size} words, those of a batch, got {n}")
    flag = {"train_flg": False} if _takes_flag(model.forward) else {}
    total: Any = 0
    for i in range(steps):
        places = i * time_size + numpy.arange(batch_size)[:, None] * jump + numpy.arange(time_size)
        x, t = (np.asarray(words[(places + at) % n].astype(numpy.int32)) for at in (0, 1))
        total += model.forward(x, t, **flag)
        sys.stdout.write(f"\r{i} / {steps}")
        sys.stdout.flush()
    print("")
    return numpy.exp(total / steps)


def _takes_flag(forward: Any) -> bool:
    parameters = inspect.signature(forward).parameters.values()
    return any(p.name == "train_flg" or p.kind is p.VAR_KEYWORD for p in parameters)


def eval_seq2seq(
    model: Any,
    question: Any,
    correct: Any,
    id_to_char: Mapping[int, str],
    verbose: bool = False,
    is_reverse: bool = False,
) -> int:
    """Return 1 if the model generates the right answer to a question, else 0.

    model: has generate(question, start_id, length). question: (1, T); correct: (1, T'), the first of which starts the
    answer. verbose: print both. is_reverse: the question is written backward.
    """
    start, *right = (int(i) for i in to_numpy(correct).reshape(-1))
    guessed = [int(i) for i in model.generate(question, start, len(right))]
    asked, answer, guess = (
        "".join(id_to_char[int(i)] for i in ids) for ids in (to_numpy(question).reshape(-1), right, guessed)
    )
    if verbose:
        is_right, plain = answer == guess, os.name == "nt"
        mark = ("O" if plain else "\033[92m☑\033[0m") if is_right else ("X" if plain else "\033[91m☒\033[0m")
        print("Q", asked[::-1] if is_reverse else asked)
        print("T", answer)
        print(f"{mark} {guess}")
        print("---")
    return int(guess == answer)
