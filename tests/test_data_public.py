"""SVHN and CIFAR: small files in the original formats, and a web server of our own that hands them out.

Their checksums and addresses replace those of torchvision's classes; all else is as for the real files.
"""

import hashlib
import importlib
import multiprocessing
import pickle
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
from torchvision.datasets import CIFAR10, CIFAR100, SVHN

from cplearn import data
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
    context = multiprocessing.get_context("spawn")
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
