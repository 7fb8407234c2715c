"""How metrics are called, shown and ranked in tables and figures, as data."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Metric:
    """How a logged metric is shown.

    `heading` stands alone; `short` stands in LaTeX under a heading `group` that neighbours share. `better` says which
    direction is ranked; None where no direction is better, or where ranking would mislead. `spread` says whether the
    standard deviation is shown, `percent` whether the value is multiplied by 100.
    """

    name: str
    heading: str
    group: str
    short: str
    better: Literal["higher", "lower"] | None = "higher"
    decimals: int = 3
    spread: bool = True
    percent: bool = False


CRITERIA = {
    "select/view_information": "view inf.",
    "select/view_ami": "view AMI",
    "select/rankme": "RankMe",
    "select/alpha_req": "α-ReQ",
    "select/lidar": "LiDAR",
    "train/loss": "loss",
    "validation/accuracy": "validation",
}
"""How criteria are called beside each other."""

METRICS = {
    metric.name: metric
    for metric in (
        Metric("probe/accuracy", "Linear acc.", "Accuracy", "linear"),
        Metric("knn/accuracy", "k-NN acc.", "Accuracy", "k-NN"),
        # NMI rises by chance alone with the number of codes, so it cannot rank rows that use more or fewer of them.
        Metric("codes/nmi", "NMI (codes)", "Codes", "NMI", better=None),
        Metric("codes/nmi_chance", "NMI (chance)", "Codes", "chance", better=None, spread=False),
        Metric("codes/ami", "AMI (codes)", "Codes", "AMI"),
        Metric("codes/ari", "ARI (codes)", "Codes", "ARI"),
        Metric("codes/accuracy", "ACC (codes)", "Codes", "ACC"),
        Metric("collapse/codes_used", "Codes used", "Codes", "used", better=None, decimals=0, spread=False),
        Metric("kmeans/nmi", "NMI (k-means)", "k-means", "NMI"),
        Metric("kmeans/ami", "AMI (k-means)", "k-means", "AMI"),
        Metric("collapse/effective_rank", "Eff. rank", "Eff.", "rank", better=None, decimals=1, spread=False),
        Metric("probe/top5", "Linear top-5", "Accuracy", "top-5"),
        Metric("probe_sgd/accuracy", "Linear acc. (SGD)", "Accuracy", "SGD"),
        Metric("probe_sgd/top5", "Linear top-5 (SGD)", "Accuracy", "SGD top-5"),
        Metric("probe_adam/accuracy", "Linear acc. (Adam)", "Accuracy", "Adam"),
        Metric("validation/accuracy", "Linear acc. (validation)", "Validation", "linear"),
        Metric("train/online_accuracy", "Online acc. (training)", "Training", "online"),
        Metric("collapse/code_perplexity", "Perplexity", "Codes", "perplexity", better=None, decimals=0, spread=False),
        Metric("collapse/embedding_std", "Spread", "Embeddings", "spread", better=None),
        Metric("collapse/offdiag_covariance", "Off-diagonal cov.", "Embeddings", "off-diag.", better=None),
        Metric("collapse/alpha_req", "α-ReQ", "Embeddings", "α-ReQ", better=None, decimals=2),
        Metric("collapse/intra_cluster_variance", "Variance in clusters", "Embeddings", "in clusters", better=None),
        *(
            Metric(f"{measure}/entropy_{k}", f"Entropy{end}, {k}", f"Entropy{end} (nats)", str(k), None, decimals=1)
            for measure, end in (("collapse", ""), ("paper", ", paper"))
            for k in (10, 20, 50, 100, 200)
        ),
        Metric("select/view_information", "View information", "Selection", "view inf."),
        Metric("select/rankme", "RankMe (training)", "Selection", "RankMe", better=None, decimals=1),
        # Of all settings of a method's weight, see `statistics.grids`.
        Metric("grid/settings", "Settings", "Grid", "settings", better=None, decimals=0, spread=False),
        Metric("grid/best", "Linear acc., best", "Linear acc.", "best"),
        Metric("grid/worst", "Linear acc., worst", "Linear acc.", "worst"),
        Metric("grid/mean", "Linear acc., mean", "Linear acc.", "mean"),
        Metric("grid/mean_all", "Linear acc., mean with collapsed", "Linear acc.", "all", better=None),
        *(
            Metric(f"collapsed/{kind}", f"Collapsed, {word}", "Collapsed", word, None, decimals=2, spread=kind == "any")
            for kind, word in {
                "any": "any",
                "representation": "repr.",
                "cluster": "cluster",
                "dimensional": "dim.",
                "intra-cluster": "intra",
            }.items()
        ),
        *(
            Metric(f"{quantity}/{by}", heading if by == "*" else f"{heading}, {short}", heading, short, None, decimals)
            for by, short in {"*": "", **CRITERIA}.items()
            for quantity, heading, decimals in (
                ("regret", "Regret", 3),
                ("rank_accuracy", "Rank correlation with linear acc.", 2),
                ("rank_ami", "Rank correlation with AMI", 2),
            )
        ),
    )
}
