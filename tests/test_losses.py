import math

import pytest
import torch
import torch.nn.functional as F

from ddrsapc.losses import AuxiliaryLoss, DiceLoss, OhemCrossEntropyLoss, WeightedSumLoss
from ddrsapc.models import SegmentationOutput


def by_definition(logits, target, threshold, min_kept, ignore_index=255, weight=None):
    """The definition with a sort, in float64, pixel by pixel."""
    pixels = logits.double().movedim(1, -1).reshape(-1, logits.shape[1])
    labels = target.flatten()
    pixels, labels = pixels[labels != ignore_index], labels[labels != ignore_index]
    if len(labels) == 0:
        return torch.tensor(0.0, dtype=torch.float64)
    log_probability = pixels.log_softmax(1)[torch.arange(len(labels)), labels]
    losses = -log_probability * (1 if weight is None else weight.double()[labels])
    probability = log_probability.exp()
    k = max(1, int(min_kept * len(labels)))
    ordered = [*probability.sort().values.tolist(), math.inf]
    cut = max(threshold, ordered[k])
    kept = losses[probability < cut]
    if len(kept) == 0:
        kept = losses.sort(descending=True).values[:k]
    return kept.mean()


@pytest.mark.parametrize("seed", range(12))
def test_equals_the_definition(seed):
    torch.manual_seed(seed)
    classes = 2 + seed % 4
    logits = torch.randn(2, classes, 9 + seed, 11) * (1 + seed)
    target = torch.randint(0, classes, (2, 9 + seed, 11))
    target[torch.rand(target.shape) < 0.1 * (seed % 4)] = 255
    weight = torch.rand(classes) + 0.1 if seed % 2 else None
    threshold, min_kept = (0.7, 0.05) if seed < 4 else (torch.rand(1).item(), torch.rand(1).item())
    loss = OhemCrossEntropyLoss(threshold, min_kept, weight=weight)(logits, target)
    torch.testing.assert_close(loss.double(), by_definition(logits, target, threshold, min_kept, weight=weight))


def one_row(*probabilities):
    """Two-class logits of one row of pixels with these probabilities of their true class, 0."""
    p = torch.tensor(probabilities, dtype=torch.float64)
    logits = torch.stack((p.log(), (1 - p).log()))[None, :, None, :].float()
    return logits, torch.zeros(1, 1, len(probabilities), dtype=torch.long)


def test_keeps_what_is_below_the_threshold():
    logits, target = one_row(0.2, 0.5, 0.69, 0.71, 0.99)
    expected = -(math.log(0.2) + math.log(0.5) + math.log(0.69)) / 3
    assert OhemCrossEntropyLoss(0.7, 0.0)(logits, target).item() == pytest.approx(expected, rel=1e-5)


def test_keeps_the_fraction_if_all_are_easy():
    logits, target = one_row(0.99, 0.8, 0.9, 0.95)
    expected = -(math.log(0.8) + math.log(0.9)) / 2
    assert OhemCrossEntropyLoss(0.7, 0.5)(logits, target).item() == pytest.approx(expected, rel=1e-5)


def test_ties_fall_back_to_the_k_largest_losses():
    logits, target = one_row(0.9, 0.9, 0.9, 0.9)
    assert OhemCrossEntropyLoss(0.7, 0.5)(logits, target).item() == pytest.approx(-math.log(0.9), rel=1e-4)


def test_fallback_takes_the_largest_weighted_losses():
    logits, target = one_row(0.9, 0.9, 0.9, 0.9)
    logits[:, :, :, 2:] = logits[:, :, :, 2:].flip(1)
    target[..., 2:] = 1
    expected = -3 * math.log(0.9)
    assert OhemCrossEntropyLoss(0.7, 0.5, weight=[1.0, 3.0])(logits, target).item() == pytest.approx(expected, rel=1e-4)


def test_nan_is_not_hidden():
    logits, target = torch.randn(1, 4, 8, 8), torch.randint(0, 4, (1, 8, 8))
    logits[0, 0, 3, 3] = torch.nan
    assert OhemCrossEntropyLoss()(logits, target).isnan()


def test_keeping_everything_is_cross_entropy():
    logits, target = torch.randn(2, 4, 8, 8), torch.randint(0, 4, (2, 8, 8))
    torch.testing.assert_close(OhemCrossEntropyLoss(min_kept=1.0)(logits, target), F.cross_entropy(logits, target))


def test_gradient_flows_from_the_kept_pixels_only():
    logits, target = one_row(0.2, 0.5, 0.8, 0.9)
    logits.requires_grad_()
    OhemCrossEntropyLoss(0.7, 0.0)(logits, target).backward()
    assert (logits.grad[0, :, 0].abs().sum(0) > 0).tolist() == [True, True, False, False]


@pytest.mark.parametrize("weight", [None, (0.5, 1.0, 2.0)])
def test_gradcheck(weight):
    logits = torch.randn(1, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    target = torch.randint(0, 3, (1, 4, 4))
    criterion = OhemCrossEntropyLoss(weight=weight).double()
    assert torch.autograd.gradcheck(lambda x: criterion(x, target), logits)


def test_all_ignored_is_a_differentiable_zero():
    logits = torch.randn(1, 4, 8, 8, requires_grad=True)
    loss = OhemCrossEntropyLoss(weight=[1.0, 2, 3, 4])(logits, torch.full((1, 8, 8), 255))
    assert loss.item() == 0
    loss.backward()
    assert not logits.grad.any()


def test_ignored_pixels_do_not_matter():
    logits, target = torch.randn(1, 3, 6, 6), torch.randint(0, 3, (1, 6, 6))
    target[0, :2] = 7
    loss = OhemCrossEntropyLoss(ignore_index=7)
    expected = loss(logits, target)
    logits[:, :, :2] = 1e4 * torch.randn(1, 3, 2, 6)
    torch.testing.assert_close(loss(logits, target), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_computed_in_float32(dtype):
    logits, target = torch.randn(2, 4, 16, 16).to(dtype), torch.randint(0, 4, (2, 16, 16))
    loss = OhemCrossEntropyLoss()(logits, target)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, OhemCrossEntropyLoss()(logits.float(), target))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.int16, torch.int32])
def test_any_integer_labels(dtype):
    logits, target = torch.randn(2, 4, 16, 16), torch.randint(0, 4, (2, 16, 16))
    torch.testing.assert_close(OhemCrossEntropyLoss()(logits, target.to(dtype)), OhemCrossEntropyLoss()(logits, target))


@pytest.mark.parametrize("weight", [None, (1.0, 2.0, 3.0, 4.0)])
def test_no_host_synchronisation(weight):
    """Meta tensors have no values: any attempt to read one raises."""
    logits = torch.empty(2, 4, 64, 64, device="meta", requires_grad=True)
    target = torch.empty(2, 64, 64, dtype=torch.long, device="meta")
    loss = OhemCrossEntropyLoss(weight=weight).to("meta")(logits, target)
    assert loss.shape == ()
    loss.backward()
    assert logits.grad.shape == logits.shape


def test_compiles_as_one_graph():
    torch.compiler.reset()
    logits, target = torch.randn(2, 4, 16, 16, requires_grad=True), torch.randint(0, 4, (2, 16, 16))
    criterion = OhemCrossEntropyLoss(weight=[1, 2, 3, 4])
    compiled = torch.compile(criterion, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(logits, target), criterion(logits, target))


def test_weight_moves_with_the_module_but_is_learnt_by_nobody():
    criterion = OhemCrossEntropyLoss(weight=[1.0, 2.0])
    assert criterion.to("meta").weight.device.type == "meta"
    assert not list(criterion.parameters())


@pytest.mark.parametrize("argument", ["threshold", "min_kept"])
@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan])
def test_fractions_are_checked(argument, value):
    with pytest.raises(ValueError, match=f"{argument} must be between 0 and 1"):
        OhemCrossEntropyLoss(**{argument: value})


@pytest.mark.parametrize("weight", [[1.0, -1.0], [[1.0]], [math.nan]])
def test_weights_are_checked(weight):
    with pytest.raises(ValueError, match="one non-negative number per class"):
        OhemCrossEntropyLoss(weight=weight)


def test_bad_input_is_named():
    criterion = OhemCrossEntropyLoss()
    logits, target = torch.randn(2, 4, 8, 8), torch.randint(0, 4, (2, 8, 8))
    with pytest.raises(ValueError, match=r"expected logits \(N, C, H, W\)"):
        criterion(logits[0], target)
    with pytest.raises(ValueError, match=r"expected a target \(2, 8, 8\)"):
        criterion(logits, target[:, :4])
    with pytest.raises(ValueError, match=r"expected a target \(2, 8, 8\)"):
        criterion(logits, target[:, None])
    with pytest.raises(TypeError, match="integer labels"):
        criterion(logits, target.float())
    with pytest.raises(ValueError, match="3 entries, but the logits 4 classes"):
        OhemCrossEntropyLoss(weight=[1, 1, 1])(logits, target)
    with pytest.raises(TypeError, match=r"floating-point logits"):
        criterion(logits.long(), target)
    with pytest.raises(TypeError, match=r"got SegmentationOutput.*AuxiliaryLoss"):
        criterion(SegmentationOutput(logits, logits), target)
    with pytest.raises(TypeError, match="target as a tensor, got ndarray"):
        criterion(logits, target.numpy())
    with pytest.raises(ValueError, match="at least one pixel"):
        criterion(logits[:0], target[:0])
    with pytest.raises(ValueError, match=r"labels \[255\] are outside"):
        OhemCrossEntropyLoss(ignore_index=-1)(logits, torch.full((2, 8, 8), 255, dtype=torch.uint8))
    for wrong in (4, -1):
        target[0, 0, 0] = wrong
        with pytest.raises(ValueError, match=rf"labels \[{wrong}\] are outside the 4 classes 0 to 3"):
            criterion(logits, target)


def dice_by_definition(logits, target, *, include_background):
    """Class by class and pixel by pixel, in float64."""
    probability = logits.double().softmax(1).movedim(1, -1).reshape(-1, logits.shape[1])
    labels = target.flatten()
    probability, labels = probability[labels != 255], labels[labels != 255]
    scores = []
    for c in range(0 if include_background else 1, logits.shape[1]):
        truth = (labels == c).double()
        if truth.sum() > 0:
            scores.append(2 * (probability[:, c] * truth).sum() / (probability[:, c].sum() + truth.sum()))
    return 1 - torch.stack(scores).mean()


@pytest.mark.parametrize("seed", range(8))
def test_dice_equals_the_definition(seed):
    torch.manual_seed(seed)
    classes = 2 + seed % 4
    logits = torch.randn(2, classes, 9, 11) * (1 + seed)
    target = torch.randint(0, max(2, classes - seed % 2), (2, 9, 11))  # the last class is sometimes absent
    target[torch.rand(target.shape) < 0.1 * (seed % 3)] = 255
    background = seed % 3 == 0
    loss = DiceLoss(include_background=background)(logits, target)
    torch.testing.assert_close(loss.double(), dice_by_definition(logits, target, include_background=background))


def test_dice_by_hand():
    logits, target = one_row(0.9, 0.6, 0.2)
    target[..., 1:] = 1  # true class 1 with probabilities 0.4 and 0.8; pixel 0 has 0.1 of it
    expected = 1 - 2 * (0.4 + 0.8) / (0.1 + 0.4 + 0.8 + 2)
    assert DiceLoss()(logits, target).item() == pytest.approx(expected, rel=1e-5)


def test_dice_of_right_and_wrong_predictions():
    target = torch.randint(0, 4, (2, 8, 8))
    right = torch.nn.functional.one_hot(target, 4).movedim(-1, 1).float() * 100
    assert DiceLoss()(right, target).item() == pytest.approx(0, abs=1e-6)
    assert DiceLoss()(right.roll(1, 1), target).item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("value", [0, 255])
def test_dice_without_a_class_to_count_is_zero_with_zero_gradients(value):
    logits = torch.randn(1, 4, 8, 8, requires_grad=True)
    loss = DiceLoss()(logits, torch.full((1, 8, 8), value))
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()


def test_dice_ignores_pixels_whatever_is_there():
    logits, target = torch.randn(1, 4, 8, 8), torch.randint(0, 4, (1, 8, 8))
    target[:, :4] = 255
    changed = logits.clone()
    changed[:, :, :4] = torch.randn(1, 4, 4, 8) * 50
    assert torch.equal(DiceLoss()(logits, target), DiceLoss()(changed, target))


def test_dice_gradient():
    target = torch.randint(0, 4, (1, 3, 4))
    target[0, 0, 0] = 255
    logits = torch.randn(1, 4, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: DiceLoss()(x, target), (logits,))


def test_dice_shows_nan_takes_half_precision_and_never_waits():
    logits, target = torch.randn(1, 4, 8, 8), torch.randint(0, 4, (1, 8, 8))
    assert DiceLoss()(logits.half(), target).dtype == torch.float32
    torch.testing.assert_close(DiceLoss()(logits.bfloat16(), target), DiceLoss()(logits, target), rtol=1e-2, atol=1e-2)
    empty = logits.to("meta").requires_grad_()
    DiceLoss()(empty, target.to("meta")).backward()  # reading a value of a meta tensor raises
    assert empty.grad.shape == logits.shape
    logits[0, 0, 3, 3] = torch.nan
    assert DiceLoss()(logits, target).isnan()
    assert DiceLoss()(logits, torch.zeros_like(target)).isnan()  # also where no class counts


def test_dice_uses_its_own_ignore_index():
    logits, target = torch.randn(1, 4, 8, 8), torch.randint(0, 4, (1, 8, 8))
    target[:, :4] = 255
    other = target.where(target != 255, 7)
    assert torch.equal(DiceLoss(ignore_index=7)(logits, other), DiceLoss()(logits, target))
    assert "ignore_index=7, include_background=False" in repr(DiceLoss(ignore_index=7))


def test_dice_names_bad_input():
    logits, target = torch.randn(1, 4, 8, 8), torch.randint(0, 4, (1, 8, 8))
    with pytest.raises(ValueError, match=r"expected a target \(1, 8, 8\)"):
        DiceLoss()(logits, target[:, :4])
    with pytest.raises(ValueError, match=r"labels \[4\] are outside the 4 classes"):
        DiceLoss()(logits, torch.full_like(target, 4))
    with pytest.raises(TypeError, match=r"got SegmentationOutput.*AuxiliaryLoss"):
        DiceLoss()(SegmentationOutput(logits, logits), target)


def test_weighted_sum():
    logits, target = torch.randn(2, 4, 8, 8), torch.randint(0, 4, (2, 8, 8))
    ohem, dice = OhemCrossEntropyLoss(), DiceLoss()
    criterion = WeightedSumLoss([(ohem, 1.0), (dice, 0.5)])
    torch.testing.assert_close(criterion(logits, target), ohem(logits, target) + 0.5 * dice(logits, target))
    assert "weights=(1.0, 0.5)" in repr(criterion)
    weighted = WeightedSumLoss([(OhemCrossEntropyLoss(weight=[1, 1, 1, 1]), 1.0)])
    assert "losses.0.weight" in weighted.state_dict()  # moves with .to(device)
    for bad in ([], [(ohem, -1.0)], [(ohem, math.nan)], [(ohem, math.inf)]):
        with pytest.raises(ValueError, match="expected pairs of a loss and a finite weight"):
            WeightedSumLoss(bad)
    with pytest.raises(TypeError, match="expected a loss module"):
        WeightedSumLoss([(F.cross_entropy, 1.0)])


def test_auxiliary_logits_weigh_four_tenths():
    logits, aux, target = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8), torch.randint(0, 4, (2, 8, 8))
    ohem = OhemCrossEntropyLoss()
    criterion = AuxiliaryLoss(ohem)
    expected = ohem(logits, target) + 0.4 * ohem(aux, target)
    torch.testing.assert_close(criterion(SegmentationOutput(logits, aux), target), expected)
    assert torch.equal(criterion(logits, target), ohem(logits, target))
    assert AuxiliaryLoss(ohem, 0.0)(SegmentationOutput(logits, aux), target) == ohem(logits, target)
    for bad in (-0.4, math.nan, math.inf):
        with pytest.raises(ValueError, match="aux_weight must be a finite number"):
            AuxiliaryLoss(ohem, bad)
    with pytest.raises(TypeError, match="expected a loss module"):
        AuxiliaryLoss(F.cross_entropy)
