"""What larger studies would ask of a cluster and of the store, reckoned from what was measured."""

EPOCHS, METRICS, HISTORIES = 30, 5, 4  # of a trial; the histories are those that a report reads
SMALL, AT_ONCE = 1_000, 32  # trials, on 8 GPUs with a quarter of one to each
LARGE, CORES = 100_000, 1_000

TEXT = """\
From what was measured above: a trial of 30 epochs takes {seconds:.0f} s on a core of this machine, {requests:.0f}
requests, {files:.0f} files and {mebibytes:.2f} MiB. No GPU was measured here; the sums below take a trial on a part of
a GPU to be as fast as one on a core, which is a guess: where a trial is faster, everything below comes sooner in
proportion, and the store is asked more often.

**1,000 trials on 8 GPUs**, `--gpus-per-trial 0.25`: 32 at once, so 1,000 / 32 × {seconds:.0f} s = {small_minutes:.0f}
minutes. The server gets 32 × {requests:.0f} / {seconds:.0f} = {small_rate:.0f} requests a second, of which one process
did {writes:.0f} writes a second here, with the writers on the same two cores. The record is {small_files:,.0f} files
and {small_gibibytes:.1f} GiB. One server and PostgreSQL will do. A SQLite file would not, as soon as the nodes are not
one machine.

**100,000 trials on 1,000 cores**: 100 rounds of {seconds:.0f} s, {hours:.1f} hours. In the order in which things break:

1. *The server's requests*: 1,000 × {requests:.0f} / {seconds:.0f} = {rate:,.0f} a second, {processes:.0f} times what
   one process wrote. Give `mlflow server` more workers (`--workers`), then more machines behind one address, before a
   PostgreSQL that is not shared with others: an epoch's metrics are one transaction there. Trials wait for a store that
   is slow, and lose nothing.
2. *Artifacts*: {all_files:,.0f} files and {gibibytes:.0f} GiB. A file system with a volume's default number of inodes
   ends before its space does: use a bucket (`--artifacts-destination s3://…`).
3. *The report*: it reads four histories a trial, 400,000 of them, at {histories:.0f} a second {reading:.0f} minutes. It
   is written for a study, one that fits on a page: judge a large search by MLflow's own search, or by SQL on
   PostgreSQL, and report on what it finds.
4. *What a command asks before it starts*, which of its trials are finished. It reads through all that are, 1,000 in a
   request: {through:.1f} minutes for 100,000 at {runs:,.0f} a second, where a request for each would take
   {by_name:.0f}. That each is reused is a write, {marking:.0f} minutes at {writes:.0f} a second. Split the study into
   commands by `--seeds`, which also bounds what one parent's page has to show.
5. *The database*: 30 epochs × 5 metrics × 100,000 = {rows:.0f} million rows of metrics, which PostgreSQL bears.
"""


def sums(
    *,
    seconds: float,
    requests: float,
    files: float,
    mebibytes: float,
    writes: float,
    searches: float,
    runs: float,
    histories: float,
) -> str:
    """The sums as Markdown: of a trial its seconds, requests, files and MiB, and what the store does in a second."""
    return TEXT.format(
        **locals(),
        small_minutes=SMALL / AT_ONCE * seconds / 60,
        small_rate=AT_ONCE * requests / seconds,
        small_files=SMALL * files,
        small_gibibytes=SMALL * mebibytes / 1024,
        hours=LARGE / CORES * seconds / 3600,
        rate=CORES * requests / seconds,
        processes=CORES * requests / seconds / writes,
        all_files=LARGE * files,
        gibibytes=LARGE * mebibytes / 1024,
        reading=HISTORIES * LARGE / histories / 60,
        through=LARGE / runs / 60,
        by_name=LARGE / searches / 60,
        marking=LARGE / writes / 60,
        rows=EPOCHS * METRICS * LARGE / 1e6,
    )
