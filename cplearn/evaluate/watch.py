"""Diagnostics of a trial in training, on a few of its training images: collapse without labels, and k-NN accuracy."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from cplearn.config.groups import EvaluationSettings
from cplearn.data import Split
from cplearn.evaluate.collapse import collapse, view_agreement
from cplearn.evaluate.features import evenly_spaced, features, view_embeddings
from cplearn.evaluate.inputs import NonFiniteFeatures
from cplearn.evaluate.probe import knn
from cplearn.model import Model

MEASURES = ("codes_used", "code_perplexity", "effective_rank", "embedding_std", "intra_cluster_variance")


def watch(model: Model, split: Split, count: int) -> Iterator[tuple[str, float]]:
    """Diagnostics of at most `count` images, evenly spaced over a split and the same ones at every call.

    Yields MEASURES of their embeddings, defined as in `collapse`; where the images have labels `knn_accuracy` of their
    features, each half of them judged by the other; and `view_information` of two augmented views of each, as in
    `view_agreement`, from the trial's stream "watch", the same views at every call.
    Nothing where the method has no embedding, or where embeddings are not finite.

    The model is measured in evaluation mode and left as it was: neither its weights and statistics nor the draws of
    its training change.
    """
    rows = evenly_spaced(len(split.images), count)
    backbone_features, labels = features(model, split.images[rows]), split.labels[rows]
    embeddings = model.embeddings(backbone_features)
    if embeddings is None:
        return
    try:
        measured = dict(collapse(embeddings, model.codes(embeddings), model.method.n_codes))
    except NonFiniteFeatures:
        # The update before was one too many, and the loss of the next epoch will say so.
        return
    yield from ((name, measured[f"collapse/{name}"]) for name in MEASURES if f"collapse/{name}" in measured)
    if len(rows) > 1 and labels.min() >= 0:
        yield "knn_accuracy", _knn_accuracy(backbone_features, labels, model.trial.evaluation)
    views = view_embeddings(model, split, count, 2, "watch")
    first, second = model.codes(views.flatten(0, 1)).cpu().unflatten(0, (-1, 2)).unbind(1)
    yield "view_information", dict(view_agreement(first, second))["select/view_information"]


def _knn_accuracy(images: Tensor, labels: Tensor, asked: EvaluationSettings) -> float:
    """The mean accuracy of `knn` on features (n, F) where every second image votes for the others, and the reverse."""
    even, odd = ((images[half::2], labels[half::2]) for half in (0, 1))
    settings: dict[str, Any] = {"neighbours": asked.knn_neighbours, "temperature": asked.knn_temperature}
    accuracies = [
        dict(knn(*voters, *voted, **settings))["knn/accuracy"] for voters, voted in ((even, odd), (odd, even))
    ]
    return sum(accuracies) / 2
