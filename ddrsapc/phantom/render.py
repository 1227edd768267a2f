"""A slice of a case: anatomy, deposits, image chain, truth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ddrsapc.phantom.anatomy import paint_chest
from ddrsapc.phantom.canvas import Canvas
from ddrsapc.phantom.deposition import Part, deposited
from ddrsapc.phantom.draws import CaseDraw
from ddrsapc.phantom.fields import enlarged, texture
from ddrsapc.phantom.heart import paint_heart
from ddrsapc.phantom.imaging import Acquisition, blurred, noise_field, noise_kernel, reach
from ddrsapc.phantom.parameters import PhantomParameters
from ddrsapc.phantom.placement import Placement
from ddrsapc.phantom.streaks import streaks
from ddrsapc.phantom.tubes import Cloud, Curve, tube_cloud
from ddrsapc.phantom.vessels import Deposit

__all__ = ["RenderedSlice", "case_clouds", "render_slice"]

AIR, MAX_HU = -1024, 3071
LABEL_THRESHOLD = 130
"""HU from which a voxel can be calcium."""
LEAST_CONTRIBUTION = 10.0
"""HU that the noiseless lesion has to contribute to a labelled voxel."""
_TEXTURE_MM = 4.5  # a cell of the texture
_PIECE_POINTS = 30  # along a piece of a lung vessel
_DISC = np.array([
    (math.sqrt((i + 0.5) / 13) * math.cos(2.399963 * i), math.sqrt((i + 0.5) / 13) * math.sin(2.399963 * i))
    for i in range(13)
])  # fmt: skip
"""Points (k, 2) spread evenly over the unit disc."""


@dataclass(frozen=True, eq=False)
class RenderedSlice:
    """A slice and its truth."""

    hu: NDArray[np.int16]
    """(H, W)."""
    labels: NDArray[np.uint8]
    """(H, W): 0 none, 1 LAD with LM, 2 LCX, 3 RCA."""
    density: NDArray[np.float32]
    """(H, W) mg/ml of coronary calcium, without noise; slightly negative around lesions under a sharp kernel."""


def render_slice(draw: CaseDraw, z: int, *, clouds: Sequence[Cloud] | None = None) -> RenderedSlice:
    """A slice of a case.

    Args:
        draw: of the case.
        z: which slice.
        clouds: of all deposits, from `case_clouds`, where many slices are rendered.
    """
    place, acquisition, parameters = draw.placement, draw.acquisition, draw.parameters
    rng = draw.slice_rng(z)
    scan_z = place.slice_z(z)
    cells = min(max(round(place.size * place.pixel_mm / _TEXTURE_MM), 8), place.size)
    canvas = Canvas(place, z, enlarged(texture(rng, cells), place.size))
    paint_chest(canvas, draw.anatomy)
    paint_heart(canvas, draw.anatomy, draw.courses, scan_z)
    _add_lung_vessels(canvas, draw, scan_z)
    _add_arteries(canvas, draw, scan_z)
    coronary, mimics = _densities(draw, z, clouds)  # by label, before the point spread
    for part in (*coronary.values(), *mimics):  # in the place of what was there
        canvas.paint(part.box, np.minimum(part.share, 1).astype(np.float32), parameters.calcium_hu)
        canvas.hu[part.box] += np.float32(parameters.calcium_slope) * part.density.astype(np.float32)
    hu = blurred(canvas.hu, acquisition, place.pixel_mm)
    if acquisition.streak_sd:
        hu += streaks(hu, acquisition.streak_sd, rng)
    kernel = noise_kernel(parameters, acquisition, place.pixel_mm)
    noise = noise_field(place.size, kernel, rng)
    noise *= _noise_level(place, acquisition.noise_sd, parameters)
    hu += noise
    whole = np.clip(np.rint(hu), AIR, MAX_HU).astype(np.int16)
    return RenderedSlice(whole, *_truth(whole, coronary, draw))


def _noise_level(place: Placement, sd: float, parameters: PhantomParameters) -> NDArray[np.float32]:
    """The noise's SD (H, W): highest in the middle of the patient."""
    middle = (place.size - 1) / 2
    off = (2 * ((np.arange(place.size) - middle) * place.pixel_mm / parameters.noise_width) ** 2).astype(np.float32)
    level = np.add.outer(off, off + np.float32(1))
    peak = round(1 - parameters.noise_floor, 9)
    np.divide(np.float32(peak * sd), level, out=level)
    level += np.float32(parameters.noise_floor * sd)
    return level


def _add_lung_vessels(canvas: Canvas, draw: CaseDraw, scan_z: float) -> None:
    """Vessels where there is lung: their share of a pixel's volume becomes blood."""
    pieces, place = draw.anatomy.vessels, draw.placement
    z, half = canvas.z, place.slice_mm / 2 / place.scale
    low, high = np.minimum(pieces[:, 2], pieces[:, 5]), np.maximum(pieces[:, 2], pieces[:, 5])
    pieces = pieces[(low - half < z) & (z < high + half)]
    if not len(pieces):
        return
    start, end, radius = place.to_scan(pieces[:, :3]), place.to_scan(pieces[:, 3:6]), pieces[:, 6] * place.scale
    way = end - start
    length = np.sqrt((way * way).sum(1))
    flat = np.hypot(way[:, 0], way[:, 1]) + 1e-6
    zero = np.zeros(len(way))
    side = np.stack([way[:, 1] / flat, -way[:, 0] / flat, zero], axis=1)  # (n, 3), across
    up = np.stack([-way[:, 2] * way[:, 0] / flat, -way[:, 2] * way[:, 1] / flat, flat], axis=1) / length[:, None]
    part = (np.arange(_PIECE_POINTS) + 0.5) / _PIECE_POINTS  # (s,)
    half = place.slice_mm / 2
    near = np.abs(start[:, 2:] + part * way[:, 2:] - scan_z) < half + radius[:, None]  # (n, s)
    piece, along = np.nonzero(near)
    middle = start[piece] + part[along, None] * way[piece]  # (m, 3)
    across = radius[piece, None, None] * (
        _DISC[:, :1] * side[piece, None] + _DISC[:, 1:] * up[piece, None]
    )  # (m, k, 3)
    points = (middle[:, None] + across).reshape(-1, 3)
    volumes = math.pi * radius**2 * length / (_PIECE_POINTS * len(_DISC))
    cloud = Cloud(points, np.repeat(volumes[piece], len(_DISC)))
    found = deposited(cloud, place, scan_z)
    if found is None:
        return
    box, share, _ = found
    inside = canvas.hu[box]
    # of lung, not of fat or airways
    cover = (np.clip((-500 - inside) / 200, 0, 1) * np.clip((inside + 990) / 60, 0, 1)).astype(np.float32)
    cover *= np.minimum(share, 1).astype(np.float32)
    canvas.paint(box, cover, draw.anatomy.values["right_blood"])


def _add_arteries(canvas: Canvas, draw: CaseDraw, scan_z: float) -> None:
    """The coronary arteries, walls and all, in their fat."""
    place, p = draw.placement, draw.parameters
    step = min(place.pixel_mm * 0.7, 0.6)
    reach_mm = max(p.lm_radius, p.proximal_radius, p.distal_radius) + 0.5
    for name, curve in draw.courses.items():
        proximal, distal = (p.lm_radius, p.lm_radius) if name == "LM" else (p.proximal_radius, p.distal_radius)
        along = np.linspace(0, 1, len(curve.points))
        radii = (proximal + (distal - proximal) * along) * place.scale
        near = np.flatnonzero(np.abs(curve.points[:, 2] - scan_z) < place.slice_mm / 2 + reach_mm)
        if not len(near):
            continue
        cut = slice(int(near[0]), int(near[-1]) + 1)
        piece = Curve(curve.points[cut], curve.step, (curve.across[0][cut], curve.across[1][cut]))
        cloud = tube_cloud(piece, radii[cut], step)
        if name == "RCA" and draw.acquisition.motion:
            cloud = cloud.moved(_motion(draw.acquisition))
        found = deposited(cloud, place, scan_z)
        if found is not None:
            box, share, _ = found
            canvas.paint(box, np.minimum(share, 1).astype(np.float32), np.float32(draw.anatomy.values["blood"]))


def _motion(acquisition: Acquisition) -> NDArray[np.float64]:
    """Where a moving artery is during the scan: places (m, 3) on an arc, mm."""
    part = np.linspace(-0.5, 0.5, 7) * acquisition.motion
    bend = 0.35 * (part * part / acquisition.motion - acquisition.motion / 12)
    cos, sin = math.cos(acquisition.motion_angle), math.sin(acquisition.motion_angle)
    return np.stack([cos * part - sin * bend, sin * part + cos * bend, np.zeros(7)], axis=1)


def case_clouds(draw: CaseDraw) -> tuple[Cloud, ...]:
    """The points of all deposits of a case, lesions first."""
    return tuple(_cloud(draw, item) for item in (*draw.lesions, *draw.mimics))


def _cloud(draw: CaseDraw, item: Deposit, between: tuple[float, float] | None = None) -> Cloud:
    cloud = item.shape.cloud(min(draw.placement.pixel_mm / 2.5, 0.3), between)
    moves = item.label == 3 and draw.acquisition.motion
    return cloud.moved(_motion(draw.acquisition)) if moves else cloud


def _densities(draw: CaseDraw, z: int, clouds: Sequence[Cloud] | None) -> tuple[dict[int, Part], list[Part]]:
    """The density in mg/ml in a slice: of coronary calcium by label, and of all else."""
    place, scan_z = draw.placement, draw.placement.slice_z(z)
    half = place.slice_mm / 2
    by_label: dict[int, tuple[list[Cloud], list[NDArray[np.float64]]]] = {}
    for i, item in enumerate((*draw.lesions, *draw.mimics)):
        low, high = item.shape.z_range
        if low > scan_z + half or high < scan_z - half:
            continue
        cloud = clouds[i] if clouds is not None else _cloud(draw, item, (scan_z - half, scan_z + half))
        near = (cloud.points[:, 2] >= scan_z - half) & (cloud.points[:, 2] < scan_z + half)
        pieces, densities = by_label.setdefault(item.label, ([], []))
        pieces.append(Cloud(cloud.points[near], cloud.volumes[near]))
        densities.append(np.full(int(near.sum()), item.density))
    coronary: dict[int, Part] = {}
    others: list[Part] = []
    for label, (pieces, densities) in by_label.items():
        whole = Cloud(np.concatenate([p.points for p in pieces]), np.concatenate([p.volumes for p in pieces]))
        margin = reach(draw.acquisition, place.pixel_mm)
        found = deposited(whole, place, scan_z, density=np.concatenate(densities), margin=margin)
        if found is not None and label:
            coronary[label] = found
        elif found is not None:
            others.append(found)
    return coronary, others


def _truth(
    hu: NDArray[np.int16], coronary: dict[int, Part], draw: CaseDraw
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Labels and density of a slice."""
    labels, density = np.zeros(hu.shape, np.uint8), np.zeros(hu.shape, np.float32)
    best = np.full(hu.shape, LEAST_CONTRIBUTION / draw.parameters.calcium_slope, np.float32)
    for label, (box, _, sharp) in sorted(coronary.items()):
        spread = blurred(sharp, draw.acquisition, draw.placement.pixel_mm).astype(np.float32)
        density[box] += spread
        ahead = (spread >= best[box]) & (hu[box] >= LABEL_THRESHOLD)
        labels[box][ahead] = label
        best[box] = np.maximum(best[box], spread)
    return labels, density
