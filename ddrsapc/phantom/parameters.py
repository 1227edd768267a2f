"""What the phantom is drawn from: every number with its unit and source."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Literal, get_args

from ddrsapc.phantom.parameter_fields import check_field, count, curve, hu, number, rate, span, volume

__all__ = ["PHANTOM_VERSION", "SPLITS", "PhantomParameters", "Split"]

PHANTOM_VERSION = 2
"""Of what the code makes of parameters and seed: raised with every change of the bytes."""

Split = Literal["train", "val", "test", "shifted"]
SPLITS: tuple[Split, ...] = get_args(Split)

_COCA = "COCA's segmentations, published table of volumes per vessel"
_QRM = "scan of the QRM cardiac calcification insert, Canon Aquilion ONE, FC12, 120 kVp"
_CTA = "read off one CT angiogram"
_CHOICE = "our choice"
_BEYOND = "our choice, at or beyond the end of the usual range"
_MOST_BEND = 0.85  # mm per mm, of all waves together


@dataclass(frozen=True, kw_only=True)
class PhantomParameters:
    """Everything that cases are drawn from. Two numbers (low, high) are the ends of a uniform distribution.

    Unit and source of a field stand in its metadata.

    Raises:
        ValueError: for a value out of its range, naming the field.
    """

    # the scan
    slices: int = count(40, "per case", _CHOICE)
    slice_mm: float = number(3.0, "mm", "calcium scoring protocols")
    field_of_view: tuple[float, float] = span(160, 400, "mm", "spec", least=50, most=800)
    usual_field_of_view: float = number(220.0, "mm, the mode", _CHOICE)
    shift: tuple[float, float] = span(-25, 25, "mm, along x and y", "spec", least=-200, most=200)
    shift_z: tuple[float, float] = span(-8, 8, "mm", _CHOICE, least=-200, most=200)
    rotation: tuple[float, float] = span(-15, 15, "degrees", "spec", least=-180, most=180)
    scale: tuple[float, float] = span(0.85, 1.2, "times the frame's size", "spec", least=0.3, most=3)
    deformation: tuple[float, float] = span(1.0, 3.0, "mm per wave", "spec: several mm", least=0, most=4)
    deformation_waves: int = count(3, "waves", _CHOICE)
    deformation_length: tuple[float, float] = span(90, 160, "mm of a wave, in the slice", _CHOICE, least=20, most=2000)
    deformation_length_z: tuple[float, float] = span(80, 200, "mm of a wave, along z", _CHOICE, least=20, most=2000)
    vessel_jitter: tuple[float, float] = span(-6, 6, "mm", _CTA + " (+-6 mm)", least=-30, most=30)

    # the chest, in the heart's frame: before `scale`
    organ_shift: tuple[float, float] = span(-2.5, 2.5, "mm, of each organ, along x and y", _CHOICE, least=-20, most=20)
    organ_size: tuple[float, float] = span(0.94, 1.06, "times each organ's half axes", _CHOICE, least=0.5, most=2)
    organ_turn: tuple[float, float] = span(-4, 4, "degrees, of each organ", _CHOICE, least=-45, most=45)
    diaphragm_lift: tuple[float, float] = span(
        -5, 14, "mm, of liver, left dome and spleen", _CHOICE, least=-50, most=50
    )
    cavity_shift: tuple[float, float] = span(-3, 3, "mm, to the back", _CHOICE, least=-20, most=20)
    cavity_width: tuple[float, float] = span(118, 136, "mm, half an axis", _CHOICE, least=80, most=250)
    cavity_depth: tuple[float, float] = span(83, 90, "mm, half an axis", _CHOICE, least=60, most=200)
    chest_wall: tuple[float, float] = span(
        -9, 3, "mm, more than 20 at the sides, than 17 in front and behind", _CHOICE, least=-14, most=50
    )
    fat_thickness: tuple[float, float] = span(
        6, 34, "mm, under the skin of the sides; 0.7 of it in front and behind", _CHOICE, least=0, most=150
    )
    ribs: int = count(6, "on either side", _CHOICE)
    rib_spacing: float = number(0.45, "radians around the cavity, from rib to rib", _CHOICE)
    rib_first: tuple[float, float] = span(0, 0.4, "radians, of all ribs to the back", _CHOICE, least=-3, most=3)
    rib_jitter: tuple[float, float] = span(-0.05, 0.05, "radians, of each rib", _CHOICE, least=-1, most=1)
    rib_slope: tuple[float, float] = span(
        0.004, 0.009, "radians to the back per mm of z", _CHOICE, least=-0.1, most=0.1
    )
    rib_length: tuple[float, float] = span(8, 17, "mm, half an axis of what is in a slice", _CHOICE, least=1, most=50)
    lung_vessels: int = count(1500, "pieces, in both lungs", _CHOICE)
    lung_vessel_length: tuple[float, float] = span(8, 30, "mm, of a piece", _CHOICE, least=1, most=100)
    lung_vessel_width: tuple[float, float] = span(
        0.35, 1.1, "times 5 mm, less away from the hila; 0.7 mm are added", _CHOICE, least=0, most=2
    )
    stomach_gas_rate: float = rate(0.6, "of cases", _CHOICE)
    stomach_gas_size: tuple[float, float] = span(8, 22, "mm, half an axis, at most", _CHOICE, least=0.1, most=100)
    oesophagus_air_rate: float = rate(0.35, "of cases", _CHOICE)
    oesophagus_air_size: tuple[float, float] = span(1.5, 3.5, "mm, half an axis, about", _CHOICE, least=0.1, most=20)
    table_rate: float = rate(0.8, "of cases with the table under the patient", _CHOICE)

    # tissue, HU at 120 kVp
    blood: tuple[float, float] = span(25, 43, "HU", "spec", least=-1000, most=3000)
    myocardium: tuple[float, float] = span(43, 48, "HU", "spec", least=-1000, most=3000)
    fat: tuple[float, float] = span(-95, -72, "HU", "spec", least=-1000, most=3000)
    lung: tuple[float, float] = span(-870, -790, "HU", "spec: -830", least=-1000, most=3000)
    muscle: tuple[float, float] = span(50, 60, "HU", "spec", least=-1000, most=3000)
    trabecular: tuple[float, float] = span(130, 260, "HU", "spec: 200", least=-1000, most=3000)
    cortical: tuple[float, float] = span(700, 1200, "HU", "spec", least=-1000, most=3000)
    liver: tuple[float, float] = span(48, 62, "HU", _CHOICE, least=-1000, most=3000)
    spleen: tuple[float, float] = span(42, 52, "HU", _CHOICE, least=-1000, most=3000)
    cartilage: tuple[float, float] = span(70, 120, "HU, of the ribs", _CHOICE, least=-1000, most=3000)
    pericardium: float = hu(15.0, "HU", _CHOICE)
    skin: float = hu(20.0, "HU", _CHOICE)
    disc: float = hu(85.0, "HU, between vertebrae", _CHOICE)
    spinal_canal: float = hu(20.0, "HU", _CHOICE)
    spinal_cord: float = hu(38.0, "HU", _CHOICE)
    stomach: float = hu(45.0, "HU", _CHOICE)
    stomach_gas: float = hu(-980.0, "HU", _CHOICE)
    oesophagus_air: float = hu(-700.0, "HU, of little air and its surroundings", _CHOICE)
    bronchi: float = hu(-960.0, "HU, of their air", _CHOICE)
    bronchial_wall: float = hu(20.0, "HU", _CHOICE)
    table_top: float = hu(-350.0, "HU", _CHOICE)
    table_core: float = hu(-930.0, "HU", _CHOICE)
    table_base: float = hu(-250.0, "HU", _CHOICE)
    lung_gradient: float = hu(0.45, "HU per mm to the back", _CHOICE)
    lung_texture: float = hu(16.0, "HU, SD", _CHOICE)
    fat_texture: float = hu(12.0, "HU, SD, outside the mediastinum", _CHOICE)
    mediastinal_fat_texture: float = hu(11.0, "HU, SD", _CHOICE)
    muscle_texture: float = hu(5.0, "HU, SD", _CHOICE)
    spine_texture: float = hu(8.0, "HU, SD, of its muscles and discs", _CHOICE)
    bone_texture: float = hu(30.0, "HU, SD, of trabecular bone", _CHOICE)
    myocardium_texture: float = hu(4.0, "HU, SD", _CHOICE)
    left_cavity_texture: float = hu(2.0, "HU, SD, of the blood in the left ventricle", _CHOICE)
    blood_texture: float = hu(1.5, "HU, SD, of the other chambers and the great vessels", _CHOICE)
    liver_texture: float = hu(3.0, "HU, SD", _CHOICE)
    contrast_rate: float = rate(0.125, "of cases", "spec: 10-15 %")
    contrast: tuple[float, float] = span(150, 450, "HU of the blood", "spec", least=-1000, most=3000)
    right_enhancement: tuple[float, float] = span(
        0.1, 1, "of the left heart's enhancement, of blood in the right heart", _CHOICE, least=0, most=2
    )
    myocardium_enhancement: float = rate(0.15, "of the left heart's enhancement", _CHOICE)
    liver_enhancement: float = rate(0.1, "of the left heart's enhancement", _CHOICE)
    spleen_enhancement: float = rate(0.15, "of the left heart's enhancement", _CHOICE)
    calcium_hu: float = hu(40.0, "HU at 0 mg/ml", "spec")
    calcium_slope: float = number(1.4, "HU per mg/ml", _QRM)

    # lesions
    positive_rate: float = rate(0.85, "of cases with coronary calcium", _CHOICE)
    lm_rate: float = rate(0.2, "of the positive cases", "spec")
    lad_rate: float = rate(0.75, "of the positive cases", "spec")
    lcx_rate: float = rate(0.4, "of the positive cases", "spec")
    rca_rate: float = rate(0.5, "of the positive cases", "spec")
    lm_volume: tuple[float, float] = volume(220, 248, _COCA)
    lad_volume: tuple[float, float] = volume(272, 439, _COCA)
    lcx_volume: tuple[float, float] = volume(224, 363, _COCA)
    rca_volume: tuple[float, float] = volume(630, 1061, _COCA)
    blooming: float = number(
        1.35,
        "labelled volume over a lesion's own",
        "1.32 measured by examples/phantom_figures.py; the published volumes are of segmentations",
    )
    lm_radius: float = number(3.0, "mm, of the trunk with its wall", _CHOICE)
    proximal_radius: float = number(2.6, "mm, of the other arteries with their walls, where they begin", _CHOICE)
    distal_radius: float = number(1.3, "mm, where they end", _CHOICE)
    lumen_radius: tuple[float, float] = span(1.2, 2.0, "mm", "spec", least=0.1, most=10)
    lm_lumen: float = number(1.35, "times lumen_radius, of the trunk", _CHOICE)
    thickness: tuple[float, float] = span(0.8, 2.5, "mm", "spec", least=0.1, most=10)
    length: tuple[float, float] = span(2, 27, "mm", "spec", least=0.5, most=100)
    arc: tuple[float, float] = span(120, 180, "degrees around the vessel", "spec: half-annular", least=10, most=180)
    arc_jitter: tuple[float, float] = span(
        -0.15, 0.15, "radians around the vessel, from its side", _CHOICE, least=-3, most=3
    )
    most_arcs: int = count(60, "arcs, on one vessel", _CHOICE)
    density_median: float = number(350.0, "mg/ml", "spec")
    density_sigma: float = number(0.45, "of the logarithm", _CHOICE)
    density: tuple[float, float] = span(150, 900, "mg/ml, what is outside is drawn again", "spec", least=1, most=3000)

    # what is as bright and is no coronary calcium
    aortic_wall_rate: float = rate(0.45, "of cases", "spec")
    ostium_rate: float = rate(0.3, "of the arcs of the aortic wall, 3-8 mm from the RCA's ostium", _CHOICE)
    ascending_rate: float = rate(0.35, "of the other arcs of the aortic wall, in the ascending aorta", _CHOICE)
    aortic_valve_rate: float = rate(0.11, "of cases", "spec")
    mitral_annulus_rate: float = rate(0.2, "of cases", "spec")
    lymph_node_rate: float = rate(0.12, "of cases", _CHOICE)
    pericardium_rate: float = rate(0.04, "of cases", _CHOICE)
    stent_rate: float = rate(0.04, "of cases", _CHOICE)
    lead_rate: float = rate(0.04, "of cases", _CHOICE)
    aortic_wall_volume: tuple[float, float] = volume(1525, 3921, _COCA)
    aortic_valve_volume: tuple[float, float] = volume(963, 2147, _COCA)
    mitral_annulus_volume: tuple[float, float] = volume(834.5, 1060, _COCA)
    aortic_wall_length: tuple[float, float] = span(3, 25, "mm", _CHOICE, least=0.5, most=100)
    aortic_wall_thickness: tuple[float, float] = span(0.8, 2.5, "mm", "spec: as lesions", least=0.1, most=10)
    aortic_wall_span: tuple[float, float] = span(3, 30, "mm around the aorta", _CHOICE, least=0.5, most=100)
    ostium_distance: tuple[float, float] = span(3, 8, "mm from the RCA's ostium", "spec", least=0, most=50)
    ostium_length: tuple[float, float] = span(2, 4, "mm", _CHOICE, least=0.5, most=15)
    ostium_span: tuple[float, float] = span(2, 4, "mm around the aorta", _CHOICE, least=0.5, most=50)
    ostium_thickness: tuple[float, float] = span(0.8, 2.0, "mm", _CHOICE, least=0.1, most=10)
    aortic_valve_most: float = number(6000.0, "mm3, of which no valve has more", _CHOICE)
    aortic_valve_size: tuple[float, float] = span(1, 4, "mm, half an axis, about", _CHOICE, least=0.1, most=20)
    aortic_valve_width: tuple[float, float] = span(
        0.6, 1.3, "times the size, along x and y", _CHOICE, least=0.1, most=5
    )
    aortic_valve_height: tuple[float, float] = span(0.6, 1.0, "times the size, along z", _CHOICE, least=0.1, most=5)
    aortic_valve_level: tuple[float, float] = span(13, 23, "mm, z in the heart's frame", _CHOICE, least=-10, most=60)
    aortic_valve_place: tuple[float, float] = span(
        0.1, 0.85, "of the way from the root's middle to its wall", _CHOICE, least=0, most=1
    )
    mitral_annulus_distance: tuple[float, float] = span(5, 12, "mm from the LCX", "spec", least=0, most=50)
    mitral_annulus_length: tuple[float, float] = span(3, 20, "mm", _CHOICE, least=0.5, most=100)
    mitral_annulus_thickness: tuple[float, float] = span(1, 2.5, "mm", "spec: as lesions", least=0.1, most=10)
    mitral_annulus_radius: tuple[float, float] = span(0.3, 2.0, "mm, inner", _CHOICE, least=0.1, most=10)
    mitral_annulus_arc: tuple[float, float] = span(120, 300, "degrees around the annulus", _CHOICE, least=10, most=360)
    lymph_nodes: int = count(4, "at most, of a case that has any", _CHOICE)
    lymph_node_jitter: tuple[float, float] = span(-5, 5, "mm from one of their places", _CHOICE, least=-30, most=30)
    lymph_node_size: tuple[float, float] = span(1.2, 4.5, "mm, half an axis, about", _CHOICE, least=0.1, most=20)
    lymph_node_width: tuple[float, float] = span(0.7, 1.3, "times the size, along x and z", _CHOICE, least=0.1, most=5)
    pericardium_cords: int = count(3, "at most, of a case that has any", _CHOICE)
    pericardium_level: tuple[float, float] = span(-30, 20, "mm, z in the heart's frame", _CHOICE, least=-60, most=80)
    pericardium_arc: tuple[float, float] = span(0.2, 0.9, "radians around the heart", _CHOICE, least=0.05, most=6)
    pericardium_radius: tuple[float, float] = span(0.8, 1.8, "mm, of a cord", _CHOICE, least=0.1, most=10)
    stent_length: tuple[float, float] = span(12, 24, "mm", _CHOICE, least=1, most=100)
    stent_place: tuple[float, float] = span(
        0, 0.6, "of what the stent leaves of the artery, before it", _CHOICE, least=0, most=1
    )
    stent_thickness: float = number(0.3, "mm", _CHOICE)
    lead_radius: tuple[float, float] = span(0.7, 1.1, "mm", _CHOICE, least=0.1, most=5)
    lead_jitter: tuple[float, float] = span(-3, 3, "mm", _CHOICE, least=-30, most=30)
    most_pieces: int = count(40, "of calcium, of aortic wall, aortic valve or mitral annulus", _CHOICE)
    metal_density: float = number(1500.0, "mg/ml, of what is as bright as a stent; a lead is twice that", _CHOICE)

    # the image chain
    motion_rate: float = rate(0.2, "of cases, of the RCA", "spec")
    motion: tuple[float, float] = span(3, 8, "mm", _CHOICE, least=0, most=50)
    psf_sigma: tuple[float, float] = span(0.55, 0.8, "mm", _QRM + "; range in the spec", least=0.05, most=5)
    sharp_rate: float = rate(0.15, "of cases with a sharp kernel", _CHOICE)
    sharp_noise: float = number(1.25, "times the noise's frequencies, with a sharp kernel", _CHOICE)
    undershoot: tuple[float, float] = span(0.15, 0.35, "of the peak, subtracted at 2.2 sigma", _CHOICE, least=0, most=1)
    noise_sd: tuple[float, float] = span(15, 25, "HU", _QRM + " 21.6; range in the spec", least=0, most=200)
    noise_floor: float = rate(0.72, "of noise_sd, far from the field's middle", _CHOICE)
    noise_width: float = number(220.0, "mm from the middle, where the rest is down to a third", _CHOICE)
    noise_frequency: tuple[float, float] = span(
        0.85, 1.2, "times the spectrum's frequencies", _CHOICE, least=0.2, most=5
    )
    streak_sd: tuple[float, float] = span(0, 6, "HU at the field's middle", _CHOICE, least=0, most=100)
    streak_limit: float = number(4.0, "times the noise of a path through 22 cells of water, 48 a side", _CHOICE)
    beam_hardening: float = hu(1.1e-5, "HU per squared HU cell of what is dense, 48 cells a side", _CHOICE)
    beam_hardening_from: float = hu(250.0, "HU, from which something is dense", _CHOICE)
    noise_frequencies: tuple[float, ...] = curve([0.025 + 0.05 * i for i in range(15)], "line pairs per mm", _QRM)
    noise_power: tuple[float, ...] = curve(
        (0.358, 0.865, 0.858, 0.964, 0.993, 1.0, 0.878, 0.81, 0.621, 0.459, 0.314, 0.204, 0.098, 0.046, 0.019),
        "relative power at these", _QRM,
    )  # fmt: skip

    # what `shifted` has in the place of the fields of these names
    shifted_field_of_view: tuple[float, float] = span(300, 480, "mm", _BEYOND, least=50, most=800)
    shifted_usual_field_of_view: float = number(360.0, "mm, the mode", _BEYOND)
    shifted_noise_sd: tuple[float, float] = span(26, 36, "HU", _BEYOND, least=0, most=200)
    shifted_noise_frequency: tuple[float, float] = span(
        1.2, 1.6, "times the spectrum's frequencies", _BEYOND, least=0.2, most=5
    )
    shifted_sharp_rate: float = rate(0.7, "of cases with a sharp kernel", _BEYOND)
    shifted_undershoot: tuple[float, float] = span(
        0.3, 0.5, "of the peak, subtracted at 2.2 sigma", _BEYOND, least=0, most=1
    )
    shifted_psf_sigma: tuple[float, float] = span(0.5, 0.6, "mm", _BEYOND, least=0.05, most=5)
    shifted_contrast_rate: float = rate(0.5, "of cases", _BEYOND)

    def __post_init__(self) -> None:
        for item in fields(self):
            check_field(item.name, getattr(self, item.name), item.metadata)
        for name in ("", "shifted_"):
            usual, within = getattr(self, f"{name}usual_field_of_view"), getattr(self, f"{name}field_of_view")
            if not within[0] <= usual <= within[1]:
                raise ValueError(
                    f"{name}usual_field_of_view must be within {name}field_of_view {within}, got {usual!r}"
                )
        bend = self.deformation_waves * self.deformation[1] * 2 * math.pi / self.deformation_length[0]
        if bend > _MOST_BEND:
            raise ValueError(
                f"deformation_waves x deformation x 2 pi / deformation_length must be at most {_MOST_BEND}, "
                f"got {bend:.2f}: the waves would fold the image"
            )
        if len(self.noise_frequencies) != len(self.noise_power):
            raise ValueError("noise_frequencies and noise_power must be equally many")
        if list(self.noise_frequencies) != sorted(set(self.noise_frequencies)):
            raise ValueError(f"noise_frequencies must ascend, got {self.noise_frequencies!r}")
        if not any(self.noise_power):
            raise ValueError("noise_power must not be 0 at all frequencies")

        rates = (self.lm_rate, self.lad_rate, self.lcx_rate, self.rca_rate)
        if self.positive_rate and sum(rates) <= 1:
            raise ValueError(
                f"lm_rate, lad_rate, lcx_rate and rca_rate must sum to more than 1, got {rates}: they are rates among "
                "positive cases, each of which has a vessel; set positive_rate for fewer cases"
            )

    def shifted(self) -> PhantomParameters:
        """The parameters of the split `shifted`: the fields `shifted_...` in the place of those that they name."""
        names = [item.name for item in fields(self) if item.name.startswith("shifted_")]
        return replace(self, **{name.removeprefix("shifted_"): getattr(self, name) for name in names})
