"""Tables of untrusted files: what they would unpack to is checked before they are."""

from __future__ import annotations

import math
import struct
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from embodied_datasets.budget import check_budget
from embodied_datasets.lerobot_columns import Feature, from_column
from embodied_datasets.lerobot_schema import fail

_MAX_ROWS = 10**6
_MAX_BYTES = 2**30
_SMALL, _MAX_RATIO = 64 * 2**20, 500
"""Larger tables of numbers that are denser than this were made to fill the memory."""
_NUMBERS = {"FLOAT", "DOUBLE", "INT32", "INT64", "BOOLEAN", "FIXED_LEN_BYTE_ARRAY"}
_FETCH = "fetch it again"


def _refuse_bomb(path: Path, size: int) -> None:
    """Raises DataError if a file unpacks to more than files with something in them do."""
    stored = path.stat().st_size
    if size > _SMALL and size > _MAX_RATIO * stored:
        message = f"unpacks {stored} bytes to {size}, so that hardly anything can be in it"
        fail("E_DATA_BUDGET", path, message, "fetch it again, or drop it")


def open_table(path: Path, strings: Sequence[str] = ()) -> Any:
    """Opens a Parquet file; the string columns named come as dictionaries, so that one long text
    in many rows stays small."""
    if not path.is_file():
        fail("E_DATA_MISSING", path, "is missing, so that the data set has a hole", _FETCH)
    try:
        return pq.ParquetFile(path, read_dictionary=list(strings))
    except (pa.ArrowException, OSError) as error:
        message = f"is damaged or was never finished ({error})"
        fail("E_DATA_UNREADABLE", path, message, "fetch or record it again")


def read_table(path: Path, columns: Sequence[str], strings: Sequence[str]) -> Any:
    """Reads columns of a metadata file, unless they are of unreasonable size."""
    parquet = open_table(path, strings)
    metadata = parquet.metadata
    size = sum(
        group.column(j).total_uncompressed_size
        for group in (metadata.row_group(i) for i in range(metadata.num_row_groups))
        for j in range(metadata.num_columns)
        if _column(group.column(j).path_in_schema, columns)
    )
    if metadata.num_rows > _MAX_ROWS or size > _MAX_BYTES:
        message = (
            f"unpacks to {metadata.num_rows} rows of {size} bytes, more than {_MAX_ROWS} "
            f"rows or {_MAX_BYTES} bytes"
        )
        fail("E_DATA_BUDGET", path, message, "split the data set")
    return parquet.read(list(columns))


def _column(path: str, names: Collection[str]) -> str:
    """Which of the columns, whose names may have dots, a path of a Parquet schema belongs to."""
    return next((name for name in names if path == name or path.startswith(name + ".")), "")


def read_columns(
    path: Path,
    rows: int,
    features: Mapping[str, Feature],
    max_bytes: int,
    others: Collection[str] = (),
) -> dict[str, NDArray[Any]]:
    """The columns of numbers in a file of `rows` rows, each an array (rows, ...).

    Raises DataError also where the columns `others`, which are not read now, are missing.
    """
    if path.is_dir():
        table = read_arrow(path)
        check_rows(path, len(table), rows)
        _check_names(path, table.column_names, [*features, *others])
    else:
        table = _read_parquet(path, rows, features, max_bytes, others)
    arrays = {}
    for name, feature in features.items():
        try:
            arrays[name] = from_column(table[name], feature)
        except ValueError as error:
            fail("E_DATA_SHAPE", path, str(error), "correct or fetch it", field=name)
    return arrays


def _check_names(path: Path, found: Collection[str], names: Collection[str]) -> None:
    for name in names:
        if name not in found:
            _refuse_column(path, name)


def check_rows(path: Path, found: int, rows: int) -> None:
    """Raises DataError unless a file has as many rows as its episodes."""
    if found != rows:
        message = (
            f"has {found} frames, but its episodes have {rows}; frames are missing or left over"
        )
        fail("E_DATA_ROWS", path, message, _FETCH, count=abs(found - rows))


def _read_parquet(
    path: Path,
    rows: int,
    features: Mapping[str, Feature],
    max_bytes: int,
    others: Collection[str],
) -> Any:
    parquet = open_table(path)
    _check_names(path, parquet.schema_arrow.names, others)
    check_rows(path, parquet.metadata.num_rows, rows)
    _check_sizes(path, parquet.metadata, features, max_bytes)
    try:
        return parquet.read(list(features))
    except (pa.ArrowException, OSError) as error:
        fail("E_DATA_UNREADABLE", path, f"is damaged ({error})", "fetch or record it again")


def _check_sizes(
    path: Path, metadata: Any, features: Mapping[str, Feature], max_bytes: int
) -> None:
    """Compares what the columns would unpack to with what `info.json` says, before unpacking."""
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    paths = [metadata.schema.column(j).path for j in range(metadata.num_columns)]
    names = [_column(path, features) for path in paths]
    size = 0
    for name, feature in features.items():
        if names.count(name) != 1:
            _refuse_column(path, name)
        column = names.index(name)
        size += sum(group.column(column).total_uncompressed_size for group in groups)
        kind = metadata.schema.column(column).physical_type
        values = sum(group.column(column).num_values for group in groups)
        if kind not in _NUMBERS or values != metadata.num_rows * math.prod(feature["shape"]):
            message = (
                f"field {name}: holds {values} values of type {kind} in "
                f"{metadata.num_rows} rows, but info.json gives it shape {feature['shape']}"
            )
            remedy = "correct info.json or fetch the file again"
            fail("E_DATA_SHAPE", path, message, remedy, field=name)
    check_budget(path, size, max_bytes)
    widths = (
        math.prod(each["shape"]) * np.dtype(each["dtype"]).itemsize for each in features.values()
    )
    _refuse_bomb(path, metadata.num_rows * sum(widths))


def _refuse_column(path: Path, name: str) -> None:
    message = f"must have one column {name!r} of the type in info.json"
    fail("E_DATA_COLUMNS", path, message, _FETCH, field=name)


def read_slice(path: Path, column: str, start: int, length: int, max_bytes: int) -> Any:
    """Rows [start, start + length) of one column, reading no more row groups than these lie in."""
    if path.is_dir():
        return read_arrow(path)[column].slice(start, length)
    parquet = open_table(path)
    metadata = parquet.metadata
    sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    ends = np.cumsum(sizes)
    groups = [i for i, end in enumerate(ends) if end > start and end - sizes[i] < start + length]
    if column not in parquet.schema_arrow.names or not groups:
        message = f"must have a column {column!r} with rows {start} to {start + length}"
        fail("E_DATA_COLUMNS", path, message, _FETCH, field=column)
    wanted = sum(
        metadata.row_group(i).column(j).total_uncompressed_size
        for i in groups
        for j in range(metadata.num_columns)
        if _column(metadata.schema.column(j).path, [column])
    )
    check_budget(path, wanted, max_bytes, field=column)
    try:
        table = parquet.read_row_groups(groups, [column])
    except (pa.ArrowException, OSError) as error:
        fail("E_DATA_UNREADABLE", path, f"is damaged ({error})", "fetch or record it again")
    return table[column].slice(start - int(ends[groups[0]] - sizes[groups[0]]), length)


def read_arrow(folder: Path) -> Any:
    """The table in a folder of Arrow streams, mapped into memory.

    Raises DataError for compressed streams, whose true size nobody knows beforehand; Hugging
    Face's library writes none.
    """
    tables = []
    for path in sorted(folder.glob("*.arrow")):
        try:
            _refuse_compression(path)
            with pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as reader:
                table = reader.read_all()
            table.validate(full=True)
        except (pa.ArrowException, OSError, struct.error) as error:
            message = f"is no whole Arrow stream ({error})"
            fail("E_DATA_UNREADABLE", path, message, _FETCH)
        tables.append(table)
    if not tables:
        fail("E_DATA_MISSING", folder, "holds no .arrow file", _FETCH)
    try:
        return pa.concat_tables(tables)
    except pa.ArrowException as error:
        fail("E_DATA_COLUMNS", folder, f"holds files of different columns ({error})", _FETCH)


def _refuse_compression(path: Path) -> None:
    with pa.memory_map(str(path)) as file:
        for message in pa.ipc.MessageReader.open_stream(file):
            if message.type == "dictionary" or (
                message.type == "record batch" and _is_compressed(message.metadata.to_pybytes())
            ):
                text = "holds compressed or dictionary batches"
                fail("E_DATA_BUDGET", path, text, "write it again as plain batches")


def _is_compressed(message: bytes) -> bool:
    """Whether a record batch's FlatBuffers header has the field `compression`.

    A Message's field 2 is its header, and a RecordBatch's field 3 its compression (Message.fbs of
    the Arrow format); pyarrow does not tell.
    """
    root = struct.unpack_from("<I", message)[0]
    place = root + _field(message, root, 2)
    return _field(message, place + struct.unpack_from("<I", message, place)[0], 3) != 0


def _field(message: bytes, table: int, index: int) -> int:
    """Offset of a field in a FlatBuffers table, 0 where it is absent."""
    vtable = table - struct.unpack_from("<i", message, table)[0]
    size = struct.unpack_from("<H", message, vtable)[0]
    place = 4 + 2 * index
    return int(struct.unpack_from("<H", message, vtable + place)[0]) if place < size else 0
