#!/usr/bin/env python3
"""What demo_story.sh cannot say in bash: the documents that the demo records, and one byte changed in a file.

demo_story.py documents DIRECTORY CONNECTIONS   writes record.1.sql ... for so many connections; prints shell assignments
demo_story.py change FILE TEXT NEW              replaces TEXT, which must stand on one line only; prints the line's number
"""

import glob
import hashlib
import json
import os
import shlex
import shutil
import stat
import subprocess
import sys
from datetime import datetime, timezone

# Documents to record: all packages, and as many of their files as fill it up.
WANTED = 5000
FEWEST = 3000

DPKG_INFO = "/var/lib/dpkg/info"
DPKG_FIELDS = ["Package", "Version", "Architecture", "Section", "Maintainer", "Installed-Size", "Homepage", "Depends",
               "Description"]
FIELD_END, RECORD_END = "\x1f", "\x1e"


def installed_packages():
    """The machine's own package database, one document a package."""
    if shutil.which("dpkg-query") is None:
        return []
    pattern = FIELD_END.join("${%s}" % field for field in ["db:Status-Status", *DPKG_FIELDS]) + RECORD_END
    output = subprocess.run(["dpkg-query", "--show", "--showformat", pattern], check=True, stdout=subprocess.PIPE).stdout
    packages = []
    for record in output.decode("utf-8", "replace").split(RECORD_END)[:-1]:
        status, *values = record.split(FIELD_END)
        if status == "installed":
            packages.append({field.lower().replace("-", "_"): value for field, value in zip(DPKG_FIELDS, values)})
    return packages


def packaged_files():
    """Paths that packages have installed, with the package and the checksum it states."""
    for name in sorted(glob.glob(os.path.join(DPKG_INFO, "*.md5sums"))):
        package = os.path.basename(name)[: -len(".md5sums")]
        with open(name, encoding="utf-8", errors="replace") as sums:
            for line in sums:
                checksum, _, path = line.rstrip("\n").partition("  ")
                yield {"path": "/" + path, "package": package, "md5": checksum}


def other_files():
    """Where there is no dpkg: the files of Python's library and of /usr/share."""
    for root in (os.path.dirname(os.__file__), "/usr/share"):
        for directory, directories, names in os.walk(root):
            directories.sort()
            for name in sorted(names):
                yield {"path": os.path.join(directory, name)}


def spread(items, count):
    """About `count` of the items, from the first to the last."""
    return items[:: max(1, -(-len(items) // count))] if count > 0 else []


def file_document(document):
    """Adds what the file system says; None where the file is gone, cannot be read or has no name in UTF-8."""
    path = document["path"]
    try:
        path.encode()
        status = os.lstat(path)
        if not stat.S_ISREG(status.st_mode):
            return None
        if "md5" not in document:
            with open(path, "rb") as file:
                document["sha256"] = hashlib.sha256(file.read()).hexdigest()
    except (OSError, UnicodeEncodeError):
        return None
    modified = datetime.fromtimestamp(int(status.st_mtime), timezone.utc)
    document.update(size=status.st_size, mode=f"{stat.S_IMODE(status.st_mode):04o}", modified=modified.isoformat())
    return document


def collect():
    """The documents as (entry_type, data, metadata), and what they are in words."""
    packages = installed_packages()
    files = list(packaged_files())
    if len(packages) + len(files) < FEWEST:
        files += other_files()
    files = [file for file in map(file_document, spread(files, WANTED - len(packages))) if file]
    documents = [("package", package, {"name": package["package"], "version": package["version"]}) for package in packages]
    documents += [("file", file, {"name": file["path"], "version": file["modified"]}) for file in files]
    if len(documents) < FEWEST:
        sys.exit(f"found only {len(documents)} packages and files to record, not {FEWEST}")
    what = f"{len(files):,} files of this machine"
    if packages:
        what = f"all {len(packages):,} installed packages and {len(files):,} of their files"
    return documents, what


def subject_of(documents):
    """The document the story follows: one with letters beyond ASCII if there is one, bash or the first otherwise."""
    beyond_ascii = [document for document in documents if not json.dumps(document[1], ensure_ascii=False).isascii()]
    bash = [document for document in documents if document[1].get("package") == "bash"]
    return (beyond_ascii + bash + documents)[0]


def changed_by_one(text):
    """The text with its last digit, or last character, changed."""
    at = max((position for position, character in enumerate(text) if character in "0123456789"), default=len(text) - 1)
    return text[:at] + ("8" if text[at] == "7" else "7") + text[at + 1 :]


def literal(text):
    return "'" + text.replace("'", "''") + "'"


def to_json(value):
    return json.dumps(value, ensure_ascii=False)


def write_documents(directory, connections):
    documents, what = collect()
    for number in range(connections):
        own = documents[number::connections]
        with open(os.path.join(directory, f"record.{number + 1}.sql"), "w", encoding="utf-8") as script:
            script.write("PREPARE record (text, jsonb, jsonb) AS SELECT ledger.hash_and_record($1, $2, $3);\n")
            for entry_type, data, metadata in own:
                arguments = ", ".join(literal(text) for text in (entry_type, to_json(data), to_json(metadata)))
                script.write(f"EXECUTE record ({arguments});\n")
    entry_type, data, metadata = subject_of(documents)
    field = "version" if entry_type == "package" else "modified"
    assignments = {
        "DOCUMENTS": len(documents),
        "WHAT": what,
        "SUBJECT": to_json(data),
        "SUBJECT_NAME": metadata["name"],
        "SUBJECT_OWNER": data.get("maintainer", data.get("package", "")),
        "VERSION": metadata["version"],
        "OTHER_VERSION": changed_by_one(metadata["version"]),
        "OTHER_SUBJECT": to_json({**data, field: changed_by_one(data[field])}),
    }
    for name, value in assignments.items():
        print(f"{name}={shlex.quote(str(value))}")


def change(path, text, new):
    with open(path, "rb") as file:
        content = file.read()
    text, new = text.encode(), new.encode()
    if len(text) != len(new) or sum(a != b for a, b in zip(text, new)) != 1:
        sys.exit(f"{text} and {new} do not differ in one byte")
    if content.count(text) != 1:
        sys.exit(f"{text} stands {content.count(text)} times in {path}")
    at = content.index(text)
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(new)
    print(content.count(b"\n", 0, at) + 1)


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    if command == "documents":
        write_documents(arguments[0], int(arguments[1]))
    elif command == "change":
        change(*arguments)
    else:
        sys.exit(__doc__)
