"""The upper bound: a classifier trained with labels, on the same backbone, views and steps as the other methods."""

from torch import Tensor, nn

from cplearn.config.base import MethodSettings, setting
from cplearn.methods import base


class Settings(MethodSettings):
    supervised = True

    name: str = setting("supervised", "Classification with labels, the upper bound of the other methods.")


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over views and labelled images of -log p(label), for logits (V, n, c) and labels (n,).

    Images with label -1 do not count; a batch without any label has loss 0.
    """
    labelled = labels >= 0
    log_p = logits.log_softmax(-1).mean(0)
    log_p_label = log_p.gather(-1, labels.clamp_min(0)[:, None])[:, 0]
    return -(log_p_label * labelled).sum() / labelled.sum().clamp_min(1)


class Method(base.Method[Settings]):
    """A linear classifier on the features. Its logits stand for an embedding, its classes for codes."""

    def __init__(self, settings: Settings, inputs: base.MethodInputs) -> None:
        super().__init__(settings, inputs.classes)
        self.classifier = nn.Linear(inputs.features, inputs.classes)

    def forward(self, batch: base.Batch) -> tuple[Tensor, dict[str, Tensor]]:
        logits = self.classifier(batch.features)
        loss = cross_entropy(logits, batch.labels)
        correct = logits.detach().argmax(-1) == batch.labels
        return loss, {"accuracy": correct.to(loss.dtype).mean()}

    def embed(self, features: Tensor) -> Tensor:
        return self.classifier(features)
