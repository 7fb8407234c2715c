"""From a sweep to jobs."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cplearn.config.trial import NUMERICS
from cplearn.data.catalogue import slug
from cplearn.errors import InputError
from runner.planning.plan import SCHEMA, Plan, make_plan
from sweeps.settings import trial_key
from sweeps.spec import read_sweep

TEXT = """
sweep: tiny
settings: {epochs: 1, method: {codes: 16}}
axes: {method.beta: [0.1, 1, 10]}
seeds: 2
baselines: {random backbone: {method: untrained}}
"""


def plan(tmp_path: Path, **overrides: object) -> Plan:
    path = tmp_path / "tiny.yaml"
    path.write_text(TEXT)
    return make_plan(read_sweep(path, SCHEMA, overrides))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Folders of images by their paths below the working directory, and which images they hold."""
    root = tmp_path_factory.mktemp("pictures")
    for seed, path in enumerate(("birds/images", "cats/images", "birds/images/inner")):
        generator = np.random.default_rng(seed)
        for split, name in itertools.product(("train", "test"), "ab"):
            (root / path / split / name).mkdir(parents=True)
            pixels = generator.integers(0, 256, (8, 8), np.uint8)
            Image.fromarray(pixels).save(root / path / split / name / "1.png")
    shutil.copytree(root / "birds" / "images", root / "copy" / "images")
    shutil.copytree(root / "birds" / "images", root / "swifts")
    (root / "link").symlink_to("cats/images")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        yield {
            "birds/images": "birds",
            "copy/images": "birds",
            "swifts": "birds",
            "cats/images": "cats",
            "link": "cats",
            "birds/images/inner": "inner",
        }


def test_each_pair_of_folders_is_told_apart_or_refused(pictures: dict[str, str], tmp_path: Path) -> None:
    for first, second in itertools.combinations(pictures, 2):
        names = [f"folder:{Path(path).absolute()}" for path in (first, second)]
        both = {"dataset": [f"folder:{first}", f"folder:./{second}/"], "batch_size": 2, "method.beta": 1}
        if pictures[first] == pictures[second]:
            with pytest.raises(InputError) as refusal:
                plan(tmp_path, **both)
            assert str(refusal.value).startswith(f"{names[0]} and {names[1]} hold the same images, so they are one")
        else:
            planned = plan(tmp_path, **both)
            assert [use.name for use in planned.datasets] == names
            assert [use.slug for use in planned.datasets] == [
                f"folder-{Path(path).name}-{use.fingerprint[:6]}"
                for path, use in zip((first, second), planned.datasets, strict=True)
            ]
            assert {job.dataset for job in planned.jobs} == {use.slug for use in planned.datasets}


def test_the_same_images_elsewhere_have_the_same_name_and_keys(pictures: dict[str, str], tmp_path: Path) -> None:
    here, there = (plan(tmp_path, dataset=f"folder:{name}", batch_size=2) for name in ("birds/images", "copy/images"))
    assert [(job.key, job.dataset) for job in here.jobs] == [(job.key, job.dataset) for job in there.jobs]


def test_a_part_of_a_folder_has_the_name_of_the_whole(pictures: dict[str, str], tmp_path: Path) -> None:
    whole, part = (
        plan(tmp_path, dataset="folder:swifts", batch_size=2, train_images=count).datasets[0] for count in (None, 2)
    )
    assert part.slug == whole.slug == f"folder-swifts-{whole.fingerprint[:6]}"


def test_a_key_has_the_name_of_another_folder_without_its_digits(pictures: dict[str, str], tmp_path: Path) -> None:
    """As in earlier versions, whose trials are reused."""
    for name in ("cats/images", "link"):
        job = plan(tmp_path, **{"evaluation.transfer": [f"folder:{name}"], "method.beta": 3}).jobs[-1]
        own = job.trial.identity() | {"evaluation.transfer": [["folder-images", job.transfer[0][1]]]}
        assert job.key == trial_key(own, job.fingerprint, NUMERICS)
    assert len(slug("folder:" + 300 * "ä", "1f3a9c").encode()) < 200, "short enough for a folder's name"
    with pytest.raises(InputError, match=r"transfer has .*/cats/images and folder:/.*/link, which have the same"):
        plan(tmp_path, **{"evaluation.transfer": ["folder:cats/images", "folder:link"]})


def test_jobs_carry_key_data_and_place(tmp_path: Path) -> None:
    planned = plan(tmp_path)
    assert [job.name for job in planned.jobs[:2]] == ["random backbone seed=0", "beta=0.1 seed=0"]
    assert len({job.key for job in planned.jobs}) == len(planned.jobs) == 8
    assert {job.dataset for job in planned.jobs} == {"digits"}
    assert planned.datasets[0].fingerprint == planned.jobs[0].fingerprint


def test_the_manifest_is_plain_json_and_complete(tmp_path: Path) -> None:
    planned = plan(tmp_path)
    manifest = json.loads(json.dumps(planned.manifest().to_dict()))
    assert manifest["axes"] == {"method.beta": [0.1, 1, 10]}
    assert [trial["key"] for trial in manifest["trials"]] == [job.key for job in planned.jobs]
    assert manifest["trials"][1]["point"] == {"method.beta": 0.1}


def test_an_enlarged_grid_is_the_same_sweep_with_the_same_keys(tmp_path: Path) -> None:
    small, large = plan(tmp_path), plan(tmp_path, **{"method.beta": [0.1, 1, 10, 20]})
    assert small.key == large.key
    assert {job.key for job in small.jobs} < {job.key for job in large.jobs}
    assert plan(tmp_path, epochs=2).key != small.key


def test_what_cannot_run_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="batch_size 5000 is larger than the 1437 training images"):
        plan(tmp_path, batch_size=5000)
    with pytest.raises(InputError):
        plan(tmp_path, dataset=f"folder:{tmp_path}/nothing")
