"""More devices for one published scale are no mistake of the scales that extend it."""

import copy

import pytest
from builders import ROOT

from lolm.config import params_from
from lolm.config.dialect import parse

RAW, _ = parse((ROOT / "params.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("scale", "devices"), [("20m", 1), ("149m", 16), ("304m", 2), ("1570m", 1)])
def test_a_scale_takes_as_many_devices_as_it_has_micro_batches(scale, devices):
    raw = copy.deepcopy(RAW)
    raw["scales"][scale]["training"]["devices"] = devices
    assert params_from(raw).scales[scale].training.devices == devices
