"""What a folder of images is taken for: splits, classes, heaps, and what labels.csv says instead."""

import numpy as np
import pytest

from cplearn import data
from cplearn.data import splits
from cplearn.errors import InputError
from pictures import fill, noise


@pytest.fixture
def load(tmp_path):
    return lambda path, **options: data.load(f"folder:{path}", tmp_path / "root", **options)


def numbers(split):
    """The seeds of the images of noise in a split, in order."""
    known = {noise(seed).tobytes(): seed for seed in range(100)}
    return [known[image.permute(1, 2, 0).numpy().tobytes()] for image in split.images]


CLASSES = [f"{name}/{i}.png" for name in ("cat", "dog") for i in range(5)]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("train", "test"),
        ("train", "val"),
        ("training", "validation"),
        ("Train", "Test"),
        ("birds/train", "birds/valid"),
    ],
)
def test_splits_have_the_names_that_people_give_them(tmp_path, load, first, second):
    names = [f"{split}/{name}/{i}.png" for split in (first, second) for name in ("cat", "dog") for i in range(2)]
    dataset = load(fill(tmp_path / "images", *names))
    assert dataset.classes == ("cat", "dog")
    assert (numbers(dataset.train), numbers(dataset.test)) == ([0, 1, 2, 3], [4, 5, 6, 7])
    with pytest.raises(InputError, match=r"test_share 0.5: .*images has a test split of its own"):
        load(tmp_path / "images", test_share=0.5)


def test_of_three_splits_validation_is_skipped(tmp_path, load, caplog):
    names = [f"{split}/{name}/0.png" for split in ("train", "val", "test") for name in ("cat", "dog")]
    dataset = load(fill(tmp_path / "images", *names))
    assert (numbers(dataset.train), numbers(dataset.test)) == ([0, 1], [4, 5])
    assert "skipped 1 files and folders beside the splits (val)" in caplog.text


@pytest.mark.parametrize("prefix", ["", "train/", "all of them/"])
def test_without_a_split_a_part_of_every_class_becomes_the_test_split(tmp_path, load, prefix):
    dataset = load(fill(tmp_path / "images", *(prefix + name for name in CLASSES)))
    assert (dataset.classes, dataset.train.labels.tolist()) == (("cat", "dog"), [0] * 4 + [1] * 4)
    assert dataset.test.labels.tolist() == [0, 1]
    assert sorted(numbers(dataset.train) + numbers(dataset.test)) == list(range(10))
    again, other = (load(tmp_path / "images", test_share=share) for share in (0.2, 0.4))
    assert again.fingerprint == dataset.fingerprint != other.fingerprint
    assert set(numbers(dataset.test)) < set(numbers(other.test))


def test_a_split_that_is_drawn_depends_on_names_alone(tmp_path, load):
    small, large = (
        load(fill(tmp_path / f"{n}", *(f"{name}/{i:03}.png" for name in ("cat", "dog") for i in range(n))))
        for n in (9, 10)
    )
    assert len(small.test.labels) == len(large.test.labels) == 4
    moved = sum(seed not in numbers(small.test) for seed in numbers(large.test)[:2])
    assert moved <= 1


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        (["cat/images/0.png", "cat/images/1.png", "dog/images/0.png", "dog/images/1.png"], ("cat", "dog")),
        (["a/big/cat/0.png", "a/big/cat/1.png", "a/big/dog/0.png", "a/big/dog/1.png"], ("cat", "dog")),
        (["pet/cat/0.png", "pet/cat/1.png", "wild/elk/0.png", "wild/elk/1.png"], ("pet/cat", "wild/elk")),
        (["cat/0.png", "cat/more/0.png", "dog/0.png", "dog/more/still/0.png"], ("cat", "dog")),
        (["0.png", "1.png", "cat/0.png", "dog/0.png"], ()),
        (["cat/0.png", "cat/1.png", "dog/more/0.png", "dog/more/1.png"], ()),
        (["0.png", "1.png"], ()),
        (["cat/0.png", "cat/1.png"], ()),
        (["a & b/0.png", "a & b/1.png", "ä_%#$^~{x}\n/0.png", "ä_%#$^~{x}\n/1.PNG"], ("a & b", "ä_%#$^~{x}\n")),
    ],
)
def test_classes_are_folders_and_all_else_is_a_heap(tmp_path, load, names, classes):
    dataset = load(fill(tmp_path / "images", *names), test_share=0.5)
    assert dataset.classes == classes
    assert sorted(numbers(dataset.train) + numbers(dataset.test)) == list(range(len(names)))
    assert len(dataset.test.labels) == len(names) // 2
    if not classes:
        assert set(dataset.train.labels.tolist() + dataset.test.labels.tolist()) == {-1}
        assert dataset.pretrain is dataset.train


def test_heaps_in_two_splits_stay_there(tmp_path, load):
    dataset = load(fill(tmp_path / "images", "train/0.png", "train/a/0.png", "test/0.png"))
    assert dataset.classes == ()
    assert (numbers(dataset.train), numbers(dataset.test)) == ([0, 1], [2])


def test_a_flat_test_split_without_labels_is_left_out(tmp_path, load, caplog):
    dataset = load(fill(tmp_path / "images", *(f"train/{name}" for name in CLASSES), "test/0.png"))
    assert (len(dataset.train.labels), len(dataset.test.labels), dataset.n_classes) == (8, 2, 2)
    assert "1 test images without a label (test/0.png)" in caplog.text


def table(folder, text, name="labels.csv"):
    (folder / name).write_text(text, encoding="utf-8-sig")
    return folder


def test_labels_csv_overrides_the_folders(tmp_path, load):
    folder = fill(tmp_path / "images", *(f"{i}.png" for i in range(3)), "deep/er/3.png", "deep/4.png")
    rows = ["PATH,Split,label,note", "0.png,train,b,x", "./1.png,training,a,", "2.png,TEST,a,", "deep/er/3.png,val,b,"]
    dataset = load(table(folder, "\n".join([*rows, "deep/4.png,test,b,"])))
    assert dataset.classes == ("a", "b")
    assert (numbers(dataset.train), numbers(dataset.test)) == ([1, 0], [2, 4])
    without = load(
        table(folder, "path\tlabel\n0.png\ta\n1.png\ta\n2.png\tb\ndeep/4.png\tb\n", "labels.tsv") and drop(folder)
    )
    assert (len(without.train.labels), len(without.test.labels)) == (2, 2)
    assert without.pretrain.labels.tolist() == [0, 1, -1]
    assert numbers(without.pretrain)[-1] == 3


def drop(folder):
    (folder / "labels.csv").unlink()
    return folder


def test_a_table_without_rows_makes_class_folders_a_heap(tmp_path, load):
    dataset = load(table(fill(tmp_path / "images", *CLASSES), "path,label\n"))
    assert dataset.classes == ()
    assert (len(dataset.train.labels), len(dataset.test.labels)) == (8, 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path\n0.png\n", "its first line must name the columns path, and label, split or both"),
        ("path,label\n0.png,a\nnone.png,b\n", r"1 of 2 paths are no images that could be read \(none.png\)"),
        ("path,label\n0.png,a\n./0.png,b\n", r"labels.csv, line 3: '0.png' is named twice"),
        ("path,split\n0.png,tset\n", r"labels.csv, line 2: unknown split 'tset'; known are train, "),
        ("path,label\n0.png,a\n1.png,b\n2.png,b\n", "is the only image of its class|no images to test|only in"),
        ('path,label\n"0.png,a\n', "cannot be read"),
    ],
)
def test_what_is_wrong_with_a_table_is_said(tmp_path, load, text, message):
    folder = table(fill(tmp_path / "images", "0.png", "1.png", "2.png"), text)
    if "2.png" in text:
        assert load(folder).test.labels.tolist() == [1]
        return
    with pytest.raises(InputError, match=message):
        load(folder)


def test_classes_of_one_image_leave_nothing_to_test(tmp_path, load):
    with pytest.raises(InputError, match="no images to test"):
        load(fill(tmp_path / "images", "cat/0.png", "dog/0.png"))


def test_other_test_images_of_the_training_split_are_told(tmp_path, load, caplog):
    folder = fill(tmp_path / "images", *(f"{split}/{name}/0.png" for split in ("train", "test") for name in ("a", "b")))
    (folder / "test/a/0.png").write_bytes((folder / "train/b/0.png").read_bytes())
    load(folder)
    assert "1 test images are in the training split too (test/a/0.png)" in caplog.text


def test_the_draw_is_stratified_and_keeps_one_image_of_each_class():
    items = [splits.Item(f"{label}{i}", label, None) for label, n in (("a", 100), ("b", 2), ("c", 1)) for i in range(n)]
    arranged = splits.arrange("here", items)
    assert np.bincount(arranged.labels["train"]).tolist() == [80, 1, 1]
    assert np.bincount(arranged.labels["test"]).tolist() == [20, 1]
    assert arranged.drawn
