"""The optimized copy: what is folded and what is not, graphs, errors. That it answers alike is in the contract."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

import ddrsapc
from ddrsapc import optimize
from ddrsapc.ct import Volume
from ddrsapc.ct.volume import VolumeMeta
from ddrsapc.hub import WeightsError, save_pretrained
from ddrsapc.inference import predict
from ddrsapc.layers import BatchNorm2d, conv_bn
from ddrsapc.models import SegmentationModel
from ddrsapc.models.base import FeatureInfo
from ddrsapc.optimize import optimize_for_inference
from tests.training.small import small_network


class Odd(SegmentationModel):
    """Batch norms in places of all kinds, only the first of which is a convolution's alone."""

    stride = 1
    first_conv = "folds"
    classifier = "head"
    head_modules = ("head",)

    def __init__(self):
        super().__init__(num_classes=2, in_chans=1, width=4)
        self.folds = conv_bn(1, 4)[0]
        self.folds_too = nn.ConvTranspose2d(4, 4, 3, padding=1, groups=1)
        self.read_twice = nn.Conv2d(4, 4, 3, padding=1)
        self.called_twice = nn.Conv2d(4, 4, 3, padding=1)
        self.written_to = nn.Conv2d(4, 4, 3, padding=1)
        self.is_a_feature = nn.Conv2d(4, 4, 3, padding=1)
        self.bns = nn.ModuleList(BatchNorm2d(4) for _ in range(7))
        self.unfit = nn.BatchNorm2d(4, track_running_stats=False)
        self.head = nn.Conv2d(4, 2, 1)
        self.feature_info = (FeatureInfo("feature", 4, 1),)
        self.finish_init(aux_head=False, aux_channels=4)

    def encode(self, x):
        x = self.bns[0](self.folds(x)).relu()
        x = self.bns[1](self.folds_too(x)).relu()
        x = self.bns[2](x)  # before a convolution
        x = self.read_twice(x)
        x = x + self.bns[3](x)
        x = self.bns[4](self.called_twice(x)) + self.called_twice(x)
        x = self.written_to(x)
        x[:, :2] = 1.0
        x = self.bns[5](x)
        return (self.unfit(self.is_a_feature(x)), self.is_a_feature(x))[1:]

    def decode(self, features):
        return self.head(self.bns[6](features[0]))


def trained(network):
    """With batch norms that have seen data."""
    for module in network.modules():
        if isinstance(module, _BatchNorm) and module.track_running_stats:
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return network.eval()


def test_a_norm_folds_into_a_convolution_that_it_alone_reads():
    network = trained(Odd())
    optimized = optimize_for_inference(network)
    kinds = [type(module) for module in optimized.bns]
    assert kinds == [nn.Identity] * 2 + [BatchNorm2d] * 5
    assert isinstance(optimized.unfit, nn.BatchNorm2d)
    x = torch.randn(2, 1, 33, 40)
    torch.testing.assert_close(optimized(x), network(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(optimized.forward_features(x), network.forward_features(x), rtol=1e-4, atol=1e-5)


def test_only_norms_before_a_convolution_stay():
    with torch.device("cpu"):
        optimized = optimize_for_inference(ddrsapc.create_model("ddr_sapc_u", width=4))
    left = [name for name, module in optimized.named_modules() if isinstance(module, _BatchNorm)]
    assert len(left) == 11
    assert all(name.startswith("encoder.spp.") for name in left)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_so(dtype):
    network = trained(small_network()).to(dtype)
    optimized = optimize_for_inference(network)
    assert {parameter.dtype for parameter in optimized.parameters()} == {dtype}
    x = torch.randn(1, 1, 32, 32, dtype=dtype)
    expected = network(x).float()
    assert (optimized(x).float() - expected).norm() < 0.03 * expected.norm()


def test_scans_are_labelled_alike():
    network = small_network(in_chans=3)
    hu = np.random.default_rng(0).integers(-200, 900, (3, 40, 53)).astype(np.int16)
    volume = Volume(hu, (3.0, 0.5, 0.5), np.eye(4), np.arange(3.0), VolumeMeta("nifti", ()))
    assert np.array_equal(predict(optimize_for_inference(network), volume), predict(network, volume))


def test_what_cannot_be_optimized():
    network = small_network()
    for other in (nn.Conv2d(1, 4, 1), nn.DataParallel(network), torch.compile(network, backend="eager"), "unet"):
        with pytest.raises(TypeError, match=f"expected a network of ddrsapc, got {type(other).__name__}"):
            optimize_for_inference(other)
    with pytest.raises(ValueError, match="on the meta device, which holds no weights"):
        optimize_for_inference(network.to("meta"))


def test_it_is_not_saved_as_the_network_that_it_came_from(tmp_path):
    with pytest.raises(WeightsError):
        save_pretrained(optimize_for_inference(small_network()), tmp_path / "network")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def cudnn(monkeypatch):
    """As if the CPU had cuDNN: the calls of its convolution with ReLU."""
    calls = []

    def conv_relu(x, weight, bias, stride, padding, dilation, groups):
        calls.append(tuple(weight.shape))
        assert not (torch.is_grad_enabled() and x.requires_grad)
        return torch.conv2d(x, weight, bias, stride, padding, dilation, groups).relu()

    monkeypatch.setattr(optimize, "_GPU", "cpu")
    monkeypatch.setattr(torch, "cudnn_convolution_relu", conv_relu)
    monkeypatch.setattr(optimize._GraphedForward, "_may_replay", lambda graphed, x: False)
    return calls


@pytest.mark.parametrize("name", ["ddr_sapc_u", "unet"])
def test_relus_become_part_of_convolutions(name, cudnn, monkeypatch):
    network = trained(ddrsapc.create_model(name, width=4))
    optimized = optimize_for_inference(network)
    fused = sum(isinstance(module, optimize._ConvReLU) for module in optimized.modules())
    assert fused > 10
    assert not any(isinstance(module, optimize._ConvReLU) for module in network.modules())
    cudnn.clear()
    x = torch.randn(1, 1, 64, 64)
    with torch.no_grad():
        expected = network(x)
        assert (optimized(x) - expected).abs().max() <= 1e-4 * expected.abs().max()
    assert len(cudnn) == fused
    cudnn.clear()
    layer = next(module for module in optimized.modules() if isinstance(module, optimize._ConvReLU))
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    with torch.no_grad():
        compiled(torch.randn(1, layer.in_channels, 8, 8))
    monkeypatch.setattr(torch, "cudnn_convolution_relu", refuses)
    with torch.no_grad():
        assert (optimized(x) - expected).abs().max() <= 1e-4 * expected.abs().max()
    x.requires_grad_()
    optimized(x).sum().backward()  # without it
    assert x.grad.any()
    assert not cudnn


def refuses(*_):
    raise RuntimeError("not supported")


def test_relus_stay_where_cudnn_fails_or_answers_otherwise(cudnn, monkeypatch):
    for other in (refuses, torch.conv2d):
        monkeypatch.setattr(torch, "cudnn_convolution_relu", other)
        optimized = optimize_for_inference(small_network())
        assert not any(isinstance(module, optimize._ConvReLU) for module in optimized.modules())


class Recorder:
    """In place of CUDA graphs, which a CPU has none of: notes what is captured and replayed."""

    def __init__(self, monkeypatch):
        self.captured, self.replayed = [], []
        self.fails = False
        monkeypatch.setattr(optimize._GraphedForward, "_may_replay", lambda graphed, x: not graphed.network.training)
        monkeypatch.setattr(torch.cuda, "graph_pool_handle", object)
        monkeypatch.setattr(optimize, "_capture", self.capture)

    def capture(self, network, forward, x, pool):
        if self.fails:
            raise RuntimeError("operation not permitted\nwhen stream is capturing")
        self.captured.append((tuple(x.shape), pool))

        def replay(x):
            self.replayed.append(tuple(x.shape))
            return forward(x)

        return replay


@pytest.fixture
def recorder(monkeypatch):
    return Recorder(monkeypatch)


def graphed_network():
    network = optimize_for_inference(small_network())
    network.forward = optimize._GraphedForward(network)
    return network


def test_a_shape_is_captured_when_it_comes_again(recorder):
    network = graphed_network()
    shapes = [(1, 1, 32, 32), (2, 1, 32, 32), (1, 1, 32, 32), (1, 1, 32, 32), (2, 1, 32, 32)]
    for shape in shapes:
        x = torch.randn(shape)
        assert torch.equal(network(x), type(network).forward(network, x))
    assert [shape for shape, _ in recorder.captured] == shapes[:2]
    assert recorder.captured[0][1] is recorder.captured[1][1]  # one pool
    assert recorder.replayed == shapes[2:]
    network.train()(torch.randn(shapes[0]))
    assert len(recorder.replayed) == 3


def test_other_weights_are_captured_anew(recorder):
    network, x = graphed_network(), torch.randn(1, 1, 32, 32)
    changes = (lambda: network.reset_classifier(3), network.double, lambda: None)
    for change, captures in zip(changes, (1, 2, 2), strict=True):
        change()
        x = x.to(next(network.parameters()).dtype)
        for _ in range(3):
            assert network(x).shape[1] == 3
        assert len(recorder.captured) == captures


def test_no_more_shapes_are_captured_than_memory_is_meant_for(recorder, monkeypatch):
    monkeypatch.setattr(optimize, "_MAX_GRAPHS", 1)
    network = graphed_network()
    for batch in (1, 1, 2, 2, 2, 1):
        assert network(torch.randn(batch, 1, 32, 32)).shape[0] == batch
    assert recorder.replayed == [(1, 1, 32, 32)] * 2


def test_what_cannot_be_captured_runs_without_and_says_so_once(recorder):
    network, x = graphed_network(), torch.randn(1, 1, 32, 32)
    recorder.fails = True
    network(x)
    with pytest.warns(UserWarning, match=r"^no CUDA graph for input \(1, 1, 32, 32\), it runs without: operation not"):
        network(x)
    assert torch.equal(network(x), type(network).forward(network, x))


def test_a_copy_captures_its_own(recorder):
    network, x = graphed_network(), torch.randn(1, 1, 32, 32)
    expected = [network(x) for _ in range(2)][1]
    for twin in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert twin.forward.network is twin
        with torch.no_grad():
            twin.get_submodule(twin.classifier).weight.zero_()
        assert not torch.equal(twin(x), expected)
    assert len(recorder.captured) == 1
    assert torch.equal(network(x), expected)


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


@needs_gpu
def test_graphs_on_a_gpu():
    network = trained(small_network()).cuda()
    optimized = optimize_for_inference(network)
    with torch.inference_mode():
        for batch in (2, 1, 2, 2, 1, 1, 2):
            x = torch.randn(batch, 1, 64, 48, device="cuda")
            torch.testing.assert_close(optimized(x), network(x), rtol=1e-3, atol=1e-3)
        first, second = optimized(x), optimized(2 * x)
        assert not torch.equal(first, second)  # each call has an answer of its own
    assert len(optimized.forward._graphs) == 2
    with torch.no_grad():  # outside the mode that it was recorded in
        torch.testing.assert_close(optimized(x), first)
    gradient = x.clone().requires_grad_()
    optimized(gradient).sum().backward()
    assert gradient.grad.abs().max() > 0
