"""`cplearn data`, `settings`, `bench` and `bench-sweep`."""

import importlib
import sys
from pathlib import Path
from typing import Annotated

from rich.table import Table
from rich.text import Text
from typer import Argument, Exit, Option

from cplearn.errors import InputError
from runner.cli import console
from runner.driver.options import DataRoot, DatasetName, Results


def data(
    name: Annotated[
        str | None, Argument(help="A data set to fetch, or `check` for a report on images; default: list them.")
    ] = None,
    images: Annotated[
        str | None, Argument(metavar="PATH", help="check: a folder of images, or a name such as parquet:PATH.")
    ] = None,
    source: Annotated[
        Path | None, Option("--from", metavar="DIR", help="imagenet100: make it of this full ImageNet.")
    ] = None,
    classes: Annotated[Path | None, Option(metavar="FILE", help="With --from: other classes, one a line.")] = None,
    copy: Annotated[bool, Option("--copy", help="With --from: copy the images instead of linking.")] = False,
    data_root: DataRoot = None,
) -> None:
    """List the data sets, or fetch one, decode it, and print its sizes and fingerprint."""
    import cplearn.data
    from cplearn.data import catalogue

    if (source or classes or copy) and name != "imagenet100":
        raise InputError(f"--from, --classes and --copy are for imagenet100, not for {name or 'the list'}")
    if (classes or copy) and not source:
        raise InputError("--classes and --copy need --from, the folder of a full ImageNet")
    if (images is not None) != (name == "check"):
        raise InputError("write cplearn data check PATH for a report on images, or cplearn data NAME")
    if images is not None:
        _check(images, data_root)
        return
    if source:
        from cplearn.data import imagenet100

        imagenet100.build(source, data_root, classes, copy)
    if name is None:
        table = Table("name", "what it is", box=None, pad_edge=False)
        for written in catalogue.names():
            table.add_row(written, catalogue.entry(written).summary)
        console.out.print(table)
        return
    loaded = cplearn.data.load(name, data_root)
    unlabelled = len(loaded.pretrain.images) - len(loaded.train.images)
    further = f", {unlabelled:,} unlabelled" if unlabelled else ""
    train, test = len(loaded.train.images), len(loaded.test.images)
    console.show(
        f"{loaded.name}: {train:,} training{further} and {test:,} test images of "
        f"{loaded.channels}x{loaded.image_size}x{loaded.image_size}, {loaded.n_classes or 'no'} classes, mean "
        f"{loaded.mean:.4f}, std {loaded.std:.4f}\nfrom {loaded.source}\nfingerprint {loaded.fingerprint}\n"
        f"short name {loaded.slug}"
    )


def _check(images: str, data_root: Path | None) -> None:
    from cplearn.data.check import check
    from cplearn.data.splits import shown

    report = check(images, data_root)
    console.show(f"{report.name}\n")
    headings = ("split", "images", "without label", "classes", "images of a class", "sizes", "modes")
    table = Table(*headings, box=None, pad_edge=False)
    for row in report.splits:
        table.add_row(*(f"{value:,}" if isinstance(value, int) else value for value in row))
    console.out.print(table)
    if report.skipped:
        table = Table("skipped", "", "first names", box=None, pad_edge=False)
        for reason, names in report.skipped.items():
            table.add_row(Text(reason), f"{len(names):,}", Text(shown(names)))
        console.show("")
        console.out.print(table)
    console.show("")
    for sentence in report.sentences():
        console.show(sentence)


def settings(
    method: Annotated[str, Argument(help="A method; cplearn settings untrained lists another's.")] = "cplearn",
    dataset: DatasetName = None,
) -> None:
    """List every setting of a trial with its default on a data set and its sentence."""
    from cplearn.config import trial as config

    defaults = config.TrialSettings.read({"method": method} | ({"dataset": dataset} if dataset else {})).flat()
    table = Table("setting", "default", "what it does", box=None, pad_edge=False)
    for key, sentence in config.known_keys(method).items():
        default = "" if defaults[key] is None else str(defaults[key])
        table.add_row(key, Text(default), Text(sentence))
    console.out.print(table)


def bench(
    parts: Annotated[list[str] | None, Argument(help="Only these parts, step say; default: all.")] = None,
    quick: Annotated[bool, Option("--quick", help="Try the machinery; the numbers then mean nothing.")] = False,
    results: Results = Path("results"),
) -> None:
    """Measure this program's speed on this machine as ratios within one run; write bench.md and bench.json."""
    _measure(results, quick, parts)


def bench_sweep(
    quick: Annotated[bool, Option("--quick", help="Try the machinery; the numbers then mean nothing.")] = False,
    results: Results = Path("results"),
) -> None:
    """Measure what a sweep of 2,000 trials costs beside the training, for minutes; write bench-sweep.md and .json."""
    _measure(results, quick, sweep=True)


def _measure(results: Path, quick: bool, parts: list[str] | None = None, sweep: bool = False) -> None:

    # The benchmarks lie beside the packages in a clone, and are not installed with them.
    clone = Path(__file__).resolve().parents[2]
    if not (clone / "benchmarks" / "__init__.py").is_file():
        raise InputError("the benchmarks are not installed; run this command in a clone of the repository")
    if str(clone) not in sys.path:
        sys.path.insert(0, str(clone))
    benchmark = importlib.import_module("benchmarks")

    offered, name = (benchmark.SWEEP, "bench-sweep") if sweep else (benchmark.PARTS, "bench")
    try:
        with console.sigterm_as_interrupt():
            path, failed = benchmark.run(results / "bench", parts, quick, console.out, offered, name)
    except KeyboardInterrupt:
        console.show(f"Stopped; {name}.md holds the parts that were through.")
        raise Exit(console.INTERRUPTED) from None
    console.say_written(path)
    if failed:
        raise Exit(console.FAILED)
