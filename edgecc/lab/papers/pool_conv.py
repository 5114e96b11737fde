"""The contextual-convolution paper's block (Abbassi, Ancilotto, Farella 2025) as a torch module."""

import torch.nn.functional as F
from torch import Tensor, nn

_EPS = 1e-6


class PoolConv(nn.Module):
    """a = ReLU(W ∗ u + b) with u = p / rms(p), p = maxpool_m(x);
    (B, c_in, H, W) → (B, c_out, ⌊H/m⌋, ⌊W/m⌋).

    rms is over all values of a sample, so its scale does not matter. The module is
    differentiable throughout, also for a comparison with backpropagation; to train forward-only,
    give the next block `a.detach()`.

    Args:
        c_in, c_out: channels.
        m: side of the pooling window, 1 for none.
        k: side of the kernel, odd; the padding k // 2 keeps the size.

    Raises ValueError for an even k or m < 1.
    """

    def __init__(self, c_in: int, m: int, c_out: int, k: int) -> None:
        super().__init__()
        if k % 2 == 0:
            raise ValueError(f"k={k}: an even kernel does not keep the size; take an odd one")
        if m < 1:
            raise ValueError(f"m={m}: the side of a pooling window is 1 (no pooling) or more")
        self.m = m
        self.conv = nn.Conv2d(c_in, c_out, k, padding=k // 2)

    def forward(self, x: Tensor) -> Tensor:
        p = F.max_pool2d(x, self.m)
        rms = p.square().mean((1, 2, 3), keepdim=True).sqrt()
        return F.relu(self.conv(p / rms.clamp_min(_EPS)))

    def extra_repr(self) -> str:
        return f"m={self.m}"
