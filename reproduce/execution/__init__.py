"""Have trials trained: by the cores of this machine, or by a Ray cluster."""

from collections.abc import Iterator
from contextlib import contextmanager

from reproduce.execution.executor import Executor
from reproduce.execution.run_options import RunOptions


@contextmanager
def open_executor(options: RunOptions) -> Iterator[Executor]:
    """Open the executor of that name for the block. UserError where it is not there, or has no such device."""
    if options.executor == "ray":
        from reproduce.execution.ray import session

        with session.connect(options.ray_address) as head:
            # This imports Ray, which reads then what `connect` has set.
            from reproduce.execution.ray.cluster import Cluster

            yield Cluster(options, head)
    else:
        from reproduce.execution.local import Pool

        yield Pool(options)
