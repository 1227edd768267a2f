"""What a person looks at after a prediction: overlays, a report, tables, a DICOM structured report."""
