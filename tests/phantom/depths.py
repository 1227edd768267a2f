import numpy as np

from ddrsapc.phantom.canvas import Canvas


def depth_at(draw, name, point):
    """How deep in mm of the frame a point of the scan lies in what is painted of a structure; None beside the image."""
    place = draw.placement
    z = round(float(point[2]) / place.slice_mm + (place.slices - 1) / 2)
    column, row = (round(float(value) / place.pixel_mm + (place.size - 1) / 2) for value in point[:2])
    canvas = Canvas(place, z, np.zeros((place.size, place.size), np.float32))
    found = canvas.depth(draw.anatomy.structures[name].at(canvas.z), margin=20)
    if found is None:
        return None
    (rows, columns), depth = found
    inside = rows.start <= row < rows.stop and columns.start <= column < columns.stop
    return float(depth[row - rows.start, column - columns.start]) if inside else None
