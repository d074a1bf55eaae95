"""What learns in SEAL: adapters on a frozen encoder, an expression side, and a decoder from image to expression."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from lemon_sc._core.errors import bad_value
from lemon_sc.models.expression_network import ExpressionNetwork
from lemon_sc.models.lora import LoraLinear, add_lora

if TYPE_CHECKING:
    from lemon_sc.models.encoder import Encoder
    from lemon_sc.models.gene_panel import GenePanel
    from lemon_sc.train.seal_recipe import SealRecipe


class SealNetwork(nn.Module):
    """Encoder with adapters, expression side, and decoder behind the image.

    Parameters
    ----------
    encoder
        A copy of an encoder's network; it is frozen and gets adapters.
    dim
        Width of its embedding.
    panel
        The genes.
    recipe
        Says the rest.
    """

    mean: torch.Tensor
    sd: torch.Tensor

    def __init__(self, encoder: nn.Module, dim: int, panel: GenePanel, recipe: SealRecipe) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(recipe.seed)
        self.encoder = encoder
        self.layers = add_lora(
            encoder, rank=recipe.rank, alpha=recipe.alpha, dropout=recipe.dropout, blocks=recipe.blocks,
            generator=generator,
        )  # fmt: skip
        self.adapters = [m for m in encoder.modules() if isinstance(m, LoraLinear)]
        n_genes, width = len(panel), recipe.decoder_width
        self.expression = ExpressionNetwork(
            n_genes, dim, hidden=recipe.hidden, n_flows=recipe.n_flows, generator=generator
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
            self.decoder = nn.Sequential(
                nn.Linear(dim, width), nn.ReLU(), nn.Dropout(recipe.dropout), nn.Linear(width, n_genes)
            )
        self.register_buffer("mean", torch.from_numpy(panel.mean))
        self.register_buffer("sd", torch.from_numpy(panel.sd))
        for last in (self.decoder[-1], self.expression.decoder[-1]):
            if isinstance(last, nn.Linear) and last.bias is not None:
                last.bias.data.copy_(self.mean)  # a gene that begins below 0 behind a ReLU would never learn

    def train(self, mode: bool = True) -> SealNetwork:  # noqa: FBT001, FBT002  (as in torch)
        """Training mode for all that learns; the encoder stays as it is at inference, its norms included."""
        super().train(mode)
        self.encoder.eval()
        for adapter in self.adapters:
            adapter.drop.train(mode)
        return self

    def standardised(self, values_BP: torch.Tensor, known_BP: torch.Tensor) -> torch.Tensor:
        """Log-normalised expression in training standard deviations from the training mean; 0 where unknown."""
        return torch.where(known_BP, (values_BP - self.mean) / self.sd, 0.0)

    def of_image(self, image_BD: torch.Tensor) -> torch.Tensor:
        """Log-normalised expression (B, P), >= 0, decoded from embeddings."""
        return F.relu(self.decoder(image_BD))

    def learned(self) -> dict[str, torch.Tensor]:
        """All tensors but those of the frozen encoder: what a checkpoint holds."""
        return {k: v for k, v in self.state_dict().items() if not k.startswith("encoder.") or ".lora_" in k}


def build_seal(encoder: Encoder, panel: GenePanel, recipe: SealRecipe) -> SealNetwork:
    """The network of a run at its beginning, on the CPU, in training mode.

    Parameters
    ----------
    encoder
        The encoder; a copy of its network is used.
    panel, recipe
        The genes, and the recipe.

    Returns
    -------
    The network.

    Raises
    ------
    ValueError
        The encoder has no weights, or no attention and MLP layers that adapters fit on.
    """
    if encoder.module is None:
        fix = "Name a vision transformer, for instance 'dinov2_s' or the file of an encoder of `lm.train.export`."
        raise bad_value("model", must="have a network that can learn", got=encoder.card.name, fix=fix)
    module = copy.deepcopy(encoder.module).cpu()
    return SealNetwork(module, encoder.card.dim, panel, recipe).train()
