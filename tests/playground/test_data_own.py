"""One's own data: arrays, tables, datasets of images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import PIL.Image
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from gradflow_widget.playground.assembly import assemble
from gradflow_widget.playground.data import (
    DATA,
    Loaded,
    as_loaded,
    from_arrays,
    from_csv,
    from_dataframe,
    from_dataset,
)
from gradflow_widget.playground.data.next_token import NextTokenLoss
from gradflow_widget.training.batches import PictureError, as_batches


def every(data: Loaded) -> tuple[torch.Tensor, torch.Tensor]:
    """Return inputs and targets of both sides, ordered by the first number of an input."""
    inputs, targets = (torch.cat(pair) for pair in zip(data.training, data.validation, strict=True))
    order = inputs.flatten(1)[:, 0].argsort()
    return inputs[order], targets[order]


# -- arrays --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "kind"), [((3,), "vector"), ((5, 3), "sequence"), ((1, 4, 4), "image")]
)
def test_the_shape_of_arrays_tells_their_kind(shape: tuple[int, ...], kind: str) -> None:
    inputs = np.arange(10 * np.prod(shape), dtype=np.float64).reshape(10, *shape)
    data = from_arrays(inputs, np.arange(10) % 3)
    assert (data.kind, data.input_shape) == (kind, shape)
    assert (data.outputs, type(data.loss)) == (3, nn.CrossEntropyLoss)
    assert (len(data.inputs), len(data.validation_inputs)) == (8, 2)
    x, y = every(data)
    assert torch.equal(x, torch.tensor(inputs, dtype=torch.float32))
    assert torch.equal(y, torch.arange(10) % 3)
    # A seed of its own decides; the default is fixed.
    assert torch.equal(from_arrays(inputs, np.arange(10) % 3).inputs, data.inputs)
    assert not torch.equal(from_arrays(inputs, np.arange(10) % 3, seed=1).inputs, data.inputs)


def test_arrays_are_copied() -> None:
    inputs, targets = torch.rand(10, 2), torch.rand(10)
    data = from_arrays(inputs, targets)
    before = data.inputs.clone()
    inputs.zero_()
    assert torch.equal(data.inputs, before)


@pytest.mark.parametrize("targets", [np.linspace(0, 1, 10), np.linspace(0, 1, 10)[:, None]])
def test_float_targets_are_fitted_with_the_mean_squared_error(targets: Any) -> None:
    data = from_arrays(np.arange(10.0)[:, None], targets)
    assert (data.outputs, type(data.loss)) == (1, nn.MSELoss)
    assert data.targets.shape == (8, 1)
    assert torch.allclose(every(data)[1][:, 0], torch.linspace(0, 1, 10))


def test_truth_values_and_a_column_of_classes_are_classes() -> None:
    for targets in (np.arange(10) % 2 == 1, (np.arange(10) % 2)[:, None].astype(np.uint16)):
        data = from_arrays(np.arange(10.0)[:, None], targets)
        assert (data.outputs, type(data.loss)) == (2, nn.CrossEntropyLoss)
        assert torch.equal(every(data)[1], torch.arange(10) % 2)


def test_bytes_are_pixels_and_whole_numbers_beside_whole_numbers_tokens() -> None:
    pixels = np.full((4, 1, 2, 2), 51, dtype=np.uint8)
    assert float(from_arrays(pixels, [0, 1, 0, 1]).inputs.max()) == pytest.approx(0.2)
    vectors = from_arrays(np.full((4, 3), 51, dtype=np.uint8), [0, 1, 0, 1])
    assert float(vectors.inputs.max()) == 51
    text = np.arange(40).reshape(8, 5) % 7
    tokens = from_arrays(text, (text + 1) % 7)
    assert (tokens.kind, tokens.input_shape, tokens.outputs) == ("tokens", (5,), 7)
    assert isinstance(tokens.loss, NextTokenLoss)
    assert torch.equal(tokens.targets, (tokens.inputs + 1) % 7)


@pytest.mark.parametrize(
    ("inputs", "targets", "error", "says"),
    [
        (np.zeros((4, 2)), np.zeros(3), ValueError, "both need the same number of samples"),
        (np.zeros((4, 2)), 3.0, ValueError, "both need the same number of samples"),
        (np.zeros((1, 2)), np.zeros(1), ValueError, "data has 1 sample: give at least two"),
        (np.zeros((0, 2)), np.zeros(0), ValueError, "data has 0 samples: give at least two"),
        (np.zeros(4), np.zeros(4), ValueError, r"inputs have shape \(4,\): give \(samples, f"),
        (np.array(["a", "b"]), np.zeros(2), TypeError, "inputs hold values of dtype <U1"),
        (np.zeros((2, 1)), np.array([None, 1]), TypeError, "targets hold values of dtype object"),
        (torch.zeros(2, 1, dtype=torch.complex64), [0, 1], TypeError, "inputs are complex"),
        ([[0.0], [np.nan]], [0, 1], ValueError, "inputs hold NaN or infinity in row 1: fill"),
        ([[0.0], [1.0]], [np.inf, 1], ValueError, "targets hold NaN or infinity in row 0"),
        ([[0.0], [1.0]], [-1, 1], ValueError, "targets hold the class -1: count classes from 0"),
        ([[0.0], [1.0]], [5, 250_000], ValueError, "up to 250,000, more classes than"),
        (np.zeros((2, 3)), np.zeros((2, 2), int), ValueError, "give one class for each sample"),
        (np.zeros((2, 3)), np.zeros((2, 2, 2)), ValueError, r"give \(samples,\) or \(samples, v"),
        (np.zeros((2, 3)), [0, 1], ValueError, "seed must be"),
    ],
)
def test_arrays_that_wont_do_are_refused_in_one_sentence(
    inputs: Any, targets: Any, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        from_arrays(inputs, targets, seed=-1 if says.startswith("seed") else 0)


def test_the_playground_takes_what_is_loaded_pairs_and_datasets() -> None:
    loaded = DATA["moons"].load()
    assert as_loaded(loaded) is loaded
    inputs, targets = torch.rand(10, 3), torch.arange(10) % 2
    for data in ((inputs, targets), [inputs.numpy(), targets.numpy()]):
        assert torch.equal(as_loaded(data).inputs, from_arrays(inputs, targets).inputs)
    dataset = TensorDataset(inputs, targets)
    assert torch.equal(
        every(as_loaded(dataset, seed=3))[0], every(from_arrays(*dataset.tensors))[0]
    )
    for data in (inputs, None, 3, (inputs,)):
        with pytest.raises(TypeError, match="give the name of a data set, a pair of arrays"):
            as_loaded(data)


# -- tables --------------------------------------------------------------------------


@pytest.fixture
def flowers() -> pd.DataFrame:
    index = np.arange(20)
    return pd.DataFrame(
        {
            "length": 100.0 + index,
            "count": index % 4,
            "tall": index > 9,
            "same": 0.1,
            "name": np.where(index % 2, "rose", "aster"),
            "price": 1_000.0 * index,
        }
    )


def test_a_table_becomes_scaled_vectors_and_named_classes(flowers: pd.DataFrame) -> None:
    data = from_dataframe(flowers, "name", columns=["length", "count", "tall", "same"])
    assert (data.kind, data.input_shape, data.outputs) == ("vector", (4,), 2)
    assert data.classes == ("aster", "rose")
    assert (len(data.inputs), len(data.validation_inputs)) == (16, 4)
    assert torch.allclose(data.inputs.mean(dim=0), torch.zeros(4), atol=1e-6)
    assert torch.allclose(
        data.inputs.std(dim=0, correction=0), torch.tensor([1.0, 1, 1, 0]), atol=1e-6
    )
    x, y = every(data)
    assert torch.equal(y, torch.arange(20) % 2)
    steps = x[1:, 0] - x[:-1, 0]
    assert torch.allclose(steps, steps[0].expand(19), atol=1e-5)  # the order is length's own


def test_a_number_to_fit_is_scaled_too(flowers: pd.DataFrame) -> None:
    data = from_dataframe(flowers, "price", columns=["length"])
    assert (data.outputs, type(data.loss), data.classes) == (1, nn.MSELoss, ())
    assert float(data.loss(torch.zeros(16, 1), data.targets)) == pytest.approx(1, rel=1e-5)
    # Price and length are one line.
    assert torch.allclose(data.validation_inputs, data.validation_targets, atol=1e-5)


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        ([9, 10, 100, 9], ("9", "10", "100")),
        ([True, False, True, True], ("False", "True")),
        (pd.Categorical(["b", "a", "b", "a"]), ("a", "b")),
        (pd.array([1, 0, 1, 0], dtype="Int64"), ("0", "1")),
    ],
)
def test_classes_are_named_in_their_order(values: Any, classes: tuple[str, ...]) -> None:
    frame = pd.DataFrame({"x": [0.0, 1, 2, 3], "y": values})
    data = from_dataframe(frame, "y")
    assert data.classes == classes
    named = [data.classes[place] for place in every(data)[1].tolist()]
    assert named == [str(value) for value in frame["y"].tolist()]


def test_many_whole_numbers_are_fitted_unless_the_task_says_otherwise() -> None:
    frame = pd.DataFrame({"x": np.arange(42.0), "y": np.arange(42) // 2})
    assert isinstance(from_dataframe(frame, "y").loss, nn.MSELoss)
    assert from_dataframe(frame, "y", task="classification").outputs == 21
    assert isinstance(from_dataframe(frame[:40], "y").loss, nn.CrossEntropyLoss)
    assert isinstance(from_dataframe(frame[:40], "y", task="regression").loss, nn.MSELoss)


def test_a_csv_file_is_the_table_in_it(tmp_path: Path, flowers: pd.DataFrame) -> None:
    flowers.to_csv(tmp_path / "flowers.csv", index=False)
    columns = ["length", "count"]
    for target in ("name", "price"):
        from_file = from_csv(tmp_path / "flowers.csv", target, columns=columns, seed=4)
        from_memory = from_dataframe(flowers, target, columns=columns, seed=4)
        assert from_file.classes == from_memory.classes
        assert torch.equal(from_file.inputs, from_memory.inputs)
        assert torch.equal(from_file.validation_targets, from_memory.validation_targets)


def gaps(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(length=frame["length"].where(frame.index > 1))


@pytest.mark.parametrize(
    ("change", "arguments", "says"),
    [
        (None, {"target": "colour"}, "column 'colour' is not in the table: choose among length, "),
        (None, {"target": "price", "columns": ["width"]}, "column 'width' is not in the table"),
        (None, {"target": "price"}, "column 'name' is of dtype .*, which is no number: encode"),
        (None, {"target": "price", "columns": []}, "columns must name at least one column"),
        (None, {"target": "price", "columns": ["price"]}, "columns must name .* not the target"),
        (None, {"target": "price", "columns": "length"}, "columns must be a list of names"),
        (None, {"target": "name", "task": "regression", "columns": ["length"]}, "'name' is of d"),
        (None, {"target": "same", "task": "classification", "columns": ["length"]}, "0.1 in every"),
        (None, {"target": "name", "task": "ranking"}, "task must be classification, regression"),
        (None, {"target": "name", "seed": 0.5}, "seed must be"),
        (gaps, {"target": "name"}, "column 'length' has 2 missing values: fill them in or drop"),
        (lambda f: f[:1], {"target": "price", "columns": ["length"]}, "data has 1 sample"),
        (
            lambda f: f.assign(length=np.inf),
            {"target": "price", "columns": ["length"]},
            "column 'length' holds infinity",
        ),
        (
            lambda f: pd.concat([f, f["length"]], axis=1),
            {"target": "price", "columns": ["length"]},
            "column 'length' stands in the table twice",
        ),
    ],
)
def test_tables_that_wont_do_are_refused_in_one_sentence(
    flowers: pd.DataFrame, change: Any, arguments: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        from_dataframe(flowers if change is None else change(flowers), **arguments)


def test_a_file_that_is_no_csv_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.csv"):
        from_csv(tmp_path / "absent.csv", "y")
    for name, content in (
        ("empty", b""),
        ("ragged", b"a,b\n1,2\n1,2,3\n"),
        ("bytes", b"\xff\xfe\x9f"),
    ):
        path = tmp_path / f"{name}.csv"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name}\.csv can't be read as CSV"):
            from_csv(path, "y")


# -- datasets of images --------------------------------------------------------------


class Pictures(Dataset[Any]):
    """What ``torchvision.datasets`` give without a transform."""

    def __init__(self, count: int = 20, mode: str = "L", size: tuple[int, int] = (6, 4)) -> None:
        self.count, self.mode, self.size = count, mode, size
        self.classes = ["even", "odd", "never"]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return PIL.Image.new("L", self.size, 10 * index).convert(self.mode), index % 2


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3), ("P", 3), ("RGBA", 3)])
def test_pictures_become_tensors_from_0_to_1(mode: str, channels: int) -> None:
    data = from_dataset(Pictures(mode=mode))
    assert (data.kind, data.input_shape) == ("image", (channels, 4, 6))
    assert (data.outputs, data.classes) == (3, ("even", "odd", "never"))
    assert (len(data.inputs), len(data.validation_inputs)) == (16, 4)
    x, y = every(data)
    assert torch.allclose(x[:, 0, 0, 0], torch.arange(20) * 10 / 255)
    assert torch.equal(y, torch.arange(20) % 2)


def test_a_picture_is_not_turned_or_mirrored() -> None:
    class One(Pictures):
        def __getitem__(self, index: int) -> tuple[Any, int]:
            pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
            return PIL.Image.fromarray(pixels), 0

    image = from_dataset(One()).inputs[0]
    expected = torch.arange(24).reshape(2, 4, 3).permute(2, 0, 1) / 255
    assert torch.allclose(image, expected)


def test_a_dataset_of_its_own_is_held_out_and_few_are_drawn() -> None:
    train, test = Pictures(20), Pictures(6)
    data = from_dataset(train, test)
    assert (len(data.inputs), len(data.validation_inputs)) == (20, 6)
    few = from_dataset(train, samples=5)
    assert (len(few.inputs), len(few.validation_inputs)) == (4, 1)
    assert not torch.equal(from_dataset(train, samples=5, seed=1).inputs, few.inputs)


class Odd(Pictures):
    """A dataset that gives ``item``, or what it makes of an index."""

    def __init__(self, item: Any, count: int = 20) -> None:
        super().__init__(count)
        self.item = item

    def __getitem__(self, index: int) -> Any:
        return self.item(index) if callable(self.item) else self.item


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter([])


@pytest.mark.parametrize(
    ("dataset", "error", "says"),
    [
        (Stream(), TypeError, "dataset of type Stream has no length"),
        (Pictures(0), ValueError, "dataset is empty"),
        (Pictures(1), ValueError, "data has 1 sample: give at least two"),
        (Odd(torch.zeros(3)), TypeError, r"dataset\[\d+\] is of type Tensor: give pairs"),
        (Odd(("a.png", 0)), TypeError, r"dataset\[\d+\] holds a str: give tensors or PIL images"),
        (Odd((torch.zeros(1, 2, 2), "cat")), TypeError, "has the class 'cat': give whole"),
        (Odd((torch.zeros(1, 2, 2), -1)), TypeError, "has the class -1: give whole numbers"),
        (Odd((torch.zeros(2), 0.7)), TypeError, "has the class 0.7: give whole numbers from 0"),
        (Odd((torch.zeros(1, 2, 2, 2), 0)), ValueError, r"items of shape \(1, 2, 2, 2\): give"),
        (
            Odd(lambda index: (torch.zeros(1, 2 + index % 2, 2), 0)),
            ValueError,
            r"holds images of shapes \(1, \d, 2\) and \(1, \d, 2\): give it a transform",
        ),
    ],
)
def test_datasets_that_wont_do_are_refused_in_one_sentence(
    dataset: Any, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        from_dataset(dataset)


def test_a_held_out_dataset_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="give both the same transform"):
        from_dataset(Pictures(), Pictures(size=(8, 8)))


def test_a_batch_of_pictures_says_which_transform_makes_them_tensors() -> None:
    with pytest.raises(PictureError, match=r"data gives PIL images.*ToTensor\(\)"):
        as_batches(Pictures()).first(0, 4)
    with pytest.raises(TypeError, match="default_collate"):
        as_batches(Odd((object(), 0))).first(0, 4)
    inputs, targets = as_batches(Odd((torch.zeros(1, 4, 6), 1))).first(0, 4)
    assert (inputs.shape, targets.tolist()) == ((4, 1, 4, 6), [1] * 4)


def test_a_network_of_the_playground_is_built_to_fit_a_pair_of_arrays() -> None:
    parts = assemble("mlp", (np.random.default_rng(0).random((50, 7)), np.arange(50) % 4), {})
    assert (parts.data[0].shape, len(parts.loaded.validation_inputs)) == ((40, 7), 10)
    assert parts.build()(parts.data[0]).shape == (40, 4)
