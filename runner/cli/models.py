"""`cplearn train`, `evaluate`, `export` and `import-solo`: one model in this process."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Exit, Option

from cplearn.errors import InputError
from runner.cli import console
from runner.driver.options import DataRoot, DatasetName, Epochs, with_short
from sweeps.loading import parse_override
from sweeps.settings import nested

if TYPE_CHECKING:
    from cplearn.evaluate.protocol import Outcome

OneSetting = Annotated[
    list[str], Option("--set", metavar="KEY=VALUE", help="A setting, method.beta=0.1 say. Can be repeated.")
]
Device = Annotated[str, Option("--device", metavar="NAME", help="cpu, cuda or cuda:1; default: cuda if there is one.")]
Threads = Annotated[int, Option("--cpus", min=1, help="CPUs, and so threads; by default 1, as for a trial of a sweep.")]
Save = Annotated[Path | None, Option("--save", metavar="DIR", help="Write the model there.")]


def train(
    dataset: DatasetName = None,
    epochs: Epochs = None,
    settings: OneSetting = [],  # noqa: B006
    device: Device = "",
    cpus: Threads = 1,
    save: Save = None,
    data_root: DataRoot = None,
) -> None:
    """Train one trial in this process, without Ray and without tracking; print its metrics."""
    import cplearn.data
    from cplearn import training
    from cplearn.config import trial as config
    from runner.machine.folders import check_folder

    trial = config.TrialSettings.read(nested(with_short(dict(map(parse_override, settings)), dataset, epochs)))
    device = _usable_device(device, cpus)
    if save:
        check_folder("--save", save)
    data = cplearn.data.load(**trial.data_request(), root=data_root)

    def log(metrics: dict[str, float], epoch: int) -> None:
        terms = "  ".join(f"{name.removeprefix('train/')} {value:.4g}" for name, value in metrics.items())
        console.show(f"epoch {epoch}/{trial.epochs}  {terms}")

    _print(training.train(trial, data, device=device, log=log, save_to=save, data_root=data_root))
    if save:
        console.say_written(save)


def import_solo(
    checkpoint: Annotated[Path, Argument(help="A Lightning checkpoint of the authors' code.")],
    dataset: DatasetName = None,
    stem_padding: Annotated[int, Option(min=1, max=2, help="Padding of the stem, which no weight tells.")] = 2,
    device: Device = "",
    cpus: Threads = 1,
    save: Save = None,
    data_root: DataRoot = None,
) -> None:
    """Read a CPLearn model (ResNet-18) that the authors' code has trained, evaluate it and print its metrics."""
    import cplearn.data
    from cplearn import solo

    model = solo.read(checkpoint, stem_padding)
    name = dataset or model.dataset
    if name is None:
        raise InputError(f"{checkpoint}: no args.json beside it names the data set; give it with --dataset")
    trained = solo.restore(model, cplearn.data.load(name, data_root), _usable_device(device, cpus))
    _print(trained.evaluate())
    if save:
        trained.model.save(save)
        console.say_written(save)


def evaluate(
    run: Annotated[str, Argument(help="A run id of the tracking store, or a folder that holds a model.")],
    dataset: DatasetName = None,
    settings: OneSetting = [],  # noqa: B006
    device: Device = "",
    cpus: Threads = 1,
    data_root: DataRoot = None,
) -> None:
    """Evaluate a trained model on its own data set or on another; print the metrics."""
    import cplearn
    import cplearn.data
    from cplearn import training
    from cplearn.evaluate import protocol

    model = cplearn.load(run)
    overrides = dict(map(parse_override, settings))
    if other := next((key for key in overrides if not key.startswith("evaluation.")), None):
        raise InputError(f"--set {other}: the model is trained; only evaluation.... can be set", key=other)
    model = model.with_evaluation(nested(overrides).get("evaluation", {}))
    trial = model.trial
    name = dataset or trial.dataset
    size = model.images["image_size"] if cplearn.data.catalogue.entry(name).takes else None
    share = None if dataset else trial.test_share
    data = cplearn.data.load(name, data_root, size, test_share=share)
    training.check_evaluation(trial, data)
    transfer = protocol.load_transfer(trial, model.images["image_size"], data_root)
    _print(protocol.run(model.to(_usable_device(device, cpus)), data, transfer))


def export(
    run: Annotated[str, Argument(help="A run id of the tracking store, or a folder that holds a model.")],
    to: Annotated[Path, Option("--to", metavar="DIR", help="Where the files go; made if need be.")],
) -> None:
    """Write a run's backbone as Hugging Face keeps it: safetensors, config.json and a model card with its numbers."""
    import cplearn
    from cplearn import export as exported
    from reports import store
    from reports.render.card import model_card
    from runner.machine.folders import check_folder

    check_folder("--to", to)
    model = cplearn.load(run)
    record = {} if Path(run).is_dir() else store.read_run(None, run)
    config = exported.write(model, to)
    (to / "README.md").write_text(model_card(config, record, model.trial.flat(), str(to)), encoding="utf-8")
    console.say_written(to)


def _print(outcome: "Outcome") -> None:
    """Print the metrics of a trial; the command ends here if it has failed."""
    for name, value in outcome.metrics.items():
        console.show(f"{name:32} {value:.4f}")
    if outcome.failure:
        console.show(("failed:", "red"), f" {outcome.failure}", console=console.err)
        raise Exit(console.FAILED)


def _usable_device(name: str, threads: int) -> str:
    """The device of that name, by default the GPU if there is one; raises InputError if torch cannot use it.

    On the CPU torch computes with `threads` from now on, which decides how sums are rounded.
    """
    import torch

    from runner.machine.environment import keep_memory

    keep_memory()
    torch.set_num_threads(threads)
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(1, device=name).tolist()
    except (RuntimeError, AssertionError, NotImplementedError, ValueError):
        raise InputError(f"--device {name!r}: not to be had here; write cpu, cuda or cuda:1") from None
    return name
