"""Validation of SEAL: embeddings that tell all units apart score 1, those that tell nothing are at chance."""

import pytest
import torch
from seal_units import tiny_encoder, tiny_recipe, units

from lemon_sc.train.seal_data import prepare_pairs
from lemon_sc.train.seal_network import build_seal
from lemon_sc.train.seal_valid import validate_seal


class Told(torch.nn.Module):
    """Gives the rows of a table, whatever it is shown."""

    def __init__(self, rows):
        super().__init__()
        self.rows, self.seen = rows, 0

    def forward(self, x):
        self.seen += len(x)
        return self.rows[self.seen - len(x) : self.seen]


@pytest.fixture(scope="module")
def parts():
    data = prepare_pairs([units(200)], n_genes=15, smoothed=False)
    return build_seal(tiny_encoder(), data.panel, tiny_recipe()), data


def recall(parts, rows):
    network, data = parts
    network.encoder = Told(rows)
    return validate_seal(network, data, tiny_encoder().card)["recall_10"]


def test_what_tells_all_apart_is_right_and_what_tells_nothing_at_chance(parts):
    network, data = parts
    network.eval()
    values, known = (torch.from_numpy(v) for v in data.expression(range(200)))
    own = network.expression.encode(network.standardised(values, known)).z.detach()
    assert recall(parts, own) == 1.0
    assert recall(parts, torch.ones(200, 48)) == pytest.approx(10 / 200, abs=1e-6)
    assert recall(parts, own.where(torch.arange(200)[:, None] < 100, own.mean(dim=0))) == pytest.approx(0.5, abs=0.1)
    assert recall(parts, torch.full((200, 48), torch.nan)) == 0.0
