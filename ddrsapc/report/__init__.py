"""What a person looks at: scans with their calcium in colours, tables, a page, a DICOM structured report.

Needs the extra `ct`; without it this package can be imported, but nothing can be drawn.
"""

from ddrsapc.report.tables import csv_bytes, lesions_csv, scores_csv
from ddrsapc.report.writing import write_report

__all__ = ["csv_bytes", "lesions_csv", "scores_csv", "write_report"]
