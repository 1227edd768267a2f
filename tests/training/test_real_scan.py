"""Fine-tuning on a real CT: the calcium inserts of a QRM phantom, tested on a slice that was not trained on."""

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset

import ddrsapc
from ddrsapc.data import Augmentation, SliceDataset, load_splits
from ddrsapc.losses import DiceLoss, OhemCrossEntropyLoss, WeightedSumLoss
from ddrsapc.training import TrainConfig, fit, load_trained

pytest.importorskip("SimpleITK")

HELD_OUT = 12  # the slice through the middle of the inserts


@pytest.fixture
def folder(example, test_data, tmp_path):
    """The slices with inserts, cut to the field around them, as pairs; labels are 200, 400 and 800 mg/ml."""
    quickstart = example("quickstart")
    hu, pixel_area = quickstart.read_scan(test_data / "qrm_cci_canon" / "qrm_insert_crop.nii.gz")
    labels, _ = quickstart.label(hu, pixel_area)
    slices, rows, columns = quickstart.region_of(labels)
    for z in slices.tolist():
        split = "val" if z == HELD_OUT else "train"
        for kind, volume in (("images", hu.short()), ("labels", labels.byte())):
            path = tmp_path / "data" / split / kind / f"{split}{z:02d}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, volume[z, rows, columns].numpy())
    return tmp_path / "data"


@pytest.mark.slow
def test_reaches_foreground_iou_of_four_fifths(folder, tmp_path):
    splits, _ = load_splits(folder)
    train, val = SliceDataset(splits.train), SliceDataset(splits.val)
    assert (len(train), len(val)) == (4, 1)
    assert all(pixels > 150 for pixels in splits.val[0].class_pixels)
    torch.manual_seed(0)
    model = ddrsapc.create_model("ddr_sapc_u_s", pretrained=True)
    config = TrainConfig(
        epochs=2, batch_size=4, optimizer="adamw", lr=5e-3, schedule="cosine", warmup_steps=10, freeze_bn=True
    )
    augmentation = Augmentation(shift=0.05, rotation=10, scale=(0.95, 1.05), noise=5, gain=0, offset=5)
    result = fit(
        model,
        ConcatDataset([train] * 30),  # 30 steps an epoch
        val,
        tmp_path / "run",
        config=config,
        criterion=WeightedSumLoss([(OhemCrossEntropyLoss(), 1.0), (DiceLoss(), 1.0)]),
        augmentation=augmentation,
        device="cpu",
    )
    best = max(record["val_foreground_mean_iou"] for record in result.history)
    assert best > 0.8
    image, label, _ = val[0]
    with torch.inference_mode():
        model = load_trained(result.best)
        prediction = model(model.input_config.normalize(image)[None, None]).argmax(1)[0]
    for c in (1, 2, 3):
        assert ((prediction == c) & (label == c)).sum() > 0.6 * (label == c).sum()
