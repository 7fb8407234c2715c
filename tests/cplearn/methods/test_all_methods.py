"""What holds for every method alike, methods added later included."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cplearn import methods
from cplearn.methods.base import Progress
from runner.planning.plan import SCHEMA
from support import batch_of, build_method, normal
from sweeps.spec import read_sweep

TRAINED = [name for name in methods.names() if methods.get(name).Settings.trains]
K, N, F, CLASSES = 3, 12, 6, 4


def labels(seed: int = 0) -> torch.Tensor:
    return torch.randint(0, CLASSES, (K, N), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", TRAINED)
def test_shapes_and_gradients(name: str) -> None:
    method = build_method(name, [{}] * K, F, CLASSES)
    # Not the 8 images of the settings: several devices may have gathered theirs.
    loss, terms = method(batch_of(normal(K, 2, N, F).requires_grad_(), labels()))
    assert {value.shape for value in (loss, *terms.values())} == {(K,)}
    loss.sum().backward()
    assert all((p.grad is not None) == p.requires_grad for p in method.parameters())
    method.eval()
    embeddings = method.embed(normal(K, N, F))
    assert embeddings.shape[:2] == (K, N)
    found = method.codes(embeddings)
    assert found.shape == (K, N)
    assert 0 <= found.min() <= found.max() < method.n_codes


@pytest.mark.parametrize("name", TRAINED)
def test_every_parameter_and_buffer_has_its_members_in_the_first_axis(name: str) -> None:
    three, one = (build_method(name, [{}] * members, F, CLASSES).state_dict() for members in (K, 1))
    assert three.keys() == one.keys()
    for key, tensor in one.items():
        assert torch.equal(three[key].unflatten(0, (K, -1))[0], tensor.unflatten(0, (1, -1))[0]), key


@pytest.mark.parametrize("name", TRAINED)
def test_a_member_without_numbers_changes_no_bit_of_the_others(name: str) -> None:
    results = []
    for poison in (False, True):
        method, x = build_method(name, [{}] * K, F, CLASSES), normal(K, 2, N, F)
        if poison:
            x[1] = float("nan")
        batch = batch_of(x, labels(), Progress(0, 4, 3))
        loss, _ = method(batch)
        assert loss.isnan().tolist() == [False, poison, False]
        loss.sum().backward()
        method.before_update(batch.progress)
        torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.1).step()
        method.after_update(batch.progress)
        state = [tensor.detach().unflatten(0, (K, -1)) for tensor in method.state_dict().values()]
        results.append([loss[[0, 2]], *(tensor[[0, 2]] for tensor in state)])
    assert all(torch.equal(clean, beside) for clean, beside in zip(*results, strict=True))


@pytest.mark.parametrize("name", TRAINED)
def test_the_host_never_waits_for_an_accelerator(name: str) -> None:
    """On the meta device nothing has a value, so any step that needs one on the host fails."""
    method = build_method(name, [{}] * K, F, CLASSES).to("meta")
    batch = batch_of(normal(K, 2, N, F).to("meta"), labels().to("meta"), Progress(1, 4, 3))
    method(batch)[0].sum().backward()
    method.before_update(batch.progress)
    method.after_update(batch.progress)


@pytest.mark.parametrize("name", TRAINED)
def test_only_a_supervised_method_looks_at_labels(name: str) -> None:
    losses = [
        build_method(name, [{}] * K, F, CLASSES)(batch_of(normal(K, 2, N, F), labels(seed)))[0] for seed in (0, 1)
    ]
    assert torch.equal(*losses) != methods.get(name).Settings.supervised


@pytest.mark.parametrize("name", [name for name in TRAINED if methods.get(name).Settings.multi_crop])
def test_local_crops_count_for_the_methods_that_accept_them(name: str) -> None:
    x = normal(K, 4, N, F)
    two, four = (build_method(name, [{}] * K, F, CLASSES)(batch_of(views))[0] for views in (x[:, :2], x))
    assert not torch.allclose(two, four)


def test_the_preset_compares_every_method(root: Path) -> None:
    sweep = read_sweep(root / "sweeps" / "presets" / "methods.yaml", SCHEMA)
    names = {trial.settings.method.name for trial in sweep.trials}
    assert sorted(names - {"untrained"}) == TRAINED
