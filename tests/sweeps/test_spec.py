"""Sweep files: reading, refusing, expanding."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest

from runner.planning.plan import SCHEMA
from sweeps.errors import UserError
from sweeps.loading import find, parse_override
from sweeps.spec import Sweep, read_sweep


def read(tmp_path: Path, text: str, overrides: dict[str, Any] | None = None, seeds: int | None = None) -> Sweep:
    path = tmp_path / "sweep.yaml"
    path.write_text(text)
    return read_sweep(path, SCHEMA, overrides, seeds)


BASE = "sweep: s\nsettings: {method: {codes: 16}}\n"


def test_the_shipped_sweeps_are_valid(root: Path) -> None:
    files = sorted((root / "sweeps").glob("*.yaml"))
    assert {file.stem for file in files} >= {"beta", "projector", "datasets"}
    for file in files:
        assert read_sweep(file, SCHEMA).name == file.stem


def presets(root: Path) -> list[Path]:
    return sorted((root / "sweeps" / "presets").glob("*.yaml"))


def test_presets_open_with_their_command_cost_and_expected_result(root: Path) -> None:
    assert {file.stem for file in presets(root)} >= {"collapse", "methods", "resnet18", "table1", "table2"}
    for file in presets(root):
        head = file.read_text().partition("\nsweep:")[0]
        assert f"make {file.stem}" in head
        assert "Cost:" in head or "hours each" in head
        assert "Published" in head or "Expected" in head
        assert "Our choice" in head
        assert f"\n{file.stem}:" in (root / "Makefile").read_text()


def test_presets_keep_their_structure_at_every_scale(root: Path) -> None:
    for file in presets(root):
        full = read_sweep(file, SCHEMA, seeds=1)
        datasets = len({trial.settings.dataset for trial in full.trials})
        for scale in ("small", "smoke"):
            smaller = read_sweep(file, SCHEMA, seeds=1, scale=scale)
            assert {trial.settings.dataset for trial in smaller.trials} == {"digits"}
            assert len(smaller.trials) * datasets == len(full.trials), (file, scale)
            assert {key: len(values) for key, values in smaller.axes.items()} == {
                key: len(values) for key, values in full.axes.items()
            }
            epochs = max(trial.settings.epochs for trial in smaller.trials)
            assert epochs in {"small": (10, 20), "smoke": (1,)}[scale]


def test_a_group_of_another_name_replaces_the_group(tmp_path: Path) -> None:
    text = "sweep: s\nsettings: {method: {name: cplearn, codes: 16}}\narms: {A: {settings: {method: {name: simclr}}}}\n"
    (trial,) = read(tmp_path, text).trials
    assert trial.settings.method.name == "simclr"
    assert not hasattr(trial.settings.method, "codes")


def test_the_beta_sweep_is_the_grid_of_the_paper(root: Path) -> None:
    sweep = read_sweep(root / "sweeps" / "beta.yaml", SCHEMA)
    assert sweep.axes == {"method.beta": [0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10]}
    assert [trial.role for trial in sweep.trials].count("trial") == 9


def test_grid_is_ordered_seed_by_seed(tmp_path: Path) -> None:
    sweep = read(tmp_path, BASE + "axes: {method.beta: [1, 2], batch_size: [32, 64]}\nseeds: 2\n")
    seen = [(t.seed, t.point["method.beta"], t.point["batch_size"]) for t in sweep.trials]
    assert seen == [(s, b, n) for s in (0, 1) for b in (1, 2) for n in (32, 64)]
    assert all(t.settings.method.codes == 16 for t in sweep.trials)


def test_numbers_may_be_written_as_in_papers(tmp_path: Path) -> None:
    sweep = read(tmp_path, "sweep: s\nsettings: {optimizer.lr: 1e-3, epochs: 1e1}\n")
    assert sweep.trials[0].settings.optimizer.lr == 1e-3
    assert sweep.trials[0].settings.epochs == 10


def test_equal_points_are_one_trial(tmp_path: Path) -> None:
    assert len(read(tmp_path, BASE + "axes: {method.beta: [1, 1.0, 2]}\n").trials) == 2


def test_random_axes_draw_reproducibly_within_their_bounds(tmp_path: Path) -> None:
    text = BASE + (
        "axes:\n  optimizer.lr: {log_uniform: [1e-4, 1e-1]}\n  augment.strength: {uniform: [0, 1]}\n"
        "  batch_size: {integers: [8, 16]}\n  method.form: {choice: [l2, tanh]}\nsamples: 50\n"
    )
    first, second = read(tmp_path, text), read(tmp_path, text)
    assert [t.point for t in first.trials] == [t.point for t in second.trials]
    assert len(first.trials) == 50
    rates = [t.point["optimizer.lr"] for t in first.trials]
    assert all(1e-4 <= r <= 1e-1 for r in rates)
    # Log-uniform: about a third of the draws in each decade, where uniform would leave the lowest almost empty.
    assert 5 <= sum(r < 1e-3 for r in rates) <= 30
    assert {t.point["method.form"] for t in first.trials} == {"l2", "tanh"}
    assert read(tmp_path, text + "sample_seed: 1\n").trials[0].point != first.trials[0].point


def test_a_grid_axis_and_a_range_cross(tmp_path: Path) -> None:
    sweep = read(tmp_path, BASE + "axes: {method.beta: [1, 2], optimizer.lr: {uniform: [0.1, 0.2]}}\nsamples: 3\n")
    assert len(sweep.trials) == 6
    assert len({t.point["optimizer.lr"] for t in sweep.trials}) == 3


def test_baselines_replace_settings_and_run_once_a_seed_and_data_set(tmp_path: Path) -> None:
    text = BASE + "axes: {method.beta: [1, 2], dataset: [svhn, digits]}\nbaselines: {random: {method: untrained}}\n"
    sweep = read(tmp_path, text, seeds=2)
    baselines = [t for t in sweep.trials if t.role == "baseline"]
    assert [(t.settings.dataset, t.seed) for t in baselines] == [
        ("svhn", 0),
        ("digits", 0),
        ("svhn", 1),
        ("digits", 1),
    ]
    assert {t.settings.method.name for t in baselines} == {"untrained"}
    assert "dataset" not in sweep.axes


def test_overrides_fix_an_axis_make_one_or_change_a_setting(tmp_path: Path) -> None:
    text = BASE + "axes: {method.beta: [1, 2]}\n"
    assert read(tmp_path, text, {"method.beta": 3}).trials[0].settings.method.beta == 3
    assert read(tmp_path, text, {"method.codes": [8, 9]}).axes == {"method.beta": [1, 2], "method.codes": [8, 9]}
    assert read(tmp_path, text, {"epochs": 3}).trials[1].settings.epochs == 3
    assert parse_override("method.beta=[1, 2e-1]") == ("method.beta", [1, 0.2])


def test_a_setting_that_is_a_list_is_a_value_and_no_axis(tmp_path: Path) -> None:
    sweep = read(tmp_path, BASE, {"evaluation.probe": ["lbfgs", "sgd"], "evaluation.gmm_components": [10, 20]})
    assert sweep.axes == {}
    (trial,) = sweep.trials
    assert trial.settings.evaluation.probe == ["lbfgs", "sgd"]
    assert trial.settings.evaluation.gmm_components == [10, 20]
    with pytest.raises(UserError, match=r"'evaluation.probe' is a list itself, so it cannot be an axis"):
        read(tmp_path, BASE + "axes: {evaluation.probe: [lbfgs, sgd]}\n")


ARMS = (
    "sweep: s\nsettings: {dataset: digits, epochs: 9}\naxes: {batch_size: [16, 32]}\nseeds: 2\narms:\n"
    "  Plain: {settings: {method: {name: cplearn, codes: 8, beta: 5}}}\n"
    "  Ours: {settings: {method: {name: cplearn, codes: 16}}, axes: {method.beta: [1, 2]}}\n"
)


def test_arms_cross_the_shared_axes_with_their_own(tmp_path: Path) -> None:
    sweep = read(tmp_path, ARMS)
    assert sweep.axes == {"arm": ["Plain", "Ours"], "batch_size": [16, 32], "method.beta": [1, 2]}
    first = [trial for trial in sweep.trials if trial.seed == 0]
    assert [trial.label for trial in first] == [
        "Plain batch_size=16",
        "Plain batch_size=32",
        "Ours batch_size=16 beta=1",
        "Ours batch_size=16 beta=2",
        "Ours batch_size=32 beta=1",
        "Ours batch_size=32 beta=2",
    ]
    assert first[0].point == {"arm": "Plain", "batch_size": 16}
    assert first[2].point == {"arm": "Ours", "batch_size": 16, "method.beta": 1}
    assert [trial.settings.method.codes for trial in first] == [8, 8, 16, 16, 16, 16]
    assert [trial.seed for trial in sweep.trials] == [0] * 6 + [1] * 6


def test_an_override_goes_to_the_arms_that_have_it_or_to_all(tmp_path: Path) -> None:
    fixed = read(tmp_path, ARMS.replace(", beta: 5", ""), {"method.beta": 3, "epochs": 4})
    assert fixed.axes["arm"] == ["Plain", "Ours"]
    assert "method.beta" not in fixed.axes
    assert {(trial.point["arm"], trial.settings.method.beta) for trial in fixed.trials} == {
        ("Plain", 1),
        ("Ours", 3),
    }
    assert {trial.settings.epochs for trial in fixed.trials} == {4}
    assert {trial.settings.dataset for trial in read(tmp_path, ARMS, {"dataset": "svhn"}).trials} == {"svhn"}


SCALED = ARMS + (
    "scales:\n  smoke:\n    settings: {epochs: 1}\n    axes: {batch_size: [8, 12]}\n    seeds: 1\n"
    "    arms: {Ours: {settings: {method.codes: 4}}}\n"
)


def test_a_scale_changes_values_not_structure(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(SCALED)
    full, smoke = read_sweep(path, SCHEMA), read_sweep(path, SCHEMA, scale="smoke")
    assert (full.name, smoke.name) == ("s", "s-smoke")
    assert smoke.axes == {"arm": ["Plain", "Ours"], "batch_size": [8, 12], "method.beta": [1, 2]}
    assert {trial.settings.method.codes for trial in smoke.trials} == {8, 4}
    assert {trial.settings.epochs for trial in smoke.trials} == {1}
    assert len(smoke.trials) == len(full.trials) / 2
    assert len(read_sweep(path, SCHEMA, seeds=3, scale="smoke").trials) == 18
    assert read_sweep(path, SCHEMA, {"epochs": 2}, scale="smoke").trials[1].settings.epochs == 2


@pytest.mark.parametrize(
    ("scale", "text", "message"),
    [
        ("small", SCALED, "no scale 'small', only: full, smoke"),
        ("smoke", SCALED.replace("[8, 12]", "[8]"), "must keep the number of values of 'batch_size', which is 2"),
        ("smoke", SCALED.replace("arms: {Ours", "arms: {Theirs"), "there is no arm 'Theirs'"),
        ("full", SCALED.replace("smoke", "tiny"), "scales.tiny"),
        ("full", ARMS.replace("method.beta: [1, 2]", "dataset: [digits]"), "of all arms or of none"),
        ("full", ARMS.replace("batch_size: [16, 32]", "dataset: {choice: [digits]}"), "must be a list of names"),
        ("full", ARMS.replace("method.beta: [1, 2]", "method.bta: [1]"), "did you mean 'method.beta'"),
    ],
)
def test_a_bad_arm_or_scale_is_one_sentence(tmp_path: Path, scale: str, text: str, message: str) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_sweep(path, SCHEMA, scale=scale)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "group of keys"),
        ("- a\n", "group of keys"),
        ("sweep: [\n", "not valid YAML in line"),
        ("sweep: s\nsweep: t\n", "'sweep' is written twice"),
        ("a: &a [1]\nsweep: *a\n", "aliases"),
        ("sweep: !!python/object/apply:os.system ['true']\n", "the tag !!python"),
        ("settings: {}\n", "sweep: field required"),
        ("sweep: ../up\n", "sweep: string should match pattern"),
        ("sweep: Tables\n", "another name than the folder of the paper's tables"),
        (f"sweep: {'s' * 101}\n", "a name is 1 to 100 characters"),
        (f"sweep: s\narms: {{{'ä' * 101}: {{}}}}\n", "a name is 1 to 100 characters"),
        (f"sweep: s\nbaselines: {{{'b' * 300}: {{}}}}\n", "a name is 1 to 100 characters"),
        ('sweep: s\narms: {"\\e[31mred": {}}\n', r"without control characters and line breaks, not '\\x1b\[31mred'"),
        ('sweep: s\nbaselines: {"a\\nb": {}}\n', "without control characters and line breaks"),
        ('sweep: s\nbaselines: {" ": {}}\n', "a name is 1 to 100 characters"),
        ("sweep: s\nbaselines: {s: {}}\n", "baseline 's' has the name of the sweep; rename it"),
        ("sweep: s\narms: {a: {}}\nbaselines: {a: {}}\n", "baseline 'a' has the name of an arm; rename it"),
        ("sweep: s\naxis: {}\n", "unknown key 'axis'; did you mean 'axes'"),
        ("sweep: s\nsettings: {method: {bta: 1}}\n", "unknown key 'method.bta'; did you mean 'method.beta'"),
        ("sweep: s\naxes: {beta: [1]}\n", "unknown key 'beta'; did you mean 'method.beta'"),
        ("sweep: s\naxes: {method.beta: []}\n", "axis 'method.beta' must be a list"),
        ("sweep: s\naxes: {method.beta: 3}\n", "axis 'method.beta' must be a list"),
        ("sweep: s\naxes: {method.beta: [[1]]}\n", "plain values"),
        ("sweep: s\naxes: {seed: [1]}\n", "under 'seeds'"),
        ("sweep: s\naxes: {method.beta: {log_uniform: [0, 1]}}\n", "positive bounds"),
        ("sweep: s\naxes: {method.beta: {uniform: [2, 1]}}\n", "lower first"),
        ("sweep: s\naxes: {method.beta: {uniform: [1, 2], choice: [1]}}\n", "exactly one"),
        ("sweep: s\naxes: {method.beta: {unifrom: [1, 2]}}\n", "unknown key 'unifrom'; did you mean 'uniform'"),
        ("sweep: s\naxes: {method.beta: [1, -2]}\n", r"method.beta: must be greater than 0, not -2.* \(at beta=-2\)"),
        ("sweep: s\nseeds: 0\n", "seeds: must be a valid list, not 0"),
        ("sweep: s\nseeds: [-1]\n", "greater than or equal to 0"),
        ("sweep: s\nsettings: {dataset: imagenet}\n", "unknown dataset 'imagenet'"),
        ("sweep: s\nseeds: 2000000\n", "at most 1,000,000"),
    ],
)
def test_a_bad_file_is_one_sentence_with_its_name(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read(tmp_path, text)
    assert str(caught.value).startswith(str(tmp_path / "sweep.yaml"))
    assert "\n" not in str(caught.value)


def test_a_missing_or_binary_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such sweep file"):
        read_sweep(tmp_path / "none.yaml", SCHEMA)
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"cannot be read|not valid YAML"):
        read_sweep(tmp_path / "b.yaml", SCHEMA)


def test_an_error_names_the_command_line_where_the_key_came_from_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^command line: method.beta: must be greater"):
        read(tmp_path, BASE, {"method.beta": -1})
    with pytest.raises(UserError, match="write it as key=value"):
        parse_override("epochs")


SEARCH = BASE + "axes: {method.beta: {log_uniform: [0.1, 1]}, optimizer.lr: [1e-3, 1e-2]}\n"


def test_a_search_has_a_space_instead_of_trials(tmp_path: Path) -> None:
    sweep = read(tmp_path, SEARCH + "search: optuna\nbaselines: {b: {method: untrained}}\n")
    assert sweep.search is not None
    assert sweep.search.objectives == {"validation/accuracy": "maximize"}
    assert [trial.role for trial in sweep.trials] == ["baseline"]
    assert sweep.space is not None
    assert sweep.space.points() == math.inf
    assert [trial.point for trial in sweep.space.probes(None, 0)] == [
        {"method.beta": 0.1, "optimizer.lr": 1e-3},
        {"method.beta": 1.0, "optimizer.lr": 1e-3},
        {"method.beta": 0.1, "optimizer.lr": 1e-3},
        {"method.beta": 0.1, "optimizer.lr": 1e-2},
    ]
    trial = sweep.space.trial({"method.beta": 0.5, "optimizer.lr": 1e-3}, "svhn", 4)
    assert (trial.label, trial.seed, trial.settings.dataset) == ("beta=0.5 lr=0.001", 4, "svhn")
    first, again = (sweep.space.draw(random.Random(3)) for _ in range(2))
    assert first == again
    assert 0.1 <= first["method.beta"] <= 1  # type: ignore[operator]


def test_a_value_that_goes_with_some_of_the_others_is_part_of_the_space(tmp_path: Path) -> None:
    axes = "axes: {epochs: {integers: [1, 9]}, optimizer.warmup_epochs: {integers: [0, %d]}}\nsearch: optuna\n"
    assert read(tmp_path, BASE + axes % 8).space
    with pytest.raises(UserError, match="warmup_epochs 10 is longer than epochs 9"):
        read(tmp_path, BASE + axes % 10)


def test_a_scheduler_is_named_or_written_out(tmp_path: Path) -> None:
    axes = BASE + "axes: {method.beta: [0.1, 1]}\n"
    for text in ("asha", "collapse"):
        scheduler = read(tmp_path, axes + f"scheduler: {text}\n").scheduler
        assert scheduler is not None
        assert scheduler == read(tmp_path, axes + f"scheduler: {{name: {text}}}\n").scheduler
        assert str(scheduler).startswith(f"{text} (")
    scheduler = read(
        tmp_path, axes + "scheduler: {name: collapse, kinds: [cluster, intra-cluster], patience: 2}"
    ).scheduler
    assert str(scheduler) == "collapse (cluster, intra-cluster, patience 2, grace 3)"
    assert read(tmp_path, axes + "scheduler: null\n").scheduler is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (SEARCH + "search: hyperopt\n", "search.name: must be 'optuna'"),
        (SEARCH + "search: {name: optuna, trails: 5}\n", "unknown key 'search.trails'; did you mean 'search.trials'"),
        (SEARCH + "search: {name: optuna, trials: 0}\n", "greater than or equal to 1"),
        (SEARCH + "search: {name: optuna, objectives: {a: max}}\n", "must be 'maximize' or 'minimize', not 'max'"),
        (SEARCH + "search: {name: optuna, objectives: {}}\n", "at least 1 item"),
        (SEARCH + "search: optuna\nsamples: 3\n", "write search.trials"),
        (SEARCH + "search: optuna\narms: {A: {}}\n", "cannot have arms"),
        (SEARCH + "scheduler: {name: asha, reduction: 1}\n", "greater than or equal to 2"),
        (SEARCH + "scheduler: {name: asha, grce: 1}\n", "did you mean 'scheduler.grace'"),
        (SEARCH + "scheduler: {name: asha, patience: 1}\n", "did you mean 'scheduler.grace'"),
        (SEARCH + "scheduler: hyperband\n", "scheduler: its name must be 'asha' or 'collapse', not 'hyperband'"),
        (SEARCH + "scheduler: {grace: 1}\n", "scheduler: its name must be 'asha' or 'collapse'$"),
        (SEARCH + "scheduler: [asha]\n", "scheduler: its name must be 'asha' or 'collapse'$"),
        (
            SEARCH + "scheduler: {name: collapse, patience: 0}\n",
            "scheduler.patience: must be greater than or equal to 1",
        ),
        (
            SEARCH + "scheduler: {name: collapse, kinds: [total]}\n",
            "must be 'representation', 'cluster', 'dimensional'",
        ),
        (SEARCH + "scheduler: {name: collapse, kinds: []}\n", "scheduler.kinds: list should have at least 1 item"),
        (BASE + "search: optuna\n", "a search needs axes"),
        (BASE + "axes: {method.beta: [1, 2]}\nsearch: optuna\n", "as many as the 2 points of its axes"),
        (BASE + "axes: {train_images: {integers: [9, 99]}}\nsearch: optuna\n", "cannot be searched"),
        (BASE + "axes: {method.beta: {uniform: [-1, 1]}}\nsearch: optuna\n", "method.beta"),
    ],
)
def test_what_is_no_search_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(tmp_path, text)


def test_a_sweep_is_found_by_its_name_or_its_path(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find("table1") == root / "sweeps" / "presets" / "table1.yaml"
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "beta.yaml").touch()
    (tmp_path / "sweeps" / "mine.yaml").touch()
    assert [find(name).as_posix() for name in ("mine", "beta")] == ["sweeps/mine.yaml", "sweeps/beta.yaml"]
    (tmp_path / "beta").touch()
    assert find("beta") == Path("beta")
    with pytest.raises(UserError, match=r"no sweep 'tabel1' \(did you mean 'table1'\?\); a sweep of your own"):
        find("tabel1")
