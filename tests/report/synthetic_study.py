"""A synthetic study directory: plausible numbers drawn from a formula, never measured. For tests of the report only."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
from synthetic_causes import cause_rows, judged

from nca_interp.analysis.verdicts.claims import claims_table
from nca_interp.analysis.verdicts.contrasts import Values, contrast_tables
from nca_interp.analysis.verdicts.speedup import speedup_summary
from nca_interp.config import MODULES, Regime
from nca_interp.data.specs import NcaSpec

REGIMES: dict[str, tuple[str, str, float]] = {
    "scratch": ("Scratch (no pre-pre-training)", "regime", 0.0),
    "c4": ("Prose stand-in for C4", "regime", -0.004),
    "dyck": ("Shuffle-Dyck, 64 brackets", "regime", -0.011),
    "nca": ("NCA, 4 states", "regime", -0.031),
    "nca-reinit-attn": ("NCA, attention re-initialised", "transfer", -0.006),
    "nca-reinit-mlp": ("NCA, MLP re-initialised", "transfer", -0.028),
    "nca-reinit-norm": ("NCA, norms re-initialised", "transfer", -0.030),
    "nca-keep-attn": ("NCA, only attention kept", "transfer", -0.024),
    "nca-n2": ("NCA, 2 states", "complexity", -0.022),
    "nca-low": ("NCA, gzip 0.15-0.3", "complexity", 0.012),
    "nca-high": ("NCA, gzip above 0.5", "complexity", -0.018),
}
DOMAINS = {
    "web": ("Docstrings (stand-in for OpenWebText)", 3.85, 2048),
    "code": ("Python sources (stand-in for CodeParrot)", 2.4, 2048),
}
PROBES = {
    "induction": ("Attention to the token after the previous occurrence.", "attention mass", 0.021, True),
    "previous-token": ("Attention one token back.", "attention mass", 0.043, True),
    "entropy": ("Entropy of attention over ln(position).", "share of maximum", 1.0, True),
    "copying": ("Share of the logit gain on the attended token.", "score", 0.0, True),
    "repeated-token-gain": ("Loss on the first minus loss on the second occurrence.", "nats per token", 0.0, False),
    "icl-score": ("Loss late minus loss early in the context.", "nats per token", 0.0, False),
}
NULL_95, THRESHOLD = 0.06, 0.3
"""Of induction: what random models reach, and the probe's own bar; other probes have no random models."""
LAYERS, HEADS, PPT_STEPS, PT_STEPS, BATCH_TOKENS = 4, 4, 512, 1024, 4096


def write_study(path: Path, seeds: int = 3, label: str | None = None, drop: tuple[str, ...] = ()) -> Path:
    """Write a study directory under `path`; `label` replaces the C4 regime's, `drop` leaves tables out."""
    rng = np.random.default_rng(7)
    names = {n: (label if label and n == "c4" else t) for n, (t, _, _) in REGIMES.items()}
    tables = path / "tables"
    tables.mkdir(parents=True)
    (path / "study.json").write_text(json.dumps({"study": _study(names, seeds), "provenance": _provenance()}, indent=1))
    runs, metrics, probes = _training(names, seeds, rng)
    speedup = pd.DataFrame(_speedup(seeds, rng))
    causes = cause_rows(probes)
    frames = {
        "runs": runs,
        "metrics": metrics,
        "probes": probes,
        **_comparisons(seeds, rng),
        "plan": _plan(),
        "speedup": speedup,
        "speedups": speedup_summary(speedup, {name: title for name, (title, _, _) in DOMAINS.items()}),
        "complexity": _complexity(names),
        "reasoning": _reasoning(seeds, rng),
        "published": _published(),
        "inference": _inference(seeds),
        "learned": _learned(seeds),
        "causes": causes,
        **judged(causes, probes, runs),
        "hits": _hits(probes),
        **_networks(seeds, rng),
        **_read_out(seeds),
        "learning": _learning(seeds),
        "start": _start(seeds),
        "scratches": [
            {"domain": d, "regime": "scratch", "n": seeds, "loss": final, "chosen": True}
            for d, (_, final, _) in DOMAINS.items()
        ],
        "emergence": _emergence(seeds),
        "persistence": _persistence(seeds),
        "timing": _timing(seeds),
    }
    frames["claims"] = _claims(names, {name: pd.DataFrame(rows) for name, rows in frames.items()})
    for name, rows in frames.items():
        if name not in drop:
            pd.DataFrame(rows).to_csv(tables / f"{name}.csv", index=False)
    docs = [
        {"name": n, "doc": d, "unit": u, "low": 0.0, "high": 1.0 if u != "nats per token" else None}
        for n, (d, u, _, _) in PROBES.items()
    ]
    (tables / "probes.json").write_text(json.dumps(docs))
    if "patterns" not in drop:
        _patterns(tables, rng)
    if "trajectory" not in drop:
        _trajectory(tables, rng)
    return path


NCA = {"kind": "nca", "grid": 8, "n_states": 2, "patch": 2, "dt": 1}
"""What a report reads of the source of a regime."""


def _start(seeds: int) -> list[dict[str, Any]]:
    """A network before its first step: the stream grows, and the token's share falls faster where there was a parent."""
    rows = []
    for regime, domain, seed in product(REGIMES, DOMAINS, range(seeds)):
        ident = {
            "run": f"pt.{regime}.{domain}.s{seed}",
            "regime": regime,
            "domain": domain,
            "seed": seed,
            "stage": "pt",
        }
        head = {**ident, "policy": "embedding N(0, 0.02\u00b2), tied"}
        for side in ("after",) if regime == "scratch" else ("before", "after"):
            for layer in range(LAYERS + 1):
                fall = 0.9 if regime == "scratch" else 0.4
                for quantity, value, unit in (
                    ("resid_rms", 0.02 * (layer + 1) * (1 + 0.01 * seed), "residual stream"),
                    ("token_share", fall**layer, "share of variance"),
                ):
                    rows.append(
                        {
                            **head,
                            "side": side,
                            "layer": layer,
                            "quantity": quantity,
                            "value": value,
                            "unit": unit,
                            "n": 4096,
                        }
                    )
            for quantity in ("loss", "grad_norm_embed", "grad_norm_attn", "grad_norm_mlp", "grad_norm_norm"):
                rows.append(
                    {
                        **head,
                        "side": side,
                        "layer": None,
                        "quantity": quantity,
                        "value": 7.625 + seed,
                        "unit": "",
                        "n": 4000,
                    }
                )
    return rows


def _study(names: dict[str, str], seeds: int) -> dict[str, Any]:
    model = {"n_layers": LAYERS, "d_model": 128, "n_heads": HEADS, "d_head": None, "d_mlp": 512, "n_ctx": 256}
    stage = {"batch_size": 16, "lr": 1e-3, "warmup": 0.1, "schedule": "cosine", "weight_decay": 0.01}
    return {
        "name": "synthetic",
        "title": "Synthetic fixture: drawn from a formula, not measured",
        "model": model,
        "regimes": [
            {"name": n, "label": t, "role": REGIMES[n][1], "source": None if n == "scratch" else NCA}
            for n, t in names.items()
        ],
        "domains": [
            {"name": n, "label": t[0], "source": {"kind": "text", "source": "site:code"}} for n, t in DOMAINS.items()
        ],
        "seeds": [{"init": s, "order": 100 + s, "rules": 200 + s} for s in range(seeds)],
        "ppt": {"steps": PPT_STEPS, **stage},
        "pt": {"steps": PT_STEPS, **stage},
        "ft": None,
        "precision": "auto",
        "margin": 0.01,
        "deviations": [
            "The corpora are what is installed beside the package, not OpenWebText and CodeParrot.",
            "Pre-training is 4 million tokens, not 9 billion.",
        ],
    }


def _provenance() -> dict[str, Any]:
    return {
        "command": "nca-interp demo --out runs/out/synthetic",
        "created": "2026-11-23T22:10:00+00:00",
        "version": "0.1.0",
        "git_commit": "79b285f0c2a1",
        "git_dirty": True,
        "python": "3.11.7",
        "packages": {"torch": "2.9.1", "transformers": "5.1.0", "numpy": "2.4.6"},
        "platform": "Linux-6.1-x86_64",
        "cpu": "AMD EPYC 9B14",
        "cores": 2,
        "threads_per_run": 1,
        "device": "cpu",
        "precision": "bf16",
    }


def _steps(last: int) -> list[int]:
    return [0, *[2**i for i in range(20) if 2**i < last], last]


def _training(names: dict[str, str], seeds: int, rng: np.random.Generator) -> tuple[list[dict[str, Any]], ...]:
    runs: list[dict[str, Any]] = []
    metrics: list[dict[str, Any]] = []
    probes: list[dict[str, Any]] = []
    for regime, (_, role, gain) in REGIMES.items():
        for seed in range(seeds):
            if regime != "scratch" and role != "transfer":
                ident = {"run": f"ppt.{regime}.s{seed}", "regime": regime, "domain": "", "seed": seed, "stage": "ppt"}
                runs.append(_run(ident, names[regime], role, PPT_STEPS, 0, 259))
                metrics += _curve(ident, np.log(259), 2.2 if "nca" in regime else 3.1, PPT_STEPS, rng)
                probes += _probe_rows(ident, PPT_STEPS, 0.25 if regime == "nca" else 0.12, seed, rng)
            for domain, (_, final, vocab) in DOMAINS.items():
                ident = {
                    "run": f"pt.{regime}.{domain}.s{seed}",
                    "regime": regime,
                    "domain": domain,
                    "seed": seed,
                    "stage": "pt",
                }
                runs.append(
                    _run(
                        ident,
                        names[regime],
                        role,
                        PT_STEPS,
                        0 if regime == "scratch" else PPT_STEPS * BATCH_TOKENS,
                        vocab,
                    )
                )
                metrics += _curve(ident, np.log(vocab), final + gain + 0.006 * rng.normal(), PT_STEPS, rng, -4 * gain)
                if role == "regime":
                    probes += _probe_rows(ident, PT_STEPS, 0.1 - 8 * gain, seed, rng)
    runs[-1]["state"] = "diverged"
    return runs, metrics, probes


def _run(ident: dict[str, Any], label: str, role: str, steps: int, ppt_tokens: int, vocab: int) -> dict[str, Any]:
    return {
        **ident,
        "label": label,
        "role": role,
        "state": "done",
        "steps": steps,
        "tokens": steps * BATCH_TOKENS,
        "ppt_tokens": ppt_tokens,
        "params": 1_050_000 + 256 * vocab,
        "vocab_size": vocab,
        "source": f"{ident['regime']}-0a1b2c3d",
        "description": f"synthetic tokens of {ident['regime']} {ident['domain']}",
        "flops": 6.0 * 1.5e6 * steps * BATCH_TOKENS,
        "tokens_per_second": 13500.0,
        "spikes": 0,
        "nonfinite": 0,
        "skipped": 0,
        "precision": "bf16",
        "checkpoint_sha256": f"{abs(hash(ident['run'])):064x}",
    }


def _curve(
    ident: dict[str, Any], start: float, end: float, steps: int, rng: np.random.Generator, late: float = 0.0
) -> list[dict[str, Any]]:
    rows = []
    for step in range(0, steps + 1, 32):
        progress = step / steps
        value = (
            end
            + (start - end) * np.exp(-7 * progress) * (1 - 0.35 * progress)
            - late * progress * (1 - progress)
            + 0.004 * rng.normal()
        )
        evaluated = step % 64 == 0
        rows.append(
            {
                **ident,
                "step": step,
                "tokens": step * BATCH_TOKENS,
                "loss": value + 0.05 * rng.normal(),
                "val_loss": value if evaluated else None,
                "val_bpb": value / np.log(2) / 3.1 if evaluated and ident["stage"] == "pt" else None,
                "grad_norm": 0.9,
                "lr": 1e-3,
                "tokens_per_second": 13500.0,
            }
        )
    return rows


def _probe_rows(
    ident: dict[str, Any], steps: int, height: float, seed: int, rng: np.random.Generator
) -> list[dict[str, Any]]:
    rows = []
    special = np.random.default_rng(seed).integers(0, LAYERS * HEADS, 3)
    for step in _steps(steps)[:: 2 if steps > 600 else 1] + [steps]:
        rise = 1 / (1 + np.exp(-6 * (step / steps - 0.4)))
        for probe, (_, unit, chance, per_head) in PROBES.items():
            common = {
                **ident,
                "step": step,
                "tokens": step * BATCH_TOKENS,
                "probe": probe,
                "chance": chance,
                "sd": 0.01,
                "unit": unit,
                "n": 64,
            }
            if not per_head:
                value = height * rise + 0.01 * rng.normal()
                rows.append({**common, "layer": None, "head": None, "value": value, "null_95": None, "hit": None})
                continue
            for cell in range(LAYERS * HEADS):
                value = chance + (height * rise * (3 if cell in special else 0.2) + 0.004 * abs(rng.normal())) * (
                    -1 if chance == 1 else 1
                )
                null = NULL_95 if probe == "induction" else None
                known = {"null_95": null, "hit": None if null is None else int(value > max(null, THRESHOLD))}
                rows.append({**common, "layer": cell // HEADS, "head": cell % HEADS, "value": value, **known})
    return pd.DataFrame(rows).drop_duplicates(["step", "probe", "layer", "head"]).to_dict("records")


def _hits(probes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One hit of induction less at a false discovery rate of 5 %."""
    frame = pd.DataFrame(probes)
    keys = ["run", "regime", "domain", "seed", "stage", "step", "tokens", "probe"]
    counted = frame[frame.hit.notna()].groupby(keys, sort=False)
    rows = counted.agg(heads=("hit", "size"), hits=("hit", "sum"), best=("value", "max")).reset_index()
    known = {"models": 5, "threshold": THRESHOLD, "null_95": NULL_95, "fdr_least": 2}
    return rows.assign(**known, top_mean=rows.best, hits_fdr=(rows.hits - 1).clip(lower=0)).to_dict("records")


def _comparisons(seeds: int, rng: np.random.Generator) -> dict[str, pd.DataFrame]:
    """Judged by the project itself: what is synthetic are the losses."""
    rows = [
        {"domain": domain, "regime": regime, "seed": seed, "value": final + gain + 0.004 * rng.normal()}
        for domain, (_, final, _) in DOMAINS.items() for regime, (_, _, gain) in REGIMES.items() for seed in range(seeds)
    ]  # fmt: skip
    roles, labels = {n: r for n, (_, r, _) in REGIMES.items()}, {n: t for n, (t, _, _) in DOMAINS.items()}
    return contrast_tables(roles, labels, Values(pd.DataFrame(rows), "val_loss", 0.01), None)


def _claims(names: dict[str, str], tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Judged by the project itself, of a study with the paper's claims."""
    regimes = [
        Regime(
            name=name, label=names[name], role=role, source=None if name == "scratch" else NcaSpec(grid=8),
            keep=tuple(m for m in MODULES if not name.endswith(f"reinit-{m}")),
        )
        for name, (_, role, _) in REGIMES.items()
    ]  # fmt: skip
    study: Any = SimpleNamespace(
        name="synthetic", regimes=regimes, domains=[SimpleNamespace(name=name, qa=None) for name in DOMAINS], primary=None, claims=None, margin=0.01,
        regime=lambda wanted: next(r for r in regimes if r.name == wanted),
    )  # fmt: skip
    return claims_table(study, tables)


def _plan() -> list[dict[str, Any]]:
    return [
        {"item": "SHA-256 of the plan", "declared": "aa", "now": "bb", "changed": True},
        {"item": "web: nca against scratch, val_loss", "declared": "3 seed(s), margin 0.01", "now": "3 seed(s), margin 0.5", "changed": True},
        {"item": "level", "declared": "0.05", "now": "0.05", "changed": False},
    ]  # fmt: skip


def _speedup(seeds: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    rows = []
    for domain, (_, final, _) in DOMAINS.items():
        for regime in ("c4", "dyck", "nca"):
            for seed in range(seeds):
                base = 1 - 9 * REGIMES[regime][2] + 0.04 * rng.normal()
                for budget, factor in (("pt", 1.0), ("pt+ppt", 0.8), ("flops", 0.85)):
                    slower = regime == "c4" and seed == 0
                    rows.append(
                        {
                            "domain": domain,
                            "regime": regime,
                            "seed": seed,
                            "budget": budget,
                            "target_loss": final,
                            "target_of": "regime" if slower else "scratch",
                            "speedup": 0.9 * factor if slower else base * factor,
                        }
                    )
    return rows


def _complexity(names: dict[str, str]) -> list[dict[str, Any]]:
    rows = []
    sources = [
        (r, names[r], "nca", r, "", n, lo, hi, g)
        for r, n, lo, hi, g in (
            ("nca", 4, 0.3, 0.5, 0.41),
            ("nca-n2", 2, None, None, 0.30),
            ("nca-low", 4, 0.15, 0.3, 0.22),
            ("nca-high", 4, 0.5, 1.0, 0.63),
        )
    ]
    sources += [
        ("dyck", names["dyck"], "dyck", "dyck", "", None, None, None, 0.55),
        ("c4", names["c4"], "text", "c4", "", None, None, None, 0.66),
    ]
    sources += [
        (d, t[0], "text", "", d, None, None, None, g) for (d, t), g in zip(DOMAINS.items(), (0.62, 0.33), strict=True)
    ]
    for source, label, kind, regime, domain, n_states, low, high, ratio in sources:
        common = {
            "source": source,
            "label": label,
            "kind": kind,
            "regime": regime,
            "domain": domain,
            "n_states": n_states,
            "band_low": low,
            "band_high": high,
        }
        for measure, value, unit in (
            ("gzip_ratio_normalised", ratio, "ratio"),
            ("gzip_ratio", ratio * 0.9, "ratio"),
            ("unigram_entropy", 5 * ratio, "nats"),
            ("zipf_exponent", 0.6 + ratio, ""),
        ):
            rows.append({**common, "measure": measure, "value": value, "unit": unit, "n": 200, "sd": 0.02})
    return rows


def _reasoning(seeds: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    rows = []
    for regime in ("scratch", "c4", "dyck", "nca"):
        for seed in range(seeds):
            correct = int(40 - 600 * REGIMES[regime][2] + 4 * rng.normal())
            share = correct / 500
            rows.append(
                {
                    "run": f"ft.{regime}.code.s{seed}",
                    "regime": regime,
                    "domain": "code",
                    "seed": seed,
                    "n_train": 4000,
                    "n_test": 500,
                    "correct": correct,
                    "accuracy": share,
                    "low": share - 0.025,
                    "high": share + 0.027,
                }
            )
    return rows


def _published() -> list[dict[str, Any]]:
    why = "1.6 B parameters and 9 B tokens there, 1.6 M parameters and 4 M tokens here; other corpora"
    return [
        {
            "domain": d,
            "metric": "perplexity change, NCA against scratch, %",
            "regime": "nca",
            "published": p,
            "ours": o,
            "ours_low": o and o - 2,
            "ours_high": o and o + 2,
            "same_setting": False,
            "why": why,
            "source": "authors' page, figure 3",
        }
        for d, p, o in (("web", -5.7, -3.1), ("code", -4.2, -2.9), ("", -5.2, None))
    ]


LEARNERS = {"nca": "beats back-off", "nca-low": "no better than mode"}


def _inference(seeds: int) -> list[dict[str, Any]]:
    """Curves from a formula; the model passes the counting predictors in the one regime, stays below them in the other."""
    heights = {
        "free-running": 0.86,
        "teacher-forced": 0.88,
        "copy": 0.3,
        "mode": 0.35,
        "cell-mode": 0.4,
        "lookup": 0.7,
        "backoff": 0.75,
        "oracle": 0.99,
    }
    rows = []
    for regime in LEARNERS:
        for seed in range(seeds):
            ident = _end_of_ppt(regime, seed)
            for kind in ("trained", "new", "other band"):
                names = [*heights, "context swap", "frame shuffle"] if kind == "new" else list(heights)
                for predictor in names:
                    for frame in range(1, 7):
                        top = heights.get(predictor, 0.2) - (0.3 if regime == "nca-low" and "-" in predictor else 0)
                        cells = top * (1 - 0.5 / frame)
                        common = {
                            **ident,
                            "rules": kind,
                            "band_low": 0.15,
                            "band_high": 0.4,
                            "predictor": predictor,
                            "frame": frame,
                        }
                        for quantity, value in (("cell_accuracy", cells), ("loss", 3 * (1 - cells))):
                            spread = {"value": value, "low": value - 0.02, "high": value + 0.02, "n": 64}
                            rows.append({**common, "quantity": quantity, **spread})
    return rows


def _learned(seeds: int) -> list[dict[str, Any]]:
    rows = []
    for regime, verdict in LEARNERS.items():
        for seed in range(seeds):
            effect = 0.1 if regime == "nca" else -0.2
            rows.append({
                "run": f"ppt.{regime}.s{seed}", "regime": regime, "domain": "", "seed": seed, "stage": "ppt", "step": PPT_STEPS,
                "verdict": verdict, "inferred": regime == "nca", "uses_context": regime == "nca", "accuracy": 0.65 + effect, "rival": "lookup", "rival_accuracy": 0.65, "effect": effect,
                "low": effect - 0.03, "high": effect + 0.03, "n": 64, "oracle_accuracy": 0.99, "teacher_accuracy": 0.8,
                "first_frame": 5, "last_frame": 6, "sentence": f"Synthetic sentence of {regime}.",
                **{f"{name}{end}": 0.1 for name in ("slope", "gain", "swap", "shuffle") for end in ("", "_low", "_high")},
            })  # fmt: skip
    return rows


MAIN = [name for name, (_, role, _) in REGIMES.items() if role == "regime"]
APART = {"scratch": 0.25, "c4": 0.02, "dyck": 0.1}
"""How much less alike than two seeds each regime and NCA are, in every layer but the embedding."""


def _networks(seeds: int, rng: np.random.Generator) -> dict[str, list[dict[str, Any]]]:
    """What `analyze --compare` finds: planted gaps, ranks and displacements that grow with the layer."""
    found: dict[str, list[dict[str, Any]]] = {
        name: [] for name in ("alike", "similarity", "streams", "weights", "updates")
    }
    for domain in DOMAINS:
        for other, gap in APART.items():
            for layer in [*range(LAYERS + 1), None]:
                effect = 0.0 if layer == 0 else -gap
                found["alike"].append({
                    "domain": domain, "regime_a": "nca", "regime_b": other, "layer": layer, "across": 0.8 + effect, "ceiling": 0.8,
                    "effect": effect, "low": effect - 0.04 if seeds > 2 else None, "high": effect + 0.04 if seeds > 2 else None,
                    "margin": 0.05, "n": seeds, "verdict": "differ more than seeds" if gap > 0.05 else "inconclusive",
                    "sentence": "" if layer is not None else f"nca and {other}: synthetic difference {effect:+z.3f}.",
                })  # fmt: skip
        for regime in MAIN:
            for seed in range(seeds):
                _one_network(found, regime, domain, seed, rng)
    return found if seeds > 1 else {name: rows for name, rows in found.items() if name != "alike"}


def _one_network(
    found: dict[str, list[dict[str, Any]]], regime: str, domain: str, seed: int, rng: np.random.Generator
) -> None:
    run = f"pt.{regime}.{domain}.s{seed}"
    ident = {"run": run, "regime": regime, "domain": domain, "seed": seed, "stage": "pt"}
    pair = {"domain": domain, "regime_a": regime, "seed_a": seed, "seed_b": seed, "run_a": run, "run_b": run, "n": 2048}
    for step in (0, 64, PT_STEPS):
        at = {**ident, "step": step, "tokens": step * BATCH_TOKENS}
        for a in range(LAYERS + 1):
            rank = 40 + 5 * a + rng.normal()
            found["streams"].append({**at, "layer": a, "effective_rank": rank, "participation": rank / 2, "n": 2048})
            where = {**pair, "step_a": step, "tokens": step * BATCH_TOKENS, "layer_a": a}
            if step < PT_STEPS:
                value = 0.6 + 0.3 * (step > 0) + 0.01 * rng.normal()
                found["similarity"].append(
                    {**where, "comparison": "time", "regime_b": regime, "layer_b": a, "value": value}
                )
            elif regime != "scratch":
                found["similarity"] += [
                    {
                        **where,
                        "comparison": "regimes",
                        "regime_b": "scratch",
                        "layer_b": b,
                        "value": 0.9 - 0.15 * abs(a - b),
                    }
                    for b in range(LAYERS + 1)
                ]
        for layer, (kind, tensor) in product(
            range(LAYERS), {"attn": "q_proj", "mlp": "up_proj", "norm": "norm"}.items()
        ):
            moved = 0.0 if step == 0 else 0.1 * (layer + 1) * (2 if kind == "mlp" else 1)
            found["weights"].append(
                {
                    **at,
                    "tensor": tensor,
                    "kind": kind,
                    "layer": layer,
                    "norm": 4.0 + layer,
                    "displacement": moved,
                    "effective_rank": 30.0,
                    "participation": 20.0,
                }
            )
            if step == PT_STEPS and regime != "scratch":
                found["updates"] += [
                    {"comparison": c, "domain": domain, "regime_a": regime, "regime_b": b, "seed": seed, "tensor": tensor, "kind": kind,
                     "layer": layer, "cosine": v} for c, b, v in (("regimes", "scratch", 0.6), ("stages", regime, -0.1))
                ]  # fmt: skip


def _end_of_ppt(regime: str, seed: int) -> dict[str, Any]:
    run = f"ppt.{regime}.s{seed}"
    return {"run": run, "regime": regime, "domain": "", "seed": seed, "stage": "ppt", "step": PPT_STEPS}


def _read_out(seeds: int) -> dict[str, list[dict[str, Any]]]:
    """Damage is decoded from layer 2 on, the gzip ratio is what the counts say."""
    rows, decoded = [], []
    for regime, seed in product(LEARNERS, range(seeds)):
        ident = {**_end_of_ppt(regime, seed), "tokens": 0}
        for attribute, frames in product(("gzip_ratio", "damage"), (2, 6)):
            common = {**ident, "attribute": attribute, "frames": frames, "n": 256}
            flat = {"token counts": 0.3, "count statistics": 0.7 if attribute == "gzip_ratio" else 0.4}
            curves = [(name, None, value) for name, value in flat.items()]
            for layer in range(LAYERS + 1):
                top = 0.85 if attribute == "damage" and layer >= 2 else 0.35
                curves += [("model", layer, top), ("random weights", layer, 0.3), ("permuted labels", layer, 0.0)]
            rows += [
                {**common, "source": s, "layer": k, "spearman": v, "low": v - 0.05, "high": v + 0.05, "r2": v**2}
                for s, k, v in curves
            ]
            if frames == 6:
                found = attribute == "damage"
                value, rival = (0.85, 0.4) if found else (0.35, 0.7)
                decoded.append({
                    **common, "verdict": "decoded" if found else "not decoded", "layer": 2, "spearman": value, "low": value - 0.05,
                    "high": value + 0.05, "rival": "count statistics", "rival_spearman": rival, "effect": value - rival,
                    "effect_low": value - rival - 0.1, "effect_high": value - rival + 0.1, "sentence": f"Synthetic read-out of {attribute}.",
                })  # fmt: skip
    return {"decode": rows, "decoded": decoded}


def _learning(seeds: int) -> list[dict[str, Any]]:
    """The one regime passes the best predictor without the rule in mid-training, the other never."""
    rows = []
    for regime in LEARNERS:
        for seed in range(seeds):
            for step in _steps(PPT_STEPS):
                model = 0.3 + (0.6 if regime == "nca" else 0.2) * step / PPT_STEPS
                ident = {
                    "run": f"ppt.{regime}.s{seed}", "regime": regime, "domain": "", "seed": seed, "stage": "ppt", "step": step,
                    "tokens": step * BATCH_TOKENS,
                }  # fmt: skip
                levels = {
                    "free-running": model,
                    "teacher-forced": model + 0.02,
                    "copy": 0.3,
                    "mode": 0.35,
                    "lookup": 0.65,
                    "oracle": 0.99,
                }
                for predictor, value in levels.items():
                    spread = {"value": value, "low": value - 0.02, "high": value + 0.02, "n": 64}
                    rows.append({**ident, "predictor": predictor, "quantity": "cell_accuracy", **spread})
                    if predictor in ("teacher-forced", "oracle"):
                        loss = {name: v if name == "n" else 3 * (1 - v) for name, v in spread.items()}
                        rows.append({**ident, "predictor": predictor, "quantity": "loss", **loss})
    return rows


EMERGING = {"nca": ("from start", None, 0.0), "scratch": ("reached", 256.0, 512.0), "c4": ("never", 1024.0, None)}
"""State of induction in language, and the steps after and by which."""


def _emergence(seeds: int) -> list[dict[str, Any]]:
    rows = []

    def add(run: str, regime: str, stage: str, seed: int, probe: str, state: str, after: Any, by: Any) -> None:
        steps = {"after_step": after, "by_step": by}
        tokens = {
            "after_tokens": None if after is None else after * BATCH_TOKENS,
            "by_tokens": None if by is None else by * BATCH_TOKENS,
        }
        rows.append({
            "run": run, "regime": regime, "domain": "web" if stage == "pt" else "", "seed": seed, "stage": stage, "probe": probe,
            "level": 0.3, "state": state, **steps, **tokens, "first": 0.1, "last": 0.5, "highest": 0.6, "checkpoints": 8, "spacing": 2.0 if after and by else None,
            "resolution": 4096, "bend": 1e6, "bend_low": 8e5, "bend_high": 1.2e6, "distance_low": -1.0, "distance_high": 2.0,
            "order": "inconclusive",
        })  # fmt: skip

    for seed in range(seeds):
        add(f"ppt.nca.s{seed}", "nca", "ppt", seed, "induction", "reached", 128.0, 256.0)
        add(f"ppt.nca.s{seed}", "nca", "ppt", seed, "rule_inference", "reached", 256.0, 512.0)
        for regime, (state, after, by) in EMERGING.items():
            add(f"pt.{regime}.web.s{seed}", regime, "pt", seed, "induction", state, after, by)
            add(f"pt.{regime}.web.s{seed}", regime, "pt", seed, "copying", "from start", None, 0.0)
    return rows


def _persistence(seeds: int) -> list[dict[str, Any]]:
    return [
        {
            "run": f"pt.nca.web.s{seed}", "regime": "nca", "domain": "web", "seed": seed, "stage": "pt", "probe": probe,
            "ppt_run": f"ppt.nca.s{seed}", "heads": 16, "level": 0.3, "chance": 0.02, "ppt_highest": 0.8, "swap_highest": 0.5,
            "end_highest": 0.6, "best": 3, "persisted": 2, "share": 2 / 3, "best_ppt": 0.7, "best_swap": 0.4, "best_end": 0.5,
            "rho": 0.61 + 0.01 * seed, "p": 0.01, "scratch_rho": 0.1, "half_state": "reached", "half_after": 4096.0, "half_by": 8192.0,
        }
        for seed in range(seeds)
        for probe in ("induction", "previous-token")
    ]  # fmt: skip


def _timing(seeds: int) -> list[dict[str, Any]]:
    rows = []
    for family, control, effect, verdict in (
        ("regime", "scratch", -8.0, "earlier"), ("regime", "c4", None, "never reached"), ("loss", "bend of the loss", 1.0, "inconclusive"),
        ("persistence", "scratch of the same seed", 0.5, "persists"),
    ):  # fmt: skip
        rows.append({
            "family": family, "domain": "web", "stage": "pt", "probe": "induction", "treated": "nca", "control": control,
            "budget": "" if family == "persistence" else "pt", "n": seeds, "effect": effect,
            "low": None if effect is None else effect - 1, "high": None if effect is None else effect + 1, "earlier": seeds,
            "later": 0, "p_sign": 0.25, "p": 0.01, "p_bh": 0.02,
            "p_together": None, "p_together_bh": None, "finest": 3.5, "verdict": verdict, "sentence": f"Synthetic sentence of {family} against {control}.",
        })  # fmt: skip
    return rows


def _patterns(tables: Path, rng: np.random.Generator) -> None:
    """Four exhibits. Head 1 of layer 2 looks back a planted number of places; every other head looks at itself. Whole patterns of
    all layers but the first."""
    size, side, arrays, entries = 96, 32, {}, []
    words = [
        "the",
        "array",
        "is",
        "returned",
        "as",
        "a",
        "copy",
        "of",
        "the",
        "input",
        "array",
        "where",
        "each",
        "axis",
        "is",
        "sorted",
        "<b>in",
        "place</b>",
        ".",
    ]
    tokens = [" " + words[i % len(words)] for i in range(size)]
    shown = [("scratch", "pt", "web", 1), ("nca", "pt", "web", 17), ("nca", "ppt", None, 8), ("dyck", "pt", "web", 1)]
    for regime, stage, domain, back in shown:
        maps = np.stack([_map(size, back if cell == 2 * HEADS + 1 else 0, rng) for cell in range(LAYERS * HEADS)])
        maps = maps.reshape(LAYERS, HEADS, size, size)
        key = f"{regime}-{stage}-0"
        whole = [[layer, head] for layer in (1, 2, 3) for head in range(HEADS)]
        arrays[f"{key}-thumbnails"] = maps.reshape(LAYERS, HEADS, side, 3, side, 3).max((3, 5)).astype(np.float16)
        arrays[f"{key}-whole"] = np.stack([maps[layer, head] for layer, head in whole]).astype(np.float16)
        read = (
            [*(["<grid>", *(str(i) for i in rng.integers(0, 16, 16)), "</grid>"] * (size // 18 + 1))][:size]
            if stage == "ppt"
            else tokens
        )
        entries.append({
            "key": key, "run": f"{stage}.{regime}.{domain}.s0" if domain else f"{stage}.{regime}.s0", "regime": regime, "domain": domain,
            "seed": 0, "stage": stage, "step": PT_STEPS if stage == "pt" else PPT_STEPS, "shown": "a validation row", "tokens": read, "whole": whole,
        })  # fmt: skip
    np.savez_compressed(tables / "patterns.npz", **arrays)
    (tables / "patterns.json").write_text(json.dumps(entries))


def _map(size: int, back: int, rng: np.random.Generator) -> np.ndarray:
    scores = np.tril(rng.random((size, size)) * 0.2)
    for q in range(size):
        scores[q, max(q - back, 0)] += 3
    scores[:, 0] += 1
    return np.tril(scores) / np.tril(scores).sum(1, keepdims=True)


def _trajectory(tables: Path, rng: np.random.Generator) -> None:
    grid, patch, states, frames = 12, 2, 4, []
    table = rng.integers(0, states, 64)
    cells = rng.integers(0, states, (grid, grid))
    for _ in range(24):
        frames.append(cells.tolist())
        around = sum(np.roll(cells, shift, axis) for shift in (1, -1) for axis in (0, 1))
        cells = table[(around * 3 + cells) % 64]
    tokens = []
    for frame in frames:
        ids = [
            sum(frame[y + a][x + b] * states ** (a * patch + b) for a in range(patch) for b in range(patch))
            for y in range(0, grid, patch)
            for x in range(0, grid, patch)
        ]
        tokens.append([states**4, *ids, states**4 + 1])
    (tables / "trajectory.json").write_text(
        json.dumps(
            {
                "label": "NCA, 4 states",
                "n_states": states,
                "grid": grid,
                "patch": patch,
                "frames": frames,
                "tokens": tokens,
                "gzip_ratio": 0.41,
                "tau": 1e-4,
                "description": "synthetic rule of a test, 12 x 12 cells",
            }
        )
    )
