"""CellViT under the names of its published weights, written from the description: an oracle for layout and order."""

import torch
from torch import nn
from torch.nn import functional


class Conv(nn.Module):
    def __init__(self, a, b):
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(), nn.Dropout(0))

    def forward(self, x):
        return self.block(x)


class Deconv(nn.Module):
    def __init__(self, a, b):
        super().__init__()
        self.block = nn.Sequential(
            nn.ConvTranspose2d(a, b, 2, 2), nn.Conv2d(b, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(), nn.Dropout(0)
        )

    def forward(self, x):
        return self.block(x)


class Neck(nn.Module):
    def __init__(self, e, w):
        super().__init__()
        self.decoder0 = nn.Sequential(Conv(3, w // 2), Conv(w // 2, w))
        self.decoder1 = nn.Sequential(Deconv(e, 8 * w), Deconv(8 * w, 4 * w), Deconv(4 * w, 2 * w))
        self.decoder2 = nn.Sequential(Deconv(e, 8 * w), Deconv(8 * w, 4 * w))
        self.decoder3 = nn.Sequential(Deconv(e, 8 * w))


class Branch(nn.Module):
    def __init__(self, e, w, channels):
        super().__init__()
        self.bottleneck_upsampler = nn.ConvTranspose2d(e, 8 * w, 2, 2)
        self.decoder3_upsampler = nn.Sequential(
            Conv(16 * w, 8 * w), Conv(8 * w, 8 * w), Conv(8 * w, 8 * w), nn.ConvTranspose2d(8 * w, 4 * w, 2, 2)
        )
        self.decoder2_upsampler = nn.Sequential(
            Conv(8 * w, 4 * w), Conv(4 * w, 4 * w), nn.ConvTranspose2d(4 * w, 2 * w, 2, 2)
        )
        self.decoder1_upsampler = nn.Sequential(
            Conv(4 * w, 2 * w), Conv(2 * w, 2 * w), nn.ConvTranspose2d(2 * w, w, 2, 2)
        )
        self.decoder0_header = nn.Sequential(Conv(2 * w, w), Conv(w, w), nn.Conv2d(w, channels, 1))

    def forward(self, z4, n0, n1, n2, n3):
        b4 = self.bottleneck_upsampler(z4)
        b3 = self.decoder3_upsampler(torch.cat([n3, b4], 1))
        b2 = self.decoder2_upsampler(torch.cat([n2, b3], 1))
        b1 = self.decoder1_upsampler(torch.cat([n1, b2], 1))
        b1 = functional.interpolate(b1, size=n0.shape[2:], mode="bilinear")
        return self.decoder0_header(torch.cat([n0, b1], 1))


class Published(nn.Module):
    """Around a timm ViT with `prefix` tokens before the patches; `taps` are 1-based."""

    def __init__(self, vit, *, taps, width, n_classes):
        super().__init__()
        self.extractor = nn.Module()
        self.extractor.feature_extractor = vit
        self.taps = taps
        self.neck = Neck(vit.embed_dim, width)
        self.np_branch, self.hv_branch = (Branch(vit.embed_dim, width, 2) for _ in range(2))
        self.tp_branch = Branch(vit.embed_dim, width, n_classes)
        norms = [m for m in self.modules() if isinstance(m, nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = 1
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, std=0.3)
        with torch.no_grad():  # statistics of a batch, so that the signal passes all layers
            self.train()(torch.randn(2, 3, *vit.patch_embed.img_size))

    def forward(self, x):
        vit = self.extractor.feature_extractor
        kept = []
        tokens = vit._pos_embed(vit.patch_embed(x))
        for block in vit.blocks:
            tokens = block(tokens)
            side = x.shape[-1] // vit.patch_embed.patch_size[0]
            kept.append(tokens[:, vit.num_prefix_tokens :].transpose(1, 2).unflatten(2, (side, side)))
        z1, z2, z3, z4 = (kept[tap - 1] for tap in self.taps)
        n = self.neck
        skips = n.decoder0(x), n.decoder1(z1), n.decoder2(z2), n.decoder3(z3)
        return {"np": self.np_branch(z4, *skips), "hv": self.hv_branch(z4, *skips), "tp": self.tp_branch(z4, *skips)}
