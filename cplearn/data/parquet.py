"""Images in Parquet files, as the library `datasets` writes them: one file, or a folder of files.

One column holds the images: their bytes, or structs of `bytes` and `path`. A column of labels (numbers or words) and a
column `split` may stand beside it; else names of files and folders tell the splits. Rows are read a few at a time, so
files and groups of rows need not fit into memory. For decoding on demand the images are copied once, as they are, into
an Arrow file, which finds any row at once.
"""

import bisect
import json
import os
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from cplearn.data import cache
from cplearn.data.dataset import Request
from cplearn.data.encoded import Contents, EncodedSource, Stamp, digest, stamp, unreadable, within
from cplearn.data.image_files import Encoded, Stored, in_memory
from cplearn.data.splits import Item, split_of
from cplearn.errors import InputError

IMAGES = ("image", "img", "images", "bytes")
LABELS = ("label", "labels", "fine_label", "class", "target", "cls")
"""Names of columns, the first that is there counts; without one of `IMAGES`, the only column of bytes."""
BATCH = 64  # Rows that are read at a time, and images of one block of an Arrow file.
BUFFER = 2**20  # Bytes that are read at a time.


class Parquet(EncodedSource):
    def __init__(self, name: str, path: Path) -> None:
        super().__init__(name, str(path), "parquet")
        self.path = path
        self.files: list[tuple[Path, int]] = []
        self.column = ""

    def stamps(self, request: Request) -> list[Stamp]:
        """Raises InputError if there is no such file, or no file in the folder."""
        if not self.path.is_dir():
            return [stamp(self.path, self.path.parent)]
        files = sorted(path for path in self.path.rglob("*.parquet") if not path.name.startswith("."))
        if not files:
            raise InputError(f"{self.path}: no files *.parquet in this folder")
        return [stamp(path, self.path) for path in files]

    def contents(self, request: Request, stamps: list[Stamp]) -> Contents:
        """Raises InputError if a file is damaged, or its columns are not those of images with one label."""
        base = self.path if self.path.is_dir() else self.path.parent
        items: list[Item] = []
        names: list[str] | None = None
        self.files = []
        for file in stamps:
            try:
                with pq.ParquetFile(base / file.name) as parquet:
                    schema, n = parquet.schema_arrow, parquet.metadata.num_rows
                    image, label = self._columns(base / file.name, schema)
                    wanted = [column for column in (label, "split") if column in schema.names]
                    table = parquet.read(wanted) if wanted else None
            except (OSError, pa.ArrowException) as error:
                raise unreadable(base / file.name, "a Parquet file", error) from error
            self.files.append((base / file.name, n))
            self.column = image
            names = names or _names(schema, label)
            labels = table.column(label).to_pylist() if table is not None and label else [None] * n
            named = table.column("split").to_pylist() if table is not None and "split" in wanted else [file.name] * n
            pairs = enumerate(zip(labels, map(str, named), strict=True))
            items += [Item(f"{file.name} row {i}", value, split_of(split)) for i, (value, split) in pairs]
        return Contents(items, names, {})

    def _columns(self, file: Path, schema: pa.Schema) -> tuple[str, str | None]:
        def is_bytes(kind: pa.DataType) -> bool:
            if pa.types.is_struct(kind):
                return kind.get_field_index("bytes") >= 0 and is_bytes(kind.field("bytes").type)
            return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)

        images = [field.name for field in schema if is_bytes(field.type)]
        image = next((name for name in IMAGES if name in images), images[0] if len(images) == 1 else None)
        if image is None or (self.column and image != self.column):
            raise InputError(
                f"{file}: no column of images among {', '.join(schema.names)}; it holds bytes, or structs of bytes and "
                f"path, and is called {self.column or 'image'}"
            )
        label = next((name for name in LABELS if name in schema.names), None)
        if label:
            kind = schema.field(label).type
            words = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind)
            if not (words or pa.types.is_integer(kind)):
                raise InputError(f"{file}: the column {label} holds {kind}; labels are one number or word an image")
        return image, label

    def read(self, rows: Sequence[int]) -> Iterator[Encoded]:
        first = 0
        for path, _ in self.files:
            with pq.ParquetFile(path, buffer_size=BUFFER, pre_buffer=False) as file:
                for group in range(file.num_row_groups):
                    n = file.metadata.row_group(group).num_rows
                    groups = [group] if within(rows, first, n) else []
                    start = first
                    for batch in file.iter_batches(BATCH, groups, [self.column], use_threads=False):
                        for i in within(rows, start, len(batch)):
                            yield _stored(f"{path} row {start + i}", batch.column(0)[i])
                        start += len(batch)
                    first += n

    def finder(self, request: Request) -> Callable[[int], Encoded]:
        path = self._copied(request)
        try:
            blocks = _blocks(path)
        except (OSError, pa.ArrowException):  # a damaged copy
            path.unlink(missing_ok=True)
            blocks = _blocks(self._copied(request))
        starts = [0, *accumulate(len(block) for block in blocks)]

        def find(row: int) -> Encoded:
            block = bisect.bisect_right(starts, row) - 1
            return _stored(f"{self.place} row {row}", blocks[block][row - starts[block]])

        return find

    def _copied(self, request: Request) -> Path:
        """The Arrow file of all images, written by whichever process comes first."""
        folder = request.root / "cache"
        path = folder / f"{self.owner}-{digest(json.dumps(self.files_seen).encode())}.arrow"
        if not path.exists():
            with cache.lock(request.root, self.owner):
                if not path.exists():
                    for old in folder.glob(f"{self.owner}-*.arrow"):
                        old.unlink()
                    with cache.scratch(request.root, f"{self.owner}-arrow") as scratch:
                        self._copy(scratch / "images.arrow")
                        (scratch / "images.arrow").rename(path)
        return path

    def _copy(self, path: Path) -> None:
        schema = pa.schema([("image", pa.large_binary())])
        stored = self.read(range(sum(n for _, n in self.files)))
        images = (image.read() for image in stored if isinstance(image, Stored))
        try:
            with open(path, "wb") as file:
                with pa.ipc.new_file(file, schema) as writer:
                    while block := list(islice(images, BATCH)):
                        writer.write_batch(pa.record_batch([pa.array(block, pa.large_binary())], schema=schema))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise InputError(f"{path}: the images cannot be written ({error}); free some space") from error


def source(name: str, root: Path) -> Parquet:
    return Parquet(name, Path(name.partition(":")[2]))


def _blocks(path: Path) -> list[pa.Array]:
    """The images of an Arrow file, which stay on the disk until they are used."""
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all().column(0).chunks


def _stored(name: str, value: pa.Scalar) -> Stored:
    image = value.as_py() if value.is_valid else None
    if isinstance(image, dict):
        image = image["bytes"]
    return in_memory(name, image or b"")


def _names(schema: pa.Schema, label: str | None) -> list[str] | None:
    """The names of numbered classes that `datasets` keeps in the schema."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names: list[str] = features[label]["names"]
    except (KeyError, ValueError, TypeError):
        return None
    return names
