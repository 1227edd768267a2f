"""Random changes of training batches."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ddrsapc.data.folder import IGNORE_INDEX

__all__ = ["Augmentation"]
Size = tuple[int, int]


@dataclass(frozen=True)
class Augmentation:
    """Random changes of a training batch, in torch, on the batch's device; every image draws its own.

    Mirror, rotation, zoom, shift and crop are one affine map, sampled once: bilinearly for the image, the
    nearest pixel for the labels. Outside the image lie `fill` HU and the ignored label 255. Crops
    without shift, zoom and rotation copy pixels. White noise comes last, also onto what was filled.
    Nothing waits for the GPU: no value is read back by the host.

    A crop lies at random inside the image, or around it where it is the larger. A calcium crop has one
    foreground pixel (labels 1 to 254) at random in its central half instead; `shift` does not move it from there.

    Args:
        shift: largest shift along each axis, as a fraction of the output's side.
        scale: smallest and largest zoom; above 1 enlarges.
        rotation: largest rotation either way, in degrees.
        noise: largest standard deviation of the added white noise, in HU; it is drawn uniformly from 0.
        gain: HU are multiplied by 1 +- this at most, so water stays at 0.
        offset: HU are shifted by +- this at most, after the gain.
        crop: side of a square crop in pixels; None for the whole image.
        calcium_crops: probability that a crop is a calcium crop, in images with foreground.
        mirror: probability of a left-right mirror. 0 unless labels have no side: mirrored, calcium that is
            labelled LAD lies where the RCA runs.

    Raises:
        ValueError: for values out of bounds.
    """

    shift: float = 0.1
    scale: tuple[float, float] = (0.85, 1.2)
    rotation: float = 15.0
    noise: float = 10.0
    gain: float = 0.05
    offset: float = 20.0
    crop: int | None = None
    calcium_crops: float = 0.5
    mirror: float = 0.0

    def __post_init__(self) -> None:
        for name, high in (("shift", 1), ("rotation", 180), ("gain", 1), ("calcium_crops", 1), ("mirror", 1)):
            if not 0 <= getattr(self, name) <= high:
                raise ValueError(f"{name} must be between 0 and {high}, got {getattr(self, name)!r}")
        for name in ("noise", "offset"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be a finite number of HU, at least 0, got {getattr(self, name)!r}")
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1] < math.inf:
            raise ValueError(f"scale must be two finite numbers, 0 < low <= high, got {self.scale!r}")
        if self.crop is not None and (type(self.crop) is not int or self.crop < 1):
            raise ValueError(f"crop must be None or a whole number of pixels, at least 1, got {self.crop!r}")

    def __call__(
        self, hu: Tensor, labels: Tensor, *, generator: torch.Generator, fill: float = -1000.0
    ) -> tuple[Tensor, Tensor]:
        """The changed batch: HU (N, C, h, w), float32, and labels (N, h, w), uint8; h = w = crop, or H and W.

        Args:
            hu: (N, C, H, W), Hounsfield units of any real dtype.
            labels: (N, H, W), uint8; 255 is ignored.
            generator: source of all random numbers, on the batch's device.
            fill: HU outside the image.

        Raises:
            ValueError: if the shapes do not fit or are empty.
            TypeError: if the labels are not uint8.
        """
        _check(hu, labels)
        hu = hu.float()
        if self.gain or self.offset:
            factor = _uniform(labels, 1 - self.gain, 1 + self.gain, generator)[:, None, None, None]
            hu = hu * factor + _uniform(labels, -self.offset, self.offset, generator)[:, None, None, None]
        resampled = bool(self.shift or self.rotation) or tuple(self.scale) != (1, 1)
        if resampled or self.mirror or self.crop is not None:
            grid = self._grid(labels, generator)  # (N, h, w, 2)
            hu = _sample(hu, grid, fill, "bilinear" if resampled else "nearest")  # (N, C, h, w)
            labels = _sample(labels[:, None].float(), grid, IGNORE_INDEX, "nearest")[:, 0].byte()  # (N, h, w)
        if self.noise:
            sd = _uniform(labels, 0, self.noise, generator)[:, None, None, None]  # (N, 1, 1, 1)
            hu = hu + sd * torch.randn(hu.shape, generator=generator, device=hu.device)  # (N, C, h, w)
        return hu, labels

    def _grid(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """A random grid of this augmentation's map, (N, h, w, 2)."""
        size = (labels.shape[1], labels.shape[2])
        out = size if self.crop is None else (self.crop, self.crop)
        angle = torch.deg2rad(_uniform(labels, -self.rotation, self.rotation, generator))  # (N,)
        zoom = _uniform(labels, *self.scale, generator)  # (N,)
        mirrored = _uniform(labels, 0, 1, generator) < self.mirror  # (N,)
        fixed = _crop_middle(labels, out, generator)  # (2, N)
        place = torch.stack([_uniform(labels, -self.shift * side, self.shift * side, generator) for side in out])
        if self.crop is not None and self.calcium_crops:
            pixel, found = _foreground_pixel(labels, generator)  # (2, N), (N,)
            chosen = found & (_uniform(labels, 0, 1, generator) < self.calcium_crops)  # (N,)
            margin = self.crop // 4
            inside = [margin + _uniform(labels, 0, self.crop - 2 * margin, generator).floor() for _ in out]
            fixed = torch.where(chosen, pixel, fixed)
            place = torch.where(chosen, torch.stack(inside) - (self.crop - 1) / 2, place)  # (2, N)
        return _affine_grid(size, out, angle=angle, zoom=zoom, mirrored=mirrored, fixed=fixed, place=place)


def _affine_grid(
    size: Size, out: Size, *, angle: Tensor, zoom: Tensor, mirrored: Tensor, fixed: Tensor, place: Tensor
) -> Tensor:
    """Where the output's pixels lie in the image, (N, h, w, 2), for `grid_sample` with align_corners=False.

    The map is set up in pixels, in which rotations are rotations also where the image is not square.

    Args:
        size: height and width of the image in pixels.
        out: height and width of the output in pixels.
        angle: (N,), counter-clockwise rotation of what is seen, in radians.
        zoom: (N,), above 1 enlarges.
        mirrored: (N,), bool.
        fixed: (2, N), row and column in the image of the point about which all turns.
        place: (2, N), where that point comes to lie, in output pixels down and right of the output's middle.
    """
    h, w = (torch.arange(side, device=angle.device) - (side - 1) / 2 for side in out)  # (h,), (w,)
    down, right = h[:, None] - place[0][:, None, None], w - place[1][:, None, None]  # (N, h, 1), (N, 1, w)
    cos, sin = ((wave / zoom)[:, None, None] for wave in (angle.cos(), angle.sin()))  # (N, 1, 1)
    # the inverse map, from the output to the image; rows count downwards
    sign = 1 - 2 * mirrored.float()[:, None, None]  # (N, 1, 1)
    column = fixed[1][:, None, None] + sign * (cos * right - sin * down)  # (N, h, w)
    row = fixed[0][:, None, None] + sin * right + cos * down  # (N, h, w)
    return torch.stack(((2 * column + 1) / size[1] - 1, (2 * row + 1) / size[0] - 1), dim=-1)


def _crop_middle(labels: Tensor, out: Size, generator: torch.Generator) -> Tensor:
    """Row and column (2, N) of the middles of random crops whose pixels are pixels of the image."""
    middles = []
    for side, crop in zip(labels.shape[1:], out, strict=True):
        first = _uniform(labels, 0, abs(side - crop) + 1, generator).floor()  # (N,)
        middles.append((first if side > crop else -first) + (crop - 1) / 2)
    return torch.stack(middles)


def _foreground_pixel(labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Row and column (2, N) of one foreground pixel per image, and whether there is one, (N,)."""
    foreground = ((labels > 0) & (labels < IGNORE_INDEX)).flatten(1)  # (N, H * W)
    # the largest of random keys; torch.multinomial would read its checks back
    keys = torch.rand(foreground.shape, generator=generator, device=labels.device)
    index = keys.where(foreground, -1).argmax(1)  # (N,)
    return torch.stack((index // labels.shape[2], index % labels.shape[2])), foreground.any(1)


def _uniform(labels: Tensor, low: float, high: float, generator: torch.Generator) -> Tensor:
    """One number per image, (N,), uniformly from [low, high)."""
    return low + (high - low) * torch.rand(len(labels), generator=generator, device=labels.device)


def _sample(x: Tensor, grid: Tensor, outside: float, mode: str) -> Tensor:
    # grid_sample has only zeros for the outside
    return F.grid_sample(x - outside, grid, mode=mode, padding_mode="zeros", align_corners=False) + outside


def _check(hu: Tensor, labels: Tensor) -> None:
    if hu.ndim != 4 or hu.numel() == 0:
        raise ValueError(f"expected a non-empty batch (N, C, H, W) of HU, got shape {tuple(hu.shape)}")
    expected = (hu.shape[0], *hu.shape[2:])
    if tuple(labels.shape) != expected:
        raise ValueError(f"expected labels {expected} for HU {tuple(hu.shape)}, got shape {tuple(labels.shape)}")
    if labels.dtype != torch.uint8:
        raise TypeError(f"expected uint8 labels, got {labels.dtype}; convert them with labels.to(torch.uint8)")
