"""What comes out of an evaluation: files, and lines on the screen."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from onestep import evaluate as journey
from onestep.cli.inputs import make_room
from onestep.cli.screen import Screen, complain
from onestep.core.errors import UsageError
from onestep.evaluate import paper
from onestep.evaluate.files import ENDINGS, Surroundings
from onestep.evaluate.page_pictures import View


@dataclass(frozen=True)
class Output:
    """Where a report goes, and what stands beside the scores."""

    files: tuple[Path, ...]
    against: str | None = None
    dataset: str | None = None
    images: bool = True
    command: str = ""

    def check(self) -> None:
        """See that every report can be written, and that what stands beside it makes sense.

        Raises:
            UsageError: An ending that means no format, a folder that cannot be written, or other words.
        """
        for path in self.files:
            if path.suffix.lower() not in ENDINGS:
                raise UsageError(f"{path}: a report ends in {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}")
        if self.against not in (None, "paper"):
            raise UsageError(
                f"--against {self.against}: there are only the papers' tables; write --against paper"
            )
        if self.dataset is not None and self.against is None:
            raise UsageError("--dataset names the set of a paper; give --against paper too")
        for path in self.files:
            make_room(path.parent)

    def check_dataset(self, protocol: str) -> None:
        """See that the papers have the set that was named.

        Raises:
            UsageError: They have not, under this protocol.
        """
        if self.dataset is not None:
            paper.named(protocol, self.dataset)

    def publish(self, reports: Sequence[journey.Report], view: View | None, screen: Screen) -> None:
        """Write every file, then show what matters.

        Raises:
            InputError: A file cannot be written.
        """
        against = [paper.against(report, self.dataset) for report in reports] if self.against else []
        around = Surroundings(self.command, view if self.images else None, against)
        for path in self.files:
            journey.write(reports, path, around)
        show(reports, against, screen)


def show(reports: Sequence[journey.Report], against: Sequence[paper.Against], screen: Screen) -> None:
    """Everything that is missing in one line each, then the means, then the papers."""
    for i, report in enumerate(reports):
        lines = [line for entrant in report.entrants for line in _missing(entrant)]
        for line in dict.fromkeys(lines):
            complain(line)
        beside = against[i] if i < len(against) else None
        screen.record({**report.to_json(), **({"against": beside.to_json()} if beside else {})})
        names = report.metrics
        rows = [
            (entrant.name, *(_cell(entrant.scores.get(name)) for name in names))
            for entrant in report.entrants
        ]
        count = max(len(entrant.rows) for entrant in report.entrants)
        screen.table(f"{count} pictures, protocol {report.protocol.name}", ("", *names), rows)
        if beside is not None:
            _show_papers(beside, report, screen)


def _show_papers(beside: paper.Against, report: journey.Report, screen: Screen) -> None:
    for line in (*beside.lines, *beside.notes):
        screen.say(line)
    names = beside.metrics
    for entrant in beside.entrants:
        rows = [
            (method, source, *(_beside(line.get(name), report.score(name).digits) for name in names))
            for (method, source, _), line in beside.table(entrant).items()
        ]
        screen.table(f"the papers, in brackets {entrant} less theirs", ("", "source", *names), rows)


def _beside(pair: paper.Beside | None, digits: int) -> str:
    return f"{pair.paper.value:.{digits}f} ({pair.difference:+.{digits}f})" if pair else "–"


def _missing(entrant: journey.Entrant) -> list[str]:
    """What was left out; single scores were said when they failed."""
    skipped = [f"{name} left out: {why}" for name, why in entrant.skipped.items()]
    return [*entrant.remarks, *skipped, *entrant.failed.values()]


def _cell(found: journey.Score | None) -> str:
    return "–" if found is None or found.mean is None else f"{found.mean:.{found.digits}f}"
