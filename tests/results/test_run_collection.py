"""The runs that a report reads: the same list, whatever was read first."""

from itertools import pairwise

from helpers.small import small_config
from reproduce.results.run_collection import RunCollection


def test_the_runs_are_listed_in_the_order_of_their_beginning(finished, paper, trials):
    store, _, _ = finished
    listed = []
    for order in (trials, trials[::-1]):
        collection = RunCollection(store.reader, paper, small_config(), 0.9)
        for trial in order:
            collection.result(trial)
        listed.append(collection.results_read())
    assert [result.run_id for result in listed[0]] == [result.run_id for result in listed[1]]
    assert len(listed[0]) == 3
    assert all(before.started_at <= after.started_at for before, after in pairwise(listed[0]))
