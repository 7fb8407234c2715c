"""An exported backbone gives the features of the model that it was taken from, here and in timm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from cplearn import export
from cplearn.errors import InputError
from cplearn.model import Model
from trials import trial


def model(**changes: Any) -> Model:
    """A model of grey images of 16 pixels whose weights and statistics are not those of its start."""
    images = {"channels": 1, "image_size": 16, "mean": 0.4, "std": 0.2, "classes": ["a", "b"]}
    made = Model(trial(**changes), images)
    made.backbone(made.prepare(torch.rand(8, 1, 16, 16, generator=torch.Generator().manual_seed(0))))
    return made.eval()


IMAGES = torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"backbone": {"name": "resnet18", "width": 4}, "precision": "float64"},
        {"backbone": {"name": "timm", "model": "test_vit", "width": None}},
    ],
)
def test_what_was_written_is_read(changes: dict[str, Any], tmp_path: Path) -> None:
    made = model(**changes)
    export.write(made, tmp_path)
    backbone, prepared = export.read(tmp_path), made.prepare(IMAGES)
    with torch.inference_mode():
        torch.testing.assert_close(backbone(prepared), made.backbone(prepared))
    assert json.loads((tmp_path / "config.json").read_text())["num_features"] == made.backbone.features


def test_timm_makes_its_models_from_the_files(tmp_path: Path) -> None:
    import timm

    made = model(backbone={"name": "timm", "model": "test_vit", "width": None})
    export.write(made, tmp_path)
    backbone = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    prepared = made.prepare(IMAGES)
    with torch.inference_mode():
        assert torch.equal(backbone(prepared), made.backbone(prepared))
    assert backbone.pretrained_cfg["mean"] == [0.4]


def test_a_teacher_is_exported_where_it_is_evaluated(tmp_path: Path) -> None:
    made = model(method={"name": "dino"})
    assert made.teacher is not None
    with torch.no_grad():
        for weight in made.teacher.parameters():
            weight.add_(1)
    export.write(made, tmp_path)
    weights = load_file(tmp_path / export.WEIGHTS_FILE)
    assert all(torch.equal(value, weights[name]) for name, value in made.teacher.state_dict().items())


def test_what_cannot_be_exported_or_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="backbone pixels has no weights"):
        export.write(model(backbone={"name": "pixels", "width": None}, method={"name": "untrained"}), tmp_path)
    with pytest.raises(InputError, match="no exported backbone"):
        export.read(tmp_path)
