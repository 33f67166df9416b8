import pytest
import torch
from PIL import Image

from kdbench.data.images import image_io
from kdbench.data.images.image_io import DataError
from kdbench.data.sources.folder import folder, load_folder

COLOURS = {"cat": (250, 0, 0), "dog": (0, 250, 0)}


@pytest.fixture
def tree(tmp_path):
    for split, count in (("train", 3), ("test", 2)):
        for name, colour in COLOURS.items():
            class_folder = tmp_path / "pets" / split / name
            class_folder.mkdir(parents=True)
            for number in range(count):
                kind = ("png", "bmp", "JPG")[number]
                Image.new("RGB", (40 + number, 30), colour).save(class_folder / f"{number}.{kind}")
    return tmp_path / "pets"


def test_folder_is_read_in_order_and_resized(tree):
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


def test_data_set_is_named_after_the_folder_and_loads_in_setup(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        folder(seed=0, batch_size=4, path=str(tmp_path / "missing"))
    (tmp_path / "empty").mkdir()
    data = folder(seed=0, batch_size=4, path=str(tmp_path / "empty"))
    assert data.name == data.label_space == "empty"
    with pytest.raises(DataError, match="no folder train or test"):
        data.setup()


def test_missing_split_is_refused(tree):
    (tree / "test").rename(tree / "val")
    with pytest.raises(DataError, match=r"no folder test; expected train/<class>/\* and test/<class>/\*"):
        load_folder(str(tree), 16)


def test_empty_class_folder_is_refused(tree):
    (tree / "train" / "emu").mkdir()
    with pytest.raises(DataError, match="train/emu: the class folder is empty"):
        load_folder(str(tree), 16)


def test_different_classes_are_refused(tree):
    (tree / "test" / "dog").rename(tree / "test" / "eel")
    with pytest.raises(DataError, match=r"only one of train and test: \['dog', 'eel'\]"):
        load_folder(str(tree), 16)


@pytest.mark.parametrize("name", ["notes.txt", "README"])
def test_message_names_a_file_that_is_no_image(tree, name):
    (tree / "train" / "dog" / name).write_text("hello")
    with pytest.raises(DataError, match=f"train/dog/{name}: not an image file"):
        load_folder(str(tree), 16)


def test_message_names_nested_folders_and_other_files(tree):
    (tree / "train" / "dog" / "more").mkdir()
    with pytest.raises(DataError, match="train/dog/more: not an image file"):
        load_folder(str(tree), 16)
    (tree / "train" / "dog" / "more").rmdir()
    (tree / "train" / "labels.csv").touch()
    with pytest.raises(DataError, match=r"train/labels\.csv: not a class folder"):
        load_folder(str(tree), 16)


def test_message_names_a_damaged_image(tree):
    (tree / "train" / "cat" / "0.png").write_bytes(b"\x89PNG broken")
    with pytest.raises(DataError, match=r"train/cat/0.png: not a readable image"):
        load_folder(str(tree), 16)


def test_data_larger_than_memory_are_refused_before_reading(tree, monkeypatch):
    monkeypatch.setattr(image_io, "available_bytes", lambda: 10**6)
    (tree / "train" / "cat" / "0.png").write_bytes(b"never read")
    with pytest.raises(DataError, match=r"10 images of 512x512 need 0\.0 GB"):
        load_folder(str(tree), 512)
