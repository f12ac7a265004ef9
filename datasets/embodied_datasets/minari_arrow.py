"""Minari's storage in Arrow files, one for each episode."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from embodied_datasets import facts
from embodied_datasets.budget import check_budget
from embodied_datasets.faults import DataError, Fault
from embodied_datasets.files import inside, read_json
from embodied_datasets.minari_columns import Array, Columns, decode
from embodied_datasets.minari_spaces import Leaf
from embodied_datasets.minari_spaces import Path as Keys

_ARROW_MAGIC = b"ARROW1\x00\x00"


class ArrowStore:
    """Episodes in folders `0`, `1`, ..., each with one Arrow file and its own metadata.json."""

    def __init__(self, root: Path, max_bytes: int, count: int) -> None:
        self._root, self._max_bytes = root, max_bytes
        folders = [root / str(i) for i in range(count) if (root / str(i)).is_dir()]
        self.files = [inside(root, f"{each.name}/{_arrow_name(each)}") for each in folders]

    def __len__(self) -> int:
        return len(self.files)

    @contextmanager
    def episode(self, index: int) -> Iterator[Columns]:
        """The columns of one episode, while its file is mapped into memory."""
        import pyarrow as pa

        path = self.files[index]
        name = Path(path.parent.name) / path.name
        meta = inside(self._root, f"{path.parent.name}/metadata.json")
        described = read_json(meta, name=name.with_name("metadata.json")) if meta.exists() else {}
        size = path.stat().st_size
        check_budget(name, size, self._max_bytes, episode=index)
        with pa.memory_map(str(path)) as source:
            try:
                table = _read_stream(source.read_buffer(), size)
            except (pa.ArrowException, ValueError, OSError, struct.error) as error:
                message, remedy = f"cannot be read ({error})", "fetch or write the file again"
                fault = Fault("E_DATA_UNREADABLE", message, remedy, file=name, episode=index)
                raise DataError(fault) from error
            yield _ArrowColumns(table, described, name, index, self._max_bytes)


class _ArrowColumns(Columns):
    def __init__(
        self, table: Any, meta: dict[str, Any], name: Path, index: int, max_bytes: int
    ) -> None:
        self._table, self._meta, self._name, self._index = table, meta, name, index
        self._max_bytes = max_bytes

    def array(self, group: str, leaf: Leaf) -> Array:
        values = self._numbers(self._column(group, leaf.path), leaf.name or group)
        if len(values) and values[0].size != leaf.size:
            message = f"has {values[0].size} numbers in a row, expected {leaf.shape} by the space"
            raise self.error("E_DATA_SHAPE", message, leaf.name or group)
        return values.reshape(len(values), *leaf.shape)

    def frames(self, group: str, leaf: Leaf, start: int, stop: int) -> Array:
        import pyarrow as pa

        column = self._column(group, leaf.path)
        if not pa.types.is_binary(column.type):
            return self.array(group, leaf)[start:stop]
        place = {"episode": self._index, "field": leaf.name}
        check_budget(self._name, (stop - start) * leaf.size, self._max_bytes, **place)
        if stop > len(column):
            message = f"has {len(column)} rows, expected {stop}"
            raise self.error("E_DATA_SHAPE", message, leaf.name)
        rows = (column[row].as_py() or b"" for row in range(start, stop))
        return np.stack([decode(row, leaf, self) for row in rows])

    def scalars(self, name: str) -> Array:
        return self._numbers(self._column(name, ()), name)

    def text(self, group: str, leaf: Leaf) -> str | None:
        column = self._column(group, leaf.path)
        return str(column[0].as_py()) if len(column) else None

    def infos(self) -> dict[str, Array]:
        if "infos" not in self._table.column_names:
            return {}
        return dict(self._walk(self._column("infos", ()), self._table.field("infos"), ""))

    def facts(self) -> dict[str, Any]:
        found = self._meta.get(facts.NAME, {})
        return found if isinstance(found, dict) else {}

    def seed(self) -> int | None:
        seed = self._meta.get("seed")
        return seed if isinstance(seed, int) else None

    def error(self, code: str, message: str, field: str) -> DataError:
        remedy = "record the episode again"
        place = Fault(code, message, remedy, file=self._name, episode=self._index, field=field)
        return DataError(place)

    def _column(self, group: str, path: Keys) -> Any:
        try:
            column = self._table.column(group).combine_chunks()
            for key in path:
                column = column.field(str(key))
        except (KeyError, AttributeError, ValueError) as error:
            field = "/".join(map(str, (group, *path)))
            raise self.error("E_DATA_SHAPE", "is missing", field) from error
        return column

    def _numbers(self, column: Any, field: str) -> Array:
        import pyarrow as pa

        rows, kind, missing = len(column), column.type, column.null_count
        if pa.types.is_fixed_size_list(kind):
            column, kind = column.flatten(), kind.value_type
        missing += column.null_count
        if not _is_number(kind) or missing or (rows and len(column) % rows):
            message = f"has type {kind} and {missing} missing values, expected numbers"
            raise self.error("E_DATA_DTYPE", message, field)
        values: Array = column.to_numpy(zero_copy_only=False)
        return values if len(values) == rows else values.reshape(rows, -1)

    def _walk(self, column: Any, field: Any, prefix: str) -> Iterator[tuple[str, Array]]:
        import pyarrow as pa

        for each in column.type:
            inner, name = column.field(each.name), prefix + each.name
            if pa.types.is_struct(each.type):
                yield from self._walk(inner, each, f"{name}/")
            elif _is_number(each.type) or (
                pa.types.is_fixed_size_list(each.type) and _is_number(each.type.value_type)
            ):
                values = self._numbers(inner, name)
                if pa.types.is_fixed_size_list(each.type):
                    values = values.reshape(len(inner), -1)
                shape = (each.metadata or {}).get(b"shape", b"").split(b",")
                if all(size.isdigit() for size in shape):
                    sizes = tuple(map(int, shape))
                    if np.prod(sizes) == each.type.list_size:
                        values = values.reshape(len(inner), *sizes)
                yield name, values


def _is_number(kind: Any) -> bool:
    import pyarrow as pa

    return bool(
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    )


def _arrow_name(folder: Path) -> str:
    names = sorted(x.name for x in folder.iterdir() if x.name[0] not in "._")
    names = [name for name in names if name != "metadata.json"]
    if len(names) != 1:
        message = f"holds {len(names)} files, expected one besides metadata.json"
        remedy = "write the data set again"
        raise DataError(Fault("E_DATA_UNREADABLE", message, remedy, file=Path(folder.name)))
    return names[0]


def _read_stream(buffer: Any, size: int) -> Any:
    """The table in an Arrow file, read front to back: an index at its end could name anything."""
    import pyarrow as pa

    if buffer[: len(_ARROW_MAGIC)].to_pybytes() != _ARROW_MAGIC:
        raise ValueError("does not begin as Arrow files do")
    stream = buffer[len(_ARROW_MAGIC) :]
    for message in pa.ipc.MessageReader.open_stream(stream):
        if message.type not in ("schema", "record batch"):
            raise ValueError(f"holds a message of type {message.type}")
        if message.type == "record batch" and _is_compressed(message.metadata.to_pybytes()):
            raise ValueError("is compressed, which Minari never does")
    table = pa.ipc.open_stream(stream).read_all()
    if table.num_rows > size:
        raise ValueError(f"declares {table.num_rows} rows in {size} bytes")
    table.validate(full=True)
    return table


def _is_compressed(metadata: bytes) -> bool:
    """Whether a record batch's FlatBuffer has a `compression`, the fourth field of the header,
    itself the third of the message."""
    table = struct.unpack_from("<I", metadata, 0)[0]
    header = _flatbuffer_field(metadata, table, 2)
    if header is None:
        return False
    header += struct.unpack_from("<I", metadata, header)[0]
    return _flatbuffer_field(metadata, header, 3) is not None


def _flatbuffer_field(metadata: bytes, table: int, number: int) -> int | None:
    vtable = table - struct.unpack_from("<i", metadata, table)[0]
    place = 4 + 2 * number
    if place + 2 > struct.unpack_from("<H", metadata, vtable)[0]:
        return None
    offset = struct.unpack_from("<H", metadata, vtable + place)[0]
    return table + offset if offset else None
