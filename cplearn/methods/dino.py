"""DINO (Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", ICCV 2021).

A student predicts, from every view, what its own moving average says about the global views; centring and sharpening
of the teacher's outputs prevent collapse.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from cplearn.config import base as config
from cplearn.dictionary import codes
from cplearn.methods import base
from cplearn.methods.parts import ema, heads


class Settings(config.MethodSettings):
    multi_crop = True

    name: str = Field("dino", description="DINO.")
    hidden_dim: config.Whole = Field(256, ge=1, description="Width of the head's two hidden layers (published: 2048).")
    embedding_dim: config.Whole = Field(128, ge=2, description="Dimensions before the prototypes (published: 256).")
    codes: config.Whole = Field(
        100, ge=2, description="Prototypes, the outputs of the head (ImageNet: 65536, CIFAR: 4096)."
    )
    student_temperature: Annotated[float, config.PerMember()] = Field(
        0.1, gt=0, description="Temperature of the student (published: 0.1)."
    )
    teacher_temperature: Annotated[float, config.PerMember()] = Field(
        0.04, gt=0, description="Temperature of the teacher after its warm-up (published: 0.04 to 0.07)."
    )
    warmup_teacher_temperature: Annotated[float, config.PerMember()] = Field(
        0.04, gt=0, description="Temperature of the teacher in the first epoch (published: 0.04)."
    )
    warmup_epochs: config.Whole = Field(
        0, ge=0, description="Epochs in which the teacher's temperature rises linearly (published: 0 to 30)."
    )
    centre_momentum: Annotated[float, config.PerMember()] = Field(
        0.9, ge=0, lt=1, description="Rate of the moving average of the teacher's outputs (published: 0.9)."
    )
    momentum: Annotated[float, config.PerMember()] = Field(
        0.99,
        ge=0,
        le=1,
        description="First rate of the teacher; a cosine takes it to 1 (ImageNet: 0.996, CIFAR: 0.9995).",
    )
    freeze_epochs: config.Whole = Field(
        1, ge=0, description="First epochs in which the prototypes stay as drawn (published: 1)."
    )


def cross_entropy(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over global views a and views b ≠ a of -(1/n) Σ_i Σ_j t^a_ij log s^b_ij (Eq. 3).

    student: log-probabilities (K, V, n, c), the G global views first; teacher: probabilities (K, G, n, c). To (K,).
    """
    each = [
        -(target * student[:, b]).sum(-1).mean(-1)
        for a, target in enumerate(teacher.unbind(1))
        for b in range(student.shape[1])
        if b != a
    ]
    return torch.stack(each).mean(0)


class Head(nn.Module):
    """Three maps with biases and GELU, the unit sphere, and prototypes of length 1."""

    def __init__(self, members: int, widths: Sequence[int], prototypes: int) -> None:
        super().__init__()
        self.projector = heads.MLP(members, widths, norm=False)
        self.prototypes = heads.Cosine(members, widths[-1], prototypes)

    def embed(self, x: Tensor) -> Tensor:
        """(K, n, F) to points on the unit sphere, (K, n, f)."""
        return F.normalize(self.projector(x), dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        """(K, n, F) to (K, n, c)."""
        return self.prototypes(self.embed(x))


class Method(base.Method):
    """Heads of student and teacher. Evaluated is the teacher; the codes are its prototypes."""

    student_temperature: Tensor
    teacher_temperature: Tensor
    warmup_teacher_temperature: Tensor
    centre_momentum: Tensor
    first_momentum: Tensor
    centre: Tensor

    def __init__(
        self,
        settings: Sequence[Settings],
        features: int,
        batch_size: int,
        generators: Sequence[torch.Generator],
        classes: int,
    ) -> None:
        super().__init__()
        first, members = settings[0], len(settings)
        self.n_codes = first.codes
        self.warmup_epochs, self.freeze_epochs = first.warmup_epochs, first.freeze_epochs
        widths = [features, first.hidden_dim, first.hidden_dim, first.embedding_dim]
        self.student = Head(members, widths, first.codes)
        self.teacher = Head(members, widths, first.codes).requires_grad_(False)
        for name in ("student_temperature", "teacher_temperature", "warmup_teacher_temperature", "centre_momentum"):
            self.member_scalars(name, [getattr(s, name) for s in settings])
        self.member_scalars("first_momentum", [s.momentum for s in settings])
        self.register_buffer("centre", torch.zeros(members, first.codes))
        self._frozen: heads.Freeze | None = None

    def after_initialisation(self) -> None:
        self.teacher.load_state_dict(self.student.state_dict())

    def forward(self, batch: base.Batch) -> tuple[Tensor, dict[str, Tensor]]:
        assert batch.teacher is not None
        student = heads.each_view(self.student, batch.features) / self.student_temperature[:, None, None, None]
        with torch.no_grad():
            outputs = heads.each_view(self.teacher, batch.teacher)
            centred = outputs - self.centre[:, None, None]
            log_t = F.log_softmax(centred / self.temperature(batch.progress)[:, None, None, None], dim=-1)
            rate = self.centre_momentum[:, None]
            self.centre.mul_(rate).add_((1 - rate) * outputs.mean((1, 2)))
        loss = cross_entropy(F.log_softmax(student, dim=-1), log_t.exp())
        return loss, {"batch_perplexity": codes.perplexity(log_t)}

    def temperature(self, progress: base.Progress) -> Tensor:
        """The teacher's temperature (K,): linear over the epochs of the warm-up, then constant."""
        part = min(1.0, progress.epoch / max(1, self.warmup_epochs - 1)) if self.warmup_epochs else 1.0
        return torch.lerp(self.warmup_teacher_temperature, self.teacher_temperature, part)

    def momentum(self, progress: base.Progress) -> Tensor:
        return ema.cosine(self.first_momentum, progress)

    def before_update(self, progress: base.Progress) -> None:
        frozen = progress.epoch < self.freeze_epochs
        self._frozen = heads.Freeze(self.student.prototypes.weight) if frozen else None

    def after_update(self, progress: base.Progress) -> None:
        if self._frozen is not None:
            self._frozen.undo()
            self._frozen = None
        ema.follow(self.teacher, self.student, self.momentum(progress))

    def embed(self, features: Tensor) -> Tensor:
        return self.teacher.embed(features)

    def codes(self, embeddings: Tensor) -> Tensor:
        """The prototype with the largest centred output, to which the teacher would assign the image in training."""
        return (self.teacher.prototypes(embeddings) - self.centre[:, None]).argmax(-1)
