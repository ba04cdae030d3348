"""Trained models for the ``transformers`` library, and back; needs the extra ``external``."""

from lolm.export.folder import ExportError, export, from_hub, is_export, open_export

__all__ = ["ExportError", "export", "from_hub", "is_export", "open_export"]
