"""What holds for every data set, whatever its source."""

import subprocess
import sys
from pathlib import Path

import pytest

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


def test_mean_and_deviation_are_those_of_the_training_pixels():
    digits = data.load("digits")
    pixels = digits.train.images.double() / 255
    assert digits.mean == pytest.approx(pixels.mean().item(), abs=1e-12)
    assert digits.std == pytest.approx(pixels.std(correction=0).item(), abs=1e-12)
