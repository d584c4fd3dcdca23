"""Plans of small figures and the folders of their runs by hand: what the tests of the figures package draw.

The runs are those of real tables at scale smoke, with three epochs each, so that nothing depends on how long a scale
trains. Accuracies, seconds and gradients are given by each test.
"""

import csv
import dataclasses
import json
import re
import zlib

from bkdsnn.config import paper
from bkdsnn.config.figure_plans import Figure, plan_figure

EPOCHS = 3
CPU = "x86_64 CPU, 2 threads"
R18 = {"title": "R-18", "table": "table4b", "column": "resnet18-imagenet"}
LOSSES = [
    {"label": "w/o KD", "row": "none"},
    {"label": "+L_LD", "row": "ld"},
    {"label": "+L_BKD", "row": "bkd"},
    {"label": "+L_MD", "row": "md"},
]


def figure_plan(kind, *panels, seeds=(0,), scale="smoke", epochs=EPOCHS, notes=()):
    """A figure of a kind with panels such as `{**R18, "curves": LOSSES}`, its runs cut to `epochs`."""
    images = (0,) if kind == "gradcam" else ()
    figure = Figure(
        name="fig9z", number="9z", title="a small example", kind=kind, panels=panels, images=images, notes=notes
    )
    plan = plan_figure(paper.Expansion(scale), figure, seeds)
    shorter = [
        dataclasses.replace(panel, curves=tuple(_shortened(curve, epochs) for curve in panel.curves))
        for panel in plan.panels
    ]
    return dataclasses.replace(plan, panels=tuple(shorter))


def _shortened(curve, epochs):
    changes = {"epochs": epochs, "warmup_epochs": 0, "cooldown_epochs": 0, "mix": None}
    runs = (
        run.model_copy(update={"recipe": run.recipe.model_copy(update=changes)}) if run.recipe else run
        for run in curve.runs
    )
    return dataclasses.replace(curve, runs=tuple(runs))


def finish(run, results, top1, seconds=(10.0,) * EPOCHS, gradients=None, device=CPU):
    """Write the folder of a finished run with one record an epoch; returns the folder."""
    records = [
        {"epoch": i + 1, "losses": {"ce": 1.0}, "top1": accuracy, "images_per_second": 1.0, "seconds": time}
        for i, (accuracy, time) in enumerate(zip(top1, seconds, strict=True))
    ]
    for record, (task, bkd, cosine) in zip(records, gradients or ()):
        record["gradients"] = {"task": task, "bkd": bkd, "cosine": cosine}
    folder = results / "runs" / run.name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "history.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (folder / "provenance.json").write_text(json.dumps(provenance(device)))
    last = top1[-1] if top1 else 50.0
    metrics = {
        "run": run.name,
        "spec": run.digest,
        "top1": {"last": last, "best": 99.0, "best_epoch": 1},
        "top1_by_timestep": [max(0.0, last - 2 * left) for left in reversed(range(run.network.timesteps))],
        "epochs": len(top1),
        "parameters": 1234,
        "test_images": 100,
        "dataset": {"name": run.dataset.name, "label": run.dataset.label, "digest": "d" * 64},
        "seconds": sum(seconds),
    }
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


def provenance(*devices):
    """The provenance of a run with an attempt on each of these devices, as the first version of this file had it."""
    return {
        "bkdsnn": "0.1",
        "commit": None,
        "python": "3.11",
        "platform": "Linux",
        "packages": {"torch": "2"},
        "device": devices[-1],
        "data_digest": "d" * 64,
        "attempts": [{"started": "", "host": "here", "device": device} for device in devices],
        "seconds": 1.0,
    }


def finish_all(plan, results):
    """Finish every run of a plan, each with accuracies of its own."""
    for i, run in enumerate(plan.runs().values()):
        finish(run, results, (10.0 + i, 20.0 + 2 * i, 30.0 + 3 * i), gradients=[(1e-3, 1e-5 * (i + 1), 0.1)] * EPOCHS)
    return results


def records(paths):
    """The records of the CSV that a drawing left."""
    with paths["csv"].open(newline="") as stream:
        return list(csv.DictReader(stream))


def pdf_text(path):
    """The text of a PDF that matplotlib wrote with TrueType fonts, a line a string, without layout.

    Formulas and ligatures (fi) are lost. Strings are (...), two bytes a character, with escapes.
    """
    streams = re.findall(rb"stream\r?\n(.*?)\r?\nendstream", path.read_bytes(), re.DOTALL)
    pages = [page for page in map(_inflated, streams) if b"\nBT\n" in page]
    blocks = (block for page in pages for block in re.findall(rb"\bBT\b(.*?)\bET\n", page, re.DOTALL))
    return "\n".join("".join(map(_text, re.findall(rb"\(((?:\\.|[^\\()])*)\)", block, re.DOTALL))) for block in blocks)


def _inflated(stream):
    try:
        return zlib.decompress(stream)
    except zlib.error:
        return b""


def _text(literal):
    named = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"\b", b"f": b"\f"}
    plain = re.sub(rb"\\([0-7]{3}|.)", lambda m: named.get(m[1], m[1]), literal, flags=re.DOTALL)
    return plain.decode("utf-16-be")


def remarks_of(picture):
    """The remarks below a picture as one line."""
    return " ".join(text.get_text() for text in picture.texts)


def drawn_picture(monkeypatch, plan, results, folder):
    """Draw a figure, and return its paths and the picture as it was when it was saved."""
    from bkdsnn.report.figures import style
    from bkdsnn.report.figures.draw import draw

    pictures, save = [], style.save

    def keep(picture, *arguments):
        pictures.append(picture)
        return save(picture, *arguments)

    monkeypatch.setattr(style, "save", keep)
    return draw(plan, results, folder), pictures[0]
