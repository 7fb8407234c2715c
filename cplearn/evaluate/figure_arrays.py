"""What figures show of single test images, kept apart from the metrics: vectors, images of codes, neighbours."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cplearn.config.groups import KEPT_COMPONENTS
from cplearn.data import Split
from cplearn.data.dataset import evenly_spaced
from cplearn.evaluate.features import BLOCK, resized

Arrays = dict[str, np.ndarray]

SHOWN = 8  # Codes of which images are named, and images named for each.
QUERIES = 10  # Most images that are shown with their nearest neighbours, of different classes.
THUMBNAIL = 32  # Longest side of a kept image in pixels.


def figure_arrays(split: Split, test: Tensor, embedded: tuple[Tensor, Tensor] | None, kept: int, seed: int) -> Arrays:
    """What figures need to know of the n images of the test split: features (n, F), embeddings (n, f) and codes (n,).

    labels, codes -- of all n test images, int32; a label of -1 means none.
    kept -- (m,) int32, the images whose vectors are kept: at most `kept`, evenly spaced. The next two have one row for
        each.
    features -- (m, at most 50) float16, the first principal components of the kept backbone features.
    embeddings -- (m, f) float16.
    features_scale, embeddings_scale -- what those numbers are to be multiplied by: they are divided by the standard
        deviation of all their entries, so that float16 can hold them.
    top_codes -- (at most 8,) int32, the most used codes, most used first.
    code_images -- (at most 8, 8) int32: of the images that have such a code, those nearest to the mean of their
        embeddings, nearest first; -1 where there are no more.

    Unless `kept` is 0, also images:

    queries -- (at most 10,) int32, the first image of each class, of ten evenly spaced classes where there are more;
        without labels evenly spaced images.
    neighbours -- (at most 10, 7) int32, the other images nearest to each query by the cosine of all backbone features,
        nearest first; -1 where there are no more.
    shown -- (at most 144,) int32, all images that these arrays and `code_images` name, ascending.
    thumbnails -- (as many, C, h, w) uint8, those images, made smaller where they have more than 32 pixels a side.
    """
    arrays = {"labels": split.labels.numpy().astype(np.int32)}
    if embedded is not None:
        embeddings, codes = (x.numpy() for x in (embedded[0].double(), embedded[1]))
        arrays |= {"codes": codes.astype(np.int32)} | _code_images(embeddings, codes)
    rows = evenly_spaced(len(test), kept).numpy()
    if not len(rows):
        return arrays
    arrays["kept"] = rows.astype(np.int32)
    arrays |= _half_precision("features", _principal_components(test[rows].double().numpy(), seed))
    if embedded is not None:
        arrays |= _half_precision("embeddings", embeddings[rows])
    arrays |= _neighbours(test, split.labels)
    named = [arrays[name].ravel() for name in ("code_images", "queries", "neighbours") if name in arrays]
    shown = np.setdiff1d(np.concatenate(named), [-1])
    images = split.images[torch.from_numpy(shown).long()]
    return arrays | {"shown": shown, "thumbnails": resized(images, min(THUMBNAIL, images.shape[-1])).numpy()}


def _principal_components(vectors: np.ndarray, seed: int) -> np.ndarray:
    from sklearn.decomposition import PCA

    pca = PCA(min(KEPT_COMPONENTS, *vectors.shape), svd_solver="randomized", random_state=seed)
    with np.errstate(invalid="ignore"):  # its share of the variance, where there is none
        return pca.fit_transform(vectors)


def _half_precision(name: str, values: np.ndarray) -> Arrays:
    scale = values.std() or 1.0
    return {name: (values / scale).astype(np.float16), f"{name}_scale": np.array(scale)}


def _code_images(embeddings: np.ndarray, codes: np.ndarray) -> Arrays:
    used, counts = np.unique(codes, return_counts=True)
    top = used[np.argsort(-counts, kind="stable")[:SHOWN]]
    images = np.full((len(top), SHOWN), -1, np.int32)
    for row, code in zip(images, top, strict=True):
        members = np.flatnonzero(codes == code)
        distance = ((embeddings[members] - embeddings[members].mean(0)) ** 2).sum(1)
        # Two images are equally far from their mean; rounding must not decide which comes first.
        distance = np.round(distance / (distance.max() or 1.0), 9)
        nearest = members[np.argsort(distance, kind="stable")[:SHOWN]]
        row[: len(nearest)] = nearest
    return {"top_codes": top.astype(np.int32), "code_images": images}


def _neighbours(test: Tensor, labels: Tensor) -> Arrays:
    classes = labels[labels >= 0].unique()
    chosen = classes[evenly_spaced(len(classes), QUERIES)]
    first = [(labels == label).nonzero()[0, 0] for label in chosen]
    queries = torch.stack(first) if first else evenly_spaced(len(test), QUERIES)
    # In double precision the square of the largest float32 is finite.
    directions = F.normalize(test[queries].double())
    cosine = torch.cat([directions @ F.normalize(block.double()).T for block in test.split(BLOCK)], dim=1)
    cosine[torch.arange(len(queries)), queries] = -torch.inf
    # Equal images are equally near; rounding must not decide which comes first.
    order = torch.argsort(cosine.mul(1e9).round(), dim=1, descending=True, stable=True)
    neighbours = np.full((len(queries), SHOWN - 1), -1, np.int32)
    nearest = order[:, : min(SHOWN - 1, len(test) - 1)].numpy()
    neighbours[:, : nearest.shape[1]] = nearest
    return {"queries": queries.numpy().astype(np.int32), "neighbours": neighbours}
