"""A plan of six small trials of one kind, with their data."""

from __future__ import annotations

import pytest

from runner.planning.plan import SCHEMA, Plan, make_plan
from sweeps.spec import read_sweep


@pytest.fixture(scope="session")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    path = tmp_path_factory.mktemp("small-plan") / "tiny.yaml"
    path.write_text(
        "sweep: tiny\nsettings: {epochs: 9, backbone: {name: resnet8-slim, width: 4}, "
        "method: {codes: 32, embedding_dim: 16}, evaluation: {kmeans_restarts: 1}}\n"
        "axes: {method.beta: [0.1, 1, 10]}\nseeds: 2\n"
    )
    return make_plan(read_sweep(path, SCHEMA))
