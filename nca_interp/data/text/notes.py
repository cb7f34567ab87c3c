"""What a user must know of tokens that are not what was asked for, in sentences."""

from __future__ import annotations

from nca_interp.data.tokens import TokenMeta


def notes(meta: TokenMeta) -> list[str]:
    """Problems that were left out of question-answer rows; byte counts that are approximate. Empty: nothing to say."""
    found = meta.provenance
    if "too_long" in found:
        return _left_out(meta)
    if differing := found.get("val_documents_miscounted"):
        return [
            f"bits per byte are approximate: the bytes of the tokens are not those of the text in {differing:,} of "
            f"{found['val_documents']:,} validation documents"
        ]
    return []


def _left_out(meta: TokenMeta) -> list[str]:
    found, long, told = meta.provenance, meta.provenance["too_long"], []
    for split, name, had in (("train", "training", meta.n_train), ("val", "validation", meta.n_val)):
        if long[split]:
            told.append(
                f"{long[split]:,} of {had + long[split]:,} {name} problems are longer than the context of {meta.seq_len:,} "
                f"tokens and were left out, {had:,} remain"
            )
    if long.get("test"):
        told.append(
            f"{long['test']:,} of {found['n_test']:,} test questions leave no room for an answer in the context of "
            f"{meta.seq_len:,} tokens and count as wrong"
        )
    if found.get("no_answer"):
        told.append(f"{found['no_answer']:,} problems {_lacking(meta)} were left out")
    return told


def _lacking(meta: TokenMeta) -> str:
    from nca_interp.data.text.qa import MARK, lacking

    return lacking(meta.spec.get("mark", MARK))
