"""A Dual Attention Module between two branches of another network.

`DualAttentionModule(high_channels, low_channels, ratio)` takes and returns the two maps of a
two-resolution network. Here it joins the branches of a small network with a fine and a coarse path,
and its attention maps show what each path looks at.

    python examples/dual_attention_between_branches.py
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddrsapc.layers import DualAttentionModule


class TwoPathNet(nn.Module):
    """A fine path at 1/2 and a coarse one at 1/8: (N, 1, H, W) -> logits (N, num_classes, H, W)."""

    def __init__(self, *, num_classes: int = 2, fine: int = 16, coarse: int = 48) -> None:
        super().__init__()
        self.fine = nn.Sequential(nn.Conv2d(1, fine, 3, 2, 1), nn.ReLU(), nn.Conv2d(fine, fine, 3, padding=1))
        self.coarse = nn.Sequential(nn.Conv2d(1, coarse, 7, 4, 3), nn.ReLU(), nn.Conv2d(coarse, coarse, 3, 2, 1))
        self.exchange = DualAttentionModule(fine, coarse, ratio=4)
        self.head = nn.Conv2d(fine + coarse, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Segment a batch of any size."""
        fine, coarse = self.exchange(self.fine(x), self.coarse(x))  # (N, 16, H/2, W/2), (N, 48, H/8, W/8)
        coarse = F.interpolate(coarse, fine.shape[-2:], mode="bilinear", align_corners=False)
        logits = self.head(F.relu(torch.cat((fine, coarse), dim=1)))  # (N, num_classes, H/2, W/2)
        return F.interpolate(logits, x.shape[-2:], mode="bilinear", align_corners=False)


def main() -> None:
    """Train on one bright disc for a moment and look at the attention."""
    torch.manual_seed(0)
    rows, columns = torch.meshgrid(torch.arange(75), torch.arange(101), indexing="ij")
    disc = (rows - 30) ** 2 + (columns - 60) ** 2 < 150
    x = disc.float().expand(2, 1, -1, -1) + 0.3 * torch.randn(2, 1, 75, 101)
    target = disc.long().expand(2, -1, -1)

    model = TwoPathNet()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(31):
        loss = F.cross_entropy(model(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 10 == 0:
            print(f"step {step:2d}: loss {loss.item():.4f}")

    model.eval()
    with torch.inference_mode():
        high, low = model.exchange.attention(model.fine(x), model.coarse(x))
    inside = F.interpolate(disc[None, None].float(), high.shape[-2:]).bool()[0, 0]
    print(f"attention maps: fine {tuple(high.shape)}, coarse {tuple(low.shape)}")
    print(f"fine attention inside the disc {high[0, 0][inside].mean():.2f}, outside {high[0, 0][~inside].mean():.2f}")


if __name__ == "__main__":
    main()
