"""Sessions of the project: `python3 noxfile.py -s demo`, `-s tests`, `-l` lists them all.

Needs nothing but Python 3.11: run as a program it brings nox into `.nox-bootstrap/` (once) and hands over to it; with
a nox of your own, plain `nox -s tests` does the same. What a session needs is installed once and again only when
pyproject.toml changes, so a second run starts at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

HERE = Path(__file__).resolve().parent
NOX = "nox>=2025.2"
OLDEST = (3, 11)
PATIENT = ("--retries", "10", "--timeout", "60")
"""Of pip: an index that is slow for once is asked again."""

# Caches that Python would write anyway make every second start faster; some shells switch them off.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


# --- running as a program: bring nox, hand over -----------------------------------------------------------------------


def complain(sentence: str) -> NoReturn:
    """End with one sentence for a person."""
    print(f"noxfile: {sentence}", file=sys.stderr)
    raise SystemExit(2)


@contextlib.contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Only one process at a time does what is inside; the others wait."""
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("w")
    except OSError as error:
        complain(f"this clone must be writable by whoever runs its sessions: {error}")
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def bootstrap() -> Path:
    """The Python of a virtual environment that has nox; made when it is missing.

    Debian and Ubuntu split `venv` off into a package of its own, and ship Python without pip. In that order: the
    complete venv; a bare venv filled by this Python's own pip; the package, when we may install it; the command.
    """
    tag = f"{sys.implementation.cache_tag}-{hashlib.sha256(sys.base_prefix.encode()).hexdigest()[:8]}"
    home = HERE / ".nox-bootstrap" / tag
    python, done = home / "bin" / "python", home / "nox-is-here"
    with alone(HERE / ".nox-bootstrap" / "lock"):
        if done.exists() and quiet(str(python), "-c", "import nox"):
            return python
        print("noxfile: bringing nox into .nox-bootstrap (once) ...", flush=True)
        shutil.rmtree(home, ignore_errors=True)
        if not fill(home, python):
            install_venv_package()
            shutil.rmtree(home, ignore_errors=True)
            if not fill(home, python):
                complain("pip could not install nox; its own words are above. Is a package index reachable?")
        done.touch()
    return python


def fill(home: Path, python: Path) -> bool:
    """Make the environment and install nox; False when this Python cannot."""
    if quiet(sys.executable, "-m", "venv", str(home)):
        return run(str(python), "-m", "pip", "install", "--quiet", *PATIENT, NOX)
    shutil.rmtree(home, ignore_errors=True)
    pip = [sys.executable, "-m", "pip"]
    if quiet(*pip, "--version") and quiet(sys.executable, "-m", "venv", "--without-pip", str(home)):
        return run(*pip, "--python", str(python), "install", "--quiet", *PATIENT, NOX)
    return False


def install_venv_package() -> None:
    """Bring Debian's venv package, or end with the command that would."""
    if shutil.which("apt-get") is None:
        complain("this Python has neither venv nor pip; install them, or nox, and run this again")
    version = f"python{sys.version_info.major}.{sys.version_info.minor}-venv"
    packages = [version] if sys.executable.startswith("/usr/bin/") else ["python3-venv"]
    if os.geteuid() != 0:
        complain(f"this Python has neither venv nor pip; run: sudo apt-get install -y {packages[0]}")
    apt_install(packages)


def quiet(*command: str) -> bool:
    """Whether the command succeeds; what it says is of no interest."""
    return subprocess.run(command, capture_output=True, check=False, stdin=subprocess.DEVNULL).returncode == 0


def run(*command: str) -> bool:
    """Whether the command succeeds; what it says is shown."""
    return subprocess.run(command, check=False, stdin=subprocess.DEVNULL).returncode == 0


def apt_install(packages: list[str]) -> bool:
    """Install Debian packages without asking anybody anything; False when that fails."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    apt = ["apt-get", "-o", "DPkg::Lock::Timeout=120", "-o", "Acquire::Retries=5", "-qq"]

    def step(*arguments: str) -> bool:
        command = [*apt, *arguments]
        done = subprocess.run(
            command,
            check=False,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode:
            print(done.stdout[-2000:], file=sys.stderr)
        return done.returncode == 0

    print(f"noxfile: apt-get install {' '.join(packages)} ...", flush=True)
    step("update")
    return step("install", "-y", "--no-install-recommends", *packages)


if __name__ == "__main__":
    if sys.version_info < OLDEST:
        complain(f"Python 3.11 or newer is needed, this is {platform.python_version()}; try: python3.11 noxfile.py")
    nox_python = str(bootstrap())
    os.execv(nox_python, [nox_python, "-m", "nox", "-f", str(HERE / "noxfile.py"), *sys.argv[1:]])


# --- read by nox: the sessions ----------------------------------------------------------------------------------------

import tomllib  # noqa: E402  (older Pythons must reach the sentence above)

import nox  # noqa: E402

nox.needs_version = ">=2025.2"
nox.options.sessions = ["tests"]
nox.options.default_venv_backend = "none"  # equip() has its reasons

PYPROJECT = nox.project.load_toml(HERE / "pyproject.toml")
BALANCER = "local" if platform.libc_ver()[0] == "glibc" else ""  # elsewhere the HAProxy on PATH; wheels are for glibc
EVERYTHING = ",".join(filter(None, [BALANCER, "mysql", "oslo", "postgresql", "prometheus"]))


def equip(session: nox.Session, name: str, extras: str, *groups: str, lowest: bool = False) -> None:
    """Put the environment .nox/NAME on PATH, with the project (editable), extras and dependency groups in it.

    Not nox's own environments: all sessions that check the code share one, two runs at a time do not disturb each
    other, and what is installed already is not installed again.
    """
    wanted = [f"{HERE}[{extras}]" if extras else str(HERE), *nox.project.dependency_groups(PYPROJECT, *groups)]
    facts = [*wanted, (HERE / "pyproject.toml").read_text(encoding="utf-8"), sys.version, sys.base_prefix]
    digest = hashlib.sha256("\n".join(facts).encode()).hexdigest()
    home = HERE / ".nox" / name
    stamp = home / "installed.sha256"
    with alone(HERE / ".nox" / f"{name}.lock"):
        if not stamp.exists() or stamp.read_text(encoding="ascii") != digest:
            session.run(sys.executable, "-m", "virtualenv", "--quiet", "--clear", str(home), external=True)
            pip = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            pip += PATIENT
            if lowest:
                bounds = home / "lowest.txt"
                bounds.write_text("\n".join(lower_bounds()), encoding="utf-8")
                pip += ["--constraint", str(bounds)]
            session.run(*pip, "--editable", *wanted, external=True)
            stamp.write_text(digest, encoding="ascii")
    os.environ["PATH"] = os.pathsep.join([str(home / "bin"), os.environ.get("PATH", os.defpath)])
    os.environ["VIRTUAL_ENV"] = str(home)


def lower_bounds() -> list[str]:
    """What pyproject.toml asks for, pinned to the oldest release it allows."""
    project = PYPROJECT["project"]
    wanted = [
        *project["dependencies"],
        *(entry for extra in project["optional-dependencies"].values() for entry in extra),
    ]
    pins = (re.match(r"([\w.-]+)(?:\[[^]]*\])?>=([\w.]+)", entry) for entry in wanted)
    return [f"{pin[1]}=={pin[2]}" for pin in pins if pin]


def system_packages(session: nox.Session) -> None:
    """Bring the programs that tests want and pip has not; never a reason to fail: their tests say what they miss."""
    table = tomllib.loads((HERE / "tests" / "system-packages.toml").read_text(encoding="utf-8"))
    missing = [name for entry in table.values() if not any(map(found, entry["programs"])) for name in entry["packages"]]
    if not missing:
        return
    command = f"apt-get install -y --no-install-recommends {' '.join(missing)}"
    if shutil.which("apt-get") is None:
        session.warn(f"some tests will be skipped: this machine has no {', '.join(missing)}")
    elif os.geteuid() != 0:
        session.warn(f"some tests will be skipped; to enable them run: sudo {command}")
    elif not apt_install(missing):
        session.warn(f"some tests will be skipped: this failed: {command}")


def found(program: str) -> bool:
    """Whether the program is there: a name on PATH (or in the sbin folders), or a path with wildcards."""
    if program.startswith("/"):
        return any(Path("/").glob(program[1:]))
    return shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin") is not None


def checks(session: nox.Session) -> None:
    """Style, format and who may import whom."""
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports", "--no-cache")


def pytest(session: nox.Session, *arguments: str) -> None:
    """Run pytest on two workers; benchmarks are no tests, and peers have a session of their own."""
    session.run("python", "-m", "pytest", "-n", "2", "--dist", "worksteal", *arguments)


@nox.session
def demo(session: nox.Session) -> None:
    """The main job in front of your eyes: octavia-admin demo (posargs: --json, --keep, ...)."""
    equip(session, "demo", BALANCER)
    session.run("octavia-admin", "demo", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Everything that a change must pass: lint, types, layers, tests. With posargs: only pytest, with these."""
    equip(session, "checks", EVERYTHING, "tests", "lint", "types")
    system_packages(session)
    if session.posargs:
        session.run("python", "-m", "pytest", *session.posargs)
        return
    checks(session)
    session.run("mypy")
    pytest(session, "-m", "not slow", "--ignore=tests/benchmarks", "--ignore=tests/peers")


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff, its formatter, and import-linter."""
    equip(session, "checks", EVERYTHING, "tests", "lint", "types")
    checks(session)


@nox.session
def types(session: nox.Session) -> None:
    """Mypy, strict."""
    equip(session, "checks", EVERYTHING, "tests", "lint", "types")
    session.run("mypy", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Write the generated pages of docs/reference anew, then run every snippet and check every page."""
    equip(session, "checks", EVERYTHING, "tests", "lint", "types")
    for script in sorted((HERE / "docs").glob("*.py")):
        session.run("python", str(script.relative_to(HERE)))
    session.run("python", "-m", "pytest", "tests/docs", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """One benchmark: nox -s bench -- NAME [--json]; without a name it lists them."""
    equip(session, "checks", EVERYTHING, "tests", "lint", "types")
    session.run("python", "-m", "tests.benchmarks", *session.posargs)


@nox.session
def peers(session: nox.Session) -> None:
    """Tests against unmodified upstream programs, each in an environment of its own."""
    if not (HERE / "tests" / "peers").is_dir():
        session.skip("there are no peers yet")
    equip(session, "peers", f"openstack,{EVERYTHING}", "tests", "lint", "types", "peers")
    system_packages(session)
    session.run("python", "-m", "pytest", *(session.posargs or ["tests/peers", "-m", "not slow"]))


@nox.session
def full(session: nox.Session) -> None:
    """The long forms too: everything that `tests` leaves out because it takes its time, and examples that no run had before."""
    equip(session, "checks", EVERYTHING, "tests", "lint", "types")
    system_packages(session)
    checks(session)
    session.run("mypy")
    pytest(session, "--hypothesis-profile=hunt", "--ignore=tests/benchmarks", "--ignore=tests/peers", *session.posargs)


@nox.session
def lowest(session: nox.Session) -> None:
    """The lower bounds of pyproject.toml are not just words: tests with exactly those releases."""
    equip(session, "lowest", EVERYTHING, "tests", lowest=True)
    pytest(session, "-m", "not slow", "--ignore=tests/benchmarks", "--ignore=tests/peers", *session.posargs)


@nox.session
def fresh(session: nox.Session) -> None:
    """What a stranger meets: HEAD cloned into an empty home, and both commands of the README (posargs: which)."""
    python = base_python()
    with tempfile.TemporaryDirectory(prefix="octavia-fresh-") as temporary:
        home, clone = Path(temporary, "home"), Path(temporary, "octavia-core")
        home.mkdir(mode=0o700)
        session.run("git", "clone", "--quiet", "--no-hardlinks", str(HERE), str(clone), external=True)
        kept = {k: v for k, v in os.environ.items() if k in {"CI", "LANG", "TERM", "TMPDIR"} or k.startswith("PIP_")}
        environment = {
            **kept,
            "HOME": str(home),
            "PATH": os.pathsep.join([str(Path(python).parent), os.defpath, "/usr/sbin", "/sbin"]),
        }
        for command in session.posargs or ["demo", "tests"]:
            session.log(f"fresh: {command} (empty HOME, {python})")
            line = [python, "noxfile.py", "-s", command]
            done = subprocess.run(line, cwd=clone, env=environment, check=False, stdin=subprocess.DEVNULL)
            if done.returncode:
                session.error(f"on a fresh clone, python3 noxfile.py -s {command} ended with {done.returncode}")


def base_python() -> str:
    """The interpreter below all virtual environments: what `python3` would be for a stranger."""
    name = f"python{sysconfig.get_python_version()}"
    candidate = Path(sys.base_prefix, "bin", name)
    return str(candidate) if candidate.exists() else sys.executable
