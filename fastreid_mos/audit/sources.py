"""What is to be checked: a data set's folder, any folder of chips, or a table, as chips with what is said of them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ..data.listing import DISTRACTOR, EXTENSIONS, Parse, Skipped, list_chips, parse_hoss_name, parse_pair_name
from ..data.modality import Modality, modality_from_name
from ..data.tables.dataset import number_ships
from ..data.tables.reading import SPLITS, read_table
from ..errors import DatasetError

TRAIN, QUERY, GALLERY, TEST = "train", "query", "gallery", "test"
_SPLITS = {"bounding_box_train": TRAIN, "query": QUERY, "bounding_box_test": GALLERY}
_HOSS = {"bounding_box_train", "bounding_box_test"}  # query/ is a usual name
_PAIRS = "OptiSar_Pair"


@dataclass(frozen=True)
class Listed:
    """A chip and what its name or its table says.

    Attributes:
        path: its file; of a table a ListedChip.
        split: train, query, gallery, test, or the folder that it is in.
        ship: its ship as it is written, None if nothing says it.
        identity: what ships are compared by; -1 is a distractor, None unknown.
        modality: None if nothing says it.
    """

    path: str
    split: str
    ship: str | None = None
    identity: int | str | None = None
    modality: Modality | None = None


@dataclass
class Source:
    """All chips of what is checked.

    Attributes:
        root: folder that names are shown below.
        layout: what it was taken for.
        chips: every chip; those of ``subsets`` are not among them.
        subsets: queries and gallery of protocols that have their own, by name.
        skipped: files that are no chips by their name.
    """

    root: str
    layout: str
    chips: list[Listed] = field(default_factory=list)
    subsets: dict[str, tuple[list[Listed], list[Listed]]] = field(default_factory=dict)
    skipped: Skipped = field(default_factory=Skipped)

    def files(self) -> list[Listed]:
        """Every file to read."""
        return [*self.chips, *(chip for parts in self.subsets.values() for part in parts for chip in part)]


def open_source(where: str | os.PathLike[str], root: str = "", columns: Mapping[str, str] | None = None) -> Source:
    """The chips of a folder in HOSS's or OptiSar_Pair's layout (or that holds one), of any other folder, or of a CSV.

    Args:
        where: the folder or the table.
        root: folder that a table's paths start from; "": its own.
        columns: headers of a table that differ from the usual ones, as of :func:`read_table`.

    Raises:
        DatasetError: there is no such folder or file, it cannot be read, or there is no chip in it.
    """
    if not os.fspath(where).strip():
        raise DatasetError("ROOT_OR_CSV: is empty; give a folder of chips, a data set's root, or a CSV table")
    path = os.path.abspath(os.path.expanduser(os.fspath(where)))
    if os.path.isfile(path):
        if path.lower().endswith(EXTENSIONS):
            raise DatasetError(f"{where}: is one image; give the folder that it is in, or a CSV table")
        return _table(path, root, columns)
    if not os.path.isdir(path):
        raise DatasetError(
            f"{where}: no such folder or file; give a folder of chips, a data set's root, or a CSV table"
        )
    if root or columns:
        raise DatasetError(f"{where}: is a folder; --root and --columns are for a CSV table")
    inside = _names(path)
    hoss, pairs = (os.path.join(path, name) for name in ("HOSS", _PAIRS))
    if os.path.isdir(hoss) and os.path.isdir(pairs):
        raise DatasetError(f"{where}: holds HOSS and {_PAIRS}; check one of them: {hoss}")
    if _HOSS & set(inside):
        source = _hoss(path)
    elif os.path.isdir(hoss) and _HOSS & set(_names(hoss)):
        source = _hoss(hoss)
    elif os.path.basename(path) == _PAIRS or os.path.isdir(pairs):
        source = _walked(pairs if os.path.isdir(pairs) else path, f"{_PAIRS}'s layout", parse_pair_name)
    else:
        tables = sorted(name for name in inside if name.lower().endswith(".csv"))
        beside = f" (for what {tables[0]} says of them, give that file)" if tables else ""
        source = _walked(path, f"a folder of chips{beside}", None)
    if not source.files():
        raise DatasetError(f"{where}: no chip in it ({source.skipped}); give a folder of chips, or a CSV table")
    return source


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError as error:
        raise DatasetError(f"{folder}: cannot be read ({error.strerror})") from None


def _table(path: str, root: str, columns: Mapping[str, str] | None) -> Source:
    table = read_table(path, root, columns, options=True)
    numbers = number_ships(row.ship for row in table.rows)
    chips = [Listed(row.chip, row.split, row.ship or None, numbers[row.ship], row.modality) for row in table.rows]
    return Source(table.root, f"the table {os.path.basename(path)}", chips, skipped=table.skipped)


def _hoss(root: str) -> Source:
    source = Source(root, "HOSS's layout")
    for folder, split in _SPLITS.items():
        source.chips += _listed(os.path.join(root, folder), split, parse_hoss_name, source.skipped)
    above = os.path.join(root, "subset")
    for name in sorted(_names(above)) if os.path.isdir(above) else []:
        queries, gallery = (
            _listed(os.path.join(above, name, folder), f"subset/{name} {split}", parse_hoss_name, source.skipped)
            for folder, split in list(_SPLITS.items())[1:]
        )
        if queries and gallery:
            source.subsets[name] = queries, gallery
    return source


def _walked(root: str, layout: str, parse: Parse | None) -> Source:
    source = Source(root, layout)
    for folder, inside in _folders(root):
        split = SPLITS.get(os.path.basename(folder).casefold()) or os.path.relpath(folder, root)
        skipped = Skipped()
        source.chips += _listed(folder, split, parse, skipped)
        for reason, paths in skipped.paths.items():
            for path in paths:
                if os.path.basename(path) not in inside:
                    source.skipped.add(path, reason)
    return source


def _folders(root: str) -> Iterator[tuple[str, set[str]]]:
    """The folder and all below it, but hidden ones, with the names of the folders in each."""

    def stop(error: OSError) -> None:
        raise DatasetError(f"{error.filename}: cannot be read ({error.strerror})")

    for folder, inside, _ in os.walk(root, onerror=stop):
        names = set(inside)
        inside[:] = sorted(name for name in inside if not name.startswith("."))
        yield folder, names


def _listed(folder: str, split: str, parse: Parse | None, skipped: Skipped) -> list[Listed]:
    """The chips of a folder; without ``parse`` any name is one, which may say what HOSS's say."""
    chips = []
    for path, identity, _ in list_chips(folder, parse or (lambda stem: (0, 0)), skipped):
        stem = os.path.splitext(os.path.basename(path))[0]
        found = (parse or parse_hoss_name)(stem)
        if isinstance(found, str):
            chips.append(Listed(path, split, modality=modality_from_name(path)))
        else:
            identity, modality = found
            fields = stem.split("_")
            ship = fields[1] if parse is parse_pair_name else fields[0]
            chips.append(Listed(path, split, ship, identity, Modality(modality)))
    return chips


def is_ship(chip: Listed) -> bool:
    """Whether a chip's ship is known and no distractor."""
    return chip.identity not in (None, DISTRACTOR)
