"""A folder of images: what is read, to which pixels, how often, and what is said when it cannot be."""

import functools
import importlib
import multiprocessing
import os
import shutil
import sys
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from cplearn import data
from cplearn.data import image_files
from cplearn.errors import InputError

LONG_AGO = 1_000_000_000 * 10**9


def noise(*shape, seed=0, dtype=np.uint8):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, shape, dtype=dtype)


def smooth(height, width):
    """A colour image without detail finer than a few pixels."""
    y, x = np.mgrid[0:height, 0:width]
    channels = [127 + 120 * np.sin(x / 9), 127 + 120 * np.cos(y / 9), 127 + 60 * np.sin(x / 9 + y / 9)]
    return np.stack(channels, 2).astype(np.uint8)


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, **options)
    os.utime(path, ns=(LONG_AGO, LONG_AGO))


def fill(path, n=2, size=(8, 8, 3), classes=("cat", "dog")):
    """`n` images of noise for each class and split."""
    for i, (split, name) in enumerate((s, c) for s in ("train", "test") for c in classes):
        for j in range(n):
            save(path / split / name / f"{j}.png", noise(*size, seed=100 * i + j))
    return path


@pytest.fixture
def images(tmp_path):
    return fill(tmp_path / "images")


@pytest.fixture
def root(tmp_path):
    return tmp_path / "root"


def load(path, root, image_size=None):
    return data.load(f"folder:{path}", root, image_size)


@functools.cache
def opened_images():
    """A list to which the interpreter appends, from now on, every file it opens that is an image by its name."""
    paths = []

    def note(event, args):
        if event == "open" and str(args[0]).endswith(".png"):
            paths.append(args[0])

    sys.addaudithook(note)
    return paths


def load_and_count(*arguments):
    """The data set and how many times an image was opened for it."""
    before = len(opened_images())
    return load(*arguments), len(opened_images()) - before


def test_pixels_labels_classes_and_order(images, root):
    dataset = load(images, root)
    assert dataset.classes == ("cat", "dog")
    assert dataset.train.labels.tolist() == dataset.test.labels.tolist() == [0, 0, 1, 1]
    for split, base in ((dataset.train, 0), (dataset.test, 200)):
        expected = [noise(8, 8, 3, seed=base + 100 * c + j).transpose(2, 0, 1) for c in range(2) for j in range(2)]
        assert np.array_equal(split.images.numpy(), expected)
    pixels = dataset.train.images.numpy() / 255
    assert (dataset.mean, dataset.std) == pytest.approx((pixels.mean(), pixels.std()), abs=1e-12)
    assert (dataset.channels, dataset.image_size, dataset.source) == (3, 8, str(images))


def variants():
    """Images in many modes, how to save them, and what they are in RGB."""
    grey = smooth(16, 16)[..., 0]
    colour = smooth(16, 16)
    palette = Image.fromarray(colour).quantize(16)
    alpha = np.zeros((16, 16), np.uint8)
    alpha[8:] = 255
    over_white = np.where(alpha[..., None], colour, 255)
    keyed = Image.fromarray(np.where(alpha[..., None], colour, 7).astype(np.uint8))
    return {
        "L": (Image.fromarray(grey), {}, np.dstack([grey] * 3)),
        "1": (Image.fromarray(grey > 127), {}, np.dstack([255 * (grey > 127)] * 3)),
        "RGB": (Image.fromarray(colour), {}, colour),
        "P": (palette, {}, np.asarray(palette.convert("RGB"))),
        "RGBA": (Image.fromarray(np.dstack([colour, alpha])), {}, over_white),
        "LA": (Image.fromarray(np.dstack([grey, alpha])), {}, np.dstack([np.where(alpha, grey, 255)] * 3)),
        "colour key": (keyed, {"transparency": (7, 7, 7)}, over_white),
        "16-bit": (Image.fromarray(grey.astype(np.uint16) * 256 + 255), {}, np.dstack([grey] * 3)),
    }


@pytest.mark.parametrize("kind", variants())
def test_every_mode_becomes_the_same_rgb(images, root, kind):
    image, options, expected = variants()[kind]
    save(images / "test" / "dog" / "9.png", image, **options)
    loaded = load(images, root, 16).test.images[-1].numpy().transpose(1, 2, 0)
    assert np.array_equal(loaded, expected)


@pytest.mark.parametrize(("suffix", "mode"), [("jpg", "CMYK"), ("JPEG", "RGB"), ("tif", "CMYK"), ("bmp", "RGB")])
def test_other_formats_and_suffixes_in_any_case(images, root, suffix, mode):
    save(images / "test" / "dog" / f"9.{suffix}", Image.fromarray(smooth(16, 16)).convert(mode))
    loaded = load(images, root, 16).test.images[-1].numpy().transpose(1, 2, 0)
    assert np.abs(loaded.astype(int) - smooth(16, 16)).mean() < 6


def test_of_an_animation_the_first_frame_is_shown(images, root):
    frames = [Image.fromarray(smooth(16, 16)[..., i]) for i in range(3)]
    save(images / "test" / "dog" / "9.gif", frames[0], save_all=True, append_images=frames[1:])
    assert np.array_equal(load(images, root, 16).test.images[-1, 0].numpy(), smooth(16, 16)[..., 0])


def test_exif_turns_the_image(images, root):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    save(images / "test" / "dog" / "9.png", noise(8, 8, 3), exif=exif)
    loaded = load(images, root).test.images[-1].numpy().transpose(1, 2, 0)
    assert np.array_equal(loaded, np.rot90(noise(8, 8, 3), -1))


def test_greyscale_only_if_every_image_is(tmp_path, root):
    path = fill(tmp_path / "grey", size=(8, 8))
    save(path / "train" / "cat" / "9.png", noise(8, 8, dtype=np.uint16))
    grey = load(path, root)
    assert grey.channels == 1
    assert np.array_equal(grey.train.images[2, 0].numpy(), noise(8, 8, dtype=np.uint16) >> 8)
    save(path / "test" / "dog" / "9.png", noise(8, 8, 3))
    assert load(path, root).channels == 3


def test_floating_point_images_are_refused(images, root):
    save(images / "train" / "cat" / "9.tif", Image.fromarray(np.ones((8, 8), np.float32)))
    with pytest.raises(InputError, match=r"9.tif: .*floating-point pixels have no agreed range"):
        load(images, root)


def test_the_shorter_side_is_fitted_and_the_centre_cropped(images, root):
    save(images / "test" / "dog" / "9.png", smooth(96, 160))
    dataset = load(images, root, 24)
    loaded = dataset.test.images[-1].numpy().transpose(1, 2, 0)
    # Means of 4x4 blocks of the central 96x96 pixels: what any antialiased filter comes close to on a smooth image.
    expected = smooth(96, 160)[:, 32:128].reshape(24, 4, 24, 4, 3).mean((1, 3))
    assert np.abs(loaded - expected).max() < 6
    assert dataset.image_size == 24


@pytest.mark.parametrize(("extra", "size"), [((8, 8, 3), 8), ((9, 9, 3), 64), ((8, 9, 3), 64)])
def test_own_size_if_all_agree_else_64(images, root, extra, size):
    save(images / "test" / "dog" / "9.png", noise(*extra))
    assert load(images, root).image_size == size


def test_a_size_beyond_all_trials_is_never_taken_from_the_images(tmp_path, root):
    fill(tmp_path / "large", n=1, size=(1100, 1100, 3))
    with pytest.raises(InputError, match=r"1100 x 1100 pixels; say at which size they are wanted, image_size 224"):
        load(tmp_path / "large", root)
    assert load(tmp_path / "large", root, image_size=8).image_size == 8


def test_large_files_are_decoded_in_threads_to_the_same_pixels(tmp_path, root):
    path = fill(tmp_path / "large", n=3, size=(96, 96, 3))
    expected = [noise(96, 96, 3, seed=100 * c + j).transpose(2, 0, 1) for c in range(2) for j in range(3)]
    assert np.array_equal(load(path, root).train.images.numpy(), expected)


def test_hidden_files_are_ignored_and_other_files_reported(images, root, caplog):
    before = load(images, root).fingerprint
    for hidden in (".DS_Store", "train/.cache", "train/cat/.0.png"):
        (images / hidden).write_text("")
    assert load(images, root).fingerprint == before
    assert not caplog.messages
    (images / "train" / "cat" / "notes.txt").write_text("")
    save(images / "train" / "cat" / "2.png", noise(8, 8, 3))
    assert load(images, root).fingerprint != before
    load(images, root)
    first, again = caplog.messages
    assert first == again
    assert first == f"{images}: skipped 1 files without a suffix of images (train/cat/notes.txt)"


def bomb(path):
    """A small file that claims to be an image of 10,001 x 10,001 pixels."""
    path.write_bytes(b"P5 10001 10001 255\n0")


def test_names_of_classes_are_compared_in_one_unicode_form(tmp_path, root):
    images = fill(tmp_path / "images", classes=("caf\u00e9", "the"))
    (images / "test" / "caf\u00e9").rename(images / "test" / "cafe\u0301")
    dataset = load(images, root)
    assert dataset.classes == ("caf\u00e9", "the")
    assert dataset.test.labels.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("suffix", ["jfif", "JPE"])
def test_rarer_suffixes_of_jpeg_are_read(images, root, suffix):
    save(images / "train" / "cat" / f"2.{suffix}", smooth(8, 8), format="JPEG")
    assert len(load(images, root).train.images) == 5


@pytest.mark.parametrize("decode", ["cached", "on-demand"])
def test_a_truncated_image_is_found_when_the_folder_is_read(images, root, decode, caplog):
    path = images / "test" / "dog" / "0.jpg"
    save(path, smooth(96, 96), quality=95)
    os.truncate(path, path.stat().st_size * 2 // 3)
    dataset = data.load(f"folder:{images}", root, 16, decode)
    assert dataset.test.labels.tolist() == [0, 0, 1, 1]
    assert torch.equal(dataset.test.images[2:], data.load(f"folder:{fill(images)}", root, 16, decode).test.images[2:])
    assert f"{images}: skipped 1 damaged images (test/dog/0.jpg: image file is truncated" in caplog.messages[0]


def test_a_damaged_cache_is_decoded_anew(images, root, caplog):
    before = load(images, root)
    pixels = before.train.images.clone()
    (file,) = root.glob("cache/*/train-images.npy")
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    again = load(images, root)
    assert (again.train.images == pixels).all()
    assert again.fingerprint == before.fingerprint
    assert "decoded anew" in "".join(caplog.messages)


def remove(path):
    shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: remove(path), "images: no such folder; dataset folder:PATH reads all images in a folder"),
        (lambda path: [remove(path / s) for s in ("train", "test")], "images: no images in it; read are .bmp, "),
        (
            lambda path: remove(path / "test" / "dog"),
            "images: train and test have different classes; only in train: dog",
        ),
        (lambda path: [remove(path / "train/dog" / f) for f in ("0.png", "1.png")], "only in test: dog"),
        (
            lambda path: [(path / "train/dog").rename(path / "train/fox"), (path / "train/elk").mkdir()],
            "different classes; only in train: fox; only in test: dog",
        ),
        (
            lambda path: [(path / "train/dog" / f).write_text("no") for f in ("0.png", "1.png")],
            "skipped 2 damaged images (train/dog/0.png: its format is not known, train/dog/1.png: its",
        ),
        (lambda path: bomb(path / "train/cat/1.png"), "1.png: cannot be read as an image (it has 100,020,001 pixels"),
        (
            lambda path: (path / "train/cat/1.png").write_bytes(b"P5 20000 20000 255\n0"),
            "1.png: cannot be read as an image (it has more pixels than the 100,000,000 that are decoded)",
        ),
    ],
)
def test_what_is_wrong_with_a_folder_is_said(images, root, damage, message):
    damage(images)
    with pytest.raises(InputError) as error:
        load(images, root)
    assert message in str(error.value)
    assert str(images) in str(error.value)
    assert not list(root.glob("cache/*.partial"))


@pytest.mark.parametrize(
    ("add", "message"),
    [
        (
            lambda path: (path / "test/cat/2.png").write_text("no"),
            "1 damaged images (test/cat/2.png: its format is not known)",
        ),
        (lambda path: (path / "train/cat/2.PNG").write_bytes(b""), "1 empty files (train/cat/2.PNG)"),
        (
            lambda path: (path / "train/cat/2.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n"),
            "1 damaged images (train/cat/2.png: its form",
        ),
        (lambda path: (path / "train/cat/2.gif").symlink_to("nowhere"), "1 links that lead nowhere (train/cat/2.gif)"),
        (lambda path: (path / "train/loop").symlink_to("loop"), "1 links that lead nowhere (train/loop)"),
        (lambda path: (path / "train/up").symlink_to(path), "1 links to a folder above them (train/up"),
        (lambda path: os.mkfifo(path / "train/cat/pipe.png"), "1 no regular files (train/cat/pipe.png)"),
        (lambda path: save(path / "train/2.png", noise(8, 8)), "1 images beside class folders (train/2.png)"),
        (lambda path: (path / "notes").mkdir(), "1 files and folders beside the splits (notes)"),
        (
            lambda path: [(path / "a\nb%.txt").write_text(""), (path / "train" / "a\nb%.txt").write_text("")],
            r"a\nb%.txt",
        ),
    ],
)
def test_what_is_skipped_is_said(images, root, add, message, caplog):
    before = load(images, root).fingerprint
    add(images)
    assert load(images, root).fingerprint == before
    (told,) = caplog.messages
    assert told.startswith(f"{images}: skipped ")
    assert message in told


def test_sizes_below_one_are_refused(images, root):
    with pytest.raises(InputError, match="image_size 0: must be at least 1"):
        load(images, root, 0)


def test_relative_and_absolute_paths_are_one_data_set(images, root, monkeypatch):
    absolute = load(images, root)
    monkeypatch.chdir(images.parent)
    relative, count = load_and_count("images/", root)
    assert count == 0
    assert (relative.name, relative.source) == (absolute.name, absolute.source)
    assert relative.fingerprint == absolute.fingerprint


def test_fingerprint_and_cache_follow_the_content_not_the_place(images, root, tmp_path):
    original = load(images, root)
    shutil.copytree(images, tmp_path / "copy")  # keeps modification times
    for path in (tmp_path / "copy").rglob("*.png"):
        os.utime(path, ns=(LONG_AGO + 5, LONG_AGO + 5))
    assert load(tmp_path / "copy", root).fingerprint == original.fingerprint
    assert len(list(root.glob("cache/*/dataset.json"))) == 1
    assert load(images, root, 16).fingerprint != original.fingerprint
    assert load(images, root, 8).fingerprint == original.fingerprint
    assert len(list(root.glob("cache/*/dataset.json"))) == 2


def test_an_unchanged_folder_is_not_read_again(images, root):
    first, count = load_and_count(images, root)
    assert count > 0
    again, count = load_and_count(images, root)
    assert count == 0
    assert again.fingerprint == first.fingerprint


@pytest.mark.parametrize("change", ["content", "added", "removed", "renamed", "class"])
def test_a_changed_folder_is_another_data_set(images, root, change):
    before = load(images, root).fingerprint
    target = images / "train" / "cat" / "0.png"
    if change == "content":
        save(target, noise(8, 8, 3, seed=999))
        os.utime(target, ns=(LONG_AGO + 1, LONG_AGO + 1))
    elif change == "added":
        save(target.with_name("5.png"), noise(8, 8, 3))
    elif change == "removed":
        target.unlink()
    elif change == "renamed":
        target.rename(target.with_name("2.png"))  # moves it behind the other one
    else:
        for split in ("train", "test"):
            (images / split / "dog").rename(images / split / "fox")
    assert load(images, root).fingerprint != before


def test_files_just_written_are_read_again_whatever_their_time_says(images, root):
    target = images / "train" / "cat" / "0.png"
    now = target.stat().st_mtime_ns + (10**9 * 10**9)  # in the future, hence as young as can be
    save(target, noise(8, 8, 3, seed=1000))
    os.utime(target, ns=(now, now))
    before = load(images, root).fingerprint
    save(target, noise(8, 8, 3, seed=1001))
    os.utime(target, ns=(now, now))
    assert load(images, root).fingerprint != before


def test_a_folder_that_changes_while_it_is_read_is_refused(images, root, monkeypatch):
    check = image_files.check

    def check_then_touch(image):
        facts = check(image)
        os.utime(images / "train" / "cat" / "0.png", ns=(LONG_AGO, LONG_AGO + 1))
        return facts

    monkeypatch.setattr(image_files, "check", check_then_touch)
    with pytest.raises(InputError, match="images: files changed while they were read; load again"):
        load(images, root)
    monkeypatch.undo()
    assert not list(root.glob("cache/*/dataset.json"))
    assert load(images, root).image_size == 8


def on_demand(path, root, image_size=None):
    return data.load(f"folder:{path}", root, image_size, "on-demand")


def test_on_demand_nothing_is_cached_and_the_images_stay_in_their_files(images, root):
    save(images / "train" / "cat" / "9.png", smooth(40, 72))
    dataset, cached = on_demand(images, root, 16), load(images, root, 16)
    assert (dataset.image_size, dataset.channels, dataset.classes) == (16, 3, cached.classes)
    assert torch.equal(dataset.train.labels, cached.train.labels)
    assert dataset.train.images.extents.tolist() == [[8, 8], [8, 8], [40, 72], [8, 8], [8, 8]]
    pixels = dataset.train.images[:].numpy() / 255
    assert (dataset.mean, dataset.std) == pytest.approx((pixels.mean(), pixels.std()), abs=1e-12)
    assert on_demand(images, root).image_size == 64
    assert len(list(root.rglob("*-images.npy"))) == 2  # of the cached one


def test_on_demand_the_fingerprint_follows_content_and_size(images, root, tmp_path):
    first = on_demand(images, root, 16).fingerprint
    assert first != load(images, root, 16).fingerprint
    assert on_demand(images, root, 24).fingerprint != first
    shutil.copytree(images, tmp_path / "copy")
    assert on_demand(tmp_path / "copy", root, 16).fingerprint == first
    save(tmp_path / "copy" / "train" / "cat" / "0.png", noise(8, 8, 3, seed=999))
    os.utime(tmp_path / "copy" / "train" / "cat" / "0.png", ns=(LONG_AGO + 1, LONG_AGO + 1))
    assert on_demand(tmp_path / "copy", root, 16).fingerprint != first


def test_on_demand_an_unchanged_folder_is_not_read_again(images, root):
    first = on_demand(images, root)
    before = len(opened_images())
    again = on_demand(images, root)
    assert len(opened_images()) == before
    assert (again.fingerprint, again.mean, again.std) == (first.fingerprint, first.mean, first.std)


def test_on_demand_images_without_contrast_are_refused(tmp_path, root):
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            save(tmp_path / "flat" / split / name / "0.png", np.full((8, 8, 3), 7, np.uint8))
    with pytest.raises(InputError, match="every training pixel has the value 7"):
        on_demand(tmp_path / "flat", root)


def _meet(barrier):
    importlib.import_module("cplearn.data.folder")
    barrier.wait(timeout=60)


def _load_and_report(path, root):
    dataset, count = load_and_count(path, root)
    return count > 0, dataset.fingerprint, dataset.train.images.sum().item()


def test_parallel_processes_decode_once(tmp_path, root):
    path = fill(tmp_path / "images", n=30)
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(2, context, _meet, (context.Barrier(2),)) as pool:
        tasks = [pool.submit(_load_and_report, path, root) for _ in range(2)]
        found = sorted(task.result() for task in tasks)
    assert [read for read, *_ in found] == [False, True]
    assert found[0][1:] == found[1][1:]
