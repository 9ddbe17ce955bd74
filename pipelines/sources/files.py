"""Read other people's files in bounded batches; everything that can be wrong with a file becomes `BadData`.

Memory does not follow the size of a file. Two of Arrow's habits would make it do so, and are kept off here: its csv
reader loads 32 blocks ahead of a slower consumer (no option says otherwise, so the blocks are small), and its parquet
datasets keep the bytes of every row group they have read, and queue up to 1 GB of rows beside.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.dataset
import pyarrow.parquet

from pipelines.sources import coercion
from pipelines.sources.source import BATCH_ROWS
from recsys.errors import BadData

CSV_BLOCK = 1 << 20  # bytes parsed at a time, and the longest line; 32 of them wait to be parsed
BATCH_BLOCKS = 8  # of csv in one batch at most, however long its lines are
PARQUET_BUFFER = 1 << 20  # bytes read ahead in each column


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what Arrow and the file system say about a file into BadData that names it."""
    try:
        yield
    except FileNotFoundError:
        raise BadData(f"{path} does not exist") from None
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise BadData(f"{path} cannot be read: {str(error).splitlines()[0]}") from error


def require(path: Path) -> Path:
    """The path, which must exist."""
    if not path.exists():
        raise BadData(f"{path} does not exist")
    return path


def parquet(path: Path, names: Sequence[str] | None = None, where: Any = None) -> Iterator[pa.RecordBatch]:
    """Batches of a parquet file, or of a folder of them in the order of their names, with `coercion.plain` columns.

    Args:
        path: file or folder.
        names: of the columns to read; all if None.
        where: expression that rows fulfil; row groups whose statistics rule it out are not read.
    """
    with reading(path):
        for part in pyarrow.dataset.dataset(require(path), format="parquet").get_fragments():
            groups = [group.id for some in part.split_by_row_group(where) for group in some.row_groups]
            with pyarrow.parquet.ParquetFile(part.path, pre_buffer=False, buffer_size=PARQUET_BUFFER) as rows:
                for batch in rows.iter_batches(BATCH_ROWS, groups, list(names) if names else None):
                    plain = [coercion.plain(column) for column in batch.columns]
                    batch = pa.record_batch(plain, batch.schema.names)
                    yield batch if where is None else batch.filter(where)


def csv(
    path: Path,
    types: Mapping[str, pa.DataType],
    *,
    delimiter: str = ",",
    names: Sequence[str] | None = None,
    include: Sequence[str] | None = None,
    skip: int = 0,
    encoding: str = "utf-8",
) -> Iterator[pa.RecordBatch]:
    """Batches of a text file, compressed or not; columns that `types` does not name come as text.

    Args:
        path: the file.
        types: types of columns.
        delimiter: between columns.
        names: of the columns where the file has no header.
        include: read these columns only.
        skip: lines to leave out at the beginning, where `names` are given.
        encoding: of the file.
    """
    header = csv_columns(path, delimiter) if names is None else list(names)
    wanted = list(include) if include is not None else header
    with (
        reading(path),
        pyarrow.csv.open_csv(
            require(path),
            read_options=pyarrow.csv.ReadOptions(
                column_names=header, skip_rows=1 if names is None else skip, block_size=CSV_BLOCK, encoding=encoding
            ),
            parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types={name: types.get(name, pa.string()) for name in wanted},
                include_columns=wanted,
                null_values=["", "NULL", "NaN", "nan"],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        ) as rows,
    ):
        yield from _gathered(rows)


def _gathered(blocks: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Neighbours in one batch, until it has BATCH_ROWS: who writes a row group per batch should not write crumbs."""
    held: list[pa.RecordBatch] = []
    for block in blocks:
        held.append(block)
        if len(held) == BATCH_BLOCKS or sum(part.num_rows for part in held) >= BATCH_ROWS:
            whole, held = pa.concat_batches(held), []
            yield whole
    if held:
        yield pa.concat_batches(held)


def csv_columns(path: Path, delimiter: str = ",") -> list[str]:
    """The header of a text file. Raises BadData if the file is missing or empty."""
    with reading(path), pa.input_stream(str(require(path)), compression="detect") as stream:
        first = b""
        while b"\n" not in first and (more := stream.read(65_536)):
            first += more
        line = first.split(b"\n", 1)[0].decode("utf-8-sig").strip("\r")
    if not line:
        raise BadData(f"{path} is empty; expected a header line")
    return [name.strip().strip('"') for name in line.split(delimiter)]


def schema(path: Path) -> Any:
    """The Arrow schema of a parquet file or of a folder of them. Raises BadData if it is missing or damaged."""
    with reading(path):
        return pyarrow.dataset.dataset(require(path), format="parquet").schema


def check_columns(path: Path, found: Sequence[str], needed: Sequence[str], known: Sequence[str] | None = None) -> None:
    """Raise BadData that names missing columns and, where `known` is given, unknown ones."""
    missing = [name for name in needed if name not in found]
    unknown = sorted(set(found) - set(known)) if known is not None else []
    if missing or unknown:
        raise BadData(f"{path}: missing columns {missing}, unknown columns {unknown}; it has {list(found)}")
