"""Made-up documents, small enough for every test."""

import json
import random
from pathlib import Path

WORDS = [
    *("the", "a", "of", "and", "to", "in", "is", "that", "it", "was", "for", "on", "as", "with", "his", "they", "be", "at"),
    *("one", "have", "this", "from", "or", "had", "by", "hot", "word", "but", "what", "some", "we", "can", "out", "other"),
    *("were", "all", "there", "when", "up", "use", "your", "how", "said", "an", "each", "she", "river", "mountain", "answer"),
    *("Ünlü", "naïve", "東京", "café", "1847", "2026"),
]
N_DOCUMENTS = 60


def make_texts(count: int = N_DOCUMENTS, seed: int = 0) -> dict[str, str]:
    """Documents of different lengths: id -> text."""
    rng = random.Random(seed)
    return {
        f"set/{i:03d}": "\n\n".join(
            " ".join(rng.choices(WORDS, k=rng.randint(5, 40))).capitalize() + "." for _ in range(rng.randint(2, 12))
        )
        for i in range(count)
    }


def write_jsonl(path: Path, texts: dict[str, str]) -> Path:
    rows = [{"id": key, "source": "set", "licence": "CC0", "text": text} for key, text in texts.items()]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path
