"""One HTML file: metrics with their references, plots, and videos of rollouts."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from html import escape

import numpy as np

from worldsim.evaluation.action_effects import confusion
from worldsim.evaluation.drift import frechet
from worldsim.evaluation.metric import Metric
from worldsim.evaluation.objects import HORIZONS
from worldsim.evaluation.page.examples import STRIP_FRAMES, ExampleRollout
from worldsim.evaluation.page.svg import heat, lines, paths
from worldsim.evaluation.suite import Report

__all__ = ["PAGE", "page_of"]

PAGE = "index.html"
"""Name of the file."""

_BLOCKS = 40
"""Points of a drift curve."""
_STYLE = """
:root{color-scheme:light dark}body{font:15px/1.45 system-ui,sans-serif;max-width:1500px;margin:2rem auto;
padding:0 1rem}table{border-collapse:collapse;font-size:13px}th,td{padding:.2rem .6rem;text-align:right;
border-bottom:1px solid #8883}
th:first-child,td:first-child,td:last-child{text-align:left}
td{white-space:nowrap}
td:last-child{opacity:.75;min-width:20rem;white-space:normal}
code{font-size:13px}
svg text{font-size:11px;fill:currentColor}
.row{display:flex;flex-wrap:wrap;gap:1.2rem;align-items:flex-start}
.legend span{margin-right:1rem;font-size:12px}
.legend i{display:inline-block;width:.8em;height:.8em;margin-right:.35em;border-radius:2px}
video{width:100%;image-rendering:pixelated;background:#000}img{max-width:100%;image-rendering:pixelated}
figure{margin:1rem 0}figcaption{font-size:13px}
.bar{position:relative;width:120px;height:10px;background:#8883;border-radius:5px}
.bar b{position:absolute;top:-2px;width:4px;height:14px;border-radius:2px;background:#2f6fde}
"""


def page_of(
    report: Report, settings: Mapping[str, object], keys: tuple[str, ...], examples: list[ExampleRollout]
) -> str:
    """Return the page; it refers to nothing outside."""
    title = escape(f"{settings['world']} against {settings['source']}")
    told = ", ".join(f"{name} {value}" for name, value in settings.items())
    sections = [
        _section("Metrics", _table(report.metrics)),
        _section("Not measured", _failures(report.failures)),
        _section("PSNR over the horizon", _horizon(report)),
        _section("Predicted and true camera paths", _tracks(examples)),
        _section("Confusion of keys", _keys(report, keys)),
        _section("Objects", _objects(report)),
        _section("Episode lengths", _lengths(report)),
        _section("Drift of long rollouts", _drift(report)),
        _section("Rollout | source | difference", "".join(_example(example) for example in examples)),
    ]
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{title}</h1><p><code>{escape(told)}</code></p>"
        f"{''.join(sections)}</body></html>\n"
    )


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>" if body else ""


def _table(metrics: Mapping[str, Metric]) -> str:
    head = (
        "metric",
        "value",
        "95 %",
        "lower_reference",
        "upper_reference",
        "unit",
        "lower to upper",
        "what it is",
    )
    rows = ["<tr>" + "".join(f"<th>{name}</th>" for name in head) + "</tr>"]
    for name, metric in metrics.items():
        low, high = metric.ci
        cells = (
            f"<code>{escape(name)}</code>", f"<b>{metric.value:.2f}</b>", f"{low:.2f} to {high:.2f}",
            _number(metric.lower_reference), _number(metric.upper_reference),
            escape(metric.unit), _bar(metric),
            escape(metric.about),
        )  # fmt: skip
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return f"<table>{''.join(rows)}</table>"


def _failures(failures: Mapping[str, str]) -> str:
    return "".join(f"<p><code>{escape(part)}</code>: {escape(why)}</p>" for part, why in failures.items())


def _bar(metric: Metric) -> str:
    """Bar with the value between lower and upper reference."""
    if (
        metric.lower_reference is None
        or metric.upper_reference is None
        or metric.lower_reference == metric.upper_reference
    ):
        return ""
    share = np.clip(
        (metric.value - metric.lower_reference) / (metric.upper_reference - metric.lower_reference), 0, 1
    )
    return f'<div class="bar"><b style="left:{116 * share:.0f}px"></b></div>'


def _horizon(report: Report) -> str:
    names = {
        "true": "true keys", "pose": "true keys and poses", "shuffled": "another trajectory's keys",
        "static": "last given frame",
    }  # fmt: skip
    scores = report.scores
    curves = {
        text: scores[f"{name}.psnr"].mean(0) for name, text in names.items() if f"{name}.psnr" in scores
    }
    longest = max(len(curve) for curve in curves.values())
    curves["encoded and decoded"] = np.full(longest, scores["tokenizer"].mean())
    plots = [lines(curves, x="frame", y="PSNR in dB")]
    if "true.metres" in scores:
        off = {"rollout": scores["true.metres"].mean(0), "standing still": scores["static.metres"].mean(0)}
        plots.append(lines(off, x="frame", y="metres from the true pose, keys alone"))
    return f'<div class="row">{"".join(plots)}</div>'


def _keys(report: Report, keys: tuple[str, ...]) -> str:
    if "action effects" not in report.tasks.imagined or "action effects" in report.failures:
        return ""
    real = report.tasks.real["action effects"]
    tables = []
    for title, motion in (
        ("rollout", report.tasks.imagined["action effects"]["motion"]),
        ("source", real["motion"]),
    ):
        names, table = confusion(motion, real, keys)
        tables.append(
            f"<figure><figcaption>{title}: held (rows), seen</figcaption>{heat(names, table)}</figure>"
        )
    return f'<div class="row">{"".join(tables)}</div>'


def _objects(report: Report) -> str:
    """Recall and precision over the horizon, of each kind."""
    metrics, plots = report.metrics, []
    for name in ("recall", "precision"):
        endings = [f"_{name}@{horizon}" for horizon in HORIZONS]
        kinds = [key.removesuffix(endings[0]) for key in metrics if key.endswith(endings[0])]
        curves = {
            kind: np.array([metrics[kind + end].value for end in endings if kind + end in metrics])
            for kind in kinds
        }
        if curves:
            steps = ", ".join(map(str, HORIZONS))
            plots.append(lines(curves, x=f"frame {steps}", y=name))
    return f'<div class="row">{"".join(plots)}</div>' if plots else ""


def _lengths(report: Report) -> str:
    """Lengths in order, imagined beside real."""
    scores = report.tasks.imagined.get("lengths")
    if scores is None or "lengths" in report.failures:
        return ""
    curves = {name: np.sort(scores[name]) for name in ("imagined", "real")}
    plot = lines(curves, x="episodes, by length", y="frames")
    return f'<div class="row">{plot}</div>'


def _drift(report: Report) -> str:
    if "drift" not in report.tasks.imagined or "drift" in report.failures:
        return ""
    rollout, real = report.tasks.imagined["drift"], report.tasks.real["drift"]
    frames = rollout["motion"].shape[1]
    curves = {
        f"{text} over the source's": _blocks(rollout[key]).mean(0) / real[key].mean()
        for text, key in (("sharpness", "gradient"), ("motion", "motion"))
    }
    plots = [lines(curves, x="frame of random play", y="ratio", end=frames)]
    if "features" in rollout:
        own, true = rollout["features"], real["features"].reshape(-1, real["features"].shape[-1])
        parts = np.array_split(own, min(_BLOCKS // 2, own.shape[1]), axis=1)
        apart = [frechet(part.reshape(-1, part.shape[-1]), true) for part in parts]
        curve = {"rollout": np.array(apart)}
        plots.append(lines(curve, x="frame of random play", y="Frechet distance to real frames", end=frames))
    return f'<div class="row">{"".join(plots)}</div>'


def _blocks(values: np.ndarray) -> np.ndarray:
    """Means over about forty stretches of ``[N, F]``."""
    return np.stack([part.mean(1) for part in np.array_split(values, min(_BLOCKS, values.shape[1]), 1)], 1)


def _tracks(examples: list[ExampleRollout]) -> str:
    plots = [
        f"<figure><figcaption>{escape(example.title)}</figcaption>"
        f"{paths({'source': example.true, 'rollout': example.imagined})}</figure>"
        for example in examples
        if example.true is not None and example.imagined is not None
    ]
    return f'<div class="row">{"".join(plots)}</div>' if plots else ""


def _example(example: ExampleRollout) -> str:
    data, strip = (base64.b64encode(file).decode() for file in (example.video, example.strip))
    numbers = ", ".join(map(str, STRIP_FRAMES))
    video = f'<video controls loop muted autoplay playsinline src="data:video/mp4;base64,{data}"></video>'
    image = f'<img alt="source above rollout" src="data:image/png;base64,{strip}">'
    told = f"{escape(example.title)}; below: source above rollout, frames {numbers}"
    return f"<figure>{video}<figcaption>{told}</figcaption>{image}</figure>"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
