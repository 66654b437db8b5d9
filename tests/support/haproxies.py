"""HAProxies beside the usual one: `python -m tests.support.haproxies FOLDER` fetches those of newer Debian releases.

Each is unpacked with the libraries it was built with and started by its own loader, so nothing of this machine changes;
`FOLDER/haproxy-VERSION` runs it. Tests take the one that OCTAVIA_HAPROXY names:

    OCTAVIA_HAPROXY=FOLDER/haproxy-3.0.11 python -m pytest tests/haproxy tests/local_agent

Needs Debian's apt and dpkg-deb; no root.
"""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

from octavia_local.binary import HaproxyBinary, check_haproxy, find_haproxy

__all__ = ["VARIABLE", "chosen", "fetch"]

VARIABLE = "OCTAVIA_HAPROXY"
SUITES = ("bookworm", "trixie", "sid")
"""Of which each brings another version; one that cannot be had is said and passed over."""

_SOURCES = """\
Types: deb
URIs: {mirror}
Suites: {suite}
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
"""
_CONF = """\
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "{folder}/sources";
Dir::State::lists "{folder}/lists";
Dir::State::status "/dev/null";
Dir::Cache "{folder}/cache";
"""
_WRAPPER = """\
#!/bin/sh
exec {loader} --argv0 haproxy --library-path {libraries} {program} "$@"
"""


def chosen() -> HaproxyBinary:
    """The one that tests run: OCTAVIA_HAPROXY, or the usual one."""
    named = os.environ.get(VARIABLE)
    return check_haproxy(named) if named else find_haproxy()


def fetch(suite: str, folder: Path) -> Path:
    """Fetch the HAProxy of a Debian release; gives the path that runs it.

    Raises:
        subprocess.CalledProcessError: apt or dpkg-deb does not do it.
    """
    work = folder / suite
    for name in ("sources", "lists/partial", "cache/archives/partial", "root"):
        (work / name).mkdir(parents=True, exist_ok=True)
    (work / "sources" / "one.sources").write_text(_SOURCES.format(suite=suite, mirror=_mirror()))
    (work / "apt.conf").write_text(_CONF.format(folder=work))
    environment = {**os.environ, "APT_CONFIG": str(work / "apt.conf")}

    def run(*line: str) -> str:
        done = subprocess.run(line, env=environment, cwd=work, check=True, capture_output=True, text=True)
        return done.stdout

    run("apt-get", "-qq", "update")
    said = run("apt-cache", "depends", "--recurse", "--no-recommends", "--no-suggests", "--no-conflicts",
               "--no-breaks", "--no-replaces", "--no-enhances", "haproxy")  # fmt: skip
    names = sorted(set(re.findall(r"^(haproxy|zlib1g|lib[a-z0-9.+-]+)$", said, re.MULTILINE)))
    run("apt-get", "-qq", "download", *names)
    for package in work.glob("*.deb"):
        run("dpkg-deb", "--extract", str(package), str(work / "root"))
        package.unlink()
    root = work / "root"
    loader = next(path for path in sorted(root.rglob("ld-linux-*.so.*")) if path.is_file())
    program = next(path for path in root.rglob("sbin/haproxy") if path.is_file())
    libraries = ":".join(sorted({str(path.parent) for path in root.rglob("*.so.*")}))
    wrapper = folder / "haproxy"
    wrapper.write_text(_WRAPPER.format(loader=loader, libraries=libraries, program=program))
    wrapper.chmod(stat.S_IRWXU)
    named = folder / f"haproxy-{check_haproxy(str(wrapper)).version}"
    wrapper.rename(named)
    return named


def _mirror() -> str:
    """Where this machine gets Debian itself from.

    Raises:
        OSError: it gets none.
    """
    asked = ("apt-get", "indextargets", "--format", "$(ORIGIN)/$(LABEL) $(REPO_URI)", "Created-By: Packages")
    said = subprocess.run(asked, check=True, capture_output=True, text=True).stdout
    found = next((line.split()[1] for line in said.splitlines() if line.startswith("Debian/Debian ")), None)
    if found is None:
        raise OSError("apt knows no mirror of Debian here")
    return found


def main() -> int:
    """Fetch what there is."""
    if len(sys.argv) != 2:
        print("usage: python -m tests.support.haproxies FOLDER", file=sys.stderr)
        return 2
    folder = Path(sys.argv[1]).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    got = 0
    for suite in SUITES:
        try:
            print(fetch(suite, folder), flush=True)
            got += 1
        except (OSError, subprocess.CalledProcessError, StopIteration) as error:
            words = getattr(error, "stderr", None) or str(error)
            print(f"no HAProxy of {suite}: {words.strip()}", file=sys.stderr)
    return 0 if got else 1


if __name__ == "__main__":
    sys.exit(main())
