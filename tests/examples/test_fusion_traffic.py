"""Bytes that are counted without a GPU, against counts by hand."""

import json

import pytest
import torch

import ddrsapc


@pytest.fixture(scope="module")
def traffic(example):
    return example("fusion_traffic")


@pytest.fixture(scope="module")
def gpu(traffic):
    """A byte takes a millisecond, a FLOP a hundredth."""
    return traffic.Gpu(1e3, 1e5)


def tensor(*shape, grad=True):
    return torch.zeros(shape, requires_grad=grad)


def test_upsample_add_act(traffic, gpu):
    x, low, same = tensor(1, 2, 4, 4), tensor(1, 2, 2, 2), tensor(1, 2, 4, 4)
    full, quarter = 128, 32  # bytes
    call = traffic.Call.of("upsample_add_act", x, [low, same], relu=True)
    eager, fused = traffic.costs(call, gpu)
    # resize, two additions, ReLU; ReLU's gradient of (gradient, output), and the resize's
    assert (eager.operations, eager.bytes) == (6, quarter + full + 2 * 3 * full + 2 * full + 3 * full + full + quarter)
    assert eager.ms == pytest.approx(eager.bytes)
    assert (fused.operations, fused.bytes, fused.ms) == (2, (3 * full + quarter) + (3 * full + quarter), fused.bytes)

    _, plain = traffic.costs(traffic.Call.of("upsample_add_act", x, [low], relu=False), gpu)
    assert (plain.operations, plain.bytes) == (2, (2 * full + quarter) + (full + quarter))
    _, added = traffic.costs(traffic.Call.of("upsample_add_act", x, [same], relu=False), gpu)
    assert (added.operations, added.bytes) == (1, 3 * full)
    frozen = traffic.Call.of("upsample_add_act", x.detach(), [low.detach()], relu=True)
    assert traffic.costs(frozen, gpu)[1].bytes == 2 * full + quarter


def test_dual_gate(traffic, gpu):
    call = traffic.Call.of("dual_gate", tensor(1, 8, 4, 4), tensor(1, 1, 4, 4), tensor(1, 1, 2, 2))
    full, own, other = 512, 64, 16
    forward, _ = traffic.costs(traffic.Call.of("dual_gate", *(t.detach() for t in call.tensors)), gpu)
    # two sigmoids, resize, 1 - it, their sum, the product
    assert forward.operations == 6
    assert forward.bytes == 2 * own + 2 * other + (other + own) + 2 * own + 3 * own + (own + 2 * full)
    inputs = full + own + other
    _, fused = traffic.costs(call, gpu)
    assert (fused.operations, fused.bytes) == (3, (inputs + full) + (inputs + full + inputs))


def test_ohem_cross_entropy(traffic, gpu):
    options = {"threshold": 0.7, "min_kept": 0.05, "ignore_index": 255, "weight": None}
    call = traffic.Call.of("ohem_cross_entropy", tensor(1, 3, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long), **options)
    logits, target, losses, scalar = 192, 128, 64, 4
    eager, fused = traffic.costs(call, gpu)
    assert fused.operations == 6
    assert fused.bytes == (logits + target + scalar + 5 * losses) + (logits + target + scalar + logits)
    assert eager.bytes > 2 * fused.bytes


def test_upsample_argmax(traffic, gpu):
    call = traffic.Call.of("upsample_argmax", tensor(1, 3, 2, 2, grad=False), (4, 4))
    low, full, values, indices, labels = 48, 192, 64, 128, 16
    eager, fused = traffic.costs(call, gpu)
    assert (eager.operations, eager.bytes) == (3, low + full + full + values + indices + indices + labels)
    assert (fused.operations, fused.bytes) == (1, low + labels)


def test_convolutions_and_batch_norms(traffic, gpu):
    network = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3, padding=1, bias=False), torch.nn.BatchNorm2d(3)).to("meta")
    x = torch.empty(1, 2, 4, 4, device="meta")
    with traffic.Traffic(gpu) as counted:
        network(x).backward(torch.empty(1, 3, 4, 4, device="meta"))
    conv, norm = counted.families["convolution"], counted.families["batch norm"]
    weight, read, written = 216, 128, 192  # bytes
    assert conv.bytes == (read + weight + written) + (written + read + weight + weight)  # no gradient of the input
    assert conv.flops == 2 * 2 * 16 * 3 * 2 * 9
    assert conv.ms == pytest.approx(conv.bytes)
    channels = 12  # weight, bias, running statistics; read and written are also the batch's
    assert norm.bytes == (2 * (written + 4 * channels) + written + 2 * channels) + (
        2 * (2 * written + 5 * channels) + written + 2 * channels
    )


def test_a_network(traffic, tmp_path, capsys):
    output = tmp_path / "new" / "traffic.json"
    arguments = ["--width", "4", "--size", "64", "--train-batch-size", "2", "--infer-batch-size", "1"]
    assert traffic.main(["ddr_sapc_u", *arguments, "-o", str(output)]) == 0
    found = json.loads(output.read_text())
    assert found["settings"]["width"] == 4
    assert list(found["training"]["kernels"]) == ["upsample_add_act", "dual_gate", "ohem_cross_entropy"]
    assert list(found["inference"]["kernels"]) == ["upsample_add_act", "dual_gate", "upsample_argmax"]
    macs = ddrsapc.profile.macs(ddrsapc.create_model("ddr_sapc_u", width=4), (1, 1, 64, 64))
    assert found["inference"]["total"]["flops"] == 2 * macs
    for part in (found["training"], found["inference"]):
        for row in part["kernels"].values():
            assert row["eager"]["bytes"] > row["fused"]["bytes"] > 0
            assert row["eager"]["operations"] > row["fused"]["operations"] >= row["calls"]
            assert 0 < row["saved_share"] < 1
        assert part["total"]["ms"] == pytest.approx(sum(row["ms"] for row in part["families"].values()))
    assert "ohem_cross_entropy" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "unknown model 'nothing'"),
        (["unet", "--bandwidth", "0"], "must be above 0"),
        (["ddr_sapc_u", "--width", "4", "--size", "1"], "expected images of at least"),
    ],
)
def test_what_cannot_be_counted(traffic, arguments, message, capsys):
    assert traffic.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error
