"""What larger studies would ask of a cluster and of the store, reckoned from what was measured."""

from pathlib import Path

from reproduce.study.planning import MAX_TRIALS

METRICS, HISTORIES = 5, 4  # of an epoch; the histories are those that a report reads of a trial
SMALL, AT_ONCE = 1_000, 32  # trials, on 8 GPUs with a quarter of one to each
LARGE, CORES = 100_000, 1_000

TEXT = Path(__file__).with_suffix(".md").read_text()


def sums(
    *,
    epochs: int,
    seconds: float,
    requests: float,
    files: float,
    mebibytes: float,
    writes: float,
    searches: float,
    runs: float,
    histories: float,
) -> str:
    """The sums as Markdown. `epochs` to `mebibytes` are of a trial, the others what the store does in a second."""
    return TEXT.format(
        epochs=epochs,
        seconds=seconds,
        requests=requests,
        files=files,
        mebibytes=mebibytes,
        writes=writes,
        runs=runs,
        histories=histories,
        small=SMALL,
        at_once=AT_ONCE,
        small_minutes=SMALL / AT_ONCE * seconds / 60,
        small_rate=AT_ONCE * requests / seconds,
        small_files=SMALL * files,
        small_gibibytes=SMALL * mebibytes / 1024,
        large=LARGE,
        most=MAX_TRIALS,
        cores=CORES,
        rounds=LARGE / CORES,
        hours=LARGE / CORES * seconds / 3600,
        rate=CORES * requests / seconds,
        times=CORES * requests / seconds / writes,
        all_files=LARGE * files,
        gibibytes=LARGE * mebibytes / 1024,
        each=HISTORIES,
        all_histories=HISTORIES * LARGE,
        reading=HISTORIES * LARGE / histories / 60,
        through=LARGE / runs / 60,
        by_name=LARGE / searches / 60,
        marking=LARGE / writes / 60,
        metrics=METRICS,
        rows=epochs * METRICS * LARGE / 1e6,
    )
