"""The definitions of the kernels in float64, by matrices and loops."""

import math

import torch


def bilinear_matrix(size_out, size_in):
    """(size_out, size_in): each row weighs the two inputs that its pixel centre lies between, the edge repeated."""
    matrix = torch.zeros(size_out, size_in, dtype=torch.float64)
    for i in range(size_out):
        source = max((i + 0.5) * size_in / size_out - 0.5, 0.0)
        low = min(math.floor(source), size_in - 1)
        high = min(low + 1, size_in - 1)
        matrix[i, low] += 1 - (source - low)
        matrix[i, high] += source - low
    return matrix


def resize(x, size):
    rows, columns = (bilinear_matrix(size[i], x.shape[2 + i]) for i in (0, 1))
    return torch.einsum("ih,jw,nchw->ncij", rows, columns, x.double())


def upsample_add_act(x, terms, *, relu):
    out = x.double() + sum(resize(term, x.shape[2:]) for term in terms)
    return out.clamp(min=0) if relu else out


def dual_gate(x, own, other):
    def attention(logit):
        return 1 / (1 + (-logit.double()).exp())

    return x.double() * (attention(own) + 1 - resize(attention(other), x.shape[2:]))
