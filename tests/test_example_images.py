"""What examples/glow_images.py reads of files and folders."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

Image = pytest.importorskip("PIL.Image")


@pytest.fixture(scope="module")
def script():
    path = Path(__file__).resolve().parents[1] / "examples" / "glow_images.py"
    spec = importlib.util.spec_from_file_location("glow_images", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def images(count, first=0):
    return np.arange(first, first + count * 64, dtype=np.int64).astype(np.uint8).reshape(-1, 8, 8)


def write(path, **arrays):
    np.savez(path / "images.npz", **arrays)
    return path / "images.npz"


def test_training_images_come_first_wherever_they_stand(script, tmp_path):
    arrays = {"x_test": images(2), "y_test": np.arange(2)}
    arrays |= {"x_train": images(5, 7), "y_train": np.arange(5)}
    train, test = script.read_npz(write(tmp_path, **arrays), None, None, False)
    for part, name in ((train, "train"), (test, "test")):
        np.testing.assert_array_equal(part.pixels, arrays[f"x_{name}"])
        np.testing.assert_array_equal(part.labels, arrays[f"y_{name}"])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            {"labels": np.arange(5)},
            "`labels` are the labels of `x_train` or of `x_test`, not of both",
        ),
        ({"y_train": np.arange(5)}, "no integer for each image of `x_test` in `y_test`"),
        ({"y_train": np.arange(5), "y_test": np.arange(3)}, "in `y_test`"),
    ],
)
def test_labels_that_do_not_fit_are_an_error(script, tmp_path, labels, message):
    path = write(tmp_path, x_train=images(5), x_test=images(5), **labels)
    with pytest.raises(SystemExit, match=message):
        script.read_npz(path, None, None, False)
    train, test = script.read_npz(path, None, None, True)
    assert train.labels is None and test.labels is None


@pytest.mark.parametrize(("mode", "channels"), [("L", ()), ("RGB", (3,))])
def test_a_folder_keeps_grey_images_grey(script, tmp_path, mode, channels):
    for name in ("cats", "dogs"):
        (tmp_path / name).mkdir()
        Image.fromarray(images(1)[0]).convert(mode).save(tmp_path / name / "0.png")
    (part,) = script.read_folder(tmp_path, 8)
    assert part.pixels.shape == (2, 8, 8, *channels)
    np.testing.assert_array_equal(part.pixels.reshape(2, 8, 8, -1)[1, ..., 0], images(1)[0])
    assert list(part.labels) == ["cats", "dogs"]


def test_images_too_small_for_the_scales_are_an_error(script):
    with pytest.raises(SystemExit, match="images of 8x8 have to be at least 16x16"):
        script.crop(images(1), 16)
