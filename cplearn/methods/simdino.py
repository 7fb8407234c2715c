"""SimDINO (Wu et al., "Simplifying DINO via Coding Rate Regularization", ICML 2025, arXiv 2502.10385).

DINO without prototypes, softmax, centring and sharpening: from every view b a student must give the embedding, of
length 1, that its own moving average, the teacher, gives every global view a ≠ b, and the coding rate R of a batch, how
many bits its embeddings need at a precision of ε, must be large, which rules collapse out:

    loss = ½ |z_b - z'_a|² - γ R(Zᵀ Z / n),    R(Γ) = ½ log det(I + d/ε² Γ)

with the student's embeddings of a global view as rows of Z (n x d). Γ is not centred, as in the authors' code.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from cplearn.config.base import MethodSettings, Whole, setting
from cplearn.methods import base, parts


class Settings(MethodSettings):
    multi_crop = True

    name: str = setting("simdino", "SimDINO.")
    hidden_dim: Whole = setting(256, "Width of the head's two hidden layers (published: 2048).", ge=1)
    embedding_dim: Whole = setting(128, "Dimensions of the embedding (published: 256).", ge=2)
    gamma: float | None = setting(
        None, "Weight γ of the coding rate; by default (d + n) / (d n) as in the authors' code.", ge=0
    )
    epsilon: float = setting(
        0.5, "Precision ε of the coding rate (ε² is 0.5 in the authors' code, 0.05 in its ImageNet command).", gt=0
    )
    smooth: bool = setting(
        False, "Coding rate of the mean of student and teacher (authors' script); false: of the student (paper)."
    )
    momentum: float = setting(0.99, "First rate of the teacher; a cosine takes it to 1 (ImageNet: 0.996).", ge=0, le=1)


def coding_rate(z: Tensor, epsilon: float) -> Tensor:
    """½ log det(I + d/(n ε²) ZᵀZ) in nats, mean over the views of (V, n, d)."""
    _, n, d = z.shape
    scaled = torch.eye(d, dtype=z.dtype, device=z.device) + d / (n * epsilon**2) * z.mT @ z
    # Half the logarithm of the determinant is the sum of the logarithms of the Cholesky factor's diagonal.
    return torch.linalg.cholesky_ex(scaled)[0].diagonal(dim1=1, dim2=2).log().sum(-1).mean()


class Method(base.Method[Settings]):
    """Heads of student and teacher as in DINO, without prototypes.

    Evaluated is the teacher; the codes are the dimensions of its embedding, by arg-max.
    """

    def __init__(self, settings: Settings, inputs: base.MethodInputs) -> None:
        super().__init__(settings, settings.embedding_dim)
        widths = [inputs.features, settings.hidden_dim, settings.hidden_dim, settings.embedding_dim]
        self.student = parts.MLP(widths, norm=False)
        self.teacher = parts.MLP(widths, norm=False).requires_grad_(False)

    def after_initialisation(self) -> None:
        self.teacher.load_state_dict(self.student.state_dict())

    def forward(self, batch: base.Batch) -> tuple[Tensor, dict[str, Tensor]]:
        assert batch.teacher is not None
        student = F.normalize(self.student(batch.features), dim=-1)
        with torch.no_grad():
            teacher = F.normalize(self.teacher(batch.teacher), dim=-1)
        # Half the squared distance of two vectors of length 1 is 1 - their cosine.
        half_distance = 1 - parts.cosine(student, teacher)
        seen = student[: len(teacher)]
        rate = coding_rate((seen + teacher) / 2 if self.settings.smooth else seen, self.settings.epsilon)
        n, d = student.shape[1:]
        gamma = (d + n) / (d * n) if self.settings.gamma is None else self.settings.gamma
        return half_distance - gamma * rate, {"half_distance": half_distance, "coding_rate": rate}

    def momentum(self, progress: base.Progress) -> float:
        return parts.rising(self.settings.momentum, progress)

    def after_update(self, progress: base.Progress) -> None:
        parts.follow(self.teacher, self.student, self.momentum(progress))

    def embed(self, features: Tensor) -> Tensor:
        return F.normalize(self.teacher(features), dim=-1)
