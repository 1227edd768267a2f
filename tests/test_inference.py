import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch

import ddrsapc
from ddrsapc.ct import CTError, Volume, read_volume
from ddrsapc.ct.volume import VolumeMeta
from ddrsapc.inference import predict, predict_probabilities
from ddrsapc.models import InputConfig
from tests.training.small import small_network


def volume_of(hu, spacing=(3.0, 0.5, 0.5)):
    meta = VolumeMeta("nifti", ())
    return Volume(hu, spacing, np.eye(4), np.arange(len(hu)) * spacing[0], meta)


@pytest.fixture
def volume():
    rng = np.random.default_rng(0)
    return volume_of(rng.integers(-200, 900, (5, 40, 53)).astype(np.int16))


@pytest.fixture
def network():
    network = small_network()
    network.input_config = InputConfig((-200.0, 800.0), 0.4, 0.3)
    return network


def test_labels_are_those_of_the_slices_one_by_one(network, volume):
    before = volume.hu.copy()
    labels = predict(network, volume, threshold=None)
    network.eval()
    for hu, label in zip(volume.hu, labels, strict=True):
        x = network.input_config.normalize(torch.from_numpy(hu))[None, None]
        assert np.array_equal(network(x).argmax(1)[0].numpy(), label)
    assert labels.dtype == np.uint8
    assert len(np.unique(labels)) > 1
    assert np.array_equal(volume.hu, before)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 100])
def test_batches_do_not_matter(network, volume, batch_size):
    assert np.array_equal(predict(network, volume, batch_size=batch_size), predict(network, volume, batch_size=4))


def test_what_is_not_dense_enough_is_not_calcium(network, volume):
    free, default, dense = (predict(network, volume, threshold=t) for t in (None, 130.0, 500.0))
    assert np.array_equal(predict(network, volume), default)
    for labels, threshold in ((default, 130), (dense, 500)):
        assert not labels[volume.hu < threshold].any()
        assert np.array_equal(labels[volume.hu >= threshold], free[volume.hu >= threshold])
    assert free[volume.hu < 130].any()
    assert (volume.hu == 130).any()


def test_probabilities_come_slice_by_slice_and_agree(network, volume):
    stream = predict_probabilities(network, volume, batch_size=2)
    first = next(stream)
    assert first.shape == (4, 40, 53)
    slices = [first, *stream]
    assert len(slices) == 5
    for probabilities, label in zip(slices, predict(network, volume, threshold=None), strict=True):
        assert np.allclose(probabilities.sum(0), 1, atol=1e-5)
        assert np.array_equal(probabilities.argmax(0), label)


@pytest.mark.parametrize("training", [True, False])
def test_the_network_keeps_its_mode_and_statistics(network, volume, training):
    network.train(training)
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    predict(network, volume)
    assert network.training is training
    assert all(torch.equal(before[key], tensor) for key, tensor in network.state_dict().items())
    stream = predict_probabilities(network, volume)
    next(stream)
    stream.close()
    assert network.training is training


def test_the_mode_comes_back_after_an_error(network):
    with pytest.raises(ValueError, match="at least 32 x 32 pixels"):
        predict(network, volume_of(np.zeros((2, 20, 40), np.int16)))
    assert network.training


def test_other_channels_and_precisions(volume):
    grey = small_network(in_chans=3)
    assert predict(grey, volume).shape == volume.hu.shape
    half = small_network().bfloat16()
    assert predict(half, volume).shape == volume.hu.shape


@pytest.mark.parametrize("code", ["LPS", "RAS", "LAS", "LAI", "PLS", "ARI", "PRS"])
def test_labels_do_not_depend_on_how_a_scan_is_stored(network, volume, code, tmp_path):
    """The same patient with rows bottom-up, mirrored, exchanged, or from head to feet: the same voxels are labelled."""
    image = sitk.GetImageFromArray(volume.hu)
    image.SetSpacing((0.5, 0.6, 3.0))
    sitk.WriteImage(image, str(tmp_path / "scan.nii.gz"))
    stored = sitk.DICOMOrient(image, code)
    sitk.WriteImage(stored, str(tmp_path / "stored.nii.gz"))
    expected = predict(network, read_volume(tmp_path / "scan.nii.gz"))
    assert np.array_equal(expected, predict(network, volume))
    other = read_volume(tmp_path / "stored.nii.gz")
    labels = sitk.GetImageFromArray(predict(network, other))
    labels.CopyInformation(stored)
    assert np.array_equal(sitk.GetArrayFromImage(sitk.DICOMOrient(labels, "LPS")), expected)
    slices = np.stack([p.argmax(0) for p in predict_probabilities(network, other)])
    assert np.array_equal(slices, predict(network, other, threshold=None))


@pytest.mark.parametrize("code", ["LSP", "SPL"])
def test_slices_that_are_not_axial_are_refused(network, volume, code, tmp_path):
    image = sitk.DICOMOrient(sitk.GetImageFromArray(volume.hu), code)
    sitk.WriteImage(image, str(tmp_path / "coronal.nii.gz"))
    with pytest.raises(CTError, match="its slices are not axial; reorient it"):
        predict(network, read_volume(tmp_path / "coronal.nii.gz"))


def test_a_frozen_module_stays_frozen(network, volume):
    network.train()
    network.encoders[0].eval()
    predict(network, volume)
    assert network.training
    assert not network.encoders[0].training


def test_bad_options(network, volume):
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        predict(network, volume, batch_size=0)
    with pytest.raises(ValueError, match="labels are bytes, the logits have 300 classes"):
        predict(ddrsapc.create_model("unet", width=4, num_classes=300), volume)


def test_a_bar_is_shown_only_where_asked_for(network, volume, capsys):
    predict(network, volume)
    assert capsys.readouterr().err == ""
    predict(network, volume, progress=True)
    assert "5/5" in capsys.readouterr().err
