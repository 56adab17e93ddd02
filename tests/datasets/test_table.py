"""Tables that other programs have written, and what is wrong with tables that people have."""

from __future__ import annotations

import contextlib
import csv
import datetime
import sys
from pathlib import Path

import numpy as np
import pytest

import nnbackend as nn
from nnbackend.datasets.prepared import load_prepared
from nnbackend.datasets.table import (
    Column,
    TablePreparation,
    csv_text,
    is_table,
    read_table,
    table_target,
    write_table,
)
from nnbackend.datasets.targets import Target

ROWS = [("Paris", 50, 1.5), ("Oslo", 61, -2.0), ("Rome, old", 72, 0.25), ('"New" Rome', 83, 1e3)]
NAMES = ["city", "size", "value"]


def text_of(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def by_csv(path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",").writerows([NAMES, *ROWS])


def by_pandas(path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(ROWS, columns=NAMES)
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, sep="\t" if path.suffix == ".tsv" else ",")  # with its index, as is the default


def by_polars(path: Path) -> None:
    frame = pytest.importorskip("polars").DataFrame(ROWS, schema=NAMES, orient="row")
    if path.suffix == ".parquet":
        frame.write_parquet(path)
    else:
        frame.write_csv(path, separator="\t" if path.suffix == ".tsv" else ",")


def by_us(path: Path) -> None:
    columns = {name: np.array([row[i] for row in ROWS], object if i == 0 else None) for i, name in enumerate(NAMES)}
    write_table(path, columns)


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".parquet", ".CSV"])
@pytest.mark.parametrize("write", [by_csv, by_pandas, by_polars, by_us])
def test_tables_of_other_programs(write: object, ending: str, tmp_path: Path) -> None:
    if ending == ".parquet":
        pytest.importorskip("pyarrow")
        if write is by_csv:
            pytest.skip("the csv module writes no Parquet")
    path = tmp_path / f"a{ending}"
    write(path)  # type: ignore[operator]
    assert is_table(path)
    table = read_table(path)
    assert list(table.columns) == NAMES  # without the index of pandas
    target, t, columns = table_target(table, "value")
    assert (target.name, target.classes, t.tolist()) == ("value", None, [row[2] for row in ROWS])
    assert columns == [Column("city", ('"New" Rome', "Oslo", "Paris", "Rome, old")), Column("size")]
    measured = tuple(column.measured(table, np.arange(4)) for column in columns)
    x = TablePreparation(measured, target).rows(table, "float64")
    assert x[:, :4].tolist() == [[0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1], [1, 0, 0, 0]]
    sizes = np.array([row[1] for row in ROWS], float)
    np.testing.assert_allclose(x[:, 4], (sizes - sizes.mean()) / sizes.std(), rtol=1e-12)


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffcity,size,value\r\nParis,50,1.5\r\n\r\nOslo,61,-2\r\n",
        "city;size;value\nParis;50;1.5\nOslo; 61 ;-2e0",
        "\r\n\ncity;size;value\nParis;50;1.5\nOslo; 61 ;-2e0",
        "city\tsize\tvalue\n Paris\t50\t1.5\nOslo\t+61\t-2.\n\n\n",
        'city, size, value\n"Paris", 50, 1.5\nOslo, 61, -2\n',
    ],
)
def test_the_ways_in_which_csv_is_written(text: str, tmp_path: Path) -> None:
    table = read_table(text_of(tmp_path / "a.csv", text))
    target, t, columns = table_target(table, "city")
    assert (target.classes, t.tolist()) == (("Oslo", "Paris"), [1, 0])
    measured = tuple(column.measured(table, np.arange(2)) for column in columns)
    assert [(one.name, one.mean, one.scale) for one in measured] == [("size", 55.5, 5.5), ("value", -0.25, 1.75)]


def test_a_table_for_a_test_beside_it_does_not_hide_that_the_target_is_missing(tmp_path: Path) -> None:
    text_of(tmp_path / "test.csv", "a\n1\n")
    path = text_of(tmp_path / "train.csv", "a,b\n" + "x,1.5\ny,2.5\n" * 9)
    with pytest.raises(nn.DataError, match=r"train.csv: .*; for any other table, name the column to predict"):
        load_prepared(path)
    assert len(load_prepared(path, target="b", validation=0).train[0]) == 18


def test_one_row_with_the_index_of_pandas(tmp_path: Path) -> None:
    assert list(read_table(text_of(tmp_path / "a.csv", ",a,b\n17,x,2\n")).columns) == ["a", "b"]
    with pytest.raises(nn.DataError, match="column 1 has no name"):
        read_table(text_of(tmp_path / "a.csv", ",a,b\ny,x,2\n"))


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_names_with_commas_do_not_hide_the_separator(separator: str, tmp_path: Path) -> None:
    columns = {"a, b": np.array([1, 2]), 'c;"d"': np.array(["x,y", "z;\t"], object), "e\tf": np.array([0.5, 1.5])}
    path = tmp_path / "a.csv"
    write_table(path, columns, separator)
    read = read_table(path)
    assert list(read.columns) == list(columns)
    assert read.columns['c;"d"'].tolist() == ["x,y", "z;\t"]
    pandas = pytest.importorskip("pandas")
    assert pandas.read_csv(path, sep=separator).columns.tolist() == list(columns)


@pytest.mark.parametrize("cells", [["1,5", "2,25", "3"] * 4, ["1.234,5", "1,5e3", "-7,0"] * 4, ["1,234", "12"] * 6])
def test_numbers_with_commas_are_doubted(cells: list[str], tmp_path: Path) -> None:
    text = "a;b\n" + "".join(f"{cell};{'xy'[i % 2]}\n" for i, cell in enumerate(cells))
    with pytest.warns(UserWarning, match=rf"the numbers of column 'a' have commas, as '{cells[0]}', and are taken for"):
        load_prepared(text_of(tmp_path / "a.csv", text), target="b")
    load_prepared(text_of(tmp_path / "a.csv", text.replace("1,", "one, ")), target="b")  # words, without a warning


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "there are no rows in it"),
        ("a,b\n", "there are no rows in it"),
        ("a,b\n1,2\n3\n", "line 3 has 1 cells, but the first line names 2 columns"),
        ("a,b\n1,2\n\n3,4,5\n", "line 4 has 3 cells, but the first line names 2 columns"),
        ('a,b\n1,"x\ny"\n3\n', "line 4 has 1 cells"),
        ('a,b\n1,"x\n2,3\n', "line 2: unexpected end of data"),
        ('a,b\n1,"x"y\n', "line 2: ',' expected after '\"'"),
        ("a,b\n" + "x" * 200_000 + ",1\n", "line 2: field larger than field limit"),
        (b"a,b\n1,\xe9\n", "it is not UTF-8 .*; save it as UTF-8"),
        ("a,b\n1,2\n".encode("utf-16"), "it is not UTF-8"),
        ("1,2\n3,4\n", "the first line must name the columns, but it holds numbers"),
        ("a,b,a\n1,2,3\n", "several columns have the name 'a'"),
        ("a,,c\n1,7,3\n2,5,3\n", "column 2 has no name"),
    ],
)
def test_files_that_are_no_csv(text: str | bytes, message: str, tmp_path: Path) -> None:
    path = text_of(tmp_path / "a.csv", text)
    with pytest.raises(nn.DataError, match=message) as caught:
        read_table(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(nn.DataError, match="a.csv: there is no such file"):
        read_table(tmp_path / "a.csv")
    (tmp_path / "b.csv").mkdir()
    with pytest.raises(nn.DataError, match="b.csv: not a file"):
        read_table(tmp_path / "b.csv")


def test_broken_parquet(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    path = tmp_path / "a.parquet"
    by_us(path)
    content = path.read_bytes()
    for broken in (b"", b"PAR1", content[:-9], content[:40], b"PAR1" + bytes(50) + b"PAR1", b"a,b\n1,2\n"):
        path.write_bytes(broken)
        with pytest.raises(nn.DataError, match="damaged, or not a Parquet file"):
            read_table(path)
    rng = np.random.default_rng(0)
    for _ in range(500):  # each is read, or refused with an error of the library's own
        damaged = bytearray(content)
        for at in rng.integers(0, len(damaged), 3):
            damaged[at] = rng.integers(256)
        path.write_bytes(damaged)
        with contextlib.suppress(nn.DataError):
            read_table(path)


def test_parquet_says_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r'Parquet needs PyArrow: pip install "nnbackend\[tables\]"'):
        read_table(text_of(tmp_path / "a.parquet", b"PAR1"))


def test_the_kinds_of_columns_in_parquet(tmp_path: Path) -> None:
    pl = pytest.importorskip("polars")
    pytest.importorskip("pyarrow")
    frame = pl.DataFrame(
        {
            "yes": [True, False, True, True],
            "kind": pl.Series(["u", "v", "u", "u"], dtype=pl.Categorical),
            "byte": pl.Series([1, 2, 3, 5], dtype=pl.UInt8),
            "exact": pl.Series(["1.50", "2.25", "3", "4"]).cast(pl.Decimal(10, 2)),
            "half": pl.Series([0.5, 1.5, 2.5, 3.5], dtype=pl.Float32),
            "day": [datetime.date(2020, 1, d) for d in (1, 2, 3, 4)],
        }
    )
    frame.write_parquet(tmp_path / "a.parquet")
    table = read_table(tmp_path / "a.parquet")
    target, t, columns = table_target(table, "yes", drop=["day"])
    assert (target.classes, t.tolist()) == (("False", "True"), [1, 0, 1, 1])
    assert columns == [Column("kind", ("u", "v")), Column("byte"), Column("exact"), Column("half")]
    with pytest.raises(nn.DataError, match="column 'day' holds date32.*, neither words nor numbers.*--drop day"):
        table_target(table, "yes")
    frame.with_columns(byte=pl.Series([1, None, 3, None])).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(nn.DataError, match=r"missing values: column 'byte' in 2 of 4 rows \(first: row 2\)"):
        table_target(read_table(tmp_path / "a.parquet"), "yes", drop=["day"])


def test_cells_that_are_neither_words_nor_numbers_come_back(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns = {
        "n": [1.5, 2.5, 3.5],
        "instant": pyarrow.array([0, None, 10**18 + 1], "timestamp[ns]"),
        "day": pyarrow.array([datetime.date(2020, 1, 2), None, datetime.date(2020, 1, 3)]).dictionary_encode(),
        "list": [[1], None, [2, 3]],
        "bytes": [b"a", b"\xff", None],
        "none": pyarrow.nulls(3),
    }
    parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    table = read_table(tmp_path / "a.parquet")
    write_table(tmp_path / "b.parquet", table.columns)
    before, after = (parquet.read_table(tmp_path / name) for name in ("a.parquet", "b.parquet"))
    assert after.schema.field("instant").type == pyarrow.timestamp("ns")
    for name in columns:
        kind = {"instant": "int64", "day": "date32[day]"}.get(name, after.schema.field(name).type)
        assert after[name].cast(kind).to_pylist() == before[name].cast(kind).to_pylist()
    lines = csv_text(table.columns).splitlines()
    assert lines[1:3] == ["1.5,1970-01-01 00:00:00,2020-01-02,[1],b'a',", "2.5,,,,b'\\xff',"]
    assert lines[3] == '3.5,2001-09-09 01:46:40.000000001,2020-01-03,"[2, 3]",,'


LONG = "".join(f"{i},{i * 7 % 100},{'ab'[i % 2]}\n" for i in range(100, 160))


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("a,b\n1,x\n2,y\n", {"target": "c"}, "unknown column 'c'. Did you mean 'a'|unknown column 'c'"),
        ("size,kind\n1,x\n2,y\n", {"target": "kinds"}, "unknown column 'kinds'. Did you mean 'kind'"),
        ("a,b\n1,x\n2,y\n", {"target": "b", "drop": ["z"]}, "unknown column 'z'"),
        ("a,b\n1,x\n2,y\n", {"target": "b", "drop": ["a"]}, "there is no column beside 'b' to learn from"),
        ("b\nx\ny\n", {"target": "b"}, "there is no column beside 'b' to learn from"),
        ("a,b\n1,x\n2,x\n", {"target": "b"}, "every row has the same 'b', 'x'; there is nothing to learn"),
        (
            "a,b,c\n1,x,\n,y,NA\n3,y,7\n",
            {"target": "b"},
            r"missing values: column 'a' in 1 of 3 rows \(first: line 3\); column 'c' in 2 of 3 rows "
            r"\(first: line 2\). Fill them in, or remove the rows; in training, --drop a c leaves the columns out",
        ),
        ("a,b\n1,x\n2,nan\n", {"target": "b"}, r"missing values: column 'b' in 1 of 2 rows \(first: line 3\)"),
        (
            "a,n,b\n" + LONG + "7,?,a\n",
            {"target": "b"},
            r"line 62, column 'n': '\?' is not a number, but 60 of 61",
        ),
        ("a,n,b\n" + LONG + "x,7,a\n", {"target": "a"}, "line 62, column 'a': 'x' is not a number, but 60 of 61"),
        ("a,b\n1,x\ninf,y\n", {"target": "b"}, "line 3, column 'a': 'inf' is not a finite number"),
        ("a,b\n1,x\n2,y\n", {"target": "b", "task": "numbers"}, "line 2, column 'b': 'x' is not a number"),
        ("a,b\n1e308,x\n-1e308,y\n", {"target": "b"}, "column 'a' has numbers so large"),
        (
            "who,b\n" + "".join(f"name {i},{'xy'[i % 2]}\n" for i in range(30)),
            {"target": "b"},
            "nearly every row has another word in column 'who', from which nothing can be learned; .*--drop who",
        ),
        (
            "a,b\n" + "".join(f"{i % 3},word {i}\n" for i in range(60)),
            {"target": "b"},
            "'b' has 60 different values in 60 rows, too many for classes$",
        ),
        (
            "a,b\n" + "".join(f"{i % 3},{i}\n" for i in range(60)),
            {"target": "b", "task": "classes"},
            "'b' has 60 different values in 60 rows, too many for classes; --task numbers takes them for numbers",
        ),
    ],
)
def test_tables_that_cannot_be_learned_from(
    text: str, options: dict[str, object], message: str, tmp_path: Path
) -> None:
    path = text_of(tmp_path / "a.csv", text)
    with pytest.raises(nn.DataError, match=message) as caught:
        load_prepared(path, **options)  # type: ignore[arg-type]
    assert str(caught.value).startswith(str(path))


def test_what_a_target_is(tmp_path: Path) -> None:
    """Words, yes-or-no and few integers are classes, in the order of the numbers; all else is numbers."""
    few, many = [str(i % 11) for i in range(60)], [str(i) for i in range(60)]
    halves = [str(i / 2) for i in range(60)]
    for cells, task, classes in (
        (few, "auto", tuple(map(str, range(11)))),
        (few, "numbers", None),
        (many, "auto", None),
        (halves, "auto", None),
        (["True", "False"] * 30, "auto", ("False", "True")),
        (["10", "9", "+9"] * 20, "auto", ("+9", "9", "10")),
        (["1.0", "2.0"] * 30, "auto", ("1.0", "2.0")),
        (["0.5", "1.5"] * 30, "classes", ("0.5", "1.5")),
    ):
        text = "a,b\n" + "".join(f"{i % 7},{cell}\n" for i, cell in enumerate(cells))
        target, t, _ = table_target(read_table(text_of(tmp_path / "a.csv", text)), "b", task)
        assert target.classes == classes, cells[:3]
        back = [float(cell) for cell in cells] if classes is None else [target.classes.index(c) for c in cells]
        assert t.tolist() == back
    with pytest.raises(ValueError, match="task: unknown task 'class'. Did you mean 'classes'"):
        table_target(read_table(tmp_path / "a.csv"), "b", "class")


def test_a_table_to_answer_must_have_what_was_learned(tmp_path: Path) -> None:
    columns = (Column("size", None, 5.0, 2.0), Column("city", ("Oslo", "Paris")))
    known = TablePreparation(columns, Target("price", None, 1.0, 3.0))
    good = read_table(text_of(tmp_path / "a.csv", "other,city,size\n,Paris,9\n, Oslo ,5\n"))
    assert known.rows(good, "float32").tolist() == [[2, 0, 1], [0, 1, 0]]
    assert known.features == ("size", "city=Oslo", "city=Paris")
    for text, message in (
        ("city\nOslo\n", "unknown column 'size'"),
        (
            "city,size\nOslo,1\nRome,2\n",
            "line 3, column 'city': 'Rome' did not occur in training, which had 'Oslo', 'Paris'",
        ),
        ("city,size\nOslo,1\nParis,big\n", "line 3, column 'size': 'big' is not a finite number"),
        ("city,size\nOslo,1\nParis,\n", "column 'size' in 1 of 2 rows"),
        ("city,size\n,1\nParis,2\n", "column 'city' in 1 of 2 rows"),
    ):
        path = text_of(tmp_path / "a.csv", text)
        with pytest.raises(nn.DataError, match=message) as caught:
            known.rows(read_table(path), "float32")
        assert str(caught.value).startswith(str(path))


def test_a_preparation_is_stored_and_checked() -> None:
    known = TablePreparation((Column("a", None, 1.0, 2.0), Column("b", ("x", "y"))), Target("t", ("no", "yes")))
    stored = known.stored()
    assert TablePreparation.of(stored) == known
    numbers = TablePreparation((Column("a"),), Target("t", None, 2.0, 3.0))
    assert TablePreparation.of(numbers.stored()) == numbers
    for key, value in (
        ("columns", None),
        ("columns", []),
        ("columns", [{"name": "a"}]),
        ("columns", [{"name": 1, "words": ["x"]}]),
        ("columns", [{"name": "a", "mean": 0.0, "scale": 0.0}]),
        ("columns", [{"name": "a", "mean": float("nan"), "scale": 1.0}]),
        ("columns", [{"name": "a", "words": []}]),
        ("columns", [{"name": "a", "words": [1]}]),
        ("columns", ["a"]),
        ("target", None),
        ("target", {"name": "t", "classes": ["one"]}),
        ("target", {"name": "t", "classes": "ab"}),
        ("target", {"name": 3}),
        ("target", {"name": "t", "mean": True, "scale": 1.0}),
    ):
        with pytest.raises(ValueError, match="needs|must be"):
            TablePreparation.of({**stored, key: value})


def test_what_is_held_out_is_not_measured(tmp_path: Path) -> None:
    """Mean and deviation come from the rows to train on; of each class the same part is held out, by the seed."""
    rng = np.random.default_rng(0)
    values, labels = rng.normal(50, 9, 200), np.repeat(["a", "b", "rare"], [120, 79, 1])
    text = "x,kind\n" + "".join(f"{v!r},{k}\n" for v, k in zip(values.tolist(), labels, strict=True))
    path = text_of(tmp_path / "a.csv", text)
    data = load_prepared(path, target="kind", validation=0.25, dtype="float64")
    assert data.validation is not None
    assert np.bincount(data.validation[1]).tolist() == [30, 20]  # 19.75 of b; the only one of its class is kept
    assert np.bincount(data.train[1]).tolist() == [90, 59, 1]
    x = data.train[0][:, 0]
    assert (abs(x.mean()), x.std()) == (pytest.approx(0, abs=1e-12), pytest.approx(1))
    (column,) = data.preparation.columns  # type: ignore[union-attr]
    restored = np.concatenate([data.train[0], data.validation[0]])[:, 0] * column.scale + column.mean
    np.testing.assert_allclose(np.sort(restored), np.sort(values))

    again, other = (load_prepared(path, target="kind", validation=0.25, seed=s, dtype="float64") for s in (0, 1))
    np.testing.assert_array_equal(again.train[0], data.train[0])
    assert not np.array_equal(other.train[0], data.train[0])
    assert load_prepared(path, target="kind", validation=0).validation is None
    assert len(load_prepared(path, target="kind").validation[0]) == 20  # type: ignore[index]

    numbers = load_prepared(path, target="x", dtype="float64")
    assert numbers.target.classes is None
    assert (numbers.train[1].mean(), numbers.train[1].std()) == (pytest.approx(0, abs=1e-12), pytest.approx(1))
    restored = numbers.target.restored(np.concatenate([numbers.train[1], numbers.validation[1]]))  # type: ignore[index]
    np.testing.assert_allclose(np.sort(restored), np.sort(values))


def test_a_column_that_counts_the_rows_is_doubted(tmp_path: Path) -> None:
    path = text_of(tmp_path / "a.csv", "Id,x,kind\n" + "".join(f"{i + 5},{i % 4},{'ab'[i % 2]}\n" for i in range(20)))
    with pytest.warns(UserWarning, match="column 'Id' counts the rows; .*--drop Id"):
        load_prepared(path, target="kind")
    assert load_prepared(path, target="kind", drop=["Id"]).features == ("x",)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, ValueError, "target: name the column of .*a.csv to predict, one of a, b"),
        ({"target": "b", "validation": 1.0}, ValueError, "validation must be at least 0 and below 1, got 1.0"),
        ({"target": "b", "validation": "some"}, ValueError, "validation must be at least 0 and below 1, got 'some'"),
        ({"target": "b", "drop": "a"}, TypeError, "drop: expected a list of names of columns, got 'a'"),
        ({"target": "b", "drop": ["b"]}, ValueError, "drop: 'b' is the target"),
        ({"target": "b", "dtype": "float16"}, ValueError, "dtype: got 'float16'"),
        ({"target": "b", "side": 8}, ValueError, "side: only the pictures in a folder are scaled"),
    ],
)
def test_arguments(options: dict[str, object], error: type[Exception], message: str, tmp_path: Path) -> None:
    path = text_of(tmp_path / "a.csv", "a,b\n1,x\n2,y\n")
    with pytest.raises(error, match=message):
        load_prepared(path, **options)  # type: ignore[arg-type]
