"""Stage `probe`: a small classifier that saw real training images only."""

from __future__ import annotations

from derm_t2im import manifest, networks, paths, runtime, seeds, state
from derm_t2im.classify import augmentation, data, evaluation
from derm_t2im.classify import train as training
from derm_t2im.errors import UserError
from derm_t2im.params import load
from derm_t2im.params.probe import Probe
from derm_t2im.progress import say

DRAWS, BINS = 2000, 10


def run() -> None:
    """Write ``models/probe/`` and ``metrics/probe.json``.

    The probe keeps the weights of its last step, so its validation figures are unbiased; the test
    images stay unseen.
    """
    settings = load("probe", Probe)
    splits = manifest.read(paths.SPLITS_MANIFEST)
    data.refuse_leaks(splits)
    table, val = splits[splits["split"] == "train"], splits[splits["split"] == "val"]
    if not len(table) or not len(val):
        raise UserError("the probe needs training and validation images: enlarge split.train and split.val.")
    classes = data.class_names(table)
    device = runtime.device()
    code = state.hash_code(networks, augmentation, data, training)
    work = state.work_folder("probe", state.fingerprint(settings, state.hash_file(paths.SPLITS_MANIFEST), code))

    shown = training.Images.of(data.read_images(table), data.encode(list(table["label"]), classes))
    side = shown.pixels.shape[1]
    start = seeds.derive(settings.seed, "probe")
    network = networks.build(settings.model, settings.options, classes, side, settings.weights, start).to(device)
    how = training.Settings(
        steps=settings.steps,
        batch=settings.batch,
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        warmup=settings.steps // 10,
    )
    result = training.fit(network, shown, how, start, work=work)
    truth = data.encode(list(val["label"]), classes)
    test = evaluation.TestSet.draw(truth, evaluation.groups_of(val), DRAWS, settings.seed, "probe")
    probabilities = network.predict(data.read_images(val, side))
    figures = evaluation.describe(evaluation.measure(probabilities[None], test, [], BINS), test)
    kept = {name: value for name, value in figures.items() if name.split("_")[0] in ("n", "accuracy", "auc", "ece")}
    networks.save(network, work / "network")
    state.move_into_place(work / "network", paths.PROBE)
    state.write_json(
        paths.PROBE_METRICS, {"train_images": len(table), "train_loss": result.kept["train_loss"], "val": kept}
    )
    state.discard(work)
    say(f"probe: accuracy {kept['accuracy']:.2f}, AUC {kept['auc']:.2f} on validation images, {paths.PROBE}")
