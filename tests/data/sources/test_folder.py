import pytest
import torch
from PIL import Image

from kdbench.data.images import image_io as images
from kdbench.data.images.image_io import DataError
from kdbench.data.sources.folder import folder, load_folder

COLOURS = {"cat": (250, 0, 0), "dog": (0, 250, 0)}


@pytest.fixture
def tree(tmp_path):
    for split, count in (("train", 3), ("test", 2)):
        for name, colour in COLOURS.items():
            place = tmp_path / "pets" / split / name
            place.mkdir(parents=True)
            for number in range(count):
                kind = ("png", "bmp", "JPG")[number]
                Image.new("RGB", (40 + number, 30), colour).save(place / f"{number}.{kind}")
    return tmp_path / "pets"


def test_a_tree_is_read_in_order_and_resized(tree):
    (tree / "train" / ".hidden").touch()
    (tree / "train" / "cat" / ".DS_Store").touch()
    splits = load_folder(str(tree), size=16)
    assert splits.train.classes == splits.test.classes == ("cat", "dog")
    assert splits.train.images.shape == (6, 3, 16, 16)
    assert splits.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert splits.test.labels.tolist() == [0, 0, 1, 1]
    for label, colour in enumerate(COLOURS.values()):
        means = splits.train.images[splits.train.labels == label].float().mean(dim=(2, 3))
        torch.testing.assert_close(means, torch.tensor(colour).float().expand(3, 3), atol=4, rtol=0)


def test_the_factory_is_named_after_the_folder_and_loads_nothing(tmp_path):
    with pytest.raises(DataError, match="there is no such folder"):
        folder(seed=0, batch_size=4, path=str(tmp_path / "missing"))
    (tmp_path / "empty").mkdir()
    data = folder(seed=0, batch_size=4, path=str(tmp_path / "empty"))
    assert data.name == data.label_space == "empty"
    with pytest.raises(DataError, match="no folder train or test"):
        data.setup()


def test_missing_split(tree):
    (tree / "test").rename(tree / "val")
    with pytest.raises(DataError, match=r"no folder test; expected train/<class>/\* and test/<class>/\*"):
        load_folder(str(tree), 16)


def test_empty_class_folder(tree):
    (tree / "train" / "emu").mkdir()
    with pytest.raises(DataError, match="train/emu: the class folder is empty"):
        load_folder(str(tree), 16)


def test_classes_must_agree(tree):
    (tree / "test" / "dog").rename(tree / "test" / "eel")
    with pytest.raises(DataError, match=r"train and test differ in the classes \['dog', 'eel'\]"):
        load_folder(str(tree), 16)


@pytest.mark.parametrize("stray", ["notes.txt", "README"])
def test_files_that_are_no_images_are_named(tree, stray):
    (tree / "train" / "dog" / stray).write_text("hello")
    with pytest.raises(DataError, match=f"train/dog/{stray}: not an image file"):
        load_folder(str(tree), 16)


def test_stray_files_and_nested_folders_are_named(tree):
    (tree / "train" / "dog" / "more").mkdir()
    with pytest.raises(DataError, match="train/dog/more: not an image file"):
        load_folder(str(tree), 16)
    (tree / "train" / "dog" / "more").rmdir()
    (tree / "train" / "labels.csv").touch()
    with pytest.raises(DataError, match=r"train/labels\.csv: not a class folder"):
        load_folder(str(tree), 16)


def test_a_broken_image_is_named(tree):
    (tree / "train" / "cat" / "0.png").write_bytes(b"\x89PNG broken")
    with pytest.raises(DataError, match=r"train/cat/0.png: not a readable image"):
        load_folder(str(tree), 16)


def test_what_does_not_fit_is_refused_before_it_is_read(tree, monkeypatch):
    monkeypatch.setattr(images, "available_bytes", lambda: 10**6)
    (tree / "train" / "cat" / "0.png").write_bytes(b"never read")
    with pytest.raises(DataError, match=r"10 images of 512x512 need 0\.0 GB"):
        load_folder(str(tree), 512)
