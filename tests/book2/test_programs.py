"""Programs as the second volume's chapters have them. The numbers are those that the book's own code prints."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnbackend.book2 import base_model, config, dataset, layers, optimizer, time_layers, trainer, util
from nnbackend.book2.dataset import ptb, sequence, spiral
from nnbackend.book2.negative_sampling_layer import NegativeSamplingLoss
from nnbackend.errors import DataError, ModelFileError

PRINTED = {"rel": 1e-4}  # float32 in another order of additions, over 27 to 90 steps


class Model(base_model.BaseModel):
    def __init__(self, last: Any, *stack: Any):
        self.stack, self.last = stack, last
        self.params = [p for layer in stack for p in layer.params]
        self.grads = [g for layer in stack for g in layer.grads]

    def forward(self, xs: Any, ts: Any) -> Any:
        for layer in self.stack:
            xs = layer.forward(xs)
        return self.last.forward(xs, ts)

    def backward(self, dout: Any = 1) -> None:
        dout = self.last.backward(dout)
        for layer in reversed(self.stack):
            dout = layer.backward(dout)


def text() -> np.ndarray:
    """400 words, every third of which is the same."""
    words = np.random.RandomState(3).randint(0, 20, 400)
    words[::3] = words[1]
    return words


def language_model(kind: str) -> Model:
    """An embedding, a recurrent layer, dropout, and an affine layer that shares the embedding's weights."""
    np.random.seed(0)
    rn, D, H, k = np.random.randn, 6, 8, {"RNN": 1, "LSTM": 4, "GRU": 3}[kind]
    E = (rn(20, D) / 10).astype("f")
    Wx, Wh = (rn(D, k * H) / D**0.5).astype("f"), (rn(H, k * H) / H**0.5).astype("f")
    return Model(
        time_layers.TimeSoftmaxWithLoss(),
        time_layers.TimeEmbedding(E),
        getattr(time_layers, f"Time{kind}")(Wx, Wh, np.zeros(k * H, "f"), stateful=True),
        time_layers.TimeDropout(0.2),
        time_layers.TimeAffine((rn(H, D) / H**0.5).astype("f"), np.zeros(D, "f")),
        time_layers.TimeAffine(E.T, np.zeros(20, "f")),
    )


@pytest.mark.parametrize(("kind", "method", "perplexities", "evaluated"), [
    ("RNN", lambda: optimizer.SGD(0.5),
     [20.1564, 16.8091, 12.6143, 12.7622, 11.8249, 8.3149, 8.9547, 8.1971, 7.5817], 7.3322),
    ("LSTM", lambda: optimizer.Adam(0.01),
     [20.0546, 19.5533, 18.8237, 18.199, 17.0648, 14.2101, 14.3348, 13.1694, 12.4165], 11.9478),
    ("GRU", lambda: optimizer.RMSprop(0.01),
     [19.8721, 14.9918, 11.6533, 11.1562, 10.2225, 9.182, 9.4408, 8.977, 8.1152], 7.3455),
])  # fmt: skip
def test_a_language_model(
    kind: str, method: Callable[[], Any], perplexities: list[float], evaluated: float, capsys: Any
) -> None:
    model, words = language_model(kind), text()
    run = trainer.RnnlmTrainer(model, method())
    run.fit(words[:-1], words[1:], max_epoch=3, batch_size=4, time_size=10, max_grad=0.5, eval_interval=4)
    assert run.ppl_list == pytest.approx(perplexities, **PRINTED)
    lines = capsys.readouterr().out.splitlines()
    assert [re.sub(r"\d+\[s\]", "0[s]", line) for line in lines[:4]] == [
        f"| epoch 1 |  iter {i} / 9 | time 0[s] | perplexity {p:.2f}"
        for i, p in zip((1, 5, 9), perplexities, strict=False)
    ] + [f"| epoch 2 |  iter 1 / 9 | time 0[s] | perplexity {perplexities[3]:.2f}"]
    model.stack[2].train_flg = False
    assert float(util.eval_perplexity(model, words, 4, 10)) == pytest.approx(evaluated, **PRINTED)
    assert capsys.readouterr().out.startswith("evaluating perplexity ...\n\r0 / 9\r1 / 9")


def test_words_by_negative_samples() -> None:
    np.random.seed(0)
    words = text()
    W_in, W_out = ((0.1 * np.random.randn(20, 5)).astype("f") for _ in range(2))
    first, second, loss = (
        layers.Embedding(W_in),
        layers.Embedding(W_in),
        NegativeSamplingLoss(W_out, words, sample_size=3),
    )

    class CBOW:
        params, grads = [W_in, W_in, *loss.params], [*first.grads, *second.grads, *loss.grads]

        def forward(self, contexts: Any, target: Any) -> Any:
            return loss.forward(0.5 * (first.forward(contexts[:, 0]) + second.forward(contexts[:, 1])), target)

        def backward(self) -> None:
            dh = 0.5 * loss.backward()
            first.backward(dh)
            second.backward(dh)

    run = trainer.Trainer(CBOW(), optimizer.AdaGrad(0.1))
    run.fit(*util.create_contexts_target(words), max_epoch=3, batch_size=50, eval_interval=3)
    expected = [2.77515, 2.71539, 2.44357, 2.30015, 2.17595, 2.07459, 2.10358, 2.03096, 1.8928]
    assert run.loss_list == pytest.approx(expected, **PRINTED)


def test_the_spiral_has_the_books_points() -> None:
    x, t = spiral.load_data()
    assert (x.shape, t.shape, t.dtype) == ((300, 2), (300, 3), np.int32)
    assert t.argmax(axis=1).tolist() == [0] * 100 + [1] * 100 + [2] * 100
    # the first points, and the 250th, by the formula with the book's generator
    noise = np.random.RandomState(1984).randn(300) * 0.2
    for i in (0, 1, 99, 100, 249):
        radius, theta = i % 100 / 100, i // 100 * 4.0 + 4.0 * (i % 100 / 100) + noise[i]
        assert x[i] == pytest.approx([radius * np.sin(theta), radius * np.cos(theta)], abs=1e-15)


# --- weights that are shared --------------------------------------------------------------------------------------


def test_remove_duplicate_adds_the_gradients_of_one_weight() -> None:
    W, b = np.ones((3, 3)), np.ones((3, 3))
    params, grads = [W, b, W.T, W, b.T.copy()], [np.full((3, 3), float(10**i)) for i in range(5)]
    grads[2] = np.arange(9.0).reshape(3, 3)
    kept, sums = trainer.remove_duplicate(params, grads)
    assert [p is q for p, q in zip(kept, (W, b, params[4]), strict=True)] == [True] * 3
    assert sums[0].tolist() == (1001 + np.arange(9.0).reshape(3, 3).T).tolist()
    assert sums[0] is grads[0]
    assert sums[1].tolist() == np.full((3, 3), 10.0).tolist()  # equal values alone make no shared weight
    assert (len(params), len(grads)) == (5, 5)


def test_nesterov_takes_the_velocity_after_its_update() -> None:
    p, sgd = [np.array([1.0, -2.0])], optimizer.Nesterov(lr=0.1, momentum=0.5)
    expected, v = p[0].copy(), np.zeros(2)
    for g in ([1.0, 2.0], [-3.0, 0.5], [0.0, 1.0]):
        sgd.update(p, [np.array(g)])
        v = 0.5 * v - 0.1 * np.array(g)
        expected += 0.25 * v - 0.15 * np.array(g)
        assert p[0] == pytest.approx(expected, abs=1e-15)


def test_clip_grads() -> None:
    grads = [np.array([3.0, 0.0]), np.array([[4.0]])]
    util.clip_grads(grads, 10.0)
    assert [g.tolist() for g in grads] == [[3.0, 0.0], [[4.0]]]
    util.clip_grads(grads, 2.5)
    assert np.hypot(grads[0][0], grads[1][0, 0]) == pytest.approx(2.5, rel=1e-6)
    assert grads[0][0] / grads[1][0, 0] == pytest.approx(0.75)


# --- files --------------------------------------------------------------------------------------------------------


def test_parameters_go_to_a_file_and_back(tmp_path: Path) -> None:
    model, other = language_model("GRU"), language_model("LSTM")
    model.save_params(tmp_path / "net.pkl")
    before = [p.copy() for p in model.params]
    for p in model.params:
        p += 1.0
    model.load_params(tmp_path / "net.pkl")
    for p, was in zip(model.params, before, strict=True):
        assert p.dtype == np.float32
        assert p == pytest.approx(was.astype(np.float16).astype("f"))
    assert [p.dtype for p in pickle.loads((tmp_path / "net.pkl").read_bytes())] == [np.float16] * len(before)
    kept = [p.copy() for p in other.params]
    with pytest.raises(ModelFileError, match=r"net.pkl: expected a list of arrays of shapes \[\(20, 6\), \(6, 32\)"):
        other.load_params(tmp_path / "net.pkl")
    assert all((p == was).all() for p, was in zip(other.params, kept, strict=True))


def test_a_file_survives_what_cannot_be_saved(tmp_path: Path) -> None:
    file = tmp_path / "net.pkl"
    file.write_bytes(b"before")
    model = base_model.BaseModel()
    with pytest.raises(ValueError, match="params: BaseModel has none yet"):
        model.save_params(file)
    model.params = [np.zeros(2), object()]
    with pytest.raises(TypeError):
        model.save_params(file)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        language_model("GRU").save_params(tmp_path / "none" / "net.pkl")
    assert file.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    "content", [b"", b"no pickle", pickle.dumps(Path), pickle.dumps([1, 2]), pickle.dumps({"a": 1})]
)
def test_files_that_hold_no_parameters(content: bytes, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"No file: Model.pkl"):
        language_model("RNN").load_params()
    Path("Model.pkl").write_bytes(content)
    with pytest.raises(ModelFileError, match=r"Model\.pkl"):
        language_model("RNN").load_params()


# --- data ---------------------------------------------------------------------------------------------------------


def test_the_treebank_is_read_from_the_folder(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "ptb").mkdir()
    for name, lines in (
        ("train", " a rose is N \n is a <unk> \n"),
        ("valid", " rose <unk> \n"),
        ("test", " a violet \n"),
    ):
        (tmp_path / "ptb" / f"ptb.{name}.txt").write_text(lines)
    monkeypatch.setenv("NNBACKEND_DATA", str(tmp_path))
    corpus, word_to_id, id_to_word = ptb.load_data("train")
    assert list(word_to_id) == ["a", "rose", "is", "N", "<eos>", "<unk>"]
    assert corpus.tolist() == [0, 1, 2, 3, 4, 2, 0, 5, 4]
    assert id_to_word == {i: w for w, i in word_to_id.items()}
    assert ptb.load_data("val")[0].tolist() == [1, 5, 4]
    with pytest.raises(DataError, match=r"ptb.test.txt: the word 'violet' does not occur in ptb.train.txt"):
        ptb.load_data("test")
    with pytest.raises(ValueError, match="data_type: expected one of 'train', 'test', 'valid', 'val', got 'dev'"):
        ptb.load_data("dev")
    monkeypatch.setenv("NNBACKEND_DATA", str(tmp_path / "none"))
    with pytest.raises(DataError, match=r"ptb.train.txt: it is neither in .*none nor in `ptb` in it"):
        ptb.load_data()


@pytest.fixture
def no_characters(monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setattr(sequence, "char_to_id", {})
    monkeypatch.setattr(sequence, "id_to_char", {})
    monkeypatch.setenv("NNBACKEND_DATA", str(tmp_path))


@pytest.mark.usefixtures("no_characters")
def test_additions_are_right() -> None:
    (x, t), (x_test, t_test) = sequence.load_data("addition.txt")
    _, id_to_char = sequence.get_vocab()
    assert (x.shape, t.shape, x_test.shape, t_test.shape) == ((45000, 7), (45000, 5), (5000, 7), (5000, 5))
    assert len(id_to_char) == 13  # the digits, "+", " " and "_"
    asked = ["".join(id_to_char[c] for c in row) for row in [*x[:500].tolist(), *x_test[:100].tolist()]]
    answers = ["".join(id_to_char[c] for c in row) for row in [*t[:500].tolist(), *t_test[:100].tolist()]]
    for question, answer in zip(asked, answers, strict=True):
        a, b = question.split("+")
        assert answer == f"_{int(a) + int(b)}".ljust(5)
    assert len({tuple(row) for row in [*x.tolist(), *x_test.tolist()]}) == 50000
    again = sequence.load_data("addition.txt")
    assert (again[0][0] == x).all()


@pytest.mark.usefixtures("no_characters")
def test_dates_are_right() -> None:
    from datetime import datetime

    (x, t), _ = sequence.load_data("date.txt", seed=None)
    _, id_to_char = sequence.get_vocab()
    assert (x.shape, t.shape) == ((45000, 29), (45000, 11))
    seen = set()
    for row, right in zip(x[:400].tolist(), t[:400].tolist(), strict=True):
        question, answer = ("".join(id_to_char[c] for c in ids) for ids in (row, right))
        day = datetime.strptime(answer, "_%Y-%m-%d")
        ways = ("%m/%d/%y", "%B %d, %Y", "%b %d, %Y", "%A, %B %d, %Y")
        for way in ways:
            try:
                assert datetime.strptime(question.strip(), way) == day
            except ValueError:
                continue
            seen.add(way)
            break
        else:
            pytest.fail(question)
    assert len(seen) == 4


@pytest.mark.usefixtures("no_characters")
def test_a_file_of_questions_is_read(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("ab_1\nba_2\n" * 10)
    (x, t), (x_test, _) = sequence.load_data("mine.txt")
    assert (x.shape, t.shape, x_test.shape) == ((18, 2), (18, 2), (2, 2))
    assert sequence.char_to_id == {"a": 0, "b": 1, "_": 2, "1": 3, "2": 4}
    (tmp_path / "wrong.txt").write_text("ab_1\nb_2\n")
    with pytest.raises(DataError, match="wrong.txt, line 2: expected 2 characters before '_', as line 1"):
        sequence.load_data("wrong.txt")
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(DataError, match=r"empty.txt: the file is empty"):
        sequence.load_data("empty.txt")
    with pytest.raises(ValueError, match=r"unknown task 'additon.txt'. Did you mean 'addition.txt'\?"):
        sequence.load_data("additon.txt")


# --- the backend --------------------------------------------------------------------------------------------------


def test_the_modules_give_what_the_books_give() -> None:
    assert config.GPU is False
    for module in (base_model, layers, optimizer, time_layers, trainer, util):
        assert {"GPU", "np"} <= set(module.__all__)
        assert module.np is np
    assert set(dataset.__all__) == {"ptb", "sequence", "spiral"}
    with pytest.raises(AttributeError, match="GPUS"):
        config.GPUS  # noqa: B018


@pytest.mark.parametrize(("first", "expected"), [
    ("from nnbackend.book2.np import *", "numpy False"),
    ("import nnbackend as nn; nn.use('array_api_strict'); from nnbackend.book2.np import *", "need NumPy's names"),
    ("from nnbackend.book2 import config; config.GPU = True; from nnbackend.book2.np import *", "cupy"),
])  # fmt: skip
def test_the_backend_of_a_script(first: str, expected: str) -> None:
    code = f"{first}\nprint(np.__name__, GPU)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert expected in done.stdout + done.stderr.splitlines()[-1] if done.stderr else expected in done.stdout


# --- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("call", "message"), [
    (lambda: trainer.Trainer(None, None).fit(np.zeros((3, 2)), np.zeros(2), batch_size=1), "t: expected 3 rows"),
    (lambda: trainer.Trainer(None, None).fit(np.zeros((3, 2)), np.zeros(3), batch_size=4), "batch_size: expected"),
    (lambda: trainer.RnnlmTrainer(None, None).fit(np.zeros(9), np.zeros(8), 1, 2, 2), "ts: expected 9 words"),
    (lambda: trainer.RnnlmTrainer(None, None).fit(np.zeros(9), np.zeros(9), 1, 2, 5), "xs: expected at least 10 words"),
    (lambda: util.eval_perplexity(None, np.zeros(351, int)[:350]), "corpus: expected more than 350 words"),
    (lambda: optimizer.SGD().update([np.zeros(2)], []), "grads: expected 1 arrays, one for each of params, got 0"),
    (lambda: trainer.remove_duplicate([np.zeros(2)], []), "grads: expected 1 arrays, one for each of params, got 0"),
    (lambda: util.clip_grads([np.zeros(2)], -1.0), "max_norm: expected a number of at least 0, got -1.0"),
    (lambda: util.eval_perplexity(None, np.zeros(351, int), -2), "batch_size: expected a whole number of at least 1"),
    (lambda: util.eval_perplexity(None, np.zeros(351, int), 2, 0), "time_size: expected a whole number of at least 1"),
])  # fmt: skip
def test_what_is_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("kind", [trainer.Trainer, trainer.RnnlmTrainer])
@pytest.mark.parametrize(("name", "value"), [
    ("batch_size", 0), ("batch_size", -1), ("batch_size", 2.0), ("max_epoch", 1.5), ("max_grad", -1),
    ("max_grad", "1"), ("max_grad", np.nan), ("eval_interval", 0), ("eval_interval", -20),
])  # fmt: skip
def test_what_a_trainer_refuses(kind: Any, name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{name}"):
        kind(None, None).fit(np.zeros(900, int), np.zeros(900, int), **{name: value})


def test_a_time_size_is_at_least_1() -> None:
    with pytest.raises(ValueError, match="time_size: expected a whole number of at least 1, got 0"):
        trainer.RnnlmTrainer(None, None).fit(np.zeros(9, int), np.zeros(9, int), time_size=0)


def test_nothing_is_clipped_without_gradients_or_by_infinity() -> None:
    util.clip_grads([], 1.0)
    grads = [np.array([3.0, 4.0])]
    util.clip_grads(grads, np.inf)
    assert grads[0].tolist() == [3.0, 4.0]
