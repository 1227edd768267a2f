import importlib.util
from dataclasses import FrozenInstanceError

import pytest
import torch

from ddrsapc.kernels import dispatch, kernel_info


@pytest.fixture
def triton(monkeypatch):
    """`triton(version)`: as if this Triton were installed; None: none."""

    def install(version):
        monkeypatch.setattr(dispatch, "find_spec", lambda name: version and importlib.util.find_spec("ddrsapc"))
        monkeypatch.setattr(dispatch, "version", lambda name: version)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(dispatch, "which", lambda name: f"/usr/bin/{name}")
        monkeypatch.delenv("CC", raising=False)
        forget()

    yield install
    forget()


def forget():
    dispatch._problem.cache_clear()
    dispatch._triton_version.cache_clear()


@pytest.mark.parametrize(
    ("requested", "version", "cuda"),
    [
        (None, "3.7.1", "triton"),
        ("", "3.7.1", "triton"),
        ("auto", "3.7.1", "triton"),
        ("auto", "3.10.0+git1", "triton"),
        ("auto", "unknown", "triton"),
        ("auto", "3.3.1", "torch"),
        ("auto", None, "torch"),
        ("torch", "3.7.1", "torch"),
        ("torch", None, "torch"),
        ("triton", "3.7.1", "triton"),
    ],
)
def test_the_environment_chooses(requested, version, cuda, triton, monkeypatch):
    triton(version)
    monkeypatch.delenv("DDRSAPC_KERNELS", raising=False)
    if requested is not None:
        monkeypatch.setenv("DDRSAPC_KERNELS", requested)
    info = kernel_info()
    assert (info.requested, info.triton, info.cuda, info.cpu) == (requested or "auto", version, cuda, "torch")
    with pytest.raises(FrozenInstanceError):
        info.cuda = "torch"


def test_bad_choices_are_named(triton, monkeypatch):
    triton(None)
    monkeypatch.setenv("DDRSAPC_KERNELS", "Triton")
    with pytest.raises(ValueError, match=r"DDRSAPC_KERNELS must be auto, torch or triton, got 'Triton'"):
        kernel_info()
    monkeypatch.setenv("DDRSAPC_KERNELS", "triton")
    with pytest.raises(
        RuntimeError, match=r"DDRSAPC_KERNELS=triton, but Triton is not installed; set it to auto or torch"
    ):
        kernel_info()


def test_an_old_triton_is_named(triton, monkeypatch):
    triton("3.3.1")
    monkeypatch.setenv("DDRSAPC_KERNELS", "triton")
    with pytest.raises(RuntimeError, match=r"DDRSAPC_KERNELS=triton, but Triton 3\.3\.1 is older than 3\.4; set it to"):
        kernel_info()


def test_an_old_gpu_takes_aten(triton, monkeypatch):
    triton("3.7.1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for capability, cuda in (((7, 5), "torch"), ((8, 0), "triton"), ((12, 0), "triton")):
        forget()
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda capability=capability: capability)
        assert kernel_info().cuda == cuda


def test_without_a_compiler_aten_runs(triton, monkeypatch):
    triton("3.7.1")
    monkeypatch.setattr(dispatch, "which", lambda name: None)
    assert kernel_info().cuda == "torch"
    forget()
    monkeypatch.setenv("CC", "cc")
    assert kernel_info().cuda == "triton"


def test_an_amd_gpu_takes_aten(triton, monkeypatch):
    triton("3.7.1")
    monkeypatch.setattr(torch.version, "hip", "7.0")
    assert kernel_info().cuda == "torch"


def test_the_cpu_takes_aten_whatever_is_chosen(monkeypatch):
    monkeypatch.setenv("DDRSAPC_KERNELS", "triton")
    assert not dispatch.takes_kernel(torch.zeros(1))
