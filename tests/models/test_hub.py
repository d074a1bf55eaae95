"""Weights from the hub: a small hub on this machine, the real client, and every way in which it can fail."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from safetensors.torch import save

from lemon_sc import models
from lemon_sc.models import ModelCard, hub, networks
from lemon_sc.models.zoo import ZOO

COMMIT = "a" * 40
SMALL = {"embed_dim": 24, "depth": 1, "num_heads": 4}

# what the tests run in a process of its own, since the client reads its environment on import
PRELUDE = """
import json, sys
from dataclasses import replace
from lemon_sc import models
from lemon_sc.models import ModelCard, hub
from lemon_sc.models.zoo import ZOO

def card(repo):
    return ModelCard(name=repo, dim=2, hub="lab/" + repo, files=("model.safetensors", "pytorch_model.bin"), gated=True)

def attempt(action):
    try:
        return action()
    except Exception as error:
        return [type(error).__name__, str(error)]

def find(repo, **options):
    def action():
        found = hub.find(card(repo), **options)
        return [found.path.name, found.revision, found.path.read_bytes().decode("latin-1")[:5]]
    return attempt(action)

def toy():
    entry = ZOO["uni"]
    options = {**entry.options, "embed_dim": 24, "depth": 1, "num_heads": 4}
    new = replace(entry.card, dim=24, num_heads=4, hub="lab/toy")
    ZOO["uni"] = replace(entry, options=options, card=new)
"""


def toy():
    entry = ZOO["uni"]
    return replace(entry, options={**entry.options, **SMALL}, card=replace(entry.card, dim=24, num_heads=4))


def toy_weights():
    network = networks.build(toy())
    return save({k: v.contiguous() for k, v in network.state_dict().items()})


class Hub(ThreadingHTTPServer):
    """Answers `GET` and `HEAD` of /{lab}/{repo}/resolve/{revision}/{file} as the Hugging Face Hub does."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.files = {
            ("safe", "model.safetensors"): b"safe!",
            ("bin", "pytorch_model.bin"): b"bin!!",
            ("short", "model.safetensors"): b"short",
            ("toy", "model.safetensors"): toy_weights(),
        }
        self.asked = []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class Answer(BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, *, body):
        parts = self.path.split("?")[0].strip("/").split("/")
        self.server.asked.append((self.command, self.headers.get("Authorization"), self.path))
        repo, revision, file = parts[1], parts[3], parts[-1]
        content = self.server.files.get((repo, file))
        if repo == "gated":
            return self.refuse(403 if self.headers.get("Authorization") else 401, "GatedRepo")
        if repo not in {r for r, _ in self.server.files}:
            return self.refuse(401, "RepoNotFound")
        if revision not in {"main", COMMIT}:
            return self.refuse(404, "RevisionNotFound")
        if content is None:
            return self.refuse(404, "EntryNotFound")
        self.send_response(200)
        size = len(content) + (7 if repo == "short" and not body else 0)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", str(size))
        self.end_headers()
        if body:
            self.wfile.write(content)
        return None

    def refuse(self, code, word):
        self.send_response(code)
        self.send_header("X-Error-Code", word)
        self.send_header("X-Error-Message", word)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args):
        """Requests are kept in `asked`, not printed."""


def run(code, home, url, **environment):
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING", "LEMON_SC"))}
    environment = {"HF_ENDPOINT": url, "HF_HOME": str(home), "OMP_NUM_THREADS": "1", **environment}
    environment |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    result = subprocess.run(
        [sys.executable, "-c", f"{PRELUDE}\nprint(json.dumps({code}))"],
        env={**kept, **environment}, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """What a first machine with a network sees, and then, with the same cache, one without."""
    home = tmp_path_factory.mktemp("hf")
    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    first = run(
        """{
        "unasked": find("safe"),
        "safe": find("safe", download=True), "bin": find("bin", download=True),
        "by commit": find("safe", download=True, revision=40 * "a"),
        "gated": find("gated", download=True), "missing": find("nothing", download=True),
        "revision": find("safe", download=True, revision="v9"), "short": find("short", download=True),
        "status": (toy(), [models.status("uni"), attempt(lambda: models.load("uni"))[0]])[1],
        "load": attempt(lambda: [models.load("uni", download=True).card.__dict__[k] for k in ("sha256", "revision")]),
        "after": models.status("uni"),
        }""",
        home,
        server.url,
    )
    asked = list(server.asked)
    login = run("find('gated', download=True)", home, server.url, HF_TOKEN="hf_not_allowed")
    before = len(server.asked)
    again = run("[find('safe', download=True), find('bin')]", home, server.url)
    silent = len(server.asked) == before
    url = server.url
    server.shutdown()
    server.server_close()
    code = "[find('safe'), find('safe', download=True), find('new', download=True)]"
    impatient = f"(setattr(__import__('time'), 'sleep', lambda s: None), {code})[1]"  # between the client's retries
    return {
        "home": home,
        **first,
        "login": login,
        "asked": asked,
        "again": again,
        "silent": silent,
        "offline": run(code, home, url, HF_HUB_OFFLINE="1"),
        "unreachable": run(impatient, home, url),
    }


def test_nothing_is_fetched_unasked(session):
    kind, text = session["unasked"]
    assert kind == "FileNotFoundError"
    for words in ("lab/safe", "not in the cache", "download=True", "weights=PATH", "Accept the terms", "hf auth login"):
        assert words in text
    assert session["asked"][0][2].split("/")[1:3] == ["lab", "safe"]
    assert session["status"][0].startswith("not ready: needs download=True from lab/toy after accepting its terms")
    assert session["status"][1] == "FileNotFoundError"


def test_download_prefers_safetensors_and_records_the_commit(session):
    assert session["safe"] == ["model.safetensors", COMMIT, "safe!"]
    assert session["bin"] == ["pytorch_model.bin", COMMIT, "bin!!"]
    assert session["by commit"] == session["safe"]
    assert not any(token for _, token, _ in session["asked"])


def test_a_whole_encoder_is_fetched_and_described(session):
    blob = next(session["home"].glob("hub/models--lab--toy/snapshots/*/model.safetensors"))
    assert session["load"] == [hashlib.sha256(blob.read_bytes()).hexdigest(), COMMIT]
    assert session["after"] == f"ready: {blob}"


def test_a_cached_model_asks_neither_network_nor_login(session):
    assert session["again"] == [session["safe"], session["bin"]]
    assert session["silent"]
    for where in ("offline", "unreachable"):
        assert session[where][:2] == [session["safe"]] * 2


@pytest.mark.parametrize("where", ["offline", "unreachable"])
def test_a_download_without_network_says_so(session, where):
    kind, text = session[where][2]
    assert kind == "ConnectionError"
    assert "the hub cannot be reached" in text
    assert "HF_HOME" in text
    assert "weights=PATH" in text


@pytest.mark.parametrize("who", ["gated", "login"])
def test_a_gated_model_says_how_to_get_leave(session, who):
    kind, text = session[who]
    assert kind == "PermissionError"
    for words in ("lab/gated is gated", "Accept its terms at https://huggingface.co/lab/gated", "hf auth login"):
        assert words in text


def test_what_is_not_on_the_hub_is_named(session):
    assert session["missing"][0] == session["revision"][0] == "FileNotFoundError"
    assert "shows no repository lab/nothing" in session["missing"][1]
    assert "lab/safe has no revision 'v9'" in session["revision"][1]


def test_a_download_that_breaks_off_is_not_kept(session):
    kind, text = session["short"]
    assert kind == "ConnectionError"
    assert "download failed, try it again" in text
    assert not list(session["home"].glob("hub/models--lab--short/snapshots/*/*"))


def test_a_damaged_file_of_the_cache_is_told_by_its_digest(session, tmp_path, monkeypatch):
    copy = tmp_path / "hf"
    shutil.copytree(session["home"], copy, symlinks=True)
    link = next(copy.glob("hub/models--lab--toy/snapshots/*/model.safetensors"))
    blob = link.resolve()
    monkeypatch.setitem(ZOO, "uni", toy())
    monkeypatch.setattr(hub, "cached", lambda card, revision=None: hub.Weights(link, COMMIT))
    assert models.load("uni").card.sha256 == blob.name
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1  # the file stays readable: only the digest tells
    blob.write_bytes(content)
    with pytest.raises(ValueError, match=f"{blob} is damaged: .* fetch the weights again with download=True"):
        models.load("uni")


def test_a_repository_without_weights_is_named(monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import RemoteEntryNotFoundError

    def no_entry(*args, **kwargs):
        raise RemoteEntryNotFoundError.__new__(RemoteEntryNotFoundError)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", no_entry)
    card = ModelCard(name="m", dim=2, hub="lab/without-any-weights", files=("a.bin", "b.bin"))
    with pytest.raises(FileNotFoundError, match=r"revision 'main' holds none of a.bin, b.bin"):
        hub.find(card, download=True)


def test_errors_of_the_disk_speak_for_themselves(monkeypatch):
    import huggingface_hub

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", full)
    with pytest.raises(OSError, match="No space left") as error:
        hub.find(ModelCard(name="m", dim=2, hub="lab/none", files=("a.bin",)), download=True)
    assert error.value.errno == 28


def test_weights_that_are_on_no_hub():
    with pytest.raises(
        FileNotFoundError, match=r"not on the Hugging Face Hub\. Get them from https://github.com/AIMLab"
    ):
        hub.find(ZOO["volta_nucls"].card, download=True)


def test_looking_at_every_status_builds_nothing():
    code = (
        "import sys; from lemon_sc import models; print([models.status(c.name)[:5] for c in models.available()][0]); "
        "print('torch' in sys.modules)"
    )
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120).stdout
    assert made.split() == ["ready", "False"]


def test_lemon_comes_from_the_cache_too(tmp_path, monkeypatch):
    monkeypatch.delenv("LEMON_SC_WEIGHTS", raising=False)
    path = tmp_path / "snapshots" / COMMIT / "lemon.pth.tar"
    path.parent.mkdir(parents=True)
    torch.save(models.vit_s8_40().state_dict(), path)
    monkeypatch.setattr(hub, "cached", lambda card, revision=None: hub.Weights(path, COMMIT))
    assert models.load("lemon").card.revision == COMMIT
    assert models.status("lemon") == f"ready: {path}"
