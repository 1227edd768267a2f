import torch

import ddrsapc


def test_std_conv_filters_have_mean_zero_and_variance_one():
    model = ddrsapc.create_model("transunet", width=8).eval()
    conv = model.root[0]
    torch.nn.init.normal_(conv.weight, mean=3.0, std=5.0)
    x = torch.randn(1, 1, 32, 32)
    weight = (conv.weight - conv.weight.mean((1, 2, 3), keepdim=True)) / conv.weight.std(
        (1, 2, 3), keepdim=True, correction=0
    )
    torch.testing.assert_close(conv(x), torch.nn.functional.conv2d(x, weight, None, 2, 3), rtol=1e-4, atol=1e-4)
    assert torch.allclose(conv(x + 100)[..., 4:-4, 4:-4], conv(x)[..., 4:-4, 4:-4], atol=1e-2)  # blind to a constant


def test_attention_equals_its_formula():
    attention = ddrsapc.create_model("transunet", width=8).transformer.blocks[0].attention
    x = torch.randn(2, 10, 48)
    q, k, v = attention.qkv(x).view(2, 10, 3, 3, 16).permute(2, 0, 3, 1, 4)
    expected = ((q @ k.mT / 4).softmax(-1) @ v).transpose(1, 2).reshape(2, 10, 48)
    torch.testing.assert_close(attention(x), attention.out(expected))


def test_every_pixel_sees_every_other():
    model = ddrsapc.create_model("transunet", width=8).eval()
    x = torch.randn(1, 1, 128, 128, requires_grad=True)
    model(x)[0, :, 0, 0].sum().backward()
    assert (x.grad[0, 0, -16:, -16:] != 0).any()
