"""Images within larger files: the same data set in every form, read a little at a time, and what is refused."""

import os
import random
import shutil
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import containers
from cplearn import data
from cplearn.errors import InputError
from fuzzing import damage
from pictures import noise, save

FORMS = ("folder", "heap", "parquet", "shards", "npz")


@pytest.fixture
def load(tmp_path):
    return lambda name, *options, **named: data.load(name, tmp_path / "root", *options, **named)


@pytest.fixture(scope="module")
def made():
    return containers.pictures()


@pytest.fixture
def names(tmp_path, made):
    return containers.everywhere(tmp_path, made)


def test_every_form_holds_the_same_data_set(names, load, made):
    train = np.stack([picture.pixels.transpose(2, 0, 1) for picture in made if picture.split == "train"])
    for name in names.values():
        dataset = load(name)
        assert np.array_equal(dataset.train.images.numpy(), train), name
        assert dataset.train.labels.tolist() == [0] * 10 + [1] * 10 + [2] * 10
        assert dataset.test.labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    classes = {form: load(name).classes for form, name in names.items()}
    assert classes == dict.fromkeys(FORMS, containers.CLASSES) | {"npz": ("0", "1", "2")}
    assert len({load(name).fingerprint for form, name in names.items() if form != "npz"}) == 1


@pytest.mark.parametrize("form", ["heap", "parquet", "shards"])
def test_on_demand_the_images_stay_where_they_are(names, load, form, tmp_path):
    dataset, folder = load(names[form], 16, "on-demand"), load(names["folder"], 16, "on-demand")
    assert not list((tmp_path / "root").rglob("*-images.npy"))
    assert (dataset.fingerprint, dataset.mean, dataset.std) == (folder.fingerprint, folder.mean, folder.std)
    rows = torch.tensor([29, 3, 3, 17, 0])
    assert torch.equal(dataset.train.images[rows], folder.train.images[rows])
    assert torch.equal(dataset.test.images[:], folder.test.images[:])


@pytest.mark.parametrize("form", FORMS)
def test_images_without_labels_come_last_and_are_not_tested(tmp_path, load, made, form):
    bare = [p._replace(label="") if i % 4 == 0 and form != "folder" else p for i, p in enumerate(made)]
    name = containers.everywhere(tmp_path / "some", bare)[form]
    dataset = load(name)
    expected = [p for p in bare if p.split == "train"]
    assert len(dataset.train.labels) == sum(p.label != "" for p in expected)
    assert len(dataset.test.labels) == sum(p.label != "" for p in bare if p.split == "test")
    assert dataset.pretrain.labels.tolist()[len(dataset.train.labels) :] == [-1] * sum(p.label == "" for p in expected)
    pixels = [p.pixels.transpose(2, 0, 1) for p in sorted(expected, key=lambda p: p.label == "")]
    assert np.array_equal(dataset.pretrain.images.numpy(), pixels)
    if form in ("parquet", "shards"):
        on_demand = load(name, 8, "on-demand")
        assert torch.equal(on_demand.pretrain.labels, dataset.pretrain.labels)
        assert on_demand.pretrain.images[:].shape == dataset.pretrain.images.shape


@pytest.mark.parametrize("form", FORMS)
def test_a_changed_file_is_another_data_set(names, load, form, tmp_path):
    before = load(names[form]).fingerprint
    other = containers.everywhere(tmp_path / "other", containers.pictures(seed=1))
    place, source = (name.partition(":")[2].removesuffix("/*.tar") for name in (names[form], other[form]))
    shutil.copytree(source, place, dirs_exist_ok=True) if os.path.isdir(source) else shutil.copy2(source, place)
    for folder, _, files in os.walk(place):
        for file in files:
            os.utime(f"{folder}/{file}", ns=(10**18 + 1, 10**18 + 1))
    os.utime(place, ns=(10**18 + 1, 10**18 + 1))
    assert load(names[form]).fingerprint == load(other[form]).fingerprint != before


def test_tar_files_are_indexed_once(names, load, made):
    opened = []
    sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
    for decode in ("cached", "on-demand"):
        load(names["shards"], 8, decode)
    assert any(path.endswith(".tar") for path in opened)
    opened.clear()
    for decode in ("cached", "on-demand"):
        load(names["shards"], 8, decode)
    assert not any(path.endswith(".tar") for path in opened)


def test_a_damaged_copy_of_parquet_files_is_made_anew(names, load, tmp_path):
    before = load(names["parquet"], 8, "on-demand").train.images[:].clone()
    (copy,) = (tmp_path / "root").rglob("*.arrow")
    os.truncate(copy, copy.stat().st_size // 2)
    assert torch.equal(load(names["parquet"], 8, "on-demand").train.images[:], before)


def test_parquet_files_of_plain_bytes_with_words_and_a_split_column(tmp_path, load):
    images = [containers.encoded(noise(i)) for i in range(5)]
    columns = {"img": images, "label": ["b", "a", "b", "a", None], "split": ["train", "train", "test", "test", "train"]}
    pq.write_table(pa.table(columns), tmp_path / "all.parquet")
    dataset = load(f"parquet:{tmp_path / 'all.parquet'}")
    assert (dataset.classes, dataset.train.labels.tolist(), dataset.test.labels.tolist()) == (
        ("a", "b"),
        [1, 0],
        [1, 0],
    )
    assert np.array_equal(dataset.pretrain.images[2].permute(1, 2, 0), noise(4))
    heap = tmp_path / "heap"
    heap.mkdir()
    pq.write_table(pa.table({"bytes": images[:3]}), heap / "a.parquet")
    pq.write_table(pa.table({"bytes": [images[3], None]}), heap / "b.parquet")
    dataset = load(f"parquet:{heap}")
    assert (dataset.classes, len(dataset.train.labels), len(dataset.test.labels)) == ((), 3, 1)


def test_shards_of_a_pattern_with_json_labels_and_other_files(tmp_path, load, caplog):
    import tarfile

    for n, split in enumerate(("train", "val")):
        (tmp_path / "parts").mkdir(exist_ok=True)
        with tarfile.open(tmp_path / f"{split}-{n}.tar", "w") as archive:
            for i in range(2):
                save(tmp_path / "parts" / f"{i}.jpg", noise(10 * n + i))
                (tmp_path / "parts" / f"{i}.json").write_text(f'{{"label": {7 + i}}}')
                (tmp_path / "parts" / f"{i}.txt").write_text("a caption")
                for kind in ("json", "jpg", "txt"):
                    archive.add(tmp_path / "parts" / f"{i}.{kind}", f"x/{i}.{kind}")
    dataset = load(f"wds:{tmp_path}/{{train,val}}-{{0..1}}.tar".replace("{0..1}", "*"))
    assert (dataset.classes, dataset.train.labels.tolist(), dataset.test.labels.tolist()) == (
        ("7", "8"),
        [0, 1],
        [0, 1],
    )
    assert "skipped 4 files .txt (train-0.tar: x/0.txt" in caplog.text


def test_grey_arrays_and_three_splits(tmp_path, load, caplog):
    grey = {
        f"{split}_images": np.stack([noise(10 * n + i)[..., 0] for i in range(4)])
        for n, split in enumerate(("train", "val", "test"))
    }
    labels = {name.replace("images", "labels"): np.array([3, 10, 3, 10]) for name in grey}
    np.savez(tmp_path / "a.npz", **grey, **labels)
    dataset = load(f"npz:{tmp_path / 'a.npz'}")
    assert (dataset.channels, dataset.classes, dataset.train.labels.tolist()) == (1, ("3", "10"), [0, 1, 0, 1])
    assert np.array_equal(dataset.test.images[:, 0], grey["test_images"])
    assert "skipped 4 images of a third split (val_images[0]" in caplog.text


def test_a_data_set_of_the_hub_without_a_network(tmp_path, load, made, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    containers.parquet(tmp_path / "birds", made)
    saved = datasets.load_dataset(str(tmp_path / "birds"), cache_dir=str(tmp_path / "hub"))
    saved.save_to_disk(tmp_path / "saved")
    dataset, parquet = load(f"hf:{tmp_path / 'saved'}"), load(f"parquet:{tmp_path / 'birds'}")
    assert dataset.fingerprint == parquet.fingerprint
    assert dataset.classes == containers.CLASSES
    on_demand = load(f"hf:{tmp_path / 'saved'}", 16, "on-demand")
    assert on_demand.fingerprint == load(f"parquet:{tmp_path / 'birds'}", 16, "on-demand").fingerprint


def nothing(path):
    pass


@pytest.mark.parametrize(
    ("name", "prepare", "message"),
    [
        ("parquet:x", nothing, "x: cannot be opened"),
        ("parquet:x", lambda path: path.mkdir(), r"x: no files \*.parquet"),
        ("parquet:x", lambda path: path.write_bytes(b"no"), "x: cannot be read as a Parquet file"),
        ("parquet:x", lambda path: pq.write_table(pa.table({"a": [1]}), path), "x: no column of images among a"),
        (
            "parquet:x",
            lambda path: pq.write_table(pa.table({"image": [b"1"], "label": [[1, 2]]}), path),
            "the column label holds list.*; labels are one number or word an image",
        ),
        ("npz:x", nothing, "x: cannot be opened"),
        ("npz:x", lambda path: path.write_bytes(b"no"), "x: cannot be read as an .npz file"),
        ("npz:x", lambda path: np.savez(path.open("wb"), a=1), "x: none of the arrays train_images"),
        (
            "npz:x",
            lambda path: np.savez(
                path.open("wb"), train_images=np.zeros((2, 8, 8), np.uint8), train_labels=np.ones((2, 3))
            ),
            "train_labels has 3 labels an image; only one can be used",
        ),
        (
            "npz:x",
            lambda path: np.savez(path.open("wb"), train_images=np.zeros((2, 8, 8))),
            r"train_images is an array \(2, 8, 8\) of float64; expected",
        ),
        ("wds:x*.tar", nothing, "no files of such names"),
        ("wds:x", nothing, "x: cannot be opened"),
        ("wds:x", lambda path: path.write_bytes(b"no" * 999), "x: cannot be read as a tar file that is not compressed"),
        ("hf:x", lambda path: path.mkdir(), "hf:.*x: cannot be read as a data set of images"),
        ("parquet:", nothing, "write parquet:PATH"),
        ("npz", nothing, "write npz:PATH"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, load, monkeypatch, name, prepare, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    prepare(tmp_path / "x")
    with pytest.raises(InputError, match=message):
        load(name)


def test_a_tar_file_that_was_cut_off_is_refused(tmp_path, load, made):
    name = containers.shards(tmp_path / "shards", made, images=50)
    file = tmp_path / "shards" / "train-000.tar"
    for size in (512 * 21, file.stat().st_size // 2, file.stat().st_size // 4 * 3):
        os.truncate(file, size)
        with pytest.raises(InputError, match=r"train-000.tar: cannot be read as a tar file"):
            load(name)
        containers.shards(tmp_path / f"{size}", made, images=50)
        shutil.copy2(tmp_path / f"{size}" / file.name, file)


def test_damaged_files_are_read_or_refused(tmp_path, load):
    draw, outcomes = random.Random("containers"), set()
    names = containers.everywhere(tmp_path / "whole", containers.pictures(12, 6))
    for i in range(40):
        form = draw.choice(["heap", "parquet", "shards", "npz"])
        mutant = tmp_path / f"mutant{i}"
        shutil.copytree(tmp_path / "whole", mutant)
        name = names[form].replace("whole", mutant.name)
        place = mutant / (form if form != "npz" else "arrays.npz")
        file = place if form == "npz" else draw.choice(sorted(place.iterdir()))
        file.write_bytes(damage(file.read_bytes(), draw))
        try:
            assert len(load(name, 8, None if form == "npz" else draw.choice(["cached", "on-demand"])).train.images[:2])
            outcomes.add("read")
        except InputError as error:
            outcomes.add("many lines" if "\n" in str(error) else "refused")
    assert outcomes == {"read", "refused"}


def test_a_damaged_image_within_a_file_is_skipped(tmp_path, load, caplog):
    images = [containers.encoded(noise(i)) for i in range(10)]
    images[3] = images[3][:50]
    pq.write_table(pa.table({"image": images}), tmp_path / "a.parquet")
    dataset = load(f"parquet:{tmp_path / 'a.parquet'}")
    assert len(dataset.train.labels) + len(dataset.test.labels) == 9
    assert f"{tmp_path / 'a.parquet'} row 3" in caplog.text


MEMORY = """
import resource, sys
import cplearn.data
from pathlib import Path
import torch, pyarrow.parquet, PIL.Image
from cplearn.data import encoded, parquet
decode, name, root = sys.argv[1:]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
dataset = cplearn.data.load(name, Path(root), 8, decode)
assert dataset.train.images[:64].shape[1:] == (3, 8, 8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.long
@pytest.mark.parametrize("decode", ["cached", "on-demand"])
def test_memory_does_not_grow_with_a_parquet_file(tmp_path, decode):
    # 200 MB in a single group of rows, of which half may be in memory. The images' pixels are stored as they are.
    pixels = np.random.default_rng(0).integers(0, 256, (200, 580, 600, 3), dtype=np.uint8)
    images = [b"P6 600 580 255\n" + image.tobytes() for image in pixels]
    pq.write_table(pa.table({"image": images}), tmp_path / "large.parquet", row_group_size=200, compression="none")
    size = (tmp_path / "large.parquet").stat().st_size
    assert size > 200e6
    command = [sys.executable, "-c", MEMORY, decode, f"parquet:{tmp_path / 'large.parquet'}", str(tmp_path / "root")]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) * 1024 < size / 2
