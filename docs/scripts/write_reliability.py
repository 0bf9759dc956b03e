"""Write docs/reliability.md from its text and from what was tried.

``--results FILE.xml ...`` first takes what ``make test-all`` and ``make fuzz`` have written with
``PYTEST_ADDOPTS=--junitxml=FILE.xml`` into docs/reliability/properties.csv, and ``--accepted
FILE.xml`` that of ``make accept`` into accept.csv.
"""

import argparse
import csv
import re
import xml.etree.ElementTree as ElementTree
from collections import Counter, defaultdict
from pathlib import Path

import torch

from mmrest.backbones import BACKBONES
from mmrest.benchmark.machine import find_commit
from mmrest.errors import InputError, clear_errors

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / 'docs/reliability'
PROPERTIES = FOLDER / 'properties.csv'
ACCEPTED = FOLDER / 'accept.csv'
DOCUMENT = ROOT / 'docs/reliability.md'
FAMILIES = [family.__name__ for family in BACKBONES.values()]
# of the images that `make accept` also tests at
OTHER_SCALES = '0.67', '1.5'
# a test that only a few families have is about these alone
_FEWEST_FAMILIES = len(FAMILIES) - 1

Row = dict[str, str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--results', type=Path, nargs='+', default=[], metavar='FILE.xml')
    parser.add_argument('--accepted', type=Path, metavar='FILE.xml')
    parser.add_argument(
        '--commit', nargs='+', default=[], help='that was tested, for each file (default: this one)'
    )
    parser.add_argument('--out', type=Path, default=DOCUMENT)
    args = parser.parse_args()
    with clear_errors():
        commits = [*args.commit, *[find_commit()] * len(args.results), find_commit()]
        if args.results:
            # what make fuzz has tried counts, not the few examples of the suite
            rows = {
                row['test']: row
                for file, commit in zip(args.results, commits, strict=False)
                for row in read_results(file, commit)
            }
            write_csv(PROPERTIES, sorted(rows.values(), key=lambda row: row['test']))
        if args.accepted:
            write_csv(ACCEPTED, replaced(read_metrics(args.accepted, commits[0])))
        text = (FOLDER / 'page.md').read_text()
        for part in (properties, faults, kills, accepted, stacks):
            text = text.replace(f'{{{{ {part.__name__} }}}}', part())
        args.out.write_text(text)


def read_results(file: Path, commit: str) -> list[Row]:
    """A row for every test that has a case for each family: how many cases passed.

    Raises:
        InputError: One did not pass, or the file holds no results.
    """
    suite, date = read_suite(file)
    cases: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for case in suite.iter('testcase'):
        name, _, parameters = case.attrib['name'].rstrip(']').partition('[')
        test = f'{case.attrib["classname"].replace(".", "/")}.py::{name}'
        examples = case.find('properties/property[@name="examples"]')
        for family in {*FAMILIES} & {*parameters.split('-')}:
            if case.find('failure') is not None or case.find('error') is not None:
                raise InputError(f'{file}: {test}[{parameters}] failed')
            if case.find('skipped') is None:
                cases[test][family] += 1 if examples is None else int(examples.attrib['value'])
    common = dict(date=date, torch=torch.__version__, commit=commit)
    return [
        dict(test=test, **{family: str(count.get(family, 0)) for family in FAMILIES}, **common)
        for test, count in sorted(cases.items())
        if len(count) >= _FEWEST_FAMILIES
    ]


def read_metrics(file: Path, commit: str) -> list[Row]:
    """A row for every family and task: what it has reached.

    Raises:
        InputError: One did not pass, or the file holds no results.
    """
    suite, date = read_suite(file)
    rows = []
    for case in suite.iter('testcase'):
        metric = case.find('properties/property[@name="metric"]')
        if metric is None:
            continue
        family, _, task = case.attrib['name'].partition('[')[2].rstrip(']').partition('-')
        if case.find('failure') is not None:
            raise InputError(f'{file}: {family}, {task} reached only {metric.attrib["value"]}')
        swept = {
            kept.attrib['name'].removeprefix('metric at '): kept.attrib['value']
            for kept in case.iterfind('properties/property')
            if kept.attrib['name'].startswith('metric at ')
        }
        at_others = {f'at {scale}': swept.get(scale, '') for scale in OTHER_SCALES}
        common = dict(date=date, torch=torch.__version__, commit=commit)
        reached = dict(metric=metric.attrib['value'], **at_others)
        rows.append(dict(family=family, task=task, **reached, **common))
    return rows


def replaced(new: list[Row]) -> list[Row]:
    """The rows of accept.csv with those of the same family and task replaced."""
    key = 'family', 'task'
    done = {tuple(row[name] for name in key) for row in new}
    old = read_csv(ACCEPTED.name) if ACCEPTED.exists() else []
    rows = [row for row in old if tuple(row[name] for name in key) not in done] + new
    return sorted(rows, key=lambda row: (FAMILIES.index(row['family']), row['task']))


def read_suite(file: Path) -> tuple[ElementTree.Element, str]:
    """What pytest wrote, and of which day.

    Raises:
        InputError: The file holds no results.
    """
    try:
        suite = ElementTree.parse(file).getroot().find('testsuite')
        return suite, suite.attrib['timestamp'][:10]
    except (OSError, ElementTree.ParseError, AttributeError, KeyError) as error:
        raise InputError(f'{file} holds no results of pytest --junitxml: {error}') from error


def write_csv(file: Path, rows: list[Row]) -> None:
    with open(file, 'w', newline='') as table:
        writer = csv.DictWriter(table, list(rows[0]), lineterminator='\n')
        writer.writeheader()
        writer.writerows(rows)


def read_csv(name: str) -> list[Row]:
    """The rows of a file of docs/reliability.

    Raises:
        InputError: It is not there.
    """
    try:
        with open(FOLDER / name, newline='') as file:
            return list(csv.DictReader(file))
    except FileNotFoundError as error:
        raise InputError(f'{error.filename} is missing; see {Path(__file__).name}') from error


def properties() -> str:
    """Property x family, in cases."""
    rows = read_csv('properties.csv')
    counted = [family for family in FAMILIES if family in rows[0]]  # one may be new
    lines = ['| property | ' + ' | '.join(counted) + ' |', '|---|' + '---:|' * len(counted)]
    for row in rows:
        counts = ' | '.join(f'{int(row[family]):,}' for family in counted)
        file, _, name = row['test'].partition('::test_')
        lines.append(f'| {name.replace("_", " ")} (`{file.removeprefix("tests/")}`) | {counts} |')
    total = sum(int(row[family]) for row in rows for family in counted)
    dates = sorted({f'{row["date"]}, torch {row["torch"]}, commit {row["commit"]}' for row in rows})
    lines += ['', f'{len(rows)} properties, {total:,} cases, all passed: {"; ".join(dates)}.']
    return '\n'.join(lines)


def faults() -> str:
    """Each fault, its exit status and message."""
    rows = read_csv('faults.csv')
    lines = ['| fault | exit status | what is said |', '|---|---:|---|']
    for row in rows:
        said = re.sub(r'([|<>*\\])', r'\\\1', row['message'])
        lines.append(f'| {row["fault"]} | {row["exit status"]} | {said} |')
    stamps = {f'{row["date"]}, torch {row["torch"]}, commit {row["commit"]}' for row in rows}
    return '\n'.join([*lines, '', f'{len(rows)} faults: {"; ".join(sorted(stamps))}.'])


def _reached(row: Row) -> str:
    others = [row[f'at {scale}'] for scale in OTHER_SCALES]
    return f'{row["metric"]} ({", ".join(others)})' if all(others) else row['metric']


def accepted() -> str:
    """What each family has reached in each task."""
    rows = read_csv('accept.csv')
    reached = {(row['family'], row['task']): _reached(row) for row in rows}
    tasks = {
        'detector': 'RetinaNet, box AP50 (at least 0.3)',
        'instance segmentor': 'Mask R-CNN, mask AP50 (at least 0.3)',
        'segmentor': 'UPerNet, mIoU (at least 30)',
    }
    lines = ['| family | ' + ' | '.join(tasks.values()) + ' |', '|---|---:|---:|---:|']
    for family in FAMILIES:
        cells = (reached.get((family, task), 'not run') for task in tasks)
        lines.append(f'| {family} | {" | ".join(cells)} |')
    stamps = {f'{row["date"]}, torch {row["torch"]}, commit {row["commit"]}' for row in rows}
    return '\n'.join([*lines, '', f'{len(rows)} trainings: {"; ".join(sorted(stamps))}.'])


def stacks() -> str:
    """Environments that were made, and what was run in them."""
    lines = ['| packages | Python | torch | tests | commands | date |', '|---|---|---|---|---|---|']
    lines += [
        f'| {row["packages"]} | {row["python"]} | {row["torch"]} | {row["tests"].strip("= ")} | '
        f'{row["commands"]} | {row["date"]}, commit {row["commit"]} |'
        for row in read_csv('stacks.csv')
    ]
    return '\n'.join(lines)


def kills() -> str:
    """How many trainings were ended, and by what."""
    rows = read_csv('kills.csv')
    count = Counter(row['signal'] for row in rows)
    writing = sum(row['while writing'] == 'True' for row in rows)
    half = sum(row['half-written files'] != '0' for row in rows)
    by = ', '.join(f'{number} {name}' for name, number in count.most_common())
    return (
        f'{len(rows)} trainings were ended ({by}; '
        f'{writing} while a checkpoint was being written, of which {half} left half a file)'
    )


if __name__ == '__main__':
    main()
