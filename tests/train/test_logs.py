import csv
import struct

import pytest
import torch

from lemon_sc.train.events import EventFile, masked_crc
from lemon_sc.train.logs import Logs, Means, last_values


def fields(data):
    """Fields of a protocol buffer: (number, value), with a reader written for reading alone."""
    found, at = [], 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        number, kind = divmod(varint(), 8)
        if kind == 0:
            found.append((number, varint()))
            continue
        size = {1: 8, 5: 4}[kind] if kind != 2 else varint()
        found.append((number, data[at : at + size]))
        at += size
    return found


def events(path):
    data, at, found = path.read_bytes(), 0, []
    while at < len(data):
        (size,) = struct.unpack("<Q", data[at : at + 8])
        body = data[at + 12 : at + 12 + size]
        assert struct.unpack("<I", data[at + 8 : at + 12])[0] == masked_crc(data[at : at + 8])
        assert struct.unpack("<I", data[at + 12 + size : at + 16 + size])[0] == masked_crc(body)
        found.append(dict(fields(body)))
        at += 16 + size
    return found


def test_checksum_has_the_published_value():
    """CRC-32C of "123456789" is 0xE3069283 (RFC 3720, B.4); the mask is that of TFRecord files."""
    crc = 0xE3069283
    assert masked_crc(b"123456789") == (((crc >> 15) | (crc << 17)) + 0xA282EAD8) % 2**32


def test_events_are_read_back(tmp_path):
    file = EventFile(tmp_path, step=300)
    file.add(300, {"loss": 1.5, "rank": -2.0})
    file.close()
    version, start, row = events(file.path)
    assert version[3] == b"brain.Event:2"
    assert start[2] == 300
    assert fields(start[7]) == [(1, 1)]
    assert row[2] == 300
    values = [dict(fields(content)) for _, content in fields(row[5])]
    assert [(v[1], struct.unpack("<f", v[2])[0]) for v in values] == [(b"loss", 1.5), (b"rank", -2.0)]


def test_tensorboard_reads_them(tmp_path):
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    file = EventFile(tmp_path, step=0)
    file.add(7, {"loss": 1.5})
    file.close()
    found = loader.EventAccumulator(str(tmp_path))
    found.Reload()
    assert [(e.step, e.value) for e in found.Scalars("loss")] == [(7, 1.5)]


def row(logs, step, **metrics):
    logs.row(step=step, epoch=step / 4, images=step * 8, new=8, peak_share=0.0, metrics=metrics)


def test_table_loses_what_came_after_the_checkpoint(tmp_path):
    logs = Logs(tmp_path, columns=["loss", "probe"], step=0, steps=9)
    for step in range(1, 6):
        row(logs, step, loss=step / 2, **({"probe": 0.5} if step == 2 else {}))
    logs.close()
    logs = Logs(tmp_path, columns=["loss", "probe"], step=3, steps=9)
    row(logs, 4, loss=9.0)
    logs.close()
    with (tmp_path / "metrics.csv").open() as file:
        found = list(csv.DictReader(file))
    assert [(r["step"], r["loss"]) for r in found] == [("1", "0.5"), ("2", "1"), ("3", "1.5"), ("4", "9")]
    seconds = [float(r["seconds"]) for r in found]
    assert seconds == sorted(seconds)
    assert last_values(tmp_path)["probe"] == 0.5
    assert last_values(tmp_path)["loss"] == 9
    assert last_values(tmp_path / "none") == {}


def test_a_metric_without_a_column_is_an_error(tmp_path):
    logs = Logs(tmp_path, columns=["loss"], step=0, steps=9)
    with pytest.raises(ValueError, match=r"Metrics without a column in .*\['los'\]"):
        row(logs, 1, los=1.0)
    logs.close()


def test_means_go_through_a_checkpoint():
    means = Means()
    for value in (1.0, 2.0):
        means.add({"loss": torch.tensor(value)})
    means = Means(means.state_dict())
    means.add({"loss": torch.tensor(6.0), "rank": torch.tensor(4.0)})
    assert means.take() == {"loss": 3.0, "rank": 4.0}
    assert means.take() == {}


def test_collapse_is_said_once(tmp_path, caplog):
    logs = Logs(tmp_path, columns=["cosine"], step=0, steps=9)
    logs.watch({"cosine": 0.5}, step=1)
    logs.watch({"loss": 0.5}, step=1)
    assert not caplog.records
    for _ in range(2):
        logs.watch({"cosine": 0.999, "rank": 1.1}, step=2)
    logs.close()
    assert [r.getMessage()[:60] for r in caplog.records] == [
        "At step 2 all embeddings point the same way (mean cosine 0.9"
    ]
