"""Weights on the Hugging Face Hub: from its cache, or fetched when asked. A cached file never needs the network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lemon_sc.models.cards import ModelCard


@dataclass(frozen=True)
class Weights:
    """A weight file on this machine, and the commit of the repository it comes from."""

    path: Path
    revision: str


def find(card: ModelCard, *, download: bool = False, revision: str | None = None) -> Weights:
    """The weight file of a model, from the cache if it is there.

    Parameters
    ----------
    card
        The model; its `hub` and `files` say what to look for.
    download
        Fetch the file where the cache lacks it. Without it, nothing leaves this machine.
    revision
        Commit, tag or branch; None takes ``main``.

    Returns
    -------
    The file in the cache and its commit.

    Raises
    ------
    FileNotFoundError
        Not in the cache and not to be downloaded; or no such repository, revision or file.
    PermissionError
        The repository is gated, and its terms are not accepted or nobody is logged in.
    ConnectionError
        To be downloaded, but offline, or the hub cannot be reached, or the download breaks off.
    OSError
        The cache cannot be written.
    """
    from huggingface_hub import errors

    at_hand = cached(card, revision=revision)
    if at_hand is not None:
        return at_hand
    if not card.hub or not download:
        place = "in the cache of the Hugging Face Hub" if card.hub else "on the Hugging Face Hub"
        raise FileNotFoundError(how_to_get(card, f"they are not {place}."))
    page = f"https://huggingface.co/{card.hub}"
    try:
        fetched = _fetch(card, revision)
    except errors.GatedRepoError as error:
        why = f"the repository {card.hub} is gated. Accept its terms at {page}, log in (`hf auth login`), try again."
        raise PermissionError(_sentence(card, why)) from error
    except errors.RevisionNotFoundError as error:
        raise FileNotFoundError(_sentence(card, f"{card.hub} has no revision {revision!r}; see {page}.")) from error
    except errors.RepositoryNotFoundError as error:
        why = f"the hub shows no repository {card.hub} to you: it is not there, or private, or the login is not valid."
        raise FileNotFoundError(_sentence(card, why)) from error
    except errors.LocalEntryNotFoundError as error:
        why = (
            f"they are not in the cache, and the hub cannot be reached ({error.__cause__ or error}). Fetch them on a "
            f"machine with a network, and bring the cache (`HF_HOME`) or the file along ({_by_path(card)})."
        )
        raise ConnectionError(_sentence(card, why)) from error
    except (OSError, errors.HTTPError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # a full disk or a folder without leave to write speaks for itself
        raise ConnectionError(_sentence(card, f"the download failed, try it again. {str(error).strip()}")) from error
    if fetched is None:
        why = f"{card.hub} at revision {revision or 'main'!r} holds none of {', '.join(card.files)}."
        raise FileNotFoundError(_sentence(card, why))
    return fetched


def _fetch(card: ModelCard, revision: str | None) -> Weights | None:
    """Download the first of the card's files that the repository has, None if it has none."""
    from huggingface_hub import errors, hf_hub_download

    for name in card.files:
        try:
            return _described(hf_hub_download(card.hub, name, revision=revision))
        except errors.RemoteEntryNotFoundError:
            continue  # the next name is tried, and the lack of all is an error
    return None


def cached(card: ModelCard, *, revision: str | None = None) -> Weights | None:
    """The weight file in the cache of the hub, None if it is not there; no network, no login.

    Parameters
    ----------
    card
        The model.
    revision
        Commit, tag or branch; None takes ``main``.

    Returns
    -------
    The file and its commit, or None.
    """
    from huggingface_hub import try_to_load_from_cache

    for name in card.files if card.hub else ():
        path = try_to_load_from_cache(card.hub, name, revision=revision)
        if isinstance(path, str):
            return _described(path)
    return None


def _described(path: str) -> Weights:
    """The commit is the folder under ``snapshots`` in the cache."""
    parts = Path(path).parts
    return Weights(Path(path), parts[len(parts) - 1 - parts[::-1].index("snapshots") + 1])


def how_to_get(card: ModelCard, why: str) -> str:
    """Message for weights that are not at hand.

    Parameters
    ----------
    card
        The model.
    why
        What was looked at, as a sentence.

    Returns
    -------
    The message.
    """
    if not card.hub:
        return f"{_sentence(card, why)} Get them from {card.url} and name the file: {_by_path(card)}."
    terms = f" Accept the terms at https://huggingface.co/{card.hub} and log in (`hf auth login`) first." * card.gated
    return (
        f"{_sentence(card, why)} Nothing is fetched unasked: lm.models.load({card.name!r}, download=True) fetches them "
        f"from the Hugging Face repository {card.hub}, once.{terms} A file that you have ({' or '.join(card.files)}) "
        f"is named by {_by_path(card)}."
    )


def _sentence(card: ModelCard, why: str) -> str:
    return f"No weights for the model {card.name!r}: {why}"


def _by_path(card: ModelCard) -> str:
    return f"lm.models.load({card.name!r}, weights=PATH)"
