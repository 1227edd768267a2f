"""`ddrsapc convert | verify | push` as a person runs them."""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch

import ddrsapc
from ddrsapc import hub
from tests.cli.outcomes import failed
from tests.hub.checkouts import entry_of, manifest_of
from tests.training.small import small_network


def test_help_teaches(command):
    for arguments, words in (
        ([], ("convert", "verify", "push", "not a medical device")),
        (["--help"], ("convert", "verify", "push")),
        (["convert", "--help"], ("ddrsapc convert mine.pth mine.safetensors --model ddr_sapc_u", "weights_only")),
        (["verify", "-h"], ("ddrsapc verify outputs/run/best.safetensors",)),
        (["push", "--help"], ("--dry-run", "hf auth login", "HF_TOKEN")),
    ):
        code, out, err = command(*arguments)
        assert code in (0, 2)
        assert all(word in out + err for word in words)
    assert command("--version")[1] == f"ddrsapc {ddrsapc.__version__}\n"


def test_wrong_calls_are_one_line(command):
    assert failed(command("nonsense"), "No such command 'nonsense'")
    assert failed(command("push", "--tag", "a"), "--repo-id")
    assert failed(command("convert", "a.pth"), "OUT.safetensors")


def test_the_installed_command_runs_and_a_missing_extra_is_named(tmp_path):
    script = Path(sysconfig.get_path("scripts")) / "ddrsapc"
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert ddrsapc.__version__ in done.stdout
    code = "import sys; sys.modules['click'] = None; from ddrsapc.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == 'error: click is missing; install the extra with: pip install "ddrsapc[cli]"\n'


# convert


@pytest.mark.parametrize("variant", ["ddrnet_23_slim", "ddrnet_23"])
@pytest.mark.parametrize("layout", ["reference", "mmseg"])
def test_converts_public_ddrnets(command, tmp_path, public, variant, layout):
    state = public(variant, layout)
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "in.pth")
    code, out, err = command("convert", tmp_path / "in.pth", tmp_path / "out.safetensors")
    assert (code, err) == (0, "")
    assert variant in out
    assert "19 classes, 3 channels" in out
    model = ddrsapc.create_model(variant, weights=tmp_path / "out.safetensors").eval()
    expected = ddrsapc.create_model(variant, num_classes=19, in_chans=3)
    assert ddrsapc.checkpoint.load_public_ddrnet(expected, state) == []
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(model(x), expected.eval()(x))
    grey = ddrsapc.create_model(variant, weights=tmp_path / "out.safetensors", in_chans=1, num_classes=4)
    assert (grey.in_chans, grey.num_classes) == (1, 4)


def test_converts_an_imagenet_ddrnet_and_says_what_is_new(command, tmp_path, public):
    torch.save(public("ddrnet_23_slim", "imagenet"), tmp_path / "in.pth")
    code, out, err = command("convert", tmp_path / "in.pth", tmp_path / "out.safetensors")
    assert code == 0
    assert "4 classes, 3 channels" in out
    assert "tensors are newly initialised (DAPPM, head): fine-tune before use" in err
    backbone = ddrsapc.create_model("ddrnet_23_slim", weights=tmp_path / "out.safetensors").encoder.layer1[0].conv1
    assert torch.equal(backbone.weight, public("ddrnet_23_slim", "imagenet")["layer1.0.conv1.weight"])


@pytest.mark.parametrize("aux_head", [True, False])
def test_converts_a_state_dict_of_ours(command, tmp_path, aux_head):
    network = small_network(num_classes=3, in_chans=2, aux_head=aux_head)
    state = network.state_dict()
    torch.save({"model": state, "epoch": 4} if aux_head else state, tmp_path / "in.pth")
    arguments = ["convert", tmp_path / "in.pth", tmp_path / "out.safetensors", "--model", "unet"]
    assert failed(command(*arguments), "does not fit unet")
    assert not (tmp_path / "out.safetensors").exists()
    arguments[-1] = "unet.tag"  # a tag does not matter
    code, out, _ = command(*arguments, "--width", "4")
    assert code == 0
    assert "unet, 3 classes, 2 channels" in out
    model = ddrsapc.create_model("unet", weights=tmp_path / "out.safetensors")
    for key, tensor in network.state_dict().items():
        assert torch.equal(model.state_dict()[key], tensor)


class Runs:
    """Makes a folder when it is unpickled by a reader that runs code."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_code_in_a_checkpoint_does_not_run(command, tmp_path):
    torch.save({"state_dict": Runs(str(tmp_path / "ran"))}, tmp_path / "in.pth")
    outcome = command("convert", tmp_path / "in.pth", tmp_path / "out.safetensors")
    assert failed(outcome, "holds more than tensors, which is not read")
    assert os.listdir(tmp_path) == ["in.pth"]


def test_what_cannot_be_converted(command, tmp_path):
    good, source, target = tmp_path / "good.pth", tmp_path / "in.pth", tmp_path / "out.safetensors"
    torch.save(small_network().state_dict(), good)
    source.write_bytes(good.read_bytes()[:-200])
    assert failed(command("convert", source, target), "is no checkpoint, or cut short")
    source.write_text("text")
    assert failed(command("convert", source, target), "is no checkpoint")
    source.write_bytes(b"")
    assert failed(command("convert", source, target), "is no checkpoint")
    torch.save([1, 2], source)
    assert failed(command("convert", source, target), "expected a state dict, got list")
    assert failed(command("convert", good, target), "name it with --model")
    assert failed(command("convert", good, target, "--model", "unett"), "did you mean 'unet'")
    assert failed(command("convert", good, target, "--width", "4"), "--width goes with --model")
    assert failed(command("convert", tmp_path / "absent.pth", target), "absent.pth does not exist")
    assert failed(command("convert", good, tmp_path / "out.pth"), "is to end in .safetensors")
    assert failed(
        command("convert", good, tmp_path / "absent" / "out.safetensors"), "absent does not exist; make it first"
    )
    target.symlink_to("nowhere")
    assert failed(command("convert", good, target, "--model", "unet", "--width", "4"), "exists already")
    target.unlink()
    endless = {}
    endless["state_dict"] = endless
    torch.save(endless, source)
    assert failed(command("convert", source, target), "not a state dict")
    torch.save({1: torch.ones(2), "evil\nkey" + "x" * 9999: torch.ones(1)}, source)
    outcome = command("convert", source, target)
    assert failed(outcome, "not a DDRNet-23")
    assert len(outcome[2]) < 1000
    torch.save({"a": torch.ones(2).to_sparse()}, source)
    assert failed(command("convert", source, target), "it has sparse tensors")
    wide = small_network().state_dict()
    wide["head.bias"] = torch.zeros(1).expand(2**40)
    wide["head.weight"] = torch.zeros(1).expand(2**40, 4, 1, 1)
    torch.save(wide, source)
    assert failed(command("convert", source, target, "--model", "unet", "--width", "4"), "error")
    infinite = small_network()
    infinite.head.bias.data[0] = float("inf")
    torch.save(infinite.state_dict(), source)
    assert failed(command("convert", source, target, "--model", "unet", "--width", "4"), "not finite")
    assert not target.exists()
    target.write_text("mine")
    assert failed(command("convert", good, target, "--model", "unet"), "exists already; give another name")
    assert target.read_text() == "mine"


def test_a_pickle_given_as_weights_names_this_command(tmp_path):
    torch.save(small_network().state_dict(), tmp_path / "best.pth")
    with pytest.raises(hub.UnsafeWeightsError, match=r"ddrsapc convert IN.pth OUT.safetensors"):
        ddrsapc.create_model("unet", weights=tmp_path / "best.pth")


# verify and push


@pytest.fixture
def listed(checkout, small_weights):
    (checkout / "weights_manifest.json").write_bytes(manifest_of(unet__small=entry_of(small_weights)))
    (checkout / "weights" / "unet.small.safetensors").write_bytes(small_weights)
    return checkout


def test_verify_all_of_the_manifest(command, listed, small_weights):
    code, out, _ = command("verify")
    assert code == 0
    assert f"unet.small {listed / 'weights' / 'unet.small.safetensors'}: {len(small_weights)} bytes, 118 tensors" in out
    (row,) = json.loads(command("verify", "unet.small", "--json")[1])
    assert row["sha256"] == entry_of(small_weights)["sha256"]
    (listed / "weights" / "unet.small.safetensors").write_bytes(small_weights[:-1])
    assert failed(command("verify"), "unet.small")
    (listed / "weights" / "unet.small.safetensors").unlink()
    assert command("verify")[:2] == (0, "unet.small: not here\n")
    assert failed(command("verify", "--all"), "unet.small is not on this machine: no unet.small.safetensors")
    assert failed(command("verify", "--tag", "unet.small"), "--tag goes with a FILE")
    assert failed(command("verify", "nosuch/file.pth"), "nosuch/file.pth: there is no such file")
    assert failed(command("verify", "unet.small"), "unet.small is not on this machine")
    assert failed(command("verify", "unet.smal"), "did you mean 'small'")
    assert failed(command("verify", "unet"), "expected the name of an entry of the manifest (arch.tag), got 'unet'")
    (listed / "weights_manifest.json").write_bytes(manifest_of())
    assert command("verify")[1] == "the manifest lists no weights\n"


def test_verify_a_file(command, listed, tmp_path, small_weights):
    path = tmp_path / "best.safetensors"
    path.write_bytes(small_weights)
    code, out, _ = command("verify", path)
    assert code == 0
    assert entry_of(small_weights)["sha256"] in out
    (row,) = json.loads(command("verify", path, "--json")[1])
    assert (row["bytes"], row["num_tensors"]) == (len(small_weights), 118)  # what a manifest's entry needs
    assert command("verify", path, "--tag", "unet.small")[0] == 0
    path.write_bytes(small_weights[:-1])
    assert failed(command("verify", path), "cut short or damaged")
    assert failed(command("verify", path, "--tag", "unet.small"), "expected")
    assert failed(command("verify", tmp_path), "that is a folder")
    assert failed(command("verify", tmp_path / "absent.safetensors"), "there is no such file")


def test_a_dry_run_of_push(command, listed, small_weights):
    before = (listed / "weights_manifest.json").read_bytes()
    arguments = ["push", "--tag", "unet.small", "--repo-id", "org/unet.small", "--dry-run"]
    code, out, err = command(*arguments)
    assert (code, err) == (0, "")
    assert f"model.safetensors: {len(small_weights)} bytes, sha256 {entry_of(small_weights)['sha256']}" in out
    assert 'create_model("hf-hub:org/unet.small")' in out
    assert out.endswith("checked; nothing was sent to org/unet.small\n")
    assert json.loads(command(*arguments, "--json")[1])["revision"] is None
    assert (listed / "weights_manifest.json").read_bytes() == before
    assert failed(command("push", "--tag", "unet.x", "--repo-id", "org/x", "--dry-run"), "no entry 'unet.x'")


def test_ctrl_c_and_a_full_disk(command, tmp_path, monkeypatch, capsys):
    torch.save(small_network().state_dict(), tmp_path / "in.pth")
    arguments = ["convert", tmp_path / "in.pth", tmp_path / "out.safetensors", "--model", "unet", "--width", "4"]

    def stop(error):
        def stopped(*_):
            raise error

        monkeypatch.setattr("os.fsync", stopped)

    stop(OSError(28, "No space left on device"))
    assert failed(command(*arguments), "No space left on device")
    stop(KeyboardInterrupt())
    assert command(*arguments)[0] == 130
    assert os.listdir(tmp_path) == ["in.pth"]
