"""Scalars in TensorBoard's file format, written without TensorBoard.

A file is a row of records: length, checksum of the length, an event, checksum of the event; the checksum is
Castagnoli's CRC-32, masked. An event is a protocol buffer: 1 wall time, 2 step, 3 version of the file, 5 summary, 7
start of a session.
"""

from __future__ import annotations

import socket
import struct
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_POLYNOMIAL = 0x82F63B78
_TABLE = []
for _byte in range(256):
    _value = _byte
    for _ in range(8):
        _value = (_value >> 1) ^ (_POLYNOMIAL if _value & 1 else 0)
    _TABLE.append(_value)


def masked_crc(data: bytes) -> int:
    """Checksum of a record.

    Parameters
    ----------
    data
        Its bytes.

    Returns
    -------
    32 bits.
    """
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _block(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _event(step: int, content: bytes) -> bytes:
    return _varint(1 << 3 | 1) + struct.pack("<d", time.time()) + _varint(2 << 3) + _varint(step) + content


class EventFile:
    """A file of scalars that TensorBoard shows.

    Parameters
    ----------
    folder
        Where to; a new file is begun.
    step
        At which step: what older files of the folder hold from there on is not shown any more.
    """

    def __init__(self, folder: Path, *, step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time_ns() // 1_000_000_000:010d}.{socket.gethostname()}.{time.time_ns()}"
        self.path = folder / name
        self._file = self.path.open("wb")
        self._record(_event(0, _block(3, b"brain.Event:2")))
        if step:
            self._record(_event(step, _block(7, _varint(1 << 3) + _varint(1))))

    def add(self, step: int, scalars: Mapping[str, float]) -> None:
        """Write scalars of a step, and flush.

        Parameters
        ----------
        step
            The step.
        scalars
            Values by name.
        """
        values = b"".join(
            _block(1, _block(1, name.encode()) + _varint(2 << 3 | 5) + struct.pack("<f", value))
            for name, value in scalars.items()
        )
        self._record(_event(step, _block(5, values)))
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _record(self, data: bytes) -> None:
        length = struct.pack("<Q", len(data))
        checks = (struct.pack("<I", masked_crc(part)) for part in (length, data))
        self._file.write(length + next(checks) + data + next(checks))
