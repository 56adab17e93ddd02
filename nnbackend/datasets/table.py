"""Read tables, CSV, TSV and Parquet, and turn their columns into rows of numbers.

CSV is read by Python's own csv module, because it names the line of what is wrong and does not fill short lines with
missing values. Parquet is read by PyArrow, because it answers a damaged file with an exception.
"""

from __future__ import annotations

import csv
import io
import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nnbackend.datasets.idx import HostArray
from nnbackend.datasets.picture import check_file
from nnbackend.datasets.targets import Target, as_numbers, is_scaling, moments, recognised, word
from nnbackend.errors import DataError, unknown_name
from nnbackend.files import write_atomically

__all__ = [
    "TABLES",
    "Column",
    "Table",
    "TablePreparation",
    "counting_columns",
    "csv_text",
    "is_table",
    "objects",
    "read_table",
    "table_target",
    "write_table",
]

TABLES = (".csv", ".tsv", ".parquet")
MISSING = frozenset({"", "na", "n/a", "#n/a", "nan", "null"})  # cells of CSV that stand for a missing value, any case
MOST_WORDS = 2000  # different words of a column: each is a column of its own for the network
_COMMAS = re.compile(r"[+-]?[\d.]*(?:,\d+)*(?:[eE][+-]?\d+)?")  # numbers, with commas or without
_SHOWN = 5  # columns or words that a message lists


@dataclass(frozen=True, eq=False)
class Table:
    """Holds the columns of a table by name, in their order, each (n,): strings, numbers or bools; None is missing.

    lines: the line of the file on which each row begins, from 1; None if the file has no lines.
    """

    path: Path
    columns: dict[str, HostArray]
    lines: HostArray | None = None
    separator: str = ","

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()))) if self.columns else 0

    def where(self, row: int, column: str | None = None) -> str:
        """Return the words that name a cell: the file, and its line or (from 1) its row."""
        place = f"row {row + 1}" if self.lines is None else f"line {self.lines[row]}"
        return f"{self.path}: {place}" + ("" if column is None else f", column {column!r}")

    def column(self, name: str) -> HostArray:
        """Return a column. Raise DataError, which lists the columns, if there is none of this name."""
        if name not in self.columns:
            raise DataError(f"{self.path}: {unknown_name('column', name, self.columns)}")
        return self.columns[name]


def is_table(path: Path) -> bool:
    """Say whether the name of a file is that of a table."""
    return path.suffix.lower() in TABLES


def read_table(path: Path) -> Table:
    """Read a table. Its columns have names: in CSV and TSV the first line holds them.

    CSV is UTF-8, with commas between the cells; semicolons or tabs do, too, if the first line has no comma
    outside of quotes.
    A column without a name that counts the rows, as pandas writes it, is left out.
    Raises DataError, which names file and line, if the file is missing, damaged, empty, or no table. Raises
    ImportError, with the pip command, if PyArrow is needed and not installed.
    """
    check_file(path)
    table = _read_parquet(path) if path.suffix.lower() == ".parquet" else _read_csv(path)
    if not table.columns or not len(table):
        raise DataError(f"{path}: there are no rows in it")
    return table


def _read_csv(path: Path) -> Table:
    names: list[str] = []
    rows: list[list[str]] = []
    lines: list[int] = []
    line = 1
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline(2**20)
            while first and not first.strip():  # an empty line
                first = file.readline(2**20)
            separator = _separator(path, first)
            file.seek(0)
            reader = csv.reader(file, delimiter=separator, strict=True, skipinitialspace=True)
            for cells in reader:
                if not cells:
                    pass  # an empty line
                elif not names:
                    names = _checked_names(path, cells)
                elif len(cells) != len(names):
                    raise DataError(
                        f"{path}: line {line} has {len(cells)} cells, but the first line names {len(names)} columns"
                    )
                else:
                    rows.append(cells)
                    lines.append(line)
                line = reader.line_num + 1
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: after line {line - 1}: it is not UTF-8 ({error.reason}); save it as UTF-8") from error
    except csv.Error as error:
        raise DataError(f"{path}: line {line}: {error}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except MemoryError as error:
        raise DataError(f"{path}: there is not enough memory for it") from error
    columns = {}
    for i, name in enumerate(names):
        columns[name] = np.empty(len(rows), object)
        columns[name][:] = [row[i] for row in rows]
    if "" in columns and rows and (_counts(columns[""]) or (len(rows) == 1 and rows[0][names.index("")].isdecimal())):
        del columns[""]  # the index that pandas writes
    if "" in columns:
        raise DataError(f"{path}: column {names.index('') + 1} has no name; the first line must name every column")
    return Table(path, columns, np.array(lines, np.int64), separator)


def _separator(path: Path, first: str) -> str:
    if path.suffix.lower() == ".tsv":
        return "\t"
    bare = re.sub('"[^"]*"', "", first)  # a name in quotes may hold a comma
    return next((mark for mark in ",;\t" if mark in bare), ",")


def _checked_names(path: Path, cells: Sequence[str]) -> list[str]:
    names = [cell.strip() for cell in cells]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if len(names) > 1 and not np.isnan(as_numbers(np.array(names, object))).any():
        raise DataError(f"{path}: the first line must name the columns, but it holds numbers")
    if twice:
        raise DataError(f"{path}: several columns have the name {twice[0]!r}")
    return names


def _counts(values: HostArray) -> bool:
    """Say whether a column counts its rows, from any beginning."""
    numbers = as_numbers(values)
    return bool(len(numbers) > 1 and (np.diff(numbers) == 1).all())


def _read_parquet(path: Path) -> Table:
    pyarrow, parquet = _pyarrow()
    try:
        read = parquet.read_table(io.BytesIO(path.read_bytes()))
        names = read.column_names
        if len(set(names)) < len(names):
            raise DataError(f"{path}: several columns have the name {Counter(names).most_common(1)[0][0]!r}")
        return Table(path, {name: _from_arrow(pyarrow, read.column(name)) for name in names})
    except MemoryError as error:
        raise DataError(f"{path}: there is not enough memory for it") from error
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{path}: damaged, or not a Parquet file ({reason:.200})") from error


def _from_arrow(pyarrow: Any, column: Any) -> HostArray:
    kind, types = column.type, pyarrow.types
    if types.is_dictionary(kind):  # categories
        kind = kind.value_type
        column = column.cast(kind)
    if types.is_decimal(kind):
        kind = pyarrow.float64()
        column = column.cast(kind)
    if types.is_integer(kind) or types.is_floating(kind):
        return objects(column.to_pylist()) if column.null_count else np.asarray(column.to_numpy())
    if types.is_boolean(kind) or types.is_null(kind) or types.is_string(kind) or types.is_large_string(kind):
        return objects(column.to_pylist())
    if hasattr(types, "is_string_view") and types.is_string_view(kind):
        return objects(column.to_pylist())
    return objects([_Strange(column, i) if there else None for i, there in enumerate(column.is_valid().to_pylist())])


def objects(values: Sequence[Any]) -> HostArray:
    """Return a list of anything as a column of a table."""
    column = np.empty(len(values), object)
    column[:] = values
    return column


@dataclass(frozen=True, eq=False)
class _Strange:
    """Stands for a cell of a kind that is neither word nor number, in a row of a column of Arrow."""

    column: Any
    row: int

    @property
    def kind(self) -> str:
        """Return the name of the kind."""
        return str(self.column.type)

    def __str__(self) -> str:
        cell = self.column.slice(self.row, 1)
        try:
            return str(cell[0].as_py())
        except ValueError:  # Python has no nanoseconds
            return str(cell.cast("string")[0].as_py())


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ImportError('Parquet needs PyArrow: pip install "nnbackend[tables]"') from error
    return pyarrow, parquet


def write_table(path: Path, columns: Mapping[str, HostArray], separator: str = ",") -> None:
    """Write columns by name as a table, atomically: Parquet if the name ends in .parquet, TSV for .tsv, else CSV.

    Raises OSError if the file cannot be written, and ImportError if PyArrow is needed and not installed.
    """
    if path.suffix.lower() == ".parquet":
        pyarrow, parquet = _pyarrow()
        packed = io.BytesIO()
        table = pyarrow.table({name: _to_arrow(pyarrow, values) for name, values in columns.items()})
        parquet.write_table(table, packed)
        write_atomically(path, packed.getvalue())
    else:
        text = csv_text(columns, "\t" if path.suffix.lower() == ".tsv" else separator)
        write_atomically(path, text.encode("utf-8", "backslashreplace"))  # a name of a folder need not be UTF-8


def _to_arrow(pyarrow: Any, values: HostArray) -> Any:
    if values.dtype != object:
        return values
    strange = next((value for value in values if isinstance(value, _Strange)), None)
    if strange is None:
        return values.tolist()
    rows = [value.row if isinstance(value, _Strange) else None for value in values]
    return strange.column.take(pyarrow.array(rows, "int64"))


def csv_text(columns: Mapping[str, HostArray], separator: str = ",") -> str:
    """Return columns by name as the text of a CSV file. A missing value is an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter=separator, lineterminator="\n")
    # the marks that stand in no quotes in the first line tell the separator to `read_table`
    quoted = any(mark in name for name in columns for mark in ",;\t")
    heads = csv.writer(text, writer.dialect, quoting=csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL)
    heads.writerow(columns)
    writer.writerows(zip(*(values.tolist() for values in columns.values()), strict=True))
    return text.getvalue()


# --- from columns to rows -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Column:
    """Describes a column of a table: the words that occur in it, or for numbers their mean and standard deviation.

    A column of numbers is scaled to mean 0 and deviation 1. A column of words becomes one column for each word, which
    is 1 where the word stands and 0 elsewhere.
    """

    name: str
    words: tuple[str, ...] | None = None
    mean: float = 0.0
    scale: float = 1.0

    @property
    def width(self) -> int:
        """Return the number of features that the column becomes."""
        return 1 if self.words is None else len(self.words)

    @property
    def features(self) -> list[str]:
        """Return the names of these features."""
        return [self.name] if self.words is None else [f"{self.name}={one}" for one in self.words]

    def measured(self, table: Table, rows: HostArray) -> Column:
        """Return the column with mean and deviation of its numbers in these rows; words stay as they are."""
        if self.words is not None:
            return self
        try:
            mean, scale = moments(as_numbers(table.column(self.name)[rows]))
        except OverflowError as error:
            raise DataError(f"{table.path}: column {self.name!r} has {error}") from error
        return Column(self.name, None, mean, scale)

    def encode(self, table: Table, out: HostArray) -> None:
        """Write the features of all rows of the table into `out`, (n, width)."""
        values = table.column(self.name)
        if self.words is None:
            numbers = as_numbers(values)
            bad = ~np.isfinite(numbers)
            if bad.any():
                row = int(bad.argmax())
                raise DataError(f"{table.where(row, self.name)}: {_cell(values[row])} is not a finite number")
            with np.errstate(over="ignore"):
                out[:, 0] = (numbers - self.mean) / self.scale
            bad = ~np.isfinite(out[:, 0])
            if bad.any():
                row = int(bad.argmax())
                raise DataError(
                    f"{table.where(row, self.name)}: {_cell(values[row])} is far larger than the numbers to train on, "
                    f"whose mean is {self.mean:.4g}"
                )
            return
        known = {one: i for i, one in enumerate(self.words)}
        for row, value in enumerate(values):
            at = known.get(word(value))
            if at is None:
                shown = ", ".join(map(repr, self.words[:_SHOWN])) + (" ..." if len(self.words) > _SHOWN else "")
                raise DataError(
                    f"{table.where(row, self.name)}: {_cell(value)} did not occur in training, which had {shown}"
                )
            out[row, at] = 1.0


def _cell(value: Any) -> str:
    return repr(str(value) if not isinstance(value, str) else value)[:60]


@dataclass(frozen=True)
class TablePreparation:
    """Describes how the rows of a table become rows for a network, and what the network answers."""

    columns: tuple[Column, ...]
    target: Target
    kind: str = field(default="table", init=False)

    @property
    def features(self) -> tuple[str, ...]:
        """Return the names of the network's inputs."""
        return tuple(name for column in self.columns for name in column.features)

    @property
    def scaling(self) -> tuple[tuple[float, float], ...]:
        """Return mean and deviation by which each input is scaled; those of a word are 0 and 1."""
        return tuple(
            (0.0, 1.0) if column.words is not None else (column.mean, column.scale)
            for column in self.columns
            for _ in column.features
        )

    def rows(self, table: Table, dtype: str) -> HostArray:
        """Return the rows of a table as the network takes them, (n, features).

        Raises DataError, which names file, row and column, for a column that is not there, a missing value, a number
        that is none, and a word that did not occur in training.
        """
        _refuse_missing(table, [column.name for column in self.columns])
        x = np.zeros((len(table), sum(column.width for column in self.columns)), dtype)
        start = 0
        for column in self.columns:
            column.encode(table, x[:, start : start + column.width])
            start += column.width
        return x

    def stored(self) -> dict[str, Any]:
        """Return the description as values that JSON can express."""
        columns: list[dict[str, Any]] = [
            {"name": column.name, "mean": column.mean, "scale": column.scale}
            if column.words is None
            else {"name": column.name, "words": list(column.words)}
            for column in self.columns
        ]
        return {"kind": self.kind, "columns": columns, "target": self.target.stored()}

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> TablePreparation:
        """Return what `stored` has described. Raise ValueError for any other description."""
        columns, target = stored.get("columns"), stored.get("target")
        if not isinstance(columns, list) or not columns or not isinstance(target, dict):
            raise ValueError(f"the preparation of a table needs columns and a target, got {stored!r:.200}")
        return cls(tuple(map(_column, columns)), Target.of(target))


def _column(stored: Any) -> Column:
    if isinstance(stored, dict) and isinstance(name := stored.get("name"), str):
        words, mean, scale = stored.get("words"), stored.get("mean"), stored.get("scale")
        if words is None and is_scaling(mean, scale):
            return Column(name, None, float(mean), float(scale))  # type: ignore[arg-type]
        if isinstance(words, list) and words and all(isinstance(one, str) for one in words):
            return Column(name, tuple(words))
    raise ValueError(f"a column needs a name, and words or a mean and a positive scale, got {stored!r:.200}")


def table_target(
    table: Table, target: str, task: str = "auto", drop: Sequence[str] = ()
) -> tuple[Target, HostArray, list[Column]]:
    """Recognise the columns of a table. Return the target, the answers, and the other columns, not measured yet.

    target: the column to predict. drop: the columns to leave out. task: as `recognised` takes it. A column is one of
    numbers if every cell is a number.
    Raises DataError, which names file, row and column: for a column that is not there, missing values, a few cells that
    are no numbers in a column of numbers, and a column that has another word in nearly every row.
    """
    for name in (target, *drop):
        table.column(name)
    if target in drop:
        raise ValueError(f"drop: {target!r} is the target")
    names = [name for name in table.columns if name != target and name not in drop]
    if not names:
        raise DataError(f"{table.path}: there is no column beside {target!r} to learn from")
    _refuse_missing(table, [target, *names])
    _refuse_strange(table, [target, *names])
    _doubt_commas(table, [target, *names])
    _is_number_column(table, target)  # a few cells that are no numbers are a mistake in a target, too
    aim, t = recognised(target, table.columns[target], task, lambda row: table.where(row, target), "--task numbers")
    columns = [_recognised_column(table, name) for name in names]
    many = [column.name for column in columns if column.words is not None and _too_many(len(column.words), len(table))]
    if many:
        listed = ", ".join(map(repr, many[:_SHOWN]))
        raise DataError(
            f"{table.path}: nearly every row has another word in {_columns(many)} {listed}, from which nothing can be "
            f"learned; leave out what is no category: --drop {' '.join(_quoted(name) for name in many)}"
        )
    return aim, t, columns


def counting_columns(table: Table, columns: Sequence[Column]) -> list[str]:
    """Return the names of the columns that count the rows: numbers of the rows, seldom anything to learn from."""
    return [one.name for one in columns if one.words is None and len(table) > 2 and _counts(table.columns[one.name])]


def _recognised_column(table: Table, name: str) -> Column:
    if _is_number_column(table, name):
        numbers = as_numbers(table.columns[name])
        if not np.isfinite(numbers).all():
            row = int((~np.isfinite(numbers)).argmax())
            raise DataError(f"{table.where(row, name)}: {_cell(table.columns[name][row])} is not a finite number")
        return Column(name)
    return Column(name, tuple(sorted({word(value) for value in table.columns[name]})))


def _is_number_column(table: Table, name: str) -> bool:
    """Say whether every cell is a number. Raise DataError if nearly all are, and so different that all should be."""
    values = table.columns[name]
    if values.dtype != object:
        return True
    if any(isinstance(value, bool) for value in values[:1]):
        return False
    bad = np.isnan(as_numbers(values))
    if bad.any() and bad.mean() <= 0.1 and len({word(value) for value in values[~bad]}) > 20:
        row = int(bad.argmax())
        raise DataError(
            f"{table.where(row, name)}: {_cell(values[row])} is not a number, but {int((~bad).sum())} of "
            f"{len(values)} rows have one there; correct it, remove the row, or leave the column out"
        )
    return not bad.any()


def _doubt_commas(table: Table, names: Sequence[str]) -> None:
    """Warn of columns of words that are numbers with a comma, as programs write them in many languages."""
    for name in names:
        values = table.columns[name]
        words = [value for value in values if isinstance(value, str)] if values.dtype == object else []
        with_comma = next((one for one in words if "," in one), None)
        if with_comma is None or not all(_COMMAS.fullmatch(one.strip()) for one in words):
            continue
        warnings.warn(
            f"{table.path}: the numbers of column {name!r} have commas, as {with_comma.strip()!r}, and are taken for "
            "words; write a point before decimals, and nothing between thousands",
            stacklevel=5,
        )


def _too_many(words: int, rows: int) -> bool:
    return words > MOST_WORDS or words > max(50, rows / 10) or (words > 10 and words > rows / 2)


def _missing(values: HostArray) -> HostArray:
    """Return which values of a column are missing."""
    if values.dtype != object:
        return np.isnan(values) if values.dtype.kind == "f" else np.zeros(len(values), bool)
    return np.array([one is None or (isinstance(one, str) and one.strip().lower() in MISSING) for one in values], bool)


def _refuse_missing(table: Table, names: Sequence[str]) -> None:
    """Raise DataError, which names each column with missing values, their number and the first."""
    found = [(name, missing) for name in names if (missing := _missing(table.column(name))).any()]
    if found:
        listed = "; ".join(
            f"column {name!r} in {int(missing.sum())} of {len(table)} rows (first: "
            f"{table.where(int(missing.argmax())).rpartition(': ')[2]})"
            for name, missing in found[:_SHOWN]
        )
        more = f"; and {len(found) - _SHOWN} columns more" if len(found) > _SHOWN else ""
        raise DataError(
            f"{table.path}: missing values: {listed}{more}. Fill them in, or remove the rows; in training, "
            f"--drop {' '.join(_quoted(name) for name, _ in found)} leaves the {_columns([n for n, _ in found])} out"
        )


def _refuse_strange(table: Table, names: Sequence[str]) -> None:
    strange = [name for name in names if isinstance(table.columns[name][0], _Strange)]
    if strange:
        kind = table.columns[strange[0]][0].kind
        raise DataError(
            f"{table.path}: column {strange[0]!r} holds {kind}, neither words nor numbers; convert it, or leave it "
            f"out: --drop {' '.join(_quoted(name) for name in strange)}"
        )


def _columns(names: Sequence[object]) -> str:
    return "column" if len(names) == 1 else "columns"


def _quoted(name: str) -> str:
    import shlex

    return shlex.quote(name)
