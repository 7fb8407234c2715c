"""Which metrics a search may aim at and a scheduler may look at: whether they are logged, and on which split."""

import difflib
from collections.abc import Collection, Mapping

from cplearn.config.trial import TrialSettings
from cplearn.data import catalogue
from cplearn.errors import InputError
from sweeps.file import AshaSettings, CollapseSettings, SchedulerSettings, SweepFile
from sweeps.record import NEED_LABELS
from sweeps.spec import Sweep


def check_without_labels(sweep: Sweep | SweepFile, dataset: str) -> None:
    """Raise InputError where a sweep chooses by a metric that needs labels, which a data set has none of."""
    asked = dict.fromkeys(sweep.search.objectives if sweep.search else (), "search.objectives")
    if isinstance(sweep.scheduler, AshaSettings):
        asked[sweep.scheduler.metric] = "scheduler.metric"
    for name, where in asked.items():
        if name.startswith(NEED_LABELS):
            instead = "select/view_information" if where == "search.objectives" else "train/view_information"
            raise InputError(
                f"{where}: {name!r} needs labels, and {dataset} has none; choose by {instead}, for instance"
            )


def check_objectives(
    objectives: Collection[str], trial: TrialSettings, transfer: Collection[tuple[str, str]] = ()
) -> None:
    """Raise InputError, with the setting that turns it on, for a metric that such a trial does not end with.

    `transfer` has names and fingerprints of its other data sets. Whether a method has codes, and so metrics of them,
    shows with its first result.
    """
    logged = _final(trial, transfer)
    for name in objectives:
        if name.startswith("train/"):
            check_epochs(name, trial, f"search.objectives {name!r}")
        elif name not in logged:
            near = difflib.get_close_matches(name, logged, 1, cutoff=0.8)
            kinds = "probe/, knn/, codes/, kmeans/, collapse/, paper/, validation/, select/, transfer/"
            hint = f"did you mean {near[0]!r}?" if near else f"its kinds are {kinds}, as docs/evaluation.md lists them"
            raise InputError(f"search.objectives: no trial ends with the metric {name!r}; {hint}")
        elif setting := logged[name]:
            raise InputError(f"search.objectives: {name!r} is only measured with {setting}", key=setting.split()[0])


def check_scheduler(scheduler: SchedulerSettings, trials: Collection[TrialSettings]) -> None:
    """Raise InputError unless such trials log after their epochs what the scheduler looks at, and one is long enough to
    be stopped."""
    if isinstance(scheduler, CollapseSettings):
        watched = [trial for trial in trials if trial.method.trains and not trial.method.supervised]
        if any(not trial.evaluation.watch_images for trial in watched):
            raise InputError(
                "scheduler collapse looks at what is measured while a trial trains; set evaluation.watch_images above "
                "0",
                key="evaluation.watch_images",
            )
        grace, patience = scheduler.grace, scheduler.patience
        if all(max(grace, patience * trial.evaluation.watch_every) >= trial.epochs for trial in watched):
            raise InputError(
                f"scheduler collapse with grace {grace} and patience {patience}: no trial has epochs after the first "
                "at which it could stop, so there is nothing to stop early"
            )
        return
    for trial in trials:
        if trial.method.trains:
            check_epochs(scheduler.metric, trial, f"scheduler.metric {scheduler.metric!r}")
    if not scheduler.rungs(max((trial.epochs for trial in trials), default=0)):
        raise InputError(
            f"scheduler.grace {scheduler.grace}: no trial has more epochs than that, so there is nothing to stop early"
        )


def check_epochs(name: str, trial: TrialSettings, where: str) -> None:
    """Raise InputError unless a metric may be logged after every epoch of such a trial; of a method's own terms only
    the first epoch knows."""
    if not name.startswith("train/"):
        raise InputError(
            f"{where} is measured once, after the last epoch; early stopping needs one of every epoch, "
            "train/online_accuracy with evaluation.online_probe: true or train/loss"
        )
    if name.startswith("train/online_") and not trial.evaluation.online_probe:
        raise InputError(
            f"{where} is only logged with evaluation.online_probe: true among the settings",
            key="evaluation.online_probe",
        )


def _final(trial: TrialSettings, transfer: Collection[tuple[str, str]]) -> Mapping[str, str]:
    """Every metric that a trial can end with, and the setting that it lacks for it (empty: none)."""
    asked, clusters = trial.evaluation, "nmi nmi_chance ami ari accuracy clusters"
    collapse = "codes_used code_perplexity intra_cluster_variance effective_rank alpha_req offdiag_covariance"
    groups = [
        ("knn", "accuracy", True, ""),
        ("codes", clusters, True, ""),
        ("kmeans", clusters, True, ""),
        ("collapse", f"{collapse} embedding_std", True, ""),
        ("validation", "accuracy knn_accuracy", asked.validation, "evaluation.validation above 0"),
        ("select", "view_information view_ami", asked.view_images, "evaluation.view_images above 0"),
        ("select", "rankme alpha_req", True, ""),
        ("select", "lidar", asked.lidar, "evaluation.lidar: true"),
        ("time", "train_s evaluation_s", True, ""),
    ]
    for solver, kind in (("lbfgs", "probe"), ("sgd", "probe_sgd"), ("adam", "probe_adam")):
        setting = f"evaluation.probe that has {solver}"
        groups.append((kind, "accuracy train_accuracy top5", solver in asked.probe, setting))
    for n in {10, 20, 50, 100, 200, *asked.gmm_components}:
        setting = f"evaluation.gmm_components that has {n}"
        groups += [(kind, f"entropy_{n}", n in asked.gmm_components, setting) for kind in ("collapse", "paper")]
    for other in transfer:
        groups.append((f"transfer/{catalogue.slug(*other)}", "accuracy train_accuracy top5 knn_accuracy", True, ""))
    return {
        f"{kind}/{name}": "" if measured else setting
        for kind, names, measured, setting in groups
        for name in names.split()
    }
