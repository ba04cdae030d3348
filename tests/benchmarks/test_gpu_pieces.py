"""What `make gpu` says of a kernel that is wrong: its numbers are kept, and the command fails."""

import pytest

from benchmarks import gpu
from lolm import LolmError
from lolm.records import read
from pipeline.gpu import Made, note_of


@pytest.mark.parametrize(
    ("errors", "said"),
    [
        ([0.0, 2e-5], "errors beyond the bound"),
        ([float("nan")], "errors beyond the bound"),
        (None, "RuntimeError: no such thing"),
    ],
)
def test_a_wrong_kernel_is_recorded_and_fails(tmp_path, monkeypatch, errors, said):
    def measured(*_: object) -> list[float]:
        if errors is None:
            raise RuntimeError("no such thing")
        return errors

    monkeypatch.setattr(gpu, "errors", measured)
    monkeypatch.setattr(gpu, "end_with_parent", lambda: None)
    monkeypatch.setattr("sys.argv", ["gpu", "--piece", "kernel/ssd", "--out", str(tmp_path), "--rehearse"])
    with pytest.raises(LolmError, match=f"kernel/ssd: Triton's kernel is not the reference: {said}"):
        gpu.run()
    assert not read(note_of(tmp_path, "kernel/ssd"), Made).values["triton"].get("exact")
    monkeypatch.setattr(gpu, "errors", lambda *_: [0.0, 1e-6])
    gpu.run()
    assert read(note_of(tmp_path, "kernel/ssd"), Made).values["triton"]["exact"]
