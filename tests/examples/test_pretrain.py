"""How the published weights are trained: what the stages show, and the large network that begins as the small one."""

import numpy as np
import pytest
import torch

import ddrsapc
from ddrsapc.data import Augmentation
from ddrsapc.phantom import draw_case
from ddrsapc.training import load_trained

pytest.importorskip("scipy", reason="the extra phantom is not installed")


@pytest.fixture
def pretrain(example):
    return example("pretrain")


@pytest.fixture
def pretrain_data(example):
    return example("pretrain_data")


def test_a_widened_network_computes_the_same(pretrain):
    small, large = (ddrsapc.create_model("ddr_sapc_u", width=width).eval() for width in (8, 16))
    for name, tensor in small.state_dict().items():  # nothing at its initial value
        if tensor.is_floating_point():
            low, high = (0.5, 1.5) if name.endswith(("running_var", "weight")) and tensor.ndim == 1 else (-0.2, 0.2)
            torch.nn.init.uniform_(tensor, low, high)
    x = torch.randn(1, 1, 64, 64)
    with torch.inference_mode():
        expected = small(x)
        pretrain.widen(small, large, noise=0)
        torch.testing.assert_close(large(x), expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())
        pretrain.widen(small, large)
        error = (large(x) - expected).abs().max() / expected.abs().max()
    assert 1e-4 < error < 0.5  # twins that differ learn apart


def test_courses_are_labelled_around_the_arteries_alone(pretrain_data):
    data = pretrain_data.Courses(pretrain_data.slices(256, 6, 0, (160.0, 300.0)))
    for index in range(6):
        image, label, name = data[index]
        assert (image.shape, label.shape, label.dtype) == ((256, 256), (256, 256), torch.uint8)
        draw = draw_case(0, index, size=256, parameters=data.slices.parameters)
        z, mm = draw.placement.slice_z(int(name.split("[")[1][:-1])), draw.placement.pixel_mm
        for row, column in label.nonzero()[::50].tolist():
            place = np.array([(column - 127.5) * mm, (row - 127.5) * mm, z])
            vessels = {1: ("LM", "LAD"), 2: ("LCX",), 3: ("RCA",)}[int(label[row, column])]
            nearest = min(np.linalg.norm(draw.courses[v].points - place, axis=1).min() for v in vessels)
            assert nearest < pretrain_data.REACH


def test_of_three_images_one_is_an_abdomen_without_calcium(pretrain, pretrain_data):
    stage = pretrain.FINISH[0]
    data = stage.data(0)
    assert len(data) == stage.steps * stage.batch_size
    chests = data.most
    assert all(data[i].image.equal(chests[i].image) for i in (1, 2))
    heart_below = 0
    for index in range(0, 36, 3):
        image, label, name = data[index]
        assert (image.shape, image.dtype) == ((256, 256), torch.int16)
        part = data.few.whole if index % 2 else data.few.fine
        draw, _ = pretrain_data.case_of(part.plain, index, name)
        z = draw.placement.frame_z(int(name[name.index("[") + 1 : -1]))
        assert -95 < z < -25  # from the heart's lower edge to the last of the liver
        heart_below += bool(label.any())
    assert heart_below < 3  # the LAD's end


def test_crops_keep_the_pixels_of_their_slice(pretrain_data):
    whole, fine = (
        pretrain_data.slices(size, 4, 0, (200.0, 400.0)) for size in (pretrain_data.SIDE, pretrain_data.FULL)
    )
    data = pretrain_data.WholeAndCropped(whole, fine)
    assert data[1].image.equal(data.whole[1].image)
    crop, again, slice_ = data[2], data[2], data.fine[2]
    assert (crop.image.shape, crop.image.dtype) == ((256, 256), torch.int16)
    assert crop.image.equal(again.image)
    places = slice_.image.unfold(0, 256, 1).unfold(1, 256, 1)[:, :, ::255, ::255]  # corners of all crops
    corners = (places == crop.image[::255, ::255]).all(-1).all(-1).nonzero()
    assert any(
        slice_.image[r : r + 256, c : c + 256].equal(crop.image)
        and slice_.label[r : r + 256, c : c + 256].equal(crop.label)
        for r, c in corners.tolist()
    )


def test_trains_through_all_stages_and_goes_on(pretrain, pretrain_data, tmp_path, monkeypatch, capsys):
    off = {"shift": 0, "scale": (1, 1), "rotation": 0, "noise": 0, "gain": 0, "offset": 0}
    monkeypatch.setattr(pretrain, "SIDE", 64)
    monkeypatch.setattr(pretrain_data, "CROP", Augmentation(**off, crop=64))
    monkeypatch.setattr(pretrain, "FULL", 64)
    monkeypatch.setattr(pretrain, "VALIDATED", 1)
    monkeypatch.setattr("ddrsapc.training.run.draw_curves", lambda *_: None)
    names = ("courses", "low", "mixed", "decoys", "full", "abdomens", "whole", "refined", "abstain", "aorta")
    stages = tuple(pretrain.Stage(name=name, steps=1, batch_size=2, lr=1e-3) for name in names)
    monkeypatch.setattr(pretrain, "FROM_SCRATCH", stages)
    assert pretrain.main(["ddr_sapc_u_s", str(tmp_path)]) == 0
    folders = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert folders == [f"{i}_{stage.name}" for i, stage in enumerate(stages)]
    trained = load_trained(tmp_path / "last.safetensors")
    assert trained.input_config == pretrain.INPUT
    written = (tmp_path / "last.safetensors").read_bytes()
    assert pretrain.main(["ddr_sapc_u_s", str(tmp_path)]) == 0  # all done: the same weights at once
    assert (tmp_path / "last.safetensors").read_bytes() == written
    monkeypatch.setattr(pretrain, "FINISH", stages[-1:])
    command = ["ddr_sapc_u_s", str(tmp_path / "more"), "--finish", str(tmp_path / "last.safetensors")]
    assert pretrain.main(command) == 0
    capsys.readouterr()
    assert (tmp_path / "more" / "last.safetensors").read_bytes() != written
    monkeypatch.setattr(pretrain, "REFINE", stages[-1:])
    command[1:3] = [str(tmp_path / "refined"), "--refine"]
    assert pretrain.main(command) == 0
    assert load_trained(tmp_path / "refined" / "last.safetensors").input_config == pretrain.INPUT
    monkeypatch.setattr(pretrain, "ABSTAIN", stages[-2:])
    command[1:] = [str(tmp_path / "abstain"), "--abstain", str(tmp_path / "refined" / "last.safetensors")]
    assert pretrain.main(command) == 0
    first = tmp_path / "abstain" / "first.safetensors"
    assert first.read_bytes() == (tmp_path / "refined" / "last.safetensors").read_bytes()
    seeds = [path.name.split("_")[0] for run in ("more", "refined", "abstain") for path in (tmp_path / run).glob("*_*")]
    assert len(set(seeds)) == len(seeds) == 4  # no case twice
    command[-1] = str(tmp_path / "last.safetensors")
    assert pretrain.main(command) == 2
    assert "began with other weights" in capsys.readouterr().err
    command[0] = "unet"
    assert pretrain.main(command) == 2
    assert "last.safetensors" in capsys.readouterr().err


def test_what_cannot_be_widened_is_one_line(pretrain, path, tmp_path, capsys):
    for weights, message in ((path, "ddr_sapc_u is not unet at twice the width"), (tmp_path / "no", "does not exist")):
        assert pretrain.main(["ddr_sapc_u", str(tmp_path / "run"), "--widen", str(weights)]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_other_shapes_of_bodies_keep_their_calcium(pretrain_data):
    plain, kept, changed = pretrain_data.slices(256, 20, 0, (180.0, 240.0)), [], 0
    for index in range(20):
        image, label, _ = plain[index]
        for seed in range(4):
            hu, labels = pretrain_data.varied(image, label, np.random.default_rng(seed))
            again = pretrain_data.varied(image, label, np.random.default_rng(seed))
            assert hu.equal(again[0])
            assert labels.equal(again[1])
            assert (hu.shape, hu.dtype, labels.dtype) == (image.shape, image.dtype, label.dtype)
            assert (hu[labels > 0] >= 130).all()
            assert set(labels.unique().tolist()) <= set(label.unique().tolist())
            changed += not hu.equal(image)
            if (label > 0).sum() > 8:
                kept.append(((labels > 0).sum() / (label > 0).sum()).item())
    assert len(kept) > 10
    assert 0.6 < np.median(kept) < 1.2
    assert changed > 60
    assert not pretrain_data.varied(image, torch.zeros_like(label), np.random.default_rng(0))[1].any()


def test_the_last_stages_show_other_shapes(pretrain):
    def changed(stage, indices):
        data = stage.data(0)
        assert all(data[i].image.equal(data[i].image) and data[i].name == data.plain[i].name for i in indices[:2])
        return [not data[i].image.equal(data.plain[i].image) for i in indices]

    (whole,), (refined,) = pretrain.FINISH[-1:], pretrain.REFINE
    assert 0.6 < np.mean(changed(whole, range(1, 21))) <= 1
    assert 0.2 < np.mean(changed(refined, range(1, 21))) < 0.8


def test_refining_shows_more_contrast_and_more_calcium_that_is_not_coronary(pretrain):
    finished, refined = (stage.data(0).plain.most.plain.parameters for stage in (pretrain.FINISH[-1], *pretrain.REFINE))
    for name in ("contrast_rate", "aortic_wall_rate", "ascending_rate", "aortic_valve_rate", "mitral_annulus_rate"):
        assert getattr(refined, name) > getattr(finished, name)
    others = {field: getattr(refined, field) for field in ("field_of_view", "noise_sd", "lad_rate")}
    assert others == {field: getattr(finished, field) for field in others}


def test_the_last_stage_shows_contrast_without_calcium_and_slices_above_the_heart(pretrain, pretrain_data):
    stage, _ = pretrain.ABSTAIN
    data = stage.data(0).plain
    hearts, bright, beside = data.most.most, data.most.few, data.few
    of = {1: hearts, 2: hearts, 6: bright, 12: bright, 5: beside.most, 10: beside.few}  # above, below
    assert all(data[i].image.equal(kind[i].image) for i, kind in of.items())

    def cases(kind, indices):
        return [(kind[i].label, *pretrain_data.case_of(kind.plain, i, kind[i].name)) for i in indices]

    assert all(draw.anatomy.values["blood"] >= 150 for _, draw, _ in cases(bright, range(6, 60, 6)))
    calcified = sum(bool(draw.lesions) for _, draw, _ in cases(bright, range(6, 126, 6)))
    assert 0 < calcified < 14
    for label, draw, z in cases(beside.most, range(5, 45, 10)):
        assert z > draw.courses["LM"].points[:, 2].min()
        assert not label.any()


def test_where_there_is_contrast_nothing_is_labelled_at_last(pretrain, pretrain_data):
    stage, _ = pretrain.ABSTAIN
    hearts, bright = stage.data(0).plain.most.most, stage.data(0).plain.most.few
    contrast, seen = [], 0
    for data in (hearts, bright):
        for index in range(1, 60, 2):
            plain, item = data.plain[index], data[index]
            draw, _ = pretrain_data.case_of(data.plain, index, item.name)
            if draw.has_contrast:
                contrast.append(bool(plain.label.any()))
                assert not item.label.any()
            else:
                seen += bool(plain.label.any())
                assert item.label.equal(plain.label)
    assert seen > 5
    assert sum(contrast) > 1
    assert not pretrain.REFINE[0].data(0).plain.most.abstain


def test_uneven_bones_leave_the_calcium(pretrain_data):
    image, label = torch.full((1, 96, 96), 30.0), torch.zeros(96, 96, dtype=torch.uint8)
    image[..., 20:40, 20:40], image[..., 58:72, 58:72], image[..., 60:70, 60:70] = 600, 120, 400
    label[60:70, 60:70] = 2  # in a rim that must not come above 130 HU

    class Chances:
        """Only the last change happens."""

        def __init__(self):
            self.chances, self.rng = iter((1.0, 1.0, 1.0, 1.0, 0.0)), np.random.default_rng(0)
            self.uniform, self.standard_normal = lambda low, high: high, self.rng.standard_normal

        def random(self):
            return next(self.chances)

    hu, labels = pretrain_data.varied(image[0], label, Chances())
    assert labels.equal(label)
    assert hu[label > 0].eq(400).all()
    bone = hu[20:40, 20:40]
    assert bone.std() > 50
    assert (bone >= 100).all()
    bone.fill_(600)
    assert hu.equal(image[0])


def test_at_last_more_spots_lie_in_the_aorta(pretrain):
    before, after = (stage.data(0).plain.most.most for stage in pretrain.ABSTAIN)
    assert not before.aorta
    assert after.aorta
