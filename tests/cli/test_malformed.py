"""Damaged scans and masks through the commands: one line of error and no output, or read as before."""

import os

import numpy as np
import pytest

from ddrsapc.ct import read_volume, write_mask
from ddrsapc.hub import save_pretrained
from tests.ct.malformed import Source, damaged
from tests.ct.malformed_images import MHA, NIFTI, NRRD
from tests.ct.series_files import phantom, write_series
from tests.ct.test_malformed import invented
from tests.training.small import small_network

DAMAGED_MASKS = {"mask.nii.gz": NIFTI, "mask.mha": MHA, "mask.nrrd": NRRD}


def check(outcome, damage, named):
    """One printable line that names the file, of what had to fail; nothing but warnings of what did not."""
    code, out, err = outcome
    lines = err.splitlines()
    assert code in (0, 2), err
    assert "Traceback" not in err
    if code == 2:
        assert damage.result != "same", err
        assert out == ""
        assert lines[-1].startswith("error: "), err
        assert str(named) in lines[-1], err
        assert err.count("error: ") == 1
        assert err.rstrip("\n").replace("\n", "").isprintable()
    else:
        assert damage.result != "error", out
        assert all(line.startswith("warning: ") for line in lines), err


def test_scans(command, tmp_path):
    (tmp_path / "sound").mkdir()
    sources = [source for source in invented(tmp_path / "sound") if source.name != "scan.png"]
    weights = tmp_path / "network"
    save_pretrained(small_network(), weights)
    failed, tried = 0, 0
    for _, damage, path in damaged(sources, tmp_path, seed=7, every=2):
        output = tmp_path / "out"
        result = command("predict", path, "-o", output, "--model", f"local-dir:{weights}", "--mask", ".nii.gz")
        check(result, damage, path)
        tried, failed = tried + 1, failed + (result[0] == 2)
        written = [name for name in os.listdir(output) if name != "summary.csv"] if output.exists() else []
        assert len(written) == (result[0] == 0), (damage.name, written)
        for name in written:
            (output / name).rename(tmp_path / f"done {tried}")
    assert tried > 30
    assert failed > tried / 2


@pytest.mark.parametrize("name", [*DAMAGED_MASKS, "mask.dcm"])
def test_masks(command, tmp_path, name):
    write_series(tmp_path / "scan", phantom(5, 32, 36), spacing=(3.0, 0.5, 0.5))
    volume = read_volume(tmp_path / "scan")
    labels = (volume.hu >= 500).astype(np.uint8)
    (tmp_path / "sound").mkdir()
    write_mask(labels, volume, tmp_path / "sound" / name)
    assert command("score", tmp_path / "scan", tmp_path / "sound" / name)[0] == 0
    codes = []
    for path in damaged_masks(tmp_path / "sound", name, tmp_path):
        code, out, err = command("score", tmp_path / "scan", path)
        codes.append(code)
        assert code in (0, 2), err
        if code == 2:
            assert out == ""
            assert err.startswith("error: ")
            assert err.count("\n") == 1, err
            assert str(path) in err
            assert "no such file" not in err or path.suffix == ".mhd"
    assert len(codes) >= 12
    assert codes.count(2) > len(codes) / 2


def damaged_masks(folder, name, into):
    """Copies of a mask, each damaged in another way; they are there for a while."""
    if name in DAMAGED_MASKS:
        source = Source(folder, name, DAMAGED_MASKS[name])
        for _, _, path in damaged([source], into, rounds=2, seed=3):
            yield path
        return
    whole, rng, path = (folder / name).read_bytes(), np.random.default_rng(0), into / "damaged.dcm"
    for i, end in enumerate(rng.integers(0, len(whole), 12)):
        path.write_bytes(whole[:end] if i % 2 else whole[:end] + rng.bytes(len(whole) - end))
        yield path
