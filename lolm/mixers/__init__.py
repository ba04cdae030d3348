"""Sequence mixers, one file each, all under the contract of :mod:`lolm.mixers.base`."""
