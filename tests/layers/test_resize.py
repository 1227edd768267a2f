import torch

from ddrsapc.layers import pad_to_multiple, resize


def test_resize_is_bilinear_between_pixel_centres():
    x = torch.tensor([[[[0.0, 4.0]]]])
    assert resize(x, (1, 4)).flatten().tolist() == [0.0, 1.0, 3.0, 4.0]


def test_pad_to_multiple_replicates_the_right_and_bottom_edge():
    x = torch.arange(6.0).view(1, 1, 2, 3)
    padded = pad_to_multiple(x, 4)
    assert padded.shape == (1, 1, 4, 4)
    assert padded[0, 0].tolist() == [[0, 1, 2, 2], [3, 4, 5, 5], [3, 4, 5, 5], [3, 4, 5, 5]]


def test_pad_to_multiple_leaves_a_fitting_input_alone():
    x = torch.randn(1, 1, 8, 4)
    assert pad_to_multiple(x, 4) is x
