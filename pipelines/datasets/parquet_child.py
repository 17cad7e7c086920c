"""The child process of `parquet_table`: reads one Parquet file, writes Arrow batches to standard output.

Runs alone (`python -I parquet_child.py FILE ROWS BYTES`), so it imports nothing of this package. Exit code 3:
the file is wrong, 4: it expands beyond the limits; the reason is on standard error.
"""

from __future__ import annotations

import resource
import sys

ADDRESS_SPACE = 2**30
CPU_SECONDS = 120


def main(path: str, max_rows: int, max_bytes: int) -> None:
    """Stream the batches of `path`, under limits on address space and processor time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        file = pq.ParquetFile(path, page_checksum_verification=True, arrow_extensions_enabled=False)
        if file.metadata.num_rows > max_rows:
            stop(3, f"there are {file.metadata.num_rows:,} rows; at most {max_rows:,} are read")
        total = 0
        with pa.ipc.new_stream(sys.stdout.buffer, file.schema_arrow) as sink:
            for batch in file.iter_batches(batch_size=256, use_threads=False):
                total += batch.nbytes
                if total > max_bytes:
                    stop(4, f"the columns expand to more than {max_bytes:,} bytes")
                sink.write_batch(batch)
    except MemoryError:
        stop(4, "the columns expand beyond the memory allowed")
    except (pa.ArrowException, OSError, ValueError) as error:
        stop(3, f"this is no readable Parquet file ({' '.join(str(error).split())[:200]})")


def stop(code: int, reason: str) -> None:
    """Say why and end the process."""
    sys.stderr.write(reason)
    raise SystemExit(code)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
