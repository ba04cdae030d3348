"""Public models of the ``transformers`` library in the laboratory of layers; needs the extra ``external``."""

from lolm.external.load import load_model, load_tokenizer, revision_of, tokenizer_checksum
from lolm.external.model import ExternalError, ExternalModel
from lolm.external.text import TextWindows, windows_of

__all__ = [
    "ExternalError",
    "ExternalModel",
    "TextWindows",
    "load_model",
    "load_tokenizer",
    "revision_of",
    "tokenizer_checksum",
    "windows_of",
]
