"""Diagnostics of collapse while a trial is in training, on a few of its training images, without their labels."""

from collections.abc import Iterator

from cplearn.data import Split
from cplearn.evaluate.collapse import collapse, view_agreement
from cplearn.evaluate.features import evenly_spaced, features, view_embeddings
from cplearn.evaluate.inputs import NonFiniteFeatures
from cplearn.model import Model

MEASURES = ("codes_used", "code_perplexity", "effective_rank", "embedding_std", "intra_cluster_variance")


def watch(model: Model, split: Split, count: int) -> Iterator[tuple[str, float]]:
    """Collapse diagnostics of at most `count` images, evenly spaced over a split and the same ones at every call.

    Yields MEASURES of their embeddings, defined as in `collapse`, and `view_information` of two augmented views of
    each, as in `view_agreement`; the views come from the trial's stream "watch" and are the same at every call too.
    Nothing where the method has no embedding, or where embeddings are not finite.

    The model is measured in evaluation mode and left as it was: neither its weights and statistics nor the draws of
    its training change.
    """
    images = split.images[evenly_spaced(len(split.images), count)]
    embeddings = model.embeddings(features(model, images))
    if embeddings is None:
        return
    try:
        measured = dict(collapse(embeddings, model.codes(embeddings), model.method.n_codes))
    except NonFiniteFeatures:
        # The update before was one too many, and the loss of the next epoch will say so.
        return
    yield from ((name, measured[f"collapse/{name}"]) for name in MEASURES if f"collapse/{name}" in measured)
    views = view_embeddings(model, split, count, 2, "watch")
    first, second = model.codes(views.flatten(0, 1)).cpu().unflatten(0, (-1, 2)).unbind(1)
    yield "view_information", dict(view_agreement(first, second))["select/view_information"]
