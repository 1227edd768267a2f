import json
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open

from ddrsapc.hub.saving import weights_bytes
from ddrsapc.hub.weights_file import serialize
from ddrsapc.models import InputConfig
from ddrsapc.training import CheckpointError, load_trained
from ddrsapc.training.checkpoints import Checkpoints, state_bytes
from tests.training.small import small_network


def files_of(step, **more):
    state = {"step": step, "rng": torch.get_rng_state(), "history": [{"epoch": 1, "iou": [0.5]}]}
    return {"model.safetensors": weights_bytes(small_network()), "state.pt": state_bytes(state), **more}


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_saves_and_loads(tmp_path):
    checkpoints = Checkpoints(tmp_path / "new" / "run")
    rng = torch.get_rng_state()
    checkpoints.save(7, files_of(7))
    assert checkpoints.steps() == [7]
    weights, state = checkpoints.load(7)
    assert weights.keys() == {"model"}
    for name, tensor in small_network().state_dict().items():
        assert torch.equal(weights["model"][name], tensor)
    assert state["step"] == 7
    assert state["rng"].shape == rng.shape
    assert names(tmp_path) == [
        "new/run/checkpoints/step-00000007/model.safetensors",
        "new/run/checkpoints/step-00000007/state.pt",
    ]


def test_keeps_the_newest_and_the_best(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2, 3, 4, 5, 6):
        checkpoints.save(step, files_of(step))
    checkpoints.prune(best=[3, 6, 1])
    assert checkpoints.steps() == [3, 5, 6]


def test_publishes_the_average_where_there_is_one(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, files_of(1))
    checkpoints.publish(1, "last")
    plain = (tmp_path / "last.safetensors").read_bytes()
    assert plain == (checkpoints.path(1) / "model.safetensors").read_bytes()
    checkpoints.save(2, files_of(2, **{"ema.safetensors": b"average"}))
    checkpoints.publish(2, "last")
    assert (tmp_path / "last.safetensors").read_bytes() == b"average"
    checkpoints.prune(best=[])
    checkpoints.save(3, files_of(3))
    checkpoints.prune(best=[])
    assert checkpoints.steps() == [2, 3]
    checkpoints.save(4, files_of(4))
    checkpoints.prune(best=[])
    assert (tmp_path / "last.safetensors").read_bytes() == b"average"  # outlives its checkpoint


def test_half_written_checkpoints_are_no_checkpoints(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    half = tmp_path / "checkpoints" / ".step-00000009.part"
    half.mkdir(parents=True)
    (half / "model.safetensors").write_bytes(b"half")
    assert checkpoints.steps() == []
    checkpoints.save(1, files_of(1))
    assert not half.exists()


@pytest.mark.parametrize("damage", ["truncated weights", "truncated state", "no state", "no weights", "a pickle"])
def test_a_damaged_checkpoint_is_named_with_a_way_out(tmp_path, damage):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, files_of(1))
    weights, state = (checkpoints.path(1) / name for name in ("model.safetensors", "state.pt"))
    if damage == "truncated weights":
        weights.write_bytes(weights.read_bytes()[:-10])
    elif damage == "truncated state":
        state.write_bytes(state.read_bytes()[:200])
    elif damage == "no state":
        state.unlink()
    elif damage == "no weights":
        weights.unlink()
    else:
        torch.save({"code": print}, state)
    with pytest.raises(CheckpointError, match=r"step-00000001 cannot be read .*delete this folder") as caught:
        checkpoints.load(1)
    assert "\n" not in str(caught.value)


FULL_DISK = """
import resource, sys
from pathlib import Path
from tests.training.test_checkpoints import files_of
from ddrsapc.training.checkpoints import Checkpoints
checkpoints = Checkpoints(Path(sys.argv[1]))
checkpoints.save(1, files_of(1))
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    checkpoints.save(2, files_of(2))
except OSError as error:
    print("OSError", checkpoints.steps())
"""


@pytest.mark.slow
def test_a_full_disk_leaves_the_older_checkpoint(root, tmp_path):
    """The limit on a file's size stops a write in the middle, as a full disk does."""
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["OSError", "[1]"]
    assert names(tmp_path) == [f"checkpoints/step-00000001/{name}" for name in ("model.safetensors", "state.pt")]
    Checkpoints(tmp_path).load(1)


def test_weights_say_how_to_build_their_network(tmp_path):
    network = small_network(in_chans=2)
    network.reset_classifier(3)
    network.input_config = InputConfig((-200.0, 800.0), 0.3, 0.2)
    path = tmp_path / "best.safetensors"
    path.write_bytes(weights_bytes(network, epoch=4))
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert metadata["format"] == "pt"
    assert json.loads(metadata["architecture"]) == "unet"
    assert json.loads(metadata["epoch"]) == 4
    loaded = load_trained(path)
    assert (loaded.architecture, loaded.num_classes, loaded.in_chans, loaded.width) == ("unet", 3, 2, 4)
    assert loaded.input_config == network.input_config
    assert not loaded.training
    x = torch.randn(1, 2, 32, 32)
    assert torch.equal(loaded(x), network.eval()(x))


def test_channels_last_weights_are_saved_as_they_are(tmp_path):
    network = small_network().to(memory_format=torch.channels_last)
    (tmp_path / "a.safetensors").write_bytes(weights_bytes(network))
    for name, tensor in load_trained(tmp_path / "a.safetensors").state_dict().items():
        assert torch.equal(tensor, network.state_dict()[name])


def test_files_that_hold_no_trained_network(tmp_path):
    path = tmp_path / "a.safetensors"
    with pytest.raises(FileNotFoundError, match=r"expected the best\.safetensors of a training run"):
        load_trained(path)
    for content in (b"", b"text, no safetensors", weights_bytes(small_network())[:-5]):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="a.safetensors holds no trained network"):
            load_trained(path)
    network = small_network()
    network.architecture = ""
    path.write_bytes(weights_bytes(network))
    with pytest.raises(
        CheckpointError, match=r"does not name its network: load it with create_model\(arch, weights=PATH"
    ):
        load_trained(path)
    network.architecture = "unetpp"
    path.write_bytes(weights_bytes(network))
    with pytest.raises(CheckpointError, match="does not fit unetpp"):
        load_trained(path)
    path.write_bytes(serialize(network.state_dict(), architecture="resnet", model_args={}, input={}))
    with pytest.raises(CheckpointError, match="the architecture 'resnet' is not one of this ddrsapc"):
        load_trained(path)


def test_a_networks_own_buffers_of_other_types_are_resumed(tmp_path):
    """A run's own checkpoints are trusted: masks and flags are no reason to refuse them."""
    network = small_network()
    network.register_buffer("seen", torch.tensor([True, False]))
    network.register_buffer("mask", torch.tensor([0.0, -float("inf")]))
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"model.safetensors": weights_bytes(network), "state.pt": state_bytes({})})
    assert checkpoints.load(1)[0]["model"]["seen"].tolist() == [True, False]


def test_weights_without_the_newer_input_settings_load(tmp_path):
    network = small_network()
    settings = {"hu_window": [-100.0, 100.0], "mean": 0.5, "std": 0.25}
    data = serialize(network.state_dict(), architecture="unet", model_args={"width": 4}, input=settings)
    (tmp_path / "best.safetensors").write_bytes(data)
    assert load_trained(tmp_path / "best.safetensors").input_config == InputConfig((-100.0, 100.0))
