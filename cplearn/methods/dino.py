"""DINO (Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", ICCV 2021).

A student predicts, from every view b, what its own moving average, the teacher, says about every global view a ≠ b;
centring and sharpening of the teacher's outputs prevent collapse (Eq. 3):

    loss = -(1/n) Σ_i Σ_j t^a_ij log s^b_ij,    t = softmax((teacher - centre) / τ_t),  s = softmax(student / τ_s)
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cplearn.config.base import MethodSettings, Whole, setting
from cplearn.dictionary.terms import perplexity
from cplearn.methods import base, parts


class Settings(MethodSettings):
    multi_crop = True

    name: str = setting("dino", "DINO.")
    hidden_dim: Whole = setting(256, "Width of the head's two hidden layers (published: 2048).", ge=1)
    embedding_dim: Whole = setting(128, "Dimensions before the prototypes (published: 256).", ge=2)
    codes: Whole = setting(100, "Prototypes, the outputs of the head (ImageNet: 65536, CIFAR: 4096).", ge=2)
    student_temperature: float = setting(0.1, "Temperature of the student (published: 0.1).", gt=0)
    teacher_temperature: float = setting(
        0.04, "Temperature of the teacher after its warm-up (published: 0.04 to 0.07).", gt=0
    )
    warmup_teacher_temperature: float = setting(
        0.04, "Temperature of the teacher in the first epoch (published: 0.04).", gt=0
    )
    warmup_epochs: Whole = setting(
        0, "Epochs in which the teacher's temperature rises linearly (published: 0 to 30).", ge=0
    )
    centre_momentum: float = setting(
        0.9, "Rate of the moving average of the teacher's outputs (published: 0.9).", ge=0, lt=1
    )
    momentum: float = setting(
        0.99, "First rate of the teacher; a cosine takes it to 1 (ImageNet: 0.996, CIFAR: 0.9995).", ge=0, le=1
    )
    freeze_epochs: Whole = setting(1, "First epochs in which the prototypes stay as drawn (published: 1).", ge=0)


class Head(nn.Module):
    """Three maps with biases and GELU from (n, F) to (n, f), the unit sphere, and c prototypes of length 1."""

    def __init__(self, widths: Sequence[int], prototypes: int) -> None:
        super().__init__()
        self.projector = parts.MLP(widths, norm=False)
        self.prototypes = parts.Cosine(widths[-1], prototypes)

    def embed(self, x: Tensor) -> Tensor:
        return F.normalize(self.projector(x), dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        return self.prototypes(self.embed(x))


class Method(base.Method[Settings]):
    """Heads of student and teacher. Evaluated is the teacher; the codes are its prototypes."""

    centre: Tensor

    def __init__(self, settings: Settings, inputs: base.MethodInputs) -> None:
        super().__init__(settings, settings.codes)
        widths = [inputs.features, settings.hidden_dim, settings.hidden_dim, settings.embedding_dim]
        self.student = Head(widths, settings.codes)
        self.teacher = Head(widths, settings.codes).requires_grad_(False)
        self.register_buffer("centre", torch.zeros(settings.codes))

    def after_initialisation(self) -> None:
        self.teacher.load_state_dict(self.student.state_dict())

    def forward(self, batch: base.Batch) -> tuple[Tensor, dict[str, Tensor]]:
        assert batch.teacher is not None
        student = parts.each_view(self.student, batch.features) / self.settings.student_temperature
        with torch.no_grad():
            outputs = parts.each_view(self.teacher, batch.teacher)
            log_t = F.log_softmax((outputs - self.centre) / self.temperature(batch.progress), dim=-1)
            self.centre.lerp_(outputs.mean((0, 1)), 1 - self.settings.centre_momentum)
        loss = parts.cross_entropy(F.log_softmax(student, dim=-1), log_t.exp())
        return loss, {"batch_perplexity": perplexity(log_t)}

    def temperature(self, progress: base.Progress) -> float:
        """The teacher's temperature: linear over the epochs of the warm-up, then constant."""
        first, last = self.settings.warmup_teacher_temperature, self.settings.teacher_temperature
        if not self.settings.warmup_epochs:
            return last
        return first + (last - first) * min(1.0, progress.epoch / max(1, self.settings.warmup_epochs - 1))

    def momentum(self, progress: base.Progress) -> float:
        return parts.rising(self.settings.momentum, progress)

    def before_update(self, progress: base.Progress) -> None:
        if progress.epoch < self.settings.freeze_epochs:
            self.student.prototypes.weight.grad = None

    def after_update(self, progress: base.Progress) -> None:
        parts.follow(self.teacher, self.student, self.momentum(progress))

    def embed(self, features: Tensor) -> Tensor:
        return self.teacher.embed(features)

    def codes(self, embeddings: Tensor) -> Tensor:
        """The prototype with the largest centred output, to which the teacher would assign the image in training."""
        return (self.teacher.prototypes(embeddings) - self.centre).argmax(dim=-1)
