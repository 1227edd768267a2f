"""CT scans and masks: read from DICOM, NIfTI, MetaImage, NRRD and pictures; masks written in the scan's geometry.

Needs the extra `ct`; without it this package can be imported, but nothing can be read.
"""

from ddrsapc.ct.coca import COCA_NAMES, read_coca_plist, read_orcascore
from ddrsapc.ct.errors import CTError
from ddrsapc.ct.masks import read_mask, write_mask
from ddrsapc.ct.orientation import SliceOrientation
from ddrsapc.ct.volume import SeriesInfo, Volume, VolumeMeta, list_series, read_volume

__all__ = [
    "COCA_NAMES",
    "CTError",
    "SeriesInfo",
    "SliceOrientation",
    "Volume",
    "VolumeMeta",
    "list_series",
    "read_coca_plist",
    "read_mask",
    "read_orcascore",
    "read_volume",
    "write_mask",
]
