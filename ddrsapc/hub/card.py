"""Model cards: what a repository's page on the Hub says of its weights."""

from __future__ import annotations

from collections.abc import Sequence

from ddrsapc.hub.config import ModelConfig
from ddrsapc.hub.manifest import Metric, WeightsSpec

__all__ = ["model_card"]

_CARD = """---
{data}
---

# {title}

Weights of `{architecture}` for segmenting coronary artery calcification in cardiac CT, for the PyTorch library
ddrsapc.

```python
import ddrsapc

model = ddrsapc.create_model("{name}").eval()
```

{classes}Input: {in_chans} channel(s), HU clipped to {window} and scaled to [0, 1], then standardised with mean {mean}
and standard deviation {std}; {size} pixels{spacing}. `model.input_config.normalize(hu)` does it.

## Intended use

Research on segmenting and scoring coronary calcium, and fine-tuning on other data. Not a medical device: not for
diagnosis, nor for decisions about a patient.

## Limits

Other scanners, kernels, tube voltages, contrast phases and patients than in the training data may give other
results; check on data of your own before you rely on any figure. Small, faint and motion-blurred calcifications are
most easily missed; calcium of valves and the aortic wall is most easily taken for coronary.
{notes}
## Metrics

{metrics}

## Training

{recipe}

## Source

Real-time Segmentation of Coronary Artery Calcification Using Spatial Attention and Parallel Convolution (Asakawa et
al.), and the papers named in ddrsapc's source files.
"""


def model_card(
    config: ModelConfig,
    *,
    repo_id: str | None = None,
    license: str | None = None,
    metrics: Sequence[Metric] = (),
    spec: WeightsSpec | None = None,
    notes: str = "",
) -> str:
    """The text of a README.md with the metadata that the Hub reads.

    Args:
        config: of the network.
        repo_id: where it will be; None: a folder.
        license: identifier of the weights' licence.
        metrics: figures, without a `spec`.
        spec: the manifest's entry, which brings licence, metrics and recipe.
        notes: Markdown on these weights: their training data, what they are good for and where they fail.
    """
    from huggingface_hub import EvalResult, ModelCardData  # noqa: PLC0415  # only for those who publish

    metrics = spec.metrics if spec is not None else metrics
    title = spec.name if spec is not None else repo_id.partition("/")[2] if repo_id is not None else config.architecture
    results = [
        EvalResult(
            task_type="image-segmentation",
            dataset_type=metric.dataset,
            dataset_name=metric.dataset,
            dataset_split=metric.split,
            metric_type=metric.name,
            metric_name=metric.name,
            metric_value=metric.value,
        )
        for metric in metrics
    ]
    about = ModelCardData(
        license=spec.license if spec is not None else license,
        library_name="ddrsapc",
        pipeline_tag="image-segmentation",
        tags=["ddrsapc", "medical", "cardiac-ct", "coronary-artery-calcification"],
        model_name=title,
        eval_results=results or None,
    )
    table = ["| dataset | split | metric | value | n | seed |", "|---|---|---|---|---|---|"]
    table += [f"| {m.dataset} | {m.split} | {m.name} | {m.value:.4g} | {m.n} | {m.seed} |" for m in metrics]
    expected = config.input_config
    return _CARD.format(
        data=about.to_yaml(),
        title=title,
        architecture=config.architecture,
        name=f"hf-hub:{repo_id}" if repo_id is not None else "local-dir:PATH",
        classes=f"Classes: {', '.join(f'{i} {c}' for i, c in enumerate(spec.classes))}. " if spec is not None else "",
        in_chans=config.model_args["in_chans"],
        window="[{:g}, {:g}]".format(*expected.hu_window),
        mean=f"{expected.mean:g}",
        std=f"{expected.std:g}",
        size="{} x {}".format(*expected.size),
        spacing=" of {:g} x {:g} mm".format(*expected.spacing) if expected.spacing is not None else "",
        notes=f"\n{notes.strip()}\n" if notes.strip() else "",
        metrics="\n".join(table) if metrics else "None are stated.",
        recipe=_recipe(spec),
    )


def _recipe(spec: WeightsSpec | None) -> str:
    if spec is None:
        return "The recipe is not stated."
    recipe = spec.recipe
    return (
        f"`{recipe.command}`, seed {recipe.seed}, commit `{recipe.git_commit}`, on {recipe.hardware}. Licence of the "
        f"weights: {spec.license}; of the training data: {spec.data_license}. These are not the paper's weights."
    )
