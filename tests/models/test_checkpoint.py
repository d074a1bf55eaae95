"""Weight files that are damaged, cut short, or something else: each is told by its own message, whatever the bytes."""

import io
import pickle
import re

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file

import lemon_sc as lm
from lemon_sc.models.checkpoint import read_tensors
from lemon_sc.models.vit import vit_s8_40

STATE = {f"layer{i}.weight": torch.arange(7.0 * (i + 1)).reshape(7, i + 1) for i in range(4)}


def saved(**options):
    stream = io.BytesIO()
    torch.save({"state_dict": STATE}, stream, **options)
    return stream.getvalue()


FILES = {
    "zip.pth": saved(),
    "old.pth": saved(_use_new_zipfile_serialization=False),
    "plain.safetensors": save(STATE),
}


@pytest.mark.parametrize("name", FILES)
def test_whole_files_are_read(tmp_path, name):
    (tmp_path / name).write_bytes(FILES[name])
    read = read_tensors(tmp_path / name)
    assert all(torch.equal(read[k], v) for k, v in STATE.items())
    assert set(read) == set(STATE)


@pytest.mark.parametrize("name", FILES)
def test_a_file_cut_anywhere_says_that_it_is_cut_short(tmp_path, name):
    content, path = FILES[name], tmp_path / name
    said = "is not a readable .*cut short.*Fetch it again"
    if name == "old.pth":  # half the name of a class is the name of another one
        said += "|is not a checkpoint of plain tensors"
    for length in [*range(1, 120), *np.linspace(120, len(content) - 1, 60).astype(int)]:
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=f"{re.escape(name)} ({said})"):
            read_tensors(path)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize(
    "content",
    [
        b"abc",
        b"not a checkpoint at all",
        b'{"error": "Unauthorized"}',
        b"\x00" * 500,
        b"\xff" * 500,
        b"PK\x03\x04 an archive that is none",
        np.random.default_rng(0).bytes(3000),
    ],
    ids=lambda c: repr(c[:12]),
)
def test_other_bytes_are_no_checkpoint(tmp_path, suffix, content):
    path = tmp_path / f"w.{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"w\.{suffix} is not a readable .*cut short") as error:
        lm.models.load("uni", weights=path)
    assert "weights_only" not in str(error.value), "the reader's advice to read it all the same is not passed on"


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_random_bytes_never_end_in_another_error(tmp_path):
    r = np.random.default_rng(1)
    for i in range(300):
        path = tmp_path / ("w.pth" if i % 2 else "w.safetensors")
        path.write_bytes(r.bytes(int(r.integers(1, 60))))
        with pytest.raises(ValueError, match="is not a"):
            read_tensors(path)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "is not a weight file: it is empty. Fetch it again"),
        (b"\n<!DOCTYPE html><html><body>Sign in</body></html>", "but a web page: the download needs a login"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "pointer of Git LFS.*git lfs pull"),
    ],
)
def test_what_often_lies_in_place_of_weights_is_named(tmp_path, suffix, content, match):
    path = tmp_path / f"w.{suffix}"
    path.write_bytes(content)
    for load in (read_tensors, lm.models.load, lambda file: lm.models.load("uni", weights=file)):
        with pytest.raises(ValueError, match=rf"w\.{suffix} is not a weight file.*") as error:
            load(path)
        assert re.search(match, str(error.value))


def test_safetensors_under_the_name_of_a_pickle_are_read(tmp_path):
    save_file(STATE, tmp_path / "pytorch_model.bin")
    assert set(read_tensors(tmp_path / "pytorch_model.bin")) == set(STATE)


def test_a_file_without_tensors_says_so(tmp_path):
    save_file({}, tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match="none.safetensors holds no state dict"):
        read_tensors(tmp_path / "none.safetensors")


class Trojan:
    def __reduce__(self):
        return print, ("this must not run",)


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_what_a_file_wants_to_run_is_named_and_not_run(tmp_path, capsys, how):
    path = tmp_path / "bad.pth"
    torch.save(Trojan(), path) if how == "torch" else path.write_bytes(pickle.dumps(Trojan(), protocol=2))
    with pytest.raises(ValueError, match="bad.pth is not a") as error:
        read_tensors(path)
    assert capsys.readouterr().out == ""
    if how == "torch":
        assert re.search(r"it asks for (\w+\.)?print\. Files that need code", str(error.value))


class Net:
    pass


@pytest.mark.parametrize("content", [Net(), STATE, ["a", 1]], ids=["object", "state dict", "list"])
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_whole_pickle_is_not_called_cut_short(tmp_path, content, suffix, protocol):
    whole = pickle.dumps(content, protocol=protocol)
    path = tmp_path / f"raw.{suffix}"
    path.write_bytes(whole)
    with pytest.raises(ValueError, match="is not a checkpoint of plain tensors") as error:
        read_tensors(path)
    assert re.search(r"[Ss]ave the state dict alone.*safetensors", str(error.value))
    assert "cut short" not in str(error.value)
    path.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match="raw.* is not a"):
        read_tensors(path)


@pytest.mark.parametrize("protocol", [4, 5])
def test_a_pickle_in_an_archive_that_torch_cannot_read_safely_is_told(tmp_path, protocol):
    torch.save(Net(), tmp_path / "net.pth", pickle_protocol=protocol)
    with pytest.raises(ValueError, match=r"net\.pth is not a checkpoint of plain tensors but a pickle.*safetensors"):
        read_tensors(tmp_path / "net.pth")
    whole = (tmp_path / "net.pth").read_bytes()
    (tmp_path / "half.pth").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"half\.pth is not a readable .*cut short"):
        read_tensors(tmp_path / "half.pth")


def test_a_file_without_leave_to_read_speaks_for_itself(tmp_path, monkeypatch):
    path = tmp_path / "w.pth"
    path.write_bytes(FILES["zip.pth"])

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(torch, "load", refuse)
    with pytest.raises(PermissionError, match="Permission denied"):
        read_tensors(path)


def test_weights_of_another_width_are_told_by_name_and_shape(tmp_path):
    other = {k: v[..., :192].clone() if v.shape[-1] == 384 else v for k, v in vit_s8_40().state_dict().items()}
    torch.save(other, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"cls_token` has shape \(1, 1, 192\), expected \(1, 1, 384\) or"):
        lm.models.load("lemon", weights=tmp_path / "w.pth")
