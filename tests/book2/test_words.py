"""Words as numbers and vectors, against counts by hand and closed forms."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from nnbackend.book2 import util

TEXT = "You say goodbye and I say hello."


def test_preprocess() -> None:
    corpus, word_to_id, id_to_word = util.preprocess(TEXT)
    assert list(word_to_id) == ["you", "say", "goodbye", "and", "i", "hello", "."]
    assert corpus.tolist() == [0, 1, 2, 3, 4, 1, 5, 6]
    assert id_to_word == dict(enumerate(word_to_id))


def test_co_occurrences() -> None:
    corpus, word_to_id, _ = util.preprocess(TEXT)
    C = util.create_co_matrix(corpus, len(word_to_id))
    assert C.dtype == np.int32
    assert C.tolist() == [
        [0, 1, 0, 0, 0, 0, 0],
        [1, 0, 1, 0, 1, 1, 0],
        [0, 1, 0, 1, 0, 0, 0],
        [0, 0, 1, 0, 1, 0, 0],
        [0, 1, 0, 1, 0, 0, 0],
        [0, 1, 0, 0, 0, 0, 1],
        [0, 0, 0, 0, 0, 1, 0],
    ]
    near = [(i, j) for i in range(8) for j in range(8) if 0 < abs(i - j) <= 3]
    expected = np.zeros((7, 7), int)
    for i, j in near:
        expected[corpus[i], corpus[j]] += 1
    assert util.create_co_matrix(corpus, 7, window_size=3).tolist() == expected.tolist()


def test_ppmi(capsys: Any) -> None:
    C = np.array([[0, 2, 0], [2, 1, 3], [0, 3, 0]])
    M = util.ppmi(C, verbose=True)
    assert M.dtype == np.float32
    assert M[0, 1] == pytest.approx(math.log2(2 * 11 / (6 * 2)), rel=1e-6)
    assert M[1, 1] == 0  # log2(11 / 36) is negative
    assert M[0, 0] == 0
    assert M[2, 1] == pytest.approx(math.log2(3 * 11 / (6 * 3)), rel=1e-6)
    assert capsys.readouterr().out.splitlines() == [f"{100 * i / 9:.1f}% done" for i in range(1, 10)]
    assert util.ppmi(np.array([[0, 0], [0, 4]])) == pytest.approx(0, abs=1e-7)  # a word that stands nowhere


def test_progress_is_printed_a_hundred_times_at_most(capsys: Any) -> None:
    util.ppmi(np.ones((30, 30), int), verbose=True)
    assert capsys.readouterr().out.splitlines() == [f"{100 * i / 900:.1f}% done" for i in range(10, 901, 10)]


def test_contexts_and_targets() -> None:
    contexts, target = util.create_contexts_target(np.arange(10, 17), window_size=2)
    assert contexts.tolist() == [[10, 11, 13, 14], [11, 12, 14, 15], [12, 13, 15, 16]]
    assert target.tolist() == [12, 13, 14]
    one_hot = util.convert_one_hot(target - 10, 7)
    assert one_hot.dtype == np.int32
    assert one_hot.tolist() == np.eye(7, dtype=int)[[2, 3, 4]].tolist()
    assert util.convert_one_hot(contexts - 10, 7).shape == (3, 4, 7)


def test_similar_words(capsys: Any) -> None:
    assert util.cos_similarity(np.array([3.0, 4.0]), np.array([4.0, 3.0])) == pytest.approx(24 / 25)
    assert util.cos_similarity(np.array([1, 0]), np.array([0, 0])) == 0
    words = {"a": 0, "b": 1, "c": 2, "d": 3}
    vectors = np.array([[1.0, 0.0], [0.0, 1.0], [3.0, 4.0], [4.0, 3.0]])
    util.most_similar("a", words, dict(enumerate(words)), vectors, top=2)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["", "[query] a"]
    assert [line.split(": ")[0] for line in lines[2:]] == [" d", " c"]
    assert [float(line.split(": ")[1]) for line in lines[2:]] == pytest.approx([0.8, 0.6])
    util.most_similar("e", words, {}, vectors)
    assert capsys.readouterr().out == "e is not found\n"


def test_analogy(capsys: Any) -> None:
    words = {"man": 0, "king": 1, "woman": 2, "queen": 3, "tree": 4}
    vectors = util.normalize(np.array([[1.0, 0, 1], [1, 1, 1], [0, 0, 1], [0, 1, 1], [1, 0, 0]]))
    util.analogy("man", "king", "woman", words, dict(enumerate(words)), vectors, top=1, answer="queen")
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["", "[analogy] man:king = woman:?"]
    assert lines[2].startswith("==>queen:0.")
    assert lines[3].startswith(" queen: 0.")
    util.analogy("man", "kin", "woman", words, {}, vectors)
    assert capsys.readouterr().out == "kin is not found\n"


def test_normalize() -> None:
    x = np.array([[3.0, 4.0], [0.0, 2.0]])
    assert util.normalize(x).tolist() == [[0.6, 0.8], [0.0, 1.0]]
    assert util.normalize(x[0]).tolist() == [0.6, 0.8]
    assert x.tolist() == [[3.0, 4.0], [0.0, 2.0]]


@pytest.mark.parametrize(("guess", "right"), [([1, 2], 1), ([1, 1], 0)])
def test_a_question_is_answered(guess: list[int], right: int, capsys: Any) -> None:
    class Model:
        def generate(self, question: Any, start: int, length: int) -> list[int]:
            assert (question.shape, start, length) == ((1, 3), 0, 2)
            return guess

    names = {0: "_", 1: "a", 2: "b"}
    arguments = Model(), np.array([[1, 1, 2]]), np.array([[0, 1, 2]]), names
    assert util.eval_seq2seq(*arguments, verbose=True, is_reverse=True) == right
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["Q baa", "T ab"]
    assert lines[2].endswith(" ab" if right else " aa")
    assert lines[3] == "---"
    util.eval_seq2seq(*arguments)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("call", "error", "message"), [
    (lambda: util.create_contexts_target(np.arange(2)), ValueError, "corpus: expected at least 3 words, got 2"),
    (lambda: util.create_contexts_target(np.arange(5), 0), ValueError, "window_size: expected a whole number"),
    (lambda: util.convert_one_hot(np.array([0, 3]), 3), ValueError, "corpus: expected numbers from 0 to 2, got 0 to 3"),
    (lambda: util.create_co_matrix(np.array([-1, 1]), 3), ValueError, "numbers from 0 to 2, got -1 to 1"),
    (lambda: util.create_co_matrix(np.array([0.5]), 3), TypeError, "corpus: expected integers, got dtype float64"),
    (lambda: util.ppmi(np.zeros((2, 3))), ValueError, r"C: expected shape \(n, n\), got \(2, 3\)"),
    (lambda: util.cos_similarity(np.zeros(2), np.zeros(3)), ValueError, "two vectors of the same length, got shapes"),
])  # fmt: skip
def test_what_is_refused(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
