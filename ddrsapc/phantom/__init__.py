"""A simulated non-contrast, gated cardiac CT with exact truth, from a seed (extra `phantom`)."""

from ddrsapc.phantom.case import PhantomCase, make_case
from ddrsapc.phantom.dataset import PhantomDataset
from ddrsapc.phantom.draws import CaseDraw, draw_case
from ddrsapc.phantom.parameters import PhantomParameters

__all__ = ["CaseDraw", "PhantomCase", "PhantomDataset", "PhantomParameters", "draw_case", "make_case"]
