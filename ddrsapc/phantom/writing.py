"""Simulated scans as files, in the layout that training reads: `images/NAME.*`, `labels/NAME.*`, `truth/NAME.json`.

Where asked for, `truth/NAME_density.*` is the density map.
"""

from __future__ import annotations

import io
import json
import secrets
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ddrsapc.ct.errors import needs_extra
from ddrsapc.files import sync_folder, write_atomically
from ddrsapc.phantom.case import PhantomCase
from ddrsapc.phantom.vessels import Deposit

__all__ = ["FORMATS", "Format", "is_written", "truth_of", "write_case"]

Format = Literal["nifti", "dicom", "npy"]
FORMATS: tuple[Format, ...] = get_args(Format)
_IMAGES = {"nifti": ".nii.gz", "dicom": "", "npy": ".npy"}
_LABELS = {"nifti": ".nii.gz", "dicom": ".nii.gz", "npy": ".npy"}


def is_written(name: str, folder: Path, file_format: Format, *, density: bool = False) -> bool:
    """Whether a case is there, whole; with its density map, if that is asked for."""
    image, labels, map_path = _paths(name, folder, file_format)
    wanted = [folder / "truth" / f"{name}.json", image, labels, *([map_path] if density else [])]
    return all(path.exists() for path in wanted)


def write_case(case: PhantomCase, folder: Path, file_format: Format, *, density: bool = False) -> None:
    """Write image, labels and truth of a case; each is whole or not there, the truth comes last.

    A case of the same name that is there is replaced, its truth taken away first.

    DICOM is a folder of CT images per case, with the labels as NIfTI. `.npy` files have no spacing: it is in the truth.

    Args:
        case: to write.
        folder: gets `images`, `labels` and `truth`.
        file_format: "nifti", "dicom" or "npy".
        density: write the density map too, float32 mg/ml, as NIfTI or as `.npy`, which is twice the image's size.

    Raises:
        ValueError: for another format.
        ImportError: without the extra `ct`, which NIfTI and DICOM need.
        OSError: if a file cannot be written.
    """
    if file_format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {file_format!r}")
    image, labels, map_path = _paths(case.name, folder, file_format)
    truth = folder / "truth" / f"{case.name}.json"
    for path in (image, labels, truth):
        path.parent.mkdir(parents=True, exist_ok=True)
    for path in (truth, map_path):  # no truth stands beside images that it is not of
        path.unlink(missing_ok=True)
    if file_format == "dicom":
        _write_series(case, image)
    else:
        _write_array(image, case.hu, case.affine)
    _write_array(labels, case.labels, case.affine)
    if density:
        _write_array(map_path, case.density, case.affine)
    write_atomically(truth, (json.dumps(truth_of(case), indent=2) + "\n").encode())


def truth_of(case: PhantomCase) -> dict[str, Any]:
    """What was drawn, as JSON has it: every lesion and mimic, the true mass, how the case was scanned."""
    draw = case.draw
    voxel = float(np.prod(case.spacing))
    return {
        "name": case.name,
        "spacing_mm": list(case.spacing),
        "affine_lps": case.affine.tolist(),
        "coronary_mass_mg": case.mass_mg,
        "label_volume_mm3": {str(label): voxel * int((case.labels == label).sum()) for label in (1, 2, 3)},
        "lesions": [_deposit(item) for item in draw.lesions],
        "mimics": [_deposit(item) for item in draw.mimics],
        "acquisition": asdict(draw.acquisition),
        "blood_hu": draw.anatomy.values["blood"],
        "vessel_paths_mm": {name: curve.points[::8].round(2).tolist() for name, curve in draw.courses.items()},
    }


def _deposit(item: Deposit) -> dict[str, Any]:
    return {
        "site": item.site,
        "label": item.label,
        "volume_mm3": item.volume_mm3,
        "density_mg_per_ml": item.density,
        "mass_mg": item.mass_mg,
        "z_range_mm": list(item.shape.z_range),
    }


def _paths(name: str, folder: Path, file_format: Format) -> tuple[Path, Path, Path]:
    """Of image, labels and density map."""
    suffix = _LABELS[file_format]
    return (
        folder / "images" / f"{name}{_IMAGES[file_format]}",
        folder / "labels" / f"{name}{suffix}",
        folder / "truth" / f"{name}_density{suffix}",
    )


def _write_array(path: Path, values: NDArray[Any], affine: NDArray[np.float64]) -> None:
    if path.suffix == ".npy":
        file = io.BytesIO()
        np.save(file, values)
        write_atomically(path, file.getvalue())
        return
    with needs_extra():
        from ddrsapc.ct.images import save_image  # noqa: PLC0415  # an extra

    save_image(path, values, affine)


def _write_series(case: PhantomCase, folder: Path) -> None:
    """One CT Image Storage file a slice, in a folder that is whole or not there; an earlier one is replaced."""
    with needs_extra():
        from ddrsapc.phantom.dicom import slice_dataset  # noqa: PLC0415  # an extra

    partial = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.part")
    earlier = partial.with_suffix(".old")
    partial.mkdir()
    try:
        for z in range(len(case.hu)):
            slice_dataset(case, z).save_as(partial / f"{z + 1:04d}.dcm", enforce_file_format=True)
        if folder.exists():
            folder.rename(earlier)
        partial.rename(folder)
    finally:
        if earlier.exists() and not folder.exists():
            earlier.rename(folder)
        for rest in (partial, earlier):
            shutil.rmtree(rest, ignore_errors=True)
    sync_folder(folder.parent)
