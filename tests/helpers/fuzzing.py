"""What Hypothesis draws for the tests of damaged files, and where in a document it may put that."""

import copy

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

# The examples are the same every time, and few enough for a test. Each makes what it needs in a directory of its own.
fuzzed = settings(
    derandomize=True, deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
fuzzed_a_little = settings(fuzzed, max_examples=50)  # the whole paper is read each time
ODD = st.one_of(
    st.none(), st.booleans(), st.integers(), st.sampled_from([0, -1, 10**400, 2**63, 1e308, 5e-324]), st.floats(),
    st.text(max_size=5), st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)  # fmt: skip


def places(value, way=()):
    """The keys and positions that lead to every value, at any depth."""
    below = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in below:
        yield (*way, key)
        yield from places(inner, (*way, key))


def changed(whole, way, change):
    """A copy in which what the way leads to is changed: `change` has the container and the key."""
    result = copy.deepcopy(whole)
    container = result
    for key in way[:-1]:
        container = container[key]
    change(container, way[-1])
    return result
