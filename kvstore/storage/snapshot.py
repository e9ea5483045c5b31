"""A consistent copy of an environment, as a stream of bytes read by the loop.

A helper process takes a read transaction and writes the copy into a socket; the loop reads when its consumer wants
more, so that a slow consumer holds up the process and nothing else. What is sent is an LMDB data file without free
pages, of exactly the state that `meta` belongs to. Knows nothing of what becomes of it (snapshot_file.py, peers).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from kvstore.storage import messages
from kvstore.storage.batch import TableSpec
from kvstore.storage.errors import CorruptStore, SnapshotFailed
from kvstore.storage.helper import COPY, Helper, describe
from kvstore.storage.meta import APPLIED_KEY, Position, decode_position
from kvstore.storage.pages import META_BYTES, parse_meta

CHUNK_SIZE: Final = 256 * 1024
"""Bytes of a chunk, except the last one."""


class SnapshotReader:
    """One copy: an asynchronous iterator of its chunks. Close it, or read it to its end within `async with`.

    meta: the `meta` rows by name, among them those of Backend.meta. applied: the position of the state in the log.
    size: bytes of the whole copy.
    """

    def __init__(self, helper: Helper, meta: dict[bytes, bytes], first: bytearray) -> None:
        """Made by start()."""
        self.meta = {key.decode(): value for key, value in meta.items()}
        self.applied: Position = decode_position(meta.get(APPLIED_KEY))
        self._helper = helper
        self._buffer = first
        self._sent = 0
        page_size = parse_meta(bytes(first[:META_BYTES]), "the copy").page_size
        metas = [parse_meta(bytes(first[at : at + META_BYTES]), "the copy") for at in (0, page_size)]
        self.size = max(metas, key=lambda meta: meta.txn_id).file_size

    @classmethod
    async def start(cls, path: Path, tables: Sequence[TableSpec]) -> SnapshotReader:
        """Start copying the newest commit of the environment in `path`.

        Raises CorruptStore if some of it cannot be read, SnapshotFailed if the process dies otherwise.
        """
        helper = Helper((COPY, *describe(path, tables)))
        try:
            (sound, meta), rest = await helper.read_frame()
            if not sound:
                raise messages.decode_error(*meta)
            first = bytearray(rest)
            while len(first) < CHUNK_SIZE and (more := await helper.read()):
                first += more
            return cls(helper, meta, first)
        except BaseException as error:
            helper.close()
            if isinstance(error, EOFError):
                died = helper.died(path, "the process that copies it")
                raise died if isinstance(died, CorruptStore) else SnapshotFailed(str(died)) from None
            raise

    async def __aenter__(self) -> SnapshotReader:
        """Nothing but the reader itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def __aiter__(self) -> SnapshotReader:
        """The chunks, once."""
        return self

    async def __anext__(self) -> bytes:
        """The next chunk. Raises SnapshotFailed if the copy ends before it is whole."""
        buffer = self._buffer
        left = self.size - self._sent
        if not left:
            raise StopAsyncIteration
        wanted = min(CHUNK_SIZE, left)
        while len(buffer) < wanted:
            more = await self._helper.read()
            if not more:
                raise SnapshotFailed(f"the copy ended after {self._sent + len(buffer)} of {self.size} bytes")
            buffer += more
        chunk = bytes(buffer[:wanted])
        del buffer[:wanted]
        self._sent += wanted
        return chunk

    def close(self) -> None:
        """End the copying. Closing twice is fine."""
        self._helper.close()
