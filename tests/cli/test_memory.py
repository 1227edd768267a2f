"""`ddrsapc predict` on a long scan that is calcified everywhere."""

import json
import re
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest

PLANE = (512, 512)
FEW, MANY, MOST = 72, 216, 2000  # slices: of two scans that fill the contact sheet, and of the largest scan
SIDE, APART = 6, 55  # of the lesions, in pixels
COMMAND = """
import re
import sys
from pathlib import Path
import torch
from ddrsapc.cli.app import run
from ddrsapc.hub import save_pretrained
from tests.training.small import small_network

torch.set_num_threads(1)
# the network's own memory does not depend on the slices; this one sees each vessel in a third of every slice
vessels = 1 + torch.arange(512) // 171
logits = torch.nn.functional.one_hot(vessels, 4).T[None, :, None].float()  # (1, 4, 1, W)
network = small_network()
type(network).forward = lambda self, x: logits.expand(len(x), -1, x.shape[2], -1)
folder = Path(sys.argv[1])
save_pretrained(network, folder / "network")
for name in ("few", "many"):
    scan, out = str(folder / f"{name}.nii"), str(folder / "out")
    if run(["predict", scan, "-o", out, "--model", f"local-dir:{folder / 'network'}"]):
        sys.exit(1)
    print("bytes:", int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024)
"""


def write_scan(path, slices):
    """The scan, slice by slice; 1 % of its voxels are calcium. Returns the number of calcified voxels."""
    header = nib.Nifti1Header()
    header.set_data_shape((*PLANE[::-1], slices))
    header.set_data_dtype(np.int16)
    header.set_zooms((0.5, 0.5, 1.0))
    header.set_sform(np.diag([-0.5, -0.5, 1.0, 1.0]), code=1)
    header.set_qform(np.diag([-0.5, -0.5, 1.0, 1.0]), code=1)
    plane = np.full(PLANE, 40, np.int16)  # (H, W)
    for row in range(0, 506, APART):
        for column in range(0, 506, APART):
            plane[row : row + SIDE, column : column + SIDE] = 300
    empty = np.full(PLANE, 40, np.int16).tobytes()
    with path.open("wb") as file:
        header.write_to(file)
        for z in range(slices):
            file.write(empty if z % SIDE == SIDE - 1 else plane.tobytes())
    return int((plane >= 130).sum()) * (slices - slices // SIDE)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_two_thousand_calcified_slices_fit_into_4_gigabytes(root, tmp_path):
    """By what each slice adds to the peak, which two shorter scans show."""
    write_scan(tmp_path / "few.nii", FEW)
    calcified = write_scan(tmp_path / "many.nii", MANY)
    assert calcified > 0.01 * MANY * np.prod(PLANE)
    command = [sys.executable, "-c", COMMAND, str(tmp_path)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    few, many = map(int, re.findall(r"bytes: (\d+)", done.stdout))
    by_slice = (many - few) / (MANY - FEW)
    assert by_slice > 2 * np.prod(PLANE)  # the scan itself: no passing peak of the short one hides the growth
    assert few + by_slice * (MOST - FEW) < 4e9
    score = json.loads((tmp_path / "out" / "many" / "score.json").read_text())
    assert score["volume_mm3"] == pytest.approx(calcified * 0.25)
    assert len(score["lesions"]) == 100 * MANY // SIDE
