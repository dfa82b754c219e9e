"""One evaluation under way: what is to be scored next, and what was found so far."""

import dataclasses
import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

import torch

from onestep import __version__, hub
from onestep import metrics as table
from onestep.core.errors import InputError, OneStepError, UsageError
from onestep.core.picture import Picture
from onestep.evaluate.candidates import Candidate, Degrade, Made, make, small_picture, versions
from onestep.evaluate.journal import Journal, key
from onestep.evaluate.pairs import Pair
from onestep.evaluate.report import Entrant, Row, Score
from onestep.evaluate.score import Outcome, Pixels, Scorer, Task

_log: Final = logging.getLogger("onestep")


@dataclass(frozen=True)
class Job:
    """One picture of one candidate."""

    entrant: int
    row: Row
    """Without scores."""
    key: str | None
    """In the journal; None: it is there already, or is not to be kept."""


@dataclass
class Run:
    """The evaluation of some pairs."""

    pairs: Sequence[Pair]
    candidates: Sequence[Candidate]
    scorer: Scorer
    degrade: Degrade | None
    journal: Journal | None
    progress: Callable[[float, str], None] | None
    _found: list[Entrant] = field(init=False)
    _sets: list[dict[str, table.SetAccumulator]] = field(init=False)
    _counts: list[dict[str, int]] = field(init=False)

    def __post_init__(self) -> None:
        self._found = [
            dataclasses.replace(one.entrant, rows=[], failed={}, skipped=dict(self.scorer.skipped))
            for one in self.candidates
        ]
        sets = self.scorer.sets
        self._sets = [{name: made.begin() for name, made in sets.items()} for _ in self.candidates]
        self._counts = [dict.fromkeys(sets, 0) for _ in self.candidates]

    def tasks(self) -> Iterator[tuple[Job, Task | Outcome]]:
        """What is to be scored, made when it is asked for; or what came of it already.

        Raises:
            UsageError: A model refuses its options.
        """
        for index, pair in enumerate(self.pairs):
            if self.progress:
                self.progress(index / len(self.pairs), pair.name)
            try:
                yield from self._of_pair(pair, self._rows(pair))
            except UsageError:
                raise
            except (OneStepError, OSError, MemoryError) as error:
                for which in range(len(self.candidates)):
                    yield Job(which, Row(pair.name, {}), None), _failure(error)

    def _rows(self, pair: Pair) -> list[Row]:
        """A row per candidate, with what its files hold.

        Raises:
            OSError: One of them cannot be read.
        """
        hr, inputs = hub.sha256(pair.hr), dict[Path, str]()
        rows: list[Row] = []
        for candidate in self.candidates:
            given = pair.sr if candidate.restore is None else pair.lr
            if given is not None and given not in inputs:
                inputs[given] = hub.sha256(given)
            rows.append(Row(pair.name, {}, hr_sha256=hr, input_sha256=inputs[given] if given else None))
        return rows

    def _of_pair(self, pair: Pair, rows: Sequence[Row]) -> Iterator[tuple[Job, Task | Outcome]]:
        """The candidates' pictures of a pair."""
        keys = [
            self._key(row, one.entrant) if self.journal else None
            for row, one in zip(rows, self.candidates, strict=True)
        ]
        kept = [self.journal.find(name) if self.journal and name else None for name in keys]
        small: Picture | None = None
        for which, (candidate, row) in enumerate(zip(self.candidates, rows, strict=True)):
            name, known = keys[which], kept[which]
            if known is not None:
                same = dataclasses.replace(row, seconds=known.seconds, memory=known.memory)
                yield Job(which, same, None), known.outcome
                continue
            try:
                if candidate.restore is not None and small is None:
                    small = small_picture(pair, self.degrade)
                made = make(candidate, pair, small)
            except UsageError:
                raise
            except (OneStepError, OSError, MemoryError) as error:
                yield Job(which, row, None), _failure(error)
                continue
            marked = dataclasses.replace(row, seconds=made.seconds, memory=made.memory)
            yield Job(which, marked, name), self._task(pair, made, small)

    def _task(self, pair: Pair, made: Made, small: Picture | None) -> Task:
        lr: Path | Pixels | None = None
        if self.scorer.needs_lr:
            lr = Pixels.of(small) if small is not None else pair.lr
        sr = made.picture if isinstance(made.picture, Path) else Pixels.of(made.picture)
        return Task(pair.name, pair.hr, sr, lr, made.rows, made.columns)

    def _key(self, row: Row, entrant: Entrant) -> str:
        """In the journal: of all that decides the scores."""
        who = dataclasses.replace(entrant, command="", version=__version__).to_json()
        names, place = (*self.scorer.measures, *self.scorer.sets), str(self.scorer.device)
        return key(who=who, row=row.to_json(), names=names, place=place, rules=asdict(self.scorer.how))

    def take(self, job: Job, outcome: Outcome) -> None:
        """Note what came of a job.

        Raises:
            InputError: The journal cannot be written.
        """
        entrant, name = self._found[job.entrant], job.row.name
        if outcome.failed is not None:
            entrant.failed[name] = " ".join(outcome.failed.split())
            return
        if self.journal is not None and job.key is not None:
            self.journal.add(job.key, outcome, job.row.seconds, job.row.memory)
        for metric, (sr, hr) in outcome.features.items():
            self._sets[job.entrant][metric].add(torch.from_numpy(sr), torch.from_numpy(hr))
            self._counts[job.entrant][metric] += 1
        found = {"scores": outcome.scores, "missing": outcome.missing}
        size = {"width": outcome.width, "height": outcome.height}
        entrant.rows.append(dataclasses.replace(job.row, **found, **size))
        for metric, why in outcome.missing.items():
            _log.warning("%s: %s: %s left out: %s", entrant.name, name, metric, why)

    def entrants(self, failed: Mapping[str, str], remarks: Sequence[str]) -> list[Entrant]:
        """What was found.

        Args:
            failed: Pictures that were known not to be scorable, and why.
            remarks: What is to be said of every entrant.
        """
        for index, entrant in enumerate(self._found):
            entrant.failed = dict(sorted({**failed, **entrant.failed}.items()))
            entrant.scores = {name: Score.of(name, entrant.values(name)) for name in self.scorer.measures}
            entrant.remarks = [*remarks, *self._remarks(entrant, self.candidates[index])]
            for name, gathered in self._sets[index].items():
                value = None
                try:
                    value = gathered.value()
                except InputError as error:
                    entrant.remarks.append(f"{name} left out: {error}")
                entrant.scores[name] = Score.of_set(name, value, self._counts[index][name])
            entrant.scores = {name: entrant.scores[name] for name in self.scorer.names}
            entrant.versions = versions()
            entrant.inputs = _digests(entrant.rows)
        return self._found

    def _remarks(self, entrant: Entrant, candidate: Candidate) -> list[str]:
        sizes = ((row.width or 0, row.height or 0) for row in entrant.rows)
        return self.scorer.how.remarks(sizes, len(entrant.rows), files=candidate.restore is None)


def _failure(error: BaseException) -> Outcome:
    return Outcome(failed=str(error) or "memory ran out; ask for a smaller size")


def _digests(rows: Sequence[Row]) -> dict[str, str]:
    """One hash over the names and contents of all files of a kind, as ``sha256sum`` would list them."""
    found: dict[str, str] = {}
    for kind in ("hr", "input"):
        lines = [f"{digest}  {row.name}\n" for row in rows if (digest := getattr(row, f"{kind}_sha256"))]
        if lines:
            found[kind] = hashlib.sha256("".join(lines).encode()).hexdigest()
    return found
