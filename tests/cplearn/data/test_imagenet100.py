"""ImageNet-100 of a small ImageNet: building it, loading it, and training on images that are decoded on demand."""

import re

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from cplearn import data, training
from cplearn.config.trial import TrialSettings
from cplearn.data import imagenet100
from cplearn.errors import InputError
from runner.cli import app

WNIDS = ["n01440764", "n02123045", "n03000684"]


def photo(height, width, seed):
    """Noise coarse enough to survive JPEG; its colour depends on the seed."""
    draw = np.random.default_rng(seed)
    small = draw.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8) // 2 + draw.integers(0, 127, 3)
    return Image.fromarray(small.astype(np.uint8)).resize((width, height))


def save(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def fill(path, classes, train=4, val=2):
    """Images of different sizes, in the layout of ImageNet."""
    for split, n in (("train", train), ("val", val)):
        for label, name in enumerate(classes):
            for i in range(n):
                seed = 100 * label + i + 50 * (split == "val")
                save(path / split / name / f"{name}_{i}.JPEG", photo(40 + 7 * i, 64 - 5 * i, seed))
    return path


@pytest.fixture
def imagenet(tmp_path):
    return fill(tmp_path / "imagenet", [*WNIDS, "n09999999"])


@pytest.fixture
def chosen(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_text("# three classes\n" + "\n".join(reversed(WNIDS)) + "  # the last\n\n")
    return path


@pytest.fixture
def root(tmp_path, imagenet, chosen):
    imagenet100.build(imagenet, tmp_path / "root", chosen)
    return tmp_path / "root"


def run(*arguments):
    """Status and output of a command line."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, " ".join(result.output.split())


def test_the_published_list_is_complete():
    classes = imagenet100.classes()
    assert len(set(classes)) == len(classes) == 100
    assert all(re.fullmatch(r"n\d{8}", name) for name in classes)
    assert (classes[0], classes[-1]) == ("n02869837", "n02090622")


def test_the_standard_classes_are_taken_out_of_a_full_imagenet(tmp_path):
    source = fill(tmp_path / "full", [*imagenet100.classes(), "n09999999"], train=2, val=1)
    status, output = run("data", "imagenet100", "--from", source, "--data-root", tmp_path / "root")
    assert status == 0
    assert "imagenet100: 200 training and 100 test images of 3x224x224, 100 classes, mean 0.4490, std 0.2260" in output
    dataset = data.load("imagenet100", tmp_path / "root")
    assert dataset.classes == tuple(sorted(imagenet100.classes()))


def test_a_full_imagenet_is_linked_or_copied(tmp_path, imagenet, chosen):
    for copy in (False, True):
        path = imagenet100.build(imagenet, tmp_path / str(copy), chosen, copy)
        assert path == tmp_path / str(copy) / "imagenet100"
        assert sorted(p.name for p in (path / "train").iterdir()) == sorted(p.name for p in (path / "val").iterdir())
        assert (path / "train" / WNIDS[0]).is_symlink() == (not copy)
        assert len(list((path / "train" / WNIDS[0]).glob("*.JPEG"))) == 4
    linked, copied = (data.load("imagenet100", tmp_path / str(copy)) for copy in (False, True))
    assert linked.fingerprint == copied.fingerprint
    assert linked.classes == tuple(sorted(WNIDS))
    assert linked.train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert (linked.image_size, linked.channels, linked.mean, linked.std) == (224, 3, 0.449, 0.226)


def flatten(imagenet):
    for path in list((imagenet / "val").glob("*/*")):
        path.rename(imagenet / "val" / path.name)
    for path in list((imagenet / "val").iterdir()):
        if path.is_dir():
            path.rmdir()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda i: (i / "train" / WNIDS[1]).rename(i / "x"), f"train: 1 of 3 classes are missing: {WNIDS[1]}"),
        (lambda i: [(i / "val" / w).rename(i / w) for w in WNIDS[:2]], "val: 2 of 3 classes are missing"),
        (lambda i: (i / "val").rename(i / "test"), "val: cannot be listed (No such file or directory); --from takes"),
        (flatten, "val: images without class folders; ImageNet's labels file is needed"),
    ],
)
def test_another_layout_is_one_sentence_and_leaves_nothing(tmp_path, imagenet, chosen, damage, message):
    damage(imagenet)
    options = ["--from", imagenet, "--classes", chosen, "--data-root", tmp_path / "root"]
    status, output = run("data", "imagenet100", *options)
    assert status == 2
    assert message in output
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("n1", "at least two classes are needed"),
        ("n1\nn2\nn1", "each of them once"),
        ("n1\na/b", "'a/b' is no class; write one a line"),
    ],
)
def test_a_bad_list_of_classes_is_refused(tmp_path, imagenet, text, message):
    (tmp_path / "list").write_text(text)
    with pytest.raises(InputError, match=message):
        imagenet100.build(imagenet, tmp_path / "root", tmp_path / "list")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["svhn", "--from", "x"], "--from, --classes and --copy are for imagenet100, not for svhn"),
        (["--copy"], "not for the list"),
        (["imagenet100", "--copy"], "--classes and --copy need --from"),
        (["imagenet100"], "make it of a full ImageNet by: cplearn data imagenet100 --from"),
        (["imagenet100", "--from", "nowhere"], "train: cannot be listed"),
        (["imagenet100", "--from", ".", "--classes", "nowhere"], "--classes nowhere: cannot be read"),
    ],
)
def test_wrong_options_are_one_sentence(tmp_path, arguments, message):
    status, output = run("data", *arguments, "--data-root", tmp_path)
    assert status == 2
    assert message in output
    assert "Traceback" not in output


def test_what_is_there_is_never_replaced(root, imagenet, chosen):
    with pytest.raises(InputError, match="imagenet100 exists already; to make it anew, remove it first"):
        imagenet100.build(imagenet, root, chosen)


def trial(**changes):
    settings = {
        "dataset": "imagenet100",
        "image_size": 32,
        "epochs": 1,
        "batch_size": 4,
        "backbone": {"name": "resnet8-slim", "width": 4},
        "method": {"codes": 16, "embedding_dim": 8},
        "evaluation": {"kmeans_restarts": 1, "knn_neighbours": 3},
    }
    return TrialSettings.read(settings | changes)


def test_defaults_are_those_of_the_data_set():
    default = TrialSettings.read({"dataset": "imagenet100"})
    assert (default.image_size, default.decode, default.augment.recipe) == (224, "on-demand", "imagenet")
    assert TrialSettings.read({"dataset": "imagenet100", "image_size": 224, "decode": "on-demand"}).identity() == (
        default.identity()
    )
    with pytest.raises(InputError, match="decode 'on-demand': cifar10 can only be cached"):
        TrialSettings.read({"dataset": "cifar10", "decode": "on-demand"})


def result(settings, root):
    """Losses of every epoch and final metrics of a trial, without times."""
    losses = []
    outcome = training.train(
        settings, data.load("imagenet100", root, 32), log=lambda metrics, epoch: losses.append(metrics["train/loss"])
    )
    assert outcome.failure is None
    return losses, {k: v for k, v in outcome.metrics.items() if not k.startswith("time/")}


@pytest.mark.parametrize("settings", [{}, {"method": "swav", "augment": {"local_views": 2, "local_size": 16}}])
def test_training_and_evaluation_do_not_depend_on_the_number_of_threads(root, settings):
    found = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        trained = training.TrialTraining(trial(**settings), data.load("imagenet100", root, 32))
        epochs = [batch for epoch in (0, 1) for batch in trained.views.epoch(epoch)]
        found.append([tensor for views, labels in epochs for tensor in (*views, labels)])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert not torch.equal(found[0][0], found[0][len(found[0]) // 2])  # another epoch, other crops
    torch.set_num_threads(1)
    losses, metrics = result(trial(), root)
    assert len(losses) == 1
    assert {"probe/accuracy", "knn/accuracy", "codes/nmi"} <= metrics.keys()
    assert (losses, metrics) == result(trial(), root)


def test_crops_are_cut_from_the_full_resolution(tmp_path):
    """Stripes of one pixel: lost wherever an image is reduced first."""
    source = tmp_path / "imagenet"
    stripes = np.zeros((512, 512, 3), np.uint8)
    stripes[:, ::2] = 255
    for split in ("train", "val"):
        for name in WNIDS[:2]:
            for i in range(2):
                save(source / split / name / f"{i}.png", Image.fromarray(stripes))
    (tmp_path / "list").write_text("\n".join(WNIDS[:2]))
    imagenet100.build(source, tmp_path / "root", tmp_path / "list")
    spread = {}
    for decode in ("on-demand", "cached"):
        dataset = data.load("imagenet100", tmp_path / "root", 256, decode)
        trained = training.TrialTraining(
            trial(image_size=256, decode=decode, augment={"recipe": "solo-cifar"}), dataset
        )
        spread[decode] = next(trained.views.epoch(0))[0][0].std(dim=(1, 2, 3)).mean().item()
    assert spread["cached"] < 0.01
    assert spread["on-demand"] > 0.1


def test_the_command_line_trains_on_it(root):
    options = [
        "image_size=32",
        "batch_size=4",
        "backbone.name=resnet8-slim",
        "backbone.width=4",
        "method.codes=16",
        "method.embedding_dim=8",
    ]
    arguments = ["train", "--dataset", "imagenet100", "--epochs", "1", "--data-root", root]
    status, output = run(*arguments, *(part for option in options for part in ("--set", option)))
    assert status == 0, output
    assert "probe/accuracy" in output
