"""Words of the field, each with a gloss of a sentence: shown where a reader points at them, those of a page listed at its end, all in
docs/glossary.md, which a test keeps equal."""

from __future__ import annotations

import re

from markupsafe import Markup, escape

GLOSSARY: dict[str, str] = {
    "95 % interval": "a range made so that, over repeated studies, 19 of 20 such ranges hold the true value; here over seeds",
    "ablation": "taking a part of a finished network away (its output replaced by its mean) and measuring what gets worse",
    "best scratch": "the arm trained from scratch with the lowest mean final loss among those with other embeddings",
    "chance level": "what a probe returns where attention is uniform over all keys that may be seen, or what its definition says",
    "copying": "a head raises the probability of the very token that it attends to",
    "detectable difference": "the difference that the test finds four times in five with so many seeds of this spread",
    "Dyck": "strings of brackets that are opened and closed in order; a synthetic language with known structure",
    "embedding swap": "replacing the token embeddings when a network goes on to another vocabulary; the body stays",
    "equivalence margin": "the size of a difference that was declared too small to matter before the runs",
    "false discovery rate": "the expected share of false ones among the findings that are reported",
    "Holm": "a correction for many comparisons: the chance of any false verdict among all of them stays below 5 %",
    "in-context learning": "predicting better from what stands earlier in the same sequence, without any change of weights",
    "induction head": "an attention head that looks at the token after the previous occurrence of the present one, and so continues repeats",
    "Jacobian lens": "reading a prediction from an inner layer through the derivative of the output with respect to it",
    "load-bearing": "without these heads the model gets worse by more than without random others of the same layers",
    "judged alone": "tested at 5 % by itself: of twenty such claims with nothing behind them one is called supported or contradicted; the primary comparison does not close it",
    "logit": "the score of a token before it becomes a probability",
    "nats": "unit of loss: the natural logarithm of one over the probability of what came next; 0.693 nats are one bit",
    "NCA": "neural cellular automaton: a grid whose cells change by a small random network that sees the neighbouring cells",
    "paired": "two regimes are compared seed by seed, with the same initial body, data order and validation rows",
    "perplexity": "e to the power of the loss in nats: among how many equally likely tokens the model seems to choose",
    "phase change": "a sudden rise of a score within a short stretch of training",
    "positive control": "a source of which it is known that it must show the effect: it tells whether the instruments work",
    "pre-pre-training": "training on synthetic sequences before any language is seen",
    "primary comparison": "the one comparison named before the runs that is tested alone; no other gets a verdict before it shows a difference",
    "regime": "what a network saw, and how it was carried over, before it was trained on language",
    "residual stream": "the running sum that every layer of a Transformer reads from and adds to",
    "scratch": "trained on language alone, from a random start",
    "seed": "one repetition of the whole training with other random numbers; the unit that is counted as n",
    "stencil": "the neighbouring cells of the frame before, which decide what a cell of an automaton becomes",
    "unembedding": "the last matrix of the network, from the residual stream to a score for every token",
}
_ORDER = sorted(GLOSSARY, key=len, reverse=True)
_TERMS = re.compile(r"(?<![\w-])(" + "|".join(re.escape(term) for term in _ORDER) + r")(s?)(?![\w-])", re.IGNORECASE)
_NAMES = {term.lower(): term for term in GLOSSARY}


def anchor(term: str) -> str:
    """Where a term stands on the page."""
    return "gloss-" + re.sub(r"[^a-z0-9]+", "-", term.lower()).strip("-")


class Glosser:
    """Marks terms in texts, each once between two calls of `begin`."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self._used: set[str] = set()

    def begin(self) -> str:
        """A new part of the page begins; returns nothing to print."""
        self.seen.clear()
        return ""

    def used(self) -> dict[str, str]:
        """The terms that were marked so far, with their glosses, in the glossary's order."""
        return {term: text for term, text in GLOSSARY.items() if term in self._used}

    def __call__(self, text: object) -> Markup:
        """The text, escaped, its terms linked to their entries."""
        whole, parts, at = str(text), [], 0
        for found in _TERMS.finditer(whole):
            term = _NAMES[found[1].lower()]
            if term in self.seen:
                continue
            self.seen.add(term)
            self._used.add(term)
            parts += [
                escape(whole[at : found.start()]),
                Markup('<a class="gloss" href="#{}">{}</a>').format(anchor(term), found[0]),
            ]
            at = found.end()
        return Markup("").join([*parts, escape(whole[at:])])


def document() -> str:
    """docs/glossary.md."""
    head = "# Glossary\n\nWords of the field as the reports use them; a page shows the gloss where a reader points at the word\n(`nca_interp/report/glossary.py`, from which this file is written: `python -m nca_interp.report.glossary > docs/glossary.md`).\n\n"
    return (
        head + "| word | meaning |\n|---|---|\n" + "".join(f"| {term} | {text} |\n" for term, text in GLOSSARY.items())
    )


if __name__ == "__main__":
    print(document(), end="")
