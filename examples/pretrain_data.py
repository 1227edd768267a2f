"""What `pretrain.py` trains on: the phantom's slices labelled by courses of arteries, of abdomens, of other bodies."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter  # type: ignore[import-untyped]
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from ddrsapc.data import Augmentation, Sample
from ddrsapc.inference import CALCIUM_HU
from ddrsapc.phantom import CaseDraw, PhantomDataset, PhantomParameters, draw_case

AIR = -1024  # HU
FULL = 512  # pixels per side of a slice
SIDE = 256  # of crops, and of slices of low resolution
REACH = 8.0  # mm
QUIET = (4.0, 25.0)  # HU, noise of scans that are no calcium scoring scans among them
SPARED = {"aortic_wall_rate": 0.7, "ascending_rate": 0.5, "aortic_valve_rate": 0.4, "mitral_annulus_rate": 0.4}
"""More calcium that is not coronary than in the phantom's own test."""
CHANGES: dict[str, Any] = {"shift": 0, "scale": (1, 1), "rotation": 0}  # none of these: labels keep their pixels
CROP = Augmentation(**CHANGES, noise=0, gain=0, offset=0, crop=SIDE, calcium_crops=0.7)


def near_arteries(draw: CaseDraw, z: float, reach: float, *, step: int = 1) -> NDArray[np.uint8]:
    """The artery that runs within `reach` mm of each pixel at z mm, as a label; of every `step`-th row and column."""
    mm = (np.arange(0, draw.placement.size, step) - (draw.placement.size - 1) / 2) * draw.placement.pixel_mm
    labels = np.zeros((len(mm), len(mm)), np.uint8)
    for vessel, label in (("LM", 1), ("LAD", 1), ("LCX", 2), ("RCA", 3)):
        for x, y, point_z in draw.courses[vessel].points[::5]:
            if abs(point_z - z) < reach:
                labels[np.add.outer((mm - y) ** 2, (mm - x) ** 2) < reach**2 - (point_z - z) ** 2] = label
    return labels


class Courses(Dataset[Sample]):
    """The slices of a phantom, labelled within REACH of where the arteries run, calcified or not."""

    def __init__(self, plain: PhantomDataset) -> None:
        self.slices = plain
        self.fingerprint = f"courses within {REACH} mm in {plain.fingerprint}"

    def __len__(self) -> int:
        return len(self.slices)

    def __getitem__(self, index: int) -> Sample:
        image, _, name = self.slices[index]
        return Sample(image, torch.from_numpy(near_arteries(*case_of(self.slices, index, name), REACH)), name)


class Slices(Protocol):
    """A dataset that a training run knows again."""

    @property
    def fingerprint(self) -> str:
        """What tells it from others."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample: ...


class WholeAndCropped(Dataset[Sample]):
    """Whole slices of low resolution and crops of full resolution in turn, (SIDE, SIDE) each."""

    def __init__(self, whole: Slices, fine: Slices) -> None:
        self.whole, self.fine = whole, fine
        self.fingerprint = f"{whole.fingerprint}{fine.fingerprint} {CROP}"

    def __len__(self) -> int:
        return len(self.whole)

    def __getitem__(self, index: int) -> Sample:
        if index % 2:
            return self.whole[index]
        image, label, name = self.fine[index]
        hu, labels = CROP(image[None, None], label[None], generator=torch.Generator().manual_seed(index))
        return Sample(hu[0, 0].to(image.dtype), labels[0], name)


class Interspersed(Dataset[Sample]):
    """Of `every` images of some kind, one of another."""

    def __init__(self, most: Slices, few: Slices, *, every: int) -> None:
        self.most, self.few, self.every = most, few, every
        self.fingerprint = f"{most.fingerprint} every {every} {few.fingerprint}"

    def __len__(self) -> int:
        return len(self.few)

    def __getitem__(self, index: int) -> Sample:
        return self.most[index] if index % self.every else self.few[index]


def varied(image: Tensor, label: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """A slice and its labels (H, W) of another body: bent, leaner, mottled, blurred, of uneven bones; each by chance.

    The phantom has one shape of heart, whose arteries lie in the middle of grooves full of fat: bodies differ more.
    """
    side = image.shape[-1]
    hu, labels = image.float(), label

    def smooth(scale: float, channels: int) -> Tensor:
        """Noise (channels, H, W) that varies over `scale` of the side, of SD 1."""
        few = torch.from_numpy(rng.standard_normal((1, channels, *[round(1 / scale) + 3] * 2)).astype(np.float32))
        noise = F.interpolate(few, (side, side), mode="bicubic", align_corners=True)[0]
        return noise / noise.std()

    if rng.random() < 0.7:
        turn, shear = rng.uniform(-0.25, 0.25), rng.uniform(-0.12, 0.12)
        stretch = np.diag(rng.uniform(0.88, 1.14, 2)) @ np.array([[1, shear], [0, 1]])
        rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        matrix = np.concatenate([rotation @ stretch, np.zeros((2, 1))], 1)
        grid = F.affine_grid(torch.from_numpy(matrix[None]).float(), [1, 1, side, side], align_corners=False)
        bend = smooth(rng.uniform(0.1, 0.25), 2) * rng.uniform(0, 0.025)
        grid = grid + bend.permute(1, 2, 0)[None]
        hu = F.grid_sample(hu[None, None] - AIR, grid, align_corners=False)[0, 0] + AIR
        labels = F.grid_sample(labels[None, None].float(), grid, mode="nearest", align_corners=False)[0, 0]
        labels = (labels * (hu >= CALCIUM_HU)).to(label.dtype)
    if rng.random() < 0.4:  # flesh where fat was
        reach = 2 * int(rng.integers(1, 5)) + 1
        grown = F.max_pool2d(hu.clamp(max=60)[None, None], reach, stride=1, padding=reach // 2)[0, 0]
        hu = torch.where((hu > -150) & (hu < 20) & (labels == 0), grown, hu)
    if rng.random() < 0.5:
        mottle = smooth(rng.uniform(0.01, 0.05), 1)[0] * rng.uniform(0, 50)
        hu = torch.where((hu > -250) & (hu < 100) & (labels == 0), hu + mottle, hu)
    if rng.random() < 0.3:
        hu = torch.from_numpy(gaussian_filter(hu.numpy(), rng.uniform(0.5, 1.5)))
        labels = labels * (hu >= CALCIUM_HU)
    if rng.random() < 0.5:  # shells of bones that are thick here and thin there, contrast that is not mixed yet
        apart = F.max_pool2d((labels > 0).float()[None, None], 5, stride=1, padding=2)[0, 0] == 0
        factor = (smooth(rng.uniform(0.01, 0.06), 1)[0] * rng.uniform(0, 0.7)).exp()
        hu = torch.where(apart & (hu > 100), 100 + (hu - 100) * factor, hu)
    return hu.clamp(AIR, 3071).to(image.dtype), labels.to(label.dtype)


class Varied(Dataset[Sample]):
    """Slices of which a part shows other shapes of bodies, see `varied`; the rest are as they are."""

    def __init__(self, plain: Slices, seed: int, *, part: float = 1.0) -> None:
        self.plain, self.seed, self.part = plain, seed, part
        self.fingerprint = f"varied {part} {seed} uneven {plain.fingerprint}"

    def __len__(self) -> int:
        return len(self.plain)

    def __getitem__(self, index: int) -> Sample:
        image, label, name = self.plain[index]
        rng = np.random.default_rng((self.seed, index, 1))
        return Sample(image, label, name) if rng.random() >= self.part else Sample(*varied(image, label, rng), name)


def beside_the_heart(
    size: int, n: int, seed: int, field_of_view: tuple[float, float], **changes: Any
) -> PhantomDataset:
    """Few slices of each case, which `shift_z` moves away; six in ten have contrast."""
    parameters = PhantomParameters(
        field_of_view=field_of_view,
        usual_field_of_view=sum(field_of_view) / 2,
        slices=10,
        contrast_rate=0.6,
        noise_sd=QUIET,
        **changes,
    )
    return PhantomDataset("train", size, n, seed, parameters=parameters)


def abdomens(size: int, n: int, seed: int, field_of_view: tuple[float, float]) -> PhantomDataset:
    """Slices from the heart's lower edge downwards, soft tissue or fat in the place of lung."""
    return beside_the_heart(size, n, seed, field_of_view, shift_z=(50.0, 58.0), lung=(-110.0, 60.0))


def upper_chests(size: int, n: int, seed: int, field_of_view: tuple[float, float]) -> PhantomDataset:
    """Slices from the heart's upper edge upwards."""
    return beside_the_heart(size, n, seed, field_of_view, shift_z=(-75.0, -50.0))


def lumens(size: int, n: int, seed: int, field_of_view: tuple[float, float]) -> PhantomDataset:
    """Any slices of cases with contrast, of which seven in ten have no coronary calcium."""
    changes: dict[str, Any] = {"contrast_rate": 1.0, "positive_rate": 0.3, "noise_sd": QUIET, **SPARED}
    parameters = PhantomParameters(field_of_view=field_of_view, **changes)
    return PhantomDataset("train", size, n, seed, calcium=0.0, parameters=parameters)


def slices(size: int, n: int, seed: int, field_of_view: tuple[float, float], **changes: Any) -> PhantomDataset:
    """Training slices, more of them with contrast than in the phantom's own test, and with what else is changed."""
    parameters = PhantomParameters(**{"field_of_view": field_of_view, "contrast_rate": 0.2, **changes})
    return PhantomDataset("train", size, n, seed, parameters=parameters)


def case_of(data: PhantomDataset, index: int, name: str) -> tuple[CaseDraw, float]:
    """The case of an item, and its slice's z in mm."""
    draw = draw_case(data.seed, index, split=data.split, size=data.size, parameters=data.parameters)
    return draw, draw.placement.slice_z(int(name[name.index("[") + 1 : -1]))
