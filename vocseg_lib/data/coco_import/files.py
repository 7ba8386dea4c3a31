"""Find the files of a COCO data set: annotations of val, and pictures."""

import re
import unicodedata
from collections import defaultdict
from functools import cache
from itertools import chain, product
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

VAL_WORDS = ("val", "valid", "validation", "dev")  # instead of "train" or "training", in any case
SPLIT_WORD = re.compile(rf"(train(ing)?|{'|'.join(reversed(VAL_WORDS))})\d*", re.IGNORECASE)


def find_val_file(annotations: Path) -> Path | None:
    """The annotations of val: the names of file and folders with "val" instead of "train".

    Beside the file, or in a folder beside one of its three folders. Raises ValueError for several.
    """
    path = annotations.absolute()
    for depth in range(min(3, len(path.parts) - 1)):  # the file, with a folder, two folders
        first, *below = path.parts[-1 - depth :]
        found = [path.parents[depth]]
        for keys in [_val_keys(first), *({path_key(p)} | _val_keys(p) for p in below)]:
            children = (sorted(folder.iterdir()) for folder in found if folder.is_dir())
            found = [child for child in chain(*children) if path_key(child.name) in keys]
        found = [file for file in found if file.is_file() and file != path]
        if len(found) > 1:
            several = ", ".join(map(str, found))
            raise ValueError(f"{annotations}: any of {several} may be for val: pass one as val")
        if found:
            return found[0]
    return None


def _val_keys(name: str) -> set[str]:
    """Keys of a name with each word for val instead of one for train."""
    words = re.finditer(r"train(ing)?", name, re.IGNORECASE)
    names = (name[: m.start()] + word + name[m.end() :] for m in words for word in VAL_WORDS)
    return {path_key(name) for name in names}


def path_key(name: str) -> str:
    """A name for comparison: file systems differ in case and in how they compose accents."""
    return unicodedata.normalize("NFC", name).casefold()


class PictureFinder:
    """Finds the pictures of a COCO file: `images`, else beside it or one above; in subfolders.

    Any beginning of a file name may be another machine's; case and accents may differ.
    """

    def __init__(self, annotations: Path, images: str | Path = ""):
        self._listing, self._is_given = cache(_names_by_key), bool(images)
        folder = annotations.absolute().parent
        bases = [Path(images).absolute()] if images else [folder, folder.parent]
        words = [annotations.stem.removeprefix("instances_")]
        words += [match[0] for match in SPLIT_WORD.finditer(annotations.stem)]
        subfolders = ["", "images", *words, *(f"images/{word}" for word in words)]
        subfolders += [*(f"{word}/images" for word in words), "data", "JPEGImages"]
        found = (self._descend(base, Path(sub).parts) for base, sub in product(bases, subfolders))
        self.folders = list(dict.fromkeys(f for f in found if f and f.is_dir()))

    def find(self, file_name: str) -> tuple[Path, str] | None:
        """The picture, and the part of `file_name` that led to it."""
        url = unquote(file_name.rpartition("?d=")[2])  # as Label Studio writes them
        names = (file_name, file_name.replace("\\", "/"), url)
        outside = ("/", "..") if self._is_given else ()
        forms = [tuple(p for p in PurePosixPath(n).parts if p not in outside) for n in names]
        tails = dict.fromkeys(parts[k:] for parts in forms for k in range(len(parts)))
        for tail, folder in product(tails, self.folders):
            if (path := self._descend(folder, tail)) and path.is_file():
                return path, "/".join(tail)
        return None

    def _descend(self, folder: Path, parts: tuple[str, ...]) -> Path | None:
        """A path below a folder; names may differ in case and accents if one alone fits."""
        for part in parts:
            if not (folder / part).exists():
                fitting = self._listing(folder).get(path_key(part), [])
                if len(fitting) != 1:
                    return None
                (part,) = fitting
            folder /= part
        return folder


def _names_by_key(folder: Path) -> dict[str, list[str]]:
    """The names in a folder by key."""
    names = defaultdict(list)
    for child in folder.iterdir() if folder.is_dir() else ():
        names[path_key(child.name)].append(child.name)
    return names
