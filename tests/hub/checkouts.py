import hashlib
import json
import os
import shutil

from tests.training.small import small_network

INPUT = {"size": [512, 512], "hu_window": [-200.0, 800.0], "mean": 0.4, "std": 0.3, "spacing": [0.5, 0.5]}


def entry_of(data, **changed):
    """A manifest's entry for the bytes of `small_network`; its input settings are those of the bytes' header."""
    header = data[8 : 8 + int.from_bytes(data[:8], "little")] if data[8:9] == b"{" else b"{}"
    settings = json.loads(header).get("__metadata__", {}).get("input")
    entry = {
        "architecture": "unet",
        "default": True,
        "repo_id": None,
        "revision": None,
        "filename": "unet.small.safetensors",
        "sha256": hashlib.sha256(data).hexdigest(),
        "bytes": len(data),
        "num_tensors": len(small_network().state_dict()),
        "num_classes": 4,
        "in_chans": 1,
        "classes": ["none", "LAD", "LCX", "RCA"],
        "input": INPUT if settings is None else json.loads(settings),
        "first_conv": "encoders.0.0.0",
        "classifier": ["head"],
        "metrics": [{"dataset": "squares", "split": "test", "name": "mean_iou", "value": 0.7, "n": 8, "seed": 0}],
        "license": "apache-2.0",
        "data_license": "cc0-1.0",
        "recipe": {"command": "ddrsapc train DATA", "git_commit": "0" * 40, "seed": 0, "hardware": "2 CPU cores"},
    }
    return entry | changed


def equal(model, other):
    """Whether two networks have the same weights."""
    return digest_of(model) == digest_of(other)


def digest_of(model):
    """A hash of a network's weights."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def manifest_of(**entries):
    """A manifest's bytes; `unet__small` names the entry "unet.small"."""
    weights = {name.replace("__", "."): entry for name, entry in entries.items()}
    return json.dumps({"schema_version": 1, "weights": weights}, indent=2).encode()


def worker_env(root, tmp_path_factory, hub, *, checkout=None, **more):
    checkout = checkout or copy_checkout(root, tmp_path_factory.mktemp("checkout"))
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "DDRSAPC_"))}
    return inherited | {
        "PYTHONPATH": os.pathsep.join((str(checkout), str(root))),
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path_factory.mktemp("hf_home")),
        "HF_HUB_ETAG_TIMEOUT": "1",
        "HF_HUB_DOWNLOAD_TIMEOUT": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_XET_XORB_COMPRESSION_POLICY": "none",  # so that the server need not decompress
        "OMP_NUM_THREADS": "1",
        "CHECKOUT": str(checkout),
        **more,
    }


def copy_checkout(root, folder):
    """The package and an empty manifest, as a source checkout has them."""
    shutil.copytree(root / "ddrsapc", folder / "ddrsapc", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "weights_manifest.json").write_bytes(manifest_of())
    (folder / "weights").mkdir()
    return folder
