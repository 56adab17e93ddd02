"""From a file to a network and back to a file, from a script: tables, folders of pictures, arrays."""

from __future__ import annotations

import csv
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from support import Namespace, write_bars

import nnbackend as nn
from nnbackend.recipes import TrainingResult, TrainSettings, predict_data, predict_file, train_data

RNG = np.random.default_rng(0)
N = 240
CITY, SIZE = RNG.choice(["Oslo", "Paris", "Rome"], N), RNG.uniform(20, 200, N)
PRICE = SIZE * (1 + (CITY == "Paris")) + 30 * (CITY == "Rome")
CLASS = np.where(PRICE > 180, "dear", np.where(PRICE > 90, "fair", "cheap"))


def write_csv(path: Path, **columns: np.ndarray) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*(values.tolist() for values in columns.values()), strict=True))
    return path


def read_csv(path: Path) -> dict[str, list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        names, *rows = csv.reader(file)
    return dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))


@pytest.fixture(scope="module")
def flats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_csv(tmp_path_factory.mktemp("flats") / "flats.csv", city=CITY, size=SIZE, price=PRICE, kind=CLASS)


@pytest.fixture(scope="module")
def prices(flats: Path) -> TrainingResult:
    return train_data(TrainSettings(data=str(flats), target="price", drop=("kind",), backend="numpy"))


def test_numbers_come_back_in_their_unit(prices: TrainingResult, flats: Path, tmp_path: Path) -> None:
    run = prices
    assert run.data is not None
    assert run.r_squared is not None
    assert (run.tested_on, run.test_accuracy) == ("validation", None)
    assert run.r_squared > 0.95
    run.network.save(tmp_path / "net")
    new = write_csv(tmp_path / "new.csv", size=SIZE, note=np.full(N, "x, y"), city=CITY)  # another order, no target
    answers = predict_data(nn.load(tmp_path / "net"), new)
    assert list(answers.columns) == ["size", "note", "city", "prediction"]
    predicted = answers.columns["prediction"]
    assert 1 - ((predicted - PRICE) ** 2).sum() / ((PRICE - PRICE.mean()) ** 2).sum() > 0.95
    held = run.data.validation
    assert held is not None
    y = run.network.predict(held[0]).reshape(-1)
    expected = np.sqrt(((run.data.target.restored(y) - run.data.target.restored(held[1])) ** 2).mean())
    assert run.test_error == pytest.approx(expected, rel=1e-5)

    answers.write(tmp_path / "out.csv")
    read = read_csv(tmp_path / "out.csv")
    assert read["note"] == ["x, y"] * N
    assert read["size"] == [repr(value) for value in SIZE.tolist()]  # as they were written
    np.testing.assert_allclose(np.array(read["prediction"], float), predicted)

    (tmp_path / "new.tsv").write_text("size\tcity\n50\tOslo\n")
    predict_data(run.network, tmp_path / "new.tsv").write(tmp_path / "out.csv")
    assert list(read_csv(tmp_path / "out.csv")) == ["size", "city", "prediction"]  # with commas, as the name says


def test_classes_have_names_and_probabilities(flats: Path, tmp_path: Path) -> None:
    settings = TrainSettings(data=str(flats), target="kind", drop=("price",), validation=0.2, backend="numpy")
    run = train_data(settings)
    assert run.test_accuracy is not None
    assert run.test_accuracy > 0.85
    assert train_data(settings).test_loss == run.test_loss
    run.network.save(tmp_path / "net")
    answers = predict_data(nn.load(tmp_path / "net"), flats)
    assert list(answers.columns)[4:] == ["prediction", "probability_cheap", "probability_dear", "probability_fair"]
    probabilities = np.stack([answers.columns[name] for name in list(answers.columns)[5:]], axis=1)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    names = np.array(["cheap", "dear", "fair"])
    assert (names[probabilities.argmax(axis=1)] == answers.columns["prediction"]).all()
    assert (answers.columns["prediction"] == CLASS).mean() > 0.85
    answers.write(tmp_path / "again.csv")
    with pytest.raises(nn.DataError, match="there is a column 'prediction' already"):
        predict_data(run.network, tmp_path / "again.csv")


@pytest.mark.parametrize("target", ["price", "kind"])
def test_numbers_too_large_for_an_answer_are_named(target: str, flats: Path, tmp_path: Path) -> None:
    other = ({"price", "kind"} - {target}).pop()
    run = train_data(TrainSettings(data=str(flats), target=target, drop=(other,), epochs=1, backend="numpy"))
    new = write_csv(tmp_path / "new.csv", size=np.array([50.0, 1e300]), city=CITY[:2])
    with pytest.raises(nn.DataError, match=r"new.csv: line 3, column 'size': '1e\+300' is far larger than the numbers"):
        predict_data(run.network, new)
    stored = run.network.preparation
    assert stored is not None
    large = 3e38 * next(one["scale"] for one in stored["columns"] if one["name"] == "size")  # below the largest float32
    new = write_csv(tmp_path / "new.csv", size=np.array([50.0, large]), city=CITY[:2])
    with pytest.raises(nn.DataError, match=r"new.csv: line 3: the network gives no finite answer; a number there is "):
        predict_data(run.network, new)


def test_parquet_gets_parquet(prices: TrainingResult, tmp_path: Path) -> None:
    polars = pytest.importorskip("polars")
    pytest.importorskip("pyarrow")
    polars.DataFrame({"city": CITY.tolist(), "size": SIZE, "n": range(N)}).write_parquet(tmp_path / "new.parquet")
    answers = predict_data(prices.network, tmp_path / "new.parquet")
    answers.write(tmp_path / "out.parquet")
    read = polars.read_parquet(tmp_path / "out.parquet")
    assert read.columns == ["city", "size", "n", "prediction"]
    assert read["n"].to_list() == list(range(N))
    assert read["city"].to_list() == CITY.tolist()
    np.testing.assert_array_equal(read["prediction"].to_numpy(), answers.columns["prediction"])


@pytest.mark.skipif(sys.platform != "linux", reason="names are UTF-8, or UTF-16, by the system")
@pytest.mark.parametrize("ending", [".csv", ".parquet", ".npz"])
def test_names_that_are_not_utf_8(ending: str, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    if ending == ".parquet":
        pytest.importorskip("pyarrow")
    for name in ("dark", "light"):
        (tmp_path / "shades" / name).mkdir(parents=True)
        path = os.fsencode(tmp_path / "shades" / name) + b"/\xff1.png"
        image.new("L", (8, 8), 200 * (name == "light")).save(path, "PNG")
    run = train_data(TrainSettings(data=str(tmp_path / "shades"), epochs=1, backend="numpy"))
    answers = predict_data(run.network, tmp_path / "shades")
    assert answers.columns["file"].tolist() == [r"dark/\xff1.png", r"light/\xff1.png"]
    answers.write(tmp_path / f"out{ending}")


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_a_folder_of_pictures(model: str, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    folder = tmp_path / "stripes"
    for name in ("down", "across"):
        (folder / name).mkdir(parents=True)
        for i in range(40):
            pixels = RNG.integers(0, 60, (12, 12, 3)).astype(np.uint8)
            line = RNG.integers(2, 10)
            pixels[(slice(None), line) if name == "down" else (line, slice(None))] = 250
            image.fromarray(pixels).save(folder / name / f"{i}.png")
    run = train_data(TrainSettings(data=str(folder), model=model, epochs=25, side=12, validation=0.2, backend="numpy"))
    assert run.settings["augment"] == 1.0
    assert not any(layer.identity for layer in run.network.layers.values())
    assert run.test_accuracy is not None
    assert run.test_accuracy > 0.85
    x, t = run.rows("validation")  # type: ignore[misc]
    assert run.network.accuracy(x, t) == pytest.approx(run.test_accuracy)
    run.network.save(tmp_path / "net")
    network = nn.load(tmp_path / "net")
    answers = predict_data(network, folder)
    files = answers.columns["file"].tolist()
    assert files[0] == str(Path("across", "0.png"))
    truth = [Path(file).parts[0] for file in files]
    assert np.mean(answers.columns["prediction"] == np.array(truth)) > 0.85
    shown: list[np.ndarray] = []
    (one,), total = predict_file(network, folder / "down" / "3.png", top=2, shown=shown)
    row = files.index(str(Path("down", "3.png")))
    assert total == 1
    assert one.best[0][0] == answers.columns["prediction"][row]
    assert dict(one.best)["down"] == pytest.approx(answers.columns["probability_down"][row], abs=1e-6)
    assert shown[0].shape == (12, 12)


def test_many_pictures_get_a_wider_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bars(tmp_path / "bars")
    settings = TrainSettings(data=str(tmp_path / "bars"), model="cnn", epochs=1, backend="numpy")
    sizes = []
    for many in (30_000, 120):
        monkeypatch.setattr("nnbackend.recipes.train.MANY_PICTURES", many)
        sizes.append([value.shape for value in train_data(settings).network.params.values()][2])
    assert sizes == [(3, 3, 16, 32), (3, 3, 32, 64)]


def test_arrays(tmp_path: Path) -> None:
    x = RNG.normal(5, 3, (200, 4))
    t = np.where(x[:, 0] > 5, "high", "low")
    np.savez(tmp_path / "a.npz", x=x, y=t)
    run = train_data(TrainSettings(data=str(tmp_path / "a.npz"), backend="numpy"))
    assert run.test_accuracy is not None
    assert run.test_accuracy > 0.85
    answers = predict_data(run.network, tmp_path / "a.npz")
    assert list(answers.columns) == ["prediction", "probability_high", "probability_low"]
    assert (answers.columns["prediction"] == t).mean() > 0.85
    answers.write(tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz") as read:
        assert read["prediction"].tolist() == answers.columns["prediction"].tolist()
        np.testing.assert_array_equal(read["probability_low"], answers.columns["probability_low"])


def test_a_network_of_digits_reads_a_folder(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    write_bars(tmp_path / "bars")
    run = train_data(TrainSettings(data=str(tmp_path / "bars"), epochs=10, backend="numpy"))
    assert list(run.network.layers) == ["Affine1", "ReLU1", "Affine2", "ReLU2", "Affine3"]
    assert run.network.input_shape == (64,)
    (tmp_path / "new").mkdir()
    for label in range(3):
        pixels = np.zeros((8, 8), np.uint8)
        pixels[:, 1 + 2 * label : 3 + 2 * label] = 250
        image.fromarray(pixels).save(tmp_path / "new" / f"{label}.png")
    answers = predict_data(run.network, tmp_path / "new")
    assert answers.columns["file"].tolist() == ["0.png", "1.png", "2.png"]
    assert answers.columns["prediction"].tolist() == ["0", "1", "2"]


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_a_checkpoint_of_a_run_with_augmentation_predicts(model: str, tmp_path: Path) -> None:
    write_bars(tmp_path / "bars")
    settings = TrainSettings(data=str(tmp_path / "bars"), model=model, epochs=4, backend="numpy")
    if model == "cnn":
        pytest.importorskip("PIL.Image")
    run = train_data(settings, checkpoint=nn.Checkpoint(tmp_path / "run"))
    kept = nn.load(tmp_path / "run")
    assert "RandomAffine1" in kept.layers
    if model == "mlp":
        images = tmp_path / "bars" / "t10k-images-idx3-ubyte.gz"
        assert predict_file(kept, images)[0] == predict_file(run.network, images)[0]
    x, _ = run.rows("test")  # type: ignore[misc]
    np.testing.assert_array_equal(kept.predict(x.reshape(-1, 8, 8, 1)), run.network.predict(x))


def test_a_run_that_only_learns_by_heart_says_so(tmp_path: Path) -> None:
    x, noise = RNG.normal(size=(300, 6)), RNG.integers(0, 2, 300)
    columns = {f"x{i}": x[:, i] for i in range(6)}
    path = write_csv(tmp_path / "noise.csv", **columns, t=noise)
    settings = {"data": str(path), "target": "t", "dropout": 0.0, "epochs": 150, "hidden": (128, 128)}
    run = train_data(TrainSettings(**settings, validation=0.3, backend="numpy"))  # type: ignore[arg-type]
    assert run.advice is not None
    assert "by heart (accuracy 100.00% in training" in run.advice
    assert "more --dropout" in run.advice
    assert "augment" not in run.advice  # there are no pictures
    path = write_csv(tmp_path / "noise.csv", **columns, t=RNG.normal(size=300))
    run = train_data(TrainSettings(**settings, validation=0.3, backend="numpy"))  # type: ignore[arg-type]
    assert run.advice is not None
    assert "R squared" in run.advice
    path = write_csv(tmp_path / "noise.csv", **columns, t=np.where(x[:, 0] > 0, "a", "b"))
    assert train_data(TrainSettings(data=str(path), target="t", backend="numpy")).advice is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "cnn"}, "model: 'cnn' is for pictures, and the data is a table"),
        ({"model": "cmm"}, "model: unknown model 'cmm'. Known: cnn, mlp"),
        ({"augment": 1.0}, "augment: only pictures are changed at random"),
        ({"augment": -1.0}, "augment must be at least 0"),
        ({"dropout": 1.0}, "dropout_ratio must be at least 0 and below 1, got 1.0"),
        ({"lr": 0.0}, "lr must be positive"),
    ],
)
def test_settings_are_checked(options: dict[str, object], message: str, flats: Path) -> None:
    with pytest.raises(ValueError, match=message):
        train_data(TrainSettings(data=str(flats), target="kind", drop=("price",), **options))  # type: ignore[arg-type]


def test_data_of_another_kind(prices: TrainingResult, flats: Path, tmp_path: Path) -> None:
    network = prices.network
    for name in ("a.png", "a.npz"):
        with pytest.raises(ValueError, match="the network takes the rows of a table"):
            predict_data(network, tmp_path / name)
    with pytest.raises(ValueError, match="the network takes rows of table, not pictures"):
        predict_file(network, tmp_path / "a.png")
    with pytest.raises(ValueError, match="the network takes pictures"):
        predict_data(nn.TwoLayerNet(784, 5, 10), flats)


def test_a_table_on_every_backend(flats: Path, on: Namespace) -> None:
    settings = TrainSettings(data=str(flats), target="kind", drop=("price",), epochs=2)
    run = train_data(settings)
    same = train_data(TrainSettings(data=str(flats), target="kind", drop=("price",), epochs=2, backend="numpy"))
    assert run.settings["backend"] == on.backend.name
    assert run.test_loss == pytest.approx(same.test_loss, rel=1e-3)
    ours, theirs = predict_data(run.network, flats).columns, predict_data(same.network, flats).columns
    np.testing.assert_allclose(ours["probability_dear"], theirs["probability_dear"], atol=1e-3)
