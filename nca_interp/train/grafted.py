"""The heads that a run's graft names: as its configuration lists them, or as a file of the study does."""

from __future__ import annotations

from nca_interp.base import UserError
from nca_interp.graft import HeadFile, Matched, check_heads, matched_heads, rule_of
from nca_interp.readers import read_object
from nca_interp.store import StudyDir
from nca_interp.train.run import RunConfig


def grafted_heads(study: StudyDir, config: RunConfig) -> Matched:
    """The heads of the graft, a random set drawn where it asks for one. UserError where their file is not there, is damaged, names
    no head, one twice, or one that the network has not."""
    graft, file = config.graft, None
    heads = graft.heads
    try:
        if isinstance(heads, HeadFile):
            file = study.path / heads.file
            heads = read_heads(study, heads)
            if not heads:
                raise ValueError("heads: it names no head")
            check_heads(heads, config.model.n_layers, config.model.n_heads)
        if graft.matched is None:
            return Matched(heads, True)
        return matched_heads(heads, config.model.n_heads, graft.matched)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{file or config.id}: {error}") from None


def read_heads(study: StudyDir, named: HeadFile) -> tuple[tuple[int, int], ...]:
    """What a file of heads says: an object whose `heads` are pairs of layer and head, each once."""
    path = study.path / named.file
    found = read_object(path, 'legal: {"heads": [[layer, head], ...]}', heads=list)["heads"]
    for one in found:
        if not (isinstance(one, list) and len(one) == 2 and all(type(n) is int and n >= 0 for n in one)):
            raise UserError(f"{path}: heads: {one!r}; legal: [layer, head]")
    heads = tuple((layer, head) for layer, head in found)
    if len(set(heads)) < len(heads):
        raise UserError(f"{path}: heads: one stands there twice; legal: each once")
    return heads


def left_out(study: StudyDir, config: RunConfig) -> str:
    """Why a run is not trained: the rule of its heads has found none, or there is no further random set; else nothing, also
    where the rule has not been decided yet."""
    heads = config.graft.heads
    if rule_of(config.graft) is None or not isinstance(heads, HeadFile):
        return ""
    path = study.path / heads.file
    if not path.is_file() or read_heads(study, heads):
        return ""
    return str(read_object(path, "delete it, and it is decided anew", sentence=str)["sentence"])
