"""Models and tokenizers of the ``transformers`` library, by hub id or from a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from lolm import one_line
from lolm.config import ExternalConfig
from lolm.external.model import ExternalError, ExternalModel
from lolm.records import fingerprint_of, sha256_of


def transformers() -> Any:
    """The library; raises ExternalError where it is not installed."""
    try:
        import transformers
    except ImportError:
        raise ExternalError(
            "public models need the transformers library: pip install -c constraints.txt -e '.[external]'"
        ) from None
    return transformers


def load_model(name: str, config: ExternalConfig, device: str = "cpu") -> ExternalModel:
    """The model in evaluation mode; custom code of a repository is never run.

    Args:
        name: key of ``external`` in ``params.yaml``, for messages.

    Raises:
        ExternalError: the library, the model or its class is not there.
    """
    library = transformers()
    told = {"dtype": getattr(torch, config.dtype), "output_loading_info": True}
    found, info = _load(library.AutoModelForCausalLM, name, config, **told)
    if missing := sorted(info["missing_keys"]):  # the library draws them at random, and says so in passing
        raise ExternalError(f"external.{name}.model {config.model!r}: {len(missing)} weights are missing, {missing[0]} first")
    return ExternalModel(found).to(device).eval()


def load_tokenizer(name: str, config: ExternalConfig) -> Any:
    """Its tokenizer.

    Raises:
        ExternalError: it is not there, or cannot say which characters a token stands for.
    """
    found = _load(transformers().AutoTokenizer, name, config)
    if not getattr(found, "is_fast", False):
        raise ExternalError(
            f"external.{name}: its tokenizer does not say which characters a token stands for (it is no fast one)"
        )
    return found


def revision_of(model: ExternalModel, config: ExternalConfig) -> str:
    """The commit on the hub that was loaded; of a folder a hash of its configuration and weights."""
    folder = Path(config.model)
    if not folder.is_dir():
        return getattr(model.model.config, "_commit_hash", None) or config.revision
    files = sorted(path for path in folder.iterdir() if path.name == "config.json" or path.suffix in (".safetensors", ".bin"))
    return "folder:" + fingerprint_of([[path.name, sha256_of(path)] for path in files])


def tokenizer_checksum(tokenizer: Any) -> str:
    """Hash of all that decides which tokens a text becomes."""
    return fingerprint_of(tokenizer.backend_tokenizer.to_str())


def _load(kind: Any, name: str, config: ExternalConfig, **more: Any) -> Any:
    from huggingface_hub import constants

    where, is_folder = f"external.{name}.model {config.model!r}", Path(config.model).is_dir()
    if not is_folder and (config.model.count("/") > 1 or config.model.startswith((".", "/", "~"))):
        raise ExternalError(f"{where}: no such folder, and no id of a model on the hub, owner/name; name one that is there")
    more["trust_remote_code"] = False  # where nothing is said the library asks, and runs a repository's code for a yes
    try:
        return kind.from_pretrained(config.model, **({} if is_folder else {"revision": config.revision}), **more)
    except OSError as error:
        if is_folder:
            raise ExternalError(f"{where}: the folder has no model that can be read: {one_line(error)}") from None
        offline = (
            "HF_HUB_OFFLINE is set, so only the local cache was looked at"
            if constants.HF_HUB_OFFLINE
            else "the hub did not give it"
        )
        raise ExternalError(
            f"{where}, revision {config.revision!r}: not in the local cache, and {offline}. With a network unset HF_HUB_OFFLINE; "
            f"without one run `hf download {config.model} --local-dir <folder>` elsewhere, bring the folder here and write its "
            f"path in place of the id. ({one_line(error)})"
        ) from None
    except MemoryError:
        raise
    except Exception as error:  # the library and those it reads files with raise no common class
        version = transformers().__version__
        raise ExternalError(f"{where}: transformers {version} cannot build it: {one_line(error)}") from None
