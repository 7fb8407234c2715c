"""Decoded copies on disk: complete or absent, shared, and identified by what is in them."""

import json
import os

import numpy as np
import pytest

from cplearn.data import cache
from cplearn.errors import InputError

CLASSES = ("cat", "dog")


def arrays(n=6, size=4, seed=0):
    draw = np.random.default_rng(seed)
    return cache.Arrays(draw.integers(0, 256, (n, 3, size, size), dtype=np.uint8), np.arange(n) % 2)


def write(root, key="key", train=None, test=None, classes=CLASSES):
    with cache.lock(root, "owner"):
        splits = [
            cache.Blocks(labels, (image[None] for image in images))
            for images, labels in (train or arrays(), test or arrays(4, seed=1))
        ]
        cache.write(root, key, "owner", classes, "test images", *splits)


def read(root, key="key"):
    return cache.read(root, key, "folder:x", "here")


def test_what_is_read_is_what_was_written(tmp_path):
    assert read(tmp_path) is None
    write(tmp_path)
    dataset = read(tmp_path)
    assert np.array_equal(dataset.train.images.numpy(), arrays().images)
    assert np.array_equal(dataset.test.labels.numpy(), arrays(4, seed=1).labels)
    assert (dataset.classes, dataset.name, dataset.source) == (CLASSES, "folder:x", "here")
    assert dataset.fingerprint == cache.fingerprint(arrays(), arrays(4, seed=1), CLASSES)


def test_writing_into_the_tensors_leaves_the_files_alone(tmp_path):
    write(tmp_path)
    read(tmp_path).train.images.zero_()
    assert np.array_equal(read(tmp_path).train.images.numpy(), arrays().images)


def test_a_failed_or_killed_attempt_leaves_nothing_that_counts(tmp_path):
    leftover = tmp_path / "cache" / "owner.partial" / "train-images.npy"
    leftover.parent.mkdir(parents=True)
    leftover.write_bytes(b"half")

    def killed():
        assert os.listdir(leftover.parent) == ["train-images.npy"]
        yield arrays().images[:2]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.write(tmp_path, "key", "owner", CLASSES, "test images", cache.Blocks([0, 1, 0], killed()), None)
    assert read(tmp_path) is None
    assert not leftover.parent.exists()


def test_equal_content_may_be_written_twice(tmp_path):
    write(tmp_path)
    write(tmp_path)
    assert sorted(os.listdir(tmp_path / "cache" / "key")) == [
        "dataset.json",
        "test-images.npy",
        "test-labels.npy",
        "train-images.npy",
        "train-labels.npy",
    ]


def flip(path, place):
    """Flip one bit of a file."""
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(content)


FILES = ["dataset.json", "train-images.npy", "test-images.npy", "train-labels.npy", "test-labels.npy"]
DAMAGE = {
    "cut off": lambda path: os.truncate(path, 100),
    "empty": lambda path: os.truncate(path, 0),
    "missing": lambda path: path.unlink(),
    "one bit": lambda path: flip(path, -10),
    "noise": lambda path: path.write_bytes(os.urandom(path.stat().st_size)),
    "other labels": lambda path: np.save(path, np.load(path)[::-1]) if path.suffix == ".npy" else path.write_text("[]"),
    "other facts": lambda path: path.write_text(json.dumps({"classes": 3, "fingerprint": [], "checksums": {}})),
}


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_copy_is_removed_with_a_note(tmp_path, file, damage, caplog):
    write(tmp_path)
    DAMAGE[damage](tmp_path / "cache" / "key" / file)
    assert read(tmp_path) is None
    (note,) = caplog.messages
    assert "cache/key: this decoded copy is damaged (" in note
    assert note.endswith("so the data set is decoded anew")
    assert os.listdir(tmp_path / "cache") == ["owner.lock"]


@pytest.mark.parametrize("damaged", [False, True])
def test_copies_of_earlier_versions_are_checked_by_their_fingerprint(tmp_path, damaged):
    write(tmp_path)
    path = tmp_path / "cache" / "key" / "dataset.json"
    facts = json.loads(path.read_text())
    del facts["checksums"]
    path.write_text(json.dumps(facts))
    if damaged:
        flip(tmp_path / "cache" / "key" / "test-images.npy", -1)
    assert (read(tmp_path) is None) == damaged


def test_an_unwritable_data_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file: the data folder cannot be written .* set CPLEARN_DATA"):
        write(tmp_path / "file")


def test_images_of_one_colour_are_refused(tmp_path):
    blank = cache.Arrays(np.full((4, 1, 2, 2), 7, np.uint8), np.arange(4) % 2)
    with pytest.raises(InputError, match="test images: every training pixel has the value 7"):
        write(tmp_path, train=blank)
    assert read(tmp_path) is None


def test_fingerprint_depends_on_images_labels_order_classes_and_split():
    train, test = arrays(), arrays(4, seed=1)
    pixel = train.images.copy()
    pixel[5, 2, 3, 3] ^= 1
    label = train.labels.copy()
    label[0] = 1
    variants = [
        cache.fingerprint(train, test, CLASSES),
        cache.fingerprint(cache.Arrays(pixel, train.labels), test, CLASSES),
        cache.fingerprint(cache.Arrays(train.images, label), test, CLASSES),
        cache.fingerprint(cache.Arrays(train.images[::-1], train.labels[::-1]), test, CLASSES),
        cache.fingerprint(cache.Arrays(train.images.reshape(6, 3, 2, 8), train.labels), test, CLASSES),
        cache.fingerprint(train, test, ("cat", "cow")),
        cache.fingerprint(test, train, CLASSES),
    ]
    assert len(set(variants)) == len(variants)
    assert cache.fingerprint(train, test, CLASSES) == variants[0]
    # The memory layout does not matter, as torchvision's arrays come transposed.
    assert cache.fingerprint(train._replace(images=np.asfortranarray(train.images)), test, CLASSES) == variants[0]


def test_moments_are_those_of_all_pixels():
    images = arrays(50).images
    assert cache.moments(images, "here") == pytest.approx(((images / 255).mean(), (images / 255).std()), abs=1e-14)
