"""Images decoded on demand: which pixels, how far ahead, and what becomes of a file that cannot be read."""

import threading

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2 as transforms

from cplearn.data import image_files
from cplearn.data.image_files import Crops, ImageFiles, cut_crops
from cplearn.errors import InputError


def smooth(height, width):
    """A colour image without detail finer than a few pixels."""
    y, x = np.mgrid[0:height, 0:width]
    channels = [127 + 120 * np.sin(x / 19), 127 + 120 * np.cos(y / 19), 127 + 60 * np.sin(x / 29 + y / 19)]
    return np.stack(channels, 2).astype(np.uint8)


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def reference(pixels, box, side):
    """Crop and resize by torchvision, as in a pipeline of one image at a time."""
    image = transforms.functional.resized_crop(Image.fromarray(pixels), *box, [side, side], 3)  # 3 is bicubic
    return np.asarray(image).transpose(2, 0, 1)


SHAPES = [(60, 90), (75, 50), (40, 40), (33, 101), (64, 48), (50, 70), (90, 31)]


@pytest.fixture
def files(tmp_path):
    """PNGs of noise in several shapes."""
    for i, shape in enumerate(SHAPES):
        Image.fromarray(noise(*shape, seed=i)).save(tmp_path / f"{i}.png")
    return ImageFiles(lambda row: tmp_path / f"{row}.png", torch.arange(len(SHAPES)), torch.tensor(SHAPES), 3, 16)


def test_crops_are_those_of_torchvision(tmp_path):
    pixels = noise(60, 90)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    boxes, sides = [[0, 0, 60, 90], [10, 30, 25, 31], [5, 7, 3, 4]], [16, 16, 32]
    found = cut_crops(tmp_path / "a.png", 3, (60, 90), boxes, sides)
    for crop, box, side in zip(found, boxes, sides, strict=True):
        assert np.array_equal(crop, reference(pixels, box, side))


@pytest.mark.parametrize(("side", "reduced"), [(100, False), (24, True)])
def test_a_jpeg_is_reduced_only_where_every_crop_is_at_least_twice_its_side(tmp_path, side, reduced):
    path, boxes = tmp_path / "a.jpg", [[3, 5, 210, 301], [100, 100, 180, 160]]
    Image.fromarray(smooth(403, 601)).save(path, quality=95)
    decoded = np.asarray(Image.open(path))
    found = cut_crops(path, 3, (403, 601), boxes, [side, side])
    expected = [reference(decoded, box, side) for box in boxes]
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True)) == (not reduced)
    difference = np.abs(np.stack(found).astype(int) - np.stack(expected))
    assert difference.mean() < 1.5
    assert difference.max() < 12


def test_boxes_are_those_of_the_image_as_displayed(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    pixels = noise(20, 30)
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as image:
        assert image_files.extent(image) == (30, 20)
    (crop,) = cut_crops(tmp_path / "a.png", 3, (30, 20), [[4, 2, 8, 8]], [8])
    assert np.array_equal(crop, np.rot90(pixels, -1)[4:12, 2:10].transpose(2, 0, 1))


def test_greyscale_images_have_one_channel(tmp_path):
    pixels = noise(12, 12)[..., 0]
    Image.fromarray(pixels).save(tmp_path / "a.png")
    (crop,) = cut_crops(tmp_path / "a.png", 1, (12, 12), [[2, 2, 6, 6]], [6])
    assert np.array_equal(crop, pixels[None, 2:8, 2:8])


@pytest.mark.parametrize("shape", [(320, 400), (512, 320)])
def test_evaluation_sees_what_resizing_and_cropping_the_centre_gives(tmp_path, shape):
    Image.fromarray(smooth(*shape)).save(tmp_path / "a.png")
    files = ImageFiles(lambda row: tmp_path / "a.png", torch.arange(1), torch.tensor([shape]), 3, 56)
    usual = transforms.Compose([transforms.Resize(64, 3), transforms.CenterCrop(56), transforms.PILToTensor()])
    difference = (files[:][0].int() - usual(Image.fromarray(smooth(*shape))).int()).abs()
    # There the filter reaches beyond the crop, and the crop begins at a whole pixel of the smaller image.
    assert difference.double().mean() < 1.5
    assert difference.max() < 12


def test_split_gives_all_images_in_order_and_like_a_tensor(files):
    blocks = list(files.split(3))
    assert [tuple(block.shape) for block in blocks] == [(3, 3, 16, 16), (3, 3, 16, 16), (1, 3, 16, 16)]
    assert files.shape == (7, 3, 16, 16)
    assert len(files) == 7
    every = torch.cat(blocks)
    assert torch.equal(files[2:5], every[2:5])
    assert torch.equal(files[torch.tensor([6, 0])], every[[6, 0]])
    for i, (height, width) in enumerate(SHAPES):
        side = round(min(height, width) * 224 / 256)
        box = [(height - side) // 2, (width - side) // 2, side, side]
        assert np.array_equal(every[i].numpy(), reference(noise(height, width, seed=i), box, 16))


@pytest.mark.parametrize("threads", [1, 3])
def test_batches_come_in_order_whatever_the_threads(files, threads):
    torch.set_num_threads(threads)
    rows = torch.tensor([[4, 1, 6], [0, 0, 2], [5, 3, 1], [2, 6, 4]])
    draw = torch.Generator().manual_seed(0)
    corners, sides = (torch.randint(low, 20, (4, 3, 2), generator=draw) for low in (0, 4))
    boxes = torch.cat([corners // 2, sides], 2)
    views = [[Crops(own, 16), Crops(own.flip(1), 8)] for own in boxes]
    found = list(files.decoded(zip(rows, views, strict=True)))
    assert [[tuple(crop.shape) for crop in crops] for crops in found] == [[(3, 3, 16, 16), (3, 3, 8, 8)]] * 4
    for batch, own, crops in zip(rows.tolist(), boxes, found, strict=True):
        for i, row in enumerate(batch):
            pixels = noise(*SHAPES[row], seed=row)
            assert np.array_equal(crops[0][i].numpy(), reference(pixels, own[i].tolist(), 16))
            assert np.array_equal(crops[1][i].numpy(), reference(pixels, own[i].flip(0).tolist(), 8))


def test_no_more_than_a_few_batches_are_decoded_ahead(files):
    asked = []

    def requests():
        for i in range(50):
            asked.append(i)
            rows = torch.tensor([i % 7])
            yield rows, [files.centre(rows)]

    batches = files.decoded(requests())
    next(batches)
    assert len(asked) == image_files.AHEAD + 1
    next(batches)
    assert len(asked) == image_files.AHEAD + 2
    batches.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "No such file"),
        (lambda path: path.write_text("no"), "its format is not known"),
        (
            lambda path: Image.fromarray(noise(40, 41)).save(path),
            r"\(40, 41\) pixels now, not \(40, 40\); load the data",
        ),
    ],
)
def test_a_file_that_changed_is_named_and_no_thread_stays(files, tmp_path, damage, message):
    damage(tmp_path / "2.png")
    with pytest.raises(InputError, match=rf"2.png: cannot be read as an image \(.*{message}"):
        list(files.split(2))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]
