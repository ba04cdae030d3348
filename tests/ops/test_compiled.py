"""How a Numba kernel is cut into parts that run side by side."""

import multiprocessing

import numpy as np
import pytest
import torch

from lolm.ops.cpu.compiled import Kernel, cells_of


def _visit(part, parts, visits, taken):
    for cell in cells_of(part, parts, visits.size):
        visits[cell] += 1
        taken[cell] = part


visit = Kernel(_visit)


@pytest.mark.parametrize(("cells", "threads"), [(0, 2), (1, 3), (7, 1), (7, 2), (100, 3)])
def test_every_cell_is_taken_once_and_parts_are_equal_to_a_cell(cells, threads):
    torch.set_num_threads(threads)
    visits, taken = np.zeros(cells, int), np.zeros(cells, int)
    visit(visits, taken)
    assert (visits == 1).all()
    sizes = np.bincount(taken, minlength=threads)
    assert len(sizes) == threads
    assert sizes.max() - sizes.min() <= 1


def test_an_error_in_any_part_reaches_the_caller():
    torch.set_num_threads(2)
    with pytest.raises(TypeError):
        visit(np.zeros(4, int))


def _in_child(queue):
    visits = np.zeros(5, int)
    visit(visits, np.zeros(5, int))
    queue.put(visits.tolist())


def test_a_forked_process_has_threads_of_its_own():
    torch.set_num_threads(2)
    visit(np.zeros(3, int), np.zeros(3, int))  # the parent's threads are there, and don't reach the child
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_in_child, args=(queue,))
    child.start()
    assert queue.get(timeout=60) == [1] * 5
    child.join(timeout=60)
    assert child.exitcode == 0
