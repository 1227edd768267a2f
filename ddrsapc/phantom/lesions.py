"""Calcified lesions of the coronary arteries: which vessels, how much, and where along them."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from ddrsapc.phantom.parameters import PhantomParameters
from ddrsapc.phantom.tubes import Curve, arc_volume
from ddrsapc.phantom.vessels import Arc, Deposit

__all__ = ["LABELS", "draw_density", "draw_lesions", "draw_volume", "vessel_rates"]

LABELS = {"LM": 1, "LAD": 1, "LCX": 2, "RCA": 3}
_SMALLEST = 3.0  # mm3 that are not worth another arc


def vessel_rates(parameters: PhantomParameters) -> dict[str, float]:
    """The chances with which each vessel is drawn alone, until one is diseased, for the rates among positive cases."""
    wanted = {name: float(getattr(parameters, f"{name.lower()}_rate")) for name in LABELS}
    some = 1.0
    for _ in range(200):  # chance / P(some vessel) = rate
        some = 1 - math.prod(1 - rate * some for rate in wanted.values())
    return {name: rate * some for name, rate in wanted.items()}


def draw_volume(parameters: PhantomParameters, site: str, rng: np.random.Generator) -> float:
    """The calcium's own volume in mm3 at a site, whose labelled volume is log-normal with the published mean and SD."""
    mean, sd = getattr(parameters, f"{site}_volume")
    sigma = math.sqrt(math.log(1 + (sd / mean) ** 2))
    return mean / parameters.blooming * math.exp(sigma * rng.standard_normal() - sigma**2 / 2)


def draw_density(parameters: PhantomParameters, rng: np.random.Generator) -> float:
    """From a log-normal distribution, cut off, in mg/ml."""
    low, high = parameters.density
    for _ in range(100):
        density = parameters.density_median * math.exp(parameters.density_sigma * rng.standard_normal())
        if low <= density <= high:
            return density
    return min(max(parameters.density_median, low), high)


def draw_lesions(
    parameters: PhantomParameters, courses: Mapping[str, Curve], rng: np.random.Generator
) -> tuple[Deposit, ...]:
    """The lesions of a case; none in a negative one."""
    if rng.random() >= parameters.positive_rate:
        return ()
    rates = vessel_rates(parameters)
    diseased: list[str] = []
    while not diseased:
        diseased = [name for name, rate in rates.items() if rng.random() < rate]
    lesions: list[Deposit] = []
    for name in diseased:
        volume = draw_volume(parameters, name.lower(), rng)
        lesions += _fill_vessel(name, volume, courses[name], parameters, rng)
    return tuple(lesions)


def _fill_vessel(
    name: str, volume: float, curve: Curve, parameters: PhantomParameters, rng: np.random.Generator
) -> list[Deposit]:
    """Arcs of this volume in all; never two at one place: on two opposite sides, one behind the other."""
    scale = parameters.lm_lumen if name == "LM" else 1.0  # the trunk is wider
    radius = rng.uniform(*parameters.lumen_radius) * scale
    side = rng.uniform(0, 2 * math.pi)
    cells = max(1, int(curve.length))  # of 1 mm
    taken = np.zeros((2, cells), bool)
    # the more calcium, the thicker
    burden = min(max(volume / (9.0 * cells) - 0.2, 0.0), 1.0)
    deposits: list[Deposit] = []
    for _ in range(parameters.most_arcs):
        if volume < _SMALLEST and deposits:
            break
        low, high = parameters.thickness
        thickness = low + (high - low) * (1 - (1 - burden) * rng.random())
        span = math.radians(rng.uniform(*parameters.arc))
        length = math.exp(rng.uniform(math.log(parameters.length[0]), math.log(parameters.length[1])))
        per_mm = arc_volume(length=1, radius=radius, thickness=thickness, span=span)
        if volume < per_mm * parameters.length[0]:  # a small rest, or a small lesion: a thinner, narrower arc
            thickness, length = low, parameters.length[0]
            per_radian = arc_volume(length=length, radius=radius, thickness=thickness, span=1)
            span = max(min(span, volume / per_radian), 0.6)
        else:
            length = min(length, volume / per_mm)
        place = _free_place(taken, length, math.ceil(parameters.length[0]), rng)
        if place is None:
            break
        row, start, length = place
        middle = side + math.pi * row + rng.uniform(*parameters.arc_jitter)
        arc = Arc(curve=curve, start=start, length=length, radius=radius, thickness=thickness, middle=middle, span=span)
        deposits.append(Deposit(name, LABELS[name], arc, draw_density(parameters, rng)))
        volume -= arc.volume
    return deposits


def _free_place(
    taken: np.ndarray, length: float, least: int, rng: np.random.Generator
) -> tuple[int, float, float] | None:
    """Side, start and length of a free piece, marked as taken; shorter than wanted where there is no room."""
    cells = taken.shape[1]
    needed = min(math.ceil(length), cells)
    while needed >= least:
        before = np.concatenate([np.zeros((2, 1), np.int64), np.cumsum(taken, axis=1)], axis=1)  # (2, cells + 1)
        starts = np.argwhere((before[:, needed:] == before[:, : cells - needed + 1]).T)  # (n, 2): start and side
        if len(starts):
            # the lesser of two: calcium is commoner in the proximal half
            start, row = (int(value) for value in starts[int(len(starts) * min(rng.random(2)))])
            taken[row, start : start + needed] = True
            return row, float(start), min(length, float(needed))
        needed -= 1
    return None
