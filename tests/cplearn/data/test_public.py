"""SVHN, CIFAR, STL-10, Tiny ImageNet: small files in the original formats, and a web server that hands them out.

Their checksums and addresses replace those of torchvision's classes; all else is as for the real files.
"""

import hashlib
import importlib
import multiprocessing
import pickle
import shutil
import socket
import tarfile
import threading
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import scipy.io
from PIL import Image
from torchvision.datasets import CIFAR10, CIFAR100, STL10, SVHN

from cplearn import data, training
from cplearn.config.trial import TrialSettings
from cplearn.data import public
from cplearn.errors import InputError

DRAW = np.random.default_rng(0)
SVHN_X = {split: DRAW.integers(0, 256, (32, 32, 3, n), dtype=np.uint8) for split, n in (("train", 7), ("test", 3))}
SVHN_Y = {"train": [10, 1, 9, 10, 2, 3, 4], "test": [5, 10, 9]}
CIFAR_FILES = {
    CIFAR10: ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"],
    CIFAR100: ["train", "test"],
}
CIFAR_ROWS = {
    name: DRAW.integers(0, 256, (4, 3072), dtype=np.uint8) for files in CIFAR_FILES.values() for name in files
}
CIFAR10_CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


def closed_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def write_svhn(folder):
    for split, images in SVHN_X.items():
        labels = np.array(SVHN_Y[split], np.uint8)[:, None]
        scipy.io.savemat(folder / f"{split}_32x32.mat", {"X": images, "y": labels}, do_compression=True)


def svhn_table(folder, address):
    names = {split: f"{split}_32x32.mat" for split in ("train", "test")}
    return {split: [f"{address}/{name}", name, md5(folder / name)] for split, name in names.items()}


@pytest.fixture
def svhn(tmp_path, monkeypatch):
    """A folder with SVHN's two files; nothing listens where they are said to come from."""
    folder = tmp_path / "published"
    folder.mkdir()
    write_svhn(folder)
    monkeypatch.setattr(SVHN, "split_list", svhn_table(folder, closed_port()))
    return folder


def publish_cifar(folder, kind, monkeypatch):
    """Write the unpacked files and the archive; expect their checksums."""
    base = folder / kind.base_folder
    base.mkdir(parents=True)
    for i, name in enumerate(CIFAR_FILES[kind]):
        if kind is CIFAR10:
            labels = {"labels": [i, 9, 0, 3]}
        else:
            labels = {"fine_labels": [i, 99, 0, 50], "coarse_labels": [1, 1, 2, 19]}
        (base / name).write_bytes(pickle.dumps({"data": CIFAR_ROWS[name], **labels}, protocol=2))
    coarse = {"coarse_label_names": [f"coarse {i}" for i in range(20)]}
    names = CIFAR10_CLASSES if kind is CIFAR10 else [f"fine {i}" for i in range(100)]
    (base / kind.meta["filename"]).write_bytes(pickle.dumps({kind.meta["key"]: names, **coarse}, protocol=2))
    with tarfile.open(folder / kind.filename, "w:gz") as archive:
        archive.add(base, kind.base_folder)
    table = [[name, md5(base / name)] for name in CIFAR_FILES[kind]]
    monkeypatch.setattr(kind, "train_list", table[:-1])
    monkeypatch.setattr(kind, "test_list", table[-1:])
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": md5(base / kind.meta["filename"])})
    monkeypatch.setattr(kind, "tgz_md5", md5(folder / kind.filename))
    monkeypatch.setattr(kind, "url", f"{closed_port()}/{kind.filename}")


class Handler(SimpleHTTPRequestHandler):
    """Hands out files and counts them; promises a whole one but stops half-way if the server is `broken`."""

    def do_GET(self):
        self.server.requests[self.path] += 1
        if not self.server.broken:
            super().do_GET()
            return
        content = self.server.folder.joinpath(self.path[1:]).read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2])

    def log_message(self, *args):
        pass


@contextmanager
def web_server(folder, broken=False):
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder)) as server:
        server.folder, server.broken, server.requests = folder, broken, Counter()
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server, f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def files_in(root):
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and path.suffix != ".lock")


def test_svhn_is_read_from_the_original_format(svhn):
    dataset = data.load("svhn", svhn)
    for split, loaded in (("train", dataset.train), ("test", dataset.test)):
        assert np.array_equal(loaded.images.numpy(), SVHN_X[split].transpose(3, 2, 0, 1))
        assert loaded.labels.tolist() == [label % 10 for label in SVHN_Y[split]]
    assert dataset.classes == tuple("0123456789")
    assert (dataset.mean, dataset.std, dataset.image_size, dataset.channels) == (0.45, 0.19, 32, 3)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("name", "kind"), [("cifar10", CIFAR10), ("cifar100", CIFAR100)])
def test_cifar_is_read_from_the_original_format(tmp_path, monkeypatch, name, kind, packed):
    publish_cifar(tmp_path / "published", kind, monkeypatch)
    root = tmp_path / "root"
    root.mkdir()
    kept = kind.filename if packed else kind.base_folder
    (tmp_path / "published" / kept).rename(root / kept)
    dataset = data.load(name, root)
    rows = [CIFAR_ROWS[file].reshape(-1, 3, 32, 32) for file in CIFAR_FILES[kind]]
    last = 9 if kind is CIFAR10 else 99
    assert np.array_equal(dataset.train.images.numpy(), np.concatenate(rows[:-1]))
    assert np.array_equal(dataset.test.images.numpy(), rows[-1])
    assert dataset.train.labels[:2].tolist() == [0, last]
    assert dataset.test.labels[:2].tolist() == [len(rows) - 1, last]
    assert dataset.classes == tuple(CIFAR10_CLASSES if kind is CIFAR10 else [f"fine {i}" for i in range(100)])
    assert (dataset.mean, dataset.std) == (0.48, 0.25 if kind is CIFAR10 else 0.27)
    assert {file.split("/")[0] for file in files_in(root)} == {kept, "cache"}


STL_X = {part: DRAW.integers(0, 256, (n, 3, 96, 96), dtype=np.uint8) for part, n in (("train", 6), ("unlabeled", 9))}
STL_X["test"] = DRAW.integers(0, 256, (4, 3, 96, 96), dtype=np.uint8)
STL_Y = {"train": [1, 10, 3, 3, 2, 1], "test": [10, 1, 2, 3]}
STL_CLASSES = ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"]


def publish_stl10(folder, monkeypatch):
    base = folder / STL10.base_folder
    base.mkdir(parents=True)
    for part, images in STL_X.items():
        images.transpose(0, 1, 3, 2).tofile(base / f"{part}_X.bin")  # column by column
    for part, labels in STL_Y.items():
        np.array(labels, np.uint8).tofile(base / f"{part}_y.bin")
    (base / STL10.class_names_file).write_text("\n".join(STL_CLASSES))
    with tarfile.open(folder / STL10.filename, "w:gz") as archive:
        archive.add(base, STL10.base_folder)
    for name in ("train_list", "test_list"):
        monkeypatch.setattr(STL10, name, [[part, md5(base / part)] for part, _ in getattr(STL10, name)])
    monkeypatch.setattr(STL10, "tgz_md5", md5(folder / STL10.filename))
    monkeypatch.setattr(STL10, "url", f"{closed_port()}/{STL10.filename}")
    monkeypatch.setattr(public, "BLOCK", 4)  # smaller than the splits


@pytest.mark.parametrize("packed", [False, True])
def test_stl10_is_read_from_the_original_format(tmp_path, monkeypatch, packed):
    publish_stl10(tmp_path / "published", monkeypatch)
    root = tmp_path / "root"
    root.mkdir()
    kept = STL10.filename if packed else STL10.base_folder
    (tmp_path / "published" / kept).rename(root / kept)
    dataset = data.load("stl10", root)
    for split, part in ((dataset.train, "train"), (dataset.test, "test")):
        assert np.array_equal(split.images.numpy(), STL_X[part])
        assert split.labels.tolist() == [label - 1 for label in STL_Y[part]]
    every = np.concatenate([STL_X["train"], STL_X["unlabeled"]])
    assert np.array_equal(dataset.pretrain.images.numpy(), every)
    assert dataset.pretrain.labels.tolist() == [*dataset.train.labels.tolist(), *[-1] * 9]
    assert (dataset.classes, dataset.image_size) == (tuple(STL_CLASSES), 96)
    assert (dataset.mean, dataset.std) == pytest.approx(((every / 255).mean(), (every / 255).std()), abs=1e-12)
    assert {file.split("/")[0] for file in files_in(root)} == {kept, "cache"}


def test_unlabelled_images_are_trained_on_but_not_evaluated(tmp_path, monkeypatch):
    publish_stl10(tmp_path, monkeypatch)
    dataset = data.load("stl10", tmp_path)
    settings = {"dataset": "stl10", "epochs": 1, "batch_size": 5, "backbone": {"width": 4}}
    trial = TrialSettings.read(settings | {"method": {"codes": 16, "embedding_dim": 8}})
    trained = training.TrialTraining(trial, dataset)
    assert trained.steps_per_epoch == 3  # 15 images, 6 of them labelled
    seen = []
    monkeypatch.setattr(trained.model, "features", lambda images, batch_size: seen.append(len(images)) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trained.evaluate()
    assert seen == [6]


def test_without_network_stl10_asks_for_its_archive(tmp_path):
    with pytest.raises(InputError, match=r"stl10 is not in .* turned off; put stl10_binary.tar.gz \(from http"):
        data.load("stl10", tmp_path, download=False)


TINY_CLASSES = ["n02", "n01", "n03"]


def publish_tiny(folder, monkeypatch):
    """Three classes of three training images, and four to test; PNGs by content, so that their pixels are known."""
    base = folder / "tiny-imagenet-200"
    pixels = {}

    def save(path, key, grey):
        pixels[key] = DRAW.integers(0, 256, (64, 64) if grey else (64, 64, 3), dtype=np.uint8)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[key]).save(path, format="png")

    for wnid in TINY_CLASSES:
        for i in range(3):
            save(base / "train" / wnid / "images" / f"{wnid}_{i}.JPEG", (wnid, i), grey=i == 2)
        (base / "train" / wnid / f"{wnid}_boxes.txt").write_text("boxes, not read")
    for i in range(4):
        save(base / "val" / "images" / f"val_{i}.JPEG", ("val", i), grey=False)
    lines = [f"val_{i}.JPEG\t{TINY_CLASSES[i % 3]}\t0\t0\t62\t62" for i in (2, 0, 3, 1)]
    (base / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")
    (base / "wnids.txt").write_text("\n".join(TINY_CLASSES) + "\n")
    shutil.make_archive(str(base), "zip", folder, base.name)
    address = f"{closed_port()}/tiny-imagenet-200.zip"
    monkeypatch.setattr(public, "TINY", public.TINY._replace(url=address, md5=md5(folder / "tiny-imagenet-200.zip")))
    monkeypatch.setattr(public, "TINY_IMAGES", {"train": 9, "val": 4})
    return pixels


@pytest.mark.parametrize("packed", [False, True])
def test_tiny_imagenet_is_read_from_its_folder_or_archive(tmp_path, monkeypatch, packed):
    pixels = publish_tiny(tmp_path / "published", monkeypatch)
    root = tmp_path / "root"
    root.mkdir()
    kept = "tiny-imagenet-200.zip" if packed else "tiny-imagenet-200"
    (tmp_path / "published" / kept).rename(root / kept)
    dataset = data.load("tiny-imagenet", root)
    assert dataset.classes == ("n01", "n02", "n03")
    assert dataset.train.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert dataset.test.labels.tolist() == [1, 0, 2, 1]  # of val_0 to val_3
    train = [pixels[wnid, i] for wnid in dataset.classes for i in range(3)]
    expected = [(np.dstack([image] * 3) if image.ndim == 2 else image).transpose(2, 0, 1) for image in train]
    assert np.array_equal(dataset.train.images.numpy(), expected)
    assert np.array_equal(dataset.test.images.numpy(), [pixels["val", i].transpose(2, 0, 1) for i in range(4)])
    assert (dataset.mean, dataset.std, dataset.image_size) == (0.449, 0.226, 64)
    assert dataset.pretrain is dataset.train
    assert {file.split("/")[0] for file in files_in(root)} == {kept, "cache"}
    assert not list(root.glob("cache/*.partial"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda base: (base / "wnids.txt").unlink(), "not Tiny ImageNet as published .*wnids.txt"),
        (
            lambda base: (base / "train/n01/images/n01_1.JPEG").unlink(),
            "train: 8 images instead of 9; delete .*200 and",
        ),
        (lambda base: (base / "val/val_annotations.txt").write_text("val_0.JPEG\tn77"), "published .*n77"),
        (lambda base: (base / "val/images/val_1.JPEG").unlink(), "val_1.JPEG: cannot be read as an image"),
        (lambda base: (base / "train/n01/images/n01_1.JPEG").write_text(""), "n01_1.JPEG: cannot be read as an image"),
    ],
)
def test_a_damaged_tiny_imagenet_is_one_sentence(tmp_path, monkeypatch, damage, message):
    publish_tiny(tmp_path, monkeypatch)
    damage(tmp_path / "tiny-imagenet-200")
    with pytest.raises(InputError, match=message):
        data.load("tiny-imagenet", tmp_path)
    assert not list(tmp_path.glob("cache/*/*.npy"))


def test_tiny_imagenet_is_downloaded(tmp_path, monkeypatch):
    publish_tiny(tmp_path / "published", monkeypatch)
    shutil.rmtree(tmp_path / "published" / "tiny-imagenet-200")
    with web_server(tmp_path / "published") as (_, address):
        monkeypatch.setattr(public, "TINY", public.TINY._replace(url=f"{address}/tiny-imagenet-200.zip"))
        assert len(data.load("tiny-imagenet", tmp_path / "root").train.images) == 9


def test_the_decoded_copy_stands_alone(svhn):
    first = data.load("svhn", svhn)
    for file in svhn.glob("*.mat"):
        file.unlink()
    assert data.load("svhn", svhn, image_size=32, download=False).fingerprint == first.fingerprint


def test_other_sizes_are_refused(tmp_path):
    with pytest.raises(InputError, match="image_size 64: cifar10 has images of 32x32 pixels"):
        data.load("cifar10", tmp_path, image_size=64)


@pytest.mark.parametrize("download", [True, False])
def test_without_network_the_message_says_which_file_belongs_where(svhn, tmp_path, download):
    root = tmp_path / "root"
    root.mkdir()
    (svhn / "train_32x32.mat").rename(root / "train_32x32.mat")
    with pytest.raises(InputError) as error:
        data.load("svhn", root, download=download)
    url = SVHN.split_list["test"][0]
    assert f"put test_32x32.mat (from {url}) into {root}; nothing else was changed" in str(error.value)
    assert ("Connection refused" if download else "turned off") in str(error.value)
    assert files_in(root) == ["train_32x32.mat"]


def test_without_network_cifar_asks_for_its_archive(tmp_path, monkeypatch):
    publish_cifar(tmp_path / "published", CIFAR100, monkeypatch)
    with pytest.raises(InputError, match=r"put cifar-100-python.tar.gz \(from http.*\) into .*root; nothing else"):
        data.load("cifar100", tmp_path / "root")


def test_a_damaged_file_is_named_and_left_alone(svhn):
    path = svhn / "test_32x32.mat"
    path.write_bytes(path.read_bytes()[:-1])
    size = path.stat().st_size
    with pytest.raises(InputError, match=r"test_32x32.mat: not the published file \(its MD5 .*; delete it and load"):
        data.load("svhn", svhn)
    assert path.stat().st_size == size


@pytest.mark.parametrize("name", ["data_batch_2", "batches.meta"])
def test_a_damaged_part_of_an_unpacked_archive_is_named(tmp_path, monkeypatch, name):
    publish_cifar(tmp_path, CIFAR10, monkeypatch)
    (tmp_path / "cifar-10-batches-py" / name).write_bytes(b"")
    with pytest.raises(InputError, match=f"cifar-10-batches-py: {name} missing or not as published"):
        data.load("cifar10", tmp_path)


def test_a_damaged_archive_is_named(tmp_path, monkeypatch):
    publish_cifar(tmp_path / "published", CIFAR10, monkeypatch)
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"half")
    with pytest.raises(InputError, match=r"cifar-10-python.tar.gz: not the published file"):
        data.load("cifar10", tmp_path)


def test_a_broken_download_is_never_kept(svhn, tmp_path, monkeypatch):
    root = tmp_path / "root"
    with web_server(svhn, broken=True) as (server, address):
        monkeypatch.setattr(SVHN, "split_list", svhn_table(svhn, address))
        with pytest.raises(InputError, match=r"is incomplete or altered; put train_32x32.mat .* and test_32x32.mat"):
            data.load("svhn", root)
        assert files_in(root) == []
        server.broken = False
        assert len(data.load("svhn", root).train.images) == 7
    assert socket.getdefaulttimeout() is None


def _meet(barrier, table):
    SVHN.split_list = table
    importlib.import_module("cplearn.data.public")
    barrier.wait(timeout=60)


def _load_svhn(root):
    return data.load("svhn", root).fingerprint


def test_parallel_processes_download_once(svhn, tmp_path, monkeypatch):
    context = multiprocessing.get_context("fork")
    with web_server(svhn) as (server, address):
        table = svhn_table(svhn, address)
        monkeypatch.setattr(SVHN, "split_list", table)
        alone = _load_svhn(tmp_path / "alone")
        requests_alone = Counter(server.requests)
        server.requests.clear()
        with ProcessPoolExecutor(2, context, _meet, (context.Barrier(2), table)) as pool:
            tasks = [pool.submit(_load_svhn, tmp_path / "shared") for _ in range(2)]
            assert [task.result() for task in tasks] == [alone, alone]
    assert server.requests == requests_alone
