"""The card of an exported model: front matter that a program reads, numbers and provenance that a reader finds."""

from __future__ import annotations

from typing import Any

import yaml

from reports.render.card import model_card
from sweeps.record import Tag

CONFIG: dict[str, Any] = {
    "library_name": "cplearn",
    "architecture": "resnet8-slim",
    "num_features": 128,
    "pretrained_cfg": {"input_size": [1, 8, 8], "mean": [0.3], "std": [0.376]},
}
SETTINGS = {"dataset": "folder:/data/my|birds", "method.name": "cplearn", "method.beta": 0.5, "epochs": 20}
RUN = {
    "run_id": "a" * 32,
    "key": "0123456789abcdef",
    "sweep": "be*ta",
    "probe/accuracy": 0.91234,
    "codes/ami": 0.7,
    "time/wall_s": 12.0,
    "train/loss": 3.0,
    Tag.COMMAND.column: "cplearn train --dataset 'folder:/data/my|birds'",
    Tag.GIT_COMMIT.column: "c0ffee",
}


def test_a_program_reads_the_front_matter() -> None:
    _, head, _ = model_card(CONFIG, RUN, SETTINGS, "out").split("---\n", 2)
    front = yaml.safe_load(head)
    assert front["library_name"] == "cplearn"
    (result,) = front["model-index"][0]["results"]
    assert result["metrics"] == [{"type": "accuracy", "name": "Linear acc.", "value": 0.9123}]
    assert result["dataset"]["name"] == "my|birds"
    assert "model-index" not in model_card(CONFIG, {}, SETTINGS, "out")


def test_a_reader_finds_numbers_and_where_they_come_from() -> None:
    card = model_card(CONFIG, RUN, SETTINGS, "out")
    assert "| probe/accuracy | 0.9123 |" in card
    assert "time/wall" not in card
    assert "train/loss" not in card
    assert f"| run | {'a' * 32} |" in card
    assert "| sweep | be\\*ta |" in card
    assert "| code | c0ffee |" in card
    assert "$ cplearn train --dataset 'folder:/data/my|birds'" in card
    assert 'export.read(Path("out"))' in card
    assert "trained without labels by cplearn on my\\|birds" in card
    supervised = model_card(CONFIG, RUN, SETTINGS | {"method.name": "supervised"}, "out")
    assert "trained with the labels of my\\|birds" in supervised
    assert "self-supervised-learning" not in supervised
    assert "which holds none" in model_card(CONFIG, {}, SETTINGS, "out")
