"""A stream of crops to one embedding per row: devices, precision, memory, guards."""

from lemon_sc.embed.arrays import encode
from lemon_sc.embed.devices import resolve_batch_size, resolve_devices, resolve_dtype
from lemon_sc.embed.run import embed_batches

__all__ = ["embed_batches", "encode", "resolve_batch_size", "resolve_devices", "resolve_dtype"]
