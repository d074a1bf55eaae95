"""Every encoder of the zoo goes the whole way at toy size: crops, network, pooling, probe, table."""

from dataclasses import replace

import pytest
import torch

import lemon_sc as lm
from lemon_sc.models import networks
from lemon_sc.models.zoo import ZOO


def toy(name):
    """A narrow, shallow network with random weights in place of the published one, and its card."""
    entry = ZOO[name]
    torch.manual_seed(0)
    card = entry.card
    if entry.kind == "vit":
        times = card.dim // entry.options["embed_dim"]
        small = {"embed_dim": 24, "depth": 1, "num_heads": 4}
        entry = replace(entry, options={**entry.options, **small}, size_px=4 * entry.options["patch_size"])
        card = replace(card, dim=24 * times, num_heads=4)
    if entry.kind == "conch":
        small = {"embed_dim": 24, "depth": 1, "num_heads": 4, "out_dim": 16, "pool_heads": 2}
        entry = replace(entry, options={**entry.options, **small}, size_px=64)
        card = replace(card, dim=16, num_heads=4)
    if entry.kind.startswith("resnet"):
        entry = replace(entry, size_px=32)
    network = networks.build(entry).eval()
    with torch.no_grad():  # as built, the class token of some hardly sees the image
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.05)
    return lm.models.as_encoder(networks.TileEncoder(network, size_px=entry.size_px, pooling=card.pooling), card)


@pytest.fixture(scope="module")
def measured(plain_sets):
    """Rows of all cards, and the width of each."""
    given = [toy(name) for name in ZOO]
    table = lm.bench.run("brecahad", encoders=given, data=plain_sets, most=24, protocols="stratified", device="cpu")
    return table, {encoder.card.name: encoder.card.dim for encoder in given}


@pytest.mark.parametrize("name", ZOO)
def test_a_card_gives_a_row_for_every_fold_and_score(measured, name):
    table, width = measured
    own = table[(table["encoder"] == name) & (table["protocol"] == "stratified") & (table["metric"] == "auc")]
    assert own["fold"].tolist() == [f"fold_{f}" for f in range(5)]
    assert own["value"].between(0, 1).all()
    assert own["dim"].unique().tolist() == [width[name]]


def test_tile_models_are_measured_in_all_their_ways(plain_sets):
    table = lm.bench.run("tile_level", encoders=[toy("dinov2_s"), "histogram"], data=plain_sets, most=12, device="cpu")
    names = ["dinov2_s:cls_40", "dinov2_s:cls_128", "dinov2_s:centre_128", "histogram"]
    assert table["encoder"].unique().tolist() == names
    assert table.groupby("encoder")["n"].max().nunique() == 1
