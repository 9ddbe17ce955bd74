"""Read the sheets of an xlsx workbook in bounded memory, and keep them as parquet: parsing XML takes a minute for a
million rows, and the daily run reads the input again."""

import hashlib
import itertools
import logging
import uuid
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError

import openpyxl
import pyarrow as pa
import pyarrow.parquet
from openpyxl.cell.cell import ERROR_CODES
from openpyxl.utils.exceptions import InvalidFileException

from pipelines.sources import files
from recsys.errors import BadData

log = logging.getLogger(__name__)

ROWS = 50_000  # rows held at a time
Header = Callable[[Sequence[str]], None]


def parquet(path: Path, work: Path, check: Header) -> Path:
    """The workbook as one parquet file of text columns, all sheets below one another; made once for each content.

    Args:
        path: the workbook.
        work: folder that keeps conversions.
        check: called with the header of each sheet; raises if it is not what is expected.

    Raises:
        BadData: the file is missing, is not a workbook, or its sheets differ in their columns.
    """
    with files.require(path).open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()[:16]
    target = work / f"{digest}.parquet"
    if target.exists():
        return target
    work.mkdir(parents=True, exist_ok=True)
    part = work / f".{digest}-{uuid.uuid4().hex[:8]}.tmp"
    try:
        _convert(path, part, check)
        part.rename(target)
    finally:
        part.unlink(missing_ok=True)
    return target


def _convert(path: Path, target: Path, check: Header) -> None:
    writer: Any = None
    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
        try:
            for sheet in book.worksheets:
                for batch in _sheet(sheet.iter_rows(values_only=True), check):
                    writer = writer or pyarrow.parquet.ParquetWriter(target, batch.schema, compression="zstd")
                    writer.write_batch(batch)
                log.info("%s: read sheet %r", path.name, sheet.title)
        finally:
            book.close()
    except (zipfile.BadZipFile, InvalidFileException, KeyError, ParseError, EOFError, pa.ArrowException) as error:
        raise BadData(f"{path} is not a readable xlsx workbook: {error}") from error
    finally:
        if writer is not None:
            writer.close()
    if writer is None:
        raise BadData(f"{path} has no rows")


def _sheet(rows: Iterator[tuple[Any, ...]], check: Header) -> Iterator[pa.RecordBatch]:
    first = next(rows, None)
    if first is None:
        return
    header = [str(cell).strip() for cell in first if cell is not None]
    check(header)
    width = len(header)
    while chunk := list(itertools.islice(rows, ROWS)):
        # Some writers leave out the empty cells at the end of a row.
        full = [(*row[:width], *[None] * (width - len(row))) for row in chunk if any(cell is not None for cell in row)]
        columns = list(zip(*full, strict=True)) if full else [()] * width
        yield pa.record_batch([pa.array([_text(c) for c in column], pa.string()) for column in columns], names=header)


def _text(cell: Any) -> str | None:
    """A cell as text: times as ISO 8601, whole numbers without a point; what a formula could not compute is empty."""
    if cell is None or cell in ERROR_CODES:
        return None
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return str(cell)
