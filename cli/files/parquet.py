"""Parquet files, read with pyarrow, which is installed on demand."""

import io
from pathlib import Path

from cli.files.content import MOST_BYTES, too_large, unreadable
from cli.files.rows import Row, Rows
from registry.edits.schemas import MOST_EDITS

ROWS_AT_ONCE = 256


def read_parquet(path: Path, content: bytes) -> Rows:
    """Read all rows. Raises CommandError, also where pyarrow is not installed."""
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise unreadable(
            path, "Parquet is read with pyarrow, which is not installed", "pip install 'melo-registry[files]'"
        ) from None
    try:
        file = parquet.ParquetFile(io.BytesIO(content))
        if file.metadata.num_rows > MOST_EDITS:
            raise too_large(path, f"has more than {MOST_EDITS:,} rows")
        rows: list[Row] = []
        size = 0
        for batch in file.iter_batches(batch_size=ROWS_AT_ONCE):
            size += batch.nbytes
            if size > MOST_BYTES:
                raise too_large(path, f"unpacks to more than {MOST_BYTES // 2**20} MiB")
            rows += [Row(len(rows) + n, fields) for n, fields in enumerate(batch.to_pylist(), start=1)]
    except (arrow.ArrowException, OSError) as error:
        raise unreadable(path, f"it is not a whole Parquet file: {error}", "Write it again.") from None
    return Rows("Parquet", rows, list(file.schema_arrow.names), is_table=False, unit="row")
