"""Training data: folders of image/label pairs or CT scans, checked and split by patient; batches; augmentation."""

from ddrsapc.data.augment import Augmentation
from ddrsapc.data.batches import Batch, EpochBatches, collate, make_loader, shard_batches
from ddrsapc.data.folder import Case, FolderReport, check_folder, patient_by_pattern, patient_of
from ddrsapc.data.problems import DataError, Problem
from ddrsapc.data.readers import READERS, Reader, Readers, read_png_image
from ddrsapc.data.scan_files import ScanFiles, ScanPair, find_scans
from ddrsapc.data.scans import PreparedScan, PreparedScans, prepare_scans
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
    "PreparedScan",
    "PreparedScans",
    "Problem",
    "Reader",
    "Readers",
    "Sample",
    "ScanFiles",
    "ScanPair",
    "SliceDataset",
    "Splits",
    "check_folder",
    "collate",
    "find_scans",
    "load_splits",
    "make_loader",
    "patient_by_pattern",
    "patient_of",
    "prepare_scans",
    "read_png_image",
    "shard_batches",
    "split_by_patient",
]
