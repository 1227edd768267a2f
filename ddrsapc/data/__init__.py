"""Training data: folders of image/label pairs, checked and split by patient; batches; augmentation."""

from ddrsapc.data.augment import Augmentation
from ddrsapc.data.batches import Batch, EpochBatches, collate, make_loader, shard_batches
from ddrsapc.data.folder import Case, FolderReport, Problem, check_folder, patient_by_pattern, patient_of
from ddrsapc.data.readers import READERS, DataError, Reader, Readers, read_png_image
from ddrsapc.data.slices import Sample, SliceDataset
from ddrsapc.data.splits import Splits, load_splits, split_by_patient

__all__ = [
    "READERS",
    "Augmentation",
    "Batch",
    "Case",
    "DataError",
    "EpochBatches",
    "FolderReport",
    "Problem",
    "Reader",
    "Readers",
    "Sample",
    "SliceDataset",
    "Splits",
    "check_folder",
    "collate",
    "load_splits",
    "make_loader",
    "patient_by_pattern",
    "patient_of",
    "read_png_image",
    "shard_batches",
    "split_by_patient",
]
