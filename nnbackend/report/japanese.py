"""Say in Japanese what `nnbackend.diagnose` has found."""

from __future__ import annotations

import re
from functools import cache

_N = r"([-+\w.%]+)"  # a number
_SENTENCES = (
    (
        rf"the network answers nearly the same for every input: its answers spread by {_N}, the targets by {_N}",
        "どの入力にもほとんど同じ答えを返します。答えの散らばりは {0}、正解の散らばりは {1} です",
    ),
    (
        rf"its outputs are probabilities already, that is, lie in {_N} to {_N} whatever arrives, "
        rf"so the loss cannot fall below {_N}",
        "出力がすでに確率で、何が入力されても {0} から {1} の間にあるため、損失は {2} より小さくなりません",
    ),
    (
        rf"its outputs lie in {_N} to {_N} whatever arrives, so the loss cannot fall below {_N}",
        "何が入力されても出力は {0} から {1} の間にあるため、損失は {2} より小さくなりません",
    ),
    (
        rf"{_N} of {_N} units are dead: they answer 0 to every input and pass no gradient",
        "{1} ユニットのうち {0} が死んでいます。どの入力にも 0 を返し、勾配を通しません",
    ),
    (
        rf"{_N} of its outputs are saturated: their slope is below {_N}, hardly any gradient passes",
        "出力の {0} が飽和しています。傾きが {1} より小さく、勾配がほとんど通りません",
    ),
    (
        rf"the gradient explodes: it arrives here {_N} times as large as it left the loss",
        "勾配が爆発しています。損失から出た勾配の {0} 倍になって届きます",
    ),
    (
        rf"the gradient vanishes: {_N} of what left the loss arrives here",
        "勾配が消えています。損失から出た勾配の {0} 倍しか届きません",
    ),
    (
        rf"values explode: {_N} on average, where about {_N} is usual",
        "値が爆発しています。平均は {0} で、通常は {1} ほどです",
    ),
    (
        rf"it knows its training rows by heart \(accuracy {_N} in training, {_N} on other rows\)",
        "学習データを暗記しています(正解率は学習データで {0}、ほかのデータで {1})",
    ),
    (
        rf"it knows its training rows by heart \(R squared {_N} in training, {_N} on other rows\)",
        "学習データを暗記しています(R² は学習データで {0}、ほかのデータで {1})",
    ),
    (r"its output is not finite", "出力が有限の数ではありません"),
    (r"the loss is not finite", "損失が有限の数ではありません"),
)
_ADVICE = (
    (
        r"a larger learning rate or Adam, another initializer or activation \(ReLU with He\)",
        "学習率を大きくする、Adam を使う、初期値か活性化関数を変える(ReLU と He)",
    ),
    (
        r"smaller initial weights \(Xavier\), inputs scaled to about 1, or an activation that is not bounded \(ReLU\)",
        "重みの初期値を小さくする(Xavier)、入力を 1 ほどの大きさにそろえる、有界でない活性化関数(ReLU)を使う",
    ),
    (
        r"a smaller learning rate, the He initializer, or an activation that is flat nowhere \(LeakyReLU\)",
        "学習率を小さくする、He の初期値を使う、平らな所のない活性化関数(LeakyReLU)を使う",
    ),
    (
        r"ReLU with He, larger initial weights \(Xavier\), BatchNormalization, Adam, or fewer layers",
        "ReLU と He、重みの初期値を大きくする(Xavier)、BatchNormalization、Adam、層を減らす",
    ),
    (
        r"smaller initial weights \(He, Xavier\), inputs scaled to about 1, a smaller learning rate",
        "重みの初期値を小さくする(He、Xavier)、入力を 1 ほどの大きさにそろえる、学習率を小さくする",
    ),
    (r"what is advised below", "以下の助言"),
    (
        r"more data, more --augment, more --dropout, narrower layers \(--hidden\), fewer --epochs",
        "データを増やす、--augment か --dropout を大きくする、層を狭くする(--hidden)、--epochs を減らす",
    ),
    (
        r"more data, more --dropout, narrower layers \(--hidden\), fewer --epochs",
        "データを増やす、--dropout を大きくする、層を狭くする(--hidden)、--epochs を減らす",
    ),
    (r"leaving it out: (.+) takes numbers of any size", "この層を取り除く({0} はどんな大きさの数も受け取ります)"),
)


def in_japanese(text: str) -> str | None:
    """Return what a Finding says or advises (its `what` or `advice`) in Japanese, or None if it is unknown."""
    for pattern, translation in _patterns():
        if found := pattern.fullmatch(text):
            return translation.format(*found.groups())
    return None


@cache
def _patterns() -> list[tuple[re.Pattern[str], str]]:
    return [(re.compile(pattern), translation) for pattern, translation in (*_SENTENCES, *_ADVICE)]
