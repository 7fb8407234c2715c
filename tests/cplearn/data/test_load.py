"""What holds for every data set, whatever its source."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cplearn import data
from cplearn.errors import InputError


def test_importing_the_package_is_light():
    code = "import sys, cplearn.data; print(sorted({'torch', 'torchvision', 'sklearn', 'PIL'} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert out.strip() == "[]"


def test_data_root_is_argument_then_environment_then_default(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CPLEARN_DATA", raising=False)
    assert data.data_root() == tmp_path / "data"
    monkeypatch.setenv("CPLEARN_DATA", "elsewhere")
    assert data.data_root() == tmp_path / "elsewhere"
    assert data.data_root(Path("given")) == tmp_path / "given"
    assert data.data_root(Path("~/x")) == Path.home() / "x"


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(InputError, match="unknown dataset 'cifar1O'; did you mean 'cifar10'"):
        data.load("cifar1O")


def test_normalise_undoes_mean_and_deviation():
    digits = data.load("digits")
    images = digits.normalise(digits.train.images.double() / 255)
    assert abs(images.mean()) < 1e-12
    assert abs(images.std(correction=0) - 1) < 1e-12
    assert torch.equal(digits.normalise(torch.full((2,), digits.mean)), torch.zeros(2))
