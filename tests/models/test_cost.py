import pytest
import torch
from timm.layers import SwiGLUPacked
from timm.models.vision_transformer import VisionTransformer
from torch.utils.flop_counter import FlopCounterMode

from lemon_sc.models import macs, vit_b8_40, vit_s8_40


@pytest.mark.parametrize(("build", "layers", "everything"), [(vit_s8_40, 0.5539, 0.5601), (vit_b8_40, 2.2120, 2.2245)])
def test_published_counts(build, layers, everything):
    model = build()
    assert macs(model) / 1e9 == pytest.approx(layers, abs=1e-4)
    assert macs(model, attention=True) / 1e9 == pytest.approx(everything, abs=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"reg_tokens": 4, "no_embed_class": True},
        {"mlp_layer": SwiGLUPacked, "act_layer": torch.nn.SiLU, "mlp_ratio": 5.375, "init_values": 1e-5},
    ],
)
def test_against_the_operations_that_torch_counts(options):
    model = VisionTransformer(
        img_size=32, patch_size=8, embed_dim=64, depth=2, num_heads=4, num_classes=0, **options
    ).eval()
    for block in model.blocks:
        block.attn.fused_attn = False  # the fused kernel is not counted
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, 32, 32))
    assert 2 * macs(model, attention=True) == counter.get_total_flops()


def test_other_networks_are_refused():
    with pytest.raises(TypeError, match="VisionTransformer, got Linear"):
        macs(torch.nn.Linear(2, 2))
