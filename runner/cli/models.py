"""`cplearn train`, `evaluate` and `import-solo`: one model in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from runner.cli.console import FAILED, err, out, overridden, plain_errors, print_metrics, usable_device
from runner.cli.options import DataRoot, DatasetName, Device, Epochs, OneSetting, Threads


def train(
    dataset: DatasetName = None,
    epochs: Epochs = None,
    settings: OneSetting = [],  # noqa: B006
    device: Device = "",
    cpus: Threads = 1,
    save: Annotated[Path | None, typer.Option("--save", metavar="DIR", help="Write the model there.")] = None,
    data_root: DataRoot = None,
) -> None:
    """Train one trial in this process, without Ray and without tracking; print its metrics."""
    with plain_errors():
        import cplearn.data
        from cplearn import training
        from cplearn.config import trial as config
        from runner.durability.store_paths import check_folder
        from sweeps.settings import nested

        trial = config.TrialSettings.read(nested(overridden(dataset, epochs, settings)))
        device = usable_device(device, cpus)
        if save:
            check_folder("--save", save)
        data = cplearn.data.load(**trial.data_request(), root=data_root)

        def log(metrics: dict[str, float], epoch: int) -> None:
            terms = "  ".join(f"{name.removeprefix('train/')} {value:.4g}" for name, value in metrics.items())
            out.print(f"epoch {epoch}/{trial.epochs}  {terms}", highlight=False, soft_wrap=True)

        outcome = training.train(trial, data, device=device, log=log, save_to=save, data_root=data_root)
        print_metrics(outcome.metrics)
        if outcome.failure:
            err.print(f"[red]failed:[/] {escape(outcome.failure)}", highlight=False)
            raise typer.Exit(FAILED)
        if save:
            out.print(f"Written to [bold]{escape(str(save))}[/]", highlight=False, soft_wrap=True)


def import_solo(
    checkpoint: Annotated[Path, typer.Argument(help="A Lightning checkpoint of the authors' code.")],
    dataset: DatasetName = None,
    stem_padding: Annotated[int, typer.Option(min=1, max=2, help="Padding of the stem, which no weight tells.")] = 2,
    device: Device = "",
    cpus: Threads = 1,
    save: Annotated[Path | None, typer.Option("--save", metavar="DIR", help="Write the model there.")] = None,
    data_root: DataRoot = None,
) -> None:
    """Read a CPLearn model (ResNet-18) that the authors' code has trained, evaluate it and print its metrics."""
    with plain_errors():
        import cplearn.data
        from cplearn import solo
        from cplearn.errors import InputError

        found = solo.read(checkpoint, stem_padding)
        name = dataset or found.dataset
        if name is None:
            raise InputError(f"{checkpoint}: no args.json beside it names the data set; give it with --dataset")
        trained = solo.restore(found, cplearn.data.load(name, data_root), usable_device(device, cpus))
        outcome = trained.evaluate()
        print_metrics(outcome.metrics)
        if outcome.failure:
            err.print(f"[red]failed:[/] {escape(outcome.failure)}", highlight=False)
            raise typer.Exit(FAILED)
        if save:
            trained.model.save(save)
            out.print(f"Written to [bold]{escape(str(save))}[/]", highlight=False, soft_wrap=True)


def evaluate(
    run: Annotated[str, typer.Argument(help="A run id of the tracking store, or a folder that holds a model.")],
    dataset: DatasetName = None,
    settings: OneSetting = [],  # noqa: B006
    device: Device = "",
    cpus: Threads = 1,
    data_root: DataRoot = None,
) -> None:
    """Evaluate a trained model on its own data set or on another; print the metrics."""
    with plain_errors():
        import cplearn
        import cplearn.data
        from cplearn import training
        from cplearn.errors import InputError
        from cplearn.evaluate import protocol
        from sweeps.settings import nested

        model = cplearn.load(run)
        overrides = overridden(None, None, settings)
        if other := next((key for key in overrides if not key.startswith("evaluation.")), None):
            raise InputError(f"--set {other}: the model is trained; only evaluation.... can be set", key=other)
        model = model.with_evaluation(nested(overrides).get("evaluation", {}))
        trial = model.trial
        size = model.images["image_size"] if (dataset or trial.dataset).startswith("folder:") else None
        data = cplearn.data.load(dataset or trial.dataset, data_root, size)
        training.check_evaluation(trial, data)
        transfer = protocol.load_transfer(trial, model.images["image_size"], data_root)
        outcome = protocol.run(model.to(usable_device(device, cpus)), data, transfer)
        if outcome.failure:
            err.print(f"[red]failed:[/] {escape(outcome.failure)}", highlight=False)
            raise typer.Exit(FAILED)
        print_metrics(outcome.metrics)
