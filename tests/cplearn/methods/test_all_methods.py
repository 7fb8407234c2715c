"""What holds for every method alike, methods added later included."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import method_checks
from cplearn import methods
from cplearn.data import Dataset
from cplearn.errors import InputError
from method_checks import TRAINED, F, N
from runner.planning.plan import SCHEMA
from support import batch_of, build_method, normal
from sweeps.spec import read_sweep

every_method = pytest.mark.parametrize("name", TRAINED)


@every_method
def test_shapes_and_gradients(name: str) -> None:
    method_checks.check_shapes_and_gradients(name)


@every_method
def test_the_host_never_waits_for_an_accelerator(name: str) -> None:
    method_checks.check_no_value_is_needed_on_the_host(name)


@every_method
def test_only_a_supervised_method_looks_at_labels(name: str) -> None:
    method_checks.check_only_a_supervised_method_looks_at_labels(name)


@every_method
def test_an_epoch_trains_the_backbone(name: str, digits: Dataset) -> None:
    method_checks.check_trains(name, digits)


@pytest.mark.parametrize("name", [name for name in TRAINED if methods.get(name).Settings.multi_crop])
def test_local_crops_count_for_the_methods_that_accept_them(name: str) -> None:
    x = normal(4, N, F)
    two, four = (build_method(name, {}, F)(batch_of(views))[0] for views in (x[:2], x))
    assert not torch.allclose(two, four)


def test_an_unknown_name_is_refused_with_the_most_similar_one() -> None:
    with pytest.raises(InputError, match="did you mean 'vicreg'"):
        methods.get("vicregg")


def test_the_preset_compares_every_method(root: Path) -> None:
    sweep = read_sweep(root / "sweeps" / "presets" / "methods.yaml", SCHEMA)
    names = {trial.settings.method.name for trial in sweep.trials}
    assert sorted(names - {"untrained"}) == TRAINED
