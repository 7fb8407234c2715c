"""Self-Classifier (Amrani, Karlinsky, Bronstein, "Self-Supervised Classification Network", ECCV 2022).

The views x₁ and x₂ of an image must get the same class y; Bayes' rule with a uniform prior over classes and images,
estimated on the batch of n images, keeps all of them from getting one of the c classes:

    loss = -(1/n) Σ_x Σ_y [ p(x₂|y) / Σ_ỹ p(x₂|ỹ) ] · log [ (n/c) p(y|x₁) / Σ_x̃ p(y|x̃₁) ]
"""

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from cplearn.config.base import MethodSettings, Whole, setting
from cplearn.dictionary.terms import perplexity
from cplearn.methods import base, parts


class Settings(MethodSettings):
    multi_crop = True

    name: str = setting("self_classifier", "Self-Classifier, with one classifier.")
    hidden_dim: Whole = setting(256, "Width of the projector's two hidden layers (published: one, 4096).", ge=1)
    embedding_dim: Whole = setting(128, "Dimensions of the embedding (published: 128).", ge=2)
    codes: Whole = setting(100, "Classes of the classifier (published: four of 1000 to 8000).", ge=2)
    row_temperature: float = setting(0.1, "Temperature of the softmax over classes (published: 0.1).", gt=0)
    column_temperature: float = setting(
        0.05, "Temperature of the softmax over the images of the batch (published: 0.05).", gt=0
    )


def targets(logits: Tensor, temperature: float) -> Tensor:
    """p(y|x) = p(x|y) / Σ_ỹ p(x|ỹ) of logits (n, c), with p(x|y) the softmax over the batch."""
    return (logits / temperature).log_softmax(0).softmax(1)


def log_predictions(logits: Tensor, temperature: float) -> Tensor:
    """log( (n/c) p(y|x) / Σ_x̃ p(y|x̃) ) of logits (n, c), with p(y|x) the softmax over classes."""
    n, c = logits.shape
    log_p = (logits / temperature).log_softmax(1)
    return log_p - log_p.logsumexp(0, keepdim=True) + math.log(n / c)


def cross_entropy(logits: Tensor, row_temperature: float, column_temperature: float) -> Tensor:
    """Mean over ordered pairs of views, not both local, of -(1/n) Σ_i Σ_y target log prediction.

    logits: (V, n, c), global views first. Gradients run through both sides. The authors' code adds 1e-8 inside the
    logarithm; here it is computed exactly.
    """
    target = [targets(view, column_temperature) for view in logits]
    predicted = [log_predictions(view, row_temperature) for view in logits]
    pairs = [pair for pair in itertools.permutations(range(len(logits)), 2) if min(pair) < base.GLOBAL_VIEWS]
    return -torch.stack([(target[a] * predicted[b]).sum(-1).mean() for a, b in pairs]).mean()


class Method(base.Method[Settings]):
    """A projector onto the unit sphere and a cosine classifier; the codes are its classes."""

    def __init__(self, settings: Settings, inputs: base.MethodInputs) -> None:
        super().__init__(settings, settings.codes)
        self.projector = parts.MLP([inputs.features, settings.hidden_dim, settings.hidden_dim, settings.embedding_dim])
        self.classifier = parts.Cosine(settings.embedding_dim, settings.codes)

    def forward(self, batch: base.Batch) -> tuple[Tensor, dict[str, Tensor]]:
        row, column = self.settings.row_temperature, self.settings.column_temperature
        logits = self.classifier(parts.each_view(self.embed, batch.features))
        log_p = F.log_softmax(logits.detach() / row, dim=-1)
        return cross_entropy(logits, row, column), {"batch_perplexity": perplexity(log_p)}

    def embed(self, features: Tensor) -> Tensor:
        return F.normalize(self.projector(features), dim=-1)

    def codes(self, embeddings: Tensor) -> Tensor:
        return self.classifier(embeddings).argmax(dim=-1)
