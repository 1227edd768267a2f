"""A slice of a case: anatomy, deposits, image chain, truth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

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
from ddrsapc.phantom.vessels import Arc, Deposit

__all__ = ["RenderedSlice", "case_clouds", "render_slice"]

AIR, MAX_HU = -1024, 3071
LABEL_THRESHOLD = 130
"""HU from which a voxel can be calcium."""
LEAST_CONTRIBUTION = 10.0
"""HU that the noiseless lesion has to contribute to a labelled voxel."""
_TEXTURE_MM = 4.5  # a cell of the texture
_LUNG_MM = 1.0  # a cell in which lung vessels are counted: their points are about as far apart
_LUNG_WIDTHS = (1.2, 1.8, 2.6, 3.6, 5.0, 8.0)  # mm: vessels up to these radii have as many points as the widest needs


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
        hu += streaks(parameters, hu, acquisition.streak_sd, rng)
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
    pieces = pieces[(low - half - pieces[:, 6] < z) & (z < high + half + pieces[:, 6])]
    if not len(pieces):
        return
    start, end, radius = place.to_scan(pieces[:, :3]), place.to_scan(pieces[:, 3:6]), pieces[:, 6] * place.scale
    cells = min(max(round(place.size * place.pixel_mm / _LUNG_MM), 8), place.size)
    coarse = replace(place, size=cells, pixel_mm=place.pixel_mm * (place.size - 1) / (cells - 1))
    clouds, least = [], 0.0
    for widest in (*_LUNG_WIDTHS, max(_LUNG_WIDTHS[-1], float(radius.max()))):
        chosen = (radius > least) & (radius <= widest)
        clouds.append(_lung_cloud(start[chosen], end[chosen], radius[chosen], widest, (scan_z, place.slice_mm / 2)))
        least = widest
    points, volumes = np.concatenate([c.points for c in clouds]), np.concatenate([c.volumes for c in clouds])
    found = deposited(Cloud(points, volumes), coarse, scan_z)
    if found is None:
        return
    share = np.zeros((cells, cells), np.float32)
    share[found.box] = found.share
    cover = np.minimum(enlarged(share, place.size), 1)
    # of lung, not of fat or airways
    cover *= np.clip((-500 - canvas.hu) / 200, 0, 1)
    cover *= np.clip((canvas.hu + 990) / 60, 0, 1)
    canvas.paint((slice(None), slice(None)), cover, draw.anatomy.values["right_blood"])


def _lung_cloud(
    start: NDArray[np.float64],
    end: NDArray[np.float64],
    radius: NDArray[np.float64],
    widest: float,
    near: tuple[float, float],
) -> Cloud:
    """The part of straight vessels, (n, 3) to (n, 3), within z = near[0] +- near[1]: points about `_LUNG_MM` apart."""
    way = end - start
    length = np.sqrt((way * way).sum(1))
    flat = np.hypot(way[:, 0], way[:, 1]) + 1e-6
    side = np.stack([way[:, 1] / flat, -way[:, 0] / flat], axis=1)  # (n, 2), across and level
    up = np.stack([-way[:, 2] * way[:, 0] / flat, -way[:, 2] * way[:, 1] / flat, flat], axis=1) / length[:, None]
    steps, count = 30, math.ceil(math.pi * (widest / _LUNG_MM) ** 2)
    turn, far = 2.399963 * np.arange(count), np.sqrt((np.arange(count) + 0.5) / count)
    right, high = far * np.cos(turn), far * np.sin(turn)  # (k,), evenly over the unit disc
    part = (np.arange(steps)[:, None] + 0.618034 * np.arange(count) % 1) / steps  # (s, k), no two rings alike
    rings = start[:, 2, None] + (np.arange(steps) + 0.5) / steps * way[:, 2, None] - near[0]  # (n, s)
    piece, along = np.nonzero(np.abs(rings) < near[1] + radius[:, None] + length[:, None] / steps)
    width = radius[piece, None] * (1 - 0.5 * part[along])  # (m, k), thinner towards the end
    z = start[piece, 2, None] + part[along] * way[piece, 2, None] + width * high * up[piece, 2, None]
    ring, place = np.nonzero(np.abs(z - near[0]) <= near[1])  # the points' ring and their place in it
    width, piece, part = width[ring, place], piece[ring], part[along[ring], place]
    level = [
        start[piece, axis]
        + part * way[piece, axis]
        + width * (right[place] * side[piece, axis] + high[place] * up[piece, axis])
        for axis in (0, 1)
    ]
    volumes = math.pi * width**2 * (length[piece] / (steps * count))
    return Cloud(np.stack([*level, z[ring, place]], axis=1), volumes)


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
    on_rca = isinstance(item.shape, Arc) and item.shape.curve is draw.courses["RCA"]  # a lesion or a stent
    return cloud.moved(_motion(draw.acquisition)) if on_rca and draw.acquisition.motion else cloud


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
