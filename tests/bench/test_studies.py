"""Cost by published counts, fields and pooling by hand, corpora by planted scores."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import lemon_sc as lm
from lemon_sc.bench import encoders, studies
from lemon_sc.bench.rows import as_table
from lemon_sc.models import networks
from lemon_sc.models.zoo import ZOO

BALANCED = "balanced_accuracy"


def tile(name="dinov2_s"):
    """A narrow network in place of the published one, with initial weights."""
    entry = ZOO[name]
    torch.manual_seed(0)
    network = networks.build(entry, embed_dim=24, depth=1, num_heads=4)
    with torch.no_grad():  # as built, the class token hardly sees the image
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.1)
    card = replace(entry.card, dim=24, num_heads=4)
    return lm.models.as_encoder(networks.TileEncoder(network, size_px=224, pooling="cls"), card)


def test_cost_is_that_of_the_published_tables(monkeypatch):
    cards = [card for card in lm.models.available() if card.name in {"imagenet_r18", "lemon", "uni", "morphometry"}]
    monkeypatch.setattr(studies, "available", lambda: cards)
    monkeypatch.setattr(studies, "TIMED_CROPS", 4)
    given = {"random_vit_s8": encoders.untrained(), "morphometry": lm.models.load("morphometry")}
    table = as_table(studies.cost(lm.bench.task("cost"), given, device="cpu"))
    at = table.set_index(["encoder", "metric"])["value"]
    assert at["random_vit_s8", "gmacs"] == at["lemon", "gmacs"] == pytest.approx(0.5539, abs=1e-4)
    assert at["random_vit_s8", "million_parameters"] == pytest.approx(21.378816)
    assert at["uni", "gmacs"] == pytest.approx(59.65, abs=0.006)
    assert at["uni", "gmacs_attention"] == pytest.approx(61.55, abs=0.006)
    assert at["uni", "million_parameters"] == pytest.approx(303.350784)
    assert at["imagenet_r18", "gmacs"] == pytest.approx(1.814, abs=0.001)
    timed = table[table["metric"] == "nuclei_per_second"]
    assert timed["encoder"].tolist() == list(given)
    assert (timed["value"] > 0).all()
    assert set(table.loc[table["encoder"] == "morphometry", "metric"]) == {"nuclei_per_second"}


def test_a_network_whose_layers_cannot_be_counted_is_timed_all_the_same(monkeypatch):
    monkeypatch.setattr(studies, "available", list)
    monkeypatch.setattr(studies, "TIMED_CROPS", 4)
    module = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 5))
    own = lm.models.as_encoder(module, lm.models.ModelCard(name="own", dim=5))
    table = as_table(studies.cost(lm.bench.task("cost"), {"own": own}, device="cpu"))
    assert table["metric"].tolist() == ["million_parameters", "nuclei_per_second"]
    assert table["value"][0] == pytest.approx(20e-6)


def test_class_token_and_central_tokens():
    encoder, plain = tile(), lm.models.load("morphometry")
    found = studies.poolings({"d": encoder, "m": plain})
    assert list(found) == ["d:cls_40", "d:cls_128", "d:centre_128", "m"]
    assert [e.card.input_px for e in found.values()] == [40, 128, 128, 40]
    crops = np.random.default_rng(0).integers(0, 256, (2, 128, 128, 3), dtype=np.uint8)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (encoder.card.mean, encoder.card.std))
    x = (torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 255 - mean) / std
    with torch.inference_mode():
        x = torch.nn.functional.interpolate(x, (224, 224), mode="bicubic", antialias=True)
        tokens = encoder.module.backbone.forward_features(x).numpy()
    middle = [1 + r * 16 + c for r in range(6, 10) for c in range(6, 10)]
    np.testing.assert_allclose(found["d:centre_128"].encode(crops), tokens[:, middle].mean(axis=1), atol=1e-3)
    np.testing.assert_allclose(found["d:cls_128"].encode(crops), tokens[:, 0], atol=1e-3)
    assert np.abs(found["d:cls_40"].encode(crops) - tokens[:, 0]).max() > 1e-2


def test_scores_by_the_corpus_that_an_encoder_was_trained_on():
    def trained(name, **corpus):
        card = lm.models.ModelCard(name=name, dim=5, training={"corpus": corpus} if corpus else {})
        return lm.models.as_encoder(lambda crops: crops, card)

    given = {"small": trained("small", n_crops=1000, n_slides=2, n_organs=1), "large": trained("large", n_crops=9000),
             "other": trained("other")}  # fmt: skip
    rows = [
        {
            "task": task,
            "encoder": name,
            "protocol": protocol,
            "fold": f,
            "metric": "balanced_accuracy",
            "value": value + f,
        }
        for name, values in {"small": (0.1, 0.3), "large": (0.5, 0.7), "other": (0.9, 0.9)}.items()
        for task, value in zip("ab", values, strict=True)
        for protocol in ("stratified", "slide")
        for f in (0.0, 0.1 if protocol == "stratified" else 9.0)
    ]
    table = as_table(studies.composition(lm.bench.task("composition"), given, as_table(rows)))
    at = table.set_index(["encoder", "protocol", "fold", "metric"])["value"]
    assert at["small", "size", "1000", "balanced_accuracy"] == pytest.approx(0.25)
    assert at["large", "size", "9000", "balanced_accuracy"] == pytest.approx(0.65)
    assert at["small", "size", "1000", "standard_error"] == pytest.approx(0.1)
    assert at["small", "diversity", "2 x 1", "balanced_accuracy"] == pytest.approx(0.25)
    assert "other" not in set(table["encoder"])
    assert "diversity" not in set(table.loc[table["encoder"] == "large", "protocol"])
