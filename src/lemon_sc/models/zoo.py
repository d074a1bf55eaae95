"""The encoders that others have published, one declaration each. Nothing here needs torch.

They were trained on tiles, so a crop is resized to the size they know. Networks are built by `networks`, from the
options given here; numbers are those of the published model cards.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lemon_sc.models.cards import ModelCard

if TYPE_CHECKING:
    from collections.abc import Mapping

IMAGENET: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
OPTIMUS: dict[str, Any] = {"mean": (0.707223, 0.578729, 0.703617), "std": (0.211883, 0.230117, 0.177517)}
CLIP: dict[str, Any] = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}
VOLTA: dict[str, dict[str, Any]] = {
    "nucls": {"mean": (0.5452, 0.3847, 0.5605), "std": (0.1911, 0.1716, 0.1435)},
    "pannuke": {"mean": (0.6617, 0.5159, 0.7612), "std": (0.1489, 0.1516, 0.1044)},
    "consep": {"mean": (0.7367, 0.5941, 0.8084), "std": (0.1548, 0.1683, 0.1078)},
    "lizard": {"mean": (0.6565, 0.4702, 0.7242), "std": (0.1326, 0.1269, 0.0953)},
}
HUB_FILES = ("model.safetensors", "pytorch_model.bin")
FIELD_PX = 40
"""Side of the crop by default: that of the nucleus, 10 um."""
CENTRE_FIELD_PX = 128
"""Side of the crop for centre tokens: 32 um around the nucleus, of which the tokens of the middle are kept."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A card, and how to build the network behind it."""

    card: ModelCard
    kind: str
    """Which builder: ``"vit"``, ``"resnet18"``, ``"resnet50"``, ``"preact_resnet18"``, ``"conch"``."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the builder: for a ViT, those of timm's VisionTransformer that differ from its defaults."""
    size_px: int = 224
    """Side of the image that the network sees."""
    layout: str = "own"
    """Names in the checkpoint: ``"own"`` (as the network's), ``"transformers"``, ``"volta"`` or ``"conch"``."""
    resample: bool = False
    """Whether the published position embedding is for another image size, and is resampled."""


def _vit(dim: int, depth: int, heads: int, patch: int, **more: Any) -> dict[str, Any]:
    return {"embed_dim": dim, "depth": depth, "num_heads": heads, "patch_size": patch, **more}


_SCALED = {"init_values": 1e-5}
_SWIGLU = {**_SCALED, "gated_mlp": True}
_REGISTERS = {"reg_tokens": 4, "no_embed_class": True}


def _entry(
    name: str, dim: int, hub: str, license: str, citation: str, options: Mapping[str, Any], **more: Any
) -> Entry:
    """A ViT on the hub."""
    statistics = more.pop("statistics", IMAGENET)
    entry_fields = {k: more.pop(k) for k in ("layout", "resample") if k in more}
    card = ModelCard(
        name=name,
        dim=dim,
        input_px=FIELD_PX,
        arch=f"ViT/{options['patch_size']}, width {options['embed_dim']}, depth {options['depth']}",
        license=license,
        citation=citation,
        url=f"https://huggingface.co/{hub}",
        hub=hub,
        files=HUB_FILES,
        num_heads=options["num_heads"],
        **{"pooling": "cls", **statistics, **more},
    )
    return Entry(card=card, kind="vit", options=options, **entry_fields)


def _dinov2(size: str, dim: int, depth: int, heads: int, **more: Any) -> Entry:
    hub = f"timm/vit_{size}_patch14_dinov2.lvd142m"
    options = _vit(dim, depth, heads, 14, **{**_SCALED, **more})
    return _entry(f"dinov2_{size[0]}", dim, hub, "Apache-2.0", "arXiv:2304.07193", options, resample=True)


def _resnet(depth: int, dim: int) -> Entry:
    hub = f"timm/resnet{depth}.tv_in1k"
    card = ModelCard(
        name=f"imagenet_r{depth}",
        dim=dim,
        input_px=FIELD_PX,
        arch=f"ResNet-{depth}",
        license="BSD-3-Clause",
        citation="arXiv:1512.03385",
        url=f"https://huggingface.co/{hub}",
        hub=hub,
        files=HUB_FILES,
        pooling="average",
        **IMAGENET,
    )
    return Entry(card=card, kind=f"resnet{depth}")


def _volta(data: str) -> Entry:
    """VOLTA was trained per data set, with its statistics."""
    card = ModelCard(
        name=f"volta_{data}",
        dim=512,
        input_px=FIELD_PX,
        arch="pre-activation ResNet-18, stem of 3 x 3 px without max-pooling",
        license="CC-BY-NC",
        citation="VOLTA, Nature Communications 2024",
        url="https://github.com/AIMLab-UBC/VOLTA",
        pooling="average",
        **VOLTA[data],
    )
    return Entry(card=card, kind="preact_resnet18", size_px=32, layout="volta")


_ND = "CC-BY-NC-ND-4.0"
_UNI = "doi:10.1038/s41591-024-02857-3"
_OWKIN = "Owkin non-commercial"

_CONCH = ModelCard(
    name="conch_v1",
    dim=512,
    input_px=FIELD_PX,
    arch="image tower of CONCH: ViT-B/16 at 448 px, attention pooling with one query, projection",
    license=_ND,
    citation="doi:10.1038/s41591-024-02856-4",
    url="https://huggingface.co/MahmoodLab/CONCH",
    hub="MahmoodLab/CONCH",
    files=("pytorch_model.bin",),
    gated=True,
    pooling="attention",
    num_heads=12,
    **CLIP,
)

ZOO: dict[str, Entry] = {
    entry.card.name: entry
    for entry in (
        _dinov2("small", 384, 12, 6),
        _dinov2("base", 768, 12, 12),
        _dinov2("large", 1024, 24, 16),
        _dinov2("giant", 1536, 40, 24, gated_mlp=True, mlp_ratio=2.66667 * 2),
        _entry("uni", 1024, "MahmoodLab/UNI", _ND, _UNI, _vit(1024, 24, 16, 16, **_SCALED), gated=True),
        _entry(
            "uni2_h", 1536, "MahmoodLab/UNI2-h", _ND, _UNI,
            _vit(1536, 24, 24, 14, mlp_ratio=2.66667 * 2, reg_tokens=8, no_embed_class=True, **_SWIGLU), gated=True,
        ),
        _entry(
            "virchow2", 2560, "paige-ai/Virchow2", _ND, "arXiv:2408.00738",
            _vit(1280, 32, 16, 14, mlp_ratio=5.3375, reg_tokens=4, **_SWIGLU), gated=True, pooling="cls_mean",
        ),
        _entry(
            "hoptimus0", 1536, "bioptimus/H-optimus-0", "Apache-2.0", "https://github.com/bioptimus/releases",
            _vit(1536, 40, 24, 14, mlp_ratio=2.66667 * 2, **_REGISTERS, **_SWIGLU), gated=True, statistics=OPTIMUS,
        ),
        _entry(
            "h0_mini", 768, "bioptimus/H0-mini", _ND, "arXiv:2501.16239",
            _vit(768, 12, 12, 14, mlp_ratio=5.33334, **_REGISTERS, **_SWIGLU), gated=True, statistics=OPTIMUS,
        ),
        _entry(
            "phikon", 768, "owkin/phikon", _OWKIN, "doi:10.1101/2023.07.21.23292757",
            _vit(768, 12, 12, 16, norm_eps=1e-12), layout="transformers",
        ),
        _entry(
            "phikon_v2", 1024, "owkin/phikon-v2", _OWKIN, "arXiv:2409.09173",
            _vit(1024, 24, 16, 16, **_SCALED), layout="transformers",
        ),
        Entry(
            card=_CONCH, kind="conch", size_px=448, layout="conch",
            options={**_vit(768, 12, 12, 16), "out_dim": 512, "pool_heads": 8},
        ),
        *(_volta(data) for data in VOLTA),
        _resnet(18, 512),
        _resnet(50, 2048),
    )
}  # fmt: skip
