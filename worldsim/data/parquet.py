"""Parquet through pyarrow, which only recording and training need."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from worldsim.errors import DataError, DependencyError, install

__all__ = ["join_tables", "read_table", "require_pyarrow", "to_indexed_table", "to_table", "write_table"]

_PANDAS_INDEX = "__index_level_0__"
"""Name under which pandas keeps the values of an index that has no name."""


def read_table(path: Path, columns: list[str] | None = None) -> Any:
    """The pyarrow table at ``path``. Raises DataError where it cannot be read."""
    pa, pq = require_pyarrow()
    try:
        return pq.read_table(path, columns=columns, partitioning=None, page_checksum_verification=True)
    except (OSError, pa.ArrowException, ValueError, TypeError) as error:
        raise DataError("a parquet file must be readable", str(path), str(error)) from error


def to_table(columns: dict[str, Any], metadata: dict[str, str] | None = None) -> Any:
    """A pyarrow table of columns: NumPy arrays of one or two axes, or lists."""
    pa, _ = require_pyarrow()
    table = pa.table({name: _column(pa, values) for name, values in columns.items()})
    return table.replace_schema_metadata(metadata)


def to_indexed_table(columns: dict[str, list[int]], index: list[str]) -> Any:
    """A pyarrow table of integer columns that pandas reads as a frame with ``index`` as its index."""
    described = [
        {"name": name, "field_name": name, "pandas_type": "int64", "numpy_type": "int64", "metadata": None}
        for name in columns
    ]
    text = {"pandas_type": "unicode", "numpy_type": "object", "metadata": None}
    described.append({"name": None, "field_name": _PANDAS_INDEX, **text})
    pandas = {
        "index_columns": [_PANDAS_INDEX],
        "column_indexes": [{"name": None, "field_name": None, **text, "metadata": {"encoding": "UTF-8"}}],
        "columns": described,
        "creator": {"library": "pyarrow", "version": require_pyarrow()[0].__version__},
        "pandas_version": "2.0.0",
    }
    return to_table({**columns, _PANDAS_INDEX: index}, {"pandas": json.dumps(pandas)})


def write_table(table: Any, path: Path) -> None:
    """Write a pyarrow table as one parquet file, every page with a checksum."""
    require_pyarrow()[1].write_table(table, path, write_page_checksum=True)


def join_tables(tables: list[Any]) -> Any:
    """Tables of one schema, one after the other, without their metadata."""
    return require_pyarrow()[0].concat_tables([table.replace_schema_metadata(None) for table in tables])


def _column(pa: Any, values: Any) -> Any:
    """Two-dimensional arrays become lists of fixed length, which Hugging Face reads as ``Sequence``."""
    if getattr(values, "ndim", 1) == 2:
        return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
    return values


def require_pyarrow() -> tuple[Any, Any]:
    """The modules pyarrow and pyarrow.parquet. Raises DependencyError where they are missing."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise DependencyError("datasets need the package pyarrow", None, install("train")) from error
    return pa, pq
