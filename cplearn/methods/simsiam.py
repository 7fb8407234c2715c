"""SimSiam (Chen, He, "Exploring Simple Siamese Representation Learning", CVPR 2021).

From one view of an image a predictor h on top of the projection z guesses the projection of the other view, through
which no gradient flows. Nothing in the loss forbids collapse: that it does not happen is due to the predictor and the
stop-gradient. With D(p, z) = -cos(p, z) and both orders of the views a, b (Eq. 1 and 2):

    loss = ½ D(h(z_a), stopgrad z_b) + ½ D(h(z_b), stopgrad z_a)
"""

from torch import Tensor, nn

from cplearn.config.base import MethodSettings, Whole, setting
from cplearn.methods import base, parts


class Settings(MethodSettings):
    name: str = setting("simsiam", "SimSiam.")
    hidden_dim: Whole = setting(256, "Width of the projector's two hidden layers (published: 2048).", ge=1)
    embedding_dim: Whole = setting(128, "Dimensions of the projection (published: 2048).", ge=2)
    predictor_dim: Whole = setting(
        32, "Width of the predictor's hidden layer, a quarter of embedding_dim as published (512).", ge=1
    )


class Method(base.Method[Settings]):
    """A projector of three linear maps that ends in a BatchNorm without gains, and a predictor with a narrow middle.

    The codes are the dimensions of the projection, by arg-max.
    """

    def __init__(self, settings: Settings, inputs: base.MethodInputs) -> None:
        super().__init__(settings, settings.embedding_dim)
        widths = [inputs.features, settings.hidden_dim, settings.hidden_dim, settings.embedding_dim]
        self.projector = nn.Sequential(parts.MLP(widths), nn.BatchNorm1d(settings.embedding_dim, affine=False))
        self.predictor = parts.MLP([settings.embedding_dim, settings.predictor_dim, settings.embedding_dim])

    def forward(self, batch: base.Batch) -> tuple[Tensor, dict[str, Tensor]]:
        z = parts.each_view(self.projector, batch.features)
        predictions = parts.each_view(self.predictor, z)
        return -parts.cosine(predictions, z[: base.GLOBAL_VIEWS].detach()), {}
