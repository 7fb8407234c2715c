"""Data sets of the Hugging Face hub, hf:NAME or hf:NAME:CONFIGURATION, through the library `datasets`.

NAME may be a folder on this machine too. What was loaded once is found without a network (HF_HOME says where). No code
of the hub is executed: `datasets` has not done so since version 4.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cplearn.data.dataset import Request
from cplearn.data.encoded import Contents, EncodedSource, Stamp, unreadable, within
from cplearn.data.image_files import Encoded, in_memory
from cplearn.data.parquet import IMAGES, LABELS
from cplearn.data.splits import NAMES, Item, Skipped, skip
from cplearn.errors import InputError


class Hub(EncodedSource):
    def __init__(self, name: str, place: str) -> None:
        super().__init__(name, place, "hf")
        self.loaded: dict[str, Any] = {}
        self.splits: dict[str, Any] = {}
        self.column = ""

    def stamps(self, request: Request) -> list[Stamp]:
        """Raises InputError if `datasets` is not installed or cannot load this."""
        if not self.loaded:
            self.loaded = {NAMES.get(split, split): rows for split, rows in _load(self.place).items()}
        return [Stamp(f"{split} {rows._fingerprint}", rows.dataset_size or 0, 0) for split, rows in self.loaded.items()]

    def contents(self, request: Request, stamps: list[Stamp]) -> Contents:
        """Raises InputError if there is no column of images, or one of several labels."""
        from datasets import ClassLabel, Image, Value

        skipped: Skipped = {}
        loaded = self.loaded
        if len(loaded) > 1:
            loaded = {split: rows for split, rows in loaded.items() if split in NAMES.values()}
            for split in self.loaded.keys() - loaded.keys():
                skip(skipped, "splits that are neither train nor test", split)
        if not loaded:
            raise InputError(f"hf:{self.place}: none of its splits {', '.join(self.loaded)} is called train or test")
        features = next(iter(loaded.values())).features
        images = [name for name, feature in features.items() if isinstance(feature, Image)]
        if not images:
            raise InputError(f"hf:{self.place}: no column of images among {', '.join(features)}")
        self.column = next((name for name in IMAGES if name in images), images[0])
        label = next((name for name in LABELS if name in features), None)
        if label and not isinstance(features[label], ClassLabel | Value):
            raise InputError(f"hf:{self.place}: the column {label} holds several labels an image")
        names = features[label].names if label and isinstance(features[label], ClassLabel) else None
        items: list[Item] = []
        for split, rows in loaded.items():
            named = split if split in NAMES.values() else None
            labels = rows[label] if label else [None] * len(rows)
            items += [Item(f"{split} {i}", value, named) for i, value in enumerate(labels)]
            self.splits[split] = rows.select_columns([self.column]).cast_column(self.column, Image(decode=False))
        return Contents(items, names, skipped)

    def read(self, rows: Sequence[int]) -> Iterator[Encoded]:
        first = 0
        for split, images in self.splits.items():
            for i in within(rows, first, len(images)):
                image = images[i][self.column]
                if image["bytes"] is None and image["path"]:
                    yield Path(image["path"])
                else:
                    yield in_memory(f"{self.name} {split} {i}", image["bytes"] or b"")
            first += len(images)


def source(name: str, root: Path) -> Hub:
    return Hub(name, name.partition(":")[2])


def _load(place: str) -> dict[str, Any]:
    try:
        import datasets
    except ImportError as error:
        raise InputError(
            "hf:NAME needs the library datasets; install it by: pip install 'cplearn-sweeps[hf]'"
        ) from error
    name, _, configuration = place.partition(":")
    try:
        if (Path(name) / "dataset_dict.json").is_file() or (Path(name) / "state.json").is_file():
            loaded = datasets.load_from_disk(name)
        else:
            loaded = datasets.load_dataset(name, configuration or None)
    except Exception as error:  # the library and its network raise almost anything
        raise unreadable(f"hf:{place}", "a data set of images", error) from error
    return dict(loaded) if isinstance(loaded, dict) else {"all": loaded}
