"""How errors of a stage reach its user: one line for what a user can mend, a traceback for a bug."""

import pytest
import torch

from pipeline.stage import main


def raised(error):
    def stage():
        raise error

    return stage


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes.\nmore"),
        RuntimeError("could not create a primitive"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    ],
    ids=["python", "pytorch", "matrices", "cuda"],
)
def test_a_lack_of_memory_is_one_line(capsys, error):
    with pytest.raises(SystemExit) as ended:
        main(raised(error))
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert said.startswith("error: out of memory (")
    assert "`make plan` says what a step needs" in said
    assert said.count("\n") == 1


def test_any_other_runtime_error_is_a_bug():
    with pytest.raises(RuntimeError, match="shapes"):
        main(raised(RuntimeError("shapes do not fit")))
