"""What `table1.py` measures of a network: IoU on slices, lesions and scores of whole scans, time."""

from __future__ import annotations

import math
import statistics
import time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from ddrsapc.ct import Volume, VolumeMeta
from ddrsapc.data import Batch, make_loader, shard_batches
from ddrsapc.inference import CALCIUM_HU, predict
from ddrsapc.metrics import ConfusionMatrix
from ddrsapc.models import SegmentationModel
from ddrsapc.phantom import PhantomCase, PhantomDataset, PhantomParameters, make_case
from ddrsapc.scoring import LesionDetection, detect_lesions, score_agreement, score_volume
from ddrsapc.training import BatchPreparation, evaluate

RESAMPLES = 2000
PASSES = {"cpu": 7, "cuda": 100}


class Cases(Dataset[PhantomCase]):
    """The first whole scans of a split."""

    def __init__(self, split: Any, size: int, n: int, seed: int, parameters: PhantomParameters) -> None:
        self.split, self.size, self.n, self.seed, self.parameters = split, size, n, seed, parameters

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> PhantomCase:
        return make_case(self.seed, index, split=self.split, size=self.size, parameters=self.parameters)


def evaluate_slices(
    model: SegmentationModel, data: PhantomDataset, *, device: torch.device, batch_size: int, workers: int
) -> dict[str, Any]:
    """IoU on slices, each of another case, of the labels as the network gives them."""
    loader = make_loader(data, shard_batches(len(data), batch_size), workers=workers)
    counts: list[torch.Tensor] = []  # (4, 4) of each slice

    def count(batch: Batch, prediction: torch.Tensor) -> None:
        for labels, predicted in zip(batch.labels.to(device), prediction, strict=True):
            confusion = ConfusionMatrix(4, device=device)
            confusion.update(predicted, labels)
            counts.append(confusion.counts)

    found = evaluate(model, loader, BatchPreparation(model.input_config, device), on_batch=count)
    return {
        "count": found.images,
        "confusion": found.confusion.counts.tolist(),
        "iou": found.scores.iou.tolist(),
        "mean_iou": found.scores.mean_iou,
        "foreground_mean_iou": found.scores.foreground_mean_iou,
        "foreground_mean_iou_95": interval(torch.stack(counts).cpu().numpy()),
    }


def interval(counts: NDArray[np.int64]) -> list[float]:
    """The foreground's mean IoU in the middle 95 of 100 drawings of as many slices, from confusions (N, 4, 4).

    NaN where nothing is calcium and nothing is called so.
    """
    drawn = np.random.default_rng(0).integers(len(counts), size=(RESAMPLES, len(counts)))
    pooled = np.stack([counts[rows].sum(0) for rows in drawn])  # (RESAMPLES, 4, 4)
    hits = np.diagonal(pooled, axis1=1, axis2=2)
    union = pooled.sum(1) + pooled.sum(2) - hits
    iou = np.ma.masked_array(hits, union == 0) / np.maximum(union, 1)  # less what was not drawn
    means = iou[:, 1:].mean(axis=1).compressed()
    return np.quantile(means, (0.025, 0.975)).tolist() if means.size else [math.nan, math.nan]


def evaluate_cases(model: SegmentationModel, cases: Cases, *, batch_size: int, workers: int) -> dict[str, Any]:
    """Scores and lesions of whole scans, labelled as `ddrsapc predict` does: what is below 130 HU is no calcium."""
    rows, detections = [], []
    loader = DataLoader(cases, batch_size=None, num_workers=workers) if len(cases) else ()
    for case in loader:
        volume = Volume(
            case.hu, case.spacing, case.affine, np.arange(len(case.hu)) * case.spacing[0], VolumeMeta("", ())
        )
        labels = predict(model, volume, threshold=CALCIUM_HU, batch_size=batch_size)
        true, predicted = (score_volume(case.hu, given, case.spacing) for given in (case.labels, labels))
        detections.append(detect_lesions(case.hu, case.labels, labels, case.spacing))
        rows.append(
            {
                "name": case.name,
                "agatston": {"true": true.agatston, "predicted": predicted.agatston},
                "category": {"true": true.category, "predicted": predicted.category},
                "vessels": {
                    name: {"true": score.agatston, "predicted": predicted.vessels[name].agatston}
                    for name, score in true.vessels.items()
                },
                "lesions": detections[-1].to_dict(),
            }
        )
    scores = {key: [row["agatston"][key] for row in rows] for key in ("predicted", "true")}
    return {
        "count": len(cases),
        "agatston": score_agreement(**scores).to_dict(),
        "lesions": LesionDetection.total(detections).to_dict(),
        "scans": rows,
    }


def measure_speed(model: SegmentationModel, device: torch.device, side: int) -> dict[str, Any]:
    """The median time of a slice, one at a time; the fastest one tells whether the machine was busy."""
    x = torch.randn(1, model.in_chans, side, side, device=device)
    seconds = []
    with torch.inference_mode():
        for _ in range(PASSES.get(device.type, 7) + 2):
            begin = time.perf_counter()
            model(x)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds.append(time.perf_counter() - begin)
    ms = [1000 * one for one in seconds[2:]]  # the first passes are slower
    about = {"size": side, "batch_size": 1, "passes": len(ms)}
    return {"ms_per_slice": statistics.median(ms), "fastest_ms": min(ms), **about}
