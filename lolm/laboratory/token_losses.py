"""One text, token by token: the loss of each and the gate at each, in the learned model and under an intervention."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F

from lolm.data.batches import IGNORED
from lolm.data.errors import DataError
from lolm.data.stream import TokenStream
from lolm.interventions import Context, Intervention, Statistics, observe, observe_writes
from lolm.laboratory.cached_activations import cached_activations
from lolm.models.language_model import LanguageModel
from lolm.records import names


@dataclass(frozen=True)
class TokenLosses:
    """n tokens of a text as a model predicts and reads them.

    Attributes:
        ids: (n,) the text.
        nats: (n,) float64, loss of each token given those before it, the first one given the end of another document.
        gate: (n,) float64, mean over dimensions of the gate at the position that *reads* the token, which decides how the next
            one is predicted; None without a gate.
    """

    ids: np.ndarray
    nats: np.ndarray
    gate: np.ndarray | None


def read_document(stream: TokenStream, document: int, start: int, length: int) -> np.ndarray:
    """(n,) int64: at most ``length`` tokens of a document from its token ``start`` on, without its end.

    Raises:
        DataError: no such document, or it is shorter.
    """
    documents = len(stream.document_starts)
    if not 0 <= document < documents:
        raise DataError(f"document {document}: the {stream.split} split has documents 0 … {documents - 1}")
    bounds = [*stream.document_starts.tolist(), len(stream)]
    first, end = bounds[document] + start, bounds[document + 1] - 1
    if not bounds[document] <= first < end or length < 1:
        raise DataError(f"tokens {start} … {start + length - 1}: document {document} has {end - bounds[document]} tokens")
    return stream.window(first, min(length, end - first))


@torch.no_grad()
def losses_by_token(
    model: LanguageModel,
    ids: np.ndarray,
    eos_id: int,
    intervention: Intervention,
    statistics: Statistics | None = None,
    elsewhere: TokenStream | None = None,
    seed: int = 0,
) -> tuple[TokenLosses, TokenLosses]:
    """Read a text as if it began a document, in the learned model and under an intervention.

    Args:
        ids: (n,) the text, n ≥ 1.
        eos_id: the id between documents, put before the text.
        statistics: for the interventions that need them, see :func:`lolm.interventions.measure`.
        elsewhere: another text, at least n + 1 tokens, for those that need other documents: its middle is taken.

    Raises:
        DataError: the text is empty, has an id that the model doesn't know, or ``elsewhere`` is too short.
        InterventionError: the model has no place for the intervention, or it lacks what it needs.
    """
    ids = np.asarray(ids, dtype=np.int64)
    if not len(ids):
        raise DataError("this text has no token; give at least one character")
    if ids.min() < 0 or ids.max() >= model.vocab_size:
        raise DataError(f"the text has the id {ids.max()}, but the model knows {model.vocab_size} ids: another tokenizer's?")
    x_BT = torch.from_numpy(np.concatenate([[eos_id], ids]))[None]
    y_BT = torch.from_numpy(np.concatenate([ids, [IGNORED]]))[None]
    other = other_writes = None
    if elsewhere is not None:
        if len(elsewhere) < len(ids) + 1:
            raise DataError(f"the other text has {len(elsewhere)} tokens, the text with its beginning {len(ids) + 1}")
        place = min(len(elsewhere) // 2, len(elsewhere) - len(ids) - 1)
        other_BT = torch.from_numpy(elsewhere.window(place, len(ids) + 1))[None].to(model.embedding.weight.device)
        other = cache(lambda: observe(model, model.streams(other_BT)))
        other_writes = cache(lambda: observe_writes(model, other_BT))
    (cached,) = cached_activations(model, [(x_BT, y_BT)], Context(statistics, other, other_writes=other_writes, seed=seed))

    def losses(change: Intervention) -> TokenLosses:
        logits_TV = model.logits(cached.fused(model, change)).float()[0]
        nats = F.cross_entropy(logits_TV, cached.targets_N, ignore_index=IGNORED, reduction="none").double().cpu().numpy()[:-1]
        g = change.apply(cached.streams_under(model, change), cached.context).g
        return TokenLosses(ids, nats, None if g is None else g[0, 1:].double().mean(dim=-1).cpu().numpy())

    return losses(Intervention(names.NONE)), losses(intervention)
