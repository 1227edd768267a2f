import hashlib
import json
import os
import re
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import yaml

import ddrsapc
from ddrsapc import hub
from ddrsapc.hub import saving
from ddrsapc.hub.saving import model_files, weights_bytes
from ddrsapc.models import InputConfig
from tests.hub.checkouts import equal
from tests.training.small import small_network


@pytest.mark.parametrize("name", ddrsapc.list_models())
def test_saved_and_loaded_is_the_same_network(name, tmp_path):
    model = ddrsapc.create_model(name, width=4 if name != "transunet" else 8, num_classes=3, in_chans=2).eval()
    model.input_config = InputConfig((-100.0, 900.0), 0.3, 0.2, (256, 256), (0.4, 0.4))
    hub.save_pretrained(model, tmp_path / "new" / "folder")
    assert sorted(os.listdir(tmp_path / "new" / "folder")) == ["README.md", "config.json", "model.safetensors"]
    loaded = ddrsapc.create_model(f"local-dir:{tmp_path / 'new' / 'folder'}").eval()
    assert type(loaded) is type(model)
    assert loaded.input_config == model.input_config
    x = torch.randn(1, 2, 64, 64)
    assert torch.equal(loaded(x), model(x))


def test_the_header_says_what_other_tools_need(tmp_path):
    hub.save_pretrained(small_network(), tmp_path)
    metadata = hub.verify_weights(tmp_path / "model.safetensors").metadata
    assert metadata["format"] == "pt"
    assert json.loads(metadata["architecture"]) == "unet"


def test_equal_networks_are_equal_bytes():
    files = [model_files(small_network(), repo_id="org/name") for _ in range(5)]
    assert all(other == files[0] for other in files)
    assert len({weights_bytes(small_network(), a=1, b=2, c=3) for _ in range(10)}) == 1


def test_channels_last_weights_are_saved_as_they_are(tmp_path):
    network = small_network().to(memory_format=torch.channels_last)
    assert weights_bytes(network) == weights_bytes(small_network())


def test_saving_again_keeps_a_card_that_somebody_wrote(tmp_path):
    hub.save_pretrained(small_network(), tmp_path)
    (tmp_path / "README.md").write_text("mine")
    other = small_network(num_classes=2)
    hub.save_pretrained(other, tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"
    assert ddrsapc.create_model(f"local-dir:{tmp_path}").num_classes == 2


def test_what_could_not_be_loaded_is_not_saved(tmp_path):
    broken = small_network()
    broken.head.weight.data[0] = float("nan")
    with pytest.raises(hub.UnsafeWeightsError, match="'head.weight' has values that are not finite"):
        hub.save_pretrained(broken, tmp_path / "a")
    extended = small_network()
    extended.extra = torch.nn.Linear(2, 2)
    with pytest.raises(hub.WeightsMismatchError, match="2 unexpected"):
        hub.save_pretrained(extended, tmp_path / "b")
    with pytest.raises(ValueError, match="build it with create_model"):
        hub.save_pretrained(ddrsapc.models.UNet(width=4), tmp_path / "c")
    assert os.listdir(tmp_path) == []


def test_what_is_no_network_is_refused(tmp_path):
    network = small_network()
    for wrapped in (torch.nn.DataParallel(network), torch.compile(network, backend="eager"), torch.nn.Linear(1, 1)):
        with pytest.raises(TypeError, match=r"expected a network of ddrsapc, got \w+; unwrap it first"):
            hub.save_pretrained(wrapped, tmp_path)
    with torch.device("meta"):
        empty = small_network()
    with pytest.raises(ValueError, match="on the meta device, which holds no values to save"):
        hub.save_pretrained(empty, tmp_path)
    too_many = ddrsapc.create_model("unet", width=4, num_classes=2000)
    with pytest.raises(hub.UnsafeWeightsError, match="up to 1024 as num_classes, found 2000"):
        hub.save_pretrained(too_many, tmp_path)
    assert os.listdir(tmp_path) == []


def test_an_auxiliary_head_can_be_dropped(tmp_path):
    network = small_network(aux_head=True)
    network.aux_head = None
    hub.save_pretrained(network, tmp_path)
    assert equal(ddrsapc.create_model(f"local-dir:{tmp_path}"), network)


def test_an_interrupted_save_over_another_network_is_noticed(tmp_path, monkeypatch):
    """The files are whole one by one; that they belong together is checked when they are loaded."""
    hub.save_pretrained(small_network(), tmp_path)
    other = small_network()
    other.input_config = InputConfig((-100.0, 900.0), 0.3, 0.2)
    write = saving.write_atomically

    def stop_at_config(path, data):
        if path.name == "config.json":
            raise KeyboardInterrupt
        write(path, data)

    monkeypatch.setattr(saving, "write_atomically", stop_at_config)
    with pytest.raises(KeyboardInterrupt):
        hub.save_pretrained(other, tmp_path)
    with pytest.raises(
        hub.WeightsMismatchError, match=r"the weights' own header InputConfig\(hu_window=\(-100.0, 900.0\)"
    ):
        ddrsapc.create_model(f"local-dir:{tmp_path}")


def test_threads_that_save_at_once_do_not_disturb_each_other(tmp_path):
    networks = [small_network(), small_network()]
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(hub.save_pretrained, network, tmp_path) for network in networks * 10]:
            done.result()
    assert equal(ddrsapc.create_model(f"local-dir:{tmp_path}"), networks[0])
    assert len(os.listdir(tmp_path)) == 3


def test_a_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OSError, match="file"):
        hub.save_pretrained(small_network(), tmp_path / "file" / "saved")


def front_matter(card):
    return yaml.safe_load(re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)[1])


def test_the_card(tmp_path):
    metrics = [hub.Metric("squares", "test", "mean_iou", 0.71234, 8, 0)]
    hub.save_pretrained(small_network(), tmp_path, license="apache-2.0", metrics=metrics)
    card = (tmp_path / "README.md").read_text()
    about = front_matter(card)
    assert about["license"] == "apache-2.0"
    assert about["library_name"] == "ddrsapc"
    assert about["pipeline_tag"] == "image-segmentation"
    (result,) = about["model-index"][0]["results"]
    assert result["metrics"] == [{"type": "mean_iou", "value": 0.71234, "name": "mean_iou"}]
    assert result["dataset"]["name"] == "squares"
    assert "| squares | test | mean_iou | 0.7123 | 8 | 0 |" in card
    for heading in ("Intended use", "Limits", "Metrics", "Training", "Source"):
        assert f"\n## {heading}\n" in card
    assert "Not a medical device" in card
    assert "{" not in re.sub(r"```.*?```", "", card, flags=re.DOTALL)  # every field was filled in


def test_the_cards_code_runs(tmp_path, monkeypatch):
    hub.save_pretrained(small_network(), tmp_path / "PATH")
    code = re.search(r"```python\n(.*?)```", (tmp_path / "PATH" / "README.md").read_text(), re.DOTALL)[1]
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(code, names)
    assert names["model"].architecture == "unet"


def test_files_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
    hub.save_pretrained(small_network(), tmp_path)
    before = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in tmp_path.iterdir()}

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        hub.save_pretrained(small_network(num_classes=2), tmp_path)
    assert {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in tmp_path.iterdir()} == before
