"""One small object store over a local folder or an S3 prefix: the only place that opens a filesystem."""

from cluster.storage.local import LocalStorage
from cluster.storage.opening import (
    Storage,
    check_writable,
    free_bytes,
    join,
    local_folder,
    open_ranges,
    open_storage,
    read_buffer,
)
from cluster.storage.s3 import RemoteStorage
from cluster.storage.stored import Stored

__all__ = [
    "LocalStorage",
    "RemoteStorage",
    "Storage",
    "Stored",
    "check_writable",
    "free_bytes",
    "join",
    "local_folder",
    "open_ranges",
    "open_storage",
    "read_buffer",
]
