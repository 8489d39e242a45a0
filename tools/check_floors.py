#!/usr/bin/env python3
"""Checks every #include of the tree against tools/floors.txt: nothing upward, nothing sideways.

check_floors.py [ROOT]     exit status 1 when an include breaks the floors, each named on a line of its own
"""
import fnmatch
import os
import re
import sys

INCLUDE = re.compile(r'^\s*#\s*include\s*(<[^>]+>|"[^"]+")', re.MULTILINE)
SOURCE = (".c", ".h", ".cc", ".cpp", ".hpp", ".cu", ".def", ".inc")


def read_floors(path):
    """{folder or file: [what it may include]}"""
    floors, names = {}, {}
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            line = line.split("#", 1)[0].strip()
            if line.startswith("$"):
                name, words = line.split("=", 1)
                names[name.strip()] = words.split()
            elif line:
                place, words = line.split(":", 1)
                floors[place] = [w for word in words.split() for w in names.get(word, [word])]
    return floors


def floor_of(floors, path):
    """The longest place that holds the file, or None."""
    places = [p for p in floors if path == p or path.startswith(p + "/")]
    return max(places, key=len, default=None)


def resolve(root, path, name):
    """A quoted include as a path in the tree; as it is when it is nobody's here."""
    for base in (os.path.dirname(path), "src", "include", ""):
        found = os.path.normpath(os.path.join(base, name))
        if os.path.exists(os.path.join(root, found)):
            return found
    return name


def matches(floors, word, target):
    if word in floors and os.path.splitext(word)[1] == "":  # a floor: its own files, not the floors inside it
        return floor_of(floors, target) == word
    return fnmatch.fnmatchcase(target, word) or target.startswith(word + "/")


def allowed(floors, path, target):
    place = floor_of(floors, path)
    folder = place if os.path.splitext(place)[1] == "" else os.path.dirname(place)
    same_folder = not target.startswith("<") and floor_of(floors, target) in (place, folder)
    return same_folder or any(matches(floors, word, target) for word in floors[place])


def broken_includes(root, floors, path):
    with open(os.path.join(root, path), encoding="utf-8") as f:
        text = f.read()
    for match in INCLUDE.finditer(text):
        name = match.group(1)
        target = name if name[0] == "<" else resolve(root, path, name[1:-1])
        line = text.count("\n", 0, match.start(1)) + 1
        if target.endswith(".c") and not path.startswith(("tests/", "fuzz/")):
            yield f"{path}:{line}: includes a source file, {name}"
        elif not allowed(floors, path, target):
            yield f"{path}:{line}: {floor_of(floors, path)} may not include {name}"


def source_files(root, floors):
    for top in sorted({place.split("/")[0] for place in floors}):
        for folder, _, files in os.walk(os.path.join(root, top)):
            for name in sorted(files):
                if name.endswith(SOURCE):
                    yield os.path.relpath(os.path.join(folder, name), root)


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    root = sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(here)
    floors = read_floors(os.path.join(here, "floors.txt"))
    n_files, broken = 0, []
    for path in source_files(root, floors):
        n_files += 1
        if floor_of(floors, path) is None:
            broken.append(f"{path}: no line of tools/floors.txt covers it")
        else:
            broken.extend(broken_includes(root, floors, path))
    for line in broken:
        print(line)
    print(f"{n_files} files, {len(broken)} includes against the floors")
    return 1 if broken or n_files == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
